use std::time::Duration;

use langfuse_extension::egress::{
    Detector, Enrich, Filter, Invocation, MASKED, Rules, STRIPPED, Sample, Spans, Stage,
    Value as Added,
};
use langfuse_extension::payload::Kind;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, KeyValueList, any_value::Value as Any,
};
use opentelemetry_proto::tonic::trace::v1::Status;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};

use crate::support::{
    attribute, everything, find, ids, masking, pass, pass_spans, request, span, text, text_of,
    value_of,
};

fn list(values: Vec<Any>) -> Any {
    Any::ArrayValue(ArrayValue {
        values: values
            .into_iter()
            .map(|value| AnyValue { value: Some(value) })
            .collect(),
    })
}

#[test]
fn every_text_of_a_span_is_masked() {
    let mail = "anna@example.org";
    let mut it = span(
        1,
        0,
        vec![
            text("url", "https://x/?mail=anna%40example.org"),
            attribute(
                "tags",
                list(vec![Any::StringValue(mail.into()), Any::IntValue(1)]),
            ),
            attribute(
                "map",
                Any::KvlistValue(KeyValueList {
                    values: vec![text("inner", mail)],
                }),
            ),
            attribute("bytes", Any::BytesValue(mail.as_bytes().to_vec())),
            text(mail, "a key"),
        ],
    );
    it.name = format!("greet {mail}");
    it.trace_state = format!("a={mail}");
    it.status = Some(Status {
        message: mail.into(),
        code: 2,
    });
    it.events = vec![Event {
        name: mail.into(),
        attributes: vec![text("a", mail)],
        ..Event::default()
    }];
    it.links = vec![Link {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        trace_state: mail.into(),
        attributes: vec![text("a", mail)],
        ..Link::default()
    }];
    let mut sent = request(vec![("scope of anna@example.org", vec![it])]);
    sent.resource_spans[0].schema_url = mail.into();
    sent.resource_spans[0]
        .resource
        .as_mut()
        .unwrap()
        .attributes
        .push(text("owner", mail));
    sent.resource_spans[0].scope_spans[0]
        .scope
        .as_mut()
        .unwrap()
        .attributes
        .push(text("owner", mail));
    let (left, counts) = pass_spans(|| masking(&[Detector::Email], &[], &[]), &sent);
    let shown = format!("{left:?}");
    assert!(!shown.contains("anna"), "{shown}");
    assert_eq!(
        shown.matches("[masked:email]").count() + 1,
        counts.masked as usize,
        "the bytes are shown as numbers"
    );
    assert_eq!(
        left.resource_spans[0].scope_spans[0].spans[0].name,
        "greet [masked:email]"
    );
}

#[test]
fn a_configured_key_masks_a_value_of_any_kind() {
    let secrets = [
        Any::StringValue("x".into()),
        Any::IntValue(42),
        Any::BoolValue(true),
        Any::DoubleValue(0.5),
        list(vec![Any::IntValue(1)]),
    ];
    for secret in secrets {
        let sent = request(vec![(
            "s",
            vec![span(
                1,
                0,
                vec![attribute("app.PassWord", secret), text("other", "x")],
            )],
        )]);
        let (left, _) = pass_spans(|| masking(&[], &["password"], &[]), &sent);
        assert_eq!(text_of(&left, "app.PassWord"), MASKED);
        assert_eq!(text_of(&left, "other"), "x");
    }
}

