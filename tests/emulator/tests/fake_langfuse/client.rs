//! A client, and the recorded requests of real ones.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use lambda_emulator::fake_langfuse::{Config, FakeLangfuse};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

/// Longer than anything here takes, so that a test that would hang fails instead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Short enough to be waited out by a test whose point is that nothing comes.
pub(crate) const IMPATIENCE: Duration = Duration::from_millis(200);

pub(crate) const TRACES: &str = "/api/public/otel/v1/traces";
pub(crate) const INGESTION: &str = "/api/public/ingestion";
pub(crate) const SCORES: &str = "/api/public/scores";
pub(crate) const BASIC: &str = "Basic cGstbGYtdGVzdDpzay1sZi10ZXN0";

pub(crate) fn start() -> FakeLangfuse {
    FakeLangfuse::start(Config::default()).unwrap()
}

/// A later Langfuse, that takes lists of scores.
pub(crate) fn start_with_lists() -> FakeLangfuse {
    let config = Config {
        score_lists: true,
        ..Config::default()
    };
    FakeLangfuse::start(config).unwrap()
}

pub(crate) fn client() -> Client {
    client_with(|builder| builder.timeout(PATIENCE).tls_certs_only(no_authorities()))
}

pub(crate) fn impatient_client() -> Client {
    client_with(|builder| builder.timeout(IMPATIENCE).tls_certs_only(no_authorities()))
}

/// Reading the system's authorities takes longer than most of these tests.
fn no_authorities() -> [reqwest::Certificate; 0] {
    []
}

pub(crate) fn client_with(
    configure: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Client {
    let _already_installed =
        tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none());
    configure(builder).build().unwrap()
}

/// One span with these ids, as an OTLP/JSON request.
pub(crate) fn one_span(trace_id: &str, span_id: &str) -> Value {
    spans(&json!([{"traceId": trace_id, "spanId": span_id, "name": "work"}]))
}

pub(crate) fn spans(spans: &Value) -> Value {
    json!({"resourceSpans": [{"scopeSpans": [{"scope": {"name": "test"}, "spans": spans}]}]})
}

pub(crate) fn score(id: &str) -> Value {
    json!({"id": id, "name": "quality", "value": 0.5, "traceId": "t1"})
}

pub(crate) fn score_event(id: &str) -> Value {
    json!({"id": id, "type": "score-create", "timestamp": "2026-01-01T00:00:00.000Z", "body": score(&format!("score-{id}"))})
}

pub(crate) async fn post(langfuse: &FakeLangfuse, path: &str, body: &Value) -> Response {
    try_post(&client(), langfuse, path, body).await.unwrap()
}

pub(crate) async fn try_post(
    client: &Client,
    langfuse: &FakeLangfuse,
    path: &str,
    body: &Value,
) -> reqwest::Result<Response> {
    let request = client.post(format!("{}{path}", langfuse.url()));
    request
        .header("authorization", BASIC)
        .json(body)
        .send()
        .await
}

pub(crate) async fn post_status(langfuse: &FakeLangfuse, path: &str, body: &Value) -> u16 {
    post(langfuse, path, body).await.status().as_u16()
}

pub(crate) async fn get(langfuse: &FakeLangfuse, path: &str) -> Response {
    let request = client().get(format!("{}{path}", langfuse.url()));
    request.header("authorization", BASIC).send().await.unwrap()
}

pub(crate) async fn json_of(response: Response) -> Value {
    response.json().await.unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One recorded request.
pub(crate) struct Fixture {
    pub(crate) manifest: Value,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Fixture {
    pub(crate) fn all() -> Vec<Self> {
        let manifest: Value =
            serde_json::from_slice(&std::fs::read(directory().join("manifest.json")).unwrap())
                .unwrap();
        manifest["requests"]
            .as_array()
            .unwrap()
            .iter()
            .map(Self::load)
            .collect()
    }

    pub(crate) fn named(prefix: &str) -> Self {
        Self::all()
            .into_iter()
            .find(|fixture| fixture.id().starts_with(prefix))
            .unwrap()
    }

    pub(crate) fn of_kind(kind: &str) -> Vec<Self> {
        Self::all()
            .into_iter()
            .filter(|fixture| fixture.manifest["kind"] == kind)
            .collect()
    }

    fn load(manifest: &Value) -> Self {
        let id = manifest["id"].as_str().unwrap();
        let head: Value =
            serde_json::from_slice(&std::fs::read(directory().join(format!("{id}.json"))).unwrap())
                .unwrap();
        let headers = head["headers"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let body_file = manifest["body_file"].as_str();
        Self {
            manifest: manifest.clone(),
            headers: headers
                .map(|pair| (text(&pair[0]), text(&pair[1])))
                .collect(),
            body: body_file
                .map(|name| std::fs::read(directory().join(name)).unwrap())
                .unwrap_or_default(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        self.manifest["id"].as_str().unwrap()
    }

    /// Sends it, with the first project's keys if it has none that Langfuse knows, to this path instead of its own.
    pub(crate) async fn send_to(&self, langfuse: &FakeLangfuse, path: &str) -> Response {
        let method =
            Method::from_bytes(self.manifest["method"].as_str().unwrap().as_bytes()).unwrap();
        let mut request = client()
            .request(method, format!("{}{path}", langfuse.url()))
            .body(self.body.clone());
        let framing = ["host", "content-length", "transfer-encoding", "connection"];
        for (name, value) in &self.headers {
            let name = name.to_lowercase();
            if !framing.contains(&name.as_str()) && name != "authorization" {
                request = request.header(name, value);
            }
        }
        let authorization = self
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let authorization = authorization
            .map(|(_, value)| value.as_str())
            .filter(|value| *value != "Basic abc");
        request
            .header("authorization", authorization.unwrap_or(BASIC))
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn send(&self, langfuse: &FakeLangfuse) -> Response {
        self.send_to(langfuse, self.manifest["path"].as_str().unwrap())
            .await
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}
