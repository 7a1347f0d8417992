//! Reading a client's body within its limits and within what memory there is. Nobody waits for memory here.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use super::connections::Connection;
use super::limits::Limits;
use crate::memory::{Budget, Growing, Reservation};

/// What is read of a refused body and thrown away, so that its client comes to read the answer: one that finds the
/// connection reset while it still sends takes that for a failure of the network, and tries again.
pub const DISCARDED_LIMIT_BYTES: usize = 64 << 20;

/// Why there is no body, and how many of its bytes had come or were announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoBody {
    TooLarge(usize),
    NoMemory(usize),
    Incomplete(usize),
}

/// Reads all of it, and takes memory for what comes.
pub(super) async fn read(
    body: &mut Incoming,
    connection: &Connection,
    budget: &Budget,
    limits: &Limits,
) -> Result<(Bytes, Reservation), NoBody> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limits.body_bytes {
        return Err(NoBody::TooLarge(announced));
    }
    if !budget.has_room_for_body(announced) {
        return Err(NoBody::NoMemory(announced));
    }
    let memory = budget.body();
    let mut collected = Growing::new(announced, limits.body_bytes);
    let mut pieces = Pieces::new(body, limits);
    loop {
        connection.waits();
        let piece = pieces.next().await;
        let Some(data) = piece.ok_or(NoBody::Incomplete(collected.len()))? else {
            connection.works();
            return Ok((collected.finish(), memory));
        };
        let length = collected.len() + data.len();
        if length > limits.body_bytes {
            return Err(NoBody::TooLarge(length));
        }
        if !memory.grow(data.len()) {
            return Err(NoBody::NoMemory(length.max(announced)));
        }
        collected.append(&data);
    }
}

/// Reads a body and keeps nothing of it. Returns whether it came whole.
pub(super) async fn discard(mut body: Incoming, limits: &Limits, limit_bytes: usize) -> bool {
    let mut pieces = Pieces::new(&mut body, limits);
    let mut length = 0_usize;
    while let Some(piece) = pieces.next().await {
        let Some(data) = piece else {
            return true;
        };
        length += data.len();
        if length > limit_bytes {
            break;
        }
    }
    false
}

/// The pieces of a body, none of which may let others wait for long.
struct Pieces<'a> {
    body: &'a mut Incoming,
    deadline: Instant,
    pause: Duration,
}

impl<'a> Pieces<'a> {
    fn new(body: &'a mut Incoming, limits: &Limits) -> Self {
        Self {
            body,
            deadline: Instant::now() + limits.body_timeout,
            pause: limits.body_pause,
        }
    }

    /// The next one, or the end. `None`: it did not come.
    async fn next(&mut self) -> Option<Option<Bytes>> {
        loop {
            let until = self.deadline.min(Instant::now() + self.pause);
            let frame = tokio::time::timeout_at(until, self.body.frame()).await;
            match frame.ok()? {
                None => return Some(None),
                Some(frame) => {
                    // Trailers say nothing that matters here.
                    if let Ok(data) = frame.ok()?.into_data() {
                        return Some(Some(data));
                    }
                }
            }
        }
    }
}
