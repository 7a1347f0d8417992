//! What the core wants on disk, translated for the spool, and what an earlier process left there, for the core.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use langfuse_extension_core::buffer::{Item, ItemId};
use langfuse_extension_core::route::Route;

use crate::inputs::Event;
use crate::payload::{Encoding, Kind, Limits, Payload};
use crate::settings::Config;
use crate::spool::{Record, RecoveredKey, Spool, SpoolError};

/// Data that has waited for longer is not sent any more: Langfuse's own clients would have given it up days ago.
pub const MAX_SPOOL_AGE: Duration = Duration::from_hours(24);

/// The spool, with the one record that is being recovered.
#[derive(Debug)]
pub struct Disk {
    spool: Spool,
    adopting: Option<RecoveredKey>,
    said_failure: bool,
}

impl Disk {
    /// Takes over what an earlier process of this sandbox left.
    ///
    /// # Errors
    /// When the directory cannot be used; the extension goes on without.
    pub fn open(config: &Config) -> Result<Self, SpoolError> {
        let now_wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let spool = Spool::open(
            &config.spool_dir,
            config.spool_bytes,
            now_wall,
            MAX_SPOOL_AGE,
        )?;
        Ok(Self {
            spool,
            adopting: None,
            said_failure: false,
        })
    }

    /// Puts an item on disk. Returns whether it is there.
    pub fn store(&mut self, route: &Arc<Route>, item: &Item<Payload>) -> bool {
        if let Some(key) = self.adopting.take() {
            self.spool.adopt(key, item.id.0);
            return true;
        }
        let payload = &item.payload;
        let stored = self.spool.store(
            item.id.0,
            &Record {
                accepted_wall_ms: u64::try_from(item.accepted_at.wall.as_millis())
                    .unwrap_or(u64::MAX),
                unresolved_sends: u16::try_from(item.history.ambiguous_sends).unwrap_or(u16::MAX),
                kind: payload.kind() as u8,
                encoding: payload.encoding() as u8,
                units: payload.units(),
                inflated_bytes: payload.inflated_bytes() as u64,
                route: Arc::clone(route),
                body: payload.body().clone(),
            },
        );
        if let Err(error) = &stored {
            self.failed(error);
        }
        stored.is_ok()
    }

    /// Notes that a send of these is about to begin.
    pub fn mark_sent(&mut self, ids: &[ItemId]) {
        let noted = self.spool.mark_sent(ids.iter().map(|id| id.0));
        self.note(noted);
    }

    /// Notes that the latest send of these did not arrive.
    pub fn mark_unsent(&mut self, ids: &[ItemId]) {
        let noted = self.spool.mark_unsent(ids.iter().map(|id| id.0));
        self.note(noted);
    }

    /// Removes these.
    pub fn forget(&mut self, ids: &[ItemId]) {
        let noted = self.spool.forget(ids.iter().map(|id| id.0));
        self.note(noted);
    }

    /// The next thing that an earlier process left. The core must be told it before anything else is stored.
    pub fn next_recovered(&mut self) -> Option<Event> {
        while let Some(recovered) = self.spool.next_recovered() {
            let record = recovered.record;
            let kinds = (
                Kind::try_from(record.kind),
                Encoding::try_from(record.encoding),
            );
            if let (Ok(kind), Ok(encoding)) = kinds
                && let Ok(payload) =
                    Payload::restore(kind, encoding, record.body, &Limits::default())
            {
                self.adopting = Some(recovered.key);
                let sent = record.unresolved_sends > 0;
                return Some(Event::Recovered {
                    route: record.route,
                    payload,
                    sent,
                });
            }
            let discarded = self.spool.discard(recovered.key);
            self.note(discarded);
        }
        if !self.spool.skipped().is_empty() && !self.said_failure {
            self.said_failure = true;
            tracing::warn!(skipped = %self.spool.skipped(), "not all of the spool could be used");
        }
        None
    }

    /// The core has been told. What it did not want to keep is removed.
    pub fn recovered(&mut self) {
        if let Some(key) = self.adopting.take() {
            let discarded = self.spool.discard(key);
            self.note(discarded);
        }
    }

    fn note(&mut self, noted: std::io::Result<()>) {
        if let Err(error) = noted {
            self.failed(&error);
        }
    }

    fn failed(&mut self, error: &dyn std::error::Error) {
        if !self.said_failure {
            self.said_failure = true;
            tracing::warn!(%error, "the spool does not work; data is held in memory only");
        }
    }
}
