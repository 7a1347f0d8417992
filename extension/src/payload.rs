//! The bytes of client bodies: what is accepted, what is refused and why, and how accepted bodies become one request.
//!
//! Nothing here materialises a request. A body is validated on the wire and kept as it came, so that whatever a client
//! sent, known to us or not, reaches Langfuse byte for byte. What is refused is what Langfuse itself would refuse
//! (`web/src/pages/api/public/otel/v1/traces/index.ts`, `…/ingestion.ts` and `…/scores/index.ts` of
//! <https://github.com/langfuse/langfuse>), because there one bad span refuses the whole request it travels in.
//!
//! All of it is plain functions: whoever calls them chooses the thread, and what to do with [`IN_PLACE_BYTES`].

mod answer;
mod encoding;
mod facts;
mod ingestion;
mod json;
mod merge;
mod otlp;
mod otlp_json;
mod otlp_proto;
mod pass;
mod poison;
pub(crate) mod proto;
mod refusal;
mod score_events;
mod scores;
mod split;
mod unit;

use std::ops::Range;

use bytes::Bytes;

use crate::memory::Reservation;

pub use answer::{Answer, otlp_success};
pub use encoding::Encoding;
pub use facts::{Facts, SpanFacts};
pub use ingestion::accept_ingestion;
pub use merge::{Merged, bytes_to_merge, merge};
pub use otlp::accept_otlp;
pub use pass::Passed;
pub use refusal::Refusal;
pub use score_events::accept_scores_as_events;
pub use scores::accept_scores;

/// What is validated without leaving the thread that serves everybody: a few tens of microseconds of work.
pub const IN_PLACE_BYTES: usize = 64 * 1024;
/// The most a compressed protobuf body may inflate to. OpenTelemetry's Python SDK caps its own requests here.
pub const INFLATED_LIMIT_BYTES: usize = 64 * 1024 * 1024;
/// The most a compressed JSON body may inflate to. It is lower because JSON is kept inflated.
pub const JSON_INFLATED_LIMIT_BYTES: usize = 20 * 1024 * 1024;
/// Spans whose ids are kept as [`Facts`] of one request; further ones are only counted.
pub const FACTS_LIMIT_SPANS: usize = 4096;
/// Events or scores in one request. The answer repeats the id of each, so their number has to be bounded.
pub const EVENTS_LIMIT: u32 = 65_536;
/// Nesting of messages, objects and arrays. Deeper values overflow the stack of Langfuse's own recursive writer.
pub const DEPTH_LIMIT: usize = 4096;
/// Above this Langfuse answers 413 to `/api/public/ingestion` (`bodyParser.sizeLimit: "4.5mb"`).
pub const INGESTION_REQUEST_LIMIT_BYTES: usize = 4_718_592;
/// Above this Langfuse answers 413 to `/api/public/scores` (the default limit of a Next.js API route, `1mb`).
pub const SCORES_REQUEST_LIMIT_BYTES: usize = 1024 * 1024;

/// What a body is: which endpoint it belongs to, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A serialized `ExportTraceServiceRequest`; units are spans.
    OtlpProtobuf = 1,
    /// An `ExportTraceServiceRequest` as OTLP/JSON; units are spans.
    OtlpJson = 2,
    /// A batch for `/api/public/ingestion`; units are events.
    Ingestion = 3,
    /// An array for `/api/public/scores`, as Python SDK 5 sends it; units are scores.
    Scores = 4,
    /// One object for `/api/public/scores`. It travels alone, because not every Langfuse takes an array there.
    Score = 5,
}

impl Kind {
    /// Whether several bodies of this kind may become one request.
    pub fn merges(self) -> bool {
        self != Self::Score
    }
}

/// Whether a body of this `Content-Encoding` may turn out to be no more work than [`IN_PLACE_BYTES`] are. It is tried with
/// that limit on what inflates.
pub fn may_fit_in_place(content_encoding: &str, body: &[u8]) -> bool {
    let compressed = !content_encoding.is_empty();
    body.len() <= IN_PLACE_BYTES && !(compressed && encoding::expected(body) > IN_PLACE_BYTES)
}

impl TryFrom<u8> for Kind {
    type Error = u8;

