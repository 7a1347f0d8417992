//! What became of everything that the function sent.

use std::collections::HashMap;

use serde::Deserialize;

/// What the function says it sent in one invocation: `TRACE_ID/SPAN_ID`, and the ids of scores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Sent {
    pub(crate) spans: Vec<String>,
    pub(crate) scores: Vec<String>,
}

/// The fate of the spans, or of the scores, of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Sent by the function.
    pub(crate) sent: usize,
    /// Of these, stored by Langfuse, however often.
    pub(crate) delivered: usize,
    /// Of these, never stored.
    pub(crate) lost: usize,
    /// Of these, stored more than once.
    pub(crate) doubled: usize,
}

impl Tally {
    /// Compares the ids that were sent with those that were stored, once for each time.
    pub(crate) fn new<'a>(
        sent: impl IntoIterator<Item = &'a String>,
        stored: impl IntoIterator<Item = String>,
    ) -> Self {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for id in stored {
            *counts.entry(id).or_default() += 1;
        }
        let mut tally = Self::default();
        for id in sent {
            let count = counts.get(id).copied().unwrap_or_default();
            tally.sent += 1;
            tally.delivered += usize::from(count > 0);
            tally.lost += usize::from(count == 0);
            tally.doubled += usize::from(count > 1);
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sent_id_is_delivered_or_lost_and_may_be_doubled() {
        let sent: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let stored = ["a", "b", "b", "foreign"].map(String::from);
        let expected = Tally {
            sent: 3,
            delivered: 2,
            lost: 1,
            doubled: 1,
        };
        assert_eq!(Tally::new(&sent, stored), expected);
    }
}
