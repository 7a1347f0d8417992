//! The doors for data: validated, handed over, acknowledged.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{
    AsHeaderName, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, USER_AGENT,
};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use langfuse_extension_core::route::{Credential, Door};
use langfuse_extension_core::traces::{Parent, SpanFact};

use super::body::{self, NoBody};
use super::{AnswerBody, OpenRequest, Receiver, complete, from_answer, normalised, route, text};
use crate::aside::for_a_client;
use crate::config::Accept;
use crate::payload::{
    self, Answer, Facts, IN_PLACE_BYTES, Kind, Limits, Payload, Refusal, SpanFacts,
};

/// Lines that are worth saying once.
#[derive(Debug, Default)]
pub(super) struct SaidOnce {
    other_signal: AtomicBool,
    no_keys: AtomicBool,
    refused: AtomicBool,
    pub(super) grpc: AtomicBool,
    foreign: AtomicBool,
    pub(super) keys_missing: AtomicBool,
}

pub(super) fn first_time(said: &AtomicBool) -> bool {
    !said.swap(true, Ordering::Relaxed)
}

/// A request with data. It counts as open for as long as this lives.
struct Received<'a> {
    _open: OpenRequest<'a>,
    credential: Credential,
    headers: HeaderMap,
    body: Bytes,
}

impl Received<'_> {
    fn content_type(&self) -> &str {
        header(&self.headers, CONTENT_TYPE)
    }

    fn encoding(&self) -> String {
        content_encoding(&self.headers)
    }
}

impl Receiver {
    /// Spans: OTLP, protobuf or JSON.
    pub(super) async fn take_traces(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        if self.settings.accept == Accept::Langfuse && !is_for_langfuse(&request) {
            return self.discard_foreign(request).await;
        }
        let data = match self.receive(request).await {
            Ok(data) => data,
            Err(answer) => return answer,
        };
        match validated(&data, payload::accept_otlp).await {
            Ok((payload, facts)) => {
                let door = match payload.kind() {
                    Kind::OtlpJson => Door::TracesJson,
                    _ => Door::TracesProtobuf,
                };
                self.keep(&data, door, payload, span_facts(&facts)).await;
                from_answer(payload::otlp_success(data.content_type()))
            }
            Err(refusal) => self.refused(
                &refusal,
                from_answer(refusal.otlp_answer(data.content_type())),
            ),
        }
    }

    /// Batches of events: scores of the SDKs before 5, everything of those before 3.
    pub(super) async fn take_ingestion(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        self.take_json(request, Door::Ingestion, payload::accept_ingestion)
            .await
    }

    /// Scores: an array from Python's SDK 5, one object from REST users.
    pub(super) async fn take_scores(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        self.take_json(request, Door::Scores, payload::accept_scores)
            .await
    }

    async fn take_json(
        &self,
        request: Request<Incoming>,
        door: Door,
        accept: Accepts<(Payload, Answer)>,
    ) -> Response<AnswerBody> {
        let data = match self.receive(request).await {
            Ok(data) => data,
            Err(answer) => return answer,
        };
        match validated(&data, accept).await {
            Ok((payload, answer)) => {
                self.keep(&data, door, payload, Vec::new()).await;
                from_answer(answer)
            }
            Err(refusal) => self.refused(&refusal, from_answer(refusal.langfuse_answer())),
        }
    }

    /// Metrics and logs: Langfuse takes neither, and an exporter that gets no success tries again.
    pub(super) async fn discard(
        &self,
        request: Request<Incoming>,
        path: &str,
    ) -> Response<AnswerBody> {
        if first_time(&self.said.other_signal) {
            tracing::info!(
                path,
                "acknowledged and discarded: Langfuse takes traces only"
            );
        }
        self.acknowledge(request).await
    }

    /// Spans of an SDK that was never told of Langfuse, and found us because 4318 is everybody's default.
    async fn discard_foreign(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        if first_time(&self.said.foreign) {
            tracing::info!(
                user_agent = header(request.headers(), USER_AGENT),
                "spans without anything of Langfuse in their request are acknowledged and discarded, \
                 as LANGFUSE_EXTENSION_ACCEPT=langfuse says"
            );
        }
        self.acknowledge(request).await
    }

    async fn acknowledge(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let content_type = header(request.headers(), CONTENT_TYPE).to_owned();
        match self.read(request.into_body()).await {
            Ok(_) => from_answer(payload::otlp_success(&content_type)),
            Err(answer) => answer,
        }
    }

