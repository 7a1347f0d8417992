//! One POST to Langfuse for each export, and the fact of how it ended. What that means is the core's to say.
//!
//! The one thing a client library does not tell is whether a request may have arrived when no answer came. So the body
//! notes when the connection first asks for it: before that nothing left, after it the outcome is ambiguous.

pub(crate) mod answer;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Method;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use hyper::body::{Body, Frame, SizeHint};
use langfuse_extension_core::ExportId;
use langfuse_extension_core::buffer::{Batch, ItemId};
use langfuse_extension_core::delivery::fact::{Fact, Whose};
use langfuse_extension_core::route::{Credential, Destination, Door, Route};
use tokio::sync::oneshot;

use crate::aside::{ONE_TURN_BYTES, aside};
use crate::egress::Stage;
use crate::exporter::upstream::Upstream;
use crate::inputs::{Event, Input, Inputs};
use crate::memory::Budget;
use crate::payload::{self, Merged, Payload};

/// An empty OTLP request: Langfuse authenticates it, answers 200 and stores nothing.
const PROBE_BODY: &[u8] = br#"{"resourceSpans":[]}"#;

/// Sends what the core says, one task for each request.
#[derive(Debug)]
pub struct Exporter {
    upstream: Upstream,
    inputs: Inputs,
    budget: Budget,
    aborts: BTreeMap<ExportId, oneshot::Sender<()>>,
    abort_probe: Option<oneshot::Sender<()>>,
    said: Arc<Said>,
    stage: Option<Arc<Stage>>,
}

impl Exporter {
    /// Sends to `upstream` and tells `inputs` how it went. What is made to be sent takes its memory from `budget`.
    pub fn new(upstream: Upstream, inputs: Inputs, budget: Budget) -> Self {
        Self {
            upstream,
            inputs,
            budget,
            aborts: BTreeMap::new(),
            abort_probe: None,
            said: Arc::default(),
            stage: None,
        }
    }

    /// Lets everything pass `stage` before it leaves.
    #[must_use]
    pub fn behind(mut self, stage: Option<Arc<Stage>>) -> Self {
        self.stage = stage;
        self
    }

    /// Sends a batch. Exactly one [`Event::Exported`] follows, whatever happens.
    pub fn export(&mut self, id: ExportId, batch: Batch<Payload>) {
        self.aborts.retain(|_, abort| !abort.is_closed());
        let (abort, mut aborted) = oneshot::channel();
        self.aborts.insert(id, abort);
        let (upstream, budget) = (self.upstream.clone(), self.budget.clone());
        let said = Arc::clone(&self.said);
        let (stage, inputs) = (self.stage.clone(), self.inputs.clone());
        let mut reply = Reply::new(self.inputs.clone(), move |fact| Event::Exported {
            id,
            fact,
        });
        tokio::spawn(async move {
            let Batch { route, items } = batch;
            let mut parts: Vec<_> = items.into_iter().map(|item| item.payload).collect();
            if let Some(stage) = stage {
                let _memory = tokio::select! {
                    memory = budget.export(bytes_to_pass(&parts)) => memory,
                    _ = &mut aborted => return,
                };
                if !pass(stage, &parts, &inputs).await {
                    return;
                }
                parts.retain(|part| part.units() > 0);
                if parts.is_empty() {
                    return reply.set(Fact::NothingToSend);
                }
            }
            let memory = tokio::select! {
                memory = budget.export(payload::bytes_to_merge(&parts)) => memory,
                _ = &mut aborted => return,
            };
            let Some(merged) = merge(parts).await else {
                return;
            };
            memory.shrink(merged.body.len());
            // From here on a fault leaves it open whether something was sent.
            reply.set(Fact::NoAnswer);
            let (body, encoding) = (merged.body, merged.content_encoding);
            let fact = send(&upstream, &route, body, encoding, aborted).await;
            reply.set(fact);
            said.of(route.door, fact);
        });
    }

    /// An invocation begins: what its spans may say of it is known.
    pub fn invocation_began(&self, request_id: &str, deadline_epoch_ms: u64) {
        if let Some(stage) = &self.stage {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            stage.invocation_began(request_id, deadline_epoch_ms, now);
        }
    }

    /// Cuts an item into parts. Exactly one [`Event::Cut`] follows.
    pub fn cut(&self, id: ItemId, payload: Payload, part_bytes: usize) {
        let (inputs, budget) = (self.inputs.clone(), self.budget.clone());
        tokio::spawn(async move {
            let _memory = budget.export(payload.bytes_to_cut()).await;
            let parts = aside(move || payload.cut(part_bytes)).await.flatten();
            let parts = parts.unwrap_or_default();
            inputs.event(Event::Cut { id, parts });
        });
    }

