//! Requests made of several: what becomes of the rest when Langfuse does not want one.

use std::collections::BTreeSet;

use lambda_emulator::fake_langfuse::{Config, Fault, FaultRule};
use langfuse_extension::settings::Scores;
use langfuse_extension_core::route::Door;
use reqwest::Method;
use serde_json::json;

use crate::support::{Doors, INGESTION, PATIENCE, SCORES, Setup, TRACES, noise, score_event, span};

#[tokio::test]
async fn a_refused_request_of_several_is_sent_in_parts_and_nothing_twice() {
    let mut doors = Doors::open(Setup::default()).await;
    doors
        .langfuse
        .set_fault(FaultRule::from(Fault::status(400)).on_data().first(1));
    doors.invoke();
    for id in 0..4 {
        assert_eq!(doors.post(TRACES, &span(id, "x")).await, 200);
    }
    doors.finish().await;
    assert!(
        doors
            .langfuse
            .wait_until(PATIENCE, |it| it.observations().count() == 4)
            .await
    );
    let spans: Vec<_> = doors
        .langfuse
        .requests()
        .iter()
        .map(|it| it.span_count)
        .collect();
    assert_eq!(spans, [4, 2, 2]);
    assert!(doors.langfuse.duplicates().observations.is_empty());
}

#[tokio::test]
async fn a_request_too_large_for_an_edge_is_sent_in_smaller_ones() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.langfuse.set_max_request_bytes(100_000);
    doors.invoke();
    for id in 0..8 {
        assert_eq!(doors.post(TRACES, &span(id, &noise(40_000, id))).await, 200);
    }
    doors.finish().await;
    assert!(
        doors
            .langfuse
            .wait_until(PATIENCE, |it| it.observations().count() == 8)
            .await
    );
    assert!(doors.langfuse.duplicates().observations.is_empty());
}

#[tokio::test]
async fn a_client_request_too_large_for_an_edge_is_cut_between_its_spans() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.langfuse.set_max_request_bytes(100_000);
    doors.invoke();
    let mut whole = span(0, &noise(30_000, 0));
    for id in 1..8 {
        let one =
            span(id, &noise(30_000, id))["resourceSpans"][0]["scopeSpans"][0]["spans"][0].take();
        whole["resourceSpans"][0]["scopeSpans"][0]["spans"]
            .as_array_mut()
            .unwrap()
            .push(one);
    }
    assert_eq!(doors.post(TRACES, &whole).await, 200);
    doors.finish().await;
    assert!(
        doors
            .langfuse
            .wait_until(PATIENCE, |it| it.observations().count() == 8)
            .await
    );
    assert!(doors.langfuse.duplicates().observations.is_empty());
}

#[tokio::test]
async fn a_span_larger_than_a_request_should_be_goes_alone_and_compressed() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.invoke();
    assert_eq!(doors.post(TRACES, &span(0, "small")).await, 200);
    assert_eq!(
        doors
            .post(TRACES, &span(1, &noise(1000, 1).repeat(5_500)))
            .await,
        200
    );
    assert_eq!(doors.post(TRACES, &span(2, "small")).await, 200);
    doors.finish().await;
    assert!(
        doors
            .langfuse
            .wait_until(PATIENCE, |it| it.observations().count() == 3)
            .await
    );
    let requests = doors.langfuse.requests();
    let large: Vec<_> = requests
        .iter()
        .filter(|it| it.wire_bytes > 10_000)
        .collect();
    assert_eq!((large.len(), large[0].span_count), (1, 1));
    assert_eq!(large[0].header("content-encoding"), Some("gzip"));
}

#[tokio::test]
async fn a_span_too_large_for_langfuse_is_given_up_after_its_own_413_and_costs_no_other() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.langfuse.set_max_request_bytes(50_000);
    doors.invoke();
    assert_eq!(doors.post(TRACES, &span(0, "small")).await, 200);
    assert_eq!(doors.post(TRACES, &span(1, &noise(100_000, 1))).await, 200);
    assert_eq!(doors.post(TRACES, &span(2, "small")).await, 200);
    doors.finish().await;
    assert!(
        doors
            .langfuse
            .wait_until(PATIENCE, |it| it.observations().count() == 2)
            .await
    );
    let alone = doors.langfuse.requests();
    assert!(
        alone
            .iter()
            .any(|it| it.status == Some(413) && it.wire_bytes > 50_000)
    );
    let status = doors.get("/status").await.text().await.unwrap();
    assert!(status.contains("\"dropped\""), "{status}");
}

#[tokio::test]
async fn scores_of_several_requests_share_one_below_the_limit_and_are_never_compressed() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.invoke();
    for request in 0..5 {
        let events: Vec<_> = (0..3)
            .map(|event| score_event(&format!("{request}-{event}"), &"x".repeat(300_000)))
            .collect();
        assert_eq!(doors.post(INGESTION, &json!({"batch": events})).await, 207);
    }
    doors.finish().await;
    assert!(
        doors
            .langfuse
            .wait_until(PATIENCE, |it| it.scores().count() == 15)
            .await
    );
    let requests = doors.langfuse.requests();
    assert!(requests.len() < 5, "{}", requests.len());
    for request in requests {
        assert!(request.wire_bytes <= Door::Ingestion.limits().bytes);
        assert_eq!(request.header("content-encoding"), None);
    }
}

