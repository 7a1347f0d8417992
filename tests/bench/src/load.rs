//! What the app sends: OTLP protobuf with the attributes and texts of an LLM application, each POST one whole trace.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

/// Bytes of text in each of the two long attributes of a span.
pub(crate) const TEXT_BYTES: usize = 420;

const TRACE_ID: [u8; 16] = *b"\xf0\xf1bench-trace-id";
const AUTHORIZATION: &str = "Basic cGstbGYtdGVzdDpzay1sZi10ZXN0";

/// Bytes of other text before a text comes again: more than the 32 KB that gzip looks back, so that an extension which
/// compresses many POSTs as one gains nothing from their being made here.
const CYCLE_BYTES: usize = 256 << 10;

/// A whole HTTP request whose trace id can be changed in place, so that no two POSTs are of one trace.
pub(crate) struct Post {
    /// The same with other texts, which take turns.
    variants: Vec<Variant>,
    /// Of the first one; the others differ by a few bytes.
    pub(crate) body_bytes: usize,
    serial: u64,
}

struct Variant {
    bytes: Vec<u8>,
    ids: Vec<usize>,
}

impl Post {
    pub(crate) fn new(path: &str, spans: usize, text_bytes: usize) -> Self {
        let body_bytes = request(spans, text_bytes, 0).encoded_len();
        let variants = (0..=CYCLE_BYTES / body_bytes)
            .map(|nth| Variant::new(path, &request(spans, text_bytes, nth * spans * 2)))
            .collect();
        Self {
            variants,
            body_bytes,
            serial: 0,
        }
    }

    /// Of ten spans, 10 KB: what one invocation of a small LLM application leaves.
    pub(crate) fn of_ten(path: &str) -> Self {
        Self::new(path, 10, TEXT_BYTES)
    }

    /// One span in a body of about this size.
    pub(crate) fn of_bytes(path: &str, bytes: usize) -> Self {
        Self::new(path, 1, bytes.saturating_sub(200) / 2)
    }

    /// A POST of a trace that was not there before.
    pub(crate) fn fresh(&mut self) -> &[u8] {
        let turn = usize::try_from(self.serial).unwrap_or(0) % self.variants.len();
        self.serial += 1;
        let Variant { bytes, ids } = &mut self.variants[turn];
        for at in ids {
            bytes[*at + 8..*at + 16].copy_from_slice(&self.serial.to_be_bytes());
        }
        bytes
    }
}

impl Variant {
    fn new(path: &str, request: &ExportTraceServiceRequest) -> Self {
        let body = request.encode_to_vec();
        let mut bytes = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {AUTHORIZATION}\r\n\
             x-langfuse-ingestion-version: 4\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend(&body);
        let ids = bytes
            .windows(TRACE_ID.len())
            .enumerate()
            .filter_map(|(at, window)| (window == TRACE_ID).then_some(at))
            .collect();
        Self { bytes, ids }
    }
}

/// How many spans a body holds that reached Langfuse.
pub(crate) fn count_spans(body: &[u8]) -> usize {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let scopes = request.resource_spans.iter().flat_map(|r| &r.scope_spans);
    scopes.map(|scope| scope.spans.len()).sum()
}

/// With texts that begin at this seed.
fn request(spans: usize, text_bytes: usize, seed: usize) -> ExportTraceServiceRequest {
    let span = |at: usize| Span {
        trace_id: TRACE_ID.to_vec(),
        span_id: (at as u64 + 1).to_be_bytes().to_vec(),
        parent_span_id: if at == 0 {
            Vec::new()
        } else {
            1_u64.to_be_bytes().to_vec()
        },
        name: "generation".into(),
        start_time_unix_nano: 1_760_000_000_000_000_000,
        end_time_unix_nano: 1_760_000_001_000_000_000,
        attributes: vec![
            attribute("langfuse.observation.type", "generation".into()),
            attribute("gen_ai.request.model", "a-model".into()),
            attribute("langfuse.observation.input", text(seed + at, text_bytes)),
            attribute(
                "langfuse.observation.output",
                text(seed + at + spans, text_bytes),
            ),
        ],
        flags: 0x101,
        ..Span::default()
    };
    let scope = ScopeSpans {
        spans: (0..spans).map(span).collect(),
        ..ScopeSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![scope],
            ..ResourceSpans::default()
        }],
    }
}

fn attribute(key: &str, value: String) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value)),
        }),
        ..KeyValue::default()
    }
}

/// Words in an order that does not repeat, so that compression has something to do.
fn text(seed: usize, bytes: usize) -> String {
    const WORDS: [&str; 16] = [
        "the ",
        "answer ",
        "model ",
        "context ",
        "is ",
        "of ",
        "\"quoted\" ",
        "retrieval ",
        "user ",
        "score ",
        "and ",
        "because ",
        "0.25 ",
        "trace ",
        "which ",
        "later ",
    ];
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = String::new();
    while out.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        out.push_str(WORDS[(state >> 60) as usize]);
    }
    out
}
