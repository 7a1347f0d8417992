//! What the key of a value says about it.

/// What is known of a value before it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::egress) struct Traits {
    /// It must not leave at all.
    pub(in crate::egress) masked: bool,
    /// Its key speaks of a payment card.
    pub(in crate::egress) card: bool,
    /// Its key speaks of a phone number.
    pub(in crate::egress) phone: bool,
}

impl Traits {
    /// Those of a value in a list or object that has some itself.
    pub(in crate::egress) fn or(self, around: Self) -> Self {
        Self {
            masked: self.masked || around.masked,
            card: self.card || around.card,
            phone: self.phone || around.phone,
        }
    }
}

/// The keys whose values are masked, and which others matter.
#[derive(Debug, Default)]
pub(super) struct Keys {
    masked: Vec<String>,
    cards: bool,
    phones: bool,
}

impl Keys {
    pub(super) fn new(masked: &[String], cards: bool, phones: bool) -> Self {
        Self {
            masked: masked
                .iter()
                .map(|key| key.trim().to_lowercase())
                .filter(|key| !key.is_empty())
                .collect(),
            cards,
            phones,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.masked.is_empty()
    }

    pub(super) fn matter(&self) -> bool {
        self.cards || self.phones || !self.masked.is_empty()
    }

    pub(super) fn traits(&self, key: &str) -> Traits {
        if !self.matter() {
            return Traits::default();
        }
        let key = key.to_lowercase();
        let last = key.rsplit(is_separator).next().unwrap_or_default();
        let last: String = last.chars().filter(|c| c.is_alphanumeric()).collect();
        Traits {
            masked: self.masked.iter().any(|masked| holds(&key, masked)),
            card: self.cards && speaks_of_card(&last),
            phone: self.phones && speaks_of_phone(&last),
        }
    }
}

/// OpenTelemetry's keys are flattened: `langfuse.trace.metadata.password` and `credentials.password.0` hold passwords.
fn is_separator(c: char) -> bool {
    matches!(c, '.' | '[' | ']' | '/')
}

/// Whether `part` stands in `key` as a whole, between separators or at an end.
fn holds(key: &str, part: &str) -> bool {
    key.match_indices(part).any(|(start, _)| {
        let before = key[..start].chars().next_back();
        let after = key[start + part.len()..].chars().next();
        before.is_none_or(is_separator) && after.is_none_or(is_separator)
    })
}

fn speaks_of_card(last: &str) -> bool {
    last.contains("card")
        || matches!(
            last,
            "cc" | "ccn" | "ccnum" | "ccnumber" | "ccno" | "pan" | "creditcard" | "kreditkarte"
        )
}

fn speaks_of_phone(last: &str) -> bool {
    ["phone", "mobile", "telefon", "handy", "msisdn", "fax"]
        .iter()
        .any(|word| last.contains(word))
        || matches!(last, "tel" | "telnr" | "telno" | "cell" | "cellnumber")
}