    /// Sends an empty request with the headers of `route`. Exactly one [`Event::Probed`] follows.
    pub fn probe(&mut self, route: Arc<Route>) {
        let (abort, aborted) = oneshot::channel();
        self.abort_probe = Some(abort);
        let upstream = self.upstream.clone();
        let said = Arc::clone(&self.said);
        let mut reply = Reply::new(self.inputs.clone(), |fact| Event::Probed {
            destination: Destination::Langfuse,
            fact,
        });
        tokio::spawn(async move {
            let route = Route {
                door: Door::TracesJson,
                ..(*route).clone()
            };
            let body = Bytes::from_static(PROBE_BODY);
            let fact = send(&upstream, &route, body, None, aborted).await;
            reply.set(fact);
            said.of(route.door, fact);
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

/// Those of which the stage has not said yet what leaves.
fn not_passed(parts: &[Payload]) -> impl Iterator<Item = &Payload> {
    parts.iter().filter(|part| !part.has_passed())
}

fn bytes_to_pass(parts: &[Payload]) -> usize {
    not_passed(parts).map(Payload::bytes_to_pass).sum()
}

/// Lets each part pass the stage, unless it did so for an earlier request. `false` after a fault, when nothing may leave.
async fn pass(stage: Arc<Stage>, parts: &[Payload], inputs: &Inputs) -> bool {
    let parts: Vec<_> = not_passed(parts).cloned().collect();
    if parts.is_empty() {
        return true;
    }
    let small = bytes_to_pass(&parts) <= ONE_TURN_BYTES;
    let work = move || {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let parts = parts.into_iter();
        parts.map(|part| part.pass(&stage, now)).collect()
    };
    let passed = if small {
        Some(work())
    } else {
        aside(work).await
    };
    match passed {
        Some(passed) => inputs.ask(|ack| Input::Passed(passed, ack)).await.is_some(),
        None => false,
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

/// Tells the loop a fact when it is dropped, so that a task that panics or is cancelled tells one too.
struct Reply<F: Fn(Fact) -> Event> {
    inputs: Inputs,
    event: F,
    fact: Fact,
}

impl<F: Fn(Fact) -> Event> Reply<F> {
    fn new(inputs: Inputs, event: F) -> Self {
        Self {
            inputs,
            event,
            fact: Fact::NothingLeft,
        }
    }

    fn set(&mut self, fact: Fact) {
        self.fact = fact;
    }
}

impl<F: Fn(Fact) -> Event> Drop for Reply<F> {
    fn drop(&mut self) {
        self.inputs.event((self.event)(self.fact));
    }
}

/// The status that was last logged, so that an outage is one line rather than one for each request.
#[derive(Debug, Default)]
struct Said(AtomicU16);

impl Said {
    fn of(&self, door: Door, fact: Fact) {
        let Fact::Answered(answer) = fact else {
            return;
        };
        let status = answer.status;
        let news = self.0.swap(status, Ordering::Relaxed) != status;
        if answer.refused_units > 0 {
            let units = answer.refused_units;
            tracing::warn!(
                status,
                ?door,
                units,
                "Langfuse did not take all of a request"
            );
        } else if !news || (200..300).contains(&status) {
            tracing::debug!(status, ?door, "Langfuse answered");
        } else {
            let by_langfuse = answer.whose == Whose::Langfuse;
            tracing::warn!(status, ?door, by_langfuse, "{}", hint(status));
        }
    }
}

fn hint(status: u16) -> &'static str {
    match status {
        401 => "Langfuse does not know these keys: are they of this project and region?",
        403 => "Langfuse, or something before it, refuses these keys or this request",
        300..=399 | 404 | 405 => {
            "this is not Langfuse's answer: does LANGFUSE_EXTENSION_BASE_URL name Langfuse itself?"
        }
        400..=428 | 430..=499 => "Langfuse, or something before it, refuses a request",
        _ => "Langfuse did not take a request now",
    }
}

/// Sends one request and waits for its answer until `aborted`.
pub(crate) async fn send(
    upstream: &Upstream,
    route: &Route,
    body: Bytes,
    content_encoding: Option<&'static str>,
    aborted: impl Future,
) -> Fact {
    let mut aborted = pin!(aborted);
    let (Some(client), Some(url)) = (upstream.client(), upstream.url(path_of(route.door))) else {
        return Fact::NothingLeft;
    };
    let Some(headers) = headers_of(upstream, route, content_encoding) else {
        // The keys went away between the core's decision and now.
        return Fact::NothingLeft;
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
        _ = &mut aborted => return unanswered(&left),
    };
    match response {
        Ok(response) => answer::read(route.door, response, aborted).await,
        Err(error) => {
            tracing::debug!(error = %chain(&error), door = ?route.door, "a request to Langfuse failed");
            if error.is_connect() {
                Fact::NotConnected
            } else {
                unanswered(&left)
            }
        }
    }
}

fn unanswered(left: &AtomicBool) -> Fact {
    if left.load(Ordering::Relaxed) {
        Fact::NoAnswer
    } else {
        Fact::NothingLeft
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
    use crate::payload::{Limits, accept_otlp};
    use langfuse_extension_core::buffer::{History, Item};
    use langfuse_extension_core::memory::Memory;
    use langfuse_extension_core::time::Now;
    use std::time::Duration;

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
        let mut exporter = Exporter::new(
            Upstream::open(None, None),
            inputs,
            Budget::new(Memory::of_function(usize::MAX)),
        );
        let limits = Limits::default();
        let accepted = accept_otlp("application/x-protobuf", "", body(4 << 20), &limits);
        let item = Item {
            id: ItemId(0),
            origin: ItemId(0),
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
        let fact = loop {
            match events.try_recv() {
                Ok(Input::Event(Event::Exported { fact, .. })) => break fact,
                Ok(other) => panic!("{other:?}"),
                Err(_) => turns += 1,
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(fact, Fact::NothingLeft);
        assert!(turns > 50, "the loop had {turns} turns");
    }
}
