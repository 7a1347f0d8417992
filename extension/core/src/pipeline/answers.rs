//! What an answer means for the items that it concerns: an end, another try, or a smaller one.

use std::sync::Arc;
use std::time::Duration;

use super::{MAX_AMBIGUOUS_SENDS, MAX_FAILURES, PATIENCE_FAILURES, Pipeline, Suspect};
use crate::buffer::{Batch, Item, ItemId, Payload};
use crate::delivery::End;
use crate::delivery::fact::Fact;
use crate::delivery::meaning::{Host, Items, Keys};
use crate::in_flight::{Cutting, Export};
use crate::ledger::{DropReason, HeldBack};
use crate::route::{Destination, Route};
use crate::time::Now;
use crate::{Action, ExportId};

impl<P: Payload> Pipeline<P> {
    /// A request with data has come to its end.
    pub fn exported(&mut self, id: ExportId, fact: Fact, now: Now) {
        let Some(export) = self.in_flight.exported(id) else {
            return;
        };
        if fact == Fact::NothingToSend {
            self.destinations.to_mut(export.destination).not_sent();
            self.stock.nothing_to_send(&export.batch);
            return;
        }
        let end = self.end(fact, export.since(), now);
        let Export {
            destination, batch, ..
        } = export;
        let bytes = batch.request_bytes();
        let delivery = self.destinations.to_mut(destination);
        let meaning = delivery.sent(&batch.route, bytes, end, now);
        if meaning.keys == Keys::Refused {
            self.reread_keys(destination, &batch.route, now);
        }
        match meaning.items {
            Items::Delivered { refused_units } => {
                self.deliveries[batch.route.door as usize] += 1;
                self.stock.delivered(&batch, refused_units);
            }
            Items::Refused { surely } => self.refused(destination, batch, surely, now),
            Items::TooLarge => self.too_large(destination, batch, now),
            Items::Unsent if let Host::Bad { .. } = meaning.host => self.failed(batch, false),
            Items::Unsent => self.put_back_unsent(batch),
            Items::Unknown => {
                if !end.cut {
                    self.suspect(&batch);
                }
                self.failed(batch, true);
            }
        }
    }

    /// Of units that are on their way, some may not leave; their payloads count without them from now on.
    pub fn held_back(&mut self, held_back: HeldBack) {
        self.stock.ledger.filtered += held_back.filtered;
        self.stock.ledger.sampled_out += held_back.sampled_out;
        self.stock
            .drop_units(DropReason::NotMasked, held_back.not_masked);
    }

    /// A probe has come to its end.
    pub fn probed(&mut self, destination: Destination, fact: Fact, now: Now) {
        let Some(probe) = self.in_flight.probed(destination) else {
            return;
        };
        let end = self.end(fact, probe.since(), now);
        let delivery = self.destinations.to_mut(destination);
        let meaning = delivery.probed(&probe.route, end, now);
        if meaning.keys == Keys::Refused {
            self.reread_keys(destination, &probe.route, now);
        }
        let suspects = std::mem::take(&mut self.suspects);
        if meaning.host == Host::Well {
            for Suspect { id, items, units } in suspects {
                let narrow = |item: &mut Item<P>| item.history.narrow(items, units);
                self.stock.buffer.change(id, narrow);
            }
        }
    }

    /// An item that was to be cut has parts, or cannot be cut.
    pub fn cut(&mut self, id: ItemId, parts: Vec<P>) {
        let Some(Cutting {
            route,
            item,
            otherwise,
        }) = self.in_flight.was_cut(id)
        else {
            return;
        };
        if parts.is_empty() {
            self.stock.drop_taken(&[item], otherwise);
        } else {
            self.stock.replace(&route, &item, parts);
            self.keep_set_aside();
        }
    }

    fn end(&self, fact: Fact, since: Now, now: Now) -> End {
        End {
            fact,
            in_time: now.since(since) <= self.settings.flush_budget,
            cut: now.frozen_since(since) >= LONG_FREEZE,
        }
    }

    fn reread_keys(&mut self, destination: Destination, route: &Route, now: Now) {
        let delivery = self.destinations.to_mut(destination);
        if delivery.reread_keys(&route.credential, now) {
            self.stock.actions.push(Action::RereadKeys);
        }
    }

