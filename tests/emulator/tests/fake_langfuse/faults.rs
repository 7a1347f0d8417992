//! Each way to fail, and for whom.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lambda_emulator::fake_langfuse::{FakeLangfuse, Fault, FaultRule, MAX_CONNECTIONS};
use serde_json::{Value, json};

use crate::client::*;

/// A whole request with one span, for tests that look at the bytes that come back.
fn send_raw(langfuse: &FakeLangfuse) -> TcpStream {
    let body = one_span("a", "b").to_string();
    let mut stream = TcpStream::connect(langfuse.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "POST {TRACES} HTTP/1.1\r\nhost: x\r\nauthorization: {BASIC}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

/// What came before the connection ended, and how it ended.
fn read_to_the_end(mut stream: TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut received = Vec::new();
    let end = stream
        .read_to_end(&mut received)
        .err()
        .map(|error| error.kind());
    (received, end)
}

#[tokio::test]
async fn a_refusing_langfuse_refuses_connections_until_it_is_back_on_the_same_port() {
    let langfuse = start();
    let client = client();
    try_post(&client, &langfuse, TRACES, &one_span("a", "1"))
        .await
        .unwrap();
    langfuse.set_fault(Fault::Refuse);
    for _ in 0..3 {
        let error = TcpStream::connect(langfuse.address()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    let kept = try_post(&client, &langfuse, TRACES, &one_span("a", "2")).await;
    assert!(kept.is_err(), "kept connections are closed too");
    let fresh = try_post(
        &crate::client::client(),
        &langfuse,
        TRACES,
        &one_span("a", "2"),
    )
    .await;
    assert!(fresh.unwrap_err().is_connect());
    langfuse.clear_faults();
    assert_eq!(
        post_status(&langfuse, TRACES, &one_span("a", "3")).await,
        200
    );
    assert_eq!(langfuse.observations().len(), 2);
}

#[tokio::test]
async fn a_hang_before_accepting_stores_nothing_and_a_hang_after_accepting_does() {
    let langfuse = start();
    for (fault, stored_count) in [
        (Fault::HangBeforeAccepting, 0),
        (Fault::HangAfterAccepting, 1),
    ] {
        langfuse.set_fault(fault);
        let error = try_post(&impatient_client(), &langfuse, TRACES, &one_span("a", "b"))
            .await
            .unwrap_err();
        assert!(error.is_timeout());
        assert_eq!(langfuse.observations().len(), stored_count);
    }
    let requests = langfuse.requests();
    assert!(requests.iter().all(|request| request.status.is_none()));
    assert_eq!((requests[0].accepted, requests[1].accepted), (false, true));
    assert!(langfuse.refused_observations().is_empty());
}

#[tokio::test]
async fn latency_stores_at_once_and_answers_later() {
    let langfuse = start();
    let latency = Duration::from_millis(80);
    langfuse.set_fault(Fault::latency(latency));
    let started = Instant::now();
    assert_eq!(
        post_status(&langfuse, TRACES, &one_span("a", "b")).await,
        200
    );
    assert!(started.elapsed() >= latency);
    langfuse.set_fault(Fault::latency(PATIENCE * 10));
    assert!(
        try_post(&impatient_client(), &langfuse, TRACES, &one_span("a", "c"))
            .await
            .is_err()
    );
    assert_eq!(langfuse.observations().len(), 2);
}

#[test]
fn a_slow_drip_answers_byte_by_byte_and_whole() {
    let langfuse = start();
    let interval = Duration::from_millis(1);
    langfuse.set_fault(Fault::slow_drip(interval));
    let started = Instant::now();
    let mut stream = send_raw(&langfuse);
    let mut byte = [0; 64];
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") {
        let count = stream.read(&mut byte).unwrap();
        received.extend_from_slice(&byte[..count]);
    }
    assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(started.elapsed() >= interval * u32::try_from(received.len()).unwrap());
}

#[test]
fn a_reset_before_the_response_is_a_reset_and_stores_only_if_told() {
    let langfuse = start();
    for (fault, stored_count) in [
        (Fault::ResetBeforeResponse { accept: false }, 0),
        (
            Fault::ResetBeforeResponse { accept: false }.after_accepting(),
            1,
        ),
    ] {
        langfuse.set_fault(fault);
        assert_eq!(
            read_to_the_end(send_raw(&langfuse)),
            (Vec::new(), Some(ErrorKind::ConnectionReset))
        );
        assert_eq!(langfuse.observations().len(), stored_count);
    }
}

#[test]
fn a_reset_mid_response_comes_after_the_head_and_half_of_the_body() {
    let langfuse = start();
    langfuse.set_fault(Fault::ResetMidResponse);
    let (received, end) = read_to_the_end(send_raw(&langfuse));
    let text = String::from_utf8(received).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let announced_bytes: usize = head
        .split("content-length: ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(body.len(), announced_bytes / 2);
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
    assert_eq!(langfuse.observations().len(), 1);
}

#[tokio::test]
async fn every_status_is_answered_as_langfuse_or_its_edge_words_it() {
    let langfuse = start();
    for (fault, status, wording) in [
        (Fault::status(401), 401, "Invalid credentials"),
        (Fault::suspended(), 403, "Ingestion suspended"),
        (Fault::status(413), 413, "<html>"),
        (Fault::too_many_requests(7), 429, "Rate limit exceeded"),
        (Fault::status(500), 500, "Internal Server Error"),
        (Fault::status(502), 502, "<html>"),
        (Fault::status(503), 503, "Service Unavailable"),
        (Fault::status(504), 504, "<html>"),
    ] {
        langfuse.set_fault(fault);
        let response = post(&langfuse, TRACES, &one_span("a", "b")).await;
        assert_eq!(response.status(), status);
        assert_eq!(
            response
                .headers()
                .get("retry-after")
                .is_some_and(|value| value == "7"),
            status == 429
        );
        assert!(response.text().await.unwrap().contains(wording), "{status}");
    }
    assert!(langfuse.observations().is_empty());
    assert_eq!(langfuse.refused_observations().len(), 8);
    langfuse.set_fault(Fault::status(504).after_accepting());
    assert_eq!(
        post_status(&langfuse, TRACES, &one_span("a", "b")).await,
        504
    );
    assert_eq!(langfuse.observations().len(), 1);
}

#[tokio::test]
async fn the_rate_limit_is_off_by_one_shared_by_both_doors_and_starts_anew() {
    let langfuse = start();
    langfuse.set_fault(Fault::rate_limit(3));
    assert_eq!(
        post_status(&langfuse, TRACES, &one_span("a", "b")).await,
        200
    );
    assert_eq!(
        post_status(&langfuse, INGESTION, &json!({"batch": []})).await,
        207
    );
    let response = post(&langfuse, TRACES, &one_span("a", "c")).await;
    assert_eq!(response.status(), 429);
    let headers = response.headers().clone();
    assert_eq!(
        (
            &headers["x-ratelimit-limit"],
            &headers["x-ratelimit-remaining"]
        ),
        (&"3".parse().unwrap(), &"0".parse().unwrap())
    );
    assert!(
        headers["x-ratelimit-reset"]
            .to_str()
            .unwrap()
            .ends_with("GMT+0000 (Coordinated Universal Time)")
    );
    let retry_after_s: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&retry_after_s));
    assert_eq!(
        response.json::<Value>().await.unwrap()["code"],
        "rate_limited"
    );
    assert_eq!(
        get(&langfuse, "/api/public/projects").await.status(),
        200,
        "only ingestion is limited"
    );
    assert_eq!(langfuse.observations().len(), 1);

    let window = Duration::from_millis(50);
    langfuse.set_fault(Fault::RateLimit {
        requests: 2,
        public_api_requests: None,
        window,
    });
    assert_eq!(
        post_status(&langfuse, TRACES, &one_span("a", "b")).await,
        200
    );
    let started = Instant::now();
    while post_status(&langfuse, TRACES, &one_span("a", "b")).await == 429 {
        assert!(started.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn a_scope_limits_a_fault_to_paths_methods_data_and_a_count() {
    let langfuse = start();
    let probe = json!({"resourceSpans": []});
    let span = one_span("a", "b");

    langfuse.set_fault(FaultRule::from(Fault::status(503)).on_path("/api/public/otel"));
    assert_eq!(post_status(&langfuse, TRACES, &span).await, 503);
    assert_eq!(post_status(&langfuse, SCORES, &score("s")).await, 200);

    langfuse.set_fault(FaultRule::from(Fault::status(503)).on_method("GET"));
    assert_eq!(post_status(&langfuse, TRACES, &span).await, 200);
    assert_eq!(get(&langfuse, "/api/public/projects").await.status(), 503);

    langfuse.set_fault(FaultRule::from(Fault::status(503)).on_data());
    assert_eq!(post_status(&langfuse, TRACES, &probe).await, 200);
    assert_eq!(post_status(&langfuse, TRACES, &span).await, 503);
    assert_eq!(
        post_status(&langfuse, INGESTION, &json!({"batch": [score_event("e")]})).await,
        503
    );
    assert_eq!(
        post_status(&langfuse, INGESTION, &json!({"batch": []})).await,
        207
    );
    assert_eq!(get(&langfuse, "/api/public/projects").await.status(), 200);

    langfuse.set_fault(FaultRule::from(Fault::status(503)).on_path(TRACES).first(2));
    assert_eq!(get(&langfuse, "/api/public/projects").await.status(), 200);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(post_status(&langfuse, TRACES, &span).await);
    }
    assert_eq!(statuses, [503, 503, 200]);
}

#[tokio::test]
async fn of_several_rules_the_first_that_matches_is_taken() {
    let langfuse = start();
    langfuse.set_fault(FaultRule::from(Fault::Healthy).on_path("/api/public/projects"));
    langfuse.add_fault(FaultRule::from(Fault::status(500)).first(1));
    langfuse.add_fault(Fault::status(502));
    assert_eq!(get(&langfuse, "/api/public/projects").await.status(), 200);
    assert_eq!(get(&langfuse, "/api/public/health").await.status(), 500);
    assert_eq!(get(&langfuse, "/api/public/health").await.status(), 502);
    langfuse.clear_faults();
    assert_eq!(get(&langfuse, "/api/public/health").await.status(), 200);
}

#[tokio::test]
async fn connections_are_kept_from_request_to_request() {
    let langfuse = start();
    let client = client();
    for _ in 0..2 {
        let response = try_post(&client, &langfuse, TRACES, &one_span("a", "b"))
            .await
            .unwrap();
        response.bytes().await.unwrap();
    }
    post(&langfuse, TRACES, &one_span("a", "b")).await;
    let connections: Vec<u64> = langfuse
        .requests()
        .iter()
        .map(|request| request.connection)
        .collect();
    assert_eq!(connections, [0, 0, 1]);
}

#[test]
fn closing_connections_ends_them_and_no_new_ones() {
    let langfuse = start();
    let kept = send_raw(&langfuse);
    assert!(langfuse.block_until(PATIENCE, |recording| recording.observations().count() == 1));
    langfuse.close_connections();
    let _ended = read_to_the_end(kept);
    send_raw(&langfuse);
    assert!(langfuse.block_until(PATIENCE, |recording| recording.observations().count() == 2));
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let langfuse = start();
    let connect = || {
        let stream = TcpStream::connect(langfuse.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let _held: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(|_| connect()).collect();
    assert_eq!(read_to_the_end(connect()), (Vec::new(), None));
}

#[test]
fn dropping_it_closes_the_port() {
    let langfuse = start();
    let address = langfuse.address();
    let _control = langfuse.open_control().unwrap();
    drop(langfuse);
    assert_eq!(
        TcpStream::connect(address).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}
