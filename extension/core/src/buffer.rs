//! What was accepted and not yet delivered: one lane per route, bounded in bytes over all of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::route::{RequestLimits, Route};
use crate::time::Now;

/// The body of one client request, as the buffer sees it: something with a size.
/// Cloning must be cheap (a reference count), because a copy is lent to the exporter while the buffer keeps its own.
pub trait Payload: Clone {
    /// Bytes of memory that it occupies.
    fn stored_bytes(&self) -> usize;
    /// Bytes that it adds to a request before compression.
    fn request_bytes(&self) -> usize;
    /// Spans, events or scores in it.
    fn units(&self) -> u32;
    /// Whether it must share no request: Langfuse answers some forms well and later loses everything that came in the
    /// same request.
    fn travels_alone(&self) -> bool {
        false
    }
}

/// Names an item for as long as the process lives; a later item has a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ItemId(pub u64);

/// The name of the first item that this process accepts. Smaller ones are records that earlier processes left.
pub const FIRST_ACCEPTED: ItemId = ItemId(1 << 32);

/// One client request on its way.
#[derive(Clone, Debug)]
pub struct Item<P> {
    /// Its name.
    pub id: ItemId,
    /// The name of what its client sent, of which it may be a part.
    pub origin: ItemId,
    /// Its body.
    pub payload: P,
    /// When it was accepted.
    pub accepted_at: Now,
    /// How its sends have gone so far.
    pub history: History,
    /// Whether the spool has it.
    pub on_disk: bool,
}

/// How the sends of an item have gone.
#[derive(Clone, Copy, Debug, Default)]
pub struct History {
    /// Sends whose outcome is unknown.
    pub ambiguous_sends: u32,
    /// Sends that failed, the ambiguous ones included.
    pub failures: u32,
    /// Requests delivered by the time of its latest failure: more of them at the next one put the blame on this item.
    pub seen: Deliveries,
    /// It lets all others go first, and shares no request with them.
    pub goes_last: bool,
    /// How many items may be in a request with it, because a larger one was refused for one of them.
    pub company: Option<usize>,
    /// How many units it may have, and a request with it, because a larger one was not answered for one of them.
    pub pieces: Option<u32>,
}

/// Requests that Langfuse took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deliveries {
    /// At the same endpoint.
    pub same_door: u64,
    /// At any.
    pub all: u64,
}

impl History {
    /// A request of so many items and units was not answered, though the host is well, so it is one of them that it does
    /// not bear: the next one is much smaller, and the one after that is of one unit alone. Smaller steps would send
    /// more of them again although they may have arrived.
    pub fn narrow(&mut self, items: usize, units: u32) {
        if self.ambiguous_sends > 1 {
            self.company = Some(1);
            self.pieces = Some(1);
        } else if items > 1 {
            self.company = Some((items / NARROWER).max(1));
        } else {
            self.pieces = Some((units / NARROWER_UNITS).max(1));
        }
    }

    /// Its request of `items` was refused for one of them: the next one has half as many.
    pub fn halve_company(&mut self, items: usize) {
        self.company = Some((items / 2).max(1));
    }
}

/// Items of one route, taken out together to become one request.
#[derive(Clone, Debug)]
pub struct Batch<P> {
    /// Where they go.
    pub route: Arc<Route>,
    /// The items, in the order in which they were accepted.
    pub items: Vec<Item<P>>,
}

impl<P: Payload> Batch<P> {
    /// Bytes of the request before compression.
    pub fn request_bytes(&self) -> usize {
        self.items.iter().map(|i| i.payload.request_bytes()).sum()
    }

    /// Spans, events or scores in it.
    pub fn units(&self) -> u64 {
        units_of(&self.items)
    }
}

/// Units of several items.
pub fn units_of<P: Payload>(items: &[Item<P>]) -> u64 {
    items.iter().map(|i| u64::from(i.payload.units())).sum()
}

/// A request that was not answered is followed by one of so much fewer items, or units.
const NARROWER: usize = 8;
const NARROWER_UNITS: u32 = 8;

/// How many different routes may wait for company; a real function has one or two. With more of them all are due.
pub const MAX_ROUTES: usize = 64;

/// Bytes charged for an item beside its payload, so that many tiny ones are bounded too.
pub const ITEM_OVERHEAD_BYTES: usize = 256;

/// The items of one route that wait to be sent.
#[derive(Debug)]
pub struct Lane<P> {
    route: Arc<Route>,
    items: BTreeMap<Place, Item<P>>,
    request_bytes: usize,
    units: u64,
}

/// Where an item stands in its lane: behind all others or not, and then by age. Parts stand where the whole stood.
type Place = (bool, ItemId, ItemId);

/// An item is larger than the whole buffer, or all the rest of the buffer is on its way to Langfuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// A first-in-first-out store bounded by bytes; what is lent to the exporter still counts.
#[derive(Debug)]
pub struct Buffer<P> {
    /// By whose turn it is.
    lanes: BTreeMap<u64, Lane<P>>,
    turns: HashMap<Arc<Route>, u64>,
    next_turn: u64,
    waiting_bytes: usize,
    held_bytes: usize,
    limit_bytes: usize,
}

