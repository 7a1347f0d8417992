//! Hold the sandbox until everything is sent, or let the sending overlap what comes next?

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Now;

/// `LANGFUSE_EXTENSION_FLUSH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// As `End` in sparse traffic; in dense traffic the sending overlaps the next invocations.
    Adaptive,
    /// Hold after the end of work until everything is sent, within the flush budget.
    End,
    /// Never hold. What could not be sent beside a handler is frozen until the next invocation.
    Background,
}

/// Gaps between invocations that must all have been short for traffic to count as dense.
const GAPS: usize = 4;

/// How often this sandbox is invoked, by the wall clock.
#[derive(Debug, Default)]
pub struct Density {
    gaps: VecDeque<Duration>,
    released_at: Option<Now>,
}

impl Density {
    /// The sandbox was released.
    pub fn released(&mut self, now: Now) {
        self.released_at = Some(now);
    }

    /// The next invocation has come.
    pub fn invoked(&mut self, now: Now) {
        if let Some(released_at) = self.released_at.take() {
            if self.gaps.len() == GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back(now.since(released_at));
        }
    }

    /// When the next invocation should be here, going by the longest of the latest gaps, doubled to be careful.
    /// `None` before there is enough to go by.
    pub fn next_invocation_in(&self) -> Option<Duration> {
        let longest = self.gaps.iter().max().filter(|_| self.gaps.len() == GAPS)?;
        Some(longest.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn density_after(gaps_ms: &[u64]) -> Option<Duration> {
        let mut density = Density::default();
        let mut wall = Duration::ZERO;
        for gap in gaps_ms {
            density.released(Now {
                mono: Duration::ZERO,
                wall,
            });
            wall += Duration::from_millis(*gap);
            density.invoked(Now {
                mono: Duration::ZERO,
                wall,
            });
        }
        density.next_invocation_in()
    }

    #[test]
    fn nothing_is_predicted_from_too_few_invocations() {
        assert_eq!(density_after(&[1, 1, 1]), None);
    }

    #[test]
    fn the_longest_of_the_latest_gaps_decides() {
        assert_eq!(
            density_after(&[9_000, 10, 20, 500, 30]),
            Some(Duration::from_secs(1))
        );
    }
}
