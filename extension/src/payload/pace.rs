//! Giving way: one thread serves everything, so no body may keep it for long.

use super::STEP_BYTES;

/// Counts bytes worked on and yields after every [`STEP_BYTES`].
#[derive(Default)]
pub(super) struct Pace {
    worked: usize,
}

impl Pace {
    /// Notes `bytes` of work and lets other tasks run when a step's worth is done.
    pub(super) async fn worked(&mut self, bytes: usize) {
        self.worked += bytes;
        if self.worked >= STEP_BYTES {
            self.worked = 0;
            tokio::task::yield_now().await;
        }
    }
}
