//! The doors as an app finds them, with a Langfuse behind.

use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;
use lambda_emulator::fake_langfuse::{Config, FakeLangfuse, Project};
use langfuse_extension::agent::Agent;
use langfuse_extension::exporter::langfuse::Exporter;
use langfuse_extension::exporter::upstream::{ReadyKeys, Upstream};
use langfuse_extension::inputs::PlatformEvent;
use langfuse_extension::inputs::{Event, Input, Inputs};
use langfuse_extension::memory::Budget;
use langfuse_extension::receiver::{Limits, Receiver, Settings};
use langfuse_extension::settings::{Accept, Passthrough, Scores};
use langfuse_extension_core::Settings as CoreSettings;
use langfuse_extension_core::memory::{MEMORY_LIMIT_BYTES, Memory};
use langfuse_extension_core::strategy::Strategy;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Longer than anything here takes, so that a test that would hang fails instead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// `pk-lf-test:sk-lf-test`, the fake's first project.
pub(crate) const BASIC: &str = "Basic cGstbGYtdGVzdDpzay1sZi10ZXN0";
/// `pk-lf-second:sk-lf-second`, its second one.
pub(crate) const SECOND: &str = "Basic cGstbGYtc2Vjb25kOnNrLWxmLXNlY29uZA==";
pub(crate) const TRACES: &str = "/api/public/otel/v1/traces";
pub(crate) const INGESTION: &str = "/api/public/ingestion";
pub(crate) const SCORES: &str = "/api/public/scores";

/// What differs between the tests.
pub(crate) struct Setup {
    pub(crate) receiver: Settings,
    pub(crate) core: CoreSettings,
    pub(crate) langfuse: Config,
    pub(crate) own_keys: bool,
    pub(crate) memory_bytes: usize,
}

/// A Langfuse that takes what every SDK sends, lists of scores included.
pub(crate) fn lists_of_scores() -> Config {
    Config {
        score_lists: true,
        ..Config::default()
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            receiver: Settings {
                passthrough: Passthrough::Sdk,
                accept: Accept::All,
                scores: Scores::Merge,
                bodies_stay: false,
                prompt_cache: true,
                has_keys: false,
                route_headers: Vec::new(),
                limits: Limits::default(),
            },
            core: CoreSettings {
                spool: false,
                strategy: Strategy::End,
                flush_budget: PATIENCE,
                request_timeout: PATIENCE,
                grace_limit: Duration::from_millis(1),
                max_data_age: Duration::from_hours(1),
                ..CoreSettings::default()
            },
            langfuse: lists_of_scores(),
            own_keys: false,
            memory_bytes: MEMORY_LIMIT_BYTES,
        }
    }
}

pub(crate) struct Doors {
    pub(crate) langfuse: FakeLangfuse,
    pub(crate) url: String,
    pub(crate) client: Client,
    pub(crate) inputs: Inputs,
    pub(crate) upstream: Upstream,
    pub(crate) budget: Budget,
    released: mpsc::UnboundedReceiver<()>,
    _reread_keys: mpsc::UnboundedReceiver<()>,
}

