//! What arrived, kept within limits, in an order and a form that two runs can be compared by.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::worker::Insert;

/// Requests kept; later ones are only counted.
pub const MAX_RECORDED_REQUESTS: usize = 50_000;
/// Observations kept, accepted and refused together; later ones are only counted.
pub const MAX_RECORDED_OBSERVATIONS: usize = 200_000;
/// Events kept, accepted and refused together; later ones are only counted.
pub const MAX_RECORDED_EVENTS: usize = 100_000;
/// Bytes of request bodies (as sent) kept in total; later bodies are left out.
pub const MAX_RECORDED_BODY_BYTES: usize = 128 << 20;
/// Canonical bytes of observations and events kept in total; later ones are only counted.
pub const MAX_RECORDED_DATA_BYTES: usize = 256 << 20;

/// One request, whatever became of it.
#[derive(Clone, Debug, Serialize)]
pub struct RecordedRequest {
    /// Counts from 0 since the start or the last clearing.
    pub sequence: u64,
    /// When its head had been read.
    #[serde(serialize_with = "as_unix_seconds")]
    pub arrived_at: SystemTime,
    /// Counts connections from 0, so that re-use can be told.
    pub connection: u64,
    /// As sent.
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// In the order sent, equal names next to each other; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Bytes of the body on the wire, without chunk framing.
    pub wire_bytes: usize,
    /// The body as sent, without chunk framing but still compressed; empty when the limit is reached.
    #[serde(serialize_with = "as_base64")]
    pub body: Bytes,
    /// Whose keys it bore, if they were valid.
    pub project: Option<String>,
    /// The status answered, or chosen to be answered; `None` if there was to be no answer.
    pub status: Option<u16>,
    /// The fault that it met, in snake case.
    pub fault: Option<&'static str>,
    /// Whether what it carries was taken, whatever the worker lost of it later: for a request without data, whether it had
    /// its ordinary answer of 2xx.
    pub accepted: bool,
    /// Spans it carries, so far as it could be decoded.
    pub span_count: usize,
    /// Events or scores it carries, so far as it could be decoded.
    pub event_count: usize,
}

impl RecordedRequest {
    /// The first header of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// One span.
#[derive(Clone, Debug, Serialize)]
pub struct Observation {
    /// [`RecordedRequest::sequence`] of the request it came in.
    pub request: u64,
    /// Whose keys the request bore, if they were valid.
    pub project: Option<String>,
    /// Whether Langfuse stored it.
    pub accepted: bool,
    /// It was answered as if it were stored, and then lost: by what stood beside it, or by itself.
    pub lost_in_worker: bool,
    /// Lower-case hex; as sent in JSON.
    pub trace_id: String,
    /// Lower-case hex; as sent in JSON.
    pub span_id: String,
    /// `None` for a root.
    pub parent_span_id: Option<String>,
    /// The span's name.
    pub name: String,
    /// The whole span as OTLP/JSON: ids in hex, 64-bit integers as strings, unknown protobuf fields in hex under
    /// `unknownFields`.
    pub span: Value,
    /// The resource, shared by the spans below it.
    pub resource: Arc<Value>,
    /// The instrumentation scope, shared by the spans below it.
    pub scope: Arc<Value>,
    /// The headers by which Langfuse chooses how to store the request: content type and encoding, and everything that
    /// begins with `x-langfuse` or `x_langfuse`. Sorted by name.
    pub storage_headers: Arc<BTreeMap<String, String>>,
}

impl Observation {
    /// The span's attributes by key, each an OTLP `AnyValue`. Of equal keys the last one counts.
    pub fn attributes(&self) -> BTreeMap<String, Value> {
        attributes_of(&self.span)
    }

    /// The resource's attributes by key, each an OTLP `AnyValue`.
    pub fn resource_attributes(&self) -> BTreeMap<String, Value> {
        attributes_of(&self.resource)
    }

    /// The instrumentation scope's attributes by key, each an OTLP `AnyValue`.
    pub fn scope_attributes(&self) -> BTreeMap<String, Value> {
        attributes_of(&self.scope)
    }

    /// The span's events, as OTLP/JSON.
    pub fn events(&self) -> Vec<Value> {
        let events = self.span.get("events").and_then(Value::as_array);
        events.cloned().unwrap_or_default()
    }

