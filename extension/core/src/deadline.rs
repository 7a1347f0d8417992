//! How long is left until the platform ends something, by a wall clock that may be wrong.
//!
//! A deadline is a moment of the platform's clock, and what is left of it the difference to ours, which may be minutes
//! behind or ahead. But a function's timeout is a constant of whole seconds, so what one reading says can be held against
//! what others said; and an invocation begins after the release before it, which the monotonic clock tells.

use std::time::Duration;

use crate::time::Now;

/// The shortest function timeout that Lambda offers, and what a deadline that cannot be read is taken for.
pub const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest function timeout that Lambda offers.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
pub const LONGEST_TIMEOUT: Duration = Duration::from_mins(15);

/// Timeouts that were seen once, of which one may turn out to be the function's.
pub const MAX_SEEN_ONCE: usize = 8;

/// Lambda gives extensions two seconds at SHUTDOWN; a deadline further away is not Lambda's.
/// <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>
pub const LONGEST_SHUTDOWN: Duration = Duration::from_secs(2);

/// What of them is left for sure: a runtime that does not end by itself may have had three tenths before.
pub const SURE_SHUTDOWN: Duration = Duration::from_millis(1_400);

/// What SHUTDOWN leaves for the report and the exit itself.
pub const EXIT_MARGIN: Duration = Duration::from_millis(150);

/// The timeout of this function, as far as its deadlines tell.
#[derive(Debug, Default)]
pub struct FunctionTimeout {
    /// The shortest that two deadlines agree on.
    agreed: Option<Duration>,
    once: Vec<Duration>,
}

impl FunctionTimeout {
    /// What is left of an invocation with this deadline (milliseconds since the Unix epoch) that began at most `late`
    /// ago, by the monotonic clock.
    ///
    /// Never more than the timeout. Where two readings agree on one, a clock that says more is not asked, and one that says
    /// less only within `late`; before that it is believed.
    pub fn left(&mut self, deadline_epoch_ms: u64, late: Duration, now: Now) -> Duration {
        let reading = Duration::from_millis(deadline_epoch_ms).saturating_sub(now.wall);
        if !reading.is_zero() {
            self.see(reading);
        }
        let shortest = self.once.iter().min().copied();
        match self.agreed {
            Some(timeout) => {
                let least = timeout.saturating_sub(late);
                if reading > timeout {
                    least
                } else if reading.is_zero() && least.is_zero() {
                    SHORTEST_TIMEOUT
                } else {
                    reading.max(least)
                }
            }
            None if reading.is_zero() => SHORTEST_TIMEOUT,
            None => reading.min(shortest.unwrap_or(LONGEST_TIMEOUT)),
        }
    }

    /// An invocation has lasted so long, so that no shorter timeout is this function's.
    pub fn lasted(&mut self, so_long: Duration) {
        self.agreed = self.agreed.filter(|timeout| *timeout >= so_long);
        self.once.retain(|timeout| *timeout >= so_long);
    }

    /// What was seen before a snapshot was seen by other clocks; the function is the same.
    pub fn restored(&mut self) {
        self.once.clear();
    }

    fn see(&mut self, reading: Duration) {
        let seconds = reading.as_secs() + u64::from(reading.subsec_nanos() > 0);
        let timeout = Duration::from_secs(seconds);
        if timeout > LONGEST_TIMEOUT || self.agreed.is_some_and(|agreed| agreed <= timeout) {
            return;
        }
        if self.once.contains(&timeout) {
            self.agreed = Some(timeout);
            self.once.retain(|longer| *longer < timeout);
            return;
        }
        if self.once.len() == MAX_SEEN_ONCE {
            self.once.remove(0);
        }
        self.once.push(timeout);
    }
}

