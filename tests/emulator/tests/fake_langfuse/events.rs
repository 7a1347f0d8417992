//! The two doors for scores and other events.

use lambda_emulator::fake_langfuse::{Config, FakeLangfuse};
use serde_json::{Value, json};

use crate::client::*;

#[tokio::test]
async fn every_recorded_score_request_is_stored_with_its_events() {
    let langfuse = start_with_lists();
    for fixture in Fixture::of_kind("ingestion")
        .into_iter()
        .chain(Fixture::of_kind("scores-v5"))
    {
        let before_count = langfuse.events().len() as u64;
        let response = fixture.send(&langfuse).await;
        assert_eq!(
            response.status().as_u16(),
            fixture.manifest["answered_status"],
            "{}",
            fixture.id()
        );
        let count = fixture.manifest["events"]
            .as_u64()
            .or(fixture.manifest["scores"].as_u64());
        assert_eq!(
            Some(langfuse.events().len() as u64 - before_count),
            count,
            "{}",
            fixture.id()
        );
    }
    assert!(langfuse.refused_events().is_empty());
}

#[tokio::test]
async fn each_event_of_a_batch_is_judged_by_itself() {
    let langfuse = start();
    let mut no_name = score_event("no-name");
    no_name["body"]["name"] = "".into();
    let mut no_time = score_event("no-time");
    no_time["timestamp"] = "yesterday".into();
    let mut no_body_id = score_event("no-body-id");
    no_body_id["body"]["id"] = Value::Null;
    let unknown = json!({"id": "unknown-type", "type": "what", "timestamp": "2026-01-01T00:00:00Z", "body": {}});
    let batch = json!({"batch": [score_event("good"), no_name, no_time, no_body_id, unknown, 7]});
    let response = post(&langfuse, INGESTION, &batch).await;
    assert_eq!(response.status(), 207);
    let answer = json_of(response).await;
    assert_eq!(
        answer["successes"],
        json!([{"id": "good", "status": 201}, {"id": "no-body-id", "status": 201}])
    );
    let failed: Vec<_> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (&error["id"], &error["status"]))
        .collect();
    let bad = json!(400);
    let ids = [
        json!("no-name"),
        json!("no-time"),
        json!("unknown-type"),
        json!("unknown"),
    ];
    assert_eq!(failed, ids.iter().map(|id| (id, &bad)).collect::<Vec<_>>());
    let stored: Vec<String> = langfuse
        .scores()
        .iter()
        .map(|event| event.id.clone())
        .collect();
    assert_eq!(
        stored,
        ["good"],
        "an event without a body id is answered 201 and dropped"
    );
}

#[tokio::test]
async fn the_ingestion_door_reads_json_and_never_gzip() {
    let langfuse = start();
    let body = json!({"batch": [score_event("e")]}).to_string();
    let send = async |content_type: &str, encoding: &str, body: Vec<u8>| {
        let request = client()
            .post(format!("{}{INGESTION}", langfuse.url()))
            .header("authorization", BASIC);
        let request = request
            .header("content-type", content_type)
            .header("content-encoding", encoding);
        let response = request.body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(
        send("application/json", "identity", body.clone().into())
            .await
            .0,
        207
    );
    let gzipped = send("application/json", "gzip", gzip(body.as_bytes())).await;
    assert_eq!(gzipped, (400, "Invalid JSON".into()));
    assert_eq!(send("text/plain", "identity", body.into()).await.0, 400);
    assert_eq!(
        post_status(&langfuse, INGESTION, &json!({"batch": {}})).await,
        400
    );
}

#[tokio::test]
async fn events_only_mode_takes_nothing_but_scores_from_the_ingestion_door() {
    let langfuse = FakeLangfuse::start(Config {
        events_only: true,
        ..Config::default()
    })
    .unwrap();
    let trace = json!({"id": "t", "type": "trace-create", "timestamp": "2026-01-01T00:00:00Z", "body": {"id": "t"}});
    let response = post(
        &langfuse,
        INGESTION,
        &json!({"batch": [score_event("s"), trace]}),
    )
    .await;
    let answer = json_of(response).await;
    assert_eq!(answer["successes"][0]["id"], "s");
    assert_eq!(answer["errors"][0]["message"], "Event type not accepted");
}

#[tokio::test]
async fn a_public_key_alone_may_write_scores_and_nothing_else() {
    let langfuse = start();
    let trace = json!({"id": "t", "type": "trace-create", "timestamp": "2026-01-01T00:00:00Z", "body": {"id": "t"}});
    let request = client()
        .post(format!("{}{INGESTION}", langfuse.url()))
        .header("authorization", "Bearer pk-lf-test");
    let answer = request
        .json(&json!({"batch": [score_event("s"), trace]}))
        .send()
        .await
        .unwrap();
    let answer = json_of(answer).await;
    assert_eq!(answer["successes"], json!([{"id": "s", "status": 201}]));
    assert_eq!(answer["errors"][0]["status"], 401);
}

#[tokio::test]
async fn one_score_is_answered_with_its_id_and_a_list_with_400_or_where_it_is_known_202() {
    let langfuse = start();
    let response = post(&langfuse, SCORES, &score("mine")).await;
    assert_eq!(
        (response.status().as_u16(), json_of(response).await),
        (200, json!({"id": "mine"}))
    );
    let response = post(
        &langfuse,
        SCORES,
        &json!({"name": "quality", "value": "good", "sessionId": "s"}),
    )
    .await;
    let id = json_of(response).await["id"].clone();
    assert_eq!(langfuse.scores()[1].body["id"], id);
    let list = json!([score("a"), score("b")]);
    assert_eq!(post_status(&langfuse, SCORES, &list).await, 400);
    assert_eq!(langfuse.scores().len(), 2);
    let langfuse = start_with_lists();
    let response = post(&langfuse, SCORES, &list).await;
    assert_eq!(
        (response.status().as_u16(), json_of(response).await),
        (202, json!({"message": "Accepted"}))
    );
    assert_eq!(langfuse.scores().len(), 2);
}

#[tokio::test]
async fn scores_against_the_schema_are_refused() {
    let langfuse = start_with_lists();
    let changes = [
        json!({"name": null}),
        json!({"value": null}),
        json!({"value": "x", "dataType": "NUMERIC"}),
        json!({"value": 2, "dataType": "BOOLEAN"}),
        json!({"value": 1, "dataType": "CATEGORICAL"}),
        json!({"value": "x".repeat(501), "dataType": "TEXT"}),
        json!({"dataType": "COLOUR"}),
        json!({"sessionId": "as well"}),
        json!({"traceId": null}),
        json!({"traceId": null, "sessionId": "s", "observationId": "o"}),
        json!({"comment": 1}),
        json!({"id": "x".repeat(801)}),
    ];
    for change in changes {
        let mut body = score("s");
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        assert_eq!(post_status(&langfuse, SCORES, &body).await, 400, "{change}");
        assert_eq!(
            post_status(&langfuse, SCORES, &json!([score("good"), body])).await,
            400,
            "{change}"
        );
    }
    assert!(langfuse.scores().is_empty());
}
