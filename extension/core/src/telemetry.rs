//! How far the platform's word on the end of an invocation is trusted, and when it was meant.

use std::time::Duration;

use crate::time::Now;

/// What is known of the Telemetry API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Telemetry {
    /// Nothing has come from it yet.
    #[default]
    Silent,
    /// It has sent records, so that the end of this invocation will be told.
    Speaking,
    /// It sends records, and yet an invocation came to its deadline without its end being told.
    Unreliable,
}

impl Telemetry {
    /// It has sent something.
    pub fn spoke(&mut self) {
        if *self == Self::Silent {
            *self = Self::Speaking;
        }
    }

    /// It has told the end of an invocation.
    pub fn told_an_end(&mut self) {
        *self = Self::Speaking;
    }

    /// An invocation came to its deadline, and its end was not told.
    pub fn let_us_down(&mut self) {
        if *self == Self::Speaking {
            *self = Self::Unreliable;
        }
    }

    /// Whether the end of this invocation will be told, so that it is not guessed.
    pub fn is_trusted(self) -> bool {
        self == Self::Speaking
    }
}

/// The longest that a record may have been under way: Lambda hands ours over every 25 ms, later on a busy processor. A
/// record that seems older was stamped by another clock.
pub const LONGEST_DELIVERY: Duration = Duration::from_secs(1);

/// When a record was made, by its own time (since the Unix epoch). `None`: it has none that can be.
pub fn moment(at: Option<Duration>, arrived: Now) -> Option<Now> {
    let under_way = arrived.wall.checked_sub(at?)?;
    (under_way <= LONGEST_DELIVERY).then(|| arrived.before(under_way))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_was_made_no_later_than_it_came_and_not_long_before() {
        let arrived = Now {
            mono: Duration::from_secs(5),
            wall: Duration::from_secs(1_000),
        };
        let ago = |at_ms| {
            let at = Some(Duration::from_millis(at_ms));
            moment(at, arrived).map(|at| arrived.since(at))
        };
        assert_eq!(ago(1_000_000), Some(Duration::ZERO));
        assert_eq!(ago(999_975), Some(Duration::from_millis(25)));
        assert_eq!(ago(999_000), Some(LONGEST_DELIVERY));
        assert_eq!(ago(998_999), None);
        assert_eq!(ago(1_000_001), None);
        assert_eq!(ago(0), None);
        assert_eq!(moment(None, arrived), None);
    }
}
