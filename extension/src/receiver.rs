//! The two doors of the app: OTLP and Langfuse's own API, on loopback, answered from memory.
//!
//! What Langfuse would store is validated, handed to the loop, and acknowledged; what asks Langfuse something passes
//! through. The app always gets success for what could be kept, because SDKs retry and block on anything else.

pub mod allowed;
mod body;
mod data;
mod limits;
mod passthrough;
mod preface;
mod prompts;
mod relay;
pub mod route;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::{Accept, Passthrough};
use crate::exporter::upstream::Upstream;
use crate::inputs::{Event, Input, Inputs};
use crate::payload::Answer;

use data::first_time;
use prompts::Prompts;
use relay::BoxError;

pub use limits::{
    BODY_LIMIT_BYTES, BODY_TIMEOUT, HEAD_LIMIT_BYTES, HEAD_TIMEOUT, Limits, MAX_CONNECTIONS,
    MAX_HEADERS, OPEN_BODIES_LIMIT_BYTES, PASSTHROUGH_TIMEOUT, PASSTHROUGH_TOTAL_TIMEOUT,
};
pub use preface::ADVICE;
pub use prompts::{
    PROMPT_FRESH, PROMPT_KEPT, PROMPT_LIMIT_BYTES, PROMPT_REVALIDATED, PROMPTS_LIMIT,
    PROMPTS_LIMIT_BYTES,
};

/// How long to wait before connections are accepted again after that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Stands in the answer to `GET /status`, with the version: whoever is to send an app here can tell this extension from
/// another collector that holds the port.
pub const IDENTITY_HEADER: HeaderName = HeaderName::from_static("x-langfuse-extension");

/// The body of an answer: ours, or one that streams through from Langfuse.
pub(crate) type AnswerBody = BoxBody<Bytes, BoxError>;

/// How requests are treated.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What passes through.
    pub passthrough: Passthrough,
    /// Whose spans are shipped.
    pub accept: Accept,
    /// Whether prompts are kept.
    pub prompt_cache: bool,
    /// The extension has keys of its own, or will have them.
    pub has_keys: bool,
    /// What clients can make us hold.
    pub limits: Limits,
}

/// What every request is handled with.
#[derive(Debug)]
pub struct Receiver {
    inputs: Inputs,
    upstream: Upstream,
    settings: Settings,
    connections: Arc<Semaphore>,
    open_bodies: Arc<Semaphore>,
    prompts: Option<Mutex<Prompts>>,
    said: data::SaidOnce,
}

impl Receiver {
    /// Hands data to `inputs`, and what passes through to `upstream`.
    pub fn new(inputs: Inputs, upstream: Upstream, settings: Settings) -> Self {
        let limits = &settings.limits;
        Self {
            inputs,
            upstream,
            connections: Arc::new(Semaphore::new(limits.connections)),
            open_bodies: Arc::new(Semaphore::new(limits.open_bodies_bytes)),
            prompts: settings
                .prompt_cache
                .then(|| Mutex::new(Prompts::new(limits.prompt_fresh, limits.prompt_revalidated))),
            said: data::SaidOnce::default(),
            settings,
        }
    }

    /// Serves connections for as long as the process lives. Several listeners share the limits.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else {
                return;
            };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if !peer.ip().is_loopback() {
                continue;
            }
            let _ = stream.set_nodelay(true);
            let receiver = Arc::clone(&self);
            tokio::spawn(async move {
                receiver.serve_connection(stream).await;
                drop(permit);
            });
        }
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream) {
        let limits = self.settings.limits;
        let speaks_http2 = preface::speaks_http2(&stream);
        match tokio::time::timeout(limits.head_timeout, speaks_http2).await {
            Ok(false) => {}
            Ok(true) => {
                self.say_no_grpc();
                return preface::refuse(stream).await;
            }
            Err(_) => return,
        }
        let service = service_fn(|request| Arc::clone(&self).answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_headers(MAX_HEADERS)
            .max_header_size(HEAD_LIMIT_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a local connection ended early");
        }
    }

    fn say_no_grpc(&self) {
        if first_time(&self.said.grpc) {
            tracing::error!("{ADVICE}");
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<AnswerBody>, Infallible> {
        if let Some(refusal) = refuse_strangers(&request) {
            return Ok(refusal);
        }
        if data::header(request.headers(), CONTENT_TYPE).starts_with("application/grpc") {
            self.say_no_grpc();
            return Ok(text(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                &format!("{ADVICE}\n"),
            ));
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
            Some(Ok(json)) => {
                let mut answer = complete(StatusCode::OK, "application/json", json.into());
                answer.headers_mut().insert(
                    IDENTITY_HEADER,
                    HeaderValue::from_static(env!("CARGO_PKG_VERSION")),
                );
                answer
            }
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
