use langfuse_extension::egress::{Enrich, Invocation, Rules, Sample, Stage};
use langfuse_extension::payload::Kind;
use serde_json::json;

use crate::support::{NOW, everything, masking, pass, pass_json};

/// A trace id that a ratio of a half keeps, and one that it does not.
const KEPT: &str = "00000000000000000000000000000001";
const LEFT_OUT: &str = "0000000000000000ffffffffffffffff";

fn half() -> Rules {
    Rules {
        sample: Some(Sample::new(0.5).unwrap()),
        ..Rules::default()
    }
}

#[test]
fn texts_of_events_are_masked_but_neither_ids_nor_times() {
    let event = json!({"id": "e", "type": "generation-create", "timestamp": "2025-11-24T23:00:00Z", "metadata": {"sdk": "a@b.de"}, "body": {
        "id": "5f0c3a52-4111-4111-8111-111111111111", "traceId": "t", "startTime": "2025-11-24T23:00:00.000Z", "level": "DEFAULT",
        "name": "mail a@b.de", "userId": "a@b.de", "input": {"a@b.de": ["a@b.de", {"password": [1, 2]}], "card": 4_111_111_111_111_111_u64},
        "output": "{\"to\": \"a\\u0040b.de\"}", "usage": {"input": 3}, "tags": ["a@b.de"],
    }});
    let score = json!({"id": "s", "type": "score-create", "timestamp": "2025-11-24T23:00:00Z", "body": {
        "id": "x", "traceId": "t", "name": "quality", "value": 0.5, "comment": "says a@b.de",
    }});
    let stage = masking(&everything(), &["password"], &[]);
    let (left, counts) = pass_json(
        &Stage::new(stage),
        Kind::Ingestion,
        &json!({"batch": [event, score], "metadata": {"by": "a@b.de"}}),
    );
    let mark = "[masked:email]";
    assert_eq!(
        left,
        json!({"batch": [
        {"id": "e", "type": "generation-create", "timestamp": "2025-11-24T23:00:00Z", "metadata": {"sdk": mark}, "body": {
            "id": "5f0c3a52-4111-4111-8111-111111111111", "traceId": "t", "startTime": "2025-11-24T23:00:00.000Z", "level": "DEFAULT",
            "name": "mail [masked:email]", "userId": mark, "input": {mark: [mark, {"password": "[masked]"}], "card": "[masked:card]"},
            "output": "{\"to\": \"[masked:email]\"}", "usage": {"input": 3}, "tags": [mark],
        }},
        {"id": "s", "type": "score-create", "timestamp": "2025-11-24T23:00:00Z", "body": {
            "id": "x", "traceId": "t", "name": "quality", "value": 0.5, "comment": "says [masked:email]",
        }},
    ], "metadata": {"by": mark}})
    );
    assert_eq!(counts.masked, 11);
}

#[test]
fn an_id_that_looks_like_none_is_masked() {
    let body = json!([{"id": "a@b.de", "traceId": "t", "name": "n", "value": 1}]);
    let (left, _) = pass_json(
        &Stage::new(masking(&everything(), &[], &[])),
        Kind::Scores,
        &body,
    );
    assert_eq!(left[0]["id"], "[masked:email]");
}

#[test]
fn events_and_scores_of_a_trace_that_is_sampled_out_go_with_it() {
    let event = |kind: &str, body: serde_json::Value| json!({"id": "e", "type": kind, "timestamp": "t", "body": body});
    let batch = json!({"batch": [
        event("trace-create", json!({"id": KEPT})),
        event("trace-create", json!({"id": LEFT_OUT})),
        event("span-create", json!({"id": KEPT, "traceId": LEFT_OUT})),
        event("score-create", json!({"traceId": LEFT_OUT})),
        event("score-create", json!({"traceId": KEPT})),
        event("score-create", json!({"sessionId": "s"})),
        event("score-create", json!({"datasetRunId": "r", "traceId": null})),
        event("sdk-log", json!({"log": 1})),
    ]});
    let (left, counts) = pass_json(&Stage::new(half()), Kind::Ingestion, &batch);
    let kept: Vec<_> = [0, 4, 5, 6, 7]
        .iter()
        .map(|at| batch["batch"][*at].clone())
        .collect();
    assert_eq!((&left["batch"], counts.sampled_out), (&json!(kept), 3));
    let scores = json!([{"traceId": LEFT_OUT}, {"traceId": KEPT}, {"sessionId": "s"}]);
    let (left, counts) = pass_json(&Stage::new(half()), Kind::Scores, &scores);
    assert_eq!(
        (left, counts.sampled_out),
        (json!([{"traceId": KEPT}, {"sessionId": "s"}]), 1)
    );
}

#[test]
fn a_score_alone_is_sampled_out_with_nothing_left_to_send() {
    let score =
        serde_json::to_vec(&json!({"id": "x", "traceId": LEFT_OUT, "name": "n", "value": 1}))
            .unwrap();
    let (left, counts) = pass(&Stage::new(half()), Kind::Score, &score);
    assert_eq!((left, counts.sampled_out), (Vec::new(), 1));
}

#[test]
fn a_long_value_of_any_shape_is_cut_as_its_text() {
    let long: Vec<_> = (0..100).map(|at| format!("line {at} of a@b.de")).collect();
    let batch = json!({"batch": [{"id": "e", "type": "span-create", "timestamp": "t", "body": {"id": "i", "input": {"lines": long}, "metadata": {"a": 1}}}]});
    let stage = Rules {
        max_attribute_bytes: Some(128),
        ..masking(&everything(), &[], &[])
    };
    let (left, counts) = pass_json(&Stage::new(stage), Kind::Ingestion, &batch);
    let input = left["batch"][0]["body"]["input"].as_str().unwrap();
    assert!(
        input.starts_with(r#"{"lines":["line 0 of [masked:email]""#) && input.ends_with(" bytes]"),
        "{input}"
    );
    assert_eq!(
        (
            left["batch"][0]["body"]["metadata"].clone(),
            counts.shortened
        ),
        (json!({"a": 1}), 1)
    );
}

#[test]
fn an_event_gets_the_metadata_of_its_invocation() {
    let mut stage = Rules {
        enrich: Enrich::new(Vec::new(), true),
        ..Rules::default()
    };
    stage.enrich.began(Invocation {
        request_id: "id-1".into(),
        started_at: NOW,
        cold_start: false,
    });
    let event = |metadata: serde_json::Value| {
        let mut body =
            json!({"id": "i", "startTime": "2025-11-24T23:00:01Z", "metadata": metadata});
        if metadata.is_null() {
            body.as_object_mut().unwrap().remove("metadata");
        }
        json!({"id": "e", "type": "span-create", "timestamp": "t", "body": body})
    };
    let batch = json!({"batch": [event(json!(null)), event(json!({})), event(json!({"aws_request_id": "mine"})), event(json!([1]))]});
    let (left, _) = pass_json(&Stage::new(stage), Kind::Ingestion, &batch);
    let metadata: Vec<_> = (0..4)
        .map(|at| left["batch"][at]["body"]["metadata"].clone())
        .collect();
    let all = json!({"aws_request_id": "id-1", "cold_start": "false"});
    let mine = json!({"aws_request_id": "mine", "cold_start": "false"});
    assert_eq!(metadata, [all.clone(), all, mine, json!([1])]);
}