impl Doors {
    pub(crate) async fn open(setup: Setup) -> Self {
        let langfuse = FakeLangfuse::start(setup.langfuse).unwrap();
        let upstream = Upstream::open(Some(langfuse.url().parse().unwrap()), None);
        let (inputs, events) = Inputs::channel();
        let (ask_next, released) = mpsc::unbounded_channel();
        let (reread_keys, reread) = mpsc::unbounded_channel();
        let budget = Budget::new(Memory::new(setup.memory_bytes));
        let exporter = Exporter::new(upstream.clone(), inputs.clone(), budget.clone());
        let agent = Agent::new(setup.core, events, ask_next, exporter, None, reread_keys);
        tokio::spawn(agent.run());
        let mut settings = setup.receiver;
        settings.has_keys |= setup.own_keys;
        let receiver = Receiver::new(inputs.clone(), upstream.clone(), budget.clone(), settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(Arc::new(receiver).serve(listener));
        let mut doors = Self {
            langfuse,
            url,
            client: client(&upstream),
            inputs,
            upstream,
            budget,
            released,
            _reread_keys: reread,
        };
        if setup.own_keys {
            doors.give_keys();
        }
        doors.inputs.event(Event::Registered { invoke: true });
        // From now on the end of an invocation is told, and never guessed.
        doors.inputs.event(Event::TelemetrySpeaks);
        doors.released().await;
        doors
    }

    pub(crate) fn give_keys(&self) {
        let keys = ReadyKeys::new(Project::PUBLIC_KEY.into(), HeaderValue::from_static(BASIC));
        self.upstream.set_keys(keys);
        self.inputs.event(Event::KeysReady);
    }

    /// Lets an invocation begin.
    pub(crate) fn invoke(&self) {
        let deadline = SystemTime::now() + Duration::from_mins(10);
        let deadline = deadline.duration_since(UNIX_EPOCH).unwrap().as_millis();
        self.inputs.send(Input::Platform(PlatformEvent::Invoke {
            request_id: "invocation".into(),
            deadline_epoch_ms: deadline.try_into().unwrap(),
        }));
    }

    /// Lets it end, and waits until the sandbox is released: everything is sent by then, or held for later.
    pub(crate) async fn finish(&mut self) {
        self.inputs.event(Event::RuntimeDone {
            request_id: "invocation".into(),
            at: None,
        });
        self.released().await;
    }

    async fn released(&mut self) {
        tokio::time::timeout(PATIENCE, self.released.recv())
            .await
            .unwrap()
            .unwrap();
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_as(BASIC, method, path)
    }

    pub(crate) fn request_as(&self, keys: &str, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.url))
            .header("authorization", keys)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> u16 {
        let request = self
            .request(Method::POST, path)
            .header("content-type", "application/json");
        request
            .body(body.to_string())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub(crate) async fn status(&self) -> Value {
        json_of(self.get("/status").await).await
    }

    /// Requests refused for this reason, and their bytes.
    pub(crate) async fn refused(&self, reason: &str) -> [u64; 2] {
        let refused = &self.status().await["refused_by_reason"][reason];
        ["requests", "bytes"].map(|it| refused[it].as_u64().unwrap_or(0))
    }

    /// How many requests Langfuse has had whose target begins so.
    pub(crate) fn asked(&self, target: &str) -> usize {
        let requests = self.langfuse.requests();
        requests
            .iter()
            .filter(|request| request.target.starts_with(target))
            .count()
    }

    /// A connection on which a test speaks for itself.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.url.strip_prefix("http://").unwrap())
            .await
            .unwrap()
    }
}

pub(crate) fn client(upstream: &Upstream) -> Client {
    let no_redirects = reqwest::redirect::Policy::none();
    upstream
        .client_with(|it| it.no_proxy().redirect(no_redirects).timeout(PATIENCE))
        .unwrap()
}

/// One span as an OTLP/JSON request. Its local parent is missing, so that nothing is sent before the work is over.
pub(crate) fn span(id: u64, text: &str) -> Value {
    json!({"resourceSpans": [{"scopeSpans": [{"scope": {"name": "test"}, "spans": [
        {"traceId": format!("{:032x}", id + 1), "spanId": format!("{:016x}", id + 1), "name": "work",
         "parentSpanId": "ffffffffffffffff", "flags": 0x101,
         "attributes": [{"key": "text", "value": {"stringValue": text}}]}
    ]}]}]})
}

pub(crate) fn score_event(id: &str, comment: &str) -> Value {
    json!({"id": id, "type": "score-create", "timestamp": "2026-01-01T00:00:00.000Z",
        "body": {"id": format!("score-{id}"), "name": "quality", "value": 1, "traceId": "t", "comment": comment}})
}

/// Text that does not compress well.
pub(crate) fn noise(bytes: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + u8::try_from((state >> 32) % 57).unwrap() + 1)
    });
    next.filter(|it| *it != '\\' && *it != '"')
        .take(bytes)
        .collect()
}

pub(crate) async fn json_of(answer: reqwest::Response) -> Value {
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

pub(crate) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A body whose length nobody announces.
pub(crate) struct Chunks(pub(crate) std::vec::IntoIter<Vec<u8>>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        let chunk = self.0.next();
        Poll::Ready(chunk.map(|it| Ok(hyper::body::Frame::data(it.into()))))
    }
}
