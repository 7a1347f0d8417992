//! Two clocks, one idea of elapsed time.
//!
//! Lambda freezes the whole guest between invocations: its monotonic clock stands still while the wall clock moves on,
//! and the wall clock may also be set by hand or by NTP. Neither is right alone, so nothing here ever compares one
//! reading of one clock: a moment is a reading of both, and what has passed is the larger of the two differences.

use std::time::Duration;

/// What both clocks read at one moment. The core is told it with every event and reads no clock itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the process started; stands still in a freeze.
    pub mono: Duration,
    /// Since the Unix epoch; goes on in a freeze, and may be set.
    pub wall: Duration,
}

impl Now {
    /// What has passed since `earlier`, in the eyes of whichever clock saw more. Zero if both went backwards.
    pub fn since(self, earlier: Self) -> Duration {
        self.awake_since(earlier)
            .max(self.wall.saturating_sub(earlier.wall))
    }

    /// What has passed since `earlier` while the process could run.
    pub fn awake_since(self, earlier: Self) -> Duration {
        self.mono.saturating_sub(earlier.mono)
    }

    /// The moment that lies `by` before this one, in which the sandbox was awake.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self {
            mono: self.mono.saturating_sub(by),
            wall: self.wall.saturating_sub(by),
        }
    }

    /// Whether this lies before `other`, by the clock that nobody sets.
    pub fn is_before(self, other: Self) -> bool {
        self.mono < other.mono
    }

    /// For how long the sandbox was frozen since `earlier`, as far as the clocks can tell.
    pub fn frozen_since(self, earlier: Self) -> Duration {
        self.wall
            .saturating_sub(earlier.wall)
            .saturating_sub(self.awake_since(earlier))
    }
}

/// A wait that began at one moment and is over once either clock has seen its length pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    from: Now,
    after: Duration,
}

impl Timer {
    /// Over when `after` has passed since `from`.
    pub fn new(from: Now, after: Duration) -> Self {
        Self { from, after }
    }

    /// What is left of it; zero once it is over.
    pub fn left(self, now: Now) -> Duration {
        self.after.saturating_sub(now.since(self.from))
    }

    /// Whether nothing is left of it.
    pub fn is_over(self, now: Now) -> bool {
        self.left(now).is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64, wall_ms: u64) -> Now {
        Now {
            mono: Duration::from_millis(mono_ms),
            wall: Duration::from_millis(wall_ms),
        }
    }

    #[test]
    fn a_freeze_counts_as_time_passed() {
        let timer = Timer::new(at(0, 1_000), Duration::from_secs(10));
        assert!(!timer.is_over(at(9_999, 10_999)));
        assert!(timer.is_over(at(5, 11_000)));
    }

    #[test]
    fn a_wall_clock_set_back_does_not_lengthen_a_wait() {
        let timer = Timer::new(at(0, 1_000_000), Duration::from_secs(1));
        assert_eq!(timer.left(at(400, 0)), Duration::from_millis(600));
        assert!(timer.is_over(at(1_000, 0)));
    }

    #[test]
    fn frozen_is_what_only_the_wall_clock_saw() {
        assert_eq!(at(10, 5_010).frozen_since(at(0, 0)), Duration::from_secs(5));
        assert_eq!(at(10, 0).frozen_since(at(0, 99)), Duration::ZERO);
    }
}
