//! Answers that depend on what is sent, on who sends it, and on who answers.

use std::io::Read;
use std::net::TcpStream;

use lambda_emulator::fake_langfuse::{Config, FakeLangfuse, Fault, FaultRule, Plan, Project};
use serde_json::{Value, json};

use crate::client::*;

fn probe() -> Value {
    json!({"resourceSpans": []})
}

fn named(id: &str, name: &str) -> Value {
    json!({"traceId": "t", "spanId": id, "name": name})
}

#[tokio::test]
async fn with_its_storage_down_data_draws_500_and_the_empty_export_200() {
    let langfuse = start();
    langfuse.set_fault(FaultRule::storage_down());
    assert_eq!(post_status(&langfuse, TRACES, &probe()).await, 200);
    assert_eq!(
        post_status(&langfuse, TRACES, &one_span("a", "b")).await,
        500
    );
    let events = json!({"batch": [score_event("e")]});
    assert_eq!(post_status(&langfuse, INGESTION, &events).await, 500);
    assert!(langfuse.observations().is_empty());
}

#[tokio::test]
async fn with_its_storage_hung_data_hangs_and_the_empty_export_draws_200() {
    let langfuse = start();
    langfuse.set_fault(FaultRule::storage_hung());
    assert_eq!(post_status(&langfuse, TRACES, &probe()).await, 200);
    let hung = try_post(&impatient_client(), &langfuse, TRACES, &one_span("a", "b")).await;
    assert!(hung.unwrap_err().is_timeout());
}

#[tokio::test]
async fn a_rule_about_content_sees_through_gzip_and_meets_nothing_else() {
    for fault in [401, 403, 413, 504].map(Fault::edge) {
        let langfuse = start();
        langfuse.set_fault(FaultRule::from(fault.clone()).on_content("DROP TABLE"));
        let bad = spans(&json!([named("1", "x"), named("2", "'; DROP TABLE users")]));
        let status = post_status(&langfuse, TRACES, &bad).await;
        assert_eq!(Fault::edge(status), fault);
        let packed = client()
            .post(format!("{}{TRACES}", langfuse.url()))
            .header("authorization", BASIC)
            .header("content-type", "application/json")
            .header("content-encoding", "gzip")
            .body(gzip(bad.to_string().as_bytes()));
        let answer = packed.send().await.unwrap();
        assert_eq!(answer.status(), status);
        assert!(answer.text().await.unwrap().starts_with("<html>"));
        let good = spans(&json!([named("3", "drop table")]));
        assert_eq!(post_status(&langfuse, TRACES, &good).await, 200);
        assert_eq!(langfuse.observations().len(), 1);
    }
}

#[tokio::test]
async fn a_503_is_langfuse_s_own_or_a_load_balancer_s() {
    let langfuse = start();
    langfuse.set_fault(Fault::status(503));
    let own = post(&langfuse, TRACES, &one_span("a", "b")).await;
    assert_eq!(
        own.json::<Value>().await.unwrap()["message"],
        "Service Unavailable"
    );
    langfuse.set_fault(Fault::edge(503));
    let balancer = post(&langfuse, TRACES, &one_span("a", "b")).await;
    assert_eq!(balancer.headers()["content-type"], "text/html");
    assert_eq!(balancer.status(), 503);
}

#[tokio::test]
async fn a_roll_out_answers_everything_404_405_or_302() {
    let langfuse = start();
    for fault in [
        Fault::edge(404),
        Fault::edge(405),
        Fault::redirect(302, "https://login.invalid/"),
    ] {
        langfuse.set_fault(fault.clone());
        for body in [probe(), one_span("a", "b")] {
            let answer = post(&langfuse, TRACES, &body).await;
            let location = answer
                .headers()
                .get("location")
                .map(|one| one.to_str().unwrap().to_owned());
            assert_eq!(location.is_some(), answer.status() == 302);
            assert!(matches!(answer.status().as_u16(), 302 | 404 | 405));
        }
    }
    assert!(langfuse.observations().is_empty());
}

