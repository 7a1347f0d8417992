use std::time::Duration;

use bytes::Bytes;
use langfuse_extension::egress::{Counts, Detector, Mask, Rules, Stage};
use langfuse_extension::payload::{Encoding, Kind, Limits, Payload};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value as Any,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use serde_json::Value;

pub(crate) const NOW: Duration = Duration::from_hours(490_007);

pub(crate) fn everything() -> Vec<Detector> {
    Detector::NAMES.iter().map(|(_, it)| *it).collect()
}

pub(crate) fn masking(detectors: &[Detector], keys: &[&str], patterns: &[(&str, &str)]) -> Rules {
    let keys: Vec<_> = keys.iter().map(|it| (*it).to_owned()).collect();
    let patterns: Vec<_> = patterns
        .iter()
        .map(|(name, pattern)| ((*name).to_owned(), (*pattern).to_owned()))
        .collect();
    Rules {
        mask: Mask::new(detectors, &keys, &patterns),
        ..Rules::default()
    }
}

/// The body as it leaves, which has to be a valid one.
pub(crate) fn pass(stage: &Stage, kind: Kind, body: &[u8]) -> (Vec<u8>, Counts) {
    let left = stage.pass(kind, body, NOW);
    let body = left.body.unwrap_or_else(|| body.to_vec());
    if !body.is_empty() {
        accept(kind, &body).expect("what leaves is valid");
    }
    (body, left.counts)
}

pub(crate) fn accept(kind: Kind, body: &[u8]) -> Option<Payload> {
    let body = Bytes::copy_from_slice(body);
    Payload::restore(kind, Encoding::Identity, body, &Limits::default()).ok()
}

/// What both encodings of a request become, which has to be the same.
pub(crate) fn pass_spans(
    make: impl Fn() -> Rules,
    request: &ExportTraceServiceRequest,
) -> (ExportTraceServiceRequest, Counts) {
    let (protobuf, counts) = pass(
        &Stage::new(make()),
        Kind::OtlpProtobuf,
        &request.encode_to_vec(),
    );
    let (json, json_counts) = pass(
        &Stage::new(make()),
        Kind::OtlpJson,
        &serde_json::to_vec(request).unwrap(),
    );
    let protobuf = ExportTraceServiceRequest::decode(&protobuf[..]).unwrap();
    let json: ExportTraceServiceRequest = serde_json::from_slice(&json).unwrap();
    assert_eq!(protobuf, json, "encodings differ");
    assert_eq!(counts, json_counts, "encodings count differently");
    (protobuf, counts)
}

pub(crate) fn pass_json(stage: &Stage, kind: Kind, body: &Value) -> (Value, Counts) {
    let (body, counts) = pass(stage, kind, &serde_json::to_vec(body).unwrap());
    (serde_json::from_slice(&body).unwrap(), counts)
}

pub(crate) fn request(scopes: Vec<(&str, Vec<Span>)>) -> ExportTraceServiceRequest {
    let scope_spans = scopes.into_iter().map(|(name, spans)| ScopeSpans {
        scope: Some(InstrumentationScope {
            name: name.to_owned(),
            ..InstrumentationScope::default()
        }),
        spans,
        ..ScopeSpans::default()
    });
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", "unknown_service:python")],
                ..Resource::default()
            }),
            scope_spans: scope_spans.collect(),
            ..ResourceSpans::default()
        }],
    }
}

pub(crate) fn span(id: u8, parent: u8, attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: vec![7; 16],
        span_id: vec![id; 8],
        parent_span_id: if parent == 0 {
            Vec::new()
        } else {
            vec![parent; 8]
        },
        name: format!("span{id}"),
        attributes,
        ..Span::default()
    }
}

pub(crate) fn ids(request: &ExportTraceServiceRequest) -> Vec<u8> {
    let scopes = request.resource_spans.iter().flat_map(|it| &it.scope_spans);
    scopes
        .flat_map(|it| &it.spans)
        .map(|span| span.span_id[0])
        .collect()
}

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Any::StringValue(value.to_owned()))
}

pub(crate) fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// The value of an attribute of the first span.
pub(crate) fn value_of(request: &ExportTraceServiceRequest, key: &str) -> Option<Any> {
    let span = &request.resource_spans[0].scope_spans[0].spans[0];
    find(&span.attributes, key)
}

pub(crate) fn find(attributes: &[KeyValue], key: &str) -> Option<Any> {
    let found = attributes.iter().find(|it| it.key == key)?;
    found.value.clone()?.value
}

pub(crate) fn text_of(request: &ExportTraceServiceRequest, key: &str) -> String {
    match value_of(request, key) {
        Some(Any::StringValue(text)) => text,
        other => panic!("{key} is {other:?}"),
    }
}
