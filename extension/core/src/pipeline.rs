//! Receive → buffer → export: an item from its acceptance to its request, and the requests under way. What their answers
//! mean for the items is in `answers`.

mod answers;
mod wait;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{
    Batch, Buffer, FIRST_ACCEPTED, History, Item, ItemId, Lane, NotAdmitted, Payload, units_of,
};
use crate::delivery::{Delivery, Permit};
use crate::hold::Hope;
use crate::ledger::{DropReason, Ledger};
use crate::recovery::{Head, Lost, MAX_CRASHES, MAX_SPOOL_AGE, Recovery};
use crate::refusals::Reason;
use crate::route::{Destination, RequestLimits, Route};
use crate::time::{Now, Timer};
use crate::{Action, ExportId, Settings};

pub use wait::Patience;
use wait::Wait;

/// Requests with data that may be under way at once.
pub const MAX_IN_FLIGHT: usize = 4;

/// How long a probe's answer is waited for.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// After a thaw an answer may lie in the socket already: nothing is given up before it could have been read.
pub const THAW_GRACE: Duration = Duration::from_millis(250);

/// Sends of one span batch whose outcome stayed unknown; after that many it is given up.
pub const MAX_AMBIGUOUS_SENDS: u32 = 3;

/// Failed sends after which an item lets others go first, to learn whether it is to blame itself.
pub const PATIENCE_FAILURES: u32 = 3;

/// Failed sends after which an item is given up if anything went through meanwhile, be it at another endpoint.
pub const MAX_FAILURES: u32 = 32;

/// However often Langfuse answers 413, requests are not made smaller than this.
pub const SMALLEST_REQUEST_LIMIT_BYTES: usize = 64 << 10;

/// Which of the waiting data is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// None: the sandbox may be frozen at any moment.
    Nothing,
    /// What fills a request, what is older than this, and what was accepted before that item.
    Ripe {
        /// Age from which data is sent.
        age: Duration,
        /// Items with a smaller name are sent whatever their age.
        before: ItemId,
    },
    /// All of it.
    Everything,
}

/// Items on their way, and the books about them.
#[derive(Debug)]
pub struct Pipeline<P> {
    settings: Settings,
    buffer: Buffer<P>,
    in_flight: BTreeMap<ExportId, InFlight<P>>,
    probes: BTreeMap<Destination, Probe>,
    /// Items that are being cut in two.
    cutting: BTreeMap<ItemId, Cutting<P>>,
    delivery: Delivery,
    ledger: Ledger,
    recovery: Recovery,
    /// The sandbox is still to be copied. Memory and disk are copied with it, so nothing accepted by now may be sent: not
    /// by the copies, which are many, and not before, because a request that is just being made would be made by each of
    /// them. Nothing is put on disk either; hence whatever a later process finds there is of one sandbox alone.
    to_be_copied: bool,
    /// Requests delivered, by [`crate::route::Door`].
    deliveries: [u64; 4],
    /// Where the latest data goes: what comes next is likely to go there too.
    latest_route: Option<Arc<Route>>,
    next_item: u64,
    next_export: u64,
    /// Learned from 413 answers; some proxies take less than Langfuse.
    request_limit_bytes: usize,
    actions: Vec<Action<P>>,
}

#[derive(Debug)]
struct InFlight<P> {
    batch: Batch<P>,
    wait: Wait,
}

#[derive(Debug)]
struct Cutting<P> {
    route: Arc<Route>,
    item: Item<P>,
    /// What becomes of it if it cannot be cut.
    otherwise: DropReason,
}

#[derive(Debug)]
struct Probe {
    route: Arc<Route>,
    wait: Wait,
}

impl<P: Payload> Pipeline<P> {
    /// Empty.
    pub fn new(settings: Settings) -> Self {
        Self {
            buffer: Buffer::new(settings.buffer_bytes),
            in_flight: BTreeMap::new(),
            probes: BTreeMap::new(),
            cutting: BTreeMap::new(),
            delivery: Delivery::new(settings.seed),
            ledger: Ledger::default(),
            recovery: Recovery::default(),
            to_be_copied: settings.snapshot,
            deliveries: [0; 4],
            latest_route: None,
            next_item: FIRST_ACCEPTED.0,
            next_export: 0,
            request_limit_bytes: usize::MAX,
            actions: Vec::new(),
            settings,
        }
    }

    /// What has to be done since this was last asked.
    #[must_use]
    pub fn take_actions(&mut self) -> Vec<Action<P>> {
        std::mem::take(&mut self.actions)
    }

