//! What is under way: requests with data, probes, and items that are being cut.

mod wait;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{Batch, Item, ItemId, Payload};
use crate::ledger::DropReason;
use crate::route::{Destination, Route};
use crate::time::Now;
use crate::{Action, ExportId};

pub use wait::Patience;
use wait::Wait;

/// Requests with data that may be under way at once, to each destination.
pub const MAX_IN_FLIGHT: usize = 4;

/// How long a probe's answer is waited for.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// After a thaw an answer may lie in the socket already: nothing is given up before it could have been read.
pub const THAW_GRACE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct InFlight<P> {
    exports: BTreeMap<ExportId, Export<P>>,
    probes: BTreeMap<Destination, Probe>,
    cutting: BTreeMap<ItemId, Cutting<P>>,
    next_export: u64,
}

/// A request with data.
#[derive(Debug)]
pub(crate) struct Export<P> {
    pub(crate) destination: Destination,
    pub(crate) batch: Batch<P>,
    wait: Wait,
}

/// An empty request.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) route: Arc<Route>,
    wait: Wait,
}

/// An item that is being cut in two.
#[derive(Debug)]
pub(crate) struct Cutting<P> {
    pub(crate) route: Arc<Route>,
    pub(crate) item: Item<P>,
    /// What becomes of it if it cannot be cut.
    pub(crate) otherwise: DropReason,
}

impl<P> Export<P> {
    pub(crate) fn since(&self) -> Now {
        self.wait.since
    }
}

impl Probe {
    pub(crate) fn since(&self) -> Now {
        self.wait.since
    }
}

impl<P: Payload> InFlight<P> {
    pub(crate) fn new() -> Self {
        Self {
            exports: BTreeMap::new(),
            probes: BTreeMap::new(),
            cutting: BTreeMap::new(),
            next_export: 0,
        }
    }

    /// One request at a time for a route, so that what comes meanwhile shares the next one.
    pub(crate) fn has_room_for(&self, destination: Destination, route: &Arc<Route>) -> bool {
        let exports = || self.exports.values();
        exports().filter(|e| e.destination == destination).count() < MAX_IN_FLIGHT
            && !exports().any(|e| e.destination == destination && e.batch.route == *route)
            && !self.cutting.values().any(|c| c.route == *route)
    }

    pub(crate) fn export(
        &mut self,
        destination: Destination,
        batch: Batch<P>,
        now: Now,
    ) -> ExportId {
        let id = ExportId(self.next_export);
        self.next_export += 1;
        let wait = Wait::new(now);
        let export = Export {
            destination,
            batch,
            wait,
        };
        self.exports.insert(id, export);
        id
    }

    pub(crate) fn exported(&mut self, id: ExportId) -> Option<Export<P>> {
        self.exports.remove(&id)
    }

    pub(crate) fn is_probing(&self, destination: Destination) -> bool {
        self.probes.contains_key(&destination)
    }

    pub(crate) fn probe(&mut self, destination: Destination, route: &Arc<Route>, now: Now) {
        let probe = Probe {
            route: Arc::clone(route),
            wait: Wait::new(now),
        };
        self.probes.insert(destination, probe);
    }

    pub(crate) fn probed(&mut self, destination: Destination) -> Option<Probe> {
        self.probes.remove(&destination)
    }

    pub(crate) fn cut(&mut self, cutting: Cutting<P>) {
        self.cutting.insert(cutting.item.id, cutting);
    }

    pub(crate) fn was_cut(&mut self, id: ItemId) -> Option<Cutting<P>> {
        self.cutting.remove(&id)
    }

    /// Changes the item of this name.
    pub(crate) fn change(&mut self, id: ItemId, change: impl FnOnce(&mut Item<P>)) {
        let exports = self.exports.values_mut();
        let sent = exports.flat_map(|export| &mut export.batch.items);
        let cutting = self.cutting.values_mut().map(|cutting| &mut cutting.item);
        if let Some(item) = sent.chain(cutting).find(|item| item.id == id) {
            change(item);
        }
    }

    /// Stops waiting for answers that no longer come.
    pub(crate) fn abort_overdue(&mut self, patience: &Patience, now: Now) -> Vec<Action<P>> {
        let mut actions = Vec::new();
        for (id, export) in &mut self.exports {
            if export.wait.ends(patience, patience.request, now) {
                actions.push(Action::Abort { id: *id });
            }
        }
        for (destination, probe) in &mut self.probes {
            if probe.wait.ends(patience, patience.probe, now) {
                let destination = *destination;
                actions.push(Action::AbortProbe { destination });
            }
        }
        actions
    }

    /// The earliest moment at which [`Self::abort_overdue`] may have something to do.
    pub(crate) fn wake_in(&self, patience: &Patience, now: Now) -> Option<Duration> {
        let exports = self.exports.values();
        let exports = exports.map(|export| (export.wait, patience.request));
        let probes = self.probes.values().map(|p| (p.wait, patience.probe));
        let waits = exports.chain(probes).filter(|(wait, _)| !wait.aborted);
        waits
            .map(|(wait, limit)| patience.left(wait.since, limit, now))
            .filter(|left| !left.is_zero())
            .min()
    }

    /// Whether items are out of the buffer.
    pub(crate) fn is_empty(&self) -> bool {
        self.exports.is_empty() && self.cutting.is_empty()
    }

    /// Whether an answer to data is awaited.
    pub(crate) fn awaits_answers(&self) -> bool {
        !self.exports.is_empty()
    }

    pub(crate) fn units(&self) -> u64 {
        let exports = self.exports.values().map(|export| export.batch.units());
        let cutting = self.cutting.values();
        let cutting = cutting.map(|cutting| u64::from(cutting.item.payload.units()));
        exports.chain(cutting).sum()
    }

    /// Takes out all items, for the end of the process.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Item<P>> {
        let exports = std::mem::take(&mut self.exports).into_values();
        let cutting = std::mem::take(&mut self.cutting).into_values();
        let sent = exports.flat_map(|export| export.batch.items);
        sent.chain(cutting.map(|cutting| cutting.item))
    }
}
