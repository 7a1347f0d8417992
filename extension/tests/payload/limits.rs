//! Every limit can be reached, and holds.

use bytes::Bytes;
use langfuse_extension::memory::Budget;
use langfuse_extension::payload::{
    DEPTH_LIMIT, EVENTS_LIMIT, IN_PLACE_BYTES, INGESTION_REQUEST_LIMIT_BYTES, Kind, Limits,
    Payload, Refusal, SCORES_REQUEST_LIMIT_BYTES, accept_otlp, may_fit_in_place,
};
use langfuse_extension_core::memory::Memory;
use prost::Message;

use crate::support::{
    JSON, PROTOBUF, accept, accept_batch, accept_json, accept_protobuf, gzip, request,
};

#[test]
fn a_gzip_bomb_is_refused_once_it_passes_the_limit() {
    let bomb = gzip(&vec![0; 65 * 1024 * 1024]);
    assert!(bomb.len() < 70_000);
    for (content_type, at_most) in [(PROTOBUF, 64 * 1024 * 1024), (JSON, 20 * 1024 * 1024)] {
        let refusal = accept_otlp(
            content_type,
            "gzip",
            bomb.clone().into(),
            &Limits::default(),
        )
        .unwrap_err();
        assert_eq!(
            refusal,
            Refusal::TooLarge {
                what: "the inflated body",
                limit_bytes: at_most
            }
        );
        assert_eq!(refusal.status(), 413);
    }
}

#[test]
fn facts_of_further_spans_are_only_counted() {
    let limits = Limits {
        facts_spans: 3,
        ..Limits::default()
    };
    let body = request(5, 1).encode_to_vec();
    let (payload, facts) = accept_otlp(PROTOBUF, "", body.into(), &limits).unwrap();
    assert_eq!(
        (payload.units(), facts.spans.len(), facts.omitted),
        (5, 3, 2)
    );
}