#[test]
fn an_answer_that_stalls_has_its_head_and_half_of_its_body_and_no_end() {
    use std::io::Write;
    let langfuse = start();
    langfuse.set_fault(Fault::StallMidResponse);
    let body = one_span("a", "b").to_string();
    let mut stream = TcpStream::connect(langfuse.address()).unwrap();
    write!(
        stream,
        "POST {TRACES} HTTP/1.1\r\nhost: x\r\nauthorization: {BASIC}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let (mut received, mut part) = (Vec::new(), [0; 256]);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let complete = |received: &[u8]| {
        let text = String::from_utf8_lossy(received);
        text.split_once("\r\n\r\n")
            .is_some_and(|(_, body)| !body.is_empty())
    };
    while !complete(&received) {
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "closed");
        received.extend_from_slice(&part[..count]);
    }
    assert!(received.starts_with(b"HTTP/1.1 200 OK"));
    stream.set_read_timeout(Some(IMPATIENCE)).unwrap();
    assert!(stream.read(&mut part).is_err(), "nothing more, and no end");
    assert_eq!(langfuse.observations().len(), 1);
}

#[tokio::test]
async fn refused_events_are_told_one_by_one_in_the_207_and_not_stored() {
    let langfuse = start();
    langfuse.set_fault(Fault::RefuseItems {
        containing: "score-bad".into(),
        status: 400,
    });
    let batch = json!({"batch": [score_event("good"), score_event("bad")]});
    let answer = post(&langfuse, INGESTION, &batch).await;
    assert_eq!(answer.status(), 207);
    let answer = json_of(answer).await;
    assert_eq!(answer["successes"], json!([{"id": "good", "status": 201}]));
    assert_eq!(
        (&answer["errors"][0]["id"], &answer["errors"][0]["status"]),
        (&json!("bad"), &json!(400))
    );
    let ids: Vec<String> = langfuse.events().iter().map(|one| one.id.clone()).collect();
    assert_eq!(ids, ["good"]);
}

#[tokio::test]
async fn refused_spans_are_told_in_a_partial_success_and_not_stored() {
    let langfuse = start();
    langfuse.set_fault(Fault::RefuseItems {
        containing: "secret".into(),
        status: 400,
    });
    let body = spans(&json!([
        named("1", "x"),
        named("2", "secret"),
        named("3", "y")
    ]));
    let answer = post(&langfuse, TRACES, &body).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        json_of(answer).await["partialSuccess"]["rejectedSpans"],
        "1"
    );
    let ids: Vec<String> = langfuse
        .observations()
        .iter()
        .map(|one| one.span_id.clone())
        .collect();
    assert_eq!(ids, ["1", "3"]);
}

#[tokio::test]
async fn limits_are_counted_by_organisation_and_by_bucket() {
    let mut config = Config::default();
    let mut other = Project::new("other", "pk-lf-other", "sk-lf-other");
    other.organization = "org-other".into();
    config.projects.push(other);
    let langfuse = FakeLangfuse::start(config).unwrap();
    langfuse.set_fault(Fault::plan(Plan::Hobby));
    let client = client();
    let score_as = async |keys: &str| {
        let (user, password) = keys.split_once(':').unwrap();
        let request = client.post(format!("{}{SCORES}", langfuse.url()));
        request
            .basic_auth(user, Some(password))
            .json(&score("s"))
            .send()
            .await
            .unwrap()
    };
    // Of 30 points the last is refused already, and two projects share them.
    for number in 0..29 {
        let keys = ["pk-lf-test:sk-lf-test", "pk-lf-second:sk-lf-second"][number % 2];
        assert_eq!(score_as(keys).await.status(), 200, "{number}");
    }
    let refused = score_as("pk-lf-second:sk-lf-second").await;
    assert_eq!(refused.status(), 429);
    let after_s: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&after_s));
    let body = refused.json::<Value>().await.unwrap();
    assert_eq!(
        (&body["details"]["limit"], &body["code"]),
        (&json!(30), &json!("rate_limited"))
    );
    assert_eq!(get(&langfuse, "/api/public/traces").await.status(), 429);
    assert_eq!(
        get(&langfuse, "/api/public/v2/prompts/greeting")
            .await
            .status(),
        200
    );
    assert_eq!(
        post_status(&langfuse, TRACES, &one_span("a", "b")).await,
        200,
        "another bucket"
    );
    assert_eq!(
        score_as("pk-lf-other:sk-lf-other").await.status(),
        200,
        "another organisation"
    );
}
