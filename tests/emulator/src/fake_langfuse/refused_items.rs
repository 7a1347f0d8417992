//! Answers that take a request and refuse some of its items.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Value, json};

use super::fault::contains;
use super::otlp;
use super::recording::Observation;
use super::reply::Reply;
use super::request::Incoming;
use super::routes::{Answer, Contents};

/// What a client is told of each item.
const MESSAGE: &str = "Refused by a rule";

/// Takes the items that contain this text out of what an otherwise good answer stores, and says so.
pub(super) fn refuse(
    answer: &mut Answer,
    contents: &Contents,
    incoming: &Incoming,
    containing: &str,
    status: u16,
) {
    if !answer.accepted {
        return;
    }
    if let Contents::Spans(Ok(spans)) = contents {
        let template = otlp::template(0, None, true, std::sync::Arc::default());
        let spans = otlp::observations(spans, &template);
        let refused_count = spans
            .iter()
            .filter(|span| is_refused(span, containing))
            .count();
        if refused_count > 0 {
            answer.reply = partial_success(incoming, refused_count);
        }
        answer.refused_text = Some(containing.to_owned());
        return;
    }
    let mut refused = Vec::new();
    for (event, accepted) in &mut answer.events {
        if *accepted && contains(event.to_string().as_bytes(), containing) {
            *accepted = false;
            refused.push(event["id"].clone());
        }
    }
    if let Ok(mut body) = serde_json::from_slice::<Value>(&answer.reply.body) {
        if let Some(successes) = body["successes"].as_array_mut() {
            successes.retain(|success| !refused.contains(&success["id"]));
        }
        if let Some(errors) = body["errors"].as_array_mut() {
            errors.extend(refused.iter().map(
                |id| json!({"id": id, "status": status, "message": MESSAGE, "error": MESSAGE}),
            ));
            answer.reply = Reply::json(answer.reply.status, &body);
        }
    }
}

/// Whether a span is one of those.
pub(super) fn is_refused(span: &Observation, containing: &str) -> bool {
    contains(span.span.to_string().as_bytes(), containing)
}

/// An `ExportTraceServiceResponse` in the encoding of the request.
/// <https://opentelemetry.io/docs/specs/otlp/#partial-success-1>
fn partial_success(incoming: &Incoming, refused_count: usize) -> Reply {
    let is_protobuf = incoming
        .header("content-type")
        .is_some_and(|kind| kind.contains("protobuf"));
    if !is_protobuf {
        let partial = json!({"rejectedSpans": refused_count.to_string(), "errorMessage": MESSAGE});
        return Reply::json(200, &json!({"partialSuccess": partial}));
    }
    let mut partial = Vec::new();
    encode_key(1, WireType::Varint, &mut partial);
    encode_varint(refused_count as u64, &mut partial);
    encode_key(2, WireType::LengthDelimited, &mut partial);
    encode_varint(MESSAGE.len() as u64, &mut partial);
    partial.extend_from_slice(MESSAGE.as_bytes());
    let mut body = Vec::new();
    encode_key(1, WireType::LengthDelimited, &mut body);
    encode_varint(partial.len() as u64, &mut body);
    body.extend_from_slice(&partial);
    Reply::new(200, "application/x-protobuf", Bytes::from(body))
}
