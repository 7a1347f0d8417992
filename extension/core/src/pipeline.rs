//! Receive → buffer → export: what happens to an item between its acceptance and its end, whatever Langfuse answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{Batch, Buffer, History, Item, ItemId, NotAdmitted, Payload};
use crate::delivery::{Delivery, Outcome, Permit};
use crate::ledger::{DropReason, Ledger};
use crate::route::{RequestLimits, Route};
use crate::time::{Now, Timer};
use crate::{Action, ExportId, Settings};

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
    probe: Option<Probe>,
    delivery: Delivery,
    ledger: Ledger,
    deliveries: u64,
    next_item: u64,
    next_export: u64,
    /// Learned from 413 answers; some proxies take less than Langfuse.
    request_limit_bytes: usize,
    actions: Vec<Action<P>>,
}

#[derive(Debug)]
struct InFlight<P> {
    batch: Batch<P>,
    since: Now,
    aborted: bool,
}

#[derive(Debug)]
struct Probe {
    route: Arc<Route>,
    since: Now,
    aborted: bool,
}

impl<P: Payload> Pipeline<P> {
    /// Empty.
    pub fn new(settings: Settings) -> Self {
        Self {
            buffer: Buffer::new(settings.buffer_bytes),
            in_flight: BTreeMap::new(),
            probe: None,
            delivery: Delivery::new(settings.seed),
            ledger: Ledger::default(),
            deliveries: 0,
            next_item: 0,
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
        let item = self.new_item(payload, History::default(), now);
        if !self.settings.enabled {
            self.give_up(
                &[Item {
                    on_disk: false,
                    ..item
                }],
                DropReason::Disabled,
            );
        } else if let Some(item) = self.admit(route, item)
            && self.settings.spool
        {
            self.actions.push(Action::Store {
                route: Arc::clone(route),
                item,
            });
        }
    }

    /// An earlier process of this sandbox has left data.
    pub fn recover(&mut self, route: &Arc<Route>, payload: P, sent: bool, now: Now) {
        self.ledger.recovered += u64::from(payload.units());
        let history = History {
            ambiguous_sends: u32::from(sent),
            ..History::default()
        };
        let item = self.new_item(payload, history, now);
        if sent && !self.may_resend(route, &item) {
            self.give_up(&[item], DropReason::Ambiguous);
        } else if let Some(item) = self.admit(route, item)
            && self.settings.spool
        {
            self.actions.push(Action::Store {
                route: Arc::clone(route),
                item,
            });
        }
    }

    /// The spool has no room for this item.
    pub fn not_stored(&mut self, id: ItemId) {
        self.buffer.not_on_disk(id);
    }

    /// Starts what may be sent of what is due.
    pub fn pump(&mut self, due: Due, now: Now) {
        if due == Due::Nothing {
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
            Permit::Probe if self.probe.is_none() => {
                self.delivery.probing(route);
                self.ledger.probes += 1;
                self.probe = Some(Probe {
                    route: Arc::clone(route),
                    since: now,
                    aborted: false,
                });
                self.actions.push(Action::Probe {
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
            batch: batch.clone(),
        });
        self.in_flight.insert(
            id,
            InFlight {
                batch,
                since: now,
                aborted: false,
            },
        );
    }

    /// The answer to a request with data.
    pub fn exported(&mut self, id: ExportId, outcome: Outcome, now: Now) {
        let Some(InFlight { batch, .. }) = self.in_flight.remove(&id) else {
            return;
        };
        self.delivery.sent(&batch.route, outcome, now);
        match outcome {
            Outcome::Delivered => {
                self.deliveries += 1;
                self.ledger.delivered += batch.units();
                self.settle(&batch.items);
            }
            Outcome::Refused => self.refused(batch),
            Outcome::TooLarge => self.too_large(batch),
            Outcome::Unauthorized => {
                if batch.route.credential == crate::route::Credential::Configured {
                    self.actions.push(Action::RereadKeys);
                }
                self.put_back_unsent(batch);
            }
            Outcome::Throttled { .. } => self.put_back_unsent(batch),
            Outcome::NotDelivered { .. } => self.failed(batch, false),
            Outcome::Ambiguous => self.failed(batch, true),
        }
    }

    /// The answer to the probe.
    pub fn probed(&mut self, outcome: Outcome, now: Now) {
        if let Some(probe) = self.probe.take() {
            if outcome == Outcome::Unauthorized
                && probe.route.credential == crate::route::Credential::Configured
            {
                self.actions.push(Action::RereadKeys);
            }
            self.delivery.probed(&probe.route, outcome, now);
        }
    }

    /// One bad span makes Langfuse refuse all that shares its request: each item once more, alone.
    fn refused(&mut self, mut batch: Batch<P>) {
        if batch.items.len() == 1 {
            self.drop_taken(&batch.items, DropReason::Refused);
            return;
        }
        for item in &mut batch.items {
            item.history.alone = true;
        }
        self.put_back_unsent(batch);
    }

    fn too_large(&mut self, mut batch: Batch<P>) {
        let half = batch.request_bytes() / 2;
        self.request_limit_bytes = self
            .request_limit_bytes
            .min(half)
            .max(SMALLEST_REQUEST_LIMIT_BYTES);
        if batch.items.len() > 1 {
            // At the smallest limit the sum is already below it, so only sending alone makes them smaller.
            for item in batch
                .items
                .iter_mut()
                .filter(|_| half < SMALLEST_REQUEST_LIMIT_BYTES)
            {
                item.history.alone = true;
            }
            self.put_back_unsent(batch);
            return;
        }
        for item in batch.items {
            match item.payload.clone().split() {
                Ok((one, other)) => self.replace(&batch.route, &item, [one, other]),
                Err(_) => self.drop_taken(&[item], DropReason::TooLarge),
            }
        }
    }

    fn replace(&mut self, route: &Arc<Route>, item: &Item<P>, parts: [P; 2]) {
        let parts = parts.map(|payload| {
            let part = self.new_item(payload, item.history, item.accepted_at);
            Item {
                on_disk: item.on_disk,
                ..part
            }
        });
        for part in parts.iter().filter(|part| part.on_disk) {
            self.actions.push(Action::Store {
                route: Arc::clone(route),
                item: part.clone(),
            });
        }
        self.note_on_disk(std::slice::from_ref(item), |ids| Action::Forget { ids });
        self.buffer.put_back_parts(route, item, parts);
    }

    fn failed(&mut self, batch: Batch<P>, ambiguous: bool) {
        let Batch { route, items } = batch;
        let shared = items.len() > 1;
        let mut first = Vec::new();
        for mut item in items {
            item.history.failures += 1;
            item.history.ambiguous_sends += u32::from(ambiguous);
            let others_went_through = item.history.failures > PATIENCE_FAILURES
                && self.deliveries > item.history.deliveries_seen;
            item.history.deliveries_seen = self.deliveries;
            if ambiguous && !self.may_resend(&route, &item) {
                self.drop_taken(&[item], DropReason::Ambiguous);
            } else if others_went_through && !shared {
                self.drop_taken(&[item], DropReason::Failed);
            } else if item.history.failures >= PATIENCE_FAILURES {
                item.history.alone |= others_went_through;
                self.back_to_buffer(&item, ambiguous);
                self.buffer.put_last(&route, item);
            } else {
                self.back_to_buffer(&item, ambiguous);
                first.push(item);
            }
        }
        self.buffer.put_back(&route, first);
    }

    fn may_resend(&self, route: &Route, item: &Item<P>) -> bool {
        route.door.resend_is_safe()
            || self.settings.resend_ambiguous && item.history.ambiguous_sends < MAX_AMBIGUOUS_SENDS
    }

    fn put_back_unsent(&mut self, batch: Batch<P>) {
        self.note_on_disk(&batch.items, |ids| Action::MarkUnsent { ids });
        self.buffer.put_back(&batch.route, batch.items);
    }

    fn back_to_buffer(&mut self, item: &Item<P>, ambiguous: bool) {
        if !ambiguous && item.history.ambiguous_sends == 0 {
            self.note_on_disk(std::slice::from_ref(item), |ids| Action::MarkUnsent { ids });
        }
    }

    /// Stops waiting for answers that no longer come. `awake_since`: when the sandbox was last thawed.
    pub fn abort_overdue(
        &mut self,
        request_timeout: Duration,
        probe_timeout: Duration,
        awake_since: Now,
        now: Now,
    ) {
        if now.awake_since(awake_since) < THAW_GRACE {
            return;
        }
        for (id, flight) in &mut self.in_flight {
            if !flight.aborted && now.since(flight.since) >= request_timeout {
                flight.aborted = true;
                self.actions.push(Action::Abort { id: *id });
            }
        }
        if let Some(probe) = &mut self.probe
            && !probe.aborted
            && now.since(probe.since) >= probe_timeout
        {
            probe.aborted = true;
            self.actions.push(Action::AbortProbe);
        }
    }

    /// Whether something unsent or unanswered may be settled `within` this time.
    pub fn has_hope(&self, within: Duration, now: Now) -> bool {
        if self.delivery.is_hopeless() {
            return false;
        }
        let waiting =
            self.buffer
                .lanes()
                .any(|lane| match self.delivery.permit(lane.route(), now) {
                    Permit::Wait(left) => left < within,
                    Permit::Send | Permit::Probe | Permit::Answer | Permit::Keys => true,
                });
        waiting || !self.in_flight.is_empty() || self.probe.is_some() && !self.buffer.is_empty()
    }

    /// The sandbox is released although there was hope.
    pub fn held_in_vain(&mut self, now: Now) {
        self.delivery.held_in_vain(!self.in_flight.is_empty(), now);
    }

    /// The earliest moment at which [`Self::pump`] or [`Self::abort_overdue`] may have something to do.
    pub fn wake_in(
        &self,
        due: Due,
        request_timeout: Duration,
        probe_timeout: Duration,
        awake_since: Now,
        now: Now,
    ) -> Option<Duration> {
        let thaw = Timer::new(awake_since, THAW_GRACE).left(now);
        let overdue = |since, timeout| Timer::new(since, timeout).left(now).max(thaw);
        let flights = self
            .in_flight
            .values()
            .filter(|f| !f.aborted)
            .map(|f| overdue(f.since, request_timeout));
        let probe = self
            .probe
            .iter()
            .filter(|p| !p.aborted)
            .map(|p| overdue(p.since, probe_timeout));
        let lanes = self.buffer.lanes().filter_map(|lane| {
            let permit = match self.delivery.permit(lane.route(), now) {
                Permit::Wait(left) => left,
                _ => Duration::ZERO,
            };
            let ripe = match due {
                Due::Nothing => return None,
                Due::Everything => Duration::ZERO,
                Due::Ripe { age, .. } => Timer::new(lane.head()?.accepted_at, age).left(now),
            };
            // A probe is asked for as soon as it may be, so that its answer is there when the data is ripe.
            Some(if permit.is_zero() { ripe } else { permit })
        });
        flights
            .chain(probe)
            .chain(lanes)
            .filter(|left| !left.is_zero())
            .min()
    }

    /// The process ends: whatever is left stays in the spool, or is given up.
    pub fn finish(&mut self) {
        let flights = std::mem::take(&mut self.in_flight)
            .into_values()
            .map(|f| f.batch);
        let batches: Vec<_> = flights.chain(self.buffer.drain()).collect();
        for item in batches.into_iter().flat_map(|batch| batch.items) {
            let units = u64::from(item.payload.units());
            if item.on_disk {
                self.ledger.spooled += units;
            } else {
                self.ledger.dropped.add(DropReason::Exit, units);
                self.actions.push(Action::Dropped {
                    reason: DropReason::Exit,
                    units,
                });
            }
        }
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
        self.buffer.is_empty() && self.in_flight.is_empty()
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
            on_disk: self.settings.spool,
        }
    }

    fn admit(&mut self, route: &Arc<Route>, item: Item<P>) -> Option<Item<P>> {
        match self.buffer.admit(route, item.clone()) {
            Ok(evicted) => {
                self.give_up(&evicted, DropReason::BufferFull);
                Some(item)
            }
            Err(NotAdmitted::NoRoom) => {
                self.give_up(
                    &[Item {
                        on_disk: false,
                        ..item
                    }],
                    DropReason::BufferFull,
                );
                None
            }
            Err(NotAdmitted::TooManyRoutes) => {
                self.give_up(
                    &[Item {
                        on_disk: false,
                        ..item
                    }],
                    DropReason::TooManyRoutes,
                );
                None
            }
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
        let units = crate::buffer::units_of(items);
        if units > 0 {
            self.ledger.dropped.add(reason, units);
            self.actions.push(Action::Dropped { reason, units });
        }
        self.note_on_disk(items, |ids| Action::Forget { ids });
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
