//! The control endpoint: the same faults and recordings over HTTP, for tests that are not written in Rust.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /faults` | the rules in force |
//! | `POST /faults` | one rule or a list of rules, added behind those in force |
//! | `PUT /faults` | the same, but they replace those in force |
//! | `DELETE /faults` | health |
//! | `GET /observations`, `/refused-observations`, `/events`, `/refused-events`, `/scores`, `/requests`, `/media`, `/duplicates` | what was recorded |
//! | `GET /summary` | counts |
//! | `DELETE /recordings` | forgets what was recorded |
//! | `DELETE /connections` | closes every connection |

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;

use super::fault::{Fault, FaultRule};
use super::reply::Reply;
use super::server::Command;
use super::state::Shared;

/// Bytes of a control request's body.
pub const MAX_CONTROL_BODY_BYTES: usize = 1 << 20;

/// What it takes to change and to read a fake.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: UnboundedSender<Command>,
}

impl Handle {
    /// Changes the rules under the lock, and returns whether connections must go because of it.
    pub(super) fn change_faults(&self, replace: bool, rules: Vec<FaultRule>) -> bool {
        let mut state = self.shared.lock();
        // Health must also reach clients whose connections a TLS failure has left waiting.
        let mut close_connections = replace && state.faults.has_tls_failure();
        if replace {
            state.faults.clear();
        }
        close_connections |= rules
            .iter()
            .any(|rule| matches!(rule.fault, Fault::Tls { .. } | Fault::Refuse));
        for rule in rules {
            state.faults.add(rule);
        }
        close_connections
    }

    /// Has the server's thread follow the faults; `done` hears when it has.
    pub(super) fn reconcile(&self, close_connections: bool) -> std::sync::mpsc::Receiver<()> {
        let (done, finished) = std::sync::mpsc::sync_channel(1);
        let _server_gone = self.commands.send(Command::Reconcile {
            close_connections,
            done,
        });
        finished
    }

    pub(super) fn forget(&self) {
        self.shared.lock().recording = super::Recording::default();
        self.shared.announce();
    }

    async fn apply(&self, replace: bool, rules: Vec<FaultRule>) {
        let close_connections = self.change_faults(replace, rules);
        self.settle(close_connections).await;
    }

    /// The server shares this thread, so waiting for it must not block.
    async fn settle(&self, close_connections: bool) {
        let finished = self.reconcile(close_connections);
        let _server_gone = tokio::task::spawn_blocking(move || finished.recv()).await;
    }
}

pub(super) async fn serve(listener: std::net::TcpListener, handle: Handle) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let handle = handle.clone();
        let service = service_fn(move |request| answer(handle.clone(), request));
        tokio::spawn(async move {
            let _client_gone = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    handle: Handle,
    request: Request<hyper::body::Incoming>,
) -> io::Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_CONTROL_BODY_BYTES)
        .collect()
        .await
        .map_err(io::Error::other)?
        .to_bytes();
    let reply = match (parts.method.as_str(), parts.uri.path()) {
        ("GET", path) => read(&handle, path),
        (method @ ("POST" | "PUT"), "/faults") => match parse_rules(&body) {
            Ok(rules) => {
                handle.apply(method == "PUT", rules).await;
                read(&handle, "/faults")
            }
            Err(error) => Reply::json(400, &json!({"error": error})),
        },
        ("DELETE", "/faults") => {
            handle.apply(true, Vec::new()).await;
            read(&handle, "/faults")
        }
        ("DELETE", "/recordings") => {
            handle.forget();
            Reply::json(200, &json!({}))
        }
        ("DELETE", "/connections") => {
            handle.settle(true).await;
            Reply::json(200, &json!({}))
        }
        (method, path) => Reply::json(404, &json!({"error": format!("no {method} {path}")})),
    };
    let response = Response::builder()
        .status(reply.status)
        .header("content-type", "application/json");
    response
        .body(Full::new(reply.body))
        .map_err(io::Error::other)
}

fn parse_rules(body: &[u8]) -> Result<Vec<FaultRule>, String> {
    let parse = |value: Value| serde_json::from_value(value).map_err(|error| error.to_string());
    match serde_json::from_slice(body).map_err(|error| error.to_string())? {
        Value::Array(rules) => rules.into_iter().map(parse).collect(),
        rule => parse(rule).map(|rule| vec![rule]),
    }
}

fn read(handle: &Handle, path: &str) -> Reply {
    let state = handle.shared.lock();
    let recording = &state.recording;
    let found = match path {
        "/faults" => json!(state.faults.rules()),
        "/observations" => to_list(recording.observations().map(Arc::as_ref)),
        "/refused-observations" => to_list(recording.refused_observations().map(Arc::as_ref)),
        "/events" => to_list(recording.events().map(Arc::as_ref)),
        "/refused-events" => to_list(recording.refused_events().map(Arc::as_ref)),
        "/scores" => to_list(recording.scores().map(Arc::as_ref)),
        "/requests" => to_list(recording.requests().iter().map(Arc::as_ref)),
        "/media" => to_list(state.library.media().iter()),
        "/duplicates" => json!(recording.duplicates()),
        "/summary" => json!({
            "requests": recording.requests().len(),
            "observations": recording.observations().count(),
            "refused_observations": recording.refused_observations().count(),
            "events": recording.events().count(),
            "refused_events": recording.refused_events().count(),
            "scores": recording.scores().count(),
            "left_out": recording.left_out_count(),
        }),
        _ => return Reply::json(404, &json!({"error": format!("no GET {path}")})),
    };
    Reply::json(200, &found)
}

fn to_list<'a, T: serde::Serialize + 'a>(items: impl Iterator<Item = &'a T>) -> Value {
    items.map(|item| json!(item)).collect()
}