    /// Reads a request that carries data. The error is the answer to one that does not come whole, or has no keys.
    async fn receive(
        &self,
        request: Request<Incoming>,
    ) -> Result<Received<'_>, Response<AnswerBody>> {
        let open = OpenRequest::new(&self.inputs);
        let (parts, body) = request.into_parts();
        let body = self.read(body).await?;
        let credential = self.credential(&parts.headers);
        Ok(Received {
            _open: open,
            credential: credential.ok_or_else(|| self.no_keys())?,
            headers: parts.headers,
            body,
        })
    }

    /// Returns once the data is safe.
    async fn keep(&self, data: &Received<'_>, door: Door, payload: Payload, facts: Vec<SpanFact>) {
        if payload.units() > 0 {
            let route = route::route(&data.headers, door, data.credential.clone());
            self.inputs.accept(route, payload, facts).await;
        }
    }

    pub(super) fn credential(&self, headers: &HeaderMap) -> Option<Credential> {
        route::credential(headers, &self.upstream, self.settings.has_keys)
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Response<AnswerBody>> {
        body::read(body, &self.open_bodies, &self.settings.limits)
            .await
            .map_err(|no_body| match no_body {
                NoBody::TooLarge => {
                    let limit = self.settings.limits.body_bytes;
                    tracing::warn!(limit, "a body larger than the limit was refused");
                    text(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        &format!("a body may have at most {limit} bytes\n"),
                    )
                }
                NoBody::TooSlow => text(
                    StatusCode::REQUEST_TIMEOUT,
                    "the body did not arrive in time\n",
                ),
                NoBody::Broken => text(StatusCode::BAD_REQUEST, "the body ended early\n"),
            })
    }

    fn refused(&self, refusal: &Refusal, answer: Response<AnswerBody>) -> Response<AnswerBody> {
        if first_time(&self.said.refused) {
            tracing::warn!(reason = %refusal, "a request was refused that Langfuse would refuse; further ones are not logged");
        }
        answer
    }

    pub(super) fn no_keys(&self) -> Response<AnswerBody> {
        if first_time(&self.said.no_keys) {
            tracing::error!(
                "a request has no Authorization, and the extension has no keys: \
                 set LANGFUSE_EXTENSION_PUBLIC_KEY and LANGFUSE_EXTENSION_SECRET_KEY"
            );
        }
        let message = Bytes::from_static(br#"{"message":"No authorization header"}"#);
        complete(StatusCode::UNAUTHORIZED, "application/json", message)
    }
}

/// How a body becomes a payload: given its content type, its content encoding, itself, and the limits.
type Accepts<T> = fn(&str, &str, Bytes, &Limits<'_>) -> Result<T, Refusal>;

/// A small body is validated at once, a large one on a thread beside.
async fn validated<T: Send + 'static>(
    data: &Received<'_>,
    accept: Accepts<T>,
) -> Result<T, Refusal> {
    let (kind, encoding) = (data.content_type().to_owned(), data.encoding());
    let body = data.body.clone();
    if payload::may_fit_in_place(&encoding, &body) {
        let limits = Limits {
            inflated_bytes: IN_PLACE_BYTES,
            json_inflated_bytes: IN_PLACE_BYTES,
            ..Limits::default()
        };
        match accept(&kind, &encoding, body.clone(), &limits) {
            Err(Refusal::TooLarge { limit_bytes, .. }) if limit_bytes == IN_PLACE_BYTES => {}
            done => return done,
        }
    }
    for_a_client(move || accept(&kind, &encoding, body, &Limits::default()))
        .await
        .unwrap_or(Err(Refusal::Fault))
}

/// An SDK or exporter that was set up for Langfuse uses its paths or says so in a header; the others have no keys.
fn is_for_langfuse(request: &Request<Incoming>) -> bool {
    let mut names = request.headers().keys().map(HeaderName::as_str);
    let says_so = names.any(|name| {
        name == "authorization" || name.starts_with("x-langfuse") || name.starts_with("x_langfuse")
    });
    says_so || normalised(request.uri().path()).starts_with("/api/public/")
}

pub(super) fn header(headers: &HeaderMap, name: impl AsHeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// A header given several times says the same as one with all its values (RFC 9110, section 5.3).
fn content_encoding(headers: &HeaderMap) -> String {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let values: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

fn span_facts(facts: &Facts) -> Vec<SpanFact> {
    let fact = |span: &SpanFacts| SpanFact {
        trace_id: span.trace_id,
        span_id: span.span_id,
        parent: match (span.parent_span_id, span.parent_is_remote) {
            (None, _) => Parent::None,
            (Some(_), Some(true)) => Parent::Remote,
            (Some(parent), Some(false)) => Parent::Local(parent),
            (Some(parent), None) => Parent::Unknown(parent),
        },
        start_unix_nano: span.start_unix_nano,
        end_unix_nano: span.end_unix_nano,
    };
    facts.spans.iter().map(fact).collect()
}
