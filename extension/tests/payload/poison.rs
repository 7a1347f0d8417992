//! Forms that Langfuse takes and loses later.

use std::slice::from_ref;

use langfuse_extension::payload::Kind;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use prost::Message;

use crate::support::{JSON, accept, accept_json, accept_protobuf, gzip, merged, request};

fn attribute(value: Option<AnyValue>) -> KeyValue {
    KeyValue {
        key: "key".into(),
        value,
        ..KeyValue::default()
    }
}

/// A request whose resource, scope, span, event and link have these attributes.
fn protobuf(places: [&[KeyValue]; 5]) -> Vec<u8> {
    let [of_resource, of_scope, of_span, of_event, of_link] = places.map(<[_]>::to_vec);
    let mut request = request(1, 1);
    let resource_spans = &mut request.resource_spans[0];
    resource_spans.resource = Some(Resource {
        attributes: of_resource,
        ..Resource::default()
    });
    let scope_spans = &mut resource_spans.scope_spans[0];
    scope_spans.scope = Some(InstrumentationScope {
        attributes: of_scope,
        ..InstrumentationScope::default()
    });
    let span = &mut scope_spans.spans[0];
    span.attributes = of_span;
    span.events = vec![Event {
        attributes: of_event,
        ..Event::default()
    }];
    span.links = vec![Link {
        attributes: of_link,
        ..Link::default()
    }];
    request.encode_to_vec()
}

#[test]
fn protobuf_with_an_attribute_without_a_value_travels_alone() {
    let (good, bad) = (attribute(Some(AnyValue::default())), attribute(None));
    for poisoned in 0..3 {
        for attributes in [
            vec![bad.clone()],
            vec![good.clone(), bad.clone(), good.clone()],
        ] {
            let mut places: [&[KeyValue]; 5] = [from_ref(&good); 5];
            places[poisoned] = &attributes;
            let body = protobuf(places);
            assert!(
                accept_protobuf(body.clone()).unwrap().0.travels_alone(),
                "{poisoned}"
            );
            let compressed = accept(Kind::OtlpProtobuf, "gzip", gzip(&body)).unwrap();
            assert!(compressed.travels_alone(), "{poisoned}, compressed");
        }
    }
    // Events and links do it no harm, nor does an empty value.
    let harmless = [
        &[good.clone()][..],
        from_ref(&good),
        from_ref(&good),
        from_ref(&bad),
        from_ref(&bad),
    ];
    assert!(
        !accept_protobuf(protobuf(harmless))
            .unwrap()
            .0
            .travels_alone()
    );
}

#[test]
fn json_with_an_attribute_without_a_value_travels_alone() {
    let ids = r#""traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708""#;
    for (attributes, alone) in [
        (r#"[{"key":"a"}]"#, true),
        (r#"[{"key":"a","value":null}]"#, true),
        ("[null]", true),
        (r#"["a"]"#, true),
        ("[[]]", true),
        (r#"[{"key":"a","value":{"stringValue":"b"}},{}]"#, true),
        (r#"[{"key":"a","value":{}}]"#, false),
        (r#"[{"value":null,"value":{}}]"#, false),
        (
            r#"[{"key":"a","value":{"arrayValue":{"values":[null]}}}]"#,
            false,
        ),
        ("[]", false),
        ("null", false),
    ] {
        let attributes = format!(r#""attributes":{attributes}"#);
        for (resource, scope, span) in [
            (&attributes[..], "", ids.to_owned()),
            ("", &attributes, ids.to_owned()),
            ("", "", format!("{ids},{attributes}")),
        ] {
            let body = format!(
                r#"{{"resourceSpans":[{{"resource":{{{resource}}},"scopeSpans":[{{"scope":{{{scope}}},"spans":[{{{span}}}]}}]}}]}}"#
            );
            assert_eq!(
                accept_json(body.clone()).unwrap().0.travels_alone(),
                alone,
                "{body}"
            );
        }
        let event = format!(
            r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{ids},"events":[{{{attributes}}}]}}]}}]}}]}}"#
        );
        assert!(
            !accept_json(event).unwrap().0.travels_alone(),
            "{attributes}"
        );
    }
}

#[test]
fn half_of_a_surrogate_pair_becomes_the_replacement_character_wherever_it_stands() {
    let span = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"01020304050607080910111213141516","spanId":"0102030405060708","name":"a\ud800"}]}]}]}"#;
    for (kind, body) in [
        (Kind::OtlpJson, span),
        (
            Kind::Ingestion,
            r#"{"batch":[{"id":"a","body":{"x\ud800":"\ude00b"}}]}"#,
        ),
        (
            Kind::Scores,
            r#"[{"name":"a","value":"\ud800\ud83d\ude00"}]"#,
        ),
        (
            Kind::Score,
            r#"{"id":"a","name":"a","value":"\ud83d\ud83d\ude00"}"#,
        ),
    ] {
        let payload = accept(kind, "", body).unwrap();
        assert!(payload.was_repaired(), "{body}");
        let text = String::from_utf8(merged(vec![payload])).unwrap();
        assert!(text.contains(r"\ufffd"), "{text}");
        assert!(
            accept(kind, "", text.clone()).is_ok_and(|it| !it.was_repaired()),
            "{text}"
        );
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&text);
        assert!(parsed.is_ok(), "{text}");
    }
    let whole = span.replace(r"\ud800", r"\ud83d\ude00");
    let payload = accept(Kind::OtlpJson, "", whole.clone()).unwrap();
    assert!(!payload.was_repaired());
    let merged = merged(vec![payload]);
    assert_eq!(merged, whole.as_bytes(), "{JSON}");
}
