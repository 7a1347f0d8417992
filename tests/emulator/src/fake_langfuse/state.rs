//! What all connections and the owner of a fake share.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::config::{Config, Project};
use super::fault::Faults;
use super::library::Library;
use super::recording::Recording;

pub(super) struct State {
    pub(super) projects: Vec<Project>,
    pub(super) max_request_bytes: usize,
    pub(super) events_only: bool,
    pub(super) score_lists: bool,
    pub(super) faults: Faults,
    pub(super) library: Library,
    pub(super) recording: Recording,
}

/// The state behind a lock that tells whoever waits when something was recorded.
pub(super) struct Shared {
    pub(super) base_path: String,
    state: Mutex<State>,
    changed: Condvar,
    changes: watch::Sender<()>,
}

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        Self {
            base_path: config.base_path,
            state: Mutex::new(State {
                projects: config.projects,
                max_request_bytes: config.max_request_bytes,
                events_only: config.events_only,
                score_lists: config.score_lists,
                faults: Faults::default(),
                library: Library::new(config.prompts),
                recording: Recording::default(),
            }),
            changed: Condvar::new(),
            changes: watch::Sender::new(()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called after the recording has changed.
    pub(super) fn announce(&self) {
        self.changed.notify_all();
        self.changes.send_replace(());
    }

    pub(super) async fn wait_until(
        &self,
        timeout: Duration,
        mut holds: impl FnMut(&Recording) -> bool,
    ) -> bool {
        let mut changes = self.changes.subscribe();
        let waiting = async {
            while !holds(&self.lock().recording) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let in_time = tokio::time::timeout(timeout, waiting).await.is_ok();
        in_time || holds(&self.lock().recording)
    }

    pub(super) fn block_until(
        &self,
        timeout: Duration,
        mut holds: impl FnMut(&Recording) -> bool,
    ) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if holds(&state.recording) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let (guard, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
        }
    }
}
