//! What of a payload leaves, once the stage before its destination has said so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use langfuse_extension_core::ledger::HeldBack;

use super::encoding::{self, Declared};
use super::{Encoding, Limits, Payload};
use crate::egress::{Counts, Left, Stage};

/// What a payload leaves as; all copies of it share that. `None` within: as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leaving(Arc<OnceLock<Option<Box<Payload>>>>);

impl Leaving {
    /// Of one that has passed already.
    pub(super) fn as_it_is() -> Self {
        let leaving = Self::default();
        let _ = leaving.0.set(None);
        leaving
    }
}

/// What the stage made of a payload.
#[derive(Debug)]
pub struct Passed {
    payload: Payload,
    leaves_as: Option<Box<Payload>>,
    counts: Counts,
    not_masked: u32,
}

impl Passed {
    /// From here on the payload and all copies of it are what leaves. Returns what was done to it; `None`: it has passed
    /// before, and is counted.
    pub fn settle(self) -> Option<(Counts, HeldBack)> {
        self.payload.leaving.0.set(self.leaves_as).ok()?;
        let held_back = HeldBack {
            filtered: self.counts.filtered.into(),
            sampled_out: self.counts.sampled_out.into(),
            not_masked: self.not_masked.into(),
        };
        Some((self.counts, held_back))
    }
}

impl Payload {
    /// Whether the stage has said what of it leaves.
    pub fn has_passed(&self) -> bool {
        self.leaving.0.get().is_some()
    }

    /// It, or what it leaves as.
    pub(super) fn leaving(&self) -> &Self {
        match self.leaving.0.get() {
            Some(Some(leaving)) => leaving,
            _ => self,
        }
    }

    /// Lets `stage` say what of it leaves. A fault there holds all of it back where something is masked, and nothing
    /// elsewhere. Takes a few milliseconds for a megabyte, and does not give way meanwhile.
    pub fn pass(self, stage: &Stage, now: Duration) -> Passed {
        let passed = catch_unwind(AssertUnwindSafe(|| self.passed(stage, now))).ok();
        if let Some((leaves_as, counts)) = passed.flatten() {
            return Passed {
                payload: self,
                leaves_as: leaves_as.map(Box::new),
                counts,
                not_masked: 0,
            };
        }
        let masks = stage.masks();
        Passed {
            leaves_as: masks.then(|| Box::new(self.without_units())),
            not_masked: if masks { self.units } else { 0 },
            counts: Counts::default(),
            payload: self,
        }
    }

    /// The most memory that [`Payload::pass`] takes: it is inflated, and written anew.
    pub fn bytes_to_pass(&self) -> usize {
        let inflates = self.encoding != Encoding::Identity;
        self.inflated_bytes * if inflates { 3 } else { 2 }
    }

    fn passed(&self, stage: &Stage, now: Duration) -> Option<(Option<Self>, Counts)> {
        let limits = Limits {
            facts_spans: 0,
            inflated_bytes: usize::MAX,
            json_inflated_bytes: usize::MAX,
            memory: None,
        };
        let body = match self.encoding {
            Encoding::Identity => self.body.clone(),
            Encoding::Gzip => {
                encoding::inflated(Declared::Gzip, &self.body, self.inflated_bytes, &limits).ok()?
            }
        };
        let Left { body, counts } = stage.pass(self.kind, &body, now);
        let leaves_as = match body {
            None => None,
            Some(body) if body.is_empty() => Some(self.without_units()),
            Some(body) => Some(Self {
                leaving: Leaving::as_it_is(),
                ..Self::restore(self.kind, Encoding::Identity, body.into(), &limits).ok()?
            }),
        };
        let units = leaves_as.as_ref().map_or(self.units, |it| it.units);
        (units + counts.held_back() == self.units).then_some((leaves_as, counts))
    }

    fn without_units(&self) -> Self {
        Self {
            encoding: Encoding::Identity,
            body: Bytes::new(),
            inflated_bytes: 0,
            units: 0,
            elements: 0..0,
            leaving: Leaving::as_it_is(),
            ..self.clone()
        }
    }
}