    /// A client's data has come.
    pub fn accept(&mut self, route: &Arc<Route>, payload: P, now: Now) {
        self.ledger.accepted += u64::from(payload.units());
        self.latest_route = Some(Arc::clone(route));
        let item = self.new_item(payload, History::default(), now);
        if !self.settings.enabled {
            self.give_up(
                &[Item {
                    on_disk: false,
                    ..item
                }],
                DropReason::Disabled,
            );
        } else if let Some(item) = self.admit(route, item) {
            self.store(route, item, None);
        }
    }

    /// This is a copy, or will never be copied. What it shares with other copies is given up.
    pub fn restored(&mut self) {
        if std::mem::take(&mut self.to_be_copied) {
            for batch in self.buffer.drain() {
                self.drop_taken(&batch.items, DropReason::Snapshot);
            }
        }
    }

    /// A client's request was not taken.
    pub fn refused_client(&mut self, reason: Reason, bytes: u64) {
        self.ledger.refusals.add(reason, bytes);
    }

    /// Earlier processes of this sandbox have left this on disk.
    pub fn spool_opened(&mut self, heads: Vec<Head>, lost: Vec<Lost>, unreadable: u64, now: Now) {
        self.ledger.unreadable += unreadable;
        for Lost { reason, units } in lost {
            self.ledger.recovered += units;
            self.drop_units(reason, units);
        }
        if !heads.is_empty() {
            self.to_be_copied = false;
        }
        let (mut expired, mut crashed) = (Vec::new(), Vec::new());
        for head in heads {
            self.ledger.recovered += u64::from(head.units);
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
        if let Some(head) = self.recovery.next(self.buffer.held_bytes(), limit_bytes) {
            self.actions.push(Action::Recover { id: head.id });
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
            self.give_up(&[item], DropReason::Ambiguous);
        } else if self.buffer.has_room(&item) {
            if self.admit(route, item).is_none() {
                self.actions.push(Action::Forget { ids: vec![id] });
            }
        } else {
            self.recovery.add(head);
        }
        self.ledger.on_disk = self.recovery.units();
    }

    /// A record could not be read back.
    pub fn not_recovered(&mut self, id: ItemId) {
        if let Some(head) = self.recovery.remove(id) {
            self.give_up_on_disk(&[head], DropReason::Damaged);
        }
    }

    fn give_up_on_disk(&mut self, heads: &[Head], reason: DropReason) {
        self.drop_units(reason, heads.iter().map(|head| u64::from(head.units)).sum());
        if !heads.is_empty() {
            let ids = heads.iter().map(|head| head.id).collect();
            self.actions.push(Action::Forget { ids });
        }
        self.ledger.on_disk = self.recovery.units();
    }

    /// The spool does not have this item.
    pub fn not_stored(&mut self, id: ItemId) {
        if self.recovery.holds(id) {
            return self.not_recovered(id);
        }
        if let Some(item) = self.buffer.waiting_mut(id) {
            item.on_disk = false;
            return;
        }
        for flight in self.in_flight.values_mut() {
            let items = &mut flight.batch.items;
            if let Ok(index) = items.binary_search_by_key(&id, |item| item.id) {
                items[index].on_disk = false;
            }
        }
        if let Some(cutting) = self.cutting.get_mut(&id) {
            cutting.item.on_disk = false;
        }
    }

    /// Starts what may be sent of what is due.
    pub fn pump(&mut self, due: Due, now: Now) {
        if due == Due::Nothing || self.to_be_copied {
            return;
        }
        let routes: Vec<_> = self
            .buffer
            .lanes()
            .map(|lane| Arc::clone(lane.route()))
            .collect();
        for route in routes {
            self.start_one(&route, due, now);
        }
    }

    fn start_one(&mut self, route: &Arc<Route>, due: Due, now: Now) {
        match self.delivery.permit(route, now) {
            Permit::Send if self.may_start(route) && self.is_due(route, due, now) => {
                self.export(route, now);
            }
            Permit::Probe if !self.probes.contains_key(&Destination::Langfuse) => {
                self.delivery.probing(route);
                self.ledger.probes += 1;
                let probe = Probe {
                    route: Arc::clone(route),
                    wait: Wait::new(now),
                };
                self.probes.insert(Destination::Langfuse, probe);
                self.actions.push(Action::Probe {
                    destination: Destination::Langfuse,
                    route: Arc::clone(route),
                });
            }
            _ => {}
        }
    }

    /// One request at a time for a route, so that what comes meanwhile shares the next one.
    fn may_start(&self, route: &Arc<Route>) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT
            && !self.in_flight.values().any(|f| f.batch.route == *route)
    }

