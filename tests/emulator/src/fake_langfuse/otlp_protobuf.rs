//! OTLP trace requests in protobuf, turned into OTLP/JSON by the field tables of opentelemetry-proto.
//!
//! As with Langfuse's own decoder, what is absent on the wire stays absent, text that is not UTF-8 is replaced rather than
//! refused, and lengths of ids are not looked at. Fields that the tables do not know are kept, in hex.
//! <https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto>

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde_json::{Map, Value};

/// Messages inside messages, at most.
pub const MAX_NESTING: usize = 100;

/// The bytes are no protobuf message, or none of the kind expected.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// An `ExportTraceServiceRequest` as OTLP/JSON.
pub(super) fn decode_request(bytes: &[u8]) -> Result<Value, Malformed> {
    decode_message(bytes, REQUEST, 0)
}

type Fields = &'static [Field];

struct Field {
    number: u32,
    name: &'static str,
    kind: Kind,
}

enum Kind {
    Id,
    Bytes,
    Text,
    Fixed64,
    Fixed32,
    Int64,
    Uint32,
    Bool,
    Double,
    Message(&'static Fields),
    Repeated(&'static Fields),
}

const fn field(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind }
}

const REQUEST: Fields = &[field(1, "resourceSpans", Kind::Repeated(&RESOURCE_SPANS))];
static RESOURCE_SPANS: Fields = &[
    field(1, "resource", Kind::Message(&RESOURCE)),
    field(2, "scopeSpans", Kind::Repeated(&SCOPE_SPANS)),
    field(3, "schemaUrl", Kind::Text),
];
static RESOURCE: Fields = &[
    field(1, "attributes", Kind::Repeated(&KEY_VALUE)),
    field(2, "droppedAttributesCount", Kind::Uint32),
];
static SCOPE_SPANS: Fields = &[
    field(1, "scope", Kind::Message(&SCOPE)),
    field(2, "spans", Kind::Repeated(&SPAN)),
    field(3, "schemaUrl", Kind::Text),
];
static SCOPE: Fields = &[
    field(1, "name", Kind::Text),
    field(2, "version", Kind::Text),
    field(3, "attributes", Kind::Repeated(&KEY_VALUE)),
    field(4, "droppedAttributesCount", Kind::Uint32),
];
static SPAN: Fields = &[
    field(1, "traceId", Kind::Id),
    field(2, "spanId", Kind::Id),
    field(3, "traceState", Kind::Text),
    field(4, "parentSpanId", Kind::Id),
    field(5, "name", Kind::Text),
    field(6, "kind", Kind::Uint32),
    field(7, "startTimeUnixNano", Kind::Fixed64),
    field(8, "endTimeUnixNano", Kind::Fixed64),
    field(9, "attributes", Kind::Repeated(&KEY_VALUE)),
    field(10, "droppedAttributesCount", Kind::Uint32),
    field(11, "events", Kind::Repeated(&EVENT)),
    field(12, "droppedEventsCount", Kind::Uint32),
    field(13, "links", Kind::Repeated(&LINK)),
    field(14, "droppedLinksCount", Kind::Uint32),
    field(15, "status", Kind::Message(&STATUS)),
    field(16, "flags", Kind::Fixed32),
];
static EVENT: Fields = &[
    field(1, "timeUnixNano", Kind::Fixed64),
    field(2, "name", Kind::Text),
    field(3, "attributes", Kind::Repeated(&KEY_VALUE)),
    field(4, "droppedAttributesCount", Kind::Uint32),
];
static LINK: Fields = &[
    field(1, "traceId", Kind::Id),
    field(2, "spanId", Kind::Id),
    field(3, "traceState", Kind::Text),
    field(4, "attributes", Kind::Repeated(&KEY_VALUE)),
    field(5, "droppedAttributesCount", Kind::Uint32),
    field(6, "flags", Kind::Fixed32),
];
static STATUS: Fields = &[
    field(2, "message", Kind::Text),
    field(3, "code", Kind::Uint32),
];
static KEY_VALUE: Fields = &[
    field(1, "key", Kind::Text),
    field(2, "value", Kind::Message(&ANY_VALUE)),
];
static ANY_VALUE: Fields = &[
    field(1, "stringValue", Kind::Text),
    field(2, "boolValue", Kind::Bool),
    field(3, "intValue", Kind::Int64),
    field(4, "doubleValue", Kind::Double),
    field(5, "arrayValue", Kind::Message(&ARRAY_VALUE)),
    field(6, "kvlistValue", Kind::Message(&KEY_VALUE_LIST)),
    field(7, "bytesValue", Kind::Bytes),
];
static ARRAY_VALUE: Fields = &[field(1, "values", Kind::Repeated(&ANY_VALUE))];
static KEY_VALUE_LIST: Fields = &[field(1, "values", Kind::Repeated(&KEY_VALUE))];

fn decode_message(mut bytes: &[u8], fields: Fields, depth: usize) -> Result<Value, Malformed> {
    if depth > MAX_NESTING {
        return Err(Malformed);
    }
    let mut message = Map::new();
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes).map_err(|_| Malformed)?;
        match fields.iter().find(|field| field.number == number) {
            Some(field) => decode_field(&mut bytes, field, wire_type, depth, &mut message)?,
            None => keep_unknown(&mut bytes, number, wire_type, &mut message)?,
        }
    }
    Ok(Value::Object(message))
}

