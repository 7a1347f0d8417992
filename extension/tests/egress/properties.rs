//! Nothing that is configured is found in any decoded text that left, however it was nested, escaped or encoded.

use std::fmt::Write as _;

use langfuse_extension::egress::{Rules, Spans, Stage};
use langfuse_extension::payload::Kind;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value as Any,
};
use opentelemetry_proto::tonic::trace::v1::span::Event;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use serde_json::Value;

use crate::corpus::inflated;
use crate::support::{accept, everything, masking, pass, pass_spans, request, span};

/// Each is found in whatever text it stands, and is not a part of any other word here.
const SECRETS: [&str; 7] = [
    "zoe.quux@example.org",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "+49 171 7654321",
    "sk-lf-11111111-2222-3333-4444-555555555555",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3",
    "EMPLOYEE-778899",
];
/// What stands under a configured key, and nowhere else.
const UNDER_KEY: &str = "hunter2";

fn stage() -> Rules {
    masking(
        &everything(),
        &["password"],
        &[("employee", r"(?i)employee-\d+")],
    )
}

fn sentence() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        3 => "[ a-zäöü,.\"\\\\\n\t{}\\[\\]:]{0,12}".prop_map(|it| format!("{it} ")),
        2 => (0..SECRETS.len()).prop_map(|at| format!(" {} ", SECRETS[at])),
    ];
    vec(word, 0..6).prop_map(|words| words.concat())
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        sentence().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let member = prop_oneof![
            ("[a-c]{1,3}", inner.clone()),
            (Just("PassWord".to_owned()), Just(Value::from(UNDER_KEY))),
            (sentence(), inner.clone()),
        ];
        prop_oneof![
            vec(inner, 0..4).prop_map(Value::from),
            vec(member, 0..4).prop_map(|it| Value::Object(it.into_iter().collect())),
        ]
    })
}

/// The text of a value with some of its characters escaped that need not be.
fn written(value: &Value, escapes: u64) -> String {
    let text = value.to_string();
    let mut out = String::new();
    let (mut inside, mut after_backslash) = (false, false);
    for (at, c) in text.chars().enumerate() {
        let plain = inside && !after_backslash && c != '"' && c != '\\';
        if plain && escapes >> (at % 64) & 1 == 1 {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").unwrap();
            }
        } else {
            out.push(c);
        }
        inside ^= c == '"' && !after_backslash;
        after_backslash = c == '\\' && !after_backslash;
    }
    out
}

fn any_value() -> impl Strategy<Value = Any> {
    let leaf = prop_oneof![
        sentence().prop_map(Any::StringValue),
        (json_value(), any::<u64>())
            .prop_map(|(value, escapes)| Any::StringValue(written(&value, escapes))),
        sentence().prop_map(|it| Any::BytesValue(it.into_bytes())),
        any::<i32>().prop_map(|it| Any::IntValue(it.into())),
        any::<i16>().prop_map(|it| Any::DoubleValue(f64::from(it) / 8.0)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let wrapped = inner.clone().prop_map(|it| AnyValue { value: Some(it) });
        let pair = (sentence(), inner).prop_map(|(key, value)| KeyValue {
            key,
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
        prop_oneof![
            vec(wrapped, 0..4).prop_map(|values| Any::ArrayValue(ArrayValue { values })),
            vec(pair, 0..4).prop_map(|values| Any::KvlistValue(KeyValueList { values })),
        ]
    })
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let pair = prop_oneof![
        ("[a-c.]{1,8}", any_value()),
        (
            Just("app.password".to_owned()),
            Just(Any::StringValue(UNDER_KEY.into()))
        ),
    ];
    let one = pair.prop_map(|(key, value)| KeyValue {
        key,
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    });
    vec(one, 0..4)
}

fn any_request() -> impl Strategy<Value = ExportTraceServiceRequest> {
    let one = (attributes(), attributes(), sentence(), 1..9_u8, 0..9_u8);
    let scope = (
        prop_oneof![Just("langfuse-sdk"), Just("requests")],
        vec(one, 0..4),
    );
    vec(scope, 0..3).prop_map(|scopes| {
        let scopes = scopes.into_iter().map(|(scope, spans)| {
            let spans = spans
                .into_iter()
                .map(|(attributes, of_event, name, id, parent)| {
                    let mut span = span(id, parent, attributes);
                    span.name = name;
                    span.events.push(Event {
                        attributes: of_event,
                        ..Event::default()
                    });
                    span
                });
            (scope, spans.collect())
        });
        request(scopes.collect())
    })
}

/// Every text in a value, also those in JSON inside of a text, once.
fn texts(value: &Value, look_into: bool, found: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            if look_into && let Ok(inner) = serde_json::from_str::<Value>(text) {
                texts(&inner, false, found);
            }
            found.push(text.clone());
        }
        Value::Array(values) => values.iter().for_each(|it| texts(it, look_into, found)),
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            found.push(key.clone());
            texts(value, look_into, found);
        }),
        _ => {}
    }
}

