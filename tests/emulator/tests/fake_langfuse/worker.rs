//! What is answered 200 and lost later.

use lambda_emulator::fake_langfuse::FakeLangfuse;
use serde_json::{Value, json};

use crate::client::*;

const ATTRIBUTE: &[u8] = b"\x0a\x01k\x12\x03\x0a\x01v";
const WITHOUT_VALUE: &[u8] = b"\x0a\x01k";

fn ids(langfuse: &FakeLangfuse) -> Vec<String> {
    let stored = langfuse.observations();
    stored.iter().map(|one| one.span_id.clone()).collect()
}

fn lost_ids(langfuse: &FakeLangfuse) -> Vec<String> {
    let lost = langfuse.lost_observations();
    lost.iter().map(|one| one.span_id.clone()).collect()
}

fn delimited(number: u8, inner: &[u8]) -> Vec<u8> {
    [
        &[number << 3 | 2, u8::try_from(inner.len()).unwrap()],
        inner,
    ]
    .concat()
}

/// A protobuf request of one span, with these attributes on resource, scope and span.
fn protobuf(id: u8, resource: &[u8], scope: &[u8], span: &[u8]) -> Vec<u8> {
    let span = [
        delimited(1, &[id; 16]),
        delimited(2, &[id; 8]),
        delimited(9, span),
    ]
    .concat();
    let scope_spans = [delimited(1, &delimited(3, scope)), delimited(2, &span)].concat();
    let resource_spans = [
        delimited(1, &delimited(1, resource)),
        delimited(2, &scope_spans),
    ]
    .concat();
    delimited(1, &resource_spans)
}

async fn send(langfuse: &FakeLangfuse, path: &str, kind: &str, body: impl Into<Vec<u8>>) -> u16 {
    let request = client()
        .post(format!("{}{path}", langfuse.url()))
        .header("authorization", BASIC)
        .header("content-type", kind);
    let response = request.body(body.into()).send().await.unwrap();
    response.status().as_u16()
}

#[tokio::test]
async fn an_attribute_without_value_is_answered_200_and_loses_all_of_its_request_and_no_other() {
    let bad = [
        protobuf(2, WITHOUT_VALUE, ATTRIBUTE, ATTRIBUTE),
        protobuf(2, ATTRIBUTE, WITHOUT_VALUE, ATTRIBUTE),
        protobuf(2, ATTRIBUTE, ATTRIBUTE, WITHOUT_VALUE),
    ];
    let good = |id| protobuf(id, ATTRIBUTE, ATTRIBUTE, ATTRIBUTE);
    for bad in bad {
        let langfuse = start();
        for body in [good(1), bad.clone(), good(3)] {
            assert_eq!(
                send(&langfuse, TRACES, "application/x-protobuf", body).await,
                200
            );
        }
        assert_eq!(ids(&langfuse), ["01".repeat(8), "03".repeat(8)]);
        assert_eq!(lost_ids(&langfuse), ["02".repeat(8)]);
        let merged = [good(1), bad, good(3)].concat();
        langfuse.clear_recordings();
        assert_eq!(
            send(&langfuse, TRACES, "application/x-protobuf", merged).await,
            200
        );
        assert!(ids(&langfuse).is_empty());
        assert_eq!(lost_ids(&langfuse).len(), 3);
    }
}

#[tokio::test]
async fn the_same_in_json_and_a_null_in_a_list_of_attributes() {
    let poisons = [
        json!([null]),
        json!([{"key": "k"}]),
        json!([{"key": "k", "value": null}]),
    ];
    for attributes in poisons {
        let places: [fn(Value) -> Value; 3] = [
            |list| json!({"resourceSpans": [{"resource": {"attributes": list}, "scopeSpans": [{"spans": [{"traceId": "a", "spanId": "b"}]}]}]}),
            |list| json!({"resourceSpans": [{"scopeSpans": [{"scope": {"attributes": list}, "spans": [{"traceId": "a", "spanId": "b"}]}]}]}),
            |list| json!({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "a", "spanId": "b", "attributes": list}]}]}]}),
        ];
        for place in places {
            let langfuse = start();
            let body = place(attributes.clone());
            assert_eq!(post_status(&langfuse, TRACES, &body).await, 200, "{body}");
            assert_eq!(lost_ids(&langfuse), ["b"], "{body}");
        }
    }
    let langfuse = start();
    let harmless = json!([{"traceId": "a", "spanId": "b", "attributes": [{"key": "k", "value": {}}], "events": [{"attributes": [{"key": "k"}]}]}]);
    post(&langfuse, TRACES, &spans(&harmless)).await;
    assert_eq!(ids(&langfuse), ["b"]);
}

#[tokio::test]
async fn half_a_character_is_answered_as_if_it_were_stored_and_loses_itself_and_its_neighbours() {
    let langfuse = start();
    let span =
        |id: &str, name: &str| format!(r#"{{"traceId":"a","spanId":"{id}","name":"{name}"}}"#);
    let request =
        |list: &str| format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{list}]}}]}}]}}"#);
    let both = request(&[span("good", "x"), span("bad", r"\ud83d")].join(","));
    assert_eq!(send(&langfuse, TRACES, "application/json", both).await, 200);
    let mut lost = lost_ids(&langfuse);
    lost.sort();
    assert_eq!(lost, ["bad", "good"]);
    assert!(langfuse.duplicates().observations.is_empty());
    let whole = request(&span("whole", r"\ud83d\ude00"));
    let langfuse = start();
    assert_eq!(
        send(&langfuse, TRACES, "application/json", whole).await,
        200
    );
    assert_eq!(ids(&langfuse), ["whole"]);
    let event = score_event("e").to_string().replace("quality", r"\udc00");
    let batch = format!(r#"{{"batch":[{event}]}}"#);
    assert_eq!(
        send(&langfuse, INGESTION, "application/json", batch).await,
        207
    );
    assert!(langfuse.scores().is_empty());
    assert_eq!(ids(&langfuse), ["whole"], "another table");
}
