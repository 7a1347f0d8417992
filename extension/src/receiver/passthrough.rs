//! Everything else of Langfuse's API: prompts, media, projects, datasets. It waits for Langfuse, but not for long, and
//! not at all while Langfuse is known to be bad, nor for a prompt that this sandbox has seen lately.
//!
//! A failure is answered 424, because SDKs retry a 5xx and block on it: `get_prompt` took 28 s with 504 and 6 s with 424.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use langfuse_extension_core::delivery::fact::Fact;
use langfuse_extension_core::route::Credential;
use tokio::time::Instant;

use super::allowed::raw_target;
use super::calls::{self, Width};
use super::prompts::{self, Found, Key, Prompt, Prompts};
use super::relay::{self, CutOff, Progress, Relayed};
use super::route::HOP_BY_HOP;
use super::waits::Waits;
use super::{AnswerBody, Receiver, complete};
use crate::exporter::langfuse::answer::fact_of;
use crate::exporter::upstream::ReadyKeys;
use crate::inputs::{Event, Input};
use crate::settings::Passthrough;

/// A request as it goes to Langfuse.
struct Question {
    method: Method,
    /// Path and query.
    target: String,
    headers: HeaderMap,
}

/// What of a client's request may go to Langfuse.
struct Allowed {
    /// Path and query.
    target: String,
    headers: HeaderMap,
}

/// Why Langfuse was not asked, or gave no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("Langfuse is not reachable at the moment")]
    KnownToBeBad,
    #[error("Langfuse did not answer in time")]
    TooLate,
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    NotAsked(&'static str),
    /// The client's own body is to blame.
    #[error("{0}")]
    Client(CutOff),
}

impl Receiver {
    /// Asks Langfuse and streams its answer back.
    pub(super) async fn pass_through(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let (parts, body) = request.into_parts();
        let Some(credential) = self.credential(&parts.headers) else {
            return self.no_keys();
        };
        let allowed = match self.may_ask(&parts, &credential) {
            Ok(allowed) => allowed,
            Err(refusal) => return *refusal,
        };
        let Allowed {
            target,
            mut headers,
        } = allowed;
        let Some(authorization) = self.authorize(&mut headers, credential).await else {
            return failed(&NoAnswer::NotAsked(
                "the extension's keys are not there yet",
            ));
        };
        let wants_prompt = prompts::asks_for_prompt(&parts.method, &target, &parts.headers);
        let key = Key {
            target: target.clone(),
            authorization,
        };
        let question = Question {
            method: parts.method,
            target,
            headers,
        };
        if wants_prompt {
            self.prompt(question, key).await
        } else {
            self.relay(question, body).await
        }
    }

    /// What of a request goes to Langfuse; or the answer to one that does not.
    fn may_ask(
        &self,
        parts: &Parts,
        credential: &Credential,
    ) -> Result<Allowed, Box<Response<AnswerBody>>> {
        if self.settings.bodies_stay && !parts.method.is_safe() {
            let reason =
                "LANGFUSE_EXTENSION_MASK_PASSTHROUGH does not let bodies pass that nobody masks";
            return Err(Box::new(message(
                StatusCode::FORBIDDEN,
                "ForbiddenError",
                reason,
            )));
        }
        let width = match (self.settings.passthrough, credential) {
            (Passthrough::Off, _) => return Err(Box::new(forbidden())),
            (Passthrough::Sdk, Credential::Configured) => Some(Width::Sdk),
            (Passthrough::Write, Credential::Configured) => Some(Width::Write),
            (Passthrough::All, Credential::Configured) | (_, Credential::Client(_)) => None,
        };
        if let Some(width) = width {
            let target = calls::target(width, &parts.method, &parts.uri)
                .ok_or_else(|| Box::new(forbidden()))?;
            let headers = calls::headers(&parts.headers);
            return Ok(Allowed { target, headers });
        }
        let Some(target) = raw_target(&parts.uri) else {
            let reason = "the path has segments that would climb out of Langfuse's API";
            return Err(Box::new(message(
                StatusCode::BAD_REQUEST,
                "InvalidRequestError",
                reason,
            )));
        };
        let headers = match credential {
            Credential::Configured => calls::headers(&parts.headers),
            Credential::Client(_) => end_to_end(&parts.headers),
        };
        Ok(Allowed { target, headers })
    }

    /// Puts the keys in, and returns them as they go. Keys that are still being fetched are waited for, once in vain
    /// and then not again.
    async fn authorize(
        &self,
        headers: &mut HeaderMap,
        credential: Credential,
    ) -> Option<HeaderValue> {
        if credential == Credential::Configured {
            self.ready_keys().await?.insert_into(headers);
        }
        headers.get(AUTHORIZATION).cloned()
    }

