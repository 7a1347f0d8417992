//! What can be read back of what arrived.

use std::time::{Duration, SystemTime};

use lambda_emulator::fake_langfuse::{Door, Duplicate, Fault};
use serde_json::{Value, json};

use crate::client::*;

#[tokio::test]
async fn a_request_is_recorded_as_it_was_sent() {
    let langfuse = start();
    let before = SystemTime::now();
    let fixture = Fixture::named("001-");
    fixture.send_to(&langfuse, &format!("{TRACES}?x=%2F")).await;
    let requests = langfuse.requests();
    let request = &requests[0];
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", "/api/public/otel/v1/traces?x=%2F")
    );
    assert_eq!(
        (request.status, request.accepted, request.fault),
        (Some(200), true, None)
    );
    assert_eq!(
        (request.wire_bytes, &request.body[..]),
        (fixture.body.len(), &fixture.body[..])
    );
    assert_eq!(
        (request.span_count, request.project.as_deref()),
        (2, Some("project-test"))
    );
    assert!(request.arrived_at >= before && request.arrived_at <= SystemTime::now());
    assert_eq!(request.header("x-langfuse-ingestion-version"), Some("4"));
    let names = request.headers.iter().map(|(name, _)| name.as_str());
    let own_names: Vec<&str> = names
        .filter(|name| name.starts_with("x-langfuse"))
        .collect();
    let sent_names: Vec<String> = fixture
        .headers
        .iter()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    let sent_names: Vec<&String> = sent_names
        .iter()
        .filter(|name| name.starts_with("x-langfuse"))
        .collect();
    assert_eq!(own_names, sent_names);
}

#[tokio::test]
async fn an_observation_knows_its_attributes_resource_scope_and_storage_headers() {
    let langfuse = start();
    Fixture::named("061-").send(&langfuse).await;
    let observations = langfuse.observations();
    let observation = &observations[0];
    assert_eq!(observation.project.as_deref(), Some("project-test"));
    assert_eq!(observation.parent_span_id, None);
    assert_eq!(
        observation.attributes()["langfuse.observation.type"]["stringValue"],
        "span"
    );
    assert_eq!(
        observation.resource_attributes()["telemetry.sdk.language"]["stringValue"],
        "python"
    );
    assert_eq!(observation.scope["name"], "langfuse-sdk");
    assert_eq!(
        observation.scope_attributes()["public_key"]["stringValue"],
        "pk-lf-test"
    );
    let headers: Vec<_> = observation
        .storage_headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let expected = [
        ("content-type", "application/x-protobuf"),
        ("x-langfuse-public-key", "pk-lf-test"),
        ("x-langfuse-sdk-name", "python"),
        ("x-langfuse-sdk-version", "4.0.6"),
    ];
    assert_eq!(headers, expected);
}

#[tokio::test]
async fn canonical_texts_are_equal_exactly_if_nothing_was_changed() {
    let [direct, through, changed] = [start(), start(), start()];
    let span = json!({"traceId": "a", "spanId": "b", "attributes": [{"key": "k", "value": {"intValue": "1"}}]});
    let reordered: Value = serde_json::from_str(
        r#"{"attributes": [{"value": {"intValue": "1"}, "key": "k"}], "spanId": "b", "traceId": "a"}"#,
    )
    .unwrap();
    post(&direct, TRACES, &spans(&json!([span]))).await;
    post(&through, TRACES, &spans(&json!([reordered]))).await;
    let mut other = span.clone();
    other["attributes"][0]["value"] = json!({"intValue": "2"});
    post(&changed, TRACES, &spans(&json!([other]))).await;
    let text = direct.observations()[0].canonical();
    assert_eq!(through.observations()[0].canonical(), text);
    assert_ne!(changed.observations()[0].canonical(), text);
}

#[tokio::test]
async fn what_is_stored_twice_is_a_duplicate_and_what_is_refused_is_not() {
    let langfuse = start();
    for _ in 0..3 {
        post(&langfuse, TRACES, &one_span("t", "s")).await;
        post(&langfuse, INGESTION, &json!({"batch": [score_event("e")]})).await;
    }
    post(&langfuse, TRACES, &one_span("t", "other")).await;
    langfuse.set_fault(Fault::status(503));
    post(&langfuse, TRACES, &one_span("t", "other")).await;
    let duplicate = |id: &str| {
        vec![Duplicate {
            project: "project-test".into(),
            id: id.into(),
            count: 3,
        }]
    };
    assert_eq!(langfuse.duplicates().observations, duplicate("t/s"));
    assert_eq!(langfuse.duplicates().events, duplicate("e"));
    langfuse.clear_recordings();
    assert_eq!(
        langfuse.duplicates(),
        lambda_emulator::fake_langfuse::Duplicates::default()
    );
    assert!(langfuse.requests().is_empty());
}

#[tokio::test]
async fn two_projects_are_told_apart() {
    let langfuse = start();
    for prefix in ["062-", "063-", "064-", "065-"] {
        Fixture::named(prefix).send(&langfuse).await;
    }
    let mut projects: Vec<_> = langfuse
        .observations()
        .iter()
        .map(|one| one.project.clone().unwrap())
        .collect();
    projects.sort();
    assert_eq!(projects, ["project-second", "project-test"]);
    assert_eq!(langfuse.scores().len(), 2);
    assert!(
        langfuse
            .scores()
            .iter()
            .all(|score| score.door == Door::Ingestion)
    );
}

#[tokio::test]
async fn waiting_ends_as_soon_as_the_awaited_has_arrived() {
    let langfuse = start();
    let arrived = langfuse.wait_until(PATIENCE, |recording| recording.observations().count() == 1);
    let body = one_span("a", "b");
    let (arrived, _) = tokio::join!(arrived, post(&langfuse, TRACES, &body));
    assert!(arrived);
    assert!(
        !langfuse
            .wait_until(Duration::ZERO, |recording| recording.observations().count()
                == 2)
            .await
    );
}

#[test]
fn waiting_works_without_a_runtime_of_the_tests_own() {
    let langfuse = start();
    let url = langfuse.url();
    let sender = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let request = client()
            .post(format!("{url}{TRACES}"))
            .header("authorization", BASIC)
            .json(&one_span("a", "b"));
        runtime.block_on(async { request.send().await.unwrap() });
    });
    assert!(langfuse.block_until(PATIENCE, |recording| recording.observations().count() == 1));
    sender.join().unwrap();
    assert!(
        !langfuse.block_until(Duration::ZERO, |recording| recording.observations().count()
            == 2)
    );
}
