//! Cutting a serialized `ExportTraceServiceRequest`.

use std::ops::Range;

use crate::payload::proto::{Field, Message, Wire, put_varint, read_varint};

/// The messages that enclose one another, and which of their fields holds the next.
const PATH: [(Message, u64); 3] = [
    (Message::Request, 1),
    (Message::ResourceSpans, 2),
    (Message::ScopeSpans, 2),
];

pub(super) fn split(request: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let cut = middle_span(request)?;
    let halves = cut_message(request, 0..request.len(), &PATH, cut)?;
    Some((halves.left, halves.right))
}

/// Where the first span of the second half begins.
fn middle_span(request: &[u8]) -> Option<usize> {
    let (mut spans, mut cut) = (0_usize, None);
    for resource_spans in fields(request, 0..request.len())
        .flatten()
        .filter(|field| field.is_in(PATH[0]))
    {
        for scope_spans in fields(request, resource_spans.value)
            .flatten()
            .filter(|field| field.is_in(PATH[1]))
        {
            for span in fields(request, scope_spans.value)
                .flatten()
                .filter(|field| field.is_in(PATH[2]))
            {
                if spans > 0 {
                    cut = Some(span.whole.start);
                    if span.whole.start >= request.len() / 2 {
                        return cut;
                    }
                }
                spans += 1;
            }
        }
    }
    cut
}

/// The two sides of a message, and how many elements of its list each side got.
#[derive(Default)]
struct Halves {
    left: Vec<u8>,
    right: Vec<u8>,
    left_elements: usize,
    right_elements: usize,
}

fn cut_message(
    bytes: &[u8],
    message: Range<usize>,
    path: &[(Message, u64)],
    cut: usize,
) -> Option<Halves> {
    let (&level, deeper) = path.split_first()?;
    let is_request = level.0 == Message::Request;
    let mut halves = Halves::default();
    for field in fields(bytes, message) {
        let field = field?;
        let whole = bytes.get(field.whole.clone())?;
        if !field.is_in(level) {
            // What stands beside the list belongs to both sides, except at the top, where nothing is repeated.
            if !is_request || field.whole.start < cut {
                halves.left.extend_from_slice(whole);
            }
            if !is_request || field.whole.start >= cut {
                halves.right.extend_from_slice(whole);
            }
        } else if field.whole.end <= cut {
            halves.left.extend_from_slice(whole);
            halves.left_elements += 1;
        } else if field.whole.start >= cut {
            halves.right.extend_from_slice(whole);
            halves.right_elements += 1;
        } else {
            let inner = cut_message(bytes, field.value, deeper, cut)?;
            if inner.left_elements > 0 {
                put_message(&mut halves.left, level.1, &inner.left);
                halves.left_elements += 1;
            }
            if inner.right_elements > 0 {
                put_message(&mut halves.right, level.1, &inner.right);
                halves.right_elements += 1;
            }
        }
    }
    Some(halves)
}

fn put_message(out: &mut Vec<u8>, number: u64, content: &[u8]) {
    const DELIMITED: u64 = 2;
    put_varint(out, number << 3 | DELIMITED);
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// One field of a message: the whole of it, and its value.
struct RawField {
    number: u64,
    wire: Wire,
    whole: Range<usize>,
    value: Range<usize>,
}

impl RawField {
    fn is_in(&self, (message, number): (Message, u64)) -> bool {
        debug_assert!(
            matches!(message.field(number), Some(Field::Message(_))),
            "the path leads through messages"
        );
        self.number == number && self.wire == Wire::Delimited
    }
}

/// The fields of a message in their order; `None` for what cannot be walked here, which ends it.
fn fields(bytes: &[u8], message: Range<usize>) -> impl Iterator<Item = Option<RawField>> {
    let mut at = Some(message.start);
    std::iter::from_fn(move || {
        let start = at.filter(|start| *start < message.end)?;
        let field = field_at(bytes, start).filter(|field| field.whole.end <= message.end);
        at = field.as_ref().map(|field| field.whole.end);
        Some(field)
    })
}

fn field_at(bytes: &[u8], start: usize) -> Option<RawField> {
    let (tag, after_tag) = read_varint(bytes, start)?;
    let wire = Wire::of(tag)?;
    let value = match wire {
        Wire::Varint => after_tag..read_varint(bytes, after_tag)?.1,
        Wire::Fixed64 => after_tag..after_tag.checked_add(8)?,
        Wire::Fixed32 => after_tag..after_tag.checked_add(4)?,
        Wire::Delimited => {
            let (length, from) = read_varint(bytes, after_tag)?;
            from..from.checked_add(usize::try_from(length).ok()?)?
        }
        // Groups left the language before OTLP began.
        Wire::StartGroup | Wire::EndGroup => return None,
    };
    Some(RawField {
        number: tag >> 3,
        wire,
        whole: start..value.end,
        value,
    })
}
