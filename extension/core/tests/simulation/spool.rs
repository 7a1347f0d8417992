//! The disk as the world knows it: what of it a later process would find after a kill at this moment.
//!
//! It has its own truth: records have numbers that outlive processes, a part is no record while its whole is there, and
//! a send or a crash is what happened in the world, not what the core remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use langfuse_extension_core::buffer::{Item, ItemId, Payload};
use langfuse_extension_core::recovery::Head;
use langfuse_extension_core::route::Route;

use crate::load::Load;

#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) route: Arc<Route>,
    pub(crate) load: Load,
    /// Sends that began and were not taken back.
    pub(crate) sends: u32,
    /// Crashes that it was in memory at.
    crashes: u32,
    in_memory: bool,
    accepted_wall: Duration,
    replaces: Option<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Spool {
    records: BTreeMap<u64, Stored>,
    /// How this process names them.
    names: BTreeMap<ItemId, u64>,
    next_number: u64,
}

impl Spool {
    pub(crate) fn store(&mut self, route: Arc<Route>, item: &Item<Load>, whole: Option<ItemId>) {
        let replaces = whole.and_then(|whole| self.names.get(&whole).copied());
        let number = self.next_number;
        self.next_number += 1;
        let stored = Stored {
            route,
            load: item.payload.clone(),
            sends: item.history.ambiguous_sends,
            crashes: 0,
            in_memory: true,
            accepted_wall: item.accepted_at.wall,
            replaces,
        };
        self.records.insert(number, stored);
        let before = self.names.insert(item.id, number);
        assert!(before.is_none(), "{:?} was stored twice", item.id);
    }

    /// A send of these begins, or did not arrive after all.
    pub(crate) fn mark(&mut self, ids: &[ItemId], begins: bool) {
        for id in ids {
            if let Some(stored) = self.get_mut(*id) {
                let sends = &mut stored.sends;
                assert!(begins || *sends > 0, "{id:?} is taken back without a send");
                *sends = if begins { *sends + 1 } else { *sends - 1 };
            }
        }
    }

    /// Returns what is gone.
    pub(crate) fn forget(&mut self, ids: &[ItemId]) -> Vec<Stored> {
        let numbers = ids.iter().filter_map(|id| self.names.remove(id));
        let numbers: Vec<_> = numbers.collect();
        numbers
            .iter()
            .filter_map(|number| self.records.remove(number))
            .collect()
    }

    /// The process takes a record into memory.
    pub(crate) fn read(&mut self, id: ItemId) -> Option<Stored> {
        let stored = self.get_mut(id)?;
        stored.in_memory = true;
        Some(stored.clone())
    }

    pub(crate) fn get(&self, id: ItemId) -> Option<&Stored> {
        self.records.get(self.names.get(&id)?)
    }

    fn get_mut(&mut self, id: ItemId) -> Option<&mut Stored> {
        self.records.get_mut(self.names.get(&id)?)
    }

    /// The records that count.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Stored> {
        let counts = |stored: &&Stored| {
            let whole = stored.replaces;
            !whole.is_some_and(|whole| self.records.contains_key(&whole))
        };
        self.records.values().filter(counts)
    }

    pub(crate) fn units(&self) -> u64 {
        self.entries()
            .map(|stored| u64::from(stored.load.units()))
            .sum()
    }

    /// Which units are there.
    pub(crate) fn unit_ids(&self) -> BTreeSet<u32> {
        self.entries()
            .flat_map(|stored| stored.load.units.clone())
            .collect()
    }

    /// The process is gone, and did not end in order.
    pub(crate) fn crash(&mut self) {
        for stored in self.records.values_mut() {
            stored.crashes += u32::from(stored.in_memory);
        }
    }

    /// What the next process of this sandbox finds, and how it names it.
    pub(crate) fn open(&mut self) -> Vec<Head> {
        let numbers: BTreeSet<_> = self.records.keys().copied().collect();
        self.records.retain(|_, stored| {
            stored.in_memory = false;
            !stored
                .replaces
                .is_some_and(|whole| numbers.contains(&whole))
        });
        self.names = (0..)
            .map(ItemId)
            .zip(self.records.keys().copied())
            .collect();
        let head = |(id, stored): (ItemId, &Stored)| Head {
            id,
            accepted_wall: stored.accepted_wall,
            units: stored.load.units(),
            bytes: stored.load.bytes,
            sends: stored.sends,
            crashes: stored.crashes,
        };
        (0..)
            .map(ItemId)
            .zip(self.records.values())
            .map(head)
            .collect()
    }
}
