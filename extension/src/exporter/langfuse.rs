//! One POST to Langfuse for each export, and what its answer means.
//!
//! The one thing a client library does not tell is whether a request may have arrived when no answer came. So the body
//! notes when the connection first asks for it: before that nothing left, after it the outcome is ambiguous.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, SizeHint};
use langfuse_extension_core::ExportId;
use langfuse_extension_core::buffer::Batch;
use langfuse_extension_core::delivery::Outcome;
use langfuse_extension_core::route::{Credential, Door, Route};
use tokio::sync::oneshot;

use crate::aside::{ONE_TURN_BYTES, aside};
use crate::exporter::upstream::Upstream;
use crate::inputs::{Event, Inputs};
use crate::payload::{self, Merged, Payload};

/// The longest answer that is read, for its item errors or to keep the connection.
pub const ANSWER_LIMIT_BYTES: usize = 1 << 20;

/// How long the body of an answer is waited for once its status is known.
const ANSWER_BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// An empty OTLP request: Langfuse authenticates it, answers 200 and stores nothing.
const PROBE_BODY: &[u8] = br#"{"resourceSpans":[]}"#;

/// Sends what the core says, one task for each request.
#[derive(Debug)]
pub struct Exporter {
    upstream: Upstream,
    inputs: Inputs,
    aborts: BTreeMap<ExportId, oneshot::Sender<()>>,
    abort_probe: Option<oneshot::Sender<()>>,
}

impl Exporter {
    /// Sends to `upstream` and tells `inputs` how it went.
    pub fn new(upstream: Upstream, inputs: Inputs) -> Self {
        Self {
            upstream,
            inputs,
            aborts: BTreeMap::new(),
            abort_probe: None,
        }
    }

    /// Sends a batch. Exactly one [`Event::Exported`] or [`Event::Cut`] follows, whatever happens.
    pub fn export(&mut self, id: ExportId, batch: Batch<Payload>) {
        self.aborts.retain(|_, abort| !abort.is_closed());
        let (abort, aborted) = oneshot::channel();
        self.aborts.insert(id, abort);
        let upstream = self.upstream.clone();
        let mut reply = Reply::new(self.inputs.clone(), move |outcome| Event::Exported {
            id,
            outcome,
        });
        tokio::spawn(async move {
            let Batch { route, items } = batch;
            let parts: Vec<_> = items.into_iter().map(|item| item.payload).collect();
            let alone = (parts.len() == 1).then(|| parts[0].clone());
            let Some(merged) = merge(parts).await else {
                return;
            };
            // From here on a fault leaves it open whether something was sent.
            reply.set(Outcome::Ambiguous);
            let (body, encoding) = (merged.body, merged.content_encoding);
            let outcome = send(&upstream, &route, body, encoding, aborted).await;
            reply.set(outcome);
            if outcome == Outcome::TooLarge
                && let Some(payload) = alone
                && let Some(Some(parts)) = aside(move || payload.split()).await
            {
                reply.tell(Event::Cut { id, parts });
            }
        });
    }

    /// Sends an empty request with the headers of `route`. Exactly one [`Event::Probed`] follows.
    pub fn probe(&mut self, route: Arc<Route>) {
        let (abort, aborted) = oneshot::channel();
        self.abort_probe = Some(abort);
        let upstream = self.upstream.clone();
        let mut reply = Reply::new(self.inputs.clone(), |outcome| Event::Probed { outcome });
        tokio::spawn(async move {
            let route = Route {
                door: Door::TracesJson,
                ..(*route).clone()
            };
            reply.set(
                send(
                    &upstream,
                    &route,
                    Bytes::from_static(PROBE_BODY),
                    None,
                    aborted,
                )
                .await,
            );
        });
    }

    /// Stops waiting for an answer.
    pub fn abort(&mut self, id: ExportId) {
        self.aborts.remove(&id);
    }

    /// Stops waiting for the answer to the probe.
    pub fn abort_probe(&mut self) {
        self.abort_probe = None;
    }

    /// Requests from now on use new connections; those under way keep theirs.
    pub fn reset_connections(&mut self) {
        self.upstream.reset_connections();
    }
}