fn nothing_left(value: &Value) {
    let mut found = Vec::new();
    texts(value, true, &mut found);
    for text in found {
        for secret in SECRETS.iter().chain([&UNDER_KEY]) {
            assert!(!text.contains(secret), "{secret} is in {text:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_configured_leaves_in_spans(sent in any_request()) {
        let (left, _) = pass_spans(stage, &sent);
        nothing_left(&serde_json::to_value(&left).unwrap());
        for bytes in bytes_of(&left) {
            nothing_left(&Value::from(String::from_utf8_lossy(&bytes).into_owned()));
        }
    }

    #[test]
    fn nothing_configured_leaves_in_events(values in vec(json_value(), 0..4), escapes in any::<u64>()) {
        let events: Vec<Value> = values.into_iter().map(|it| serde_json::json!({
            "id": "e", "type": "span-create", "body": {"id": "i", "input": it, "name": it, "comment": it.to_string()},
        })).collect();
        let body = written(&serde_json::json!({"batch": events}), escapes);
        // What is escaped in a name of a member is the same name.
        let (left, _) = pass(&Stage::new(stage()), Kind::Ingestion, body.as_bytes());
        nothing_left(&serde_json::from_slice(&left).unwrap());
    }

    #[test]
    fn a_part_of_a_request_leaves_as_little_as_the_whole(sent in any_request()) {
        let whole = accept(Kind::OtlpProtobuf, &sent.encode_to_vec()).unwrap();
        for part in whole.cut(1).into_iter().flatten() {
            let (left, _) = pass(&Stage::new(stage()), Kind::OtlpProtobuf, &inflated(part.body()));
            let left = ExportTraceServiceRequest::decode(&left[..]).unwrap();
            nothing_left(&serde_json::to_value(&left).unwrap());
        }
    }

    #[test]
    fn every_span_leaves_or_is_counted(sent in any_request()) {
        let before = sent.resource_spans.iter().flat_map(|it| &it.scope_spans).map(|it| it.spans.len()).sum::<usize>();
        for spans in [Spans::Llm, Spans::LlmTree] {
            let make = || { let mut stage = stage(); stage.filter.spans = spans; stage };
            let (left, counts) = pass_spans(make, &sent);
            prop_assert_eq!(crate::support::ids(&left).len() + counts.held_back() as usize, before);
        }
    }

    #[test]
    fn any_valid_bytes_leave_as_valid_bytes(bytes in vec(any::<u8>(), 0..64)) {
        for kind in [Kind::OtlpProtobuf, Kind::OtlpJson, Kind::Ingestion, Kind::Scores] {
            if accept(kind, &bytes).is_some() {
                pass(&Stage::new(stage()), kind, &bytes);
            }
        }
    }
}

fn bytes_of(request: &ExportTraceServiceRequest) -> Vec<Vec<u8>> {
    fn of(value: Option<&AnyValue>, found: &mut Vec<Vec<u8>>) {
        match value.and_then(|it| it.value.as_ref()) {
            Some(Any::BytesValue(bytes)) => found.push(bytes.clone()),
            Some(Any::ArrayValue(list)) => list.values.iter().for_each(|it| of(Some(it), found)),
            Some(Any::KvlistValue(list)) => list
                .values
                .iter()
                .for_each(|it| of(it.value.as_ref(), found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    let spans = request
        .resource_spans
        .iter()
        .flat_map(|it| &it.scope_spans)
        .flat_map(|it| &it.spans);
    for attribute in spans.flat_map(|span| {
        span.attributes
            .iter()
            .chain(span.events.iter().flat_map(|it| &it.attributes))
    }) {
        of(attribute.value.as_ref(), &mut found);
    }
    found
}
