//! The pump: an item from its acceptance to its request. What answers mean for the items is in `answers`.

mod answers;
mod reading_back;

use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{Batch, Deliveries, History, Item, ItemId, Lane, Payload, units_of};
use crate::delivery::fact::Fact;
use crate::delivery::{Delivery, Destinations, Permit};
use crate::hold::Hope;
use crate::in_flight::{Cutting, InFlight};
use crate::ledger::{DropReason, Ledger};
use crate::recovery::Recovery;
use crate::refusals::Reason;
use crate::route::{Destination, Route};
use crate::stock::Stock;
use crate::time::{Now, Timer};
use crate::{Action, Settings};

pub use crate::delivery::SMALLEST_REQUEST_LIMIT_BYTES;
pub use crate::in_flight::{MAX_IN_FLIGHT, PROBE_TIMEOUT, Patience, THAW_GRACE};

/// Sends of one span batch whose outcome stayed unknown; after that many it is given up.
pub const MAX_AMBIGUOUS_SENDS: u32 = 3;

/// Failed sends after which an item lets others go first, to learn whether it is to blame itself.
pub const PATIENCE_FAILURES: u32 = 3;

/// Failed sends after which an item is given up if anything went through meanwhile, be it at another endpoint.
pub const MAX_FAILURES: u32 = 32;

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

/// Items on their way.
#[derive(Debug)]
pub struct Pipeline<P> {
    settings: Settings,
    stock: Stock<P>,
    in_flight: InFlight<P>,
    destinations: Destinations,
    recovery: Recovery,
    /// Where the latest data goes: what comes next is likely to go there too.
    latest_route: Option<Arc<Route>>,
    /// Requests delivered, by [`crate::route::Door`].
    deliveries: [u64; 4],
    /// Sent in requests of so many items and units that were not answered; a good probe will show that it was them.
    suspects: Vec<Suspect>,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    id: ItemId,
    items: usize,
    units: u32,
}

impl<P: Payload> Pipeline<P> {
    /// Empty.
    pub fn new(settings: Settings) -> Self {
        Self {
            stock: Stock::new(&settings),
            in_flight: InFlight::new(),
            destinations: Destinations::new(settings.flush_budget, settings.seed),
            recovery: Recovery::default(),
            latest_route: None,
            deliveries: [0; 4],
            suspects: Vec::new(),
            settings,
        }
    }

    /// What has to be done since this was last asked.
    #[must_use]
    pub fn take_actions(&mut self) -> Vec<Action<P>> {
        std::mem::take(&mut self.stock.actions)
    }

    /// A client's data has come.
    pub fn accept(&mut self, route: &Arc<Route>, payload: P, now: Now) {
        self.stock.ledger.accepted += u64::from(payload.units());
        self.latest_route = Some(Arc::clone(route));
        let item = self.stock.new_item(payload, History::default(), now);
        if self.settings.enabled {
            self.stock.take_in(route, item);
            self.keep_set_aside();
        } else {
            self.stock.give_up_unstored(item, DropReason::Disabled);
        }
    }

    /// This is a copy, or will never be copied. What it shares with other copies is given up.
    pub fn restored(&mut self) {
        if std::mem::take(&mut self.stock.to_be_copied) {
            let items: Vec<_> = self.stock.buffer.drain().collect();
            self.stock.drop_taken(&items, DropReason::Snapshot);
        }
    }

    /// A client's request was not taken.
    pub fn refused_client(&mut self, reason: Reason, bytes: u64) {
        self.stock.ledger.refusals.add(reason, bytes);
    }

    /// The spool does not have this item.
    pub fn not_stored(&mut self, id: ItemId) {
        if self.recovery.holds(id) {
            return self.neither_stored_nor_held(id);
        }
        self.stock.buffer.change(id, |item| item.on_disk = false);
        self.in_flight.change(id, |item| item.on_disk = false);
    }

    /// Starts what may be sent of what is due.
    pub fn pump(&mut self, due: Due, now: Now) {
        if due == Due::Nothing || self.stock.to_be_copied {
            return;
        }
        let lanes = self.stock.buffer.lanes();
        let routes: Vec<_> = lanes.map(|lane| Arc::clone(lane.route())).collect();
        for route in routes {
            self.start_one(Destination::Langfuse, &route, due, now);
        }
    }

