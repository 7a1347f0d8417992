//! The two doors of the app: OTLP and Langfuse's own API, on loopback, answered from memory.
//!
//! What Langfuse would store is validated, handed to the loop, and acknowledged; what asks Langfuse something passes
//! through. The app always gets success for what could be kept, because SDKs retry and block on anything else.

pub mod allowed;
mod body;
pub mod calls;
mod connections;
mod data;
mod limits;
mod passthrough;
mod preface;
mod prompts;
mod relay;
pub mod route;
mod waits;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::exporter::upstream::Upstream;
use crate::inputs::{Event, Input, Inputs};
use crate::memory::Budget;
use crate::payload::Answer;
use crate::settings::{Accept, Passthrough, Scores};

use connections::{Connection, Connections};
use data::first_time;
use prompts::Prompts;
use relay::BoxError;
use waits::Waits;

pub use body::DISCARDED_LIMIT_BYTES;
pub use limits::{
    BODY_LIMIT_BYTES, BODY_PAUSE_TIMEOUT, BODY_TIMEOUT, HEAD_LIMIT_BYTES, HEAD_TIMEOUT,
    LARGE_BODIES_AT_ONCE, Limits, MAX_CONNECTIONS, MAX_HEADERS, PASSTHROUGH_TIMEOUT,
    PASSTHROUGH_TOTAL_TIMEOUT,
};
pub use preface::ADVICE;
pub use prompts::{
    PROMPT_FRESH, PROMPT_KEPT, PROMPT_LIMIT_BYTES, PROMPT_REVALIDATED, PROMPTS_LIMIT,
    PROMPTS_LIMIT_BYTES,
};

/// What one connection buffers of what its client sends. It has to hold a head.
const READ_BUFFER_LIMIT_BYTES: usize = HEAD_LIMIT_BYTES;

/// How long to wait before connections are accepted again after that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Stands in the answer to `GET /status`, with the version: whoever is to send an app here can tell this extension from
/// another collector that holds the port.
pub const IDENTITY_HEADER: HeaderName = HeaderName::from_static("x-langfuse-extension");

/// The body of an answer: ours, or one that streams through from Langfuse.
pub(crate) type AnswerBody = BoxBody<Bytes, BoxError>;

/// The client is gone, or as good as gone: there is nobody to answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the request did not come whole")]
struct Gone;

/// How requests are treated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What passes through.
    pub passthrough: Passthrough,
    /// Whose spans are shipped.
    pub accept: Accept,
    /// How scores are sent.
    pub scores: Scores,
    /// Only requests without a body pass through: what they carry is masked by nobody.
    pub bodies_stay: bool,
    /// Whether prompts are kept.
    pub prompt_cache: bool,
    /// The extension has keys of its own, or will have them.
    pub has_keys: bool,
    /// Headers that travel with data, and keep it apart from other data, beside those that Langfuse knows.
    pub route_headers: Vec<HeaderName>,
    /// What clients can make us hold.
    pub limits: Limits,
}

/// What every request is handled with.
#[derive(Debug)]
pub struct Receiver {
    inputs: Inputs,
    upstream: Upstream,
    settings: Settings,
    budget: Budget,
    connections: Arc<Connections>,
    large_bodies: Semaphore,
    prompts: Option<Mutex<Prompts>>,
    waits: Mutex<Waits>,
    said: data::SaidOnce,
}

impl Receiver {
    /// Hands data to `inputs`, and what passes through to `upstream`. Bodies take their memory from `budget`.
    pub fn new(inputs: Inputs, upstream: Upstream, budget: Budget, settings: Settings) -> Self {
        let limits = &settings.limits;
        Self {
            inputs,
            upstream,
            budget,
            connections: Connections::new(limits.connections),
            large_bodies: Semaphore::new(LARGE_BODIES_AT_ONCE),
            prompts: settings
                .prompt_cache
                .then(|| Mutex::new(Prompts::new(limits.prompt_fresh, limits.prompt_revalidated))),
            waits: Mutex::new(Waits::new(limits.passthrough_timeout)),
            said: data::SaidOnce::default(),
            settings,
        }
    }

