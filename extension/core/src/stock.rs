//! What is held: the items that wait, what the disk must know of them, and the books about both.

use std::sync::Arc;

use crate::buffer::{
    Batch, Buffer, FIRST_ACCEPTED, History, Item, ItemId, NoRoom, Payload, units_of,
};
use crate::ledger::{DropReason, Ledger};
use crate::recovery::Head;
use crate::route::Route;
use crate::time::Now;
use crate::{Action, Settings};

/// The items held, and the actions that they ask for.
#[derive(Debug)]
pub(crate) struct Stock<P> {
    pub(crate) buffer: Buffer<P>,
    pub(crate) ledger: Ledger,
    pub(crate) actions: Vec<Action<P>>,
    /// What had to make room in memory and is on disk still.
    pub(crate) set_aside: Vec<Head>,
    spool: bool,
    /// The sandbox is still to be copied. Memory and disk are copied with it, so nothing accepted by now may be sent: not
    /// by the copies, which are many, and not before, because a request that is just being made would be made by each of
    /// them. Nothing is put on disk either; hence whatever a later process finds there is of one sandbox alone.
    pub(crate) to_be_copied: bool,
    next_item: u64,
}

impl<P: Payload> Stock<P> {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            buffer: Buffer::new(settings.buffer_bytes),
            ledger: Ledger::default(),
            actions: Vec::new(),
            set_aside: Vec::new(),
            spool: settings.spool,
            to_be_copied: settings.snapshot,
            next_item: FIRST_ACCEPTED.0,
        }
    }

    /// The name that the next item will get.
    pub(crate) fn next_item(&self) -> ItemId {
        ItemId(self.next_item)
    }

    pub(crate) fn new_item(&mut self, payload: P, history: History, now: Now) -> Item<P> {
        let id = self.next_item();
        self.next_item += 1;
        Item {
            id,
            origin: id,
            payload,
            accepted_at: now,
            history,
            on_disk: self.spool && !self.to_be_copied,
        }
    }

    /// Takes an item in, and the oldest ones give way to it.
    pub(crate) fn take_in(&mut self, route: &Arc<Route>, item: Item<P>) {
        match self.buffer.admit(route, item.clone()) {
            Ok(evicted) => {
                self.set_aside(evicted);
                self.store(route, item, None);
            }
            Err(NoRoom) if item.on_disk && self.buffer.could_hold(&item) => {
                self.store(route, item.clone(), None);
                self.set_aside(vec![item]);
            }
            Err(NoRoom) => self.give_up_unstored(item, DropReason::BufferFull),
        }
    }

    /// Takes an item in that is on disk already.
    pub(crate) fn take_back(&mut self, route: &Arc<Route>, item: Item<P>) {
        match self.buffer.admit(route, item.clone()) {
            Ok(evicted) => self.set_aside(evicted),
            Err(NoRoom) => self.give_up(&[item], DropReason::BufferFull),
        }
    }

    /// Replaces an item that was taken out by its parts.
    pub(crate) fn replace(&mut self, route: &Arc<Route>, item: &Item<P>, parts: Vec<P>) {
        let parts = parts.into_iter().map(|payload| {
            let part = self.new_item(payload, item.history, item.accepted_at);
            Item {
                origin: item.origin,
                on_disk: item.on_disk,
                ..part
            }
        });
        let parts: Vec<_> = parts.collect();
        for part in &parts {
            self.store(route, part.clone(), Some(item.id));
        }
        self.note_on_disk(std::slice::from_ref(item), |ids| Action::Forget { ids });
        let evicted = self.buffer.put_back_parts(route, item, parts);
        self.set_aside(evicted);
    }

    /// These had to make room in memory. What is on disk waits there, and only the rest is given up.
    fn set_aside(&mut self, evicted: Vec<Item<P>>) {
        let (on_disk, lost): (Vec<_>, Vec<_>) = evicted.into_iter().partition(|it| it.on_disk);
        self.set_aside.extend(on_disk.iter().map(Head::of));
        self.give_up(&lost, DropReason::BufferFull);
    }

    fn store(&mut self, route: &Arc<Route>, item: Item<P>, replaces: Option<ItemId>) {
        if item.on_disk {
            let route = Arc::clone(route);
            self.actions.push(Action::Store {
                route,
                item,
                replaces,
            });
        }
    }

    /// Items that were taken out have come to a good end, but for so many of their units.
    pub(crate) fn delivered(&mut self, batch: &Batch<P>, refused_units: u64) {
        let units = batch.units();
        let refused = refused_units.min(units);
        self.ledger.delivered += units - refused;
        self.drop_units(DropReason::Refused, refused);
        self.settle(&batch.items);
    }

    /// Nothing of a request may leave.
    pub(crate) fn nothing_to_send(&mut self, batch: &Batch<P>) {
        self.ledger.requests -= 1;
        self.settle(&batch.items);
    }

    /// Items that were taken out are not worth another try.
    pub(crate) fn drop_taken(&mut self, items: &[Item<P>], reason: DropReason) {
        self.drop_units(reason, units_of(items));
        self.settle(items);
    }

    /// Gives up what the spool was not asked to keep.
    pub(crate) fn give_up_unstored(&mut self, item: Item<P>, reason: DropReason) {
        let item = Item {
            on_disk: false,
            ..item
        };
        self.give_up(&[item], reason);
    }

    pub(crate) fn give_up(&mut self, items: &[Item<P>], reason: DropReason) {
        self.drop_units(reason, units_of(items));
        self.note_on_disk(items, |ids| Action::Forget { ids });
    }

    fn settle(&mut self, items: &[Item<P>]) {
        for item in items {
            self.buffer.settle(item);
        }
        self.note_on_disk(items, |ids| Action::Forget { ids });
    }

    pub(crate) fn drop_units(&mut self, reason: DropReason, units: u64) {
        if units > 0 {
            self.ledger.dropped.add(reason, units);
            self.actions.push(Action::Dropped { reason, units });
        }
    }

    pub(crate) fn mark_sent(&mut self, items: &[Item<P>]) {
        self.note_on_disk(items, |ids| Action::MarkSent { ids });
    }

    /// The latest send of these surely did not arrive; an earlier one may have.
    pub(crate) fn mark_unsent(&mut self, items: &[Item<P>]) {
        self.note_on_disk(items, |ids| Action::MarkUnsent { ids });
    }

    fn note_on_disk(&mut self, items: &[Item<P>], note: impl FnOnce(Vec<ItemId>) -> Action<P>) {
        let ids: Vec<_> = items
            .iter()
            .filter(|item| item.on_disk)
            .map(|item| item.id)
            .collect();
        if !ids.is_empty() {
            self.actions.push(note(ids));
        }
    }
}
