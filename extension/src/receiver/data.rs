//! The doors for data: validated, handed over, acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, AsHeaderName, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName,
    USER_AGENT,
};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use langfuse_extension_core::refusals::Reason;
use langfuse_extension_core::route::{Credential, Door};
use langfuse_extension_core::traces::{Parent, SpanFact};

use super::body::{self, DISCARDED_LIMIT_BYTES, NoBody};
use super::connections::Connection;
use super::{AnswerBody, OpenRequest, Receiver, from_answer, normalised, route};
use crate::aside::for_a_client;
use crate::inputs::Event;
use crate::memory::Reservation;
use crate::payload::{
    self, Answer, Facts, IN_PLACE_BYTES, JSON_INFLATED_LIMIT_BYTES, Kind, Payload, Refusal,
    SpanFacts,
};
use crate::settings::{Accept, Scores};

/// Lines that are worth saying once.
#[derive(Debug, Default)]
pub(super) struct SaidOnce {
    other_signal: AtomicBool,
    no_keys: AtomicBool,
    refused: [AtomicBool; Reason::ALL.len()],
    pub(super) grpc: AtomicBool,
    foreign: AtomicBool,
    pub(super) keys_missing: AtomicBool,
    pub(super) looped: AtomicBool,
}

pub(super) fn first_time(said: &AtomicBool) -> bool {
    !said.swap(true, Ordering::Relaxed)
}

/// In whose words a client is answered.
#[derive(Clone, Copy)]
enum Form {
    Otlp,
    Langfuse,
}

/// A request with data. It counts as open for as long as this lives, and its memory as taken.
struct Received<'a> {
    _open: OpenRequest<'a>,
    form: Form,
    credential: Credential,
    headers: HeaderMap,
    body: Bytes,
    memory: Arc<Reservation>,
}

impl Received<'_> {
    fn content_type(&self) -> &str {
        header(&self.headers, CONTENT_TYPE)
    }

    fn encoding(&self) -> String {
        content_encoding(&self.headers)
    }

    /// What its client is told. Memory stays taken for it until it has left.
    fn answered(self, answer: Answer) -> Response<AnswerBody> {
        self.memory.shrink(answer.body.len());
        from_answer(Answer {
            body: Bytes::from_owner(Charged {
                bytes: answer.body,
                _memory: self.memory,
            }),
            ..answer
        })
    }
}

