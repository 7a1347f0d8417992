//! The two JSON doors: events for `/ingestion`, scores for `/scores`, and the schema both judge a score by.
//!
//! After Langfuse 4.16.0, packages/shared/src/server/ingestion/{processEventBatch,types}.ts at
//! <https://github.com/langfuse/langfuse/tree/62751446149b702b419a9292ddfc2280cdf74b8c>. That version takes one score per
//! request and answers a list 400; where lists are switched on, because langfuse-python 5 sends them and expects 202, they
//! are judged item by item with the same schema.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::auth::Level;
use super::recording::{Door, Event};
use super::reply::Reply;

/// Characters of an id.
const MAX_ID_CHARS: usize = 800;
/// Characters of a text score.
const MAX_TEXT_SCORE_CHARS: usize = 500;

const SCORE_CREATE: &str = "score-create";
const SDK_LOG: &str = "sdk-log";
const UPDATES: [&str; 3] = ["generation-update", "span-update", "observation-update"];
const EVENT_TYPES: [&str; 17] = [
    "trace-create",
    SCORE_CREATE,
    "event-create",
    "span-create",
    "span-update",
    "generation-create",
    "generation-update",
    "agent-create",
    "tool-create",
    "chain-create",
    "retriever-create",
    "evaluator-create",
    "embedding-create",
    "guardrail-create",
    SDK_LOG,
    "observation-create",
    "observation-update",
];

/// What became of a batch: the answer, and its events with whether each was stored.
pub(super) struct Judged {
    pub(super) reply: Reply,
    pub(super) events: Vec<(Value, bool)>,
}

/// Judges the body of `POST /ingestion`.
pub(super) fn judge_batch(body: &Value, level: Level, events_only: bool) -> Judged {
    let Some(batch) = body.get("batch").and_then(Value::as_array) else {
        let errors =
            json!({"message": "Invalid request data", "errors": ["Invalid input: expected array"]});
        return Judged {
            reply: Reply::json(400, &errors),
            events: Vec::new(),
        };
    };
    let mut successes = Vec::new();
    let mut errors = Vec::new();
    let mut events = Vec::new();
    for event in batch {
        match judge_event(event, level, events_only) {
            Ok(()) => {
                if text(event, "type") != SDK_LOG {
                    successes.push(event);
                }
                // An event about nothing (a body without an id) is answered 201 and dropped.
                events.push((
                    event.clone(),
                    event.pointer("/body/id").is_some_and(Value::is_string),
                ));
            }
            Err(error) => {
                errors.push(error.to_json(event));
                events.push((event.clone(), false));
            }
        }
    }
    successes.sort_by_key(|event| (UPDATES.contains(&text(event, "type")), timestamp(event)));
    let successes: Vec<Value> = successes
        .iter()
        .map(|event| json!({"id": event["id"], "status": 201}))
        .collect();
    Judged {
        reply: Reply::json(207, &json!({"successes": successes, "errors": errors})),
        events,
    }
}

struct EventError {
    status: u16,
    message: &'static str,
    error: String,
}

impl EventError {
    fn invalid(error: impl Into<String>) -> Self {
        Self {
            status: 400,
            message: "Invalid request data",
            error: error.into(),
        }
    }

    fn to_json(&self, event: &Value) -> Value {
        let id = event.get("id").and_then(Value::as_str).unwrap_or("unknown");
        json!({"id": id, "status": self.status, "message": self.message, "error": self.error})
    }
}

fn judge_event(event: &Value, level: Level, events_only: bool) -> Result<(), EventError> {
    let kind = text(event, "type");
    if events_only && ![SCORE_CREATE, SDK_LOG].contains(&kind) {
        return Err(EventError {
            status: 400,
            message: "Event type not accepted",
            error: format!(
                "Event type \"{kind}\" is not accepted by /api/public/ingestion in events_only mode."
            ),
        });
    }
    if !EVENT_TYPES.contains(&kind) {
        return Err(EventError::invalid(format!(
            "type: no known event type is {kind:?}"
        )));
    }
    check_id(event.get("id")).map_err(EventError::invalid)?;
    if timestamp(event).is_none() {
        return Err(EventError::invalid(
            "timestamp: not an ISO 8601 date and time with an offset",
        ));
    }
    let body = event.get("body").unwrap_or(&Value::Null);
    match kind {
        SDK_LOG => {}
        SCORE_CREATE => check_score(body).map_err(EventError::invalid)?,
        _ if !body.is_object() => return Err(EventError::invalid("body: not an object")),
        _ => {}
    }
    if level == Level::Scores && ![SCORE_CREATE, SDK_LOG].contains(&kind) {
        let error = "Access Scope Denied".into();
        return Err(EventError {
            status: 401,
            message: "Authentication error",
            error,
        });
    }
    Ok(())
}

