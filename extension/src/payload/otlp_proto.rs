//! Validates a serialized `ExportTraceServiceRequest` as its bytes come in, keeping none of them.
//!
//! A decoder needs the whole message in memory; this needs a few hundred bytes, so a compressed body is validated
//! while it is inflated and stays compressed. It refuses what Langfuse's decoder (protobufjs) cannot read and what
//! `validateOtelSpanIds` in `packages/shared/src/server/otel/utils.ts` refuses: a span without ids. Like that decoder
//! it accepts ids of any length, text that is not UTF-8 and fields that it does not know.

use super::encoding::Sink;
use super::facts::{Facts, SpanFacts};
use super::proto::{Field, Message, Wire, read_varint};
use super::{DEPTH_LIMIT, Refusal};

/// A tag and a length, each of ten bytes at the most.
const HEAD_LIMIT_BYTES: usize = 20;
const ID_BYTES: usize = 16;

/// The validator: give it every chunk, then ask for the outcome.
pub(super) struct OtlpProto {
    facts: Facts,
    facts_limit: usize,
    spans: u32,
    /// Bytes read so far.
    at: u64,
    /// The message being read, and those around it. They are apart because every field asks for the first.
    inner: Frame,
    around: Vec<Frame>,
    /// What the last chunk ended with: the beginning of a field's head.
    cut: Vec<u8>,
    /// Bytes of the field being read that are still to come, and its number if they are remembered.
    left: u64,
    captured: Option<u64>,
    span: SpanIds,
    /// An attribute is being read whose value has not come yet.
    valueless: bool,
    /// An attribute of a span, a resource or a scope had no value.
    poisoned: bool,
}

/// A message being read, and where it ends.
struct Frame {
    message: Message,
    end: u64,
}

/// What is wrong with the message. It becomes a [`Refusal`] once, at the top, because that is large.
pub(super) type Fault = &'static str;

/// What stands before the content of a field. A varint has no content but its head.
pub(super) struct Head {
    pub(super) number: u64,
    pub(super) wire: Wire,
    pub(super) content_bytes: u64,
}

impl Head {
    /// The head at the beginning of `bytes`, and how long it is. `None`: more bytes are needed.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Fault> {
        // Nearly every head is a tag and a length of one byte each.
        if let [tag @ 0..=0x7f, length @ 0..=0x7f, ..] = bytes
            && Wire::of(u64::from(*tag)) == Some(Wire::Delimited)
        {
            let head = Self {
                number: u64::from(tag >> 3),
                wire: Wire::Delimited,
                content_bytes: u64::from(*length),
            };
            return Ok(Some((head, 2)));
        }
        let Some((tag, after_tag)) = varint(bytes, 0)? else {
            return Ok(None);
        };
        if tag > u64::from(u32::MAX) {
            return Err("a field number is too large");
        }
        let wire = Wire::of(tag).ok_or("a field has an unknown wire type")?;
        let (content_bytes, end) = match wire {
            Wire::StartGroup | Wire::EndGroup => (0, after_tag),
            Wire::Fixed32 => (4, after_tag),
            Wire::Fixed64 => (8, after_tag),
            Wire::Varint | Wire::Delimited => match varint(bytes, after_tag)? {
                Some((length, end)) if wire == Wire::Delimited => (length, end),
                Some((_, end)) => (0, end),
                None => return Ok(None),
            },
        };
        let head = Self {
            number: tag >> 3,
            wire,
            content_bytes,
        };
        Ok(Some((head, end)))
    }
}

/// The varint at `start`, and where it ends. `None`: more bytes are needed.
fn varint(bytes: &[u8], start: usize) -> Result<Option<(u64, usize)>, Fault> {
    match bytes.get(start) {
        Some(byte @ 0..=0x7f) => Ok(Some((u64::from(*byte), start + 1))),
        None => Ok(None),
        Some(_) => match read_varint(bytes, start) {
            None if bytes.len() - start >= HEAD_LIMIT_BYTES / 2 => {
                Err("a varint is longer than 10 bytes")
            }
            read => Ok(read),
        },
    }
}

