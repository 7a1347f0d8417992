//! What the core wants on disk, translated for the spool, and what an earlier process left there, for the core.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use langfuse_extension_core::buffer::{Item, ItemId};
use langfuse_extension_core::recovery::MAX_SPOOL_AGE;
use langfuse_extension_core::route::Route;

use crate::aside::{aside, for_a_client};
use crate::inputs::{Event, Input, Inputs};
use crate::payload::{Encoding, Kind, Limits, Payload};
use crate::settings::Config;
use crate::spool::{Reading, Record, Spool, SpoolError, Write};

/// What is validated again in one turn of the loop.
const STEP_BYTES: usize = 64 * 1024;

/// Where an item is that was to be put on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// There.
    There,
    /// On its way; an [`Input::Written`] follows.
    Writing,
    /// Not there: there is no room, or the file system refuses.
    NotThere,
}

/// The spool, and the way back to the loop for what is read from it.
#[derive(Debug)]
pub struct Disk {
    spool: Spool,
    inputs: Inputs,
    /// To be read back once its body is written.
    asked: Option<ItemId>,
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
            asked: None,
            said_failure: false,
        })
    }

    /// Puts an item on disk. A large one is written on a thread beside, which tells the loop.
    pub fn store(
        &mut self,
        route: &Arc<Route>,
        item: &Item<Payload>,
        replaces: Option<ItemId>,
    ) -> Stored {
        let payload = &item.payload;
        let begun = self.spool.begin(
            item.id.0,
            replaces.map(|whole| whole.0),
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
        match begun {
            Ok(None) => Stored::There,
            Ok(Some(write)) => {
                self.write_beside(item.id, write);
                Stored::Writing
            }
            Err(error) => {
                self.failed(&error);
                Stored::NotThere
            }
        }
    }

    fn write_beside(&self, id: ItemId, write: Write) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let written = for_a_client(move || write.run()).await;
            inputs.send(Input::Written {
                id,
                whole: written.is_some_and(|it| it.is_ok()),
            });
        });
    }

    /// A large item was written beside the loop, or not.
    pub fn written(&mut self, id: ItemId, whole: bool) {
        let noted = self.spool.written(id.0, whole);
        self.note(noted);
        if self.asked.take_if(|asked| *asked == id).is_some() {
            self.recover(id);
        }
    }

    /// The items that are not on disk any more, because somebody removed their files.
    pub fn take_removed(&mut self) -> Vec<ItemId> {
        self.spool.take_removed().into_iter().map(ItemId).collect()
    }

    /// The process ends in order.
    pub fn close(&mut self) {
        let closed = self.spool.close();
        self.note(closed);
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
        if self.spool.is_writing(id.0) {
            self.asked = Some(id);
            return;
        }
        let reading = self.spool.reading(id.0);
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let recovered = match reading {
                Some(reading) if reading.body_bytes() <= STEP_BYTES => restore(id, &reading),
                Some(reading) => aside(move || restore(id, &reading)).await.flatten(),
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

fn restore(id: ItemId, reading: &Reading) -> Option<Event> {
    let record = reading.run()?;
    let kind = Kind::try_from(record.kind).ok()?;
    let encoding = Encoding::try_from(record.encoding).ok()?;
    let payload = Payload::restore(kind, encoding, record.body, &Limits::default()).ok()?;
    Some(Event::Recovered {
        id,
        route: record.route,
        payload,
    })
}