/// Judges the body of `POST /scores`: one score, or a list of them where `lists` are taken.
pub(super) fn judge_scores(body: &Value, lists: bool) -> Judged {
    if let (Value::Array(scores), false) = (body, lists) {
        return Judged {
            reply: Reply::invalid("Invalid input: expected object, received array"),
            events: scores.iter().map(|score| (score.clone(), false)).collect(),
        };
    }
    let scores = body
        .as_array()
        .map_or_else(|| vec![body.clone()], Clone::clone);
    if let Some(issue) = scores.iter().find_map(|score| check_score(score).err()) {
        let events = scores.into_iter().map(|score| (score, false)).collect();
        return Judged {
            reply: Reply::invalid(&issue),
            events,
        };
    }
    let scores: Vec<Value> = scores.into_iter().map(with_id).collect();
    let reply = match &scores[..] {
        [score] if !body.is_array() => Reply::json(200, &json!({"id": score["id"]})),
        _ => Reply::json(202, &json!({"message": "Accepted"})),
    };
    Judged {
        reply,
        events: scores.into_iter().map(|score| (score, true)).collect(),
    }
}

fn with_id(mut score: Value) -> Value {
    if text(&score, "id").is_empty() {
        score["id"] = Uuid::new_v4().to_string().into();
    }
    score
}

fn check_score(score: &Value) -> Result<(), String> {
    if !score.is_object() {
        return Err("body: not an object".into());
    }
    if score
        .get("id")
        .is_some_and(|id| !id.is_null() && id.as_str() != Some(""))
    {
        check_id(score.get("id"))?;
    }
    if text(score, "name").is_empty() {
        return Err("name: too small, expected a string of at least 1 character".into());
    }
    for field in [
        "traceId",
        "sessionId",
        "datasetRunId",
        "observationId",
        "comment",
        "queueId",
    ] {
        if score
            .get(field)
            .is_some_and(|value| !value.is_null() && !value.is_string())
        {
            return Err(format!("{field}: not a string"));
        }
    }
    if !["", "API", "EVAL", "ANNOTATION"].contains(&text(score, "source")) {
        return Err("source: not one of API, EVAL, ANNOTATION".into());
    }
    check_value(score)?;
    check_subject(score)
}

fn check_value(score: &Value) -> Result<(), String> {
    let value = score.get("value").unwrap_or(&Value::Null);
    let fits = match score
        .get("dataType")
        .map(|kind| kind.as_str().unwrap_or("?"))
    {
        None => value.is_string() || value.is_number(),
        Some("NUMERIC") => value.is_number(),
        Some("BOOLEAN") => [Some(0.0), Some(1.0)].contains(&value.as_f64()),
        Some("CATEGORICAL") => value.is_string(),
        Some("CORRECTION") => value.is_string() && score.get("configId").is_none_or(Value::is_null),
        Some("TEXT") => value
            .as_str()
            .is_some_and(|text| (1..=MAX_TEXT_SCORE_CHARS).contains(&text.chars().count())),
        Some(_) => return Err("dataType: no matching discriminator".into()),
    };
    fits.then_some(())
        .ok_or_else(|| "value: does not fit the data type".into())
}

/// A score is about exactly one trace (or an observation in it), session or dataset run.
fn check_subject(score: &Value) -> Result<(), String> {
    let given = |field| !text(score, field).is_empty();
    let subjects = ["traceId", "sessionId", "datasetRunId"]
        .into_iter()
        .filter(|field| given(field))
        .count();
    if subjects == 1 && (given("traceId") || !given("observationId")) {
        return Ok(());
    }
    Err(
        "Provide exactly one of traceId (with optional observationId), sessionId or datasetRunId"
            .into(),
    )
}

fn check_id(id: Option<&Value>) -> Result<(), String> {
    let id = id.and_then(Value::as_str).ok_or("id: not a string")?;
    if (1..=MAX_ID_CHARS).contains(&id.chars().count()) && !id.contains('\r') {
        return Ok(());
    }
    Err(format!(
        "id: not 1 to {MAX_ID_CHARS} characters without carriage return"
    ))
}

fn timestamp(event: &Value) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text(event, "timestamp"), &Rfc3339).ok()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The items of a body that carries events or scores, however well or badly formed.
pub(super) fn items(door: Door, body: &Value) -> &[Value] {
    match (door, body) {
        (Door::Ingestion, body) => body
            .get("batch")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice),
        (Door::Scores, Value::Array(scores)) => scores,
        (Door::Scores, score) => std::slice::from_ref(score),
    }
}

/// One item as it is recorded.
pub(super) fn event(
    door: Door,
    item: Value,
    accepted: bool,
    (request, project): (u64, Option<String>),
    storage_headers: Arc<BTreeMap<String, String>>,
) -> Event {
    let body = match door {
        Door::Ingestion => item.get("body").cloned().unwrap_or(Value::Null),
        Door::Scores => item.clone(),
    };
    let kind = match door {
        Door::Ingestion => text(&item, "type").to_owned(),
        Door::Scores => SCORE_CREATE.to_owned(),
    };
    Event {
        request,
        project,
        accepted,
        lost_in_worker: false,
        door,
        id: text(&item, "id").to_owned(),
        kind,
        body,
        event: item,
        storage_headers,
    }
}
