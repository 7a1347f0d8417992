//! What lies on disk and not in memory: which of it is read back, when, and how much.
//!
//! ```text
//!   SpoolOpened ──▶ waiting ──Recover──▶ asked ──Recovered──▶ buffer
//!                      ▲                    └──NotRecovered──▶ given up
//!                      └── no room after all, or made room for what came later
//! ```
//!
//! A full buffer costs nothing that is on disk: what has to make room in memory waits there like what an earlier process
//! left. The books know all of it from its heads before a single body is read. One record is asked for at a time, beside the
//! handler or before a freeze, and only while [`Recovery::next`] sees room: the rest of the buffer is for what comes.
//! Whenever bytes settle there may be room again, so it ends only when nothing is left.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::buffer::{FIRST_ACCEPTED, ITEM_OVERHEAD_BYTES, Item, ItemId, Payload};
use crate::ledger::DropReason;

/// Data that has waited for longer is not sent any more: Langfuse's own clients would have given it up days ago.
pub const MAX_SPOOL_AGE: Duration = Duration::from_hours(24);

/// Crashes with a record in memory after which it is given up, because it may be what the process dies of.
pub const MAX_CRASHES: u32 = 5;

/// A record on disk, as its head tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its name. Those of earlier processes are below [`crate::buffer::FIRST_ACCEPTED`], in the order of their age.
    pub id: ItemId,
    /// When it was accepted, since the Unix epoch.
    pub accepted_wall: Duration,
    /// Spans, events or scores in it.
    pub units: u32,
    /// Bytes of memory that its body will occupy.
    pub bytes: usize,
    /// Sends that began and of which it is not known whether they arrived, of all processes together.
    pub sends: u32,
    /// Processes that had it in memory and did not end in order.
    pub crashes: u32,
}

impl Head {
    /// The record of an item that this process has stored, or read back.
    pub fn of<P: Payload>(item: &Item<P>) -> Self {
        Self {
            id: item.id,
            accepted_wall: item.accepted_at.wall,
            units: item.payload.units(),
            bytes: item.payload.stored_bytes(),
            sends: item.history.ambiguous_sends,
            crashes: 0,
        }
    }

    /// Whether this process accepted it.
    pub fn is_ours(&self) -> bool {
        self.id >= FIRST_ACCEPTED
    }
}

/// Units that were on disk and are not any more, by no decision of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Why.
    pub reason: DropReason,
    /// Spans, events or scores.
    pub units: u64,
}

/// The records on disk that are not in memory.
#[derive(Debug, Default)]
pub struct Recovery {
    waiting: BTreeMap<ItemId, Head>,
    asked: Option<Head>,
    units: u64,
}

impl Recovery {
    /// Takes a record in.
    pub fn add(&mut self, head: Head) {
        self.units += u64::from(head.units);
        self.waiting.insert(head.id, head);
    }

    /// The oldest record, if it is to be read now: none is being read, and it fits beside `held_bytes` into half of
    /// `limit_bytes`. One that is larger than that half may take all of the room that there is.
    pub fn next(&mut self, held_bytes: usize, limit_bytes: usize) -> Option<Head> {
        if self.asked.is_some() {
            return None;
        }
        let head = *self.waiting.first_entry()?.get();
        let needed = cost(&head);
        let half = limit_bytes / 2;
        let room = if needed > half { limit_bytes } else { half };
        if held_bytes.saturating_add(needed) > room {
            return None;
        }
        self.waiting.pop_first();
        self.asked = Some(head);
        Some(head)
    }

    /// The oldest record that can never be read, because it is larger than the whole buffer.
    pub fn take_too_large(&mut self, limit_bytes: usize) -> Option<Head> {
        let head = *self.waiting.first_entry()?.get();
        (cost(&head) > limit_bytes)
            .then(|| self.remove(head.id))
            .flatten()
    }

    /// The answer to what was asked for has come, and it is on disk alone no longer.
    pub fn answered(&mut self, id: ItemId) -> Option<Head> {
        let head = self.asked.take_if(|head| head.id == id)?;
        self.units -= u64::from(head.units);
        Some(head)
    }

    /// Takes a record out that is of no use any more.
    pub fn remove(&mut self, id: ItemId) -> Option<Head> {
        let head = self
            .waiting
            .remove(&id)
            .or_else(|| self.asked.take_if(|head| head.id == id))?;
        self.units -= u64::from(head.units);
        Some(head)
    }

    /// Whether this record is on disk alone.
    pub fn holds(&self, id: ItemId) -> bool {
        self.waiting.contains_key(&id) || self.asked.is_some_and(|head| head.id == id)
    }

    /// Whether a record is being read.
    pub fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Units on disk that are not in memory.
    pub fn units(&self) -> u64 {
        self.units
    }
}

fn cost(head: &Head) -> usize {
    head.bytes.saturating_add(ITEM_OVERHEAD_BYTES)
}