impl<P: Payload> Buffer<P> {
    /// Holds at most `limit_bytes`, [`ITEM_OVERHEAD_BYTES`] for each item included.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            lanes: BTreeMap::new(),
            turns: HashMap::new(),
            next_turn: 0,
            waiting_bytes: 0,
            held_bytes: 0,
            limit_bytes,
        }
    }

    /// Takes an item in, and gives back the oldest waiting ones that had to make room for it.
    ///
    /// # Errors
    /// When there can be no room for it.
    pub fn admit(&mut self, route: &Arc<Route>, item: Item<P>) -> Result<Vec<Item<P>>, NoRoom> {
        let needed = cost(&item);
        let lent = self.held_bytes - self.waiting_bytes;
        if lent.saturating_add(needed) > self.limit_bytes {
            return Err(NoRoom);
        }
        let mut evicted = Vec::new();
        while self.held_bytes + needed > self.limit_bytes {
            evicted.push(self.evict_oldest().ok_or(NoRoom)?);
        }
        self.held_bytes += needed;
        self.insert(route, item);
        Ok(evicted)
    }

    /// Whether an item fits without any other having to make room.
    pub fn has_room(&self, item: &Item<P>) -> bool {
        self.held_bytes.saturating_add(cost(item)) <= self.limit_bytes
    }

    /// Whether an item would fit if nothing else were held.
    pub fn could_hold(&self, item: &Item<P>) -> bool {
        cost(item) <= self.limit_bytes
    }

    /// The lanes that have something waiting, in turn.
    pub fn lanes(&self) -> impl Iterator<Item = &Lane<P>> {
        self.lanes.values()
    }

    /// The lane of this route.
    pub fn lane(&self, route: &Arc<Route>) -> Option<&Lane<P>> {
        self.lanes.get(self.turns.get(route)?)
    }

    /// Whether so many routes wait that none of them gets company.
    pub fn has_many_routes(&self) -> bool {
        self.lanes.len() > MAX_ROUTES
    }

    /// Takes out what fits in one request. The bytes stay charged until [`Self::settle`] or [`Self::put_back`].
    /// What is left on this route lets all other routes go first.
    pub fn take(&mut self, route: &Arc<Route>, limits: RequestLimits) -> Option<Batch<P>> {
        let mut lane = self.lanes.remove(&self.turns.remove(route)?)?;
        let items = lane.take(limits);
        self.waiting_bytes -= items.iter().map(cost).sum::<usize>();
        if !lane.items.is_empty() {
            self.add_lane(lane);
        }
        let route = Arc::clone(route);
        (!items.is_empty()).then_some(Batch { route, items })
    }

    /// Takes out the item at the head of this route if it is such a one. Its bytes stay charged too.
    pub fn take_head_if(
        &mut self,
        route: &Arc<Route>,
        is_such: impl FnOnce(&Item<P>) -> bool,
    ) -> Option<Item<P>> {
        let turn = *self.turns.get(route)?;
        let lane = self.lanes.get_mut(&turn)?;
        let (place, head) = lane.items.first_key_value()?;
        if !is_such(head) {
            return None;
        }
        let place = *place;
        self.remove(turn, place)
    }

    /// Lets go of an item that was taken out and is done with.
    pub fn settle(&mut self, item: &Item<P>) {
        self.held_bytes -= cost(item);
    }

    /// Puts items that were taken out back to where they stood, before all that were accepted later.
    pub fn put_back(&mut self, route: &Arc<Route>, items: impl IntoIterator<Item = Item<P>>) {
        for item in items {
            self.insert(route, item);
        }
    }

    /// Replaces an item that was taken out by its parts. Gives back the oldest waiting ones that had to make room,
    /// because two items cost more than one.
    pub fn put_back_parts(
        &mut self,
        route: &Arc<Route>,
        item: &Item<P>,
        parts: Vec<Item<P>>,
    ) -> Vec<Item<P>> {
        self.held_bytes -= cost(item);
        self.held_bytes += parts.iter().map(cost).sum::<usize>();
        self.put_back(route, parts);
        let mut evicted = Vec::new();
        while self.held_bytes > self.limit_bytes {
            let Some(item) = self.evict_oldest() else {
                break;
            };
            evicted.push(item);
        }
        evicted
    }

    /// Changes the waiting item of this name.
    pub fn change(&mut self, id: ItemId, change: impl FnOnce(&mut Item<P>)) {
        let places = [(false, id, id), (true, id, id)];
        let mut lanes = self.lanes.values_mut();
        let whole = lanes.find_map(|lane| {
            let place = places.iter().find(|place| lane.items.contains_key(place))?;
            lane.items.get_mut(place)
        });
        if let Some(item) = whole {
            return change(item);
        }
        let lanes = self.lanes.values_mut();
        let mut items = lanes.flat_map(|lane| lane.items.values_mut());
        if let Some(part) = items.find(|item| item.id == id) {
            change(part);
        }
    }

    /// Takes out everything that waits, for the end of the process.
    pub fn drain(&mut self) -> impl Iterator<Item = Item<P>> {
        self.turns.clear();
        self.waiting_bytes = 0;
        let lanes = std::mem::take(&mut self.lanes);
        lanes
            .into_values()
            .flat_map(|lane| lane.items.into_values())
    }

    /// Whether nothing waits; what is lent to the exporter does not wait.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Units that wait.
    pub fn waiting_units(&self) -> u64 {
        self.lanes.values().map(|lane| lane.units).sum()
    }

    /// Bytes charged, waiting or lent.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn insert(&mut self, route: &Arc<Route>, item: Item<P>) {
        self.waiting_bytes += cost(&item);
        let turn = match self.turns.get(route) {
            Some(turn) => *turn,
            None => self.add_lane(Lane::new(Arc::clone(route))),
        };
        if let Some(lane) = self.lanes.get_mut(&turn) {
            lane.insert(item);
        }
    }

    /// Its turn comes after that of all others.
    fn add_lane(&mut self, lane: Lane<P>) -> u64 {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.turns.insert(Arc::clone(&lane.route), turn);
        self.lanes.insert(turn, lane);
        turn
    }

    fn remove(&mut self, turn: u64, place: Place) -> Option<Item<P>> {
        let lane = self.lanes.get_mut(&turn)?;
        let item = lane.remove(place)?;
        self.waiting_bytes -= cost(&item);
        if lane.items.is_empty()
            && let Some(lane) = self.lanes.remove(&turn)
        {
            self.turns.remove(&lane.route);
        }
        Some(item)
    }

    fn evict_oldest(&mut self) -> Option<Item<P>> {
        let oldest = |(turn, lane): (&u64, &Lane<P>)| Some((lane.oldest()?, *turn));
        let heads = self.lanes.iter().filter_map(oldest);
        let (place, turn) = heads.min_by_key(|((_, origin, id), _)| (*origin, *id))?;
        let item = self.remove(turn, place)?;
        self.held_bytes -= cost(&item);
        Some(item)
    }
}

