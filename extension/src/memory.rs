//! Memory for bodies: the budget that all of them share, and the pages that large ones lie in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use langfuse_extension_core::memory::{Held, Memory, Purpose};
use memmap2::MmapMut;
use tokio::sync::Notify;

/// The one budget of the process, shared by all who need memory for bodies.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    memory: Mutex<Memory>,
    released: Notify,
}

impl Budget {
    /// Shares `memory`.
    #[must_use]
    pub fn new(memory: Memory) -> Self {
        Self(Arc::new(Shared {
            memory: Mutex::new(memory),
            released: Notify::new(),
        }))
    }

    /// For a client's body. Nothing is held yet.
    #[must_use]
    pub fn body(&self) -> Reservation {
        Reservation::new(self, Purpose::Body)
    }

    /// For a request to Langfuse: waits until there is room, which comes with the end of another request.
    pub async fn export(&self, bytes: usize) -> Reservation {
        let reservation = Reservation::new(self, Purpose::Export);
        loop {
            let released = self.0.released.notified();
            if reservation.grow(bytes) {
                return reservation;
            }
            released.await;
        }
    }

    /// Whether a body of so many bytes would fit now.
    #[must_use]
    pub fn has_room_for_body(&self, bytes: usize) -> bool {
        self.memory().has_room_for_body(bytes)
    }

    /// What is held in all.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.memory().held_bytes()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that one body or request holds. It is given back when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    held: Mutex<Held>,
}

impl Reservation {
    fn new(budget: &Budget, purpose: Purpose) -> Self {
        Self {
            budget: budget.clone(),
            held: Mutex::new(Held::nothing(purpose)),
        }
    }

    /// Takes so many bytes more. `false`: they are not there.
    #[must_use]
    pub fn grow(&self, bytes: usize) -> bool {
        self.budget.memory().grow(&mut self.held(), bytes)
    }

    /// Gives back all but so many bytes.
    pub fn shrink(&self, bytes: usize) {
        self.budget.memory().shrink(&mut self.held(), bytes);
        self.budget.0.released.notify_waiters();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// From this size on bytes get pages of their own, which the kernel has back as soon as they are dropped: among smaller
/// ones on the heap they would leave holes, and a full buffer would need a third more memory than it may hold.
pub const OWN_PAGES_BYTES: usize = 128 * 1024;

/// Bytes that come one after another, as many as there will be or as may be.
///
/// Pages take no memory before they are written to, so that nothing has to be moved while it grows.
#[derive(Debug)]
pub enum Growing {
    /// Few of them.
    Heap {
        /// What has come.
        bytes: BytesMut,
        /// Beyond which none come.
        limit: usize,
    },
    /// Many.
    Pages {
        /// As large as it may get.
        map: MmapMut,
        /// How much has come.
        length: usize,
        /// Beyond which none come.
        limit: usize,
    },
}

impl Growing {
    /// Room for `expected` bytes, and for no more than `limit` if more come.
    #[must_use]
    pub fn new(expected: usize, limit: usize) -> Self {
        match own_pages(expected) {
            Some(map) => Self::Pages {
                map,
                length: 0,
                limit,
            },
            None => Self::Heap {
                bytes: BytesMut::with_capacity(expected),
                limit,
            },
        }
    }

    /// How many have come.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Heap { bytes, .. } => bytes.len(),
            Self::Pages { length, .. } => *length,
        }
    }

    /// Whether none have come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends. What goes beyond the limit is cut off: whoever has a limit has counted.
    pub fn append(&mut self, data: &[u8]) {
        let end = self.len() + data.len();
        if let Some(pages) = self.outgrown(end) {
            *self = pages;
        }
        match self {
            Self::Heap { bytes, .. } => bytes.extend_from_slice(data),
            Self::Pages { map, length, .. } => {
                if let Some(room) = map.get_mut(*length..end) {
                    room.copy_from_slice(data);
                    *length = end;
                }
            }
        }
    }

    /// The pages that take over what has come, if it has to move.
    fn outgrown(&self, end: usize) -> Option<Self> {
        let (so_far, limit) = match self {
            Self::Heap { bytes, limit } => (&bytes[..], *limit),
            Self::Pages { map, length, limit } if end > map.len() => (map.get(..*length)?, *limit),
            Self::Pages { .. } => return None,
        };
        if end < OWN_PAGES_BYTES {
            return None;
        }
        let mut pages = Self::Pages {
            map: own_pages(limit.max(end))?,
            length: 0,
            limit,
        };
        pages.append(so_far);
        Some(pages)
    }

    /// What has come. On the heap it is copied into as much as it needs, if it has much room to spare.
    #[must_use]
    pub fn finish(self) -> Bytes {
        match self {
            Self::Pages { map, length, .. } => Bytes::from_owner(map).slice(..length),
            Self::Heap { bytes, .. } if bytes.capacity() - bytes.len() <= bytes.len() / 8 => {
                bytes.freeze()
            }
            Self::Heap { bytes, .. } => Bytes::copy_from_slice(&bytes),
        }
    }
}

impl std::io::Write for Growing {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.append(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn own_pages(bytes: usize) -> Option<MmapMut> {
    let wanted = bytes >= OWN_PAGES_BYTES;
    let map = wanted.then(|| MmapMut::map_anon(bytes));
    map.and_then(Result::ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_whole_whether_they_were_expected_or_grew() {
        for length in [
            0,
            1,
            1000,
            OWN_PAGES_BYTES - 1,
            OWN_PAGES_BYTES,
            3 * OWN_PAGES_BYTES + 1,
        ] {
            let whole: Vec<_> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            for (expected, limit) in [(length, length), (0, length), (length / 2, 8 * length)] {
                let mut growing = Growing::new(expected, limit);
                for chunk in whole.chunks(7000) {
                    growing.append(chunk);
                }
                assert_eq!(growing.len(), length);
                assert!(growing.finish() == whole, "{length}, expected {expected}");
            }
        }
    }

    #[test]
    fn only_what_is_large_gets_pages_of_its_own() {
        let with_pages = |bytes| matches!(Growing::new(bytes, usize::MAX), Growing::Pages { .. });
        assert!(with_pages(OWN_PAGES_BYTES));
        assert!(!with_pages(OWN_PAGES_BYTES - 1));
        let mut grown = Growing::new(0, 1 << 20);
        grown.append(&vec![1; OWN_PAGES_BYTES]);
        assert!(matches!(grown, Growing::Pages { .. }));
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let budget = Budget::new(Memory::new(1 << 20));
        let body = budget.body();
        assert!(body.grow(1000));
        assert_eq!(budget.held_bytes(), 1000);
        drop(body);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[tokio::test]
    async fn an_export_waits_for_the_end_of_another() {
        let budget = Budget::new(Memory::new(1 << 20));
        let first = budget.export(2 << 20).await;
        let second = tokio::spawn({
            let budget = budget.clone();
            async move { budget.export(1).await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
    }
}