/// When to be gone at SHUTDOWN, from now, by its deadline (milliseconds since the Unix epoch). A deadline further away than
/// the host's `longest`, or past, cannot be meant: it is taken for the earliest that it may be.
pub fn exit_in(deadline_epoch_ms: u64, longest: Duration, now: Now) -> Duration {
    let left = Duration::from_millis(deadline_epoch_ms).saturating_sub(now.wall);
    let plausible = !left.is_zero() && left <= longest;
    let left = if plausible { left } else { SURE_SHUTDOWN };
    left.saturating_sub(EXIT_MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::from_millis(2);
    const ANY_TIME: Duration = Duration::MAX;

    /// A clock that is this far off the platform's, which reads 1,000,000 s.
    fn clock(behind_s: u64, ahead_s: u64) -> Now {
        Now {
            mono: Duration::ZERO,
            wall: Duration::from_secs(1_000_000 - behind_s + ahead_s),
        }
    }

    fn deadline(timeout_ms: u64) -> u64 {
        1_000_000_000 + timeout_ms
    }

    fn left_ms(timeout: &mut FunctionTimeout, ms: u64, late: Duration, now: Now) -> u128 {
        timeout.left(deadline(ms), late, now).as_millis()
    }

    #[test]
    fn a_clock_behind_makes_a_known_timeout_no_longer() {
        let mut timeout = FunctionTimeout::default();
        left_ms(&mut timeout, 2_999, AT_ONCE, clock(0, 0));
        left_ms(&mut timeout, 2_998, AT_ONCE, clock(0, 0));
        assert_eq!(left_ms(&mut timeout, 3_000, AT_ONCE, clock(60, 0)), 2_998);
    }

    #[test]
    fn a_clock_ahead_makes_a_known_timeout_no_shorter_than_the_invocation_can_be_old() {
        let mut timeout = FunctionTimeout::default();
        left_ms(&mut timeout, 90_000, AT_ONCE, clock(0, 0));
        left_ms(&mut timeout, 90_000, AT_ONCE, clock(0, 0));
        assert_eq!(left_ms(&mut timeout, 90_000, AT_ONCE, clock(0, 60)), 89_998);
        assert_eq!(
            left_ms(&mut timeout, 90_000, ANY_TIME, clock(0, 61)),
            29_000
        );
        assert_eq!(
            left_ms(&mut timeout, 90_000, AT_ONCE, clock(0, 600)),
            89_998
        );
    }

    #[test]
    fn a_late_invoke_is_late_however_well_the_timeout_is_known() {
        let mut timeout = FunctionTimeout::default();
        left_ms(&mut timeout, 3_000, AT_ONCE, clock(0, 0));
        left_ms(&mut timeout, 3_000, AT_ONCE, clock(0, 0));
        let late = Duration::from_secs(2);
        assert_eq!(left_ms(&mut timeout, 1_200, late, clock(0, 0)), 1_200);
    }

    #[test]
    fn a_smaller_value_counts_once_it_was_seen_twice() {
        let mut timeout = FunctionTimeout::default();
        left_ms(&mut timeout, 3_000, AT_ONCE, clock(60, 0));
        left_ms(&mut timeout, 3_000, AT_ONCE, clock(60, 0));
        assert_eq!(timeout.agreed, Some(Duration::from_secs(63)));
        left_ms(&mut timeout, 3_000, AT_ONCE, clock(0, 0));
        assert_eq!(timeout.agreed, Some(Duration::from_secs(63)));
        left_ms(&mut timeout, 3_000, AT_ONCE, clock(0, 0));
        assert_eq!(timeout.agreed, Some(Duration::from_secs(3)));
    }

    #[test]
    fn an_invocation_that_lasts_longer_refutes_what_a_clock_ahead_said() {
        let mut timeout = FunctionTimeout::default();
        left_ms(&mut timeout, 61_000, AT_ONCE, clock(0, 60));
        left_ms(&mut timeout, 61_000, AT_ONCE, clock(0, 60));
        assert_eq!(left_ms(&mut timeout, 61_000, AT_ONCE, clock(0, 0)), 998);
        timeout.lasted(Duration::from_secs(7));
        assert_eq!(left_ms(&mut timeout, 61_000, AT_ONCE, clock(0, 0)), 61_000);
    }

    #[test]
    fn no_more_than_so_many_guesses_are_kept() {
        let mut timeout = FunctionTimeout::default();
        for seconds in 1..100 {
            left_ms(&mut timeout, seconds * 1_000, AT_ONCE, clock(0, 0));
        }
        assert_eq!(timeout.once.len(), MAX_SEEN_ONCE);
    }

    #[test]
    fn deadlines_that_are_none_are_taken_for_the_shortest_or_the_longest_timeout() {
        let mut timeout = FunctionTimeout::default();
        let now = clock(0, 0);
        assert_eq!(timeout.left(5, AT_ONCE, now), SHORTEST_TIMEOUT);
        assert_eq!(timeout.left(u64::MAX, AT_ONCE, now), LONGEST_TIMEOUT);
        assert_eq!(timeout.agreed, None);
        assert_eq!(timeout.once, []);
    }

    #[test]
    fn a_shutdown_deadline_that_is_none_leaves_what_is_left_for_sure() {
        let left = |ms, now| exit_in(deadline(ms), LONGEST_SHUTDOWN, now) + EXIT_MARGIN;
        assert_eq!(left(2_000, clock(0, 0)), LONGEST_SHUTDOWN);
        assert_eq!(left(900, clock(0, 0)), Duration::from_millis(900));
        assert_eq!(left(2_000, clock(60, 0)), SURE_SHUTDOWN);
        assert_eq!(left(2_000, clock(0, 60)), SURE_SHUTDOWN);
        assert_eq!(left(u64::MAX - 1_000_000_000, clock(0, 0)), SURE_SHUTDOWN);
        let longest = Duration::from_secs(30);
        let left = exit_in(deadline(30_000), longest, clock(0, 0)) + EXIT_MARGIN;
        assert_eq!(left, longest, "another host gives more");
    }
}