#[test]
fn more_events_than_an_answer_can_name_are_refused() {
    let events = |count: u32| format!(r#"{{"batch":[{}]}}"#, vec!["1"; count as usize].join(","));
    assert_eq!(
        accept_batch(events(EVENTS_LIMIT)).unwrap().0.units(),
        EVENTS_LIMIT
    );
    assert_eq!(
        accept_batch(events(EVENTS_LIMIT + 1)).unwrap_err(),
        Refusal::TooMany {
            limit: EVENTS_LIMIT
        }
    );
}

#[test]
fn an_event_or_score_that_no_request_can_carry_is_refused() {
    let event = |bytes: usize| format!(r#"{{"batch":["{}"]}}"#, "x".repeat(bytes - 14));
    assert!(accept_batch(event(INGESTION_REQUEST_LIMIT_BYTES)).is_ok());
    assert_eq!(
        accept_batch(event(INGESTION_REQUEST_LIMIT_BYTES + 1))
            .unwrap_err()
            .status(),
        413
    );
    let score = |bytes: usize| format!(r#"["{}"]"#, "x".repeat(bytes - 4));
    assert!(accept(Kind::Scores, "", score(SCORES_REQUEST_LIMIT_BYTES)).is_ok());
    assert_eq!(
        accept(Kind::Scores, "", score(SCORES_REQUEST_LIMIT_BYTES + 1))
            .unwrap_err()
            .status(),
        413
    );
}

#[test]
fn nesting_ends_somewhere_and_never_in_a_stack_overflow() {
    let nested = |depth: usize| format!(r#"{{"x":{}1{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert!(accept_json(nested(DEPTH_LIMIT)).is_ok());
    assert!(accept_json(nested(DEPTH_LIMIT + 1)).is_err());
    assert!(accept_json("[".repeat(1_000_000)).is_err());
    let groups = |depth: usize| [[0x0b].repeat(depth), [0x0c].repeat(depth)].concat();
    assert!(
        accept_protobuf(groups(1)).is_err(),
        "field 1 is a message, not a group"
    );
    let groups = |depth: usize| [[0x13].repeat(depth), [0x14].repeat(depth)].concat();
    assert!(accept_protobuf(groups(DEPTH_LIMIT - 1)).is_ok());
    assert!(accept_protobuf(groups(DEPTH_LIMIT)).is_err());
}

#[test]
fn what_inflates_is_charged_and_refused_where_there_is_no_memory() {
    const TEXT_BYTES: usize = 1 << 20;
    let text = format!(r#"{{"x":"{}"}}"#, "y".repeat(TEXT_BYTES));
    let body = Bytes::from(gzip(text.as_bytes()));
    for (budget_bytes, fits) in [(TEXT_BYTES, false), (4 * TEXT_BYTES, true)] {
        let budget = Budget::new(Memory::new(budget_bytes));
        let memory = budget.body();
        let limits = Limits {
            memory: Some(&memory),
            ..Limits::default()
        };
        match accept_otlp(JSON, "gzip", body.clone(), &limits) {
            Ok((payload, _)) => assert!(fits && budget.held_bytes() >= payload.stored_bytes()),
            Err(refusal) => assert!(!fits && refusal == Refusal::NoRoom && refusal.status() == 413),
        }
        drop(memory);
        assert_eq!(budget.held_bytes(), 0);
    }
}

#[test]
fn what_cannot_be_done_in_place_is_seen_before_it_is_tried() {
    let inflating_to = |bytes: usize| gzip(&vec![b' '; bytes]);
    assert!(may_fit_in_place("", &vec![b' '; IN_PLACE_BYTES]));
    assert!(!may_fit_in_place("", &vec![b' '; IN_PLACE_BYTES + 1]));
    assert!(may_fit_in_place("gzip", &inflating_to(IN_PLACE_BYTES)));
    assert!(!may_fit_in_place("gzip", &inflating_to(IN_PLACE_BYTES + 1)));
}

#[test]
fn a_body_is_cut_into_parts_of_a_size_in_one_go() {
    const SPAN_BYTES: usize = 100_000;
    const PART_BYTES: usize = 450_000;
    let protobuf = request(40, SPAN_BYTES).encode_to_vec();
    let event = format!(r#"{{"id":"a","x":"{}"}}"#, "x".repeat(SPAN_BYTES));
    let batch = format!(r#"{{"batch":[{}]}}"#, vec![event; 40].join(","));
    for (kind, encoding, body) in [
        (Kind::OtlpProtobuf, "", protobuf.clone()),
        (Kind::OtlpProtobuf, "gzip", gzip(&protobuf)),
        (Kind::Ingestion, "", batch.into_bytes()),
    ] {
        let parts = accept(kind, encoding, body)
            .unwrap()
            .cut(PART_BYTES)
            .unwrap();
        let sizes: Vec<_> = parts.iter().map(Payload::inflated_bytes).collect();
        assert!(sizes.iter().all(|size| *size <= PART_BYTES), "{sizes:?}");
        assert!(sizes.len() <= 20, "{sizes:?}");
        assert_eq!(parts.iter().map(Payload::units).sum::<u32>(), 40);
    }
}

#[test]
fn a_span_larger_than_a_part_is_one_alone() {
    let mut whole = request(3, 10);
    whole.resource_spans[0].scope_spans[0].spans[1].name = "n".repeat(1 << 20);
    let parts = accept_protobuf(whole.encode_to_vec())
        .unwrap()
        .0
        .cut(100_000);
    let units: Vec<_> = parts.unwrap().iter().map(Payload::units).collect();
    assert_eq!(units, [1, 1, 1]);
}

#[test]
fn a_request_whose_surroundings_are_too_much_to_repeat_is_not_cut() {
    let mut whole = request(3, 10);
    whole.resource_spans[0].schema_url = "u".repeat(2 << 20);
    assert_eq!(
        accept_protobuf(whole.encode_to_vec())
            .unwrap()
            .0
            .cut(100_000),
        None
    );
}