    /// Span, scope and resource as one JSON text with sorted keys: equal exactly if nothing was changed on the way.
    pub fn canonical(&self) -> String {
        let parts = [&*self.resource, &*self.scope, &self.span];
        format!(
            "[{},{},{}]",
            canonical(parts[0]),
            canonical(parts[1]),
            canonical(parts[2])
        )
    }
}

/// Through which door an event came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// `POST /api/public/ingestion`.
    Ingestion,
    /// `POST /api/public/scores`.
    Scores,
}

/// One event of `/ingestion`, or one score of `/scores`.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// [`RecordedRequest::sequence`] of the request it came in.
    pub request: u64,
    /// Whose keys the request bore, if they were valid.
    pub project: Option<String>,
    /// Whether Langfuse stored it.
    pub accepted: bool,
    /// As in [`Observation::lost_in_worker`].
    pub lost_in_worker: bool,
    /// Which endpoint.
    pub door: Door,
    /// The event's id; through [`Door::Scores`] the score's own.
    pub id: String,
    /// `score-create`, `trace-create`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// What the event is about: a score with its `id`, `name`, `value`, …
    pub body: Value,
    /// The event as it came (through [`Door::Scores`], the same as [`Event::body`]).
    pub event: Value,
    /// As in [`Observation::storage_headers`].
    pub storage_headers: Arc<BTreeMap<String, String>>,
}

impl Event {
    /// Whether it is a score, whichever the door.
    pub fn is_score(&self) -> bool {
        self.kind == "score-create"
    }

    /// The event as JSON text with sorted keys.
    pub fn canonical(&self) -> String {
        canonical(&self.event)
    }
}

/// Something stored more than once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Duplicate {
    /// Whose.
    pub project: String,
    /// `TRACE_ID/SPAN_ID`, or an event's id.
    pub id: String,
    /// How many times it was stored, 2 or more.
    pub count: u64,
}

/// What was stored more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Duplicates {
    /// Spans. Langfuse may count each of them again.
    pub observations: Vec<Duplicate>,
    /// Scores and other events, by the event's id. Langfuse folds these into one.
    pub events: Vec<Duplicate>,
}

/// Everything recorded so far.
#[derive(Debug, Default)]
pub struct Recording {
    requests: Vec<Arc<RecordedRequest>>,
    observations: Vec<Arc<Observation>>,
    events: Vec<Arc<Event>>,
    observation_counts: HashMap<(String, String), u64>,
    event_counts: HashMap<(String, String), u64>,
    observation_insert: Insert,
    event_insert: Insert,
    body_bytes: usize,
    data_bytes: usize,
    request_count: u64,
    left_out_count: u64,
}

impl Recording {
    /// Every request in order of arrival, also those that were refused or left hanging.
    pub fn requests(&self) -> &[Arc<RecordedRequest>] {
        &self.requests
    }

    /// Every span that was stored.
    pub fn observations(&self) -> impl Iterator<Item = &Arc<Observation>> {
        self.observations.iter().filter(|one| one.accepted)
    }

    /// Every span that came but was refused.
    pub fn refused_observations(&self) -> impl Iterator<Item = &Arc<Observation>> {
        self.observations.iter().filter(|one| !one.accepted)
    }

    /// Every span that Langfuse said it had taken, and then lost in its worker. They are among the refused.
    pub fn lost_observations(&self) -> impl Iterator<Item = &Arc<Observation>> {
        self.observations.iter().filter(|one| one.lost_in_worker)
    }

    /// Every event that was stored, scores of both doors included.
    pub fn events(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter().filter(|one| one.accepted)
    }

    /// Every event that came but was refused.
    pub fn refused_events(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter().filter(|one| !one.accepted)
    }

    /// Every score that was stored, of both doors.
    pub fn scores(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events().filter(|one| one.is_score())
    }

    /// What was stored more than once, sorted.
    pub fn duplicates(&self) -> Duplicates {
        Duplicates {
            observations: repeated(&self.observation_counts),
            events: repeated(&self.event_counts),
        }
    }

    /// How many requests, observations and events were not kept because a limit was reached: a test that compares
    /// must find 0 here.
    pub fn left_out_count(&self) -> u64 {
        self.left_out_count
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        let sequence = self.request_count;
        self.request_count += 1;
        sequence
    }

