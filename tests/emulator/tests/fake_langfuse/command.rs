//! The command and its control endpoint.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use lambda_emulator::fake_langfuse::{
    FakeLangfuse, Fault, FaultRule, MAX_CONTROL_BODY_BYTES, TlsFailure,
};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::client::*;

struct Running {
    process: Child,
    line: Value,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fake-langfuse"));
        let mut process = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            process,
            line: serde_json::from_str(&line).unwrap(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.line["url"].as_str().unwrap())
    }

    async fn control(&self, method: Method, path: &str, body: &Value) -> Value {
        let control = self.line["control"].as_str().unwrap();
        call(control, method, path, body).await.1
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

async fn call(control: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let response = client()
        .request(method, format!("{control}{path}"))
        .json(body)
        .send()
        .await
        .unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn post_to(client: &Client, url: String, body: &Value) -> u16 {
    let request = client.post(url).header("authorization", BASIC).json(body);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_command_serves_and_is_controlled_over_http_until_its_input_ends() {
    let running = Running::start(&["--base-path", "/langfuse"]);
    let traces = running.url(TRACES);
    assert!(traces.contains("/langfuse/api"));
    let fault = json!({"kind": "status", "status": 503, "headers": [["retry-after", "1"]], "scope": {"first_requests": 1}});
    let rules = running.control(Method::POST, "/faults", &fault).await;
    assert_eq!(rules[0]["scope"]["first_requests"], 1);
    let client = client();
    assert_eq!(
        post_to(&client, traces.clone(), &one_span("a", "b")).await,
        503
    );
    assert_eq!(
        post_to(&client, traces.clone(), &one_span("a", "b")).await,
        200
    );
    assert_eq!(
        post_to(&client, traces.clone(), &one_span("a", "b")).await,
        200
    );
    assert_eq!(
        post_to(&client, running.url(SCORES), &score("s")).await,
        200
    );

    let nothing = Value::Null;
    let observations = running
        .control(Method::GET, "/observations", &nothing)
        .await;
    assert_eq!(observations[1]["trace_id"], "a");
    assert_eq!(
        running
            .control(Method::GET, "/refused-observations", &nothing)
            .await[0]["request"],
        0
    );
    assert_eq!(
        running.control(Method::GET, "/scores", &nothing).await[0]["body"]["id"],
        "s"
    );
    let duplicates = running.control(Method::GET, "/duplicates", &nothing).await;
    assert_eq!(
        duplicates["observations"],
        json!([{"project": "project-test", "id": "a/b", "count": 2}])
    );
    let requests = running.control(Method::GET, "/requests", &nothing).await;
    assert_eq!(
        (&requests[0]["status"], &requests[0]["fault"]),
        (&json!(503), &json!("status"))
    );
    running
        .control(Method::DELETE, "/recordings", &nothing)
        .await;
    let summary = running.control(Method::GET, "/summary", &nothing).await;
    assert_eq!(
        (&summary["requests"], &summary["observations"]),
        (&json!(0), &json!(0))
    );

    running
        .control(Method::PUT, "/faults", &json!([{"kind": "refuse"}]))
        .await;
    let refused = client.post(traces.clone()).send().await.unwrap_err();
    assert!(refused.is_connect());
    running.control(Method::DELETE, "/faults", &nothing).await;
    assert_eq!(post_to(&client, traces, &one_span("a", "b")).await, 200);
}

#[tokio::test]
async fn the_command_takes_keys_limits_and_tls() {
    let running = Running::start(&[
        "--tls",
        "--project",
        "mine:pk-mine:sk-mine",
        "--max-request-bytes",
        "10",
    ]);
    assert_eq!(running.line["public_key"], "pk-mine");
    let pem = std::fs::read(running.line["ca"].as_str().unwrap()).unwrap();
    let authority = reqwest::Certificate::from_pem(&pem).unwrap();
    let client = client_with(|builder| builder.tls_certs_only([authority]));
    // pk-mine:sk-mine
    let request = client
        .get(running.url("/api/public/projects"))
        .header("authorization", "Basic cGstbWluZTpzay1taW5l");
    let projects: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(projects["data"][0]["id"], "mine");
    assert_eq!(
        post_to(&client, running.url(TRACES), &one_span("a", "b")).await,
        413
    );
}

#[tokio::test]
async fn every_fault_can_be_told_in_json() {
    let faults = [
        (json!({"kind": "healthy"}), Fault::Healthy),
        (json!({"kind": "refuse"}), Fault::Refuse),
        (
            json!({"kind": "hang_before_accepting"}),
            Fault::HangBeforeAccepting,
        ),
        (
            json!({"kind": "hang_after_accepting"}),
            Fault::HangAfterAccepting,
        ),
        (
            json!({"kind": "latency", "ms": 250}),
            Fault::latency(std::time::Duration::from_millis(250)),
        ),
        (
            json!({"kind": "slow_drip", "ms_per_byte": 10}),
            Fault::slow_drip(std::time::Duration::from_millis(10)),
        ),
        (
            json!({"kind": "reset_before_response"}),
            Fault::ResetBeforeResponse { accept: false },
        ),
        (
            json!({"kind": "reset_mid_response"}),
            Fault::ResetMidResponse,
        ),
        (
            json!({"kind": "stall_mid_response"}),
            Fault::StallMidResponse,
        ),
        (
            json!({"kind": "refuse_items", "containing": "x"}),
            Fault::RefuseItems {
                containing: "x".into(),
                status: 400,
            },
        ),
        (
            json!({"kind": "tls", "failure": "wrong_name"}),
            Fault::tls(TlsFailure::WrongName),
        ),
        (
            json!({"kind": "rate_limit", "requests": 1000}),
            Fault::rate_limit(1000),
        ),
    ];
    for (json, fault) in faults {
        assert_eq!(
            serde_json::from_value::<FaultRule>(json).unwrap(),
            FaultRule::from(fault)
        );
    }
}

#[tokio::test]
async fn the_control_endpoint_says_what_it_does_not_understand() {
    let langfuse: FakeLangfuse = start();
    let control = langfuse.open_control().unwrap();
    assert_eq!(
        call(
            &control,
            Method::POST,
            "/faults",
            &json!({"kind": "gremlins"})
        )
        .await
        .0,
        400
    );
    assert_eq!(
        call(&control, Method::GET, "/nothing", &Value::Null)
            .await
            .0,
        404
    );
    let too_long = json!("x".repeat(MAX_CONTROL_BODY_BYTES));
    let request = client().post(format!("{control}/faults")).json(&too_long);
    assert!(request.send().await.is_err());
}
