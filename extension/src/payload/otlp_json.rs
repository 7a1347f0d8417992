//! Validates OTLP/JSON by the rules of Langfuse's `validateOtelSpanIds`
//! (`packages/shared/src/server/otel/utils.ts`): every span has ids, and what must be a list is one.
//!
//! Where a key stands twice in an object the last one counts, as it does for `JSON.parse`.

use std::ops::Range;
use std::str::FromStr;

use super::Refusal;
use super::facts::{Facts, SpanFacts};
use super::json::{Json, Shape};

/// What a valid request holds.
pub(super) struct OtlpJsonRequest {
    pub(super) spans: u32,
    pub(super) facts: Facts,
    /// What stands between the brackets of `resourceSpans`; empty if there is nothing.
    pub(super) elements: Range<usize>,
    /// An attribute has no value.
    pub(super) poisoned: bool,
    pub(super) lone_surrogates: bool,
}

/// Walks the whole of `body`.
pub(super) fn validate(body: &[u8], facts_limit: usize) -> Result<OtlpJsonRequest, Refusal> {
    let mut walk = Walk {
        json: Json::new(body),
        facts: Facts::default(),
        facts_limit,
        spans: 0,
        poisoned: false,
    };
    let (elements, flaw) = walk.request()?;
    walk.json.end()?;
    match flaw {
        Some(flaw) => Err(Refusal::UnreadableSpans(flaw)),
        None => Ok(OtlpJsonRequest {
            spans: walk.spans,
            facts: walk.facts,
            elements,
            poisoned: walk.poisoned,
            lone_surrogates: walk.json.has_lone_surrogates(),
        }),
    }
}

/// What makes Langfuse refuse the request, in its own words, if anything.
type Flaw = Option<&'static str>;

struct Walk<'a> {
    json: Json<'a>,
    facts: Facts,
    facts_limit: usize,
    spans: u32,
    poisoned: bool,
}

/// Where the walk stood when a list began, so that a list which is replaced by a later key can be forgotten.
#[derive(Clone, Copy)]
struct Mark {
    kept: usize,
    omitted: u32,
    spans: u32,
}

