//! What is not kept travels on to Langfuse and back, within bounds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use lambda_emulator::fake_langfuse::{Config, Fault, FaultRule};
use langfuse_extension::settings::Passthrough;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Doors, SECOND, Setup, TRACES, span};

const PROJECTS: &str = "/api/public/projects";

/// Short enough to be waited out.
fn impatient() -> Setup {
    let mut setup = Setup::default();
    setup.receiver.limits.passthrough_timeout = Duration::from_millis(300);
    setup
}

#[tokio::test]
async fn a_hung_langfuse_costs_one_request_two_seconds_and_the_next_one_nothing() {
    let doors = Doors::open(Setup::default()).await;
    doors.langfuse.set_fault(Fault::HangBeforeAccepting);
    let start = Instant::now();
    assert_eq!(doors.get(PROJECTS).await.status(), 424);
    let first = start.elapsed();
    let start = Instant::now();
    assert_eq!(doors.get(PROJECTS).await.status(), 424);
    assert!(first < Duration::from_millis(2_500), "{first:?}");
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(doors.asked(PROJECTS), 1);
}

#[tokio::test]
async fn a_langfuse_that_is_gone_is_answered_for_at_once_and_found_again() {
    let doors = Doors::open(Setup::default()).await;
    doors.langfuse.set_fault(Fault::Refuse);
    assert_eq!(doors.get(PROJECTS).await.status(), 424);
    let start = Instant::now();
    assert_eq!(doors.get(PROJECTS).await.status(), 424);
    assert!(start.elapsed() < Duration::from_millis(100));
    doors.langfuse.clear_faults();
    while doors.get(PROJECTS).await.status() != 200 {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn langfuses_own_errors_are_passed_on_as_they_are() {
    let doors = Doors::open(Setup::default()).await;
    doors
        .langfuse
        .set_fault(FaultRule::from(Fault::status(503)).first(1));
    assert_eq!(doors.get(PROJECTS).await.status(), 503);
    assert_eq!(
        doors.get("/api/public/v2/prompts/missing").await.status(),
        404
    );
    assert_eq!(doors.get(PROJECTS).await.status(), 200);
}

#[tokio::test]
async fn an_answer_that_stands_still_is_cut_off() {
    let doors = Doors::open(impatient()).await;
    doors
        .langfuse
        .set_fault(Fault::slow_drip(Duration::from_secs(30)));
    let start = Instant::now();
    assert_eq!(doors.get(PROJECTS).await.status(), 424);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_answer_that_drips_for_too_long_is_cut_off() {
    let mut setup = impatient();
    setup.receiver.limits.passthrough_timeout = Duration::from_secs(10);
    setup.receiver.limits.passthrough_total_timeout = Duration::from_secs(1);
    let doors = Doors::open(setup).await;
    doors
        .langfuse
        .set_fault(Fault::slow_drip(Duration::from_millis(4)));
    let start = Instant::now();
    let answer = doors.get(PROJECTS).await;
    let whole = answer.status() == 200 && answer.bytes().await.is_ok();
    assert!(!whole && start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn raw_paths_and_queries_travel_as_they_are() {
    let mut setup = Setup::default();
    setup.receiver.prompt_cache = false;
    setup.langfuse = Config {
        base_path: "/langfuse".into(),
        ..Config::default()
    };
    let doors = Doors::open(setup).await;
    let sent = [
        "/api/public/v2/prompts/movie%20critic%2Fv2%20%C3%A4?label=a%26b&version=",
        "/api/public/v2/prompts/a%2F..%2Fb",
        "/api/public/v2/prompts/...?x=../y",
        "//api/public/v2/prompts/x%2f",
    ];
    for target in sent {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nConnection: close\r\n\r\n",
            crate::support::BASIC
        );
        raw(&doors, head.as_bytes()).await;
    }
    let targets: Vec<_> = doors
        .langfuse
        .requests()
        .iter()
        .map(|it| it.target.clone())
        .collect();
    let expected = sent.map(|it| format!("/langfuse{}", it.replacen("//", "/", 1)));
    assert_eq!(targets, expected);
}

#[tokio::test]
async fn no_path_climbs_out_of_the_api() {
    let mut setup = Setup {
        own_keys: true,
        ..Setup::default()
    };
    setup.receiver.passthrough = Passthrough::All;
    let doors = Doors::open(setup).await;
    for target in [
        "/api/public/projects/../../../admin",
        "/api/public/projects/%2e%2E/traces",
        "/api/public/projects/x\\..\\..\\traces",
        "/api/public/..",
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = raw(&doors, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{target}: {answer}");
    }
    assert!(doors.langfuse.requests().is_empty());
}

#[tokio::test]
async fn with_injected_keys_only_what_sdks_ask_passes_and_with_its_own_keys_everything() {
    let doors = Doors::open(Setup {
        own_keys: true,
        ..Setup::default()
    })
    .await;
    let asked = async |path: &str, authorization: Option<&str>| {
        let request = doors.client.get(format!("{}{path}", doors.url));
        let request = authorization
            .iter()
            .fold(request, |it, value| it.header("authorization", *value));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(asked(PROJECTS, None).await, 200);
    assert_eq!(asked("/api/public/v2/prompts/greeting", None).await, 200);
    assert_eq!(asked("/api/public/traces", None).await, 403);
    assert_eq!(asked("/api/public/traces", Some(SECOND)).await, 200);
    let bearers: Vec<_> = doors
        .langfuse
        .requests()
        .iter()
        .map(|it| it.project.clone().unwrap())
        .collect();
    assert_eq!(bearers, ["project-test", "project-test", "project-second"]);
}

#[tokio::test]
async fn what_is_asked_with_injected_keys_is_built_anew() {
    let doors = Doors::open(Setup {
        own_keys: true,
        ..Setup::default()
    })
    .await;
    let head = "Host: localhost\r\nCookie: session=x\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /api/public/traces\r\n\
                X-Forwarded-Host: evil.example\r\nx-langfuse-public-key: pk-lf-other\r\nx-langfuse-sdk-name: python\r\n\
                Connection: close\r\n\r\n";
    for (target, status) in [
        ("//api/public/v2/prompts/a%2fb?x=1&label=p+q", "404"),
        ("/api/public/projects/..%2ftraces", "403"),
        ("/api/public/v2/prompts/..%2f..%2ftraces", "403"),
        ("/api/public/v2/prompts/%2e%2e%2fsessions", "403"),
        ("/api/public/v2/prompts/%252e%252e%252ftraces", "403"),
        ("/api/public/v2/prompts?limit=100", "403"),
    ] {
        let answer = raw(
            &doors,
            format!("GET {target} HTTP/1.1\r\n{head}").as_bytes(),
        )
        .await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{target}: {answer}"
        );
    }
    let body = "Content-Length: 2\r\n";
    for target in [
        "POST /api/public/v2/prompts",
        "PATCH /api/public/v2/prompts/x/versions/1",
        "POST /api/public/dataset-items",
    ] {
        let answer = raw(
            &doors,
            format!("{target} HTTP/1.1\r\n{body}{head}{{}}").as_bytes(),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{target}: {answer}");
    }
    let seen = doors.langfuse.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].target, "/api/public/v2/prompts/a%2Fb?label=p%20q");
    for name in [
        "cookie",
        "x-http-method-override",
        "x-original-url",
        "x-forwarded-host",
    ] {
        assert_eq!(seen[0].header(name), None, "{name}");
    }
    assert_eq!(seen[0].header("x-langfuse-sdk-name"), Some("python"));
    assert_eq!(seen[0].header("x-langfuse-public-key"), Some("pk-lf-test"));
}

#[tokio::test]
async fn prompts_are_written_with_injected_keys_where_the_setting_says_so() {
    let mut setup = Setup {
        own_keys: true,
        ..Setup::default()
    };
    setup.receiver.passthrough = Passthrough::Write;
    let doors = Doors::open(setup).await;
    let new = json!({"name": "new", "prompt": "x", "type": "text"});
    let request = doors
        .client
        .post(format!("{}/api/public/v2/prompts", doors.url));
    let request = request.header("content-type", "application/json");
    assert_eq!(
        request.body(new.to_string()).send().await.unwrap().status(),
        201
    );
    let traces = doors.client.get(format!("{}/api/public/traces", doors.url));
    assert_eq!(traces.send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn keys_that_are_still_being_fetched_are_waited_for() {
    let mut setup = Setup::default();
    setup.receiver.has_keys = true;
    let doors = Doors::open(setup).await;
    let asked = doors.client.get(format!("{}{PROJECTS}", doors.url)).send();
    let give = async {
        tokio::task::yield_now().await;
        doors.give_keys();
    };
    let (answer, ()) = tokio::join!(asked, give);
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn keys_that_do_not_come_are_waited_for_once_and_say_nothing_about_langfuse() {
    let mut setup = impatient();
    setup.receiver.has_keys = true;
    let doors = Doors::open(setup).await;
    let ask = || doors.client.get(format!("{}{PROJECTS}", doors.url)).send();
    let start = Instant::now();
    assert_eq!(ask().await.unwrap().status(), 424);
    assert!(start.elapsed() >= Duration::from_millis(300));
    let start = Instant::now();
    assert_eq!(ask().await.unwrap().status(), 424);
    assert!(start.elapsed() < Duration::from_millis(200));
    let own = doors
        .client
        .get(format!("{}{PROJECTS}", doors.url))
        .header("authorization", SECOND);
    assert_eq!(own.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn hop_by_hop_headers_end_here_and_others_travel() {
    let doors = Doors::open(Setup::default()).await;
    let request = doors.request(Method::GET, PROJECTS);
    let request = request
        .header("connection", "keep-alive, x-mine")
        .header("x-mine", "1");
    let request = request
        .header("te", "trailers")
        .header("keep-alive", "5")
        .header("x-other", "2");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let seen = &doors.langfuse.requests()[0];
    for name in ["x-mine", "te", "keep-alive"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x-other"), Some("2"));
    let host = doors.langfuse.origin();
    assert_eq!(seen.header("host"), host.strip_prefix("http://"));
}

#[tokio::test]
async fn a_redirect_is_handed_on_and_not_followed() {
    let doors = Doors::open(Setup::default()).await;
    doors.langfuse.set_fault(Fault::Status {
        status: 302,
        headers: vec![("location".into(), "http://elsewhere.invalid/".into())],
        body: String::new(),
        accept: false,
    });
    let answer = doors.get(PROJECTS).await;
    assert_eq!(answer.status(), 302);
    assert_eq!(answer.headers()["location"], "http://elsewhere.invalid/");
}

#[tokio::test]
async fn a_chunked_body_streams_through() {
    let doors = Doors::open(Setup::default()).await;
    let text = json!({"name": "streamed", "description": "x".repeat(100_000)}).to_string();
    let pieces: Vec<_> = text
        .as_bytes()
        .chunks(1000)
        .map(Bytes::copy_from_slice)
        .collect();
    let pieces = StreamBody::new(Pieces(pieces.into_iter()));
    let request = doors.request(Method::POST, "/api/public/v2/datasets");
    let request = request.header("content-type", "application/json");
    let body = reqwest::Body::wrap(pieces.boxed());
    assert_eq!(request.body(body).send().await.unwrap().status(), 200);
    let seen = &doors.langfuse.requests()[0];
    assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
    assert_eq!(seen.body, text.as_bytes());
}

struct Pieces(std::vec::IntoIter<Bytes>);

impl futures_core::Stream for Pieces {
    type Item = Result<Frame<Bytes>, std::convert::Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.next().map(|it| Ok(Frame::data(it))))
    }
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_however_it_is_framed() {
    let mut setup = Setup::default();
    setup.receiver.limits.body_bytes = 10_000;
    let doors = Doors::open(setup).await;
    let post = |body: reqwest::Body| {
        doors
            .request(Method::POST, "/api/public/media")
            .body(body)
            .send()
    };
    assert_eq!(post(vec![b' '; 10_001].into()).await.unwrap().status(), 413);
    let pieces = vec![Bytes::from(vec![b' '; 6_000]); 2];
    let chunked = reqwest::Body::wrap(StreamBody::new(Pieces(pieces.into_iter())));
    assert_eq!(post(chunked).await.unwrap().status(), 413);
    assert_eq!(doors.get(PROJECTS).await.status(), 200);
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_a_body_says_nothing_about_langfuse() {
    let doors = Doors::open(impatient()).await;
    let head = format!(
        "POST /api/public/media HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nContent-Length: 100\r\n\r\nhalf",
        crate::support::BASIC
    );
    let mut stream = doors.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
    assert_eq!(doors.get(PROJECTS).await.status(), 200);
}

#[tokio::test]
async fn media_is_announced_and_reported_through_us() {
    let doors = Doors::open(Setup::default()).await;
    let announced = json!({"contentType": "image/png", "contentLength": 70, "traceId": "t", "field": "input",
        "sha256Hash": "a3+kNPkqi4CqsC2b8aEuSf47XANbRkUxKzKjRZtl0wk="});
    let request = doors
        .request(Method::POST, "/api/public/media")
        .header("content-type", "application/json");
    let answer = request.body(announced.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let path = format!("/api/public/media/{}", answer["mediaId"].as_str().unwrap());
    let report = json!({"uploadedAt": "2026-01-01T00:00:00Z", "uploadHttpStatus": 200});
    let request = doors
        .request(Method::PATCH, &path)
        .header("content-type", "application/json");
    assert_eq!(
        request
            .body(report.to_string())
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(doors.langfuse.media()[0].reported_status, Some(200));
}

#[tokio::test]
async fn with_tracing_switched_off_reads_still_pass_and_data_does_not() {
    let mut setup = Setup::default();
    setup.core.enabled = false;
    let mut doors = Doors::open(setup).await;
    doors.invoke();
    assert_eq!(doors.post(TRACES, &span(1, "x")).await, 200);
    assert_eq!(
        doors.get("/api/public/v2/prompts/greeting").await.status(),
        200
    );
    doors.finish().await;
    let targets: Vec<_> = doors
        .langfuse
        .requests()
        .iter()
        .map(|it| it.target.clone())
        .collect();
    assert_eq!(targets, ["/api/public/v2/prompts/greeting"]);
}

#[tokio::test]
async fn with_the_passthrough_off_nothing_passes() {
    let mut setup = Setup::default();
    setup.receiver.passthrough = Passthrough::Off;
    let doors = Doors::open(setup).await;
    assert_eq!(doors.get(PROJECTS).await.status(), 403);
    assert!(doors.langfuse.requests().is_empty());
}

async fn raw(doors: &Doors, request: &[u8]) -> String {
    let mut stream = doors.connect().await;
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
