//! Reading a client's body within its limits.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use memmap2::MmapMut;
use tokio::sync::Semaphore;

use super::limits::Limits;

/// From this size on a body gets pages of its own, which the kernel has back as soon as it is delivered: among smaller ones
/// on the heap it would leave holes, and a full buffer would need a third more memory than it may hold.
const OWN_PAGES_BYTES: usize = 128 * 1024;

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
    let mut collected = Collected::with_capacity(announced);
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
        collected.append(&data);
    }
    Ok(collected.finish())
}

/// What has come of a body.
enum Collected {
    Heap(BytesMut),
    Pages { map: MmapMut, length: usize },
}

impl Collected {
    fn with_capacity(bytes: usize) -> Self {
        match own_pages(bytes) {
            Some(map) => Self::Pages { map, length: 0 },
            None => Self::Heap(BytesMut::with_capacity(bytes)),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Heap(heap) => heap.len(),
            Self::Pages { length, .. } => *length,
        }
    }

    /// No more than was announced comes, because the connection reads no more.
    fn append(&mut self, data: &[u8]) {
        match self {
            Self::Heap(heap) => heap.extend_from_slice(data),
            Self::Pages { map, length } => {
                let end = *length + data.len();
                if let Some(room) = map.get_mut(*length..end) {
                    room.copy_from_slice(data);
                    *length = end;
                }
            }
        }
    }

    /// What grew without being announced has room to spare, and is copied into as much as it needs.
    fn finish(self) -> Bytes {
        match self {
            Self::Pages { map, length } => Bytes::from_owner(map).slice(..length),
            Self::Heap(heap) if heap.capacity() - heap.len() <= heap.len() / 8 => heap.freeze(),
            Self::Heap(heap) => {
                let mut exact = Self::with_capacity(heap.len());
                exact.append(&heap);
                exact.finish()
            }
        }
    }
}

fn own_pages(bytes: usize) -> Option<MmapMut> {
    let wanted = bytes >= OWN_PAGES_BYTES;
    let map = wanted.then(|| MmapMut::map_anon(bytes));
    map.and_then(Result::ok)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_comes_whole_whether_it_was_announced_or_grew() {
        for bytes in [
            0,
            1,
            1000,
            OWN_PAGES_BYTES - 1,
            OWN_PAGES_BYTES,
            3 * OWN_PAGES_BYTES + 1,
        ] {
            let body: Vec<_> = (0..bytes).map(|at| at.to_le_bytes()[0]).collect();
            for announced in [bytes, 0] {
                let mut collected = Collected::with_capacity(announced);
                for chunk in body.chunks(7000) {
                    collected.append(chunk);
                }
                assert_eq!(collected.len(), bytes);
                assert!(
                    collected.finish() == body,
                    "{bytes}, announced as {announced}"
                );
            }
        }
    }

    #[test]
    fn only_large_bodies_get_pages_of_their_own() {
        let with_pages = |bytes| matches!(Collected::with_capacity(bytes), Collected::Pages { .. });
        assert!(with_pages(OWN_PAGES_BYTES));
        assert!(!with_pages(OWN_PAGES_BYTES - 1));
    }
}
