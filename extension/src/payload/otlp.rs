//! Accepting an OTLP request in any of its encodings.

use bytes::Bytes;

use super::encoding::{Declared, declared, inflate, inflated};
use super::otlp_proto::OtlpProto;
use super::pass::Leaving;
use super::poison::storable;
use super::refusal::{contains_ignoring_case, is_protobuf};
use super::{Encoding, Facts, Kind, Limits, Payload, Refusal, otlp_json};

/// Validates the body of a trace export. The headers are given as they came, empty where there was none.
///
/// Protobuf stays as it came (deflate, which Langfuse cannot read, becomes gzip without being compressed again); JSON is
/// kept inflated, to be spliced. A request without spans is accepted and has no units.
pub fn accept_otlp(
    content_type: &str,
    content_encoding: &str,
    body: Bytes,
    limits: &Limits<'_>,
) -> Result<(Payload, Facts), Refusal> {
    let declared = declared(content_encoding)?;
    if is_protobuf(content_type) {
        accept_protobuf(declared, &body, limits)
    } else if contains_ignoring_case(content_type, super::answer::JSON) {
        accept_json(declared, body, limits)
    } else {
        Err(Refusal::UnsupportedMediaType(
            content_type.to_owned(),
            "OTLP traces come as application/x-protobuf or application/json",
        ))
    }
}

fn accept_protobuf(
    declared: Declared,
    body: &Bytes,
    limits: &Limits<'_>,
) -> Result<(Payload, Facts), Refusal> {
    let mut validator = OtlpProto::new(limits.facts_spans);
    let inflated = inflate(declared, body, limits.inflated_bytes, &mut validator)?;
    let (units, facts, poisoned) = validator.finish()?;
    let payload = Payload {
        kind: Kind::OtlpProtobuf,
        encoding: if declared == Declared::Identity {
            Encoding::Identity
        } else {
            Encoding::Gzip
        },
        body: inflated.gzip,
        inflated_bytes: inflated.bytes,
        units,
        elements: 0..0,
        travels_alone: poisoned,
        repaired: false,
        leaving: Leaving::default(),
    };
    Ok((payload, facts))
}

fn accept_json(
    declared: Declared,
    body: Bytes,
    limits: &Limits<'_>,
) -> Result<(Payload, Facts), Refusal> {
    let body = inflated_json(declared, body, limits)?;
    let request = otlp_json::validate(&body, limits.facts_spans)?;
    let repaired = request.lone_surrogates;
    let body = storable(body, repaired, limits)?;
    let payload = Payload {
        kind: Kind::OtlpJson,
        encoding: Encoding::Identity,
        inflated_bytes: body.len(),
        body,
        units: request.spans,
        elements: request.elements,
        travels_alone: request.poisoned,
        repaired,
        leaving: Leaving::default(),
    };
    Ok((payload, request.facts))
}

/// The JSON text of a body, inflated if need be.
pub(super) fn inflated_json(
    declared: Declared,
    body: Bytes,
    limits: &Limits<'_>,
) -> Result<Bytes, Refusal> {
    if declared == Declared::Identity {
        return Ok(body);
    }
    inflated(declared, &body, limits.json_inflated_bytes, limits)
}
