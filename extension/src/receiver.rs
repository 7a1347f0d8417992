//! The two doors of the app: OTLP and Langfuse's own API, on loopback, answered from memory.
//!
//! What Langfuse would store is validated, handed to the loop, and acknowledged; what asks Langfuse something passes
//! through. The app always gets success for what could be kept, because SDKs retry and block on anything else.

mod body;
mod data;
mod passthrough;
mod route;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::agent::{Event, Input, Inputs};
use crate::config::Passthrough;
use crate::payload::Answer;
use crate::upstream::Upstream;

pub use body::{BODY_LIMIT_BYTES, BODY_TIMEOUT, OPEN_BODIES_LIMIT_BYTES};
pub use passthrough::PASSTHROUGH_TIMEOUT;

/// Connections served at once; further ones wait to be accepted. An SDK keeps two or three.
pub const MAX_CONNECTIONS: usize = 128;

/// How long a client may take to send the head of a request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The most headers of a request.
pub const MAX_HEADERS: usize = 64;

/// The largest head of a request.
const HEAD_LIMIT_BYTES: usize = 64 << 10;

/// The body of an answer: ours, or one that streams through from Langfuse.
pub(crate) type AnswerBody = BoxBody<Bytes, reqwest::Error>;

/// What every request is handled with.
#[derive(Debug)]
pub struct Receiver {
    inputs: Inputs,
    upstream: Upstream,
    passthrough: Passthrough,
    has_keys: bool,
    open_bodies: Arc<Semaphore>,
    said: data::SaidOnce,
}

impl Receiver {
    /// `has_keys`: the extension has keys of its own, or will have them.
    pub fn new(
        inputs: Inputs,
        upstream: Upstream,
        passthrough: Passthrough,
        has_keys: bool,
    ) -> Self {
        Self {
            inputs,
            upstream,
            passthrough,
            has_keys,
            open_bodies: Arc::new(Semaphore::new(OPEN_BODIES_LIMIT_BYTES)),
            said: data::SaidOnce::default(),
        }
    }

    /// Serves connections for as long as the process lives.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if !peer.ip().is_loopback() {
                continue;
            }
            let _ = stream.set_nodelay(true);
            let receiver = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(|request| Arc::clone(&receiver).answer(request));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .max_headers(MAX_HEADERS)
                    .max_buf_size(HEAD_LIMIT_BYTES)
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a local connection ended early");
                }
                drop(permit);
            });
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<AnswerBody>, Infallible> {
        if let Some(refusal) = refuse_strangers(&request) {
            return Ok(refusal);
        }
        let method = request.method().clone();
        let path = normalised(request.uri().path());
        Ok(match (&method, path.as_str()) {
            (
                &Method::POST,
                "/v1/traces" | "/api/public/otel/v1/traces" | "/api/public/otel" | "/",
            ) => self.take_traces(request).await,
            (&Method::POST, "/api/public/ingestion") => self.take_ingestion(request).await,
            (&Method::POST, "/api/public/scores") => self.take_scores(request).await,
            (
                &Method::POST,
                "/v1/metrics"
                | "/v1/logs"
                | "/api/public/otel/v1/metrics"
                | "/api/public/otel/v1/logs",
            ) => self.discard(request, &path).await,
            (&Method::GET, "/status") => self.status().await,
            (_, path) if path.starts_with("/api/public/") => self.pass_through(request).await,
            (_, path) => text(
                StatusCode::NOT_FOUND,
                &format!(
                    "{method} {path} is not served by langfuse-extension. Spans go to POST /v1/traces or \
                     /api/public/otel/v1/traces, everything else of Langfuse lies under /api/public/.\n"
                ),
            ),
        })
    }

    async fn status(&self) -> Response<AnswerBody> {
        match self
            .inputs
            .ask(Input::Status)
            .await
            .map(|status| serde_json::to_vec(&status))
        {
            Some(Ok(json)) => complete(StatusCode::OK, "application/json", json.into()),
            _ => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
        }
    }
}

/// Tells the loop that a request with data is open, until it is dropped.
struct OpenRequest<'a>(&'a Inputs);

impl<'a> OpenRequest<'a> {
    fn new(inputs: &'a Inputs) -> Self {
        inputs.event(Event::RequestOpened);
        Self(inputs)
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.0.event(Event::RequestClosed);
    }
}

/// A web page that a developer visits must not reach this API through the browser, by script or by DNS rebinding.
fn refuse_strangers(request: &Request<Incoming>) -> Option<Response<AnswerBody>> {
    if request.headers().contains_key(ORIGIN) {
        return Some(text(
            StatusCode::FORBIDDEN,
            "requests with an Origin are refused\n",
        ));
    }
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| !is_loopback_name(host)) {
        return Some(text(
            StatusCode::FORBIDDEN,
            "the Host must be localhost or a loopback address\n",
        ));
    }
    None
}

fn is_loopback_name(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') =>
        {
            name
        }
        _ => host,
    };
    let name = name
        .trim_start_matches('[')
        .trim_end_matches(']')
        .trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// A base URL with a trailing slash doubles the first one of the path; some clients add one at the end.
fn normalised(path: &str) -> String {
    let trimmed = path.trim_start_matches('/').trim_end_matches('/');
    format!("/{trimmed}")
}

fn text(status: StatusCode, message: &str) -> Response<AnswerBody> {
    complete(
        status,
        "text/plain; charset=utf-8",
        Bytes::copy_from_slice(message.as_bytes()),
    )
}

fn from_answer(answer: Answer) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    complete(status, answer.content_type, answer.body)
}

fn complete(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<AnswerBody> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:4318",
            "127.0.0.1:4318",
            "[::1]:4318",
            "::1",
            "localhost.",
            "127.8.8.8",
        ] {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:4318",
            "10.0.0.1:4318",
            "[fe80::1]:80",
            "",
        ] {
            assert!(!is_loopback_name(host), "{host}");
        }
    }

    #[test]
    fn doubled_and_trailing_slashes_do_not_matter() {
        assert_eq!(
            normalised("//api/public/otel/v1/traces/"),
            "/api/public/otel/v1/traces"
        );
        assert_eq!(normalised("/"), "/");
    }
}
