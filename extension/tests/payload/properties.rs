//! Round trips that hold for any request.

use flate2::Compression;
use langfuse_extension::payload::{Kind, Payload, Refusal};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use serde::de::IgnoredAny;

use crate::support::{
    accept, accept_batch, accept_json, accept_protobuf, gzip, merged, split_to_the_end, units,
};

fn any_value() -> impl Strategy<Value = AnyValue> {
    use any_value::Value::{
        ArrayValue as List, BoolValue, BytesValue, DoubleValue, IntValue, StringValue,
    };
    let leaf = prop_oneof![
        ".{0,40}".prop_map(StringValue),
        any::<bool>().prop_map(BoolValue),
        any::<i64>().prop_map(IntValue),
        any::<f64>()
            .prop_filter("equal to itself", |it| !it.is_nan())
            .prop_map(DoubleValue),
        vec(any::<u8>(), 0..40).prop_map(BytesValue),
    ]
    .prop_map(|value| AnyValue { value: Some(value) });
    leaf.prop_recursive(4, 16, 4, |inner| {
        vec(inner, 0..4).prop_map(|values| AnyValue {
            value: Some(List(ArrayValue { values })),
        })
    })
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let one = ("[a-z.]{1,20}", proptest::option::of(any_value()));
    vec(
        one.prop_map(|(key, value)| KeyValue {
            key,
            value,
            ..KeyValue::default()
        }),
        0..4,
    )
}

fn span() -> impl Strategy<Value = Span> {
    (
        any::<[u8; 16]>(),
        any::<[u8; 8]>(),
        ".{0,300}",
        attributes(),
        attributes(),
        any::<u32>(),
    )
        .prop_map(
            |(trace_id, span_id, name, attributes, of_event, flags)| Span {
                trace_id: trace_id.to_vec(),
                span_id: span_id.to_vec(),
                name,
                attributes,
                events: vec![Event {
                    attributes: of_event,
                    ..Event::default()
                }],
                flags,
                ..Span::default()
            },
        )
}

fn request() -> impl Strategy<Value = ExportTraceServiceRequest> {
    vec(resource(), 0..3).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
}

/// One that has bytes to damage.
fn request_with_bytes() -> impl Strategy<Value = ExportTraceServiceRequest> {
    vec(resource(), 1..3).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
}

fn resource() -> impl Strategy<Value = ResourceSpans> {
    let scope = (vec(span(), 0..4), ".{0,10}").prop_map(|(spans, schema_url)| ScopeSpans {
        spans,
        schema_url,
        ..ScopeSpans::default()
    });
    (vec(scope, 0..3), attributes(), ".{0,10}").prop_map(|(scope_spans, attributes, schema_url)| {
        let resource = Some(Resource {
            attributes,
            ..Resource::default()
        });
        ResourceSpans {
            resource,
            scope_spans,
            schema_url,
        }
    })
}

/// The same request in each of the ways a client may send it.
fn held(request: &ExportTraceServiceRequest, way: u8) -> Payload {
    let body = request.encode_to_vec();
    match way % 3 {
        0 => accept(Kind::OtlpProtobuf, "", body),
        1 => accept(Kind::OtlpProtobuf, "gzip", gzip(&body)),
        _ => {
            let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
            std::io::Write::write_all(&mut zlib, &body).unwrap();
            accept(Kind::OtlpProtobuf, "deflate", zlib.finish().unwrap())
        }
    }
    .unwrap()
}

fn as_json(request: &ExportTraceServiceRequest) -> String {
    serde_json::to_string(request).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn protobuf_requests_merge_by_appending(requests in vec((request(), any::<u8>()), 1..5)) {
        let parts = requests.iter().map(|(request, way)| held(request, *way)).collect();
        let expected: Vec<_> = requests.iter().flat_map(|(request, _)| request.resource_spans.clone()).collect();
        let found = ExportTraceServiceRequest::decode(&merged(parts)[..]).unwrap();
        prop_assert_eq!(found.resource_spans, expected);
    }

    #[test]
    fn protobuf_requests_are_cut_between_spans_and_lose_nothing(request in request(), way: u8) {
        let expected = units(Kind::OtlpProtobuf, &request.encode_to_vec());
        let pieces = split_to_the_end(held(&request, way));
        prop_assert!(pieces.len() == expected.len().max(1));
        let found: Vec<_> = pieces.into_iter().flat_map(|it| units(Kind::OtlpProtobuf, &merged(vec![it]))).collect();
        prop_assert!(found == expected);
    }

    #[test]
    fn json_requests_are_merged_and_cut_and_lose_nothing(requests in vec(request(), 1..4)) {
        let texts: Vec<_> = requests.iter().map(as_json).collect();
        let parts = texts.iter().map(|text| accept_json(text.clone()).unwrap().0).collect();
        let expected: Vec<_> = texts.iter().flat_map(|text| units(Kind::OtlpJson, text.as_bytes())).collect();
        let whole = accept_json(merged(parts)).unwrap().0;
        prop_assert_eq!(whole.units() as usize, expected.len());
        let pieces = split_to_the_end(whole);
        let found: Vec<_> = pieces.into_iter().flat_map(|it| units(Kind::OtlpJson, &merged(vec![it]))).collect();
        prop_assert!(found == expected);
    }

    #[test]
    fn both_encodings_of_a_request_tell_the_same_facts(request in request()) {
        let (_, of_protobuf) = accept_protobuf(request.encode_to_vec()).unwrap();
        let (_, of_json) = accept_json(as_json(&request)).unwrap();
        prop_assert_eq!(of_protobuf, of_json);
    }

    #[test]
    fn damaged_protobuf_is_refused_or_stays_readable(request in request_with_bytes(), at: prop::sample::Index, byte: u8) {
        let mut body = request.encode_to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        // The other decoder is stricter than Langfuse's about text and depth, and takes spans without ids.
        if let (Ok((payload, _)), Ok(read)) = (accept_protobuf(body.clone()), ExportTraceServiceRequest::decode(&body[..])) {
            prop_assert_eq!(payload.units() as usize, units(Kind::OtlpProtobuf, &read.encode_to_vec()).len());
        }
    }

    #[test]
    fn json_is_read_by_the_grammar_and_nothing_else(text in r#"[\[\]{}",:0-9eE+\-. a\\untrflse]{0,24}"#) {
        let by_the_book = serde_json::from_str::<IgnoredAny>(&text).is_ok();
        let malformed = matches!(accept_json(text), Err(Refusal::Malformed { .. }));
        prop_assert_eq!(malformed, !by_the_book);
    }

    #[test]
    fn values_around_a_batch_are_read_by_the_grammar_too(text in r#"[\[\]{}",:0-9eE+\-. a\\untrflse]{0,16}"#) {
        let whole = format!(r#"{{"batch":[{{"x":{text}}}]}}"#);
        let by_the_book = serde_json::from_str::<IgnoredAny>(&whole).is_ok();
        prop_assert_eq!(accept_batch(whole).is_ok(), by_the_book);
    }
}