    fn is_due(&self, route: &Arc<Route>, due: Due, now: Now) -> bool {
        let Some(lane) = self.buffer.lanes().find(|lane| lane.route() == route) else {
            return false;
        };
        match due {
            Due::Nothing => false,
            Due::Everything => true,
            Due::Ripe { age, before } => {
                lane.fills(self.limits(route))
                    || lane
                        .head()
                        .is_some_and(|head| head.id < before || now.since(head.accepted_at) >= age)
            }
        }
    }

    fn limits(&self, route: &Route) -> RequestLimits {
        let limits = route.door.limits();
        RequestLimits {
            bytes: limits.bytes.min(self.request_limit_bytes),
            ..limits
        }
    }

    fn export(&mut self, route: &Arc<Route>, now: Now) {
        let Some(batch) = self.buffer.take(route, self.limits(route)) else {
            return;
        };
        let id = ExportId(self.next_export);
        self.next_export += 1;
        self.ledger.requests += 1;
        self.ledger.maybe_doubled += maybe_doubled(&batch);
        self.delivery.sending();
        self.note_on_disk(&batch.items, |ids| Action::MarkSent { ids });
        self.actions.push(Action::Export {
            id,
            destination: Destination::Langfuse,
            batch: batch.clone(),
        });
        self.in_flight.insert(
            id,
            InFlight {
                batch,
                wait: Wait::new(now),
            },
        );
    }

    /// Stops waiting for answers that no longer come.
    pub fn abort_overdue(&mut self, patience: &Patience, now: Now) {
        for (id, flight) in &mut self.in_flight {
            if flight.wait.ends(patience, patience.request, now) {
                self.actions.push(Action::Abort { id: *id });
            }
        }
        for (destination, probe) in &mut self.probes {
            if probe.wait.ends(patience, patience.probe, now) {
                let destination = *destination;
                self.actions.push(Action::AbortProbe { destination });
            }
        }
    }

    /// Whether something unsent or unanswered may be settled `within` this time.
    pub fn has_hope(&self, within: Duration, now: Now) -> bool {
        let may_be_sent = |lane: &Lane<P>| match self.delivery.permit(lane.route(), now) {
            Permit::Wait(left) => left < within,
            Permit::Send | Permit::Probe | Permit::Answer | Permit::Keys => true,
        };
        !self.in_flight.is_empty()
            || !self.cutting.is_empty()
            || self.buffer.lanes().any(may_be_sent)
    }

    /// What may be had of Langfuse within this time.
    pub fn hope(&self, within: Duration, now: Now) -> Hope {
        if within.is_zero() {
            return Hope::None;
        }
        if self.is_settled() {
            let latest = self.latest_route.as_ref();
            let permit = latest.map(|route| self.delivery.permit(route, now));
            return match permit {
                Some(Permit::Wait(left)) if left >= within => Hope::None,
                _ => Hope::Idle,
            };
        }
        let may_go = |lane: &Lane<P>| {
            let permit = self.delivery.permit(lane.route(), now);
            matches!(permit, Permit::Send | Permit::Keys)
        };
        if !self.has_hope(within, now) {
            Hope::None
        } else if !self.in_flight.is_empty() || self.buffer.lanes().any(may_go) {
            Hope::Unsent
        } else {
            Hope::Probe
        }
    }

    /// What of the flush budget a hold may still take.
    pub fn budget(&self, now: Now) -> Duration {
        self.delivery.left_of(self.settings.flush_budget, now)
    }

    /// The sandbox is released after a hold, and something was not settled.
    pub fn held_in_vain(&mut self, held: Duration, now: Now) {
        let unanswered = !self.in_flight.is_empty();
        let budget = self.settings.flush_budget;
        self.delivery.held_in_vain(held, budget, unanswered, now);
    }

    /// The earliest moment at which [`Self::pump`] or [`Self::abort_overdue`] may have something to do.
    pub fn wake_in(&self, due: Due, patience: &Patience, now: Now) -> Option<Duration> {
        let flights = self.in_flight.values().map(|flight| flight.wait);
        let flights = flights.filter(|wait| !wait.aborted);
        let flights = flights.map(|wait| patience.left(wait.since, patience.request, now));
        let probe = self.probes.values().map(|probe| probe.wait);
        let probe = probe.filter(|wait| !wait.aborted);
        let probe = probe.map(|wait| patience.left(wait.since, patience.probe, now));
        let lanes = self.buffer.lanes().filter_map(|lane| {
            let age = match due {
                Due::Nothing => return None,
                Due::Everything => Duration::ZERO,
                Due::Ripe { age, .. } => age,
            };
            match self.delivery.permit(lane.route(), now) {
                // A probe is asked for as soon as it may be, so that its answer is there when the data is ripe.
                Permit::Wait(left) => Some(left),
                Permit::Send if self.may_start(lane.route()) => {
                    Some(Timer::new(lane.head()?.accepted_at, age).left(now))
                }
                // An answer comes first, and then there is an event anyway.
                Permit::Send | Permit::Probe | Permit::Answer | Permit::Keys => None,
            }
        });
        let waits = flights.chain(probe).chain(lanes);
        waits.filter(|left| !left.is_zero()).min()
    }

