//! What is on disk alone, left by earlier processes or pushed out of memory: booked at once, read back as there is room.

use std::sync::Arc;

use super::Pipeline;
use crate::Action;
use crate::buffer::{History, Item, ItemId, Payload};
use crate::ledger::DropReason;
use crate::recovery::{Head, Lost, MAX_CRASHES, MAX_SPOOL_AGE};
use crate::route::Route;
use crate::time::Now;

impl<P: Payload> Pipeline<P> {
    /// Earlier processes of this sandbox have left this on disk.
    pub fn spool_opened(&mut self, heads: Vec<Head>, lost: Vec<Lost>, unreadable: u64, now: Now) {
        self.stock.ledger.unreadable += unreadable;
        for Lost { reason, units } in lost {
            self.stock.ledger.recovered += units;
            self.stock.drop_units(reason, units);
        }
        if !heads.is_empty() {
            self.stock.to_be_copied = false;
        }
        let (mut expired, mut crashed) = (Vec::new(), Vec::new());
        for head in heads {
            self.stock.ledger.recovered += u64::from(head.units);
            if now.wall.saturating_sub(head.accepted_wall) > MAX_SPOOL_AGE {
                expired.push(head);
            } else if head.crashes >= MAX_CRASHES {
                crashed.push(head);
            } else {
                self.recovery.add(head);
            }
        }
        self.give_up_on_disk(&expired, DropReason::Expired);
        self.give_up_on_disk(&crashed, DropReason::Crashed);
    }

    /// Asks for the next record on disk if there is room for it.
    pub fn read_back(&mut self) {
        let limit_bytes = self.settings.buffer_bytes;
        while let Some(head) = self.recovery.take_too_large(limit_bytes) {
            self.give_up_on_disk(&[head], DropReason::BufferFull);
        }
        let held_bytes = self.stock.buffer.held_bytes();
        if let Some(head) = self.recovery.next(held_bytes, limit_bytes) {
            self.stock.actions.push(Action::Recover { id: head.id });
        }
    }

    /// Whether a record is being read back.
    pub fn is_reading_back(&self) -> bool {
        self.recovery.is_asked()
    }

    /// A record has been read back. It is on disk still.
    pub fn recovered(&mut self, id: ItemId, route: &Arc<Route>, payload: P, now: Now) {
        let Some(head) = self.recovery.answered(id) else {
            return;
        };
        let item = Item {
            id,
            origin: id,
            payload,
            accepted_at: Now {
                mono: now.mono,
                wall: head.accepted_wall,
            },
            history: History {
                ambiguous_sends: head.sends,
                ..History::default()
            },
            on_disk: true,
        };
        if head.sends > 0 && !self.may_resend(route, &item) {
            self.stock.give_up(&[item], DropReason::Ambiguous);
        } else if self.stock.buffer.has_room(&item) {
            self.stock.take_back(route, item);
        } else {
            self.recovery.add(head);
        }
        self.keep_set_aside();
    }

    /// A record could not be read back.
    pub fn not_recovered(&mut self, id: ItemId) {
        if let Some(head) = self.recovery.remove(id) {
            self.give_up_on_disk(&[head], DropReason::Damaged);
        }
    }

    /// What had to make room in memory waits on disk.
    pub(super) fn keep_set_aside(&mut self) {
        for head in self.stock.set_aside.drain(..) {
            self.recovery.add(head);
        }
        self.stock.ledger.on_disk = self.recovery.units();
    }

    /// The disk did not take it, and it is in memory no more.
    pub(super) fn neither_stored_nor_held(&mut self, id: ItemId) {
        if let Some(head) = self.recovery.remove(id) {
            let reason = if head.is_ours() {
                DropReason::BufferFull
            } else {
                DropReason::Damaged
            };
            self.give_up_on_disk(&[head], reason);
        }
    }

    fn give_up_on_disk(&mut self, heads: &[Head], reason: DropReason) {
        let units = heads.iter().map(|head| u64::from(head.units)).sum();
        self.stock.drop_units(reason, units);
        if !heads.is_empty() {
            let ids = heads.iter().map(|head| head.id).collect();
            self.stock.actions.push(Action::Forget { ids });
        }
        self.stock.ledger.on_disk = self.recovery.units();
    }
}