/// What is remembered of the span being read.
#[derive(Default)]
struct SpanIds {
    trace_id: Option<Id>,
    span_id: Option<Id>,
    parent_span_id: Option<Id>,
    flags: Option<Id>,
    start: Option<Id>,
    end: Option<Id>,
}

impl SpanIds {
    /// Where the field `number` is remembered, if it is.
    fn field(&mut self, number: u64) -> Option<&mut Option<Id>> {
        match number {
            1 => Some(&mut self.trace_id),
            2 => Some(&mut self.span_id),
            4 => Some(&mut self.parent_span_id),
            7 => Some(&mut self.start),
            8 => Some(&mut self.end),
            16 => Some(&mut self.flags),
            _ => None,
        }
    }
}

/// The first bytes of a captured field, and its length.
#[derive(Clone, Copy, Default)]
struct Id {
    bytes: [u8; ID_BYTES],
    length: usize,
}

impl Id {
    fn push(&mut self, part: &[u8]) {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        let kept = part.len().min(room.len());
        room[..kept].copy_from_slice(&part[..kept]);
        self.length = self.length.saturating_add(part.len());
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Sink for OtlpProto {
    fn take(&mut self, mut chunk: &[u8]) -> Result<(), Refusal> {
        loop {
            if self.left > 0 {
                chunk = self.content(chunk);
            }
            if self.at >= self.inner.end && self.left == 0 {
                self.close_finished()?;
            }
            if chunk.is_empty() {
                return Ok(());
            }
            let (head, rest) = self.head(chunk).map_err(|fault| self.malformed(fault))?;
            if let Some(head) = head {
                self.begin(&head).map_err(|fault| self.malformed(fault))?;
            }
            chunk = rest;
        }
    }
}

impl OtlpProto {
    pub(super) fn new(facts_limit: usize) -> Self {
        Self {
            facts: Facts::default(),
            facts_limit,
            spans: 0,
            at: 0,
            inner: Frame {
                message: Message::Request,
                end: u64::MAX,
            },
            around: Vec::new(),
            cut: Vec::new(),
            left: 0,
            captured: None,
            span: SpanIds::default(),
            valueless: false,
            poisoned: false,
        }
    }

    /// The number of spans, what is known of them, and whether an attribute has no value, once every byte was given.
    pub(super) fn finish(self) -> Result<(u32, Facts, bool), Refusal> {
        if self.around.is_empty() && self.cut.is_empty() && self.left == 0 {
            Ok((self.spans, self.facts, self.poisoned))
        } else {
            Err(self.malformed("the message is cut short"))
        }
    }

    /// Reads what is left of the current field, and returns what follows it.
    fn content<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let used = usize::try_from(self.left).map_or(chunk.len(), |left| left.min(chunk.len()));
        let (content, rest) = chunk.split_at(used);
        if let Some(number) = self.captured
            && let Some(Some(id)) = self.span.field(number)
        {
            id.push(content);
        }
        self.left -= used as u64;
        self.at += used as u64;
        rest
    }

    /// Reads the head of the next field, and returns what follows it. `None`: the chunk ends in the middle of it.
    fn head<'a>(&mut self, chunk: &'a [u8]) -> Result<(Option<Head>, &'a [u8]), Fault> {
        let before = self.cut.len();
        if before > 0 {
            let more = chunk.len().min(HEAD_LIMIT_BYTES - before);
            self.cut.extend_from_slice(&chunk[..more]);
        }
        let bytes = if before > 0 { &self.cut } else { chunk };
        let Some((head, length)) = Head::read(bytes)? else {
            if before == 0 {
                self.cut.extend_from_slice(chunk);
            }
            return Ok((None, &[]));
        };
        self.cut.clear();
        self.at += length as u64;
        Ok((Some(head), &chunk[length - before..]))
    }

