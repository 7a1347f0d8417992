//! Reading a client's body within its limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::Semaphore;

/// The largest body that is taken, as it is sent. LLM payloads of 10 MB were seen.
pub const BODY_LIMIT_BYTES: usize = 20 << 20;

/// The bodies being read at any moment, together; further bytes wait.
pub const OPEN_BODIES_LIMIT_BYTES: usize = 2 * BODY_LIMIT_BYTES;

/// How long a client may take to send a body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoBody {
    TooLarge,
    TooSlow,
    Broken,
}

/// Reads all of it. `open_bodies` has a permit for each byte that may be in reading.
pub(super) async fn read(body: Incoming, open_bodies: &Semaphore) -> Result<Bytes, NoBody> {
    tokio::time::timeout(BODY_TIMEOUT, read_within_limits(body, open_bodies))
        .await
        .unwrap_or(Err(NoBody::TooSlow))
}

async fn read_within_limits(mut body: Incoming, open_bodies: &Semaphore) -> Result<Bytes, NoBody> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > BODY_LIMIT_BYTES {
        return Err(NoBody::TooLarge);
    }
    // Reserved at once where the length is known, so that two large bodies cannot each hold half and wait for the other.
    let mut permits = acquire(open_bodies, announced).await?;
    let mut collected = BytesMut::with_capacity(announced);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| NoBody::Broken)?.into_data() else {
            continue;
        };
        let length = collected.len() + data.len();
        if length > BODY_LIMIT_BYTES {
            return Err(NoBody::TooLarge);
        }
        if length > permits.num_permits() {
            permits.merge(acquire(open_bodies, length - permits.num_permits()).await?);
        }
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
}

async fn acquire(
    open_bodies: &Semaphore,
    bytes: usize,
) -> Result<tokio::sync::SemaphorePermit<'_>, NoBody> {
    let bytes = u32::try_from(bytes).map_err(|_| NoBody::TooLarge)?;
    open_bodies
        .acquire_many(bytes)
        .await
        .map_err(|_| NoBody::Broken)
}