impl Walk<'_> {
    fn request(&mut self) -> Result<(Range<usize>, Flaw), Refusal> {
        let shape = self.json.shape()?;
        if shape != Shape::Object {
            self.json.skip()?;
            // Reading a property of `null` throws there; of anything else it finds none.
            let flaw = (shape == Shape::Null).then_some("request:null");
            return Ok((0..0, flaw));
        }
        let (mut first, mark, mut found) = (true, self.mark(), (0..0, None));
        while let Some(key) = self.json.next_key(&mut first)? {
            if self.json.text(&key).as_deref() == Some("resourceSpans") {
                self.reset(mark);
                found = self.resource_spans_list()?;
            } else {
                self.json.skip()?;
            }
        }
        Ok(found)
    }

    fn resource_spans_list(&mut self) -> Result<(Range<usize>, Flaw), Refusal> {
        if self.json.shape()? != Shape::Array {
            let range = self.json.skip()?;
            let raw = self.json.raw(range);
            let nothing = matches!(raw, b"null" | b"false" | b"\"\"") || is_zero(raw);
            // Langfuse answers 200 to the rest, and its worker then fails on it: it can never become a trace.
            return Ok((0..0, (!nothing).then_some("resourceSpans:not_an_array")));
        }
        let start = self.json.at() + 1;
        let (mut first, mut flaw) = (true, None);
        while self.json.next_element(&mut first)? {
            let found = self.resource_spans()?;
            flaw = flaw.or(found);
        }
        let end = self.json.at() - 1;
        Ok((start..end, flaw))
    }

    fn resource_spans(&mut self) -> Result<Flaw, Refusal> {
        let (mut resource, mut scopes) = (None, None);
        if self.json.shape()? != Shape::Object {
            return self.json.skip().map(|_| None);
        }
        let (mut first, mark) = (true, self.mark());
        while let Some(key) = self.json.next_key(&mut first)? {
            match self.json.text(&key).as_deref() {
                Some("resource") => {
                    resource =
                        self.attributes_of(Self::attributes, "resource.attributes:not_an_array")?;
                }
                Some("scopeSpans") => {
                    self.reset(mark);
                    scopes = self.scope_spans_list()?;
                }
                _ => {
                    self.json.skip()?;
                }
            }
        }
        Ok(resource.or(scopes))
    }

    fn scope_spans_list(&mut self) -> Result<Flaw, Refusal> {
        if self.json.shape()? != Shape::Array {
            return self.list("scopeSpans:not_an_array");
        }
        let (mut first, mut flaw) = (true, None);
        while self.json.next_element(&mut first)? {
            let found = self.scope_spans()?;
            flaw = flaw.or(found);
        }
        Ok(flaw)
    }

    fn scope_spans(&mut self) -> Result<Flaw, Refusal> {
        let (mut scope, mut spans) = (None, None);
        if self.json.shape()? != Shape::Object {
            return self.json.skip().map(|_| None);
        }
        let (mut first, mark) = (true, self.mark());
        while let Some(key) = self.json.next_key(&mut first)? {
            match self.json.text(&key).as_deref() {
                Some("scope") => {
                    scope =
                        self.attributes_of(Self::attributes, "scope.attributes:not_an_array")?;
                }
                Some("spans") => {
                    self.reset(mark);
                    spans = self.spans_list()?;
                }
                _ => {
                    self.json.skip()?;
                }
            }
        }
        Ok(scope.or(spans))
    }

    fn spans_list(&mut self) -> Result<Flaw, Refusal> {
        if self.json.shape()? != Shape::Array {
            return self.list("spans:not_an_array");
        }
        let (mut first, mut flaw) = (true, None);
        while self.json.next_element(&mut first)? {
            let found = self.span()?;
            self.spans = self.spans.saturating_add(1);
            flaw = flaw.or(found);
        }
        Ok(flaw)
    }

    fn span(&mut self) -> Result<Flaw, Refusal> {
        if self.json.shape()? != Shape::Object {
            return self.json.skip().map(|_| Some("traceId:absent"));
        }
        let mut span = Span::default();
        let mut first = true;
        while let Some(key) = self.json.next_key(&mut first)? {
            match self.json.text(&key).as_deref() {
                Some("traceId") => span.trace_id = self.id()?,
                Some("spanId") => span.span_id = self.id()?,
                Some("parentSpanId") => span.parent_span_id = self.id()?,
                Some("attributes") => {
                    span.attributes = self.attributes("attributes:not_an_array")?;
                }
                Some("events") => span.events = self.events()?,
                Some("startTimeUnixNano") => span.start = self.integer()?,
                Some("endTimeUnixNano") => span.end = self.integer()?,
                Some("flags") => span.flags = self.integer()?,
                _ => {
                    self.json.skip()?;
                }
            }
        }
        let flaw = span.flaw();
        if flaw.is_none() {
            self.facts.note(span.facts(), self.facts_limit);
        }
        Ok(flaw)
    }

    fn events(&mut self) -> Result<Flaw, Refusal> {
        if self.json.shape()? != Shape::Array {
            return self.list("events:not_an_array");
        }
        let (mut first, mut flaw) = (true, None);
        while self.json.next_element(&mut first)? {
            let found = self.attributes_of(Self::list, "event.attributes:not_an_array")?;
            flaw = flaw.or(found);
        }
        Ok(flaw)
    }

    /// Passes over a value whose `attributes`, if it is an object and has them, must be a list.
    fn attributes_of(
        &mut self,
        list: fn(&mut Self, &'static str) -> Result<Flaw, Refusal>,
        reason: &'static str,
    ) -> Result<Flaw, Refusal> {
        if self.json.shape()? != Shape::Object {
            return self.json.skip().map(|_| None);
        }
        let (mut first, mut flaw) = (true, None);
        while let Some(key) = self.json.next_key(&mut first)? {
            if self.json.text(&key).as_deref() == Some("attributes") {
                flaw = list(self, reason)?;
            } else {
                self.json.skip()?;
            }
        }
        Ok(flaw)
    }

    /// Passes over attributes that Langfuse's worker reads the values of.
    fn attributes(&mut self, reason: &'static str) -> Result<Flaw, Refusal> {
        if self.json.shape()? != Shape::Array {
            return self.list(reason);
        }
        let mut first = true;
        while self.json.next_element(&mut first)? {
            self.poisoned |= !self.has_value()?;
        }
        Ok(None)
    }

    /// Passes over an attribute. Whether there is something to read a value from.
    fn has_value(&mut self) -> Result<bool, Refusal> {
        if self.json.shape()? != Shape::Object {
            return self.json.skip().map(|_| false);
        }
        let (mut first, mut found) = (true, false);
        while let Some(key) = self.json.next_key(&mut first)? {
            let is_value = self.json.text(&key).as_deref() == Some("value");
            let there = self.json.shape()? != Shape::Null;
            self.json.skip()?;
            if is_value {
                found = there;
            }
        }
        Ok(found)
    }

    /// Passes over a value that must be a list or nothing.
    fn list(&mut self, reason: &'static str) -> Result<Flaw, Refusal> {
        let shape = self.json.shape()?;
        self.json.skip()?;
        Ok((!matches!(shape, Shape::Array | Shape::Null)).then_some(reason))
    }

    /// An id: a hex string from most clients, a list of numbers or a Node buffer from some.
    fn id(&mut self) -> Result<Id, Refusal> {
        let shape = self.json.shape()?;
        if shape == Shape::Object {
            return self.node_buffer();
        }
        let range = self.json.skip()?;
        let raw = self.json.raw(range);
        Ok(match shape {
            Shape::Null => Id::Absent,
            Shape::Text => raw.get(1..raw.len() - 1).map_or(Id::Opaque, Id::from_hex),
            Shape::Array => serde_json::from_slice(raw).map_or(Id::Opaque, Id::from_bytes),
            Shape::False => Id::Falsy,
            Shape::Number if is_zero(raw) => Id::Falsy,
            _ => Id::Unusable,
        })
    }

    /// `{"type": "Buffer", "data": […]}`, what Node writes for a `Buffer`.
    fn node_buffer(&mut self) -> Result<Id, Refusal> {
        let (mut first, mut is_buffer, mut data) = (true, false, Id::Unusable);
        while let Some(key) = self.json.next_key(&mut first)? {
            let shape = self.json.shape()?;
            let range = self.json.skip()?;
            let raw = self.json.raw(range);
            match self.json.text(&key).as_deref() {
                Some("type") => is_buffer = raw == b"\"Buffer\"",
                Some("data") if shape == Shape::Array => {
                    data = serde_json::from_slice(raw).map_or(Id::Opaque, Id::from_bytes);
                }
                Some("data") => data = Id::Unusable,
                _ => {}
            }
        }
        Ok(if is_buffer { data } else { Id::Unusable })
    }

    /// A number of OTLP's, or 0. Protobuf's JSON writes those of 64 bits as strings, and both are legal for all.
    fn integer<N: FromStr + Default>(&mut self) -> Result<N, Refusal> {
        let range = self.json.skip()?;
        let text = std::str::from_utf8(self.json.raw(range)).unwrap_or_default();
        Ok(text.trim_matches('"').parse().unwrap_or_default())
    }

    fn mark(&self) -> Mark {
        Mark {
            kept: self.facts.spans.len(),
            omitted: self.facts.omitted,
            spans: self.spans,
        }
    }

    fn reset(&mut self, mark: Mark) {
        self.facts.spans.truncate(mark.kept);
        self.facts.omitted = mark.omitted;
        self.spans = mark.spans;
    }
}