impl<P: Payload> Lane<P> {
    fn new(route: Arc<Route>) -> Self {
        Self {
            route,
            items: BTreeMap::new(),
            request_bytes: 0,
            units: 0,
        }
    }

    /// Where its items go.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The item at the head of the line.
    pub fn head(&self) -> Option<&Item<P>> {
        self.items.values().next()
    }

    /// Whether a request is full with what waits here.
    pub fn fills(&self, limits: RequestLimits) -> bool {
        self.request_bytes >= limits.bytes
            || self.units >= u64::from(limits.units)
            || self.items.len() >= limits.items
    }

    /// Where its oldest item stands.
    fn oldest(&self) -> Option<Place> {
        let last = self.items.range((true, ItemId(0), ItemId(0))..).next();
        let heads = [self.items.first_key_value(), last];
        let places = heads.into_iter().flatten().map(|(place, _)| *place);
        places.min_by_key(|(_, origin, id)| (*origin, *id))
    }

    fn take(&mut self, limits: RequestLimits) -> Vec<Item<P>> {
        let mut taken: Vec<Item<P>> = Vec::new();
        let mut limits = limits;
        let (mut bytes, mut units) = (0_usize, 0_u32);
        while let Some((place, next)) = self.items.first_key_value() {
            bytes = bytes.saturating_add(next.payload.request_bytes());
            units = units.saturating_add(next.payload.units());
            limits.items = limits.items.min(next.history.company.unwrap_or(usize::MAX));
            limits.units = limits.units.min(next.history.pieces.unwrap_or(u32::MAX));
            let joins = taken.first().is_none_or(|first| {
                first.history.goes_last == place.0
                    && !first.payload.travels_alone()
                    && !next.payload.travels_alone()
                    && bytes <= limits.bytes
                    && units <= limits.units
                    && taken.len() < limits.items
            });
            if !joins {
                break;
            }
            let place = *place;
            taken.extend(self.remove(place));
        }
        taken
    }

    fn insert(&mut self, item: Item<P>) {
        self.request_bytes += item.payload.request_bytes();
        self.units += u64::from(item.payload.units());
        let place = (item.history.goes_last, item.origin, item.id);
        self.items.insert(place, item);
    }

    fn remove(&mut self, place: Place) -> Option<Item<P>> {
        let item = self.items.remove(&place)?;
        self.request_bytes -= item.payload.request_bytes();
        self.units -= u64::from(item.payload.units());
        Some(item)
    }
}

fn cost<P: Payload>(item: &Item<P>) -> usize {
    item.payload
        .stored_bytes()
        .saturating_add(ITEM_OVERHEAD_BYTES)
}