/// Bytes with the memory that was taken for them.
struct Charged {
    bytes: Bytes,
    _memory: Arc<Reservation>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How a body becomes a payload: given its content type, its content encoding, itself, and the limits.
type Accepts<T> = fn(&str, &str, Bytes, &payload::Limits<'_>) -> Result<T, Refusal>;

/// What to answer to a request that does not become data. `None`: there is nobody to answer.
type NotTaken = Option<Response<AnswerBody>>;

impl Receiver {
    /// Spans: OTLP, protobuf or JSON.
    pub(super) async fn take_traces(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Option<Response<AnswerBody>> {
        if self.settings.accept == Accept::Langfuse && !is_for_langfuse(&request) {
            return self.discard_foreign(request).await;
        }
        let data = match self.receive(request, connection, Form::Otlp).await {
            Ok(data) => data,
            Err(answer) => return answer,
        };
        Some(match self.validated(&data, payload::accept_otlp).await {
            Ok((payload, facts)) => {
                let door = match payload.kind() {
                    Kind::OtlpJson => Door::TracesJson,
                    _ => Door::TracesProtobuf,
                };
                self.keep(&data, door, payload, span_facts(&facts)).await;
                let answer = payload::otlp_success(data.content_type());
                data.answered(answer)
            }
            Err(refusal) => self.refused(&data, &refusal),
        })
    }

    /// Batches of events: scores of the SDKs before 5, everything of those before 3.
    pub(super) async fn take_ingestion(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Option<Response<AnswerBody>> {
        let accept = payload::accept_ingestion;
        self.take_json(request, connection, Door::Ingestion, accept)
            .await
    }

    /// Scores: an array from Python's SDK 5, one object from REST users.
    pub(super) async fn take_scores(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Option<Response<AnswerBody>> {
        // A public key alone may write scores here; whether it may elsewhere is not known.
        let bearer = header(request.headers(), AUTHORIZATION).starts_with("Bearer ");
        let (door, accept): (_, Accepts<_>) = if self.settings.scores == Scores::Merge && !bearer {
            (Door::Ingestion, payload::accept_scores_as_events)
        } else {
            (Door::Scores, payload::accept_scores)
        };
        self.take_json(request, connection, door, accept).await
    }

    async fn take_json(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
        door: Door,
        accept: Accepts<(Payload, Answer)>,
    ) -> Option<Response<AnswerBody>> {
        let data = match self.receive(request, connection, Form::Langfuse).await {
            Ok(data) => data,
            Err(answer) => return answer,
        };
        Some(match self.validated(&data, accept).await {
            Ok((payload, answer)) => {
                self.keep(&data, door, payload, Vec::new()).await;
                data.answered(answer)
            }
            Err(refusal) => self.refused(&data, &refusal),
        })
    }

    /// Metrics and logs: Langfuse takes neither, and an exporter that gets no success tries again.
    pub(super) async fn discard(
        &self,
        request: Request<Incoming>,
        path: &str,
    ) -> Option<Response<AnswerBody>> {
        if first_time(&self.said.other_signal) {
            tracing::info!(
                path,
                "acknowledged and discarded: Langfuse takes traces only"
            );
        }
        self.acknowledge(request).await
    }

    /// Spans of an SDK that was never told of Langfuse, and found us because 4318 is everybody's default.
    async fn discard_foreign(&self, request: Request<Incoming>) -> Option<Response<AnswerBody>> {
        if first_time(&self.said.foreign) {
            tracing::info!(
                user_agent = header(request.headers(), USER_AGENT),
                "spans without anything of Langfuse in their request are acknowledged and discarded, \
                 as LANGFUSE_EXTENSION_ACCEPT=langfuse says"
            );
        }
        self.count_refused(Reason::Foreign, request.body().size_hint().lower());
        self.acknowledge(request).await
    }

    async fn acknowledge(&self, request: Request<Incoming>) -> Option<Response<AnswerBody>> {
        let success = payload::otlp_success(header(request.headers(), CONTENT_TYPE));
        let limits = &self.settings.limits;
        let whole = body::discard(request.into_body(), limits, limits.body_bytes).await;
        whole.then(|| from_answer(success))
    }

    /// Reads a request that carries data, if it may be taken.
    async fn receive(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
        form: Form,
    ) -> Result<Received<'_>, NotTaken> {
        let (parts, mut body) = request.into_parts();
        let refuse = |refusal: &Refusal, bytes| {
            let content_type = header(&parts.headers, CONTENT_TYPE);
            Some(self.refuse(form, content_type, refusal, bytes))
        };
        let Some(credential) = self.credential(&parts.headers) else {
            let bytes = body.size_hint().lower();
            self.discard_later(&parts.headers, body);
            return Err(refuse(&Refusal::NoKeys, bytes));
        };
        let open = OpenRequest::new(&self.inputs);
        let limits = &self.settings.limits;
        let refusal = match body::read(&mut body, connection, &self.budget, limits).await {
            Ok((body, memory)) => {
                return Ok(Received {
                    _open: open,
                    form,
                    credential,
                    headers: parts.headers,
                    body,
                    memory: Arc::new(memory),
                });
            }
            Err(NoBody::TooLarge(bytes)) => {
                let refusal = Refusal::TooLarge {
                    what: "the body",
                    limit_bytes: limits.body_bytes,
                };
                refuse(&refusal, bytes as u64)
            }
            Err(NoBody::NoMemory(bytes)) => refuse(&Refusal::NoRoom, bytes as u64),
            Err(NoBody::Incomplete(bytes)) => {
                self.count_refused(Reason::Incomplete, bytes as u64);
                return Err(None);
            }
        };
        self.discard_later(&parts.headers, body);
        Err(refusal)
    }

    /// A small body is validated at once. A large one is on a thread beside, where it lets small ones pass.
    async fn validated<T: Send + 'static>(
        &self,
        data: &Received<'_>,
        accept: Accepts<T>,
    ) -> Result<T, Refusal> {
        let (kind, encoding) = (data.content_type().to_owned(), data.encoding());
        let body = data.body.clone();
        if payload::may_fit_in_place(&encoding, &body) {
            let limits = payload::Limits {
                inflated_bytes: IN_PLACE_BYTES,
                json_inflated_bytes: IN_PLACE_BYTES,
                memory: Some(&data.memory),
                ..payload::Limits::default()
            };
            match accept(&kind, &encoding, body.clone(), &limits) {
                Err(Refusal::TooLarge { limit_bytes, .. }) if limit_bytes == IN_PLACE_BYTES => {
                    data.memory.shrink(body.len());
                }
                done => return done,
            }
        }
        let _turn = self.large_bodies.acquire().await;
        let kept_bytes = self.settings.limits.body_bytes;
        let inflated_limit = self.settings.limits.inflated_bytes;
        let memory = Arc::clone(&data.memory);
        let work = move || {
            let limits = payload::Limits {
                json_inflated_bytes: JSON_INFLATED_LIMIT_BYTES.min(kept_bytes),
                inflated_bytes: inflated_limit,
                memory: Some(&memory),
                ..payload::Limits::default()
            };
            accept(&kind, &encoding, body, &limits)
        };
        for_a_client(work).await.unwrap_or(Err(Refusal::Fault))
    }

    /// Returns once the data is safe.
    async fn keep(&self, data: &Received<'_>, door: Door, payload: Payload, facts: Vec<SpanFact>) {
        if payload.units() > 0 {
            let named = &self.settings.route_headers;
            let route = route::route(&data.headers, door, data.credential.clone(), named);
            self.inputs.accept(route, payload, facts).await;
        }
    }

    pub(super) fn credential(&self, headers: &HeaderMap) -> Option<Credential> {
        route::credential(headers, &self.upstream, self.settings.has_keys)
    }

    /// Most clients finish sending a refused request before they read the answer. Who asks first does not.
    fn discard_later(&self, headers: &HeaderMap, body: Incoming) {
        if headers.contains_key(EXPECT) {
            return;
        }
        let limits = self.settings.limits;
        tokio::spawn(async move { body::discard(body, &limits, DISCARDED_LIMIT_BYTES).await });
    }

    fn refused(&self, data: &Received<'_>, refusal: &Refusal) -> Response<AnswerBody> {
        let bytes = data.body.len() as u64;
        self.refuse(data.form, data.content_type(), refusal, bytes)
    }

    /// The answer of a refusal, which is counted.
    fn refuse(
        &self,
        form: Form,
        content_type: &str,
        refusal: &Refusal,
        bytes: u64,
    ) -> Response<AnswerBody> {
        let reason = match refusal {
            Refusal::TooLarge { .. } | Refusal::TooMany { .. } => Reason::TooLarge,
            Refusal::NoRoom => Reason::NoMemory,
            Refusal::NoKeys => Reason::NoKeys,
            _ => Reason::Invalid,
        };
        self.count_refused(reason, bytes);
        if reason == Reason::NoKeys {
            self.say_no_keys();
        } else if first_time(&self.said.refused[reason as usize]) {
            tracing::warn!(reason = %refusal, bytes, "a request was refused; further ones like it are counted and not logged");
        }
        from_answer(match form {
            Form::Otlp => refusal.otlp_answer(content_type),
            Form::Langfuse => refusal.langfuse_answer(),
        })
    }

    fn count_refused(&self, reason: Reason, bytes: u64) {
        self.inputs.event(Event::Refused { reason, bytes });
    }

    pub(super) fn no_keys(&self) -> Response<AnswerBody> {
        self.say_no_keys();
        from_answer(Refusal::NoKeys.langfuse_answer())
    }

    fn say_no_keys(&self) {
        if first_time(&self.said.no_keys) {
            tracing::error!(
                "a request has no Authorization, and the extension has no keys: \
                 set LANGFUSE_EXTENSION_PUBLIC_KEY and LANGFUSE_EXTENSION_SECRET_KEY"
            );
        }
    }
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
