//! What was accepted and not yet delivered: one lane per route, bounded in bytes over all of them.

use std::collections::BTreeMap;
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

/// How many different routes may wait at once; a real function has one or two.
pub const MAX_ROUTES: usize = 64;

/// Bytes charged for an item beside its payload, so that many tiny ones are bounded too.
pub const ITEM_OVERHEAD_BYTES: usize = 256;

/// The items of one route that wait to be sent.
#[derive(Debug)]
pub struct Lane<P> {
    route: Arc<Route>,
    items: BTreeMap<Place, Item<P>>,
    cost_bytes: usize,
    request_bytes: usize,
    units: u64,
}

/// Where an item stands in its lane: behind all others or not, and then by age.
type Place = (bool, ItemId);

/// Why an item was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// It is larger than the whole buffer, or all the rest of the buffer is on its way to Langfuse.
    NoRoom,
    /// [`MAX_ROUTES`] others wait already.
    TooManyRoutes,
}

/// A first-in-first-out store bounded by bytes; what is lent to the exporter still counts.
#[derive(Debug)]
pub struct Buffer<P> {
    lanes: Vec<Lane<P>>,
    held_bytes: usize,
    limit_bytes: usize,
}

impl<P: Payload> Buffer<P> {
    /// Holds at most `limit_bytes`, [`ITEM_OVERHEAD_BYTES`] for each item included.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            lanes: Vec::new(),
            held_bytes: 0,
            limit_bytes,
        }
    }

    /// Takes an item in, and gives back the oldest waiting ones that had to make room for it.
    pub fn admit(
        &mut self,
        route: &Arc<Route>,
        item: Item<P>,
    ) -> Result<Vec<Item<P>>, NotAdmitted> {
        let needed = cost(&item);
        let waiting: usize = self.lanes.iter().map(|lane| lane.cost_bytes).sum();
        if (self.held_bytes - waiting).saturating_add(needed) > self.limit_bytes {
            return Err(NotAdmitted::NoRoom);
        }
        if self.lane(route).is_none() && self.lanes.len() == MAX_ROUTES {
            return Err(NotAdmitted::TooManyRoutes);
        }
        let mut evicted = Vec::new();
        while self.held_bytes + needed > self.limit_bytes {
            match self.evict_oldest() {
                Some(item) => evicted.push(item),
                None => return Err(NotAdmitted::NoRoom),
            }
        }
        self.held_bytes += needed;
        self.lane_mut(route).insert(item);
        Ok(evicted)
    }

    /// Whether an item fits without any other having to make room.
    pub fn has_room(&self, item: &Item<P>) -> bool {
        self.held_bytes.saturating_add(cost(item)) <= self.limit_bytes
    }

    /// The lanes that have something waiting.
    pub fn lanes(&self) -> impl Iterator<Item = &Lane<P>> {
        self.lanes.iter()
    }

    /// Takes out what fits in one request. The bytes stay charged until [`Self::settle`] or [`Self::put_back`].
    /// What is left on this route lets all other routes go first.
    pub fn take(&mut self, route: &Arc<Route>, limits: RequestLimits) -> Option<Batch<P>> {
        let index = self.lanes.iter().position(|lane| lane.route == *route)?;
        let mut lane = self.lanes.remove(index);
        let items = lane.take(limits);
        let route = Arc::clone(&lane.route);
        if !lane.items.is_empty() {
            self.lanes.push(lane);
        }
        (!items.is_empty()).then_some(Batch { route, items })
    }

    /// Lets go of an item that was taken out and is done with.
    pub fn settle(&mut self, item: &Item<P>) {
        self.held_bytes -= cost(item);
    }

    /// Puts items that were taken out back to where they stood, before all that were accepted later.
    pub fn put_back(&mut self, route: &Arc<Route>, items: impl IntoIterator<Item = Item<P>>) {
        for item in items {
            self.lane_mut(route).insert(item);
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

    /// The waiting item of this name.
    pub fn waiting_mut(&mut self, id: ItemId) -> Option<&mut Item<P>> {
        let places = [(false, id), (true, id)];
        let mut lanes = self.lanes.iter_mut();
        lanes.find_map(|lane| {
            let place = places.iter().find(|place| lane.items.contains_key(place))?;
            lane.items.get_mut(place)
        })
    }

    /// Takes out everything that waits, for the end of the process.
    pub fn drain(&mut self) -> Vec<Batch<P>> {
        let lanes = std::mem::take(&mut self.lanes);
        lanes
            .into_iter()
            .map(|lane| Batch {
                route: lane.route,
                items: lane.items.into_values().collect(),
            })
            .collect()
    }

    /// Whether nothing waits; what is lent to the exporter does not wait.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Units that wait.
    pub fn waiting_units(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.units).sum()
    }

    /// Bytes charged, waiting or lent.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn lane(&self, route: &Route) -> Option<&Lane<P>> {
        self.lanes.iter().find(|lane| *lane.route == *route)
    }

    fn lane_mut(&mut self, route: &Arc<Route>) -> &mut Lane<P> {
        let index = self.lanes.iter().position(|lane| lane.route == *route);
        let index = index.unwrap_or_else(|| {
            self.lanes.push(Lane::new(Arc::clone(route)));
            self.lanes.len() - 1
        });
        &mut self.lanes[index]
    }

    fn evict_oldest(&mut self) -> Option<Item<P>> {
        let lane = self.lanes.iter_mut().min_by_key(|lane| lane.oldest())?;
        let place = lane.oldest().map(|(id, goes_last)| (goes_last, id))?;
        let item = lane.remove(place)?;
        self.held_bytes -= cost(&item);
        self.lanes.retain(|lane| !lane.items.is_empty());
        Some(item)
    }
}

impl<P: Payload> Lane<P> {
    fn new(route: Arc<Route>) -> Self {
        Self {
            route,
            items: BTreeMap::new(),
            cost_bytes: 0,
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

    /// The oldest item, and whether it goes last.
    fn oldest(&self) -> Option<(ItemId, bool)> {
        let last = self.items.range((true, ItemId(0))..).next();
        let heads = [self.items.first_key_value(), last];
        heads
            .into_iter()
            .flatten()
            .map(|(place, _)| (place.1, place.0))
            .min()
    }

    fn take(&mut self, limits: RequestLimits) -> Vec<Item<P>> {
        let mut taken: Vec<Item<P>> = Vec::new();
        let (mut bytes, mut units, mut items) = (0_usize, 0_u32, limits.items);
        while let Some((place, next)) = self.items.first_key_value() {
            bytes = bytes.saturating_add(next.payload.request_bytes());
            units = units.saturating_add(next.payload.units());
            items = items.min(next.history.company.unwrap_or(usize::MAX));
            let together = taken
                .first()
                .is_none_or(|first| first.history.goes_last == place.0);
            let fits = bytes <= limits.bytes && units <= limits.units && taken.len() < items;
            let joins = fits && together;
            if !taken.is_empty() && !joins {
                break;
            }
            let place = *place;
            taken.extend(self.remove(place));
        }
        taken
    }

    fn insert(&mut self, item: Item<P>) {
        self.cost_bytes += cost(&item);
        self.request_bytes += item.payload.request_bytes();
        self.units += u64::from(item.payload.units());
        self.items.insert((item.history.goes_last, item.id), item);
    }

    fn remove(&mut self, place: Place) -> Option<Item<P>> {
        let item = self.items.remove(&place)?;
        self.cost_bytes -= cost(&item);
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