    /// One bad span makes Langfuse refuse all that shares its request: halves are tried, until it is alone.
    fn refused(&mut self, to: Destination, batch: Batch<P>, surely: bool, now: Now) {
        match <[Item<P>; 1]>::try_from(batch.items) {
            Ok([item]) => self.refused_alone(to, &batch.route, item, surely, now),
            Err(items) => self.halve_company(&batch.route, items),
        }
    }

    fn refused_alone(
        &mut self,
        to: Destination,
        route: &Arc<Route>,
        mut item: Item<P>,
        surely: bool,
        now: Now,
    ) {
        let delivery = self.destinations.to_mut(to);
        if delivery.pays_to_cut(route, item.origin) && item.payload.units() > 1 {
            let half = item.payload.request_bytes() / 2;
            self.cut_up(route, item, half, DropReason::Refused);
        } else if surely || delivery.gives_up(route, item.origin, now) {
            self.stock.drop_taken(&[item], DropReason::Refused);
        } else {
            // Another one is to find out whether everything is refused.
            item.history.goes_last = true;
            self.stock.mark_unsent(std::slice::from_ref(&item));
            self.stock.buffer.put_back(route, [item]);
        }
    }

    fn too_large(&mut self, to: Destination, batch: Batch<P>, now: Now) {
        match <[Item<P>; 1]>::try_from(batch.items) {
            Ok([item]) if item.payload.units() > 1 => {
                let limit = self.destinations.to(to).size_limit(&batch.route, now);
                self.cut_up(&batch.route, item, limit, DropReason::TooLarge);
            }
            Ok([item]) => self.stock.drop_taken(&[item], DropReason::TooLarge),
            Err(items) => self.halve_company(&batch.route, items),
        }
    }

    fn halve_company(&mut self, route: &Arc<Route>, mut items: Vec<Item<P>>) {
        let together = items.len();
        for item in &mut items {
            item.history.halve_company(together);
        }
        self.stock.mark_unsent(&items);
        self.stock.buffer.put_back(route, items);
    }

    /// If the host turns out to be well, it was one of these that it did not bear.
    fn suspect(&mut self, batch: &Batch<P>) {
        let items = batch.items.len();
        self.suspects.extend(batch.items.iter().map(|item| Suspect {
            id: item.id,
            items,
            units: item.payload.units(),
        }));
    }

    /// An outage fails every item alike; one that fails while others go through is to blame itself.
    fn failed(&mut self, batch: Batch<P>, ambiguous: bool) {
        let Batch { route, items } = batch;
        let deliveries = self.delivered_by(&route);
        let together = items.len();
        let mut again = Vec::new();
        for mut item in items {
            let history = &mut item.history;
            history.failures += 1;
            history.ambiguous_sends += u32::from(ambiguous);
            history.goes_last = history.failures >= PATIENCE_FAILURES;
            let others_went_through = history.failures > PATIENCE_FAILURES
                && deliveries.same_door > history.seen.same_door;
            let endpoint_is_lost =
                history.failures >= MAX_FAILURES && deliveries.all > history.seen.all;
            history.seen = deliveries;
            if others_went_through || endpoint_is_lost {
                history.halve_company(together);
            }
            let alone = together == 1;
            if ambiguous && !self.may_resend(&route, &item) {
                self.stock.drop_taken(&[item], DropReason::Ambiguous);
            } else if alone && others_went_through && !ambiguous && item.payload.units() > 1 {
                let half = item.payload.request_bytes() / 2;
                self.cut_up(&route, item, half, DropReason::Failed);
            } else if alone && (others_went_through || endpoint_is_lost) {
                self.stock.drop_taken(&[item], DropReason::Failed);
            } else {
                again.push(item);
            }
        }
        if !ambiguous {
            self.stock.mark_unsent(&again);
        }
        self.stock.buffer.put_back(&route, again);
    }

    pub(super) fn may_resend(&self, route: &Route, item: &Item<P>) -> bool {
        route.door.resend_is_safe()
            || self.settings.resend_ambiguous && item.history.ambiguous_sends < MAX_AMBIGUOUS_SENDS
    }

    fn put_back_unsent(&mut self, batch: Batch<P>) {
        self.stock.mark_unsent(&batch.items);
        self.stock.buffer.put_back(&batch.route, batch.items);
    }
}

/// A freeze long enough for a connection to have died in it.
const LONG_FREEZE: Duration = Duration::from_secs(1);
