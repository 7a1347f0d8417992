//! The connections that are open, and which of them gives way to a new one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// All of them. A new one is always served: where there are too many, the one whose client has been silent for longest is
/// closed for it. Only where every single client waits for us, a new one waits too.
#[derive(Debug)]
pub(super) struct Connections {
    limit: usize,
    open: Mutex<Open>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, State>,
}

#[derive(Debug)]
struct State {
    /// Since when the client is waited for: for the head of a request, or the next piece of a body.
    silent_since: Option<Instant>,
    /// Dropped to close the connection.
    _close: oneshot::Sender<()>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    name: u64,
    all: Arc<Connections>,
}

impl Connections {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            open: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Adds one. The receiver is told when it has to give way.
    pub(super) async fn open(self: &Arc<Self>) -> (Connection, oneshot::Receiver<()>) {
        loop {
            let changed = self.changed.notified();
            if let Some(opened) = self.try_open() {
                return opened;
            }
            changed.await;
        }
    }

    fn try_open(self: &Arc<Self>) -> Option<(Connection, oneshot::Receiver<()>)> {
        let mut open = self.lock();
        if open.connections.len() >= self.limit {
            let silent = open.connections.iter();
            let silent = silent.filter_map(|(name, state)| Some((state.silent_since?, *name)));
            let (_, longest) = silent.min()?;
            open.connections.remove(&longest);
        }
        let name = open.next;
        open.next += 1;
        let (close, closed) = oneshot::channel();
        let state = State {
            silent_since: Some(Instant::now()),
            _close: close,
        };
        open.connections.insert(name, state);
        let all = Arc::clone(self);
        Some((Connection { name, all }, closed))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// From now on the client is waited for.
    pub(super) fn waits(&self) {
        self.set(Some(Instant::now()));
        self.all.changed.notify_one();
    }

    /// From now on the client waits for us.
    pub(super) fn works(&self) {
        self.set(None);
    }

    fn set(&self, silent_since: Option<Instant>) {
        if let Some(state) = self.all.lock().connections.get_mut(&self.name) {
            state.silent_since = silent_since;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.lock().connections.remove(&self.name);
        self.all.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::error::TryRecvError;

    #[tokio::test(start_paused = true)]
    async fn the_longest_silent_gives_way_and_none_that_waits_for_us() {
        let all = Connections::new(3);
        let (busy, mut closed_busy) = all.open().await;
        busy.works();
        let (active, mut closed_active) = all.open().await;
        let (_idle, mut closed_idle) = all.open().await;
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        active.waits();
        let (_new, _) = all.open().await;
        assert_eq!(closed_idle.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(closed_active.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(closed_busy.try_recv(), Err(TryRecvError::Empty));
    }

    #[tokio::test]
    async fn where_all_clients_wait_for_us_a_new_one_waits_for_the_first_that_is_done() {
        let all = Connections::new(2);
        let (first, _closed) = all.open().await;
        let (second, _closed_too) = all.open().await;
        first.works();
        second.works();
        let third = tokio::spawn({
            let all = Arc::clone(&all);
            async move { all.open().await.0.name }
        });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(second);
        assert_eq!(third.await.unwrap(), 2);
    }
}