    fn try_from(code: u8) -> Result<Self, u8> {
        [
            Self::OtlpProtobuf,
            Self::OtlpJson,
            Self::Ingestion,
            Self::Scores,
            Self::Score,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == code)
        .ok_or(code)
    }
}

/// Limits on what one request may make us hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// The most a compressed protobuf body may inflate to, in bytes.
    pub inflated_bytes: usize,
    /// The most a compressed JSON body may inflate to, in bytes.
    pub json_inflated_bytes: usize,
    /// Spans whose ids are kept as [`Facts`].
    pub facts_spans: usize,
    /// Charged with what inflates and with long answers. None: there is memory for all of it.
    pub memory: Option<&'a Reservation>,
}

impl Limits<'_> {
    /// Takes `bytes` of memory.
    fn charge(&self, bytes: usize) -> Result<(), Refusal> {
        let there = self.memory.is_none_or(|memory| memory.grow(bytes));
        there.then_some(()).ok_or(Refusal::NoRoom)
    }
}

impl Default for Limits<'_> {
    fn default() -> Self {
        Self {
            inflated_bytes: INFLATED_LIMIT_BYTES,
            json_inflated_bytes: JSON_INFLATED_LIMIT_BYTES,
            facts_spans: FACTS_LIMIT_SPANS,
            memory: None,
        }
    }
}

/// One accepted body. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    kind: Kind,
    encoding: Encoding,
    body: Bytes,
    inflated_bytes: usize,
    units: u32,
    /// Where the elements to splice lie in a JSON body: what stands between the brackets.
    elements: Range<usize>,
    travels_alone: bool,
    repaired: bool,
    leaving: pass::Leaving,
}

impl Payload {
    /// Takes a body back that was accepted before, for example from disk. It is validated again, so that a torn file
    /// cannot poison a batch.
    pub fn restore(
        kind: Kind,
        encoding: Encoding,
        body: Bytes,
        limits: &Limits<'_>,
    ) -> Result<Self, Refusal> {
        const JSON: &str = "application/json";
        let coding = encoding.header();
        match kind {
            Kind::OtlpProtobuf => {
                accept_otlp("application/x-protobuf", coding, body, limits).map(|(it, _)| it)
            }
            Kind::OtlpJson => accept_otlp(JSON, coding, body, limits).map(|(it, _)| it),
            Kind::Ingestion => accept_ingestion(JSON, coding, body, limits).map(|(it, _)| it),
            Kind::Scores | Kind::Score => {
                accept_scores(JSON, coding, body, limits).map(|(it, _)| it)
            }
        }
    }

    /// What the body is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How [`Payload::body`] is compressed. Only protobuf is ever kept compressed.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The body as it is held.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Bytes held in memory.
    pub fn stored_bytes(&self) -> usize {
        self.body.len()
    }

    /// Bytes of what leaves once inflated.
    pub fn inflated_bytes(&self) -> usize {
        self.leaving().inflated_bytes
    }

    /// Spans, events or scores that leave, or may do so. A body without any was accepted, but there is nothing to send.
    pub fn units(&self) -> u32 {
        self.leaving().units
    }

    /// Whether it is of a form that makes Langfuse lose, without a word, everything that shares a request with it.
    pub fn travels_alone(&self) -> bool {
        self.travels_alone
    }

    /// Whether its text held something that Langfuse cannot store, which was replaced.
    pub fn was_repaired(&self) -> bool {
        self.repaired
    }

    /// Cuts the body between two spans, events or scores into parts of at most `part_bytes` before compression, and at least in
    /// two. A part of a single unit may be larger. `None`: a single unit cannot be cut.
    ///
    /// A compressed body is cut while it is inflated; [`Payload::bytes_to_cut`] says what that takes.
    pub fn cut(&self, part_bytes: usize) -> Option<Vec<Self>> {
        let mut parts = split::cut(self.leaving(), part_bytes)?;
        if self.has_passed() {
            for part in &mut parts {
                part.leaving = pass::Leaving::as_it_is();
            }
        }
        Some(parts)
    }

    /// The most memory that [`Payload::cut`] takes, the parts included.
    pub fn bytes_to_cut(&self) -> usize {
        split::bytes_to_cut(self.leaving())
    }
}
