//! The spool as the extension keeps it: what of it would be there after a kill at this moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use langfuse_extension_core::buffer::{Item, ItemId, Payload};
use langfuse_extension_core::route::Route;

use crate::load::Load;

#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) route: Arc<Route>,
    pub(crate) load: Load,
    pub(crate) sent: bool,
    replaces: Option<ItemId>,
}

#[derive(Debug, Default)]
pub(crate) struct Spool {
    entries: BTreeMap<ItemId, Stored>,
    units: u64,
}

impl Spool {
    pub(crate) fn store(&mut self, route: Arc<Route>, item: &Item<Load>, replaces: Option<ItemId>) {
        self.units += u64::from(item.payload.units());
        let load = item.payload.clone();
        let stored = Stored {
            route,
            load,
            sent: item.history.ambiguous_sends > 0,
            replaces,
        };
        let before = self.entries.insert(item.id, stored);
        assert!(before.is_none(), "{:?} was stored twice", item.id);
    }

    pub(crate) fn mark(&mut self, ids: &[ItemId], sent: bool) {
        for id in ids {
            if let Some(stored) = self.entries.get_mut(id) {
                stored.sent = sent;
            }
        }
    }

    pub(crate) fn forget(&mut self, ids: &[ItemId]) {
        for stored in ids.iter().filter_map(|id| self.entries.remove(id)) {
            self.units -= u64::from(stored.load.units());
        }
    }

    pub(crate) fn get(&self, id: ItemId) -> Option<&Stored> {
        self.entries.get(&id)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Stored> {
        self.entries.values()
    }

    pub(crate) fn units(&self) -> u64 {
        self.units
    }

    /// What the next process of this sandbox finds.
    pub(crate) fn take(&mut self) -> Vec<Stored> {
        self.units = 0;
        let entries = std::mem::take(&mut self.entries);
        let ids: Vec<_> = entries.keys().copied().collect();
        let whole_is_there = |stored: &Stored| stored.replaces.is_some_and(|id| ids.contains(&id));
        let left = entries.into_values();
        left.filter(|stored| !whole_is_there(stored)).collect()
    }
}
