//! Validates a serialized `ExportTraceServiceRequest` as its bytes come in, keeping none of them.
//!
//! A decoder needs the whole message in memory; this needs a few hundred bytes, so a compressed body is validated
//! while it is inflated and stays compressed. It refuses what Langfuse's decoder (protobufjs) cannot read and what
//! `validateOtelSpanIds` in `packages/shared/src/server/otel/utils.ts` refuses: a span without ids. Like that decoder
//! it accepts ids of any length, text that is not UTF-8 and fields that it does not know.

use super::encoding::Sink;
use super::facts::{Facts, SpanFacts};
use super::proto::{Field, Message, Wire};
use super::{DEPTH_LIMIT, Refusal};

const MAX_VARINT_BYTES: u8 = 10;
const ID_BYTES: usize = 16;

/// The validator: give it every chunk, then ask for the outcome.
pub(super) struct OtlpProto {
    facts: Facts,
    facts_limit: usize,
    spans: u32,
    at: u64,
    open: Vec<Frame>,
    expect: Expect,
    varint: u64,
    varint_bytes: u8,
    span: SpanIds,
}

/// A message being read, and where it ends.
struct Frame {
    message: Message,
    end: u64,
}

/// What the next byte belongs to.
#[derive(Clone, Copy)]
enum Expect {
    Tag,
    Length(u64),
    Varint,
    Skip(u64),
    Capture { field: u64, left: u64 },
}

/// What is remembered of the span being read.
#[derive(Default)]
struct SpanIds {
    trace_id: Option<Id>,
    span_id: Option<Id>,
    parent_span_id: Option<Id>,
    flags: Id,
}

/// The first bytes of a captured field, and its length.
#[derive(Clone, Copy, Default)]
struct Id {
    bytes: [u8; ID_BYTES],
    length: usize,
}

