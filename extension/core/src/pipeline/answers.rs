//! What an answer of Langfuse means for the items that it concerns: an end, another try, or a smaller one.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Cutting, InFlight, MAX_AMBIGUOUS_SENDS, MAX_FAILURES, PATIENCE_FAILURES, Pipeline,
    SMALLEST_REQUEST_LIMIT_BYTES,
};
use crate::buffer::{Batch, Deliveries, Item, ItemId, Payload};
use crate::delivery::fact::Fact;
use crate::delivery::{Answer, Outcome, meaning};
use crate::ledger::DropReason;
use crate::route::{Destination, Route};
use crate::time::Now;
use crate::{Action, ExportId};

impl<P: Payload> Pipeline<P> {
    /// The answer to a request with data.
    pub fn exported(&mut self, id: ExportId, fact: Fact, now: Now) {
        let outcome = meaning::outcome(fact);
        let Some(batch) = self.answered(id, outcome, now) else {
            return;
        };
        match outcome {
            Outcome::Delivered => self.delivered(&batch),
            Outcome::Refused => self.refused(batch),
            Outcome::TooLarge => self.too_large(batch),
            Outcome::Unauthorized => {
                self.unauthorized(&batch.route, now);
                self.put_back_unsent(batch);
            }
            Outcome::Throttled { .. } => self.put_back_unsent(batch),
            Outcome::NotDelivered { .. } => self.failed(batch, false),
            Outcome::Ambiguous => self.failed(batch, true),
        }
    }

    /// An item that was to be cut has parts, or cannot be cut.
    pub fn cut(&mut self, id: ItemId, parts: Vec<P>) {
        let Some(cutting) = self.cutting.remove(&id) else {
            return;
        };
        let Cutting {
            route,
            item,
            otherwise,
        } = cutting;
        if parts.is_empty() {
            self.drop_taken(&[item], otherwise);
        } else {
            self.replace(&route, &item, parts);
        }
    }

    fn cut_up(
        &mut self,
        route: &Arc<Route>,
        item: Item<P>,
        part_bytes: usize,
        otherwise: DropReason,
    ) {
        if item.payload.units() <= 1 {
            return self.drop_taken(&[item], otherwise);
        }
        self.actions.push(Action::Cut {
            id: item.id,
            payload: item.payload.clone(),
            part_bytes,
        });
        let cutting = Cutting {
            route: Arc::clone(route),
            item,
            otherwise,
        };
        self.cutting.insert(cutting.item.id, cutting);
    }

    fn answered(&mut self, id: ExportId, outcome: Outcome, now: Now) -> Option<Batch<P>> {
        let InFlight { batch, wait } = self.in_flight.remove(&id)?;
        let answer = self.answer(outcome, wait.since, now);
        self.delivery.sent(&batch.route, answer, now);
        Some(batch)
    }

    /// The answer to the probe.
    pub fn probed(&mut self, destination: Destination, fact: Fact, now: Now) {
        if let Some(probe) = self.probes.remove(&destination) {
            let outcome = meaning::outcome(fact);
            let answer = self.answer(outcome, probe.wait.since, now);
            self.delivery.probed(&probe.route, answer, now);
            if outcome == Outcome::Unauthorized {
                self.unauthorized(&probe.route, now);
            }
        }
    }

    fn answer(&self, outcome: Outcome, since: Now, now: Now) -> Answer {
        Answer {
            outcome,
            in_time: now.since(since) <= self.settings.flush_budget,
            cut: now.frozen_since(since) >= LONG_FREEZE,
        }
    }

    fn unauthorized(&mut self, route: &Route, now: Now) {
        if self.delivery.reread_keys(route, now) {
            self.actions.push(Action::RereadKeys);
        }
    }

    fn delivered(&mut self, batch: &Batch<P>) {
        self.deliveries[batch.route.door as usize] += 1;
        self.ledger.delivered += batch.units();
        self.settle(&batch.items);
    }

    /// One bad span makes Langfuse refuse all that shares its request: halves are tried, until it is alone.
    fn refused(&mut self, mut batch: Batch<P>) {
        if batch.items.len() == 1 {
            self.drop_taken(&batch.items, DropReason::Refused);
            return;
        }
        halve_company(&mut batch);
        self.put_back_unsent(batch);
    }

    fn too_large(&mut self, mut batch: Batch<P>) {
        self.learn_limit(&batch);
        if batch.items.len() == 1 {
            let part_bytes = self.limits(&batch.route).bytes;
            for item in batch.items {
                self.cut_up(&batch.route, item, part_bytes, DropReason::TooLarge);
            }
            return;
        }
        halve_company(&mut batch);
        self.put_back_unsent(batch);
    }

    fn learn_limit(&mut self, batch: &Batch<P>) {
        let half = (batch.request_bytes() / 2).max(SMALLEST_REQUEST_LIMIT_BYTES);
        self.request_limit_bytes = self.request_limit_bytes.min(half);
    }

    fn replace(&mut self, route: &Arc<Route>, item: &Item<P>, parts: Vec<P>) {
        let parts = parts.into_iter().map(|payload| {
            let part = self.new_item(payload, item.history, item.accepted_at);
            Item {
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
        self.give_up(&evicted, DropReason::BufferFull);
    }

    /// An outage fails every item alike; one that fails while others go through is to blame itself.
    fn failed(&mut self, batch: Batch<P>, ambiguous: bool) {
        let Batch { route, items } = batch;
        let deliveries = Deliveries {
            same_door: self.deliveries[route.door as usize],
            all: self.deliveries.iter().sum(),
        };
        let together = items.len();
        let mut again = Vec::new();
        for mut item in items {
            let history = &mut item.history;
            history.failures += 1;
            history.ambiguous_sends += u32::from(ambiguous);
            history.goes_last = history.failures >= PATIENCE_FAILURES;
            let others_went_through = history.failures > PATIENCE_FAILURES
                && deliveries.same_door > history.seen.same_door
                || history.failures >= MAX_FAILURES && deliveries.all > history.seen.all;
            history.seen = deliveries;
            if others_went_through {
                history.halve_company(together);
            }
            let to_blame = others_went_through && together == 1;
            if ambiguous && !self.may_resend(&route, &item) {
                self.drop_taken(&[item], DropReason::Ambiguous);
            } else if to_blame {
                self.drop_taken(&[item], DropReason::Failed);
            } else {
                again.push(item);
            }
        }
        if !ambiguous {
            self.note_unsent(&again);
        }
        self.buffer.put_back(&route, again);
    }

    pub(super) fn may_resend(&self, route: &Route, item: &Item<P>) -> bool {
        route.door.resend_is_safe()
            || self.settings.resend_ambiguous && item.history.ambiguous_sends < MAX_AMBIGUOUS_SENDS
    }

    fn put_back_unsent(&mut self, batch: Batch<P>) {
        self.note_unsent(&batch.items);
        self.buffer.put_back(&batch.route, batch.items);
    }

    /// This send surely did not arrive; an earlier one may have.
    fn note_unsent(&mut self, items: &[Item<P>]) {
        self.note_on_disk(items, |ids| Action::MarkUnsent { ids });
    }
}

fn halve_company<P>(batch: &mut Batch<P>) {
    let together = batch.items.len();
    for item in &mut batch.items {
        item.history.halve_company(together);
    }
}

/// A freeze long enough for a connection to have died in it.
const LONG_FREEZE: Duration = Duration::from_secs(1);