#[tokio::test]
async fn scores_of_every_kind_share_one_request_that_a_real_langfuse_takes() {
    let mut doors = Doors::open(Setup {
        langfuse: Config::default(),
        ..Setup::default()
    })
    .await;
    doors.invoke();
    let score = |id: &str| json!({"id": id, "name": "quality", "value": 1, "traceId": "t"});
    assert_eq!(doors.post(SCORES, &score("a")).await, 200);
    assert_eq!(
        doors.post(SCORES, &json!([score("b"), score("c")])).await,
        202
    );
    let event = json!({"batch": [score_event("d", "x")]});
    assert_eq!(doors.post(INGESTION, &event).await, 207);
    doors.finish().await;
    assert!(
        doors
            .langfuse
            .wait_until(PATIENCE, |it| it.scores().count() == 4)
            .await
    );
    let stored: BTreeSet<_> = doors
        .langfuse
        .scores()
        .iter()
        .map(|it| it.body["id"].to_string())
        .collect();
    assert_eq!(
        stored,
        BTreeSet::from([r#""a""#, r#""b""#, r#""c""#, r#""score-d""#].map(String::from))
    );
    assert_eq!((doors.asked(SCORES), doors.asked(INGESTION)), (0, 1));
}

#[tokio::test]
async fn a_score_that_comes_with_a_public_key_alone_is_sent_where_that_is_allowed() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.invoke();
    let request = doors
        .request_as("Bearer pk-lf-1", Method::POST, SCORES)
        .header("content-type", "application/json")
        .body(json!({"name": "quality", "value": 1, "traceId": "t"}).to_string());
    assert_eq!(request.send().await.unwrap().status(), 200);
    doors.finish().await;
    assert!(
        doors
            .langfuse
            .wait_until(PATIENCE, |it| it.requests().len() == 1)
            .await
    );
    assert_eq!((doors.asked(SCORES), doors.asked(INGESTION)), (1, 0));
}

fn verbatim_scores() -> Setup {
    let mut setup = Setup::default();
    setup.receiver.scores = Scores::Verbatim;
    setup
}

#[tokio::test]
async fn verbatim_one_score_and_an_array_of_them_are_different_requests() {
    let mut doors = Doors::open(verbatim_scores()).await;
    doors.invoke();
    let score = |id: &str| json!({"id": id, "name": "quality", "value": 1, "traceId": "t"});
    assert_eq!(doors.post(SCORES, &score("a")).await, 200);
    assert_eq!(
        doors.post(SCORES, &json!([score("b"), score("c")])).await,
        202
    );
    assert_eq!(doors.post(SCORES, &score("d")).await, 200);
    doors.finish().await;
    assert!(
        doors
            .langfuse
            .wait_until(PATIENCE, |it| it.scores().count() == 4)
            .await
    );
    let bodies: Vec<_> = doors
        .langfuse
        .requests()
        .iter()
        .map(|it| it.body[0])
        .collect();
    assert_eq!(bodies, *b"{[{");
}

#[tokio::test]
async fn an_array_that_an_older_langfuse_refuses_costs_no_other_data() {
    let mut doors = Doors::open(verbatim_scores()).await;
    let refuse = FaultRule::from(Fault::status(400)).on_path(SCORES);
    doors.langfuse.set_fault(refuse.on_method("POST"));
    doors.invoke();
    let score = json!({"id": "a", "name": "quality", "value": 1, "traceId": "t"});
    assert_eq!(doors.post(SCORES, &json!([score])).await, 202);
    assert_eq!(doors.post(TRACES, &span(0, "x")).await, 200);
    assert_eq!(
        doors
            .post(INGESTION, &json!({"batch": [score_event("b", "x")]}))
            .await,
        207
    );
    doors.finish().await;
    let rest = |it: &lambda_emulator::fake_langfuse::Recording| {
        it.observations().count() == 1 && it.scores().count() == 1
    };
    assert!(doors.langfuse.wait_until(PATIENCE, rest).await);
    assert_eq!(doors.asked(SCORES), 1);
}

#[tokio::test]
async fn projects_and_storage_headers_never_share_a_request() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.invoke();
    for (id, version) in [(0, "4"), (1, "4"), (2, "3"), (3, "4")] {
        let request = doors
            .request(Method::POST, TRACES)
            .header("content-type", "application/json");
        let request = request.header("x-langfuse-ingestion-version", version);
        let request = request.header("traceparent", format!("00-{id}"));
        assert_eq!(
            request
                .body(span(id, "x").to_string())
                .send()
                .await
                .unwrap()
                .status(),
            200
        );
    }
    doors.finish().await;
    assert!(
        doors
            .langfuse
            .wait_until(PATIENCE, |it| it.observations().count() == 4)
            .await
    );
    let mut spans: Vec<_> = doors
        .langfuse
        .requests()
        .iter()
        .map(|it| it.span_count)
        .collect();
    spans.sort_unstable();
    assert_eq!(spans, [1, 3]);
}

#[tokio::test]
async fn text_that_langfuse_cannot_store_is_replaced_and_counted() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.invoke();
    let halved = span(1, "HALF").to_string().replace("HALF", r"\ud800");
    for body in [halved, span(2, "whole").to_string()] {
        let request = doors
            .request(Method::POST, TRACES)
            .header("content-type", "application/json");
        assert_eq!(request.body(body).send().await.unwrap().status(), 200);
    }
    assert_eq!(doors.status().await["repaired"], 1);
    doors.finish().await;
    let both = doors
        .langfuse
        .wait_until(PATIENCE, |it| it.observations().count() == 2);
    assert!(both.await);
}
