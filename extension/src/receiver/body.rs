//! Reading a client's body within its limits.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::Semaphore;

use super::limits::Limits;

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoBody {
    TooLarge,
    TooSlow,
    Broken,
}

/// Reads all of it. `open_bodies` has a permit for each byte that may be in reading.
pub(super) async fn read(
    body: Incoming,
    open_bodies: &Semaphore,
    limits: &Limits,
) -> Result<Bytes, NoBody> {
    let reading = read_within_limits(body, open_bodies, limits.body_bytes);
    tokio::time::timeout(limits.body_timeout, reading)
        .await
        .unwrap_or(Err(NoBody::TooSlow))
}

async fn read_within_limits(
    mut body: Incoming,
    open_bodies: &Semaphore,
    limit_bytes: usize,
) -> Result<Bytes, NoBody> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit_bytes {
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
        if length > limit_bytes {
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