#[test]
fn json_inside_of_a_string_is_looked_into_once() {
    let inner = r#"{"user":{"Password":"x\u0022y","mail":"a\u0040b.de","n":[1, 2],"tel":491711234567},  "ok": "\u00e4"}"#;
    let sent = request(vec![("s", vec![span(1, 0, vec![text("input", inner)])])]);
    let make = || masking(&everything(), &["password"], &[]);
    let (left, _) = pass_spans(make, &sent);
    assert_eq!(
        text_of(&left, "input"),
        r#"{"user":{"Password":"[masked]","mail":"[masked:email]","n":[1, 2],"tel":"[masked:phone]"},  "ok": "\u00e4"}"#
    );
    for broken in [
        r#"{"password":"x"#,
        r#"{"password":"x","a":"#,
        r#"[{"password":"x"}"#,
        r#"{"password":"x\"#,
    ] {
        let sent = request(vec![("s", vec![span(1, 0, vec![text("input", broken)])])]);
        let (left, _) = pass_spans(make, &sent);
        let text = text_of(&left, "input");
        assert!(text.contains(MASKED) && !text.contains('x'), "{text}");
    }
}

#[test]
fn numbers_are_masked_where_their_key_or_a_pattern_says_so() {
    let sent = request(vec![(
        "s",
        vec![span(
            1,
            0,
            vec![
                attribute("card_number", Any::IntValue(4_111_111_111_111_111)),
                attribute("started", Any::IntValue(4_111_111_111_111_111)),
                attribute("phone", Any::IntValue(491_711_234_567)),
                attribute("member", Any::IntValue(7_700_000)),
                attribute("ratio", Any::DoubleValue(77.5)),
            ],
        )],
    )]);
    let (left, _) = pass_spans(|| masking(&everything(), &[], &[("member", "^77")]), &sent);
    assert_eq!(text_of(&left, "card_number"), "[masked:card]");
    assert_eq!(
        value_of(&left, "started"),
        Some(Any::IntValue(4_111_111_111_111_111))
    );
    assert_eq!(text_of(&left, "phone"), "[masked:phone]");
    assert_eq!(text_of(&left, "member"), "[masked:member]00000");
    assert_eq!(text_of(&left, "ratio"), "[masked:member].5");
}

#[test]
fn a_pattern_that_does_not_compile_strips_values_of_every_kind() {
    let sent = request(vec![(
        "s",
        vec![span(
            1,
            0,
            vec![
                text("a", "clear"),
                attribute("b", Any::IntValue(5)),
                attribute("c", list(vec![Any::StringValue("clear".into())])),
                attribute("d", Any::BytesValue(b"clear".to_vec())),
            ],
        )],
    )]);
    let (left, counts) = pass_spans(|| masking(&[], &[], &[("bad", "(")]), &sent);
    assert!(!format!("{left:?}").contains("clear"));
    assert_eq!(text_of(&left, "a"), STRIPPED);
    assert_eq!(text_of(&left, "b"), STRIPPED);
    assert_eq!(value_of(&left, "d"), Some(Any::BytesValue(STRIPPED.into())));
    assert!(counts.stripped >= 4 && counts.masked == 0);
}

#[test]
fn what_is_nested_too_deeply_is_stripped_where_anything_is_masked() {
    let mut deep = Any::StringValue("anna@example.org".into());
    for _ in 0..langfuse_extension::egress::DEPTH_LIMIT_VALUES {
        deep = list(vec![deep]);
    }
    let at = |value: Any| request(vec![("s", vec![span(1, 0, vec![attribute("a", value)])])]);
    let (left, counts) = pass_spans(|| masking(&[Detector::Email], &[], &[]), &at(deep.clone()));
    assert!(format!("{left:?}").contains(STRIPPED));
    assert_eq!(counts.stripped, 1);
    let (left, _) = pass_spans(Rules::default, &at(deep.clone()));
    assert_eq!(left, at(deep));
}