    pub(super) fn add_request(&mut self, mut request: RecordedRequest) {
        if self.requests.len() >= MAX_RECORDED_REQUESTS {
            self.left_out_count += 1;
            return;
        }
        if self.body_bytes + request.body.len() > MAX_RECORDED_BODY_BYTES {
            request.body = Bytes::new();
            self.left_out_count += 1;
        }
        self.body_bytes += request.body.len();
        self.requests.push(Arc::new(request));
    }

    pub(super) fn add_observation(&mut self, observation: Observation) {
        if observation.accepted {
            let project = observation.project.clone().unwrap_or_default();
            let id = format!("{}/{}", observation.trace_id, observation.span_id);
            *self.observation_counts.entry((project, id)).or_default() += 1;
        }
        let full = self.observations.len() >= MAX_RECORDED_OBSERVATIONS;
        if !full && self.has_room(&observation.span) {
            self.observations.push(Arc::new(observation));
        } else {
            self.left_out_count += 1;
        }
    }

    pub(super) fn add_event(&mut self, event: Event) {
        if event.accepted {
            let project = event.project.clone().unwrap_or_default();
            *self
                .event_counts
                .entry((project, event.id.clone()))
                .or_default() += 1;
        }
        let full = self.events.len() >= MAX_RECORDED_EVENTS;
        if !full && self.has_room(&event.event) {
            self.events.push(Arc::new(event));
        } else {
            self.left_out_count += 1;
        }
    }

    pub(super) fn observation_count(&self) -> usize {
        self.observations.len()
    }

    pub(super) fn event_count(&self) -> usize {
        self.events.len()
    }

    /// Puts the stored observations from this one on into the insert of the moment; if it fails, they are lost with it.
    pub(super) fn insert_observations(&mut self, first: usize, fails: bool, now: Instant) {
        for row in first..self.observations.len() {
            if !self.observations[row].accepted {
                continue;
            }
            for lost in self.observation_insert.add(row, fails, now) {
                let one = Arc::make_mut(&mut self.observations[lost]);
                (one.accepted, one.lost_in_worker) = (false, true);
                let project = one.project.clone().unwrap_or_default();
                let id = format!("{}/{}", one.trace_id, one.span_id);
                uncount(&mut self.observation_counts, (project, id));
            }
        }
    }

    /// The same for events.
    pub(super) fn insert_events(&mut self, first: usize, fails: bool, now: Instant) {
        for row in first..self.events.len() {
            if !self.events[row].accepted {
                continue;
            }
            for lost in self.event_insert.add(row, fails, now) {
                let one = Arc::make_mut(&mut self.events[lost]);
                (one.accepted, one.lost_in_worker) = (false, true);
                let project = one.project.clone().unwrap_or_default();
                uncount(&mut self.event_counts, (project, one.id.clone()));
            }
        }
    }

    fn has_room(&mut self, data: &Value) -> bool {
        let total_bytes = self.data_bytes + approximate_bytes(data);
        let fits = total_bytes <= MAX_RECORDED_DATA_BYTES;
        if fits {
            self.data_bytes = total_bytes;
        }
        fits
    }
}

fn uncount(counts: &mut HashMap<(String, String), u64>, id: (String, String)) {
    counts.entry(id).and_modify(|count| *count -= 1);
}

fn repeated(counts: &HashMap<(String, String), u64>) -> Vec<Duplicate> {
    let mut repeated: Vec<Duplicate> = counts
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|((project, id), count)| Duplicate {
            project: project.clone(),
            id: id.clone(),
            count: *count,
        })
        .collect();
    repeated.sort();
    repeated
}

fn attributes_of(owner: &Value) -> BTreeMap<String, Value> {
    let list = owner.get("attributes").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|entry| {
            let key = entry.get("key")?.as_str()?.to_owned();
            Some((key, entry.get("value").cloned().unwrap_or(Value::Null)))
        })
        .collect()
}

/// JSON text with the keys of every object in order, whatever order they came in.
pub fn canonical(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let ordered: BTreeMap<_, _> = map
                    .iter()
                    .map(|(key, one)| (key.clone(), sorted(one)))
                    .collect();
                Value::Object(ordered.into_iter().collect())
            }
            Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}