    /// The process ends: whatever is left stays in the spool, or is given up.
    pub fn finish(&mut self) {
        let flights = std::mem::take(&mut self.in_flight)
            .into_values()
            .map(|f| f.batch);
        let batches = flights.chain(self.buffer.drain());
        let cutting = std::mem::take(&mut self.cutting).into_values();
        let items = batches.flat_map(|batch| batch.items);
        let items: Vec<_> = items.chain(cutting.map(|cutting| cutting.item)).collect();
        let (on_disk, lost): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| item.on_disk);
        self.ledger.spooled += units_of(&on_disk) + std::mem::take(&mut self.ledger.on_disk);
        self.give_up(&lost, DropReason::Exit);
    }

    /// What Langfuse has shown of itself.
    pub fn delivery(&mut self) -> &mut Delivery {
        &mut self.delivery
    }

    /// Whether Langfuse is known to be bad.
    pub fn is_bad(&self, now: Now) -> bool {
        self.delivery.is_bad(now)
    }

    /// The name that the next item will get.
    pub fn next_item(&self) -> ItemId {
        ItemId(self.next_item)
    }

    /// When the oldest waiting item was accepted.
    pub fn oldest(&self) -> Option<Now> {
        let heads = self.buffer.lanes().filter_map(|lane| lane.head());
        heads
            .min_by_key(|head| head.id)
            .map(|head| head.accepted_at)
    }

    /// Whether everything accepted has come to its end.
    pub fn is_settled(&self) -> bool {
        self.buffer.is_empty() && self.in_flight.is_empty() && self.cutting.is_empty()
    }

    /// The books.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Units in memory: waiting, or on their way.
    pub fn held_units(&self) -> u64 {
        self.buffer.waiting_units()
            + self
                .in_flight
                .values()
                .map(|f| f.batch.units())
                .sum::<u64>()
            + self
                .cutting
                .values()
                .map(|cutting| u64::from(cutting.item.payload.units()))
                .sum::<u64>()
    }

    /// Bytes charged to the buffer.
    pub fn held_bytes(&self) -> usize {
        self.buffer.held_bytes()
    }

    fn new_item(&mut self, payload: P, history: History, now: Now) -> Item<P> {
        let id = ItemId(self.next_item);
        self.next_item += 1;
        Item {
            id,
            payload,
            accepted_at: now,
            history,
            on_disk: self.settings.spool && !self.to_be_copied,
        }
    }

    fn admit(&mut self, route: &Arc<Route>, item: Item<P>) -> Option<Item<P>> {
        let reason = match self.buffer.admit(route, item.clone()) {
            Ok(evicted) => {
                self.give_up(&evicted, DropReason::BufferFull);
                return Some(item);
            }
            Err(NotAdmitted::NoRoom) => DropReason::BufferFull,
            Err(NotAdmitted::TooManyRoutes) => DropReason::TooManyRoutes,
        };
        self.give_up(&[not_stored(item)], reason);
        None
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

    fn settle(&mut self, items: &[Item<P>]) {
        for item in items {
            self.buffer.settle(item);
        }
        self.note_on_disk(items, |ids| Action::Forget { ids });
    }

    fn drop_taken(&mut self, items: &[Item<P>], reason: DropReason) {
        for item in items {
            self.buffer.settle(item);
        }
        self.give_up(items, reason);
    }

    fn give_up(&mut self, items: &[Item<P>], reason: DropReason) {
        self.drop_units(reason, units_of(items));
        self.note_on_disk(items, |ids| Action::Forget { ids });
    }

    fn drop_units(&mut self, reason: DropReason, units: u64) {
        if units > 0 {
            self.ledger.dropped.add(reason, units);
            self.actions.push(Action::Dropped { reason, units });
        }
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

/// The spool has not been asked to keep it.
fn not_stored<P>(item: Item<P>) -> Item<P> {
    Item {
        on_disk: false,
        ..item
    }
}

/// Units of spans that are about to be sent again although they may have arrived.
fn maybe_doubled<P: Payload>(batch: &Batch<P>) -> u64 {
    if batch.route.door.resend_is_safe() {
        return 0;
    }
    let again = batch
        .items
        .iter()
        .filter(|item| item.history.ambiguous_sends > 0);
    again.map(|item| u64::from(item.payload.units())).sum()
}
