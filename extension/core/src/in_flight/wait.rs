//! How long the answer to a request is waited for, across freezes.

use std::time::Duration;

use super::THAW_GRACE;
use crate::time::Now;

/// How long answers are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a request with data.
    pub request: Duration,
    /// For a probe.
    pub probe: Duration,
    /// When the sandbox was last thawed.
    pub thawed_at: Now,
    /// It was cut short for SHUTDOWN, so that it may have been over before the thaw.
    pub cut_short: bool,
}

impl Patience {
    /// What is left of it for something sent at `since`. A freeze counts, but then the answer may lie in the socket.
    pub(super) fn left(&self, since: Now, limit: Duration, now: Now) -> Duration {
        let awake = if self.cut_short {
            Duration::MAX
        } else {
            limit.saturating_sub(now.awake_since(since))
        };
        let thaw = THAW_GRACE.saturating_sub(now.awake_since(self.thawed_at));
        awake.min(limit.saturating_sub(now.since(since)).max(thaw))
    }
}

/// The wait for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) since: Now,
    /// The thaw in whose wake it was first found too long.
    overdue_after_thaw: Option<Now>,
    pub(super) aborted: bool,
}

impl Wait {
    pub(super) fn new(since: Now) -> Self {
        Self {
            since,
            overdue_after_thaw: None,
            aborted: false,
        }
    }

    /// Whether to stop waiting, told once. Where invocations are shorter than [`THAW_GRACE`], one of them has to do to
    /// read an answer that came in the freeze.
    pub(super) fn ends(&mut self, patience: &Patience, limit: Duration, now: Now) -> bool {
        if self.aborted {
            return false;
        }
        let overdue = now.since(self.since) >= limit;
        let had_its_chance = self
            .overdue_after_thaw
            .is_some_and(|thaw| thaw != patience.thawed_at);
        if overdue {
            self.overdue_after_thaw.get_or_insert(patience.thawed_at);
        }
        self.aborted = had_its_chance || patience.left(self.since, limit, now).is_zero();
        self.aborted
    }
}