    fn begin(&mut self, head: &Head) -> Result<(), Fault> {
        let Head {
            number,
            wire,
            content_bytes,
        } = *head;
        let message = self.inner.message;
        let field = message.field(number);
        let wanted = match field {
            Some(Field::Message(_)) => Wire::Delimited,
            Some(Field::Scalar(wanted)) => wanted,
            None => wire,
        };
        if wire != wanted {
            return Err("a field has another wire type than OTLP gives it");
        }
        let end = self.at.checked_add(content_bytes);
        let Some(end) = end.filter(|end| *end <= self.inner.end) else {
            return Err("a field reaches beyond the message that holds it");
        };
        self.captured = None;
        match (field, wire) {
            (Some(Field::Message(inner)), _) => {
                if inner == Message::Span {
                    self.span = SpanIds::default();
                }
                self.enter(inner, end)?;
                self.note_attribute(message, inner);
                Ok(())
            }
            (_, Wire::StartGroup) => self.enter(Message::Group, self.inner.end),
            (_, Wire::EndGroup) if message == Message::Group => {
                self.leave();
                Ok(())
            }
            (_, Wire::EndGroup) => Err("a group ends that did not begin"),
            (_, Wire::Fixed32 | Wire::Fixed64 | Wire::Varint | Wire::Delimited) => {
                self.left = content_bytes;
                if message == Message::Span {
                    self.capture(number, wire);
                }
                Ok(())
            }
        }
    }

    fn capture(&mut self, number: u64, wire: Wire) {
        let wanted = match number {
            7 | 8 => Wire::Fixed64,
            16 => Wire::Fixed32,
            _ => Wire::Delimited,
        };
        if wire == wanted
            && let Some(id) = self.span.field(number)
        {
            *id = Some(Id::default());
            self.captured = Some(number);
        }
    }

    fn note_attribute(&mut self, outer: Message, inner: Message) {
        match (outer, inner) {
            (Message::Span | Message::Resource | Message::Scope, Message::KeyValue) => {
                self.valueless = true;
            }
            // The attribute itself, and none within its value, because its own value comes before that.
            (Message::KeyValue, Message::AnyValue) => self.valueless = false,
            _ => {}
        }
    }

    fn enter(&mut self, message: Message, end: u64) -> Result<(), Fault> {
        if self.around.len() + 1 >= DEPTH_LIMIT {
            return Err("values are nested too deeply");
        }
        let around = std::mem::replace(&mut self.inner, Frame { message, end });
        self.around.push(around);
        Ok(())
    }

    /// `None`: the request itself has no end but that of the body.
    fn leave(&mut self) -> Option<Message> {
        let around = self.around.pop()?;
        Some(std::mem::replace(&mut self.inner, around).message)
    }

    fn close_finished(&mut self) -> Result<(), Refusal> {
        while self.at >= self.inner.end {
            match self.leave() {
                Some(Message::Span) => self.close_span()?,
                // Further in than an attribute without a value there is nothing.
                Some(Message::KeyValue) => self.poisoned |= std::mem::take(&mut self.valueless),
                Some(Message::Group) => return Err(self.malformed("a group does not end")),
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }

    fn close_span(&mut self) -> Result<(), Refusal> {
        let span = std::mem::take(&mut self.span);
        let Some(trace_id) = span.trace_id else {
            return Err(Refusal::UnreadableSpans("traceId:absent"));
        };
        let Some(span_id) = span.span_id else {
            return Err(Refusal::UnreadableSpans("spanId:absent"));
        };
        let flags = span.flags.as_ref().map(Id::as_slice).unwrap_or_default();
        let flags = flags.try_into().map_or(0, u32::from_le_bytes);
        let parent = span.parent_span_id.as_ref().map(Id::as_slice);
        let time = |field: Option<Id>| {
            let bytes = field.and_then(|field| field.as_slice().try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        let times = [time(span.start), time(span.end)];
        let known = SpanFacts::new(
            trace_id.as_slice(),
            span_id.as_slice(),
            parent,
            flags,
            times,
        );
        self.facts.note(known, self.facts_limit);
        self.spans = self.spans.saturating_add(1);
        Ok(())
    }

    fn malformed(&self, reason: &'static str) -> Refusal {
        let at = usize::try_from(self.at).unwrap_or(usize::MAX);
        Refusal::Malformed {
            what: "OTLP protobuf",
            at,
            reason,
        }
    }
}