fn approximate_bytes(value: &Value) -> usize {
    let own_bytes = size_of::<Value>();
    own_bytes
        + match value {
            Value::String(text) => text.len(),
            Value::Array(list) => list.iter().map(approximate_bytes).sum(),
            Value::Object(map) => map
                .iter()
                .map(|(key, one)| key.len() + approximate_bytes(one))
                .sum(),
            _ => 0,
        }
}

fn as_base64<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn as_unix_seconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since_epoch = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    serializer.serialize_f64(since_epoch.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: Bytes) -> RecordedRequest {
        RecordedRequest {
            sequence: 0,
            arrived_at: SystemTime::UNIX_EPOCH,
            connection: 0,
            method: String::new(),
            target: String::new(),
            headers: Vec::new(),
            wire_bytes: body.len(),
            body,
            project: None,
            status: None,
            fault: None,
            accepted: false,
            span_count: 0,
            event_count: 0,
        }
    }

    fn observation(span: Value) -> Observation {
        Observation {
            span,
            ..super::super::otlp::template(0, None, true, Arc::default())
        }
    }

    fn event(kind: &str) -> Event {
        Event {
            request: 0,
            project: None,
            accepted: true,
            lost_in_worker: false,
            door: Door::Ingestion,
            id: String::new(),
            kind: kind.into(),
            body: Value::Null,
            event: Value::Null,
            storage_headers: Arc::default(),
        }
    }

    #[test]
    fn requests_beyond_the_limit_are_counted_but_not_kept() {
        let mut recording = Recording::default();
        for _ in 0..=MAX_RECORDED_REQUESTS {
            recording.add_request(request(Bytes::new()));
        }
        assert_eq!(recording.requests().len(), MAX_RECORDED_REQUESTS);
        assert_eq!(recording.left_out_count(), 1);
    }

    #[test]
    fn bodies_beyond_the_limit_are_left_out_of_their_requests() {
        static MEGABYTE: [u8; 1 << 20] = [0; 1 << 20];
        let mut recording = Recording::default();
        let fitting_count = MAX_RECORDED_BODY_BYTES >> 20;
        for _ in 0..=fitting_count {
            recording.add_request(request(Bytes::from_static(&MEGABYTE)));
        }
        assert_eq!(recording.requests().len(), fitting_count + 1);
        assert!(recording.requests()[fitting_count].body.is_empty());
        assert_eq!(recording.requests()[fitting_count].wire_bytes, 1 << 20);
        assert_eq!(recording.left_out_count(), 1);
    }

    #[test]
    fn observations_beyond_the_limit_still_count_as_duplicates() {
        let mut recording = Recording::default();
        for _ in 0..=MAX_RECORDED_OBSERVATIONS {
            recording.add_observation(observation(Value::Null));
        }
        assert_eq!(recording.observations().count(), MAX_RECORDED_OBSERVATIONS);
        let stored_count = recording.duplicates().observations[0].count;
        assert_eq!(stored_count, MAX_RECORDED_OBSERVATIONS as u64 + 1);
        assert_eq!(recording.left_out_count(), 1);
    }

    #[test]
    fn events_beyond_the_limit_are_counted_but_not_kept() {
        let mut recording = Recording::default();
        for _ in 0..=MAX_RECORDED_EVENTS {
            recording.add_event(event("score-create"));
        }
        assert_eq!(recording.scores().count(), MAX_RECORDED_EVENTS);
        assert_eq!(recording.left_out_count(), 1);
    }

    #[test]
    fn spans_beyond_the_bytes_of_all_data_are_left_out() {
        let mut recording = Recording {
            data_bytes: MAX_RECORDED_DATA_BYTES - 1024,
            ..Recording::default()
        };
        recording.add_observation(observation("x".repeat(1025).into()));
        assert_eq!(recording.observations().count(), 0);
        assert_eq!(recording.left_out_count(), 1);
        recording.add_observation(observation("x".repeat(10).into()));
        assert_eq!(recording.observations().count(), 1);
    }

    #[test]
    fn canonical_text_does_not_depend_on_the_order_of_keys() {
        let one: Value = serde_json::from_str(r#"{"b": [{"d": 1, "c": 2}], "a": null}"#).unwrap();
        assert_eq!(canonical(&one), r#"{"a":null,"b":[{"c":2,"d":1}]}"#);
    }
}
