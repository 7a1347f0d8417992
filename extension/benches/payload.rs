//! How fast bodies are validated and merged: `cargo bench -p langfuse-lambda-extension --bench payload`.

#![expect(clippy::unwrap_used, reason = "a measurement may stop")]

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use langfuse_extension::egress::{Detector, Filter, Mask, Rules, Sample, Spans, Stage};
use langfuse_extension::payload::{Kind, Limits, accept_ingestion, accept_otlp, merge};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

const SPANS: u64 = 512;
const TEXT_BYTES: u64 = 1800;
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

fn main() {
    let request = request();
    let protobuf = Bytes::from(request.encode_to_vec());
    let json = Bytes::from(serde_json::to_vec(&request).unwrap());
    let batch = Bytes::from(
        [
            br#"{"batch":["#.as_slice(),
            &vec![b"{}".as_slice(); 100].join(&b','),
            b"]}",
        ]
        .concat(),
    );
    let limits = Limits::default();
    let bytes = protobuf.len();
    let otlp = |content_type, encoding, body: &Bytes| {
        let accepted = accept_otlp(content_type, encoding, body.clone(), &limits);
        accepted.unwrap().0
    };
    measure("validate protobuf", bytes, || otlp(PROTOBUF, "", &protobuf));
    let gzipped = gzip(&protobuf);
    measure("inflate and validate gzip protobuf", bytes, || {
        otlp(PROTOBUF, "gzip", &gzipped)
    });
    measure("validate JSON", json.len(), || otlp(JSON, "", &json));
    measure("validate a batch of 100 events", batch.len(), || {
        accept_ingestion(JSON, "", batch.clone(), &limits)
    });
    let payload = otlp(PROTOBUF, "", &protobuf);
    let detectors = Detector::NAMES.map(|(_, detector)| detector);
    let keys = ["password".to_owned()];
    let pattern = ("employee".to_owned(), r"(?i)employee-\d+".to_owned());
    let masks = [
        ("mask with six detectors", Mask::new(&detectors, &keys, &[])),
        ("mask with a pattern", Mask::new(&[], &[], &[pattern])),
    ];
    for (name, mask) in masks {
        let stage = Stage::new(Rules {
            mask,
            ..Rules::default()
        });
        for (kind, body) in [(Kind::OtlpProtobuf, &protobuf), (Kind::OtlpJson, &json)] {
            let name = format!("{name}, {kind:?}");
            measure(&name, body.len(), || stage.pass(kind, body, Duration::ZERO));
        }
    }
    let stage = Stage::new(Rules {
        filter: Filter {
            spans: Spans::LlmTree,
            ..Filter::default()
        },
        sample: Sample::new(0.5).ok(),
        ..Rules::default()
    });
    measure("filter and sample protobuf", bytes, || {
        stage.pass(Kind::OtlpProtobuf, &protobuf, Duration::ZERO)
    });
    measure("compress to send", bytes, || merge(vec![payload.clone()]));
    let sent = merge(vec![payload.clone()]).body.len();
    println!("{:<40} {sent:>9} of {bytes} bytes", "compressed");
    measure("cut protobuf in four", bytes, || payload.cut(bytes / 4));
}

/// Spans as an LLM application sends them: a few short attributes and two long texts.
fn request() -> ExportTraceServiceRequest {
    let span = |id: u64| Span {
        trace_id: [id.to_be_bytes(), id.to_le_bytes()].concat(),
        span_id: (id + 1).to_be_bytes().to_vec(),
        name: "generation".into(),
        attributes: vec![
            attribute("langfuse.observation.type", "generation".into()),
            attribute("gen_ai.request.model", "a-model".into()),
            attribute("langfuse.observation.input", text(id)),
            attribute("langfuse.observation.output", text(id + SPANS)),
        ],
        flags: 0x101,
        ..Span::default()
    };
    let scope = ScopeSpans {
        spans: (0..SPANS).map(span).collect(),
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
fn text(seed: u64) -> String {
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
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = String::new();
    while (out.len() as u64) < TEXT_BYTES * 2 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        out.push_str(WORDS[usize::try_from(state >> 60).unwrap()]);
    }
    out
}

fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap().into()
}

/// Prints the best of several rounds: the machine is shared.
fn measure<T>(what: &str, bytes: usize, mut work: impl FnMut() -> T) {
    const ROUNDS: usize = 15;
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        black_box(work());
        best = best.min(start.elapsed());
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = bytes as f64 / best.as_secs_f64() / 1e6;
    println!("{what:<40} {bytes:>9} bytes {best:>12.1?} {rate:>8.0} MB/s");
}
