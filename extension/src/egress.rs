//! What may leave, and what is added: the one stage between buffer and destination.
//!
//! A payload passes it once, aside, before it is put together with others. It works on the bytes as they came: what no
//! rule touches leaves byte for byte, and the same rules hold for protobuf, JSON and events. Filter and sampling are of
//! one destination; masking, lengths and what is added are the same for all. Masking fails closed: a value that cannot be
//! searched goes without its content. Everything else fails open.

mod counts;
mod edits;
mod enrich;
mod events;
mod filter;
mod json;
mod mask;
mod otlp_json;
mod otlp_proto;
mod plan;
mod sample;
mod texts;
mod truncate;
mod wire;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub use counts::Counts;
pub use enrich::{Attribute, Enrich, INVOCATIONS_LIMIT, Invocation, Value};
pub use filter::{Filter, Spans, TREE_LIMIT_SPANS, TREE_WAIT};
pub use mask::{Detector, MASKED, Mask, STRIPPED};
pub use sample::{NoRatio, Sample};
pub use truncate::MAX_ATTRIBUTE_LEAST_BYTES;

use crate::payload::Kind;
use filter::Tree;
use plan::{Head, Plan, Standing, held_back};
use texts::Texts;

/// How deep values may be nested within an attribute, lists and objects counted. What lies deeper is stripped where
/// anything is masked, and left alone elsewhere.
pub const DEPTH_LIMIT_VALUES: usize = 32;
/// The attribute of a resource that names the language of its SDK.
const SDK_LANGUAGE: &str = "telemetry.sdk.language";

/// What the stage does.
#[derive(Debug, Default)]
pub struct Rules {
    /// Which spans leave.
    pub filter: Filter,
    /// Which traces leave.
    pub sample: Option<Sample>,
    /// What is masked.
    pub mask: Mask,
    /// The longest a value may be, in bytes; at least [`MAX_ATTRIBUTE_LEAST_BYTES`].
    pub max_attribute_bytes: Option<usize>,
    /// What is added.
    pub enrich: Enrich,
}

impl Rules {
    /// Whether bodies need not pass at all.
    pub fn are_off(&self) -> bool {
        self.filter.is_off()
            && self.sample.is_none()
            && !self.mask.is_configured()
            && self.max_attribute_bytes.is_none()
            && self.enrich.is_off()
    }
}

/// The stage: its rules, and what it remembers between bodies.
#[derive(Debug)]
pub struct Stage {
    rules: Rules,
    enrich: Mutex<Enrich>,
    tree: Mutex<Tree>,
}

/// What became of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    /// The body as it leaves; `None`: as it came.
    pub body: Option<Vec<u8>>,
    /// What was done to it.
    pub counts: Counts,
}

impl Stage {
    /// A stage that has seen nothing yet.
    pub fn new(mut rules: Rules) -> Self {
        Self {
            enrich: Mutex::new(std::mem::take(&mut rules.enrich)),
            rules,
            tree: Mutex::default(),
        }
    }

    /// Whether anything is masked beside Langfuse's own secret keys.
    pub fn masks(&self) -> bool {
        self.rules.mask.is_configured()
    }

    /// An invocation begins, told at `now`. The first one was a cold start.
    pub fn invocation_began(&self, request_id: &str, deadline_epoch_ms: u64, now: Duration) {
        let mut enrich = self.enrich.lock().unwrap_or_else(PoisonError::into_inner);
        let cold_start = enrich.knows_no_invocation();
        enrich.began(Invocation::of(
            request_id,
            deadline_epoch_ms,
            now,
            cold_start,
        ));
    }

    /// Decides on the units of a valid, uncompressed body, and rewrites it. It may leave without any unit.
    ///
    /// `now` is the time since the Unix epoch. Takes a few milliseconds for a megabyte, and does not give way meanwhile.
    pub fn pass(&self, kind: Kind, body: &[u8], now: Duration) -> Left {
        let (plan, mut counts) = match kind {
            Kind::OtlpProtobuf | Kind::OtlpJson => self.plan_spans(kind, body, now),
            Kind::Ingestion | Kind::Scores | Kind::Score => self.plan_events(kind, body),
        };
        if plan.keeps_none() && kind == Kind::Score {
            let body = Some(Vec::new());
            return Left { body, counts };
        }
        let enrich = self.enrich();
        let mut texts = Texts::new(&self.rules.mask, self.rules.max_attribute_bytes);
        let body = match kind {
            Kind::OtlpProtobuf => otlp_proto::rewritten(body, plan, &enrich, &mut texts),
            Kind::OtlpJson => otlp_json::rewritten(body, plan, &enrich, &mut texts),
            Kind::Ingestion | Kind::Scores | Kind::Score => {
                events::rewritten(kind, body, plan, &enrich, &mut texts)
            }
        };
        counts.add(&texts.counts);
        Left { body, counts }
    }

    fn plan_spans(&self, kind: Kind, body: &[u8], now: Duration) -> (Plan, Counts) {
        if self.rules.filter.is_off() && self.rules.sample.is_none() {
            return (Plan::everything(), Counts::default());
        }
        let heads = match kind {
            Kind::OtlpProtobuf => otlp_proto::heads(body, &self.rules.filter),
            _ => otlp_json::heads(body, &self.rules.filter),
        };
        self.decide(&heads, now)
    }

    fn decide(&self, heads: &[Head], now: Duration) -> (Plan, Counts) {
        let mut counts = Counts::default();
        let sampled: Vec<bool> = heads
            .iter()
            .map(|head| {
                self.rules
                    .sample
                    .is_none_or(|sample| sample.keeps(&head.trace))
            })
            .collect();
        let candidates: Vec<Head> = heads
            .iter()
            .zip(&sampled)
            .filter(|(_, sampled)| **sampled)
            .map(|(head, _)| head.clone())
            .collect();
        let kept = if self.rules.filter.spans == Spans::LlmTree {
            let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
            let (kept, late) = tree.decide(&candidates, now);
            counts.late = late;
            kept
        } else {
            candidates
                .iter()
                .map(|head| head.standing == Standing::Kept)
                .collect()
        };
        counts.sampled_out = held_back(&sampled);
        counts.filtered = held_back(&kept);
        let mut kept = kept.into_iter();
        let keep = sampled
            .into_iter()
            .map(|sampled| sampled && kept.next().unwrap_or(true))
            .collect();
        (Plan::new(keep), counts)
    }

    fn plan_events(&self, kind: Kind, body: &[u8]) -> (Plan, Counts) {
        let Some(sample) = self.rules.sample else {
            return (Plan::everything(), Counts::default());
        };
        let plan = events::sampled(kind, body, sample);
        let counts = Counts {
            sampled_out: plan.held_back(),
            ..Counts::default()
        };
        (plan, counts)
    }

    fn enrich(&self) -> Enrich {
        self.enrich
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