/// What is small is merged at once. `None` after a fault, when nothing was sent.
async fn merge(parts: Vec<Payload>) -> Option<Merged> {
    let bytes: usize = parts.iter().map(Payload::stored_bytes).sum();
    if bytes <= ONE_TURN_BYTES {
        return Some(payload::merge(parts));
    }
    aside(move || payload::merge(parts)).await
}

/// Tells the loop an outcome when it is dropped, so that a task that panics or is cancelled tells one too.
struct Reply<F: Fn(Outcome) -> Event> {
    inputs: Inputs,
    event: F,
    outcome: Outcome,
    instead: Option<Event>,
}

impl<F: Fn(Outcome) -> Event> Reply<F> {
    fn new(inputs: Inputs, event: F) -> Self {
        Self {
            inputs,
            event,
            outcome: Outcome::NotDelivered { retry_after: None },
            instead: None,
        }
    }

    fn set(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Says more than an outcome does.
    fn tell(&mut self, event: Event) {
        self.instead = Some(event);
    }
}

impl<F: Fn(Outcome) -> Event> Drop for Reply<F> {
    fn drop(&mut self) {
        let event = self.instead.take();
        let event = event.unwrap_or_else(|| (self.event)(self.outcome));
        self.inputs.event(event);
    }
}

/// Sends one request and waits for its answer until `aborted`.
pub(crate) async fn send(
    upstream: &Upstream,
    route: &Route,
    body: Bytes,
    content_encoding: Option<&'static str>,
    aborted: impl Future,
) -> Outcome {
    let (Some(client), Some(url)) = (upstream.client(), upstream.url(path_of(route.door))) else {
        return Outcome::NotDelivered { retry_after: None };
    };
    let Some(headers) = headers_of(upstream, route, content_encoding) else {
        // The keys went away between the core's decision and now.
        return Outcome::NotDelivered { retry_after: None };
    };
    let left = Arc::new(AtomicBool::new(false));
    let body = reqwest::Body::wrap(Watched {
        bytes: Some(body),
        left: Arc::clone(&left),
    });
    let request = client
        .request(Method::POST, url)
        .headers(headers)
        .body(body)
        .send();
    let response = tokio::select! {
        response = request => response,
        // Dropping the sender is the signal.
        _ = aborted => return unanswered(&left),
    };
    match response {
        Ok(response) => judge(route, response).await,
        Err(error) => {
            tracing::debug!(error = %chain(&error), door = ?route.door, "a request to Langfuse failed");
            if error.is_connect() {
                Outcome::NotDelivered { retry_after: None }
            } else {
                unanswered(&left)
            }
        }
    }
}

fn unanswered(left: &AtomicBool) -> Outcome {
    if left.load(Ordering::Relaxed) {
        Outcome::Ambiguous
    } else {
        Outcome::NotDelivered { retry_after: None }
    }
}

fn path_of(door: Door) -> &'static str {
    match door {
        Door::TracesProtobuf | Door::TracesJson => "/api/public/otel/v1/traces",
        Door::Ingestion => "/api/public/ingestion",
        Door::Scores => "/api/public/scores",
    }
}

/// `None` while the configured keys are not there.
fn headers_of(
    upstream: &Upstream,
    route: &Route,
    content_encoding: Option<&'static str>,
) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(route.headers.len() + 4);
    for (name, value) in &route.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    let content_type = match route.door {
        Door::TracesProtobuf => "application/x-protobuf",
        Door::TracesJson | Door::Ingestion | Door::Scores => "application/json",
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(encoding) = content_encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    match &route.credential {
        // Keys that were still being fetched when this came may have turned out to be its own.
        Credential::Client(authorization) if upstream.stands_for_our_keys(authorization) => {
            upstream.keys()?.insert_into(&mut headers);
        }
        Credential::Client(authorization) => {
            let mut value = HeaderValue::from_str(authorization).ok()?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Credential::Configured => upstream.keys()?.insert_into(&mut headers),
    }
    Some(headers)
}

async fn judge(route: &Route, response: reqwest::Response) -> Outcome {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let outcome = match status.as_u16() {
        200..=299 => Outcome::Delivered,
        401 | 403 => Outcome::Unauthorized,
        408 | 500 | 503 => Outcome::NotDelivered { retry_after },
        413 => Outcome::TooLarge,
        429 => Outcome::Throttled { retry_after },
        500..=599 => Outcome::Ambiguous,
        _ => Outcome::Refused,
    };
    let body = Limited::new(reqwest::Body::from(response), ANSWER_LIMIT_BYTES).collect();
    let body = tokio::time::timeout(ANSWER_BODY_TIMEOUT, body).await;
    let body = body
        .ok()
        .and_then(Result::ok)
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    log_answer(route, status, outcome, &body);
    outcome
}

/// Langfuse sends whole seconds. <https://langfuse.com/faq/all/api-limits>
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_secs)
}

