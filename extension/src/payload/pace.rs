//! Giving way: one thread serves everything, so no body may keep it for long.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

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

/// Does work that gives way where nobody is waiting. It must not await anything else.
pub(super) fn to_the_end<T>(work: impl Future<Output = T>) -> T {
    let (mut work, mut context) = (pin!(work), Context::from_waker(Waker::noop()));
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return done;
        }
    }
}