#[test]
fn unknown_fields_are_searched_and_otherwise_kept() {
    let body = |text: &str| {
        let field = [&[0x7a, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [
            field.as_slice(),
            &[0x83, 0x01],
            &field,
            &[0x84, 0x01],
            &[0x88, 0x01, 0x05],
        ]
        .concat()
    };
    let stage = Stage::new(masking(&[Detector::Email], &[], &[]));
    let (left, _) = pass(&stage, Kind::OtlpProtobuf, &body("nothing here"));
    assert_eq!(left, body("nothing here"));
    let (left, counts) = pass(&stage, Kind::OtlpProtobuf, &body("anna@example.org"));
    assert_eq!(left, body("[masked:email]"));
    assert_eq!(counts.masked, 2);
    let json = br#"{"resourceSpans":[], "new" : [ "anna\u0040example.org", "kept" ] }"#;
    let (left, _) = pass(&stage, Kind::OtlpJson, json);
    assert_eq!(
        left,
        br#"{"resourceSpans":[], "new" : [ "[masked:email]", "kept" ] }"#
    );
}

#[test]
fn long_values_are_cut_after_they_were_masked() {
    let long = format!("{}anna@example.org{}", "x".repeat(100), " y".repeat(300));
    let sent = request(vec![(
        "s",
        vec![span(1, 0, vec![text("a", &long), text("b", "short")])],
    )]);
    let make = || Rules {
        max_attribute_bytes: Some(128),
        ..masking(&[Detector::Email], &[], &[])
    };
    let (left, counts) = pass_spans(make, &sent);
    let cut = text_of(&left, "a");
    assert!(
        cut.len() <= 128 && cut.ends_with("…[cut, 716 bytes]"),
        "{cut}"
    );
    assert!(!cut.contains("anna"), "{cut}");
    assert_eq!(
        (counts.shortened, text_of(&left, "b")),
        (1, "short".to_owned())
    );
}

fn filtering(spans: Spans) -> Rules {
    Rules {
        filter: Filter {
            spans,
            ..Filter::default()
        },
        ..Rules::default()
    }
}

#[test]
fn the_filter_keeps_spans_of_llms_and_with_them_their_ancestors() {
    let sent = request(vec![
        ("fastapi", vec![span(1, 0, vec![]), span(2, 0, vec![])]),
        (
            "requests",
            vec![
                span(3, 1, vec![]),
                span(4, 3, vec![text("gen_ai.system", "x")]),
            ],
        ),
        ("langfuse-sdk", vec![span(5, 1, vec![])]),
        ("sqlalchemy", vec![span(6, 5, vec![])]),
    ]);
    let (left, counts) = pass_spans(|| filtering(Spans::Llm), &sent);
    assert_eq!((ids(&left), counts.filtered), (vec![4, 5], 4));
    assert_eq!(
        left.resource_spans[0].scope_spans.len(),
        2,
        "empty scopes are left out"
    );
    let (left, counts) = pass_spans(|| filtering(Spans::LlmTree), &sent);
    assert_eq!((ids(&left), counts.filtered), (vec![1, 3, 4, 5], 2));
    let (left, _) = pass_spans(|| filtering(Spans::All), &sent);
    assert_eq!(left, sent);
}

#[test]
fn a_request_of_which_nothing_is_kept_holds_no_resource() {
    let sent = request(vec![("fastapi", vec![span(1, 0, vec![])])]);
    let (left, counts) = pass_spans(|| filtering(Spans::Llm), &sent);
    assert_eq!((left.resource_spans.len(), counts.held_back()), (0, 1));
}

#[test]
fn the_language_of_the_resource_says_whose_rule_counts() {
    let mut sent = request(vec![("ai.sdk", vec![span(1, 0, vec![])])]);
    let (left, _) = pass_spans(|| filtering(Spans::Llm), &sent);
    assert_eq!(ids(&left), [1]);
    let resource = sent.resource_spans[0].resource.as_mut().unwrap();
    resource
        .attributes
        .push(text("telemetry.sdk.language", "nodejs"));
    let (left, _) = pass_spans(|| filtering(Spans::Llm), &sent);
    assert!(ids(&left).is_empty());
}

#[test]
fn traces_are_sampled_whole_by_their_lower_bytes() {
    let mut spans: Vec<_> = (1..=8).map(|id| span(id, 0, vec![])).collect();
    for span in &mut spans {
        span.trace_id = [vec![0xff; 8], vec![(span.span_id[0] - 1) * 32; 8]].concat();
    }
    let sent = request(vec![("s", spans)]);
    let make = || Rules {
        sample: Some(Sample::new(0.5).unwrap()),
        ..Rules::default()
    };
    let (left, counts) = pass_spans(make, &sent);
    assert_eq!((ids(&left), counts.sampled_out), (vec![1, 2, 3, 4], 4));
}

fn enriching(invocation: bool) -> Rules {
    let resource = vec![
        ("service.name", Added::Text("my-function".into())),
        ("faas.name", Added::Text("my-function".into())),
        ("faas.max_memory", Added::Integer(134_217_728)),
    ];
    let mut stage = Rules {
        enrich: Enrich::new(resource, invocation),
        ..Rules::default()
    };
    stage.enrich.began(Invocation {
        request_id: "id-1".into(),
        started_at: Duration::from_secs(100),
        cold_start: true,
    });
    stage
}

#[test]
fn a_resource_gets_what_it_lacks_and_keeps_what_it_has() {
    let mut sent = request(vec![("s", vec![span(1, 0, vec![])])]);
    sent.resource_spans[0]
        .resource
        .as_mut()
        .unwrap()
        .attributes
        .push(text("faas.name", "mine"));
    let (left, _) = pass_spans(|| enriching(false), &sent);
    let resource = left.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(
        find(&resource.attributes, "service.name"),
        Some(Any::StringValue("my-function".into()))
    );
    assert_eq!(
        find(&resource.attributes, "faas.name"),
        Some(Any::StringValue("mine".into()))
    );
    assert_eq!(
        find(&resource.attributes, "faas.max_memory"),
        Some(Any::IntValue(134_217_728))
    );
    assert_eq!(resource.attributes.len(), 3);
    sent.resource_spans[0].resource.as_mut().unwrap().attributes[0] = text("service.name", "named");
    let (left, _) = pass_spans(|| enriching(false), &sent);
    let resource = left.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(
        find(&resource.attributes, "service.name"),
        Some(Any::StringValue("named".into()))
    );
    sent.resource_spans[0].resource = None;
    let (left, _) = pass_spans(|| enriching(false), &sent);
    assert_eq!(
        left.resource_spans[0]
            .resource
            .as_ref()
            .unwrap()
            .attributes
            .len(),
        3
    );
}

#[test]
fn a_span_gets_the_metadata_of_its_invocation() {
    let mut it = span(
        1,
        0,
        vec![text("langfuse.observation.metadata.cold_start", "mine")],
    );
    it.start_time_unix_nano = 100_000_000_000;
    let mut early = span(2, 0, vec![]);
    early.start_time_unix_nano = 99_000_000_000;
    let (left, _) = pass_spans(|| enriching(true), &request(vec![("s", vec![it, early])]));
    assert_eq!(
        text_of(&left, "langfuse.observation.metadata.aws_request_id"),
        "id-1"
    );
    assert_eq!(
        text_of(&left, "langfuse.observation.metadata.cold_start"),
        "mine"
    );
    assert!(
        left.resource_spans[0].scope_spans[0].spans[1]
            .attributes
            .is_empty()
    );
}

#[test]
fn what_is_added_is_masked_as_well() {
    let make = || Rules {
        mask: masking(&[], &["faas.name"], &[("name", "my-func")]).mask,
        ..enriching(false)
    };
    let (left, _) = pass_spans(make, &request(vec![("s", vec![span(1, 0, vec![])])]));
    let resource = left.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(
        find(&resource.attributes, "faas.name"),
        Some(Any::StringValue(MASKED.into()))
    );
    assert_eq!(
        find(&resource.attributes, "service.name"),
        Some(Any::StringValue("[masked:name]tion".into()))
    );
}