impl Id {
    fn push(&mut self, part: &[u8]) {
        for byte in part {
            if let Some(slot) = self.bytes.get_mut(self.length) {
                *slot = *byte;
            }
            self.length = self.length.saturating_add(1);
        }
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Sink for OtlpProto {
    fn take(&mut self, mut chunk: &[u8]) -> Result<(), Refusal> {
        while !chunk.is_empty() {
            let used = match self.expect {
                Expect::Skip(left) => self.skip(left, chunk.len()),
                Expect::Capture { field, left } => self.capture(field, left, chunk),
                Expect::Tag | Expect::Length(_) | Expect::Varint => {
                    self.varint_byte(chunk[0])?;
                    1
                }
            };
            self.at += used as u64;
            chunk = &chunk[used..];
            if matches!(self.expect, Expect::Tag) && self.varint_bytes == 0 {
                self.close_finished()?;
            }
        }
        Ok(())
    }
}

impl OtlpProto {
    pub(super) fn new(facts_limit: usize) -> Self {
        Self {
            facts: Facts::default(),
            facts_limit,
            spans: 0,
            at: 0,
            open: vec![Frame {
                message: Message::Request,
                end: u64::MAX,
            }],
            expect: Expect::Tag,
            varint: 0,
            varint_bytes: 0,
            span: SpanIds::default(),
        }
    }

    /// The number of spans and what is known of them, once every byte was given.
    pub(super) fn finish(self) -> Result<(u32, Facts), Refusal> {
        let complete =
            self.open.len() == 1 && matches!(self.expect, Expect::Tag) && self.varint_bytes == 0;
        if complete {
            Ok((self.spans, self.facts))
        } else {
            Err(self.malformed("the message is cut short"))
        }
    }

    fn skip(&mut self, left: u64, available: usize) -> usize {
        let used = usize::try_from(left).unwrap_or(usize::MAX).min(available);
        let left = left - used as u64;
        self.expect = if left == 0 {
            Expect::Tag
        } else {
            Expect::Skip(left)
        };
        used
    }

    fn capture(&mut self, field: u64, left: u64, chunk: &[u8]) -> usize {
        let used = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        if let Some(id) = self.captured(field) {
            id.push(&chunk[..used]);
        }
        let left = left - used as u64;
        self.expect = if left == 0 {
            Expect::Tag
        } else {
            Expect::Capture { field, left }
        };
        used
    }

    fn captured(&mut self, field: u64) -> Option<&mut Id> {
        match field {
            1 => self.span.trace_id.as_mut(),
            2 => self.span.span_id.as_mut(),
            4 => self.span.parent_span_id.as_mut(),
            16 => Some(&mut self.span.flags),
            _ => None,
        }
    }

    fn varint_byte(&mut self, byte: u8) -> Result<(), Refusal> {
        if self.varint_bytes >= MAX_VARINT_BYTES {
            return Err(self.malformed("a varint is longer than 10 bytes"));
        }
        self.varint |= u64::from(byte & 0x7f).wrapping_shl(7 * u32::from(self.varint_bytes));
        self.varint_bytes += 1;
        if byte & 0x80 != 0 {
            return Ok(());
        }
        let value = self.varint;
        (self.varint, self.varint_bytes) = (0, 0);
        match self.expect {
            Expect::Tag => self.tag(value),
            Expect::Length(field) => self.delimited(field, value),
            Expect::Varint | Expect::Skip(_) | Expect::Capture { .. } => {
                self.expect = Expect::Tag;
                Ok(())
            }
        }
    }

    fn tag(&mut self, tag: u64) -> Result<(), Refusal> {
        if tag > u64::from(u32::MAX) {
            return Err(self.malformed("a field number is too large"));
        }
        let Some(wire) = Wire::of(tag) else {
            return Err(self.malformed("a field has an unknown wire type"));
        };
        let number = tag >> 3;
        let message = self.message();
        if let Some(known) = message.field(number) {
            let wanted = match known {
                Field::Message(_) => Wire::Delimited,
                Field::Scalar(wire) => wire,
            };
            if wire != wanted {
                return Err(self.malformed("a field has another wire type than OTLP gives it"));
            }
        }
        self.expect = match wire {
            Wire::Varint => Expect::Varint,
            Wire::Fixed64 => self.fits(8).map(|()| Expect::Skip(8))?,
            Wire::Fixed32 => {
                self.fits(4)?;
                if message == Message::Span && number == 16 {
                    self.span.flags = Id::default();
                    Expect::Capture {
                        field: number,
                        left: 4,
                    }
                } else {
                    Expect::Skip(4)
                }
            }
            Wire::Delimited => Expect::Length(number),
            Wire::StartGroup => {
                let end = self.end();
                self.enter(Message::Group, end)?;
                Expect::Tag
            }
            Wire::EndGroup if message == Message::Group => {
                self.open.pop();
                Expect::Tag
            }
            Wire::EndGroup => return Err(self.malformed("a group ends that did not begin")),
        };
        Ok(())
    }

    fn delimited(&mut self, number: u64, length: u64) -> Result<(), Refusal> {
        self.fits(length)?;
        let message = self.message();
        self.expect = Expect::Tag;
        if let Some(Field::Message(inner)) = message.field(number) {
            if inner == Message::Span {
                self.span = SpanIds::default();
            }
            return self.enter(inner, self.at + 1 + length);
        }
        if message == Message::Span && matches!(number, 1 | 2 | 4) {
            let slot = match number {
                1 => &mut self.span.trace_id,
                2 => &mut self.span.span_id,
                _ => &mut self.span.parent_span_id,
            };
            *slot = Some(Id::default());
            if length > 0 {
                self.expect = Expect::Capture {
                    field: number,
                    left: length,
                };
            }
        } else if length > 0 {
            self.expect = Expect::Skip(length);
        }
        Ok(())
    }

    /// Checks that `length` bytes after the current one still belong to the innermost message.
    fn fits(&self, length: u64) -> Result<(), Refusal> {
        if (self.at + 1)
            .checked_add(length)
            .is_none_or(|end| end > self.end())
        {
            return Err(self.malformed("a field reaches beyond the message that holds it"));
        }
        Ok(())
    }

    fn enter(&mut self, message: Message, end: u64) -> Result<(), Refusal> {
        if self.open.len() >= DEPTH_LIMIT {
            return Err(self.malformed("values are nested too deeply"));
        }
        self.open.push(Frame { message, end });
        Ok(())
    }

    fn close_finished(&mut self) -> Result<(), Refusal> {
        while self.open.len() > 1 && self.at >= self.end() {
            if self.at > self.end() {
                return Err(self.malformed("a field reaches beyond the message that holds it"));
            }
            match self.open.pop().map(|frame| frame.message) {
                Some(Message::Span) => self.close_span()?,
                Some(Message::Group) => return Err(self.malformed("a group does not end")),
                _ => {}
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
        let flags = span
            .flags
            .as_slice()
            .try_into()
            .map_or(0, u32::from_le_bytes);
        let parent = span.parent_span_id.as_ref().map(Id::as_slice);
        let known = SpanFacts::new(trace_id.as_slice(), span_id.as_slice(), parent, flags);
        self.facts.note(known, self.facts_limit);
        self.spans = self.spans.saturating_add(1);
        Ok(())
    }

    fn message(&self) -> Message {
        self.open
            .last()
            .map_or(Message::Request, |frame| frame.message)
    }

    fn end(&self) -> u64 {
        self.open.last().map_or(u64::MAX, |frame| frame.end)
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
