//! The Telemetry API's other side: records are buffered per subscriber and posted until somebody takes them.

use crate::config::Telemetry;
use crate::process::RUNTIME;
use crate::timeline::{Event, Timeline};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// A batch that is not taken is posted this often before it is given up.
pub(crate) const DELIVERIES_MAX: u32 = 20;
/// The pause between two deliveries of one batch.
const REDELIVERY_PAUSE: Duration = Duration::from_millis(100);
/// What one delivery may take.
const DELIVERY_LIMIT: Duration = Duration::from_secs(5);
/// Records that came before anybody subscribed; the subscriber gets them, as on Lambda.
const BACKLOG_MAX: usize = 1_000;

/// The body of a subscription.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Subscription {
    pub(crate) schema_version: String,
    pub(crate) types: Vec<String>,
    #[serde(default)]
    pub(crate) buffering: Buffering,
    pub(crate) destination: Destination,
}

/// When a batch is full.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Buffering {
    pub(crate) max_items: usize,
    pub(crate) max_bytes: usize,
    pub(crate) timeout_ms: u64,
}

impl Default for Buffering {
    fn default() -> Self {
        Self {
            max_items: 10_000,
            max_bytes: 262_144,
            timeout_ms: 1_000,
        }
    }
}

/// Where batches are posted.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Destination {
    pub(crate) protocol: String,
    #[serde(rename = "URI")]
    pub(crate) uri: String,
}

#[derive(Clone, Debug)]
struct Record {
    /// `platform`, `function` or `extension`.
    category: &'static str,
    kind: String,
    value: Value,
}

struct Subscriber {
    types: Vec<String>,
    records: mpsc::UnboundedSender<Record>,
    task: JoinHandle<()>,
}

pub(crate) struct Hub {
    behaviour: Telemetry,
    timeline: Arc<Timeline>,
    subscribers: Mutex<Vec<Subscriber>>,
    backlog: Mutex<Vec<Record>>,
    paused: watch::Sender<bool>,
}

impl Hub {
    pub(crate) fn new(behaviour: Telemetry, timeline: Arc<Timeline>) -> Self {
        Self {
            behaviour,
            timeline,
            subscribers: Mutex::default(),
            backlog: Mutex::default(),
            paused: watch::Sender::new(false),
        }
    }

    /// A `platform.*` record.
    pub(crate) fn platform(&self, kind: &str, record: &Value) {
        let dropped =
            self.behaviour == Telemetry::WithoutRuntimeDone && kind == "platform.runtimeDone";
        if !dropped {
            self.emit("platform", kind, record);
        }
    }

    /// A line that a process wrote.
    pub(crate) fn log(&self, source: &str, text: &str) {
        let category = if source == RUNTIME {
            "function"
        } else {
            "extension"
        };
        self.emit(category, category, &Value::from(text));
    }

    fn emit(&self, category: &'static str, kind: &str, record: &Value) {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let value = json!({ "time": time, "type": kind, "record": *record });
        let record = Record {
            category,
            kind: kind.to_owned(),
            value,
        };
        {
            let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
            if backlog.len() < BACKLOG_MAX {
                backlog.push(record.clone());
            }
        }
        for subscriber in self
            .subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            subscriber.take(record.clone());
        }
    }

    /// Posts records to `extension` from now on, beginning with what there was in this environment so far.
    pub(crate) fn subscribe(
        &self,
        extension: String,
        subscription: Subscription,
        port: u16,
        path: String,
    ) {
        if self.behaviour == Telemetry::Silent {
            return;
        }
        let (records, inbox) = mpsc::unbounded_channel();
        let delay = if let Telemetry::Delayed(delay) = self.behaviour {
            delay
        } else {
            Duration::ZERO
        };
        let delivery = Delivery {
            extension,
            buffering: subscription.buffering,
            port,
            path,
            delay,
            paused: self.paused.subscribe(),
            timeline: Arc::clone(&self.timeline),
        };
        let task = tokio::spawn(delivery.run(inbox));
        let subscriber = Subscriber {
            types: subscription.types,
            records,
            task,
        };
        for record in self
            .backlog
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            subscriber.take(record.clone());
        }
        self.subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(subscriber);
    }

    /// While the environment is frozen nothing is delivered either.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// The environment is gone, and its subscriptions with it.
    pub(crate) fn clear(&self) {
        for subscriber in self
            .subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            subscriber.task.abort();
        }
        self.backlog
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Subscriber {
    fn take(&self, record: Record) {
        if self.types.iter().any(|wanted| wanted == record.category) {
            let _ = self.records.send(record);
        }
    }
}

struct Delivery {
    extension: String,
    buffering: Buffering,
    port: u16,
    path: String,
    delay: Duration,
    paused: watch::Receiver<bool>,
    timeline: Arc<Timeline>,
}

impl Delivery {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Record>) {
        while let Some(batch) = self.batch(&mut inbox).await {
            if !self.delay.is_zero() {
                tokio::time::sleep(self.delay).await;
            }
            self.deliver(&batch).await;
        }
    }

    /// Collects records until the batch is full or its first record is as old as the subscriber allows.
    async fn batch(&self, inbox: &mut mpsc::UnboundedReceiver<Record>) -> Option<Vec<Record>> {
        let first = inbox.recv().await?;
        let due = Instant::now() + Duration::from_millis(self.buffering.timeout_ms);
        let mut bytes = first.value.to_string().len();
        let mut batch = vec![first];
        while batch.len() < self.buffering.max_items && bytes < self.buffering.max_bytes {
            match tokio::time::timeout_at(due, inbox.recv()).await {
                Ok(Some(record)) => {
                    bytes += record.value.to_string().len();
                    batch.push(record);
                }
                Ok(None) | Err(_) => break,
            }
        }
        Some(batch)
    }

    async fn deliver(&mut self, batch: &[Record]) {
        let body = Bytes::from(
            batch
                .iter()
                .map(|record| record.value.clone())
                .collect::<Value>()
                .to_string(),
        );
        for attempt in 1..=DELIVERIES_MAX {
            let _ = self.paused.wait_for(|paused| !paused).await;
            let status = timeout(DELIVERY_LIMIT, post(self.port, &self.path, body.clone()))
                .await
                .ok()
                .flatten();
            self.timeline.add(Event::TelemetryDelivered {
                process: self.extension.clone(),
                records: batch.iter().map(|record| record.kind.clone()).collect(),
                status,
                attempt,
            });
            if status.is_some_and(|status| (200..300).contains(&status)) {
                return;
            }
            tokio::time::sleep(REDELIVERY_PAUSE).await;
        }
    }
}

/// Posts over a connection of its own; `None` when no answer came.
async fn post(port: u16, path: &str, body: Bytes) -> Option<u16> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .ok()?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post(path)
        .header("Host", format!("sandbox.localdomain:{port}"))
        .header("Content-Type", "application/json")
        .body(Full::new(body))
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    let _ = response.into_body().collect().await;
    connection.abort();
    Some(status)
}
