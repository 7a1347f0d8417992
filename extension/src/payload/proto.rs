//! Just enough of the protobuf wire format to walk a message (<https://protobuf.dev/programming-guides/encoding/>).

/// How the value of a field is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Varint,
    Fixed64,
    Delimited,
    StartGroup,
    EndGroup,
    Fixed32,
}

impl Wire {
    pub(crate) fn of(tag: u64) -> Option<Self> {
        Some(match tag & 7 {
            0 => Self::Varint,
            1 => Self::Fixed64,
            2 => Self::Delimited,
            3 => Self::StartGroup,
            4 => Self::EndGroup,
            5 => Self::Fixed32,
            _ => return None,
        })
    }
}

/// The messages of an `ExportTraceServiceRequest`
/// (<https://github.com/open-telemetry/opentelemetry-proto/tree/v1.5.0>, the version that Langfuse decodes with).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Request,
    ResourceSpans,
    Resource,
    ScopeSpans,
    Scope,
    Span,
    Event,
    Link,
    Status,
    KeyValue,
    AnyValue,
    ArrayValue,
    KeyValueList,
    /// A group: of unknown meaning, but its end has to be found.
    Group,
}

const MESSAGES: [Message; 14] = [
    Message::Request,
    Message::ResourceSpans,
    Message::Resource,
    Message::ScopeSpans,
    Message::Scope,
    Message::Span,
    Message::Event,
    Message::Link,
    Message::Status,
    Message::KeyValue,
    Message::AnyValue,
    Message::ArrayValue,
    Message::KeyValueList,
    Message::Group,
];

/// The largest number of a known field.
const MAX_FIELD: usize = 15;

/// [`Message::declared`] as a table, because every field of every span is looked up.
static FIELDS: [[Option<Field>; MAX_FIELD + 1]; MESSAGES.len()] = {
    let mut fields = [[None; MAX_FIELD + 1]; MESSAGES.len()];
    let mut at = 0;
    while at < MESSAGES.len() {
        let mut number = 1;
        while number <= MAX_FIELD {
            fields[MESSAGES[at] as usize][number] = MESSAGES[at].declared(number);
            number += 1;
        }
        at += 1;
    }
    fields
};

/// What a known field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Message(Message),
    Scalar(Wire),
}

impl Message {
    /// The field `number`, if Langfuse's decoder knows it; it skips the others by their wire type, and so do we.
    pub(crate) fn field(self, number: u64) -> Option<Field> {
        let number = usize::try_from(number).ok()?;
        *FIELDS[self as usize].get(number)?
    }

    const fn declared(self, number: usize) -> Option<Field> {
        use Field::{Message as Sub, Scalar};
        use Wire::{Delimited, Fixed64, Varint};
        Some(match (self, number) {
            (Self::Request, 1) => Sub(Self::ResourceSpans),
            (Self::ResourceSpans, 1) => Sub(Self::Resource),
            (Self::ResourceSpans, 2) => Sub(Self::ScopeSpans),
            (Self::ScopeSpans, 1) => Sub(Self::Scope),
            (Self::ScopeSpans, 2) => Sub(Self::Span),
            (Self::Span, 11) => Sub(Self::Event),
            (Self::Span, 13) => Sub(Self::Link),
            (Self::Span, 15) => Sub(Self::Status),
            (Self::Resource | Self::KeyValueList, 1)
            | (Self::Scope | Self::Event, 3)
            | (Self::Span, 9)
            | (Self::Link, 4) => Sub(Self::KeyValue),
            (Self::KeyValue, 2) | (Self::ArrayValue, 1) => Sub(Self::AnyValue),
            (Self::AnyValue, 5) => Sub(Self::ArrayValue),
            (Self::AnyValue, 6) => Sub(Self::KeyValueList),
            (Self::ResourceSpans | Self::ScopeSpans, 3)
            | (Self::Scope, 1 | 2)
            | (Self::Span, 1..=5)
            | (Self::Event | Self::Status, 2)
            | (Self::Link, 1..=3)
            | (Self::KeyValue, 1)
            | (Self::AnyValue, 1 | 7) => Scalar(Delimited),
            (Self::Resource, 2)
            | (Self::Scope | Self::Event, 4)
            | (Self::Span, 6 | 10 | 12 | 14)
            | (Self::Link, 5)
            | (Self::Status, 3)
            | (Self::AnyValue, 2 | 3) => Scalar(Varint),
            (Self::Span, 7 | 8) | (Self::Event, 1) | (Self::AnyValue, 4) => Scalar(Fixed64),
            _ => return None,
        })
    }
}

/// Appends `value` as a base-128 varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Reads a base-128 varint and says where it ends.
pub(crate) fn read_varint(bytes: &[u8], start: usize) -> Option<(u64, usize)> {
    const MAX_VARINT_BYTES: usize = 10;
    let mut value = 0_u64;
    for (index, byte) in bytes
        .get(start..)?
        .iter()
        .take(MAX_VARINT_BYTES)
        .enumerate()
    {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, start + index + 1));
        }
    }
    None
}

/// The value of a field, where it is one that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Delimited(&'a [u8]),
    Fixed,
}

/// The fields of a small message with their numbers, until its end or the first that makes no sense.
pub(crate) fn fields(message: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (tag, start) = read_varint(message, at)?;
        let (value, end) = match Wire::of(tag)? {
            Wire::Varint => {
                let (value, end) = read_varint(message, start)?;
                (Value::Varint(value), end)
            }
            Wire::Delimited => {
                let (length, start) = read_varint(message, start)?;
                let end = start.checked_add(usize::try_from(length).ok()?)?;
                (Value::Delimited(message.get(start..end)?), end)
            }
            Wire::Fixed64 => (Value::Fixed, start + 8),
            Wire::Fixed32 => (Value::Fixed, start + 4),
            Wire::StartGroup | Wire::EndGroup => return None,
        };
        at = end;
        Some((tag >> 3, value))
    })
}