fn log_answer(route: &Route, status: StatusCode, outcome: Outcome, body: &[u8]) {
    let status = status.as_u16();
    match outcome {
        Outcome::Delivered => log_item_errors(route, body),
        Outcome::Unauthorized => tracing::warn!(
            status,
            answer = %beginning(body),
            "Langfuse refuses these keys; their data is held and tried again: are they of this project and region?"
        ),
        Outcome::Refused if route.door == Door::Scores => tracing::warn!(
            status,
            answer = %beginning(body),
            "Langfuse will not take these scores; arrays of them, which Python's SDK sends since version 5, \
             need a Langfuse that knows them"
        ),
        Outcome::Refused => tracing::warn!(
            status,
            door = ?route.door,
            answer = %beginning(body),
            "Langfuse will not take this; is LANGFUSE_EXTENSION_BASE_URL right?"
        ),
        _ => {
            tracing::debug!(status, door = ?route.door, answer = %beginning(body), "Langfuse did not take this now");
        }
    }
}

/// The 207 of ingestion names the events that Langfuse did not take; their client was answered long ago.
fn log_item_errors(route: &Route, body: &[u8]) {
    #[derive(serde::Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        errors: Vec<&'a serde_json::value::RawValue>,
    }
    if route.door != Door::Ingestion {
        return;
    }
    if let Ok(Answer { errors }) = serde_json::from_slice(body)
        && let Some(first) = errors.first()
    {
        tracing::warn!(events = errors.len(), first = %beginning(first.get().as_bytes()), "Langfuse refused events of an ingestion batch");
    }
}

/// Enough of an answer to recognise it. Langfuse's answers name ids and rules, not the payload.
fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned()
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// A body that notes when it is first asked for.
struct Watched {
    bytes: Option<Bytes>,
    left: Arc<AtomicBool>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.left.store(true, Ordering::Relaxed);
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Input;
    use crate::payload::{Limits, accept_otlp};
    use langfuse_extension_core::buffer::{History, Item, ItemId};
    use langfuse_extension_core::time::Now;

    /// An unknown field of so many bytes in an `ExportTraceServiceRequest`.
    fn body(bytes: usize) -> Bytes {
        let mut body = vec![0x7a];
        let mut left = bytes;
        while left > 0x7f {
            body.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
            left >>= 7;
        }
        body.push(u8::try_from(left).unwrap());
        body.extend((0..bytes).map(|at| u8::try_from(at * at % 251).unwrap()));
        body.into()
    }

    #[tokio::test]
    async fn the_loop_goes_on_while_a_large_body_is_compressed() {
        let (inputs, mut events) = Inputs::channel();
        let mut exporter = Exporter::new(Upstream::open(None, None), inputs);
        let limits = Limits::default();
        let accepted = accept_otlp("application/x-protobuf", "", body(4 << 20), &limits);
        let item = Item {
            id: ItemId(0),
            payload: accepted.unwrap().0,
            accepted_at: Now {
                mono: Duration::ZERO,
                wall: Duration::ZERO,
            },
            history: History::default(),
            on_disk: false,
        };
        let route = Arc::new(Route {
            door: Door::TracesProtobuf,
            credential: Credential::Configured,
            headers: Vec::new(),
        });
        exporter.export(
            ExportId(0),
            Batch {
                route,
                items: vec![item],
            },
        );
        let mut turns = 0;
        let outcome = loop {
            match events.try_recv() {
                Ok(Input::Event(Event::Exported { outcome, .. })) => break outcome,
                Ok(other) => panic!("{other:?}"),
                Err(_) => turns += 1,
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(outcome, Outcome::NotDelivered { retry_after: None });
        assert!(turns > 50, "the loop had {turns} turns");
    }
}
