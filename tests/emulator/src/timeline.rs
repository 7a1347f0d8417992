//! What happened when, for assertions and for pictures.

use crate::process::Exit;
use serde::{Serialize, Serializer};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// The oldest entries go when there are more than this many.
pub(crate) const ENTRIES_MAX: usize = 100_000;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Since the emulator was started.
    #[serde(rename = "at_ms", serialize_with = "as_milliseconds")]
    pub at: Duration,
    /// The wall clock then, in milliseconds since 1970.
    pub unix_ms: u64,
    /// What it was.
    #[serde(flatten)]
    pub event: Event,
}

/// What can happen. A `process` is `runtime` or the name of an extension.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(
    tag = "event",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[expect(
    missing_docs,
    reason = "the variants and fields are named after what Lambda calls them"
)]
pub enum Event {
    InitStarted {
        phase: String,
    },
    InitEnded {
        phase: String,
        error: Option<String>,
    },
    ProcessStarted {
        process: String,
        pid: u32,
    },
    ProcessExited {
        process: String,
        pid: u32,
        exit: Exit,
    },
    Registered {
        process: String,
        events: Vec<String>,
    },
    RegisterRefused {
        process: String,
        status: u16,
        error_type: String,
    },
    NextCalled {
        process: String,
    },
    NextRefused {
        process: String,
        status: u16,
    },
    InvokeDelivered {
        process: String,
        request_id: String,
    },
    ShutdownDelivered {
        process: String,
        reason: String,
        budget_ms: u64,
    },
    ErrorReported {
        process: String,
        error_type: String,
    },
    TelemetrySubscribed {
        process: String,
        status: u16,
    },
    TelemetryDelivered {
        process: String,
        records: Vec<String>,
        status: Option<u16>,
        attempt: u32,
    },
    InvokeStarted {
        request_id: String,
    },
    ResponseStarted {
        request_id: String,
    },
    ResponseEnded {
        request_id: String,
        bytes: usize,
        error_type: Option<String>,
    },
    RuntimeDone {
        request_id: String,
        status: String,
    },
    TimedOut {
        request_id: String,
    },
    InvokeEnded {
        request_id: String,
        fault: Option<String>,
    },
    Frozen {
        by: String,
    },
    Thawed {
        after_ms: u64,
    },
    Signalled {
        process: String,
        signal: String,
    },
    TeardownStarted {
        reason: String,
    },
    TeardownEnded {
        reason: String,
    },
}

impl Event {
    /// The process that this is about, if it is about one.
    pub fn process(&self) -> Option<&str> {
        match self {
            Self::ProcessStarted { process, .. }
            | Self::ProcessExited { process, .. }
            | Self::Registered { process, .. }
            | Self::RegisterRefused { process, .. }
            | Self::NextCalled { process }
            | Self::NextRefused { process, .. }
            | Self::InvokeDelivered { process, .. }
            | Self::ShutdownDelivered { process, .. }
            | Self::ErrorReported { process, .. }
            | Self::TelemetrySubscribed { process, .. }
            | Self::TelemetryDelivered { process, .. }
            | Self::Signalled { process, .. } => Some(process),
            _ => None,
        }
    }
}

/// Collects entries; waiting for one is waiting for `changed`.
pub(crate) struct Timeline {
    started: Instant,
    entries: Mutex<Vec<Entry>>,
    changed: watch::Sender<u64>,
}

impl Timeline {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            entries: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    pub(crate) fn add(&self, event: Event) {
        let entry = Entry {
            at: self.started.elapsed(),
            unix_ms: unix_ms(SystemTime::now()),
            event,
        };
        {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if entries.len() >= ENTRIES_MAX {
                entries.drain(..ENTRIES_MAX / 10);
            }
            entries.push(entry);
        }
        self.changed.send_modify(|version| *version += 1);
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The first entry, old or to come, that is wanted; `None` when `limit` has passed.
    pub(crate) async fn wait_for(
        &self,
        limit: Duration,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Option<Entry> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                changed.borrow_and_update();
                let found = self
                    .entries
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .iter()
                    .find(|entry| wanted(entry))
                    .cloned();
                if found.is_some() || changed.changed().await.is_err() {
                    return found;
                }
            }
        };
        tokio::time::timeout(limit, found).await.ok().flatten()
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn as_milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entries_go_first() {
        let timeline = Timeline::new();
        for pid in 0..=u32::try_from(ENTRIES_MAX).unwrap() {
            timeline.add(Event::ProcessStarted {
                process: "runtime".to_owned(),
                pid,
            });
        }
        let entries = timeline.entries();
        assert!(entries.len() <= ENTRIES_MAX);
        let last = &entries[entries.len() - 1].event;
        assert!(matches!(last, Event::ProcessStarted { pid, .. } if *pid as usize == ENTRIES_MAX));
    }

    #[test]
    fn an_entry_is_one_flat_object() {
        let timeline = Timeline::new();
        timeline.add(Event::ProcessExited {
            process: "agent".to_owned(),
            pid: 7,
            exit: Exit::Code(0),
        });
        let json = serde_json::to_value(&timeline.entries()[0]).unwrap();
        assert_eq!(json["event"], "processExited");
        assert_eq!(json["process"], "agent");
        assert_eq!(json["exit"]["code"], 0);
        assert!(json["at_ms"].is_f64() && json["unix_ms"].is_u64());
    }
}