    async fn ready_keys(&self) -> Option<ReadyKeys> {
        if let Some(keys) = self.upstream.keys() {
            return Some(keys);
        }
        let waited_in_vain = &self.said.keys_missing;
        if waited_in_vain.load(Ordering::Relaxed) {
            return None;
        }
        let patience = self.settings.limits.passthrough_timeout;
        let keys = tokio::time::timeout(patience, self.upstream.wait_for_keys()).await;
        waited_in_vain.store(keys.is_err(), Ordering::Relaxed);
        keys.ok()
    }

    /// Streams both bodies.
    async fn relay(&self, question: Question, body: Incoming) -> Response<AnswerBody> {
        let limit = self.settings.limits.body_bytes;
        if usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX) > limit {
            return failed(&NoAnswer::Client(CutOff::TooLarge));
        }
        let patience = self.settings.limits.passthrough_timeout;
        let answer = match self.ask(&question, Some(body), true, patience).await {
            Ok(response) => self.streamed(response, Bytes::new()),
            Err(no_answer) => failed(&no_answer),
        };
        if prompts::changes_prompts(&question.method, &question.target) {
            self.prompts(Prompts::clear);
        }
        answer
    }

    async fn prompt(self: Arc<Self>, question: Question, key: Key) -> Response<AnswerBody> {
        match self
            .prompts(|prompts| prompts.find(&key, SystemTime::now()))
            .unwrap_or(Found::Nothing)
        {
            Found::Fresh(prompt) => kept(prompt),
            Found::Stale(prompt, ask_again) => {
                if ask_again {
                    let patience = self.settings.limits.passthrough_timeout;
                    tokio::spawn(async move { self.fetch(question, key, false, patience).await });
                }
                kept(prompt)
            }
            Found::Fallback(prompt) => match self.wait_for_prompt(question, key).await {
                Ok(answer) if !is_failure(answer.status()) => answer,
                _ => kept(prompt),
            },
            Found::Nothing => self
                .wait_for_prompt(question, key)
                .await
                .unwrap_or_else(|no_answer| failed(&no_answer)),
        }
    }

    /// Asks for a prompt that a handler waits for, and for no longer than is left of the patience for this one.
    async fn wait_for_prompt(
        &self,
        question: Question,
        key: Key,
    ) -> Result<Response<AnswerBody>, NoAnswer> {
        let started = Instant::now();
        let patience = self.waits().left(&key, started);
        if patience.is_zero() {
            return Err(NoAnswer::TooLate);
        }
        let answer = self.fetch(question, key.clone(), true, patience).await;
        let mut waits = self.waits();
        match &answer {
            Ok(answer) if !is_failure(answer.status()) => waits.answered(&key),
            _ => waits.in_vain(&key, started, Instant::now()),
        }
        answer
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a prompt and keeps it. `counts`: a failure says something about Langfuse, which it does not if nobody
    /// keeps the sandbox from being frozen meanwhile. `patience`: until all of it is there, or more than is kept.
    async fn fetch(
        &self,
        mut question: Question,
        key: Key,
        counts: bool,
        patience: Duration,
    ) -> Result<Response<AnswerBody>, NoAnswer> {
        let until = Instant::now() + patience;
        // What is kept has to be readable for every client.
        question.headers.remove(ACCEPT_ENCODING);
        let mut response = self.ask(&question, None, counts, patience).await?;
        let status = response.response.status();
        if matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
        ) {
            self.prompts(|prompts| prompts.remove(&key));
        }
        if status != StatusCode::OK {
            return Ok(self.streamed(response, Bytes::new()));
        }
        let headers = end_to_end(response.response.headers());
        let body = response.response.body_mut();
        let read =
            tokio::time::timeout_at(until, relay::read_some(body, prompts::PROMPT_LIMIT_BYTES));
        let (body, is_all) = match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Err(NoAnswer::Failed(error.to_string())),
            Err(_) => return Err(NoAnswer::TooLate),
        };
        if !is_all {
            return Ok(self.streamed(response, body));
        }
        let prompt = Prompt { headers, body };
        let answer = kept(prompt.clone());
        self.prompts(|prompts| prompts.keep(key, prompt, SystemTime::now()));
        Ok(answer)
    }

    /// `None` where prompts are not kept.
    fn prompts<T>(&self, change: impl FnOnce(&mut Prompts) -> T) -> Option<T> {
        let prompts = self.prompts.as_ref()?;
        Some(change(
            &mut prompts.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    /// Waits for the head of Langfuse's answer. `patience`: while nothing moves.
    async fn ask(
        &self,
        question: &Question,
        body: Option<Incoming>,
        counts: bool,
        patience: Duration,
    ) -> Result<Answer, NoAnswer> {
        if self.inputs.ask(Input::IsLangfuseBad).await.unwrap_or(true) {
            return Err(NoAnswer::KnownToBeBad);
        }
        let no_address = NoAnswer::NotAsked("there is no address of Langfuse");
        let url = self.upstream.url(&question.target).ok_or(no_address)?;
        let no_client = NoAnswer::NotAsked("the HTTPS client could not be set up");
        let client = self.upstream.client().ok_or(no_client)?;
        let limits = &self.settings.limits;
        let deadline = Instant::now() + limits.passthrough_total_timeout;
        let mut request = client
            .request(question.method.clone(), url)
            .headers(question.headers.clone());
        let mut progress = Progress::new();
        if let Some(body) = body.filter(|body| !body.is_end_stream()) {
            let body = Relayed::new(body, limits.body_bytes, patience, deadline);
            progress = body.progress();
            request = request.body(reqwest::Body::wrap(body));
        }
        let answer = progress.wait_for(request.send(), patience, deadline).await;
        let client_failed = progress.cut_off_for().map(NoAnswer::Client);
        let answered = matches!(answer, Some(Ok(_)));
        if answered || counts && client_failed.is_none() {
            let fact = match &answer {
                Some(Ok(response)) => fact_of(response.status(), response.headers()),
                Some(Err(error)) if error.is_connect() => Fact::NotConnected,
                _ => Fact::NoAnswer,
            };
            self.inputs.event(Event::PassedThrough { fact });
        }
        match (answer, client_failed) {
            (Some(Ok(response)), _) => Ok(Answer {
                response: response.into(),
                deadline,
            }),
            (_, Some(client_failed)) => Err(client_failed),
            (Some(Err(error)), None) => Err(NoAnswer::Failed(error.without_url().to_string())),
            (None, None) => Err(NoAnswer::TooLate),
        }
    }

    /// The answer as it comes, after what was read of it already.
    fn streamed(&self, answer: Answer, ahead: Bytes) -> Response<AnswerBody> {
        let (parts, body) = answer.response.into_parts();
        let idle = self.settings.limits.passthrough_timeout;
        let body = Relayed::new(body, usize::MAX, idle, answer.deadline).after(ahead);
        let mut streamed = Response::new(body.boxed());
        *streamed.status_mut() = parts.status;
        *streamed.headers_mut() = end_to_end(&parts.headers);
        streamed
    }
}

/// Langfuse's answer, whose body has until the deadline.
struct Answer {
    response: Response<reqwest::Body>,
    deadline: Instant,
}

/// Langfuse, or what stands before it, could not say.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        )
}

fn kept(prompt: Prompt) -> Response<AnswerBody> {
    let mut answer = Response::new(
        Full::new(prompt.body)
            .map_err(|never| match never {})
            .boxed(),
    );
    *answer.headers_mut() = prompt.headers;
    answer
}

/// The headers that concern both ends, rather than one connection. How long a body is follows from the body.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named = headers
        .get_all(http::header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let named: Vec<_> = named
        .flat_map(|names| names.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let passes = |name: &HeaderName| {
        !HOP_BY_HOP.contains(name)
            && *name != HOST
            && *name != CONTENT_LENGTH
            && name != "keep-alive"
            && name != "proxy-connection"
            && !named.iter().any(|other| other == name.as_str())
    };
    headers
        .iter()
        .filter(|(name, _)| passes(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn failed(no_answer: &NoAnswer) -> Response<AnswerBody> {
    tracing::debug!(reason = %no_answer, "a request could not be passed to Langfuse");
    let (status, error) = match no_answer {
        NoAnswer::Client(CutOff::TooLarge) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLargeError")
        }
        NoAnswer::Client(_) => (StatusCode::BAD_REQUEST, "InvalidRequestError"),
        _ => (StatusCode::FAILED_DEPENDENCY, "FailedDependency"),
    };
    message(status, error, &no_answer.to_string())
}

fn forbidden() -> Response<AnswerBody> {
    let reason =
        "LANGFUSE_EXTENSION_PASSTHROUGH does not let this request pass with the extension's keys";
    message(StatusCode::FORBIDDEN, "ForbiddenError", reason)
}

/// In the shape of Langfuse's own errors.
fn message(status: StatusCode, error: &str, message: &str) -> Response<AnswerBody> {
    let body = serde_json::json!({ "message": message, "error": error }).to_string();
    complete(status, "application/json", Bytes::from(body))
}