    fn start_one(&mut self, to: Destination, route: &Arc<Route>, due: Due, now: Now) {
        match self.destinations.to(to).permit(route, now) {
            Permit::Send
                if self.in_flight.has_room_for(to, route) && self.is_due(to, route, due, now) =>
            {
                self.export(to, route, now);
            }
            Permit::Probe if !self.in_flight.is_probing(to) => {
                self.destinations.to_mut(to).probing(route);
                self.stock.ledger.probes += 1;
                self.in_flight.probe(to, route, now);
                self.stock.actions.push(Action::Probe {
                    destination: to,
                    route: Arc::clone(route),
                });
            }
            _ => {}
        }
    }

    fn is_due(&self, to: Destination, route: &Arc<Route>, due: Due, now: Now) -> bool {
        let Some(lane) = self.stock.buffer.lane(route) else {
            return false;
        };
        match due {
            Due::Nothing => false,
            Due::Everything => true,
            Due::Ripe { age, before } => {
                let old =
                    |head: &Item<P>| head.origin < before || now.since(head.accepted_at) >= age;
                self.stock.buffer.has_many_routes()
                    || lane.fills(self.destinations.to(to).limits(route, now))
                    || lane.head().is_some_and(old)
            }
        }
    }

    /// Sends what fits in one request; what is too large for any is cut first.
    fn export(&mut self, to: Destination, route: &Arc<Route>, now: Now) {
        let delivery = self.destinations.to(to);
        let size_limit = delivery.size_limit(route, now);
        let limits = delivery.limits(route, now);
        let too_much = |head: &Item<P>| {
            let pieces = head.history.pieces.unwrap_or(u32::MAX);
            let units = head.payload.units();
            units > 1 && (units > pieces || head.payload.request_bytes() > size_limit)
        };
        if let Some(item) = self.stock.buffer.take_head_if(route, too_much) {
            let part_bytes = part_bytes(&item).min(size_limit);
            return self.cut_up(route, item, part_bytes, DropReason::TooLarge);
        }
        let Some(batch) = self.stock.buffer.take(route, limits) else {
            return;
        };
        self.stock.ledger.requests += 1;
        self.stock.ledger.maybe_doubled += maybe_doubled(&batch);
        self.destinations.to_mut(to).sending();
        self.stock.mark_sent(&batch.items);
        let id = self.in_flight.export(to, batch.clone(), now);
        self.stock.actions.push(Action::Export {
            id,
            destination: to,
            batch,
        });
    }

    fn cut_up(
        &mut self,
        route: &Arc<Route>,
        item: Item<P>,
        part_bytes: usize,
        otherwise: DropReason,
    ) {
        self.stock.actions.push(Action::Cut {
            id: item.id,
            payload: item.payload.clone(),
            part_bytes: part_bytes.max(1),
        });
        let route = Arc::clone(route);
        self.in_flight.cut(Cutting {
            route,
            item,
            otherwise,
        });
    }

    /// Stops waiting for answers that no longer come.
    pub fn abort_overdue(&mut self, patience: &Patience, now: Now) {
        let mut aborts = self.in_flight.abort_overdue(patience, now);
        self.stock.actions.append(&mut aborts);
    }

    /// Whether something unsent or unanswered may be settled `within` this time.
    pub fn has_hope(&self, within: Duration, now: Now) -> bool {
        let langfuse = self.destinations.to(Destination::Langfuse);
        let may_be_sent = |lane: &Lane<P>| langfuse.has_hope(lane.route(), within, now);
        !self.in_flight.is_empty() || self.stock.buffer.lanes().any(may_be_sent)
    }

    /// What may be had of Langfuse within this time.
    pub fn hope(&self, within: Duration, now: Now) -> Hope {
        if within.is_zero() {
            return Hope::None;
        }
        let langfuse = self.destinations.to(Destination::Langfuse);
        if self.is_settled() {
            let hopeless = |route: &Arc<Route>| !langfuse.has_hope(route, within, now);
            let latest = self.latest_route.as_ref();
            return if latest.is_some_and(hopeless) {
                Hope::None
            } else {
                Hope::Idle
            };
        }
        let may_go = |lane: &Lane<P>| {
            let permit = langfuse.permit(lane.route(), now);
            matches!(permit, Permit::Send | Permit::Keys)
        };
        if !self.has_hope(within, now) {
            Hope::None
        } else if !self.in_flight.is_empty() || self.stock.buffer.lanes().any(may_go) {
            Hope::Unsent
        } else {
            Hope::Probe
        }
    }