/// Whether a number is JavaScript's falsy zero.
fn is_zero(number: &[u8]) -> bool {
    number
        .iter()
        .take_while(|byte| !matches!(byte, b'e' | b'E'))
        .all(|byte| matches!(byte, b'0' | b'-' | b'.'))
}

#[derive(Default)]
#[expect(clippy::struct_field_names, reason = "OTLP's own names")]
struct Span {
    trace_id: Id,
    span_id: Id,
    parent_span_id: Id,
    flags: u32,
    start: u64,
    end: u64,
    attributes: Flaw,
    events: Flaw,
}

impl Span {
    fn flaw(&self) -> Flaw {
        let trace_id = self.trace_id.flaw("traceId:absent", "traceId:not_an_id");
        let span_id = self.span_id.flaw("spanId:absent", "spanId:not_an_id");
        let parent =
            matches!(self.parent_span_id, Id::Unusable).then_some("parentSpanId:not_an_id");
        trace_id
            .or(span_id)
            .or(parent)
            .or(self.attributes)
            .or(self.events)
    }

    fn facts(&self) -> Option<SpanFacts> {
        SpanFacts::new(
            self.trace_id.bytes()?,
            self.span_id.bytes()?,
            self.parent_span_id.bytes(),
            self.flags,
            [self.start, self.end],
        )
    }
}

/// An id as Langfuse judges it.
#[derive(Default)]
enum Id {
    /// Not there, or null.
    #[default]
    Absent,
    /// No id, but nothing that counts as a parent either.
    Falsy,
    /// Something that Langfuse cannot convert.
    Unusable,
    /// Convertible, but not 8 or 16 bytes.
    Opaque,
    Bytes([u8; 16], usize),
}

impl Id {
    fn from_hex(hex: &[u8]) -> Self {
        let mut bytes = [0; 16];
        let length = hex.len() / 2;
        let Some(target) = bytes
            .get_mut(..length)
            .filter(|_| hex.len().is_multiple_of(2))
        else {
            return Self::Opaque;
        };
        for (slot, pair) in target.iter_mut().zip(hex.chunks_exact(2)) {
            let digits = std::str::from_utf8(pair)
                .ok()
                .filter(|it| it.bytes().all(|b| b.is_ascii_hexdigit()));
            let Some(byte) = digits.and_then(|it| u8::from_str_radix(it, 16).ok()) else {
                return Self::Opaque;
            };
            *slot = byte;
        }
        Self::Bytes(bytes, length)
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "the shape that `map_or` calls"
    )]
    fn from_bytes(list: Vec<u8>) -> Self {
        let mut bytes = [0; 16];
        let Some(target) = bytes.get_mut(..list.len()) else {
            return Self::Opaque;
        };
        target.copy_from_slice(&list);
        Self::Bytes(bytes, list.len())
    }

    fn flaw(&self, absent: &'static str, not_an_id: &'static str) -> Flaw {
        match self {
            Self::Absent => Some(absent),
            Self::Falsy | Self::Unusable => Some(not_an_id),
            Self::Opaque | Self::Bytes(..) => None,
        }
    }

    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes, length) => bytes.get(..*length),
            _ => None,
        }
    }
}
