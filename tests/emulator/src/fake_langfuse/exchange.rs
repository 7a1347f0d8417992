//! One request and its answer, or whatever a fault makes of it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{Channel, Either, Full};
use hyper::{Request, Response};

use super::connection::Control;
use super::fault::Fault;
use super::ingestion;
use super::otlp;
use super::recording::{Door, RecordedRequest};
use super::refused_items;
use super::reply::Reply;
use super::request::Incoming;
use super::routes::{self, Answer, Contents, Route};
use super::state::{Shared, State};
use super::surrogate;
use super::worker;

pub(super) type Body = Either<Full<Bytes>, Channel<Bytes, io::Error>>;

/// Where a request came in.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) control: Arc<Control>,
    pub(super) sequence: u64,
    /// Scheme, address and port of the listener.
    pub(super) origin: String,
}

impl Connection {
    pub(super) async fn exchange(
        self,
        request: Request<hyper::body::Incoming>,
    ) -> io::Result<Response<Body>> {
        self.control.behave();
        let incoming = Incoming::read(request, self.sequence).await?;
        let (fault, reply) = self.judge(&incoming);
        match fault {
            Fault::HangBeforeAccepting | Fault::HangAfterAccepting => std::future::pending().await,
            Fault::ResetBeforeResponse { .. } => {
                self.control.reset();
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Fault::ResetMidResponse => self.half_of(&reply, true).await,
            Fault::StallMidResponse => self.half_of(&reply, false).await,
            Fault::Latency { delay } => {
                tokio::time::sleep(delay).await;
                respond(reply)
            }
            Fault::SlowDrip { interval } => {
                self.control.drip(interval);
                respond(reply)
            }
            _ => respond(reply),
        }
    }

    /// Chooses the fault, answers, stores and records, all under one lock: what a test sees is always whole.
    fn judge(&self, incoming: &Incoming) -> (Fault, Reply) {
        let route = Route::of(&incoming.target, &self.shared.base_path);
        let contents = Contents::of(&route, incoming);
        let facts = contents.facts(&route, incoming);
        let mut state = self.shared.lock();
        let fault = state.faults.for_request(&facts);
        let answer = match &fault {
            Fault::HangBeforeAccepting | Fault::ResetBeforeResponse { accept: false } => {
                unanswered()
            }
            Fault::Status { accept: false, .. } => Answer {
                reply: replaced(&fault),
                ..unanswered()
            },
            _ => {
                let mut answer =
                    routes::answer(&mut state, &route, incoming, &contents, &self.origin);
                if let Fault::RefuseItems { containing, status } = &fault {
                    refused_items::refuse(&mut answer, &contents, incoming, containing, *status);
                }
                match fault {
                    Fault::Status { .. } => Answer {
                        reply: replaced(&fault),
                        ..answer
                    },
                    _ => answer,
                }
            }
        };
        let reply = answer.reply.clone();
        record(&mut state, incoming, &route, &contents, &fault, answer);
        drop(state);
        self.shared.announce();
        (fault, reply)
    }

    /// Announces the whole body and sends half of it. Then comes a reset, once that half has left, or nothing at all.
    async fn half_of(&self, reply: &Reply, reset: bool) -> io::Result<Response<Body>> {
        let whole = reply.body.clone();
        let half = whole.slice(..whole.len() / 2);
        let (mut sender, body) = Channel::new(1);
        let control = Arc::clone(&self.control);
        let before_bytes = control.written_bytes();
        // Given before the head is written, so that one flush sends both.
        sender.send_data(half).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            control.wait_for_flush_beyond(before_bytes).await;
            if !reset {
                std::future::pending::<()>().await;
            }
            control.reset();
            sender.abort(io::ErrorKind::ConnectionReset.into());
        });
        let response = head(reply).header("content-length", whole.len());
        response.body(Either::Right(body)).map_err(io::Error::other)
    }
}

fn unanswered() -> Answer {
    Answer {
        reply: Reply::empty(0),
        project: None,
        accepted: false,
        events: Vec::new(),
        refused_text: None,
    }
}

fn replaced(fault: &Fault) -> Reply {
    match fault {
        Fault::Status {
            status,
            headers,
            body,
            ..
        } => Reply {
            status: *status,
            headers: headers.clone(),
            body: Bytes::from(body.clone()),
        },
        _ => Reply::empty(500),
    }
}

fn respond(reply: Reply) -> io::Result<Response<Body>> {
    head(&reply)
        .body(Either::Left(Full::new(reply.body)))
        .map_err(io::Error::other)
}

fn head(reply: &Reply) -> hyper::http::response::Builder {
    let start = Response::builder().status(reply.status);
    reply
        .headers
        .iter()
        .fold(start, |builder, (name, value)| builder.header(name, value))
}

fn record(
    state: &mut State,
    incoming: &Incoming,
    route: &Route,
    contents: &Contents,
    fault: &Fault,
    answer: Answer,
) {
    let recording = &mut state.recording;
    let sequence = recording.next_sequence();
    let never_answers = matches!(
        fault,
        Fault::HangBeforeAccepting | Fault::HangAfterAccepting | Fault::ResetBeforeResponse { .. }
    );
    let storage_headers = incoming.storage_headers();
    recording.add_request(RecordedRequest {
        sequence,
        arrived_at: incoming.arrived_at,
        connection: incoming.connection,
        method: incoming.method.clone(),
        target: incoming.target.clone(),
        headers: incoming.headers.clone(),
        wire_bytes: incoming.body.len(),
        body: incoming.body.clone(),
        project: answer.project.clone(),
        status: (!never_answers).then_some(answer.reply.status),
        fault: (*fault != Fault::Healthy).then(|| fault.name()),
        accepted: answer.accepted,
        span_count: contents.span_count(),
        event_count: contents.events(route).len(),
    });
    if *fault == Fault::HangBeforeAccepting {
        return;
    }
    let poison = is_json(incoming) && surrogate::is_in(&otlp::plain(incoming));
    if let Contents::Spans(Ok(spans)) = contents {
        let lost_in_worker = answer.accepted && worker::fails_on(spans);
        let first = recording.observation_count();
        let template = otlp::template(
            sequence,
            answer.project.clone(),
            answer.accepted && !lost_in_worker,
            Arc::clone(&storage_headers),
        );
        for mut observation in otlp::observations(spans, &template) {
            observation.lost_in_worker = lost_in_worker;
            if let Some(text) = &answer.refused_text {
                observation.accepted &= !refused_items::is_refused(&observation, text);
            }
            recording.add_observation(observation);
        }
        recording.insert_observations(first, poison, Instant::now());
    }
    if let Route::Events(door) = route {
        let items = if answer.events.is_empty() {
            contents
                .events(route)
                .iter()
                .map(|item| (item.clone(), false))
                .collect()
        } else {
            answer.events
        };
        let first = recording.event_count();
        record_events(
            recording,
            *door,
            items,
            &(sequence, answer.project),
            &storage_headers,
        );
        recording.insert_events(first, poison, Instant::now());
    }
}

fn is_json(incoming: &Incoming) -> bool {
    incoming
        .header("content-type")
        .is_some_and(|kind| kind.to_lowercase().contains("json"))
}

fn record_events(
    recording: &mut super::recording::Recording,
    door: Door,
    items: Vec<(serde_json::Value, bool)>,
    source: &(u64, Option<String>),
    storage_headers: &Arc<std::collections::BTreeMap<String, String>>,
) {
    for (item, accepted) in items {
        recording.add_event(ingestion::event(
            door,
            item,
            accepted,
            source.clone(),
            Arc::clone(storage_headers),
        ));
    }
}
