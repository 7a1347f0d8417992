//! Who else finds the port, and what they are told.

use langfuse_extension::receiver::ADVICE;
use langfuse_extension::settings::Accept;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{BASIC, Doors, Setup, TRACES, json_of, noise, span};

#[tokio::test]
async fn a_grpc_exporter_is_told_in_its_own_protocol_what_to_change() {
    let doors = Doors::open(Setup::default()).await;
    let mut stream = doors.connect().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(&answer[..9], b"\0\0\0\x04\0\0\0\0\0");
    // GOAWAY, with HTTP_1_1_REQUIRED.
    assert_eq!((answer[12], answer[25]), (7, 0x0d));
    assert!(answer.ends_with(ADVICE.as_bytes()));
}

#[tokio::test]
async fn grpc_over_http_1_is_refused_with_the_same_words() {
    let doors = Doors::open(Setup::default()).await;
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let request = doors
        .request(Method::POST, path)
        .header("content-type", "application/grpc+proto");
    let answer = request.body("x").send().await.unwrap();
    assert_eq!(answer.status(), 415);
    assert!(
        answer
            .text()
            .await
            .unwrap()
            .contains("OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
    );
}

#[tokio::test]
async fn a_client_that_asks_whether_to_continue_is_told_to() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.invoke();
    let body = span(1, "continued").to_string();
    let head = format!(
        "POST {TRACES} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {BASIC}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = doors.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    doors.finish().await;
    assert_eq!(doors.langfuse.observations().len(), 1);
}

#[tokio::test]
async fn encodings_in_several_headers_count_as_one_list() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.invoke();
    let request = doors
        .request(Method::POST, TRACES)
        .header("content-type", "application/json");
    let request = request
        .header("content-encoding", "identity")
        .header("content-encoding", "gzip");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, span(1, "twice").to_string().as_bytes()).unwrap();
    let answer = request.body(gzip.finish().unwrap()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    doors.finish().await;
    assert_eq!(doors.langfuse.observations().len(), 1);
}

#[tokio::test]
async fn spans_without_a_sign_of_langfuse_are_discarded_where_the_setting_says_so() {
    let mut setup = Setup {
        own_keys: true,
        ..Setup::default()
    };
    setup.receiver.accept = Accept::Langfuse;
    let mut doors = Doors::open(setup).await;
    doors.invoke();
    let post = async |id: u64, path: &str, header: Option<(&str, &str)>| {
        let request = doors.client.post(format!("{}{path}", doors.url));
        let request = request.header("content-type", "application/json");
        let request = header
            .iter()
            .fold(request, |it, (name, value)| it.header(*name, *value));
        request
            .body(span(id, "x").to_string())
            .send()
            .await
            .unwrap()
            .status()
    };
    assert_eq!(post(0, "/v1/traces", None).await, 200);
    assert_eq!(
        post(1, "/v1/traces", Some(("authorization", BASIC))).await,
        200
    );
    assert_eq!(
        post(2, "/v1/traces", Some(("x_langfuse_sdk_name", "python"))).await,
        200
    );
    assert_eq!(post(3, TRACES, None).await, 200);
    doors.finish().await;
    let mut ids: Vec<_> = doors
        .langfuse
        .observations()
        .iter()
        .map(|it| it.span_id.clone())
        .collect();
    ids.sort();
    assert_eq!(ids, [2, 3, 4].map(|id| format!("{id:016x}")));
}