    /// Serves connections for as long as the process lives. Several listeners share the limits.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
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
            let (connection, gives_way) = self.connections.open().await;
            tokio::spawn(async move {
                tokio::select! {
                    () = receiver.serve_connection(stream, connection) => {}
                    // Dropping the sender is the signal.
                    _ = gives_way => {}
                }
            });
        }
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream, connection: Connection) {
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
        let service = service_fn(|request| {
            let (receiver, connection) = (Arc::clone(&self), &connection);
            async move {
                connection.works();
                let answer = receiver.answer(request, connection).await;
                connection.waits();
                answer.ok_or(Gone)
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_headers(MAX_HEADERS)
            .max_header_size(HEAD_LIMIT_BYTES)
            .max_buf_size(READ_BUFFER_LIMIT_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, "a local connection ended early");
        }
    }

    fn say_no_grpc(&self) {
        if first_time(&self.said.grpc) {
            tracing::error!("{ADVICE}");
        }
    }

    /// What we sent has come back to us. It counts as not taken, so that it is held.
    fn looped(&self) -> Response<AnswerBody> {
        if first_time(&self.said.looped) {
            tracing::error!(
                "the address of Langfuse leads back to this extension, so everything is held: \
                 set LANGFUSE_EXTENSION_BASE_URL to Langfuse's own address"
            );
        }
        text(
            StatusCode::SERVICE_UNAVAILABLE,
            "this request was sent by this extension itself\n",
        )
    }

    /// `None`: there is nobody to answer.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Option<Response<AnswerBody>> {
        if let Some(refusal) = refuse_strangers(&request) {
            return Some(refusal);
        }
        if self.upstream.is_own(request.headers()) {
            return Some(self.looped());
        }
        if data::header(request.headers(), CONTENT_TYPE).starts_with("application/grpc") {
            self.say_no_grpc();
            return Some(text(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                &format!("{ADVICE}\n"),
            ));
        }
        let method = request.method().clone();
        let path = normalised(request.uri().path());
        match (path.as_str(), &method) {
            (
                "/v1/traces" | "/api/public/otel/v1/traces" | "/api/public/otel" | "/",
                &Method::POST,
            ) => self.take_traces(request, connection).await,
            ("/api/public/ingestion", &Method::POST) => {
                self.take_ingestion(request, connection).await
            }
            ("/api/public/scores", &Method::POST) => self.take_scores(request, connection).await,
            (
                "/v1/metrics"
                | "/v1/logs"
                | "/api/public/otel/v1/metrics"
                | "/api/public/otel/v1/logs",
                &Method::POST,
            ) => self.discard(request, &path).await,
            ("/status", &Method::GET | &Method::HEAD) => Some(self.status().await),
            ("/status", _) => Some(not_allowed("GET, HEAD")),
            (
                "/v1/traces"
                | "/api/public/otel/v1/traces"
                | "/api/public/otel"
                | "/"
                | "/api/public/ingestion"
                | "/v1/metrics"
                | "/v1/logs"
                | "/api/public/otel/v1/metrics"
                | "/api/public/otel/v1/logs",
                _,
            ) => Some(not_allowed("POST")),
            (path, _) if path.starts_with("/api/public/") => Some(self.pass_through(request).await),
            (path, _) => Some(text(
                StatusCode::NOT_FOUND,
                &format!(
                    "{method} {path} is not served by langfuse-extension. Spans go to POST /v1/traces or \
                     /api/public/otel/v1/traces, everything else of Langfuse lies under /api/public/.\n"
                ),
            )),
        }
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

/// A web page that a developer visits must not reach this API through the browser, by script or by DNS rebinding; and
/// nobody may say two things at once of who he is and whom he asks.
fn refuse_strangers(request: &Request<Incoming>) -> Option<Response<AnswerBody>> {
    let headers = request.headers();
    if headers.contains_key(ORIGIN) {
        return Some(text(
            StatusCode::FORBIDDEN,
            "requests with an Origin are refused\n",
        ));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    let needs_host = request.version() == Version::HTTP_11;
    if another.is_some() || host.is_none() && needs_host {
        return Some(text(
            StatusCode::BAD_REQUEST,
            "a request has exactly one Host\n",
        ));
    }
    if host.is_some_and(|host| !host.to_str().is_ok_and(is_loopback_name)) {
        return Some(text(
            StatusCode::FORBIDDEN,
            "the Host must be localhost or a loopback address\n",
        ));
    }
    if headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
        return Some(text(
            StatusCode::BAD_REQUEST,
            "a request has at most one Authorization\n",
        ));
    }
    None
}

fn not_allowed(methods: &'static str) -> Response<AnswerBody> {
    let mut response = text(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("only {methods} here\n"),
    );
    let allow = HeaderValue::from_static(methods);
    response.headers_mut().insert(ALLOW, allow);
    response
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
