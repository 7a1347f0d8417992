//! How large requests may be, learned from 413: some proxies take less than Langfuse.

use std::time::Duration;

use crate::time::{Now, Timer};

/// However often 413 is answered, requests are not made smaller than this.
pub const SMALLEST_REQUEST_LIMIT_BYTES: usize = 64 << 10;

/// After this long without another 413 requests may be twice as large again: the limit may have been one proxy's.
pub const LIMIT_HOLDS_FOR: Duration = Duration::from_mins(10);

/// What one endpoint has shown.
#[derive(Debug, Default)]
pub(super) struct SizeLimit(Option<(usize, Timer)>);

impl SizeLimit {
    /// Bytes that a request may have before compression.
    pub(super) fn bytes(&self, now: Now) -> usize {
        match self.0 {
            Some((bytes, holds)) if holds.is_over(now) => bytes.saturating_mul(2),
            Some((bytes, _)) => bytes,
            None => usize::MAX,
        }
    }

    /// A request of so many bytes was too large.
    pub(super) fn too_large(&mut self, bytes: usize, now: Now) {
        let half = (bytes / 2).max(SMALLEST_REQUEST_LIMIT_BYTES);
        let limit = half.min(self.bytes(now));
        self.0 = Some((limit, Timer::new(now, LIMIT_HOLDS_FOR)));
    }

    /// A request of so many bytes was taken. One that only the doubled limit allowed shows that it may be doubled.
    pub(super) fn took(&mut self, bytes: usize, now: Now) {
        if let Some((limit, _)) = self.0
            && bytes > limit
        {
            let doubled = limit.saturating_mul(2);
            self.0 = Some((doubled, Timer::new(now, LIMIT_HOLDS_FOR)));
        }
    }
}