#[tokio::test]
async fn plain_otlp_travels_without_headers_it_did_not_have() {
    let mut doors = Doors::open(Setup {
        own_keys: true,
        ..Setup::default()
    })
    .await;
    doors.invoke();
    let request = doors.client.post(format!("{}/v1/traces", doors.url));
    let request = request
        .header("content-type", "application/json")
        .header("user-agent", "OTel");
    assert_eq!(
        request
            .body(span(1, &noise(100, 1)).to_string())
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    doors.finish().await;
    let observation = &doors.langfuse.observations()[0];
    let storage: Vec<_> = observation.storage_headers.keys().cloned().collect();
    assert_eq!(storage, ["content-type", "x-langfuse-public-key"]);
    assert_eq!(observation.project.as_deref(), Some("project-test"));
    let ours = concat!("langfuse-lambda-extension/", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        doors.langfuse.requests()[0].header("user-agent"),
        Some(ours)
    );
}

#[tokio::test]
async fn headers_that_differ_with_each_request_keep_none_from_sharing_one() {
    let mut setup = Setup::default();
    setup.receiver.has_keys = true;
    let mut doors = Doors::open(setup).await;
    doors.invoke();
    for number in 0..200 {
        let request = doors.client.post(format!("{}/v1/traces", doors.url));
        let request = request
            .header("content-type", "application/json")
            .header("elastic-apm-traceparent", format!("00-{number:032x}-01-01"))
            .header("newrelic", format!("{number}"))
            .header("x-cloud-trace-context", format!("{number}/1;o=1"))
            .header("x-correlation-id", format!("{number}"))
            .header("x-instana-t", format!("{number}"));
        let answer = request.body(span(number, "x").to_string()).send().await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    // Until now everything has waited for the keys.
    doors.give_keys();
    doors.finish().await;
    assert_eq!(doors.langfuse.observations().len(), 200);
    let requests = doors.langfuse.requests().len();
    assert!(requests <= 2, "{requests}");
}

#[tokio::test]
async fn headers_that_a_setting_names_travel_and_separate() {
    let mut setup = Setup {
        own_keys: true,
        ..Setup::default()
    };
    setup.receiver.route_headers = vec!["x-tenant".parse().unwrap()];
    let mut doors = Doors::open(setup).await;
    doors.invoke();
    for (number, tenant) in [(1, "a"), (2, "b"), (3, "a")] {
        let request = doors.client.post(format!("{}/v1/traces", doors.url));
        let request = request
            .header("content-type", "application/json")
            .header("x-tenant", tenant)
            .header("x-other", "x");
        let answer = request.body(span(number, "x").to_string()).send().await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    doors.finish().await;
    let requests = doors.langfuse.requests();
    let mut tenants: Vec<_> = requests.iter().map(|it| it.header("x-tenant")).collect();
    tenants.sort_unstable();
    tenants.dedup();
    assert_eq!(tenants, [Some("a"), Some("b")]);
    assert!(requests.iter().all(|it| it.header("x-other").is_none()));
    assert_eq!(doors.langfuse.observations().len(), 3);
}

#[tokio::test]
async fn what_we_sent_ourselves_is_not_taken_again() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.invoke();
    assert_eq!(doors.post(TRACES, &span(1, "x")).await, 200);
    doors.finish().await;
    let sent = &doors.langfuse.requests()[0];
    let hop = sent.header("langfuse-extension-hop").unwrap();
    let again = |value: &str| {
        let request = doors.request(Method::POST, TRACES);
        let request = request.header("content-type", "application/json");
        let request = request.header("langfuse-extension-hop", value.to_owned());
        request.body(span(2, "x").to_string()).send()
    };
    assert_eq!(again(hop).await.unwrap().status(), 503);
    assert_eq!(again("another").await.unwrap().status(), 200);
}

#[tokio::test]
async fn metrics_and_logs_are_acknowledged_and_go_nowhere() {
    let mut doors = Doors::open(Setup::default()).await;
    doors.invoke();
    for path in [
        "/v1/metrics",
        "/v1/logs",
        "/api/public/otel/v1/metrics",
        "//v1/logs/",
    ] {
        assert_eq!(doors.post(path, &json!({})).await, 200, "{path}");
    }
    doors.finish().await;
    assert!(doors.langfuse.requests().is_empty());
}

#[tokio::test]
async fn web_pages_and_other_hosts_are_refused() {
    let doors = Doors::open(Setup::default()).await;
    let get = || doors.request(Method::GET, "/api/public/projects");
    let from_page = get()
        .header("origin", "https://evil.example")
        .send()
        .await
        .unwrap();
    assert_eq!(from_page.status(), 403);
    let rebound = get()
        .header("host", "evil.example:4318")
        .send()
        .await
        .unwrap();
    assert_eq!(rebound.status(), 403);
    assert!(doors.langfuse.requests().is_empty());
}

/// Speaks for itself, and reads an answer to the end of its connection.
async fn raw(doors: &Doors, request: &str) -> String {
    let mut stream = doors.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_request_says_once_whom_it_asks_and_who_it_is() {
    let doors = Doors::open(Setup::default()).await;
    for (headers, status) in [
        ("Host: localhost\r\nHost: localhost\r\n", 400),
        ("", 400),
        (
            "Host: localhost\r\nAuthorization: Basic YTpi\r\nAuthorization: Basic Yzpk\r\n",
            400,
        ),
        ("Host: localhost\r\n", 200),
    ] {
        let request = format!("GET /status HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        let answer = raw(&doors, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{headers} {answer}"
        );
    }
    let without = raw(&doors, "GET /status HTTP/1.0\r\n\r\n").await;
    assert!(without.contains(" 200 OK"), "{without}");
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one_and_head_is_get_without_a_body() {
    let doors = Doors::open(Setup::default()).await;
    for (method, path, allow) in [
        (Method::GET, TRACES, "POST"),
        (Method::PUT, "/v1/traces", "POST"),
        (Method::DELETE, "/api/public/ingestion", "POST"),
        (Method::GET, "/v1/logs", "POST"),
        (Method::POST, "/status", "GET, HEAD"),
    ] {
        let answer = doors.request(method.clone(), path).send().await.unwrap();
        assert_eq!(answer.status(), 405, "{method} {path}");
        assert_eq!(answer.headers()["allow"], allow, "{method} {path}");
    }
    let answer = doors.request(Method::HEAD, "/status").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "");
}

#[tokio::test]
async fn a_refusal_is_in_the_words_of_its_client() {
    let mut setup = Setup::default();
    setup.receiver.limits.body_bytes = 1000;
    let doors = Doors::open(setup).await;
    let large = "x".repeat(1001);
    let post = |path: &str, content_type: &str| {
        doors
            .request(Method::POST, path)
            .header("content-type", content_type)
            .body(large.clone())
            .send()
    };
    for content_type in ["application/x-protobuf", "application/protobuf"] {
        let answer = post(TRACES, content_type).await.unwrap();
        assert_eq!(answer.status(), 413);
        assert_eq!(answer.headers()["content-type"], "application/x-protobuf");
        // The field `code`, RESOURCE_EXHAUSTED.
        assert_eq!(answer.bytes().await.unwrap()[..2], [8, 8]);
    }
    let answer = post(TRACES, "application/json").await.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(json_of(answer).await["code"], 8);
    let answer = post("/api/public/ingestion", "application/json")
        .await
        .unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(json_of(answer).await["error"], "PayloadTooLargeError");
    let nobody = doors.client.post(format!("{}{TRACES}", doors.url));
    let nobody = nobody.header("content-type", "application/x-protobuf");
    let answer = nobody.body("").send().await.unwrap();
    assert_eq!(answer.status(), 401);
    // UNAUTHENTICATED.
    assert_eq!(answer.bytes().await.unwrap()[..2], [8, 16]);
    assert_eq!(doors.refused("no_keys").await, [1, 0]);
    assert_eq!(doors.refused("too_large").await, [4, 4004]);
}