    /// What of the flush budget a hold may still take.
    pub fn budget(&self, now: Now) -> Duration {
        self.destinations.to(Destination::Langfuse).budget(now)
    }

    /// The sandbox is released after a hold, and something was not settled.
    pub fn held_in_vain(&mut self, held: Duration, now: Now) {
        let unanswered = self.in_flight.awaits_answers();
        self.delivery().held_in_vain(held, unanswered, now);
    }

    /// The earliest moment at which [`Self::pump`] or [`Self::abort_overdue`] may have something to do.
    pub fn wake_in(&self, due: Due, patience: &Patience, now: Now) -> Option<Duration> {
        let to = Destination::Langfuse;
        let lanes = self.stock.buffer.lanes().filter_map(|lane| {
            let age = match due {
                Due::Nothing => return None,
                Due::Everything => Duration::ZERO,
                Due::Ripe { age, .. } => age,
            };
            match self.destinations.to(to).permit(lane.route(), now) {
                // A probe is asked for as soon as it may be, so that its answer is there when the data is ripe.
                Permit::Wait(left) => Some(left),
                Permit::Send if self.in_flight.has_room_for(to, lane.route()) => {
                    Some(Timer::new(lane.head()?.accepted_at, age).left(now))
                }
                // An answer comes first, and then there is an event anyway.
                Permit::Send | Permit::Probe | Permit::Answer | Permit::Keys => None,
            }
        });
        let waits = self
            .in_flight
            .wake_in(patience, now)
            .into_iter()
            .chain(lanes);
        waits.filter(|left| !left.is_zero()).min()
    }

    /// The process ends: whatever is left stays in the spool, or is given up.
    pub fn finish(&mut self) {
        let items = self.in_flight.drain().chain(self.stock.buffer.drain());
        let (on_disk, lost): (Vec<_>, Vec<_>) = items.partition(|item| item.on_disk);
        let ledger = &mut self.stock.ledger;
        ledger.spooled += units_of(&on_disk) + std::mem::take(&mut ledger.on_disk);
        self.stock.give_up(&lost, DropReason::Exit);
    }

    /// A passed-through request has come to its end.
    pub fn passed_through(&mut self, fact: Fact, now: Now) {
        self.delivery().passed_through(fact, now);
    }

    /// What Langfuse has shown of itself.
    pub fn delivery(&mut self) -> &mut Delivery {
        self.destinations.to_mut(Destination::Langfuse)
    }

    /// Whether Langfuse is known to be bad.
    pub fn is_bad(&self, now: Now) -> bool {
        self.destinations.to(Destination::Langfuse).is_bad(now)
    }

    /// The name that the next item will get.
    pub fn next_item(&self) -> ItemId {
        self.stock.next_item()
    }

    /// When the oldest waiting item was accepted.
    pub fn oldest(&self) -> Option<Now> {
        let heads = self.stock.buffer.lanes().filter_map(|lane| lane.head());
        heads
            .min_by_key(|head| head.origin)
            .map(|head| head.accepted_at)
    }

    /// Whether everything accepted has come to its end.
    pub fn is_settled(&self) -> bool {
        self.stock.buffer.is_empty() && self.in_flight.is_empty()
    }

    /// The books.
    pub fn ledger(&self) -> &Ledger {
        &self.stock.ledger
    }

    /// Units in memory: waiting, or on their way.
    pub fn held_units(&self) -> u64 {
        self.stock.buffer.waiting_units() + self.in_flight.units()
    }

    /// Bytes charged to the buffer.
    pub fn held_bytes(&self) -> usize {
        self.stock.buffer.held_bytes()
    }

    fn delivered_by(&self, route: &Route) -> Deliveries {
        Deliveries {
            same_door: self.deliveries[route.door as usize],
            all: self.deliveries.iter().sum(),
        }
    }
}

/// How large a part may be that has no more units than one with this item's history may have.
fn part_bytes<P: Payload>(item: &Item<P>) -> usize {
    let (units, bytes) = (item.payload.units(), item.payload.request_bytes());
    match item.history.pieces {
        Some(pieces) if pieces < units => {
            let share = bytes as u64 * u64::from(pieces) / u64::from(units);
            usize::try_from(share).unwrap_or(bytes)
        }
        _ => bytes,
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
