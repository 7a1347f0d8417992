//! What the core wants on disk, translated for the spool, and what an earlier process left there, for the core.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use langfuse_extension_core::buffer::{Item, ItemId};
use langfuse_extension_core::recovery::MAX_SPOOL_AGE;
use langfuse_extension_core::route::Route;

use crate::aside::aside;
use crate::inputs::{Event, Inputs};
use crate::payload::{Encoding, Kind, Limits, Payload};
use crate::settings::Config;
use crate::spool::{Record, Spool, SpoolError};

/// What is validated again in one turn of the loop.
const STEP_BYTES: usize = 64 * 1024;

/// The spool, and the way back to the loop for what is read from it.
#[derive(Debug)]
pub struct Disk {
    spool: Spool,
    inputs: Inputs,
    said_failure: bool,
}

impl Disk {
    /// Opens what an earlier process of this sandbox left. Nothing of it is read yet.
    ///
    /// # Errors
    /// When the directory cannot be used; the extension goes on without.
    pub fn open(config: &Config, inputs: Inputs) -> Result<Self, SpoolError> {
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
            inputs,
            said_failure: false,
        })
    }

    /// Puts an item on disk. Returns whether it is there.
    pub fn store(
        &mut self,
        route: &Arc<Route>,
        item: &Item<Payload>,
        _replaces: Option<ItemId>,
    ) -> bool {
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

    /// Looks through the next piece of what earlier processes left. `None`: there is no more.
    pub fn look(&mut self) -> Option<Event> {
        let Some(seen) = self.spool.look() else {
            if !self.spool.skipped().is_empty() {
                tracing::warn!(skipped = %self.spool.skipped(), "not all of the spool could be used");
            }
            return None;
        };
        Some(Event::SpoolOpened {
            records: seen.records,
            lost: seen.lost,
            unreadable: seen.unreadable,
        })
    }

    /// Reads a record back and tells the loop. A large one is validated again on a thread beside.
    pub fn recover(&mut self, id: ItemId) {
        let record = self.spool.read(id.0);
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let recovered = match record {
                Some(record) if record.inflated_bytes <= STEP_BYTES as u64 => restore(id, record),
                Some(record) => aside(move || restore(id, record)).await.flatten(),
                None => None,
            };
            inputs.event(recovered.unwrap_or(Event::NotRecovered { id }));
        });
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

fn restore(id: ItemId, record: Record) -> Option<Event> {
    let kind = Kind::try_from(record.kind).ok()?;
    let encoding = Encoding::try_from(record.encoding).ok()?;
    let payload = Payload::restore(kind, encoding, record.body, &Limits::default()).ok()?;
    Some(Event::Recovered {
        id,
        route: record.route,
        payload,
    })
}
