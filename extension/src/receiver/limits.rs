//! What one client, or all of them together, can make the receiver hold, and for how long.

use std::time::Duration;

use langfuse_extension_core::buffer::ITEM_OVERHEAD_BYTES;
use langfuse_extension_core::memory::Memory;

use crate::payload::INFLATED_LIMIT_BYTES;

use super::prompts::{PROMPT_FRESH, PROMPT_REVALIDATED};

/// Connections open at once; for a further one that is closed whose client has been silent for longest. An SDK keeps two
/// or three.
pub const MAX_CONNECTIONS: usize = 128;

/// How long a connection may stay unused, or take to send the head of a request. It is long because a client that finds
/// its connection closed at the very moment of sending does not always send again.
pub const HEAD_TIMEOUT: Duration = Duration::from_mins(2);

/// The most headers of a request.
pub const MAX_HEADERS: usize = 64;

/// The largest head of a request.
pub const HEAD_LIMIT_BYTES: usize = 64 << 10;

/// The largest body that is taken or passed through, as it is sent. LLM payloads of 10 MB were seen.
pub const BODY_LIMIT_BYTES: usize = 20 << 20;

/// How long a client may take to send a body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may pause in a body. It is not told when that is over, because an SDK that is told so tries again: its
/// connection is closed.
pub const BODY_PAUSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Large bodies that are validated at the same time, each on a thread of its own.
pub const LARGE_BODIES_AT_ONCE: usize = 2;

/// How long Langfuse may be silent: before its answer begins, or between two pieces of a body in either direction.
pub const PASSTHROUGH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a passed-through request may take altogether, however steadily its bodies flow.
pub const PASSTHROUGH_TOTAL_TIMEOUT: Duration = Duration::from_secs(30);

/// The limits of one receiver, so that tests reach them sooner than real clients do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// See [`MAX_CONNECTIONS`].
    pub connections: usize,
    /// See [`HEAD_TIMEOUT`].
    pub head_timeout: Duration,
    /// See [`BODY_LIMIT_BYTES`].
    pub body_bytes: usize,
    /// What a compressed body may inflate to: [`INFLATED_LIMIT_BYTES`], less where it will be inflated whole to be looked
    /// into before it leaves.
    pub inflated_bytes: usize,
    /// See [`BODY_TIMEOUT`].
    pub body_timeout: Duration,
    /// See [`BODY_PAUSE_TIMEOUT`].
    pub body_pause: Duration,
    /// See [`PASSTHROUGH_TIMEOUT`].
    pub passthrough_timeout: Duration,
    /// See [`PASSTHROUGH_TOTAL_TIMEOUT`].
    pub passthrough_total_timeout: Duration,
    /// See [`PROMPT_FRESH`].
    pub prompt_fresh: Duration,
    /// See [`PROMPT_REVALIDATED`].
    pub prompt_revalidated: Duration,
}

impl Limits {
    /// A body that could never be kept, because the buffer or the memory for bodies is smaller, is not even read.
    #[must_use]
    pub fn within(buffer_bytes: usize, memory: &Memory) -> Self {
        let kept = buffer_bytes.saturating_sub(ITEM_OVERHEAD_BYTES);
        Self {
            body_bytes: BODY_LIMIT_BYTES.min(kept).min(memory.largest_body_bytes()),
            ..Self::default()
        }
    }

    /// What leaves passes a stage that inflates it.
    #[must_use]
    pub fn looked_into(self, memory: &Memory) -> Self {
        Self {
            inflated_bytes: self.inflated_bytes.min(memory.largest_body_bytes()),
            ..self
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: MAX_CONNECTIONS,
            head_timeout: HEAD_TIMEOUT,
            body_bytes: BODY_LIMIT_BYTES,
            inflated_bytes: INFLATED_LIMIT_BYTES,
            body_timeout: BODY_TIMEOUT,
            body_pause: BODY_PAUSE_TIMEOUT,
            passthrough_timeout: PASSTHROUGH_TIMEOUT,
            passthrough_total_timeout: PASSTHROUGH_TOTAL_TIMEOUT,
            prompt_fresh: PROMPT_FRESH,
            prompt_revalidated: PROMPT_REVALIDATED,
        }
    }
}
