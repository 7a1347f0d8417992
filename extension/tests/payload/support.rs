use bytes::Bytes;
use langfuse_extension::payload::{
    Facts, Kind, Limits, Merged, Payload, Refusal, accept_ingestion, accept_otlp, accept_scores,
    merge,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use serde_json::Value;
use std::io::{Read, Write};

pub(crate) const PROTOBUF: &str = "application/x-protobuf";
pub(crate) const JSON: &str = "application/json";

pub(crate) fn accept_protobuf(body: impl Into<Bytes>) -> Result<(Payload, Facts), Refusal> {
    accept_otlp(PROTOBUF, "", body.into(), &Limits::default())
}

pub(crate) fn accept_json(body: impl Into<Bytes>) -> Result<(Payload, Facts), Refusal> {
    accept_otlp(JSON, "", body.into(), &Limits::default())
}

/// Accepts a batch and returns the ids that its answer says are stored.
pub(crate) fn accept_batch(body: impl Into<Bytes>) -> Result<(Payload, Vec<String>), Refusal> {
    let (payload, answer) = accept_ingestion(JSON, "", body.into(), &Limits::default())?;
    let answer = json(&answer.body);
    assert_eq!(answer["errors"], Value::from(Vec::<Value>::new()));
    let successes = list(&answer["successes"]).iter();
    let ids = successes.map(|it| {
        assert_eq!(it["status"], 201);
        it["id"].as_str().unwrap().to_owned()
    });
    Ok((payload, ids.collect()))
}

/// Accepts a body of any kind and returns the payload alone.
pub(crate) fn accept(
    kind: Kind,
    encoding: &str,
    body: impl Into<Bytes>,
) -> Result<Payload, Refusal> {
    let (body, limits) = (body.into(), Limits::default());
    match kind {
        Kind::OtlpProtobuf => accept_otlp(PROTOBUF, encoding, body, &limits).map(|it| it.0),
        Kind::OtlpJson => accept_otlp(JSON, encoding, body, &limits).map(|it| it.0),
        Kind::Ingestion => accept_ingestion(JSON, encoding, body, &limits).map(|it| it.0),
        Kind::Scores | Kind::Score => accept_scores(JSON, encoding, body, &limits).map(|it| it.0),
    }
}

pub(crate) fn merged(parts: Vec<Payload>) -> Vec<u8> {
    plain(&merge(parts))
}

/// The body as Langfuse sees it after inflating.
pub(crate) fn plain(merged: &Merged) -> Vec<u8> {
    match merged.content_encoding {
        None => merged.body.to_vec(),
        Some("gzip") => gunzip(&merged.body),
        Some(other) => panic!("Langfuse does not inflate {other}"),
    }
}

pub(crate) fn gunzip(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(body)
        .read_to_end(&mut out)
        .unwrap();
    out
}

pub(crate) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn decode(body: &[u8]) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest::decode(body).unwrap()
}

pub(crate) fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

/// One span, event or score with all that encloses it, so that two requests can be compared however they are grouped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Unit {
    Protobuf(Vec<u8>),
    Json(Value),
}

pub(crate) fn units(kind: Kind, body: &[u8]) -> Vec<Unit> {
    let json_units = match kind {
        Kind::OtlpProtobuf => return spans_with_context(&decode(body)),
        Kind::OtlpJson => json_spans_with_context(&json(body)),
        Kind::Ingestion => list(&json(body)["batch"]).to_vec(),
        Kind::Scores => list(&json(body)).to_vec(),
        Kind::Score => vec![json(body)],
    };
    json_units.into_iter().map(Unit::Json).collect()
}

fn spans_with_context(request: &ExportTraceServiceRequest) -> Vec<Unit> {
    let mut found = Vec::new();
    for resource in &request.resource_spans {
        for scope in &resource.scope_spans {
            for span in &scope.spans {
                let scope = ScopeSpans {
                    scope: scope.scope.clone(),
                    spans: vec![span.clone()],
                    schema_url: scope.schema_url.clone(),
                };
                let resource = ResourceSpans {
                    resource: resource.resource.clone(),
                    scope_spans: vec![scope],
                    schema_url: resource.schema_url.clone(),
                };
                found.push(Unit::Protobuf(resource.encode_to_vec()));
            }
        }
    }
    found
}

fn json_spans_with_context(request: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    for resource in list(&request["resourceSpans"]) {
        for scope in list(&resource["scopeSpans"]) {
            for span in list(&scope["spans"]) {
                found.push(with(
                    resource,
                    "scopeSpans",
                    with(scope, "spans", span.clone()),
                ));
            }
        }
    }
    found
}

/// An object whose list `key` holds `only` and nothing else.
fn with(object: &Value, key: &str, only: Value) -> Value {
    let members = object
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != key);
    let mut alone: serde_json::Map<_, _> = members
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    alone.insert(key.to_owned(), vec![only].into());
    alone.into()
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Cuts a payload again and again until nothing can be cut.
pub(crate) fn split_to_the_end(payload: Payload) -> Vec<Payload> {
    match payload.cut(payload.inflated_bytes() / 2) {
        Some(parts) => parts.into_iter().flat_map(split_to_the_end).collect(),
        None => vec![payload],
    }
}

/// A request with `spans` spans of `bytes` bytes of text each, in one scope.
pub(crate) fn request(spans: u8, bytes: usize) -> ExportTraceServiceRequest {
    let spans = (1..=spans).map(|id| span(id, &"x".repeat(bytes))).collect();
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                dropped_attributes_count: 7,
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "langfuse-sdk".into(),
                    ..InstrumentationScope::default()
                }),
                spans,
                schema_url: "https://opentelemetry.io/schemas/1.25.0".into(),
            }],
            schema_url: "https://opentelemetry.io/schemas/1.26.0".into(),
        }],
    }
}

pub(crate) fn span(id: u8, name: &str) -> Span {
    Span {
        trace_id: vec![id; 16],
        span_id: vec![id; 8],
        name: name.into(),
        ..Span::default()
    }
}
