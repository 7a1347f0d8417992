//! Requests of clients that were not taken. They were told so at once, with an answer after which no SDK tries again.

/// Why a request with data was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Larger than what is taken from anybody, or than what this function has memory for.
    TooLarge,
    /// There was no memory for it at that moment.
    NoMemory,
    /// Langfuse would refuse it.
    Invalid,
    /// It has no keys, and neither has the extension.
    NoKeys,
    /// It did not come whole. Its client knows, and was told nothing.
    Incomplete,
    /// Spans of a client that was never set up for Langfuse, which `LANGFUSE_EXTENSION_ACCEPT=langfuse` discards. It was
    /// told that they were taken.
    Foreign,
}

impl Reason {
    /// All reasons, in the order of [`Refusals`].
    pub const ALL: [Self; 6] = [
        Self::TooLarge,
        Self::NoMemory,
        Self::Invalid,
        Self::NoKeys,
        Self::Incomplete,
        Self::Foreign,
    ];

    /// The name used in logs and in `/status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NoMemory => "no_memory",
            Self::Invalid => "invalid",
            Self::NoKeys => "no_keys",
            Self::Incomplete => "incomplete",
            Self::Foreign => "foreign",
        }
    }
}

/// How many, and how large they were as far as is known. What was in them was not read, so no other column has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Requests.
    pub requests: u64,
    /// Bytes of their bodies: those announced, or those that had come.
    pub bytes: u64,
}

/// Requests that were not taken, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals([Requests; Reason::ALL.len()]);

impl Refusals {
    /// Counts one more, of so many bytes.
    pub fn add(&mut self, reason: Reason, bytes: u64) {
        let refused = &mut self.0[reason as usize];
        refused.requests += 1;
        refused.bytes = refused.bytes.saturating_add(bytes);
    }

    /// Those of this reason.
    #[must_use]
    pub fn of(&self, reason: Reason) -> Requests {
        self.0[reason as usize]
    }

    /// Requests in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|refused| refused.requests).sum()
    }

    /// Every reason that occurred.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, Requests)> {
        Reason::ALL
            .into_iter()
            .map(|reason| (reason, self.of(reason)))
            .filter(|(_, refused)| refused.requests > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_for_itself_and_told_once_it_occurred() {
        let mut refusals = Refusals::default();
        assert_eq!((refusals.iter().count(), refusals.total()), (0, 0));
        refusals.add(Reason::NoMemory, 5);
        refusals.add(Reason::NoMemory, u64::MAX);
        refusals.add(Reason::Invalid, 1);
        let told: Vec<_> = refusals
            .iter()
            .map(|(reason, it)| (reason.name(), it.requests, it.bytes))
            .collect();
        assert_eq!(told, [("no_memory", 2, u64::MAX), ("invalid", 1, 1)]);
        assert_eq!(refusals.total(), 3);
    }

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
