//! What of the flush budget may still be spent on a host that did not answer in time: an outage costs it once.

use std::time::Duration;

use super::PARDON_AFTER;
use crate::time::{Now, Timer};

/// What may be spent on finding out whether a host takes data again, once in an outage, after a probe has come back well.
pub const TRIAL_BUDGET: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Budget {
    /// For how long sandboxes were held in vain since the host last answered in time.
    paid: Duration,
    /// When that is forgiven.
    pardon: Option<Timer>,
    /// What a good probe gave back was spent.
    tried: bool,
}

impl Budget {
    pub(super) fn left_of(&self, whole: Duration, now: Now) -> Duration {
        if self.pardon.is_some_and(|pardon| !pardon.is_over(now)) {
            whole.saturating_sub(self.paid)
        } else {
            whole
        }
    }

    /// Returns whether all of it is spent.
    pub(super) fn held_in_vain(&mut self, held: Duration, whole: Duration, now: Now) -> bool {
        let paid = whole.saturating_sub(self.left_of(whole, now));
        self.paid = paid.saturating_add(held);
        self.pardon = Some(Timer::new(now, PARDON_AFTER));
        self.paid >= whole
    }

    /// Data was taken in time.
    pub(super) fn is_back(&mut self) {
        *self = Self::default();
    }

    /// The host was found bad once more.
    pub(super) fn host_failed(&mut self, now: Now) {
        if let Some(pardon) = &mut self.pardon {
            *pardon = Timer::new(now, PARDON_AFTER);
        }
    }

    /// The host answers a probe again.
    pub(super) fn host_answers(&mut self, whole: Duration) {
        if !std::mem::replace(&mut self.tried, self.pardon.is_some()) {
            self.paid = self.paid.min(whole.saturating_sub(TRIAL_BUDGET));
        }
    }
}