fn decode_field(
    bytes: &mut &[u8],
    field: &Field,
    wire_type: WireType,
    depth: usize,
    message: &mut Map<String, Value>,
) -> Result<(), Malformed> {
    if wire_type != field.kind.wire_type() {
        return Err(Malformed);
    }
    if let Kind::Repeated(fields) = field.kind {
        let element = decode_message(take_delimited(bytes)?, fields, depth + 1)?;
        let list = message
            .entry(field.name)
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(element);
        }
        return Ok(());
    }
    let value = match field.kind {
        Kind::Id => to_hex(take_delimited(bytes)?).into(),
        Kind::Bytes => STANDARD.encode(take_delimited(bytes)?).into(),
        Kind::Text => String::from_utf8_lossy(take_delimited(bytes)?).into(),
        Kind::Fixed64 => u64::from_le_bytes(take_array(bytes)?).to_string().into(),
        Kind::Fixed32 => u32::from_le_bytes(take_array(bytes)?).into(),
        Kind::Int64 => take_varint(bytes)?.cast_signed().to_string().into(),
        Kind::Uint32 => (take_varint(bytes)? & u64::from(u32::MAX)).into(),
        Kind::Bool => (take_varint(bytes)? != 0).into(),
        Kind::Double => double(f64::from_le_bytes(take_array(bytes)?)),
        Kind::Message(fields) | Kind::Repeated(fields) => {
            decode_message(take_delimited(bytes)?, fields, depth + 1)?
        }
    };
    message.insert(field.name.into(), value);
    Ok(())
}

impl Kind {
    fn wire_type(&self) -> WireType {
        match self {
            Self::Id | Self::Bytes | Self::Text | Self::Message(_) | Self::Repeated(_) => {
                WireType::LengthDelimited
            }
            Self::Fixed64 | Self::Double => WireType::SixtyFourBit,
            Self::Fixed32 => WireType::ThirtyTwoBit,
            Self::Int64 | Self::Uint32 | Self::Bool => WireType::Varint,
        }
    }
}

fn keep_unknown(
    bytes: &mut &[u8],
    number: u32,
    wire_type: WireType,
    message: &mut Map<String, Value>,
) -> Result<(), Malformed> {
    let before = *bytes;
    skip_field(wire_type, number, bytes, DecodeContext::default()).map_err(|_| Malformed)?;
    let raw = &before[..before.len() - bytes.len()];
    let unknown = message
        .entry("unknownFields")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(unknown) = unknown {
        unknown.push(format!("{number}:{wire_type:?}:{}", to_hex(raw)).into());
    }
    Ok(())
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    decode_varint(bytes).map_err(|_| Malformed)
}

fn take_delimited<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = usize::try_from(take_varint(bytes)?).map_err(|_| Malformed)?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (taken, rest) = bytes.split_first_chunk::<N>().ok_or(Malformed)?;
    *bytes = rest;
    Ok(*taken)
}

/// JSON has no NaN and no infinity; OTLP/JSON spells them as strings.
fn double(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
            let _infallible = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delimited(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
        bytes.extend_from_slice(inner);
        bytes
    }

    fn request(span: &[u8]) -> Vec<u8> {
        delimited(1, &delimited(2, &delimited(2, span)))
    }

    fn decoded_span(span: &[u8]) -> Value {
        let request = decode_request(&request(span)).unwrap();
        request
            .pointer("/resourceSpans/0/scopeSpans/0/spans/0")
            .unwrap()
            .clone()
    }

    #[test]
    fn unknown_fields_are_kept_with_their_bytes() {
        let span = [delimited(1, &[0xab; 16]), vec![0xf8, 0x06, 0x2a]].concat();
        let span = decoded_span(&span);
        assert_eq!(span["traceId"], "ab".repeat(16));
        assert_eq!(span["unknownFields"][0], "111:Varint:2a");
    }

    #[test]
    fn numbers_of_64_bits_become_strings_and_ids_hex() {
        let start = [vec![0x39], u64::MAX.to_le_bytes().to_vec()].concat();
        assert_eq!(
            decoded_span(&start)["startTimeUnixNano"],
            u64::MAX.to_string()
        );
        let negative = [
            delimited(1, b"k"),
            delimited(
                2,
                &[
                    0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
                ],
            ),
        ];
        let span = decoded_span(&delimited(9, &negative.concat()));
        assert_eq!(span["attributes"][0]["value"]["intValue"], "-1");
    }

    #[test]
    fn a_wrong_wire_type_or_a_cut_message_is_malformed() {
        assert_eq!(decode_request(&request(&[0x08, 0x01])), Err(Malformed));
        let whole = request(&delimited(5, b"name"));
        assert_eq!(decode_request(&whole[..whole.len() - 1]), Err(Malformed));
    }

    #[test]
    fn values_nested_deeper_than_the_limit_are_malformed() {
        let nested = |depth| {
            let value = (0..depth).fold(delimited(1, b"x"), |inner, _| {
                delimited(5, &delimited(1, &inner))
            });
            decode_request(&request(&delimited(9, &delimited(2, &value))))
        };
        assert!(nested((MAX_NESTING - 5) / 2).is_ok());
        assert_eq!(nested(MAX_NESTING / 2), Err(Malformed));
    }
}
