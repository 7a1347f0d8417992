//! Scores as the events that Langfuse itself makes of them.
//!
//! Its `/api/public/scores` puts the body into a `score-create` event and hands that to what `/api/public/ingestion` is
//! made of (`web/src/pages/api/public/scores/index.ts` of <https://github.com/langfuse/langfuse>), so the same is
//! stored either way. But the one takes a single score and 30 requests a minute on the smallest plan, the other
//! thousands of events and 1,000 requests; and an array, which Python's SDK sends since version 5, is answered 400 by
//! the first (4.16.0). An event's id and time are given here, once, so that sending it again stores nothing twice.

use std::time::SystemTime;

use aws_smithy_types::date_time::{DateTime, Format};
use bytes::Bytes;
use uuid::Uuid;

use super::json::Json;
use super::pass::Leaving;
use super::scores::{accept_scores, with_id};
use super::{Answer, Encoding, Kind, Limits, Payload, Refusal};

const OPEN: &[u8] = br#"{"batch":["#;
const CLOSE: &[u8] = b"]}";

/// Validates scores and returns the answer to them, as [`accept_scores`] does; what is kept are events.
pub fn accept_scores_as_events(
    content_type: &str,
    content_encoding: &str,
    body: Bytes,
    limits: &Limits<'_>,
) -> Result<(Payload, Answer), Refusal> {
    let (scores, answer) = accept_scores(content_type, content_encoding, body, limits)?;
    Ok((events(&scores, limits)?, answer))
}

fn events(scores: &Payload, limits: &Limits<'_>) -> Result<Payload, Refusal> {
    let timestamp = timestamp(SystemTime::now());
    let mut body = OPEN.to_vec();
    let mut json = Json::new(&scores.body);
    if scores.kind == Kind::Score {
        add(&mut body, &scores.body, &timestamp);
    } else {
        json.shape()?;
        let mut first = true;
        while json.next_element(&mut first)? {
            let before = body.len();
            let score = json.skip()?;
            add(&mut body, json.raw(score), &timestamp);
            limits.charge(body.len() - before)?;
        }
    }
    let elements = OPEN.len()..body.len();
    body.extend_from_slice(CLOSE);
    Ok(Payload {
        kind: Kind::Ingestion,
        encoding: Encoding::Identity,
        inflated_bytes: body.len(),
        units: scores.units,
        body: body.into(),
        elements,
        travels_alone: false,
        repaired: scores.repaired,
        leaving: Leaving::default(),
    })
}

/// Adds the event of one score. One that cannot be a score is Langfuse's to refuse, alone.
fn add(batch: &mut Vec<u8>, score: &[u8], timestamp: &str) {
    if batch.len() > OPEN.len() {
        batch.push(b',');
    }
    let event = Uuid::new_v4();
    let head =
        format!(r#"{{"id":"{event}","type":"score-create","timestamp":"{timestamp}","body":"#);
    batch.extend_from_slice(head.as_bytes());
    match with_id(score) {
        Ok((_, score)) => batch.extend_from_slice(&score),
        Err(_) => batch.extend_from_slice(score),
    }
    batch.push(b'}');
}

/// RFC 3339 in UTC, as JavaScript's `toISOString` writes it.
fn timestamp(now: SystemTime) -> String {
    let now = DateTime::from(now);
    let now = DateTime::from_millis(now.to_millis().unwrap_or_default());
    now.fmt(Format::DateTime).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    fn accepted(scores: &Value) -> (Payload, Answer, Value) {
        let body = Bytes::from(scores.to_string());
        let (payload, answer) =
            accept_scores_as_events("application/json", "", body, &Limits::default()).unwrap();
        let batch = serde_json::from_slice(payload.body()).unwrap();
        (payload, answer, batch)
    }

    #[test]
    fn an_array_becomes_an_event_for_each_score_with_ids_of_their_own() {
        let scores = json!([
            {"id": "s1", "name": "a", "value": 1, "traceId": "t"},
            {"name": "b", "value": "x", "comment": "\u{e9}\"\\"},
            {"id": null, "name": "c", "value": 0.5},
            {"id": "", "name": "d", "value": 0},
        ]);
        let (payload, answer, batch) = accepted(&scores);
        assert_eq!((payload.kind(), payload.units()), (Kind::Ingestion, 4));
        assert_eq!(answer.status, 202);
        let events = batch["batch"].as_array().unwrap();
        let ids: BTreeSet<_> = events.iter().map(|it| it["id"].as_str().unwrap()).collect();
        let bodies: BTreeSet<_> = events
            .iter()
            .map(|it| it["body"]["id"].as_str().unwrap())
            .collect();
        assert_eq!((ids.len(), bodies.len()), (4, 4));
        assert!(bodies.contains("s1") && !bodies.contains(""));
        for (event, sent) in events.iter().zip(scores.as_array().unwrap()) {
            assert_eq!(event["type"], "score-create");
            for (name, value) in sent
                .as_object()
                .unwrap()
                .iter()
                .filter(|(name, _)| *name != "id")
            {
                assert_eq!(event["body"][name], *value);
            }
        }
    }

    #[test]
    fn one_score_is_answered_with_the_id_that_its_event_carries() {
        let (payload, answer, batch) = accepted(&json!({"name": "a", "value": 1}));
        assert_eq!((payload.kind(), payload.units()), (Kind::Ingestion, 1));
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(batch["batch"][0]["body"]["id"], told["id"]);
    }

    #[test]
    fn what_is_kept_is_what_ingestion_accepts_and_merges() {
        let (scores, ..) = accepted(&json!([{"name": "a", "value": 1}, {"name": "b", "value": 2}]));
        let (more, ..) = accepted(&json!({"name": "c", "value": 3}));
        let merged = super::super::merge(vec![scores.clone(), more]);
        let limits = Limits::default();
        let again = super::super::accept_ingestion("application/json", "", merged.body, &limits);
        assert_eq!(again.unwrap().0.units(), 3);
        let restored = Payload::restore(
            Kind::Ingestion,
            Encoding::Identity,
            scores.body().clone(),
            &limits,
        );
        assert_eq!(restored.unwrap(), scores);
    }

    #[test]
    fn what_cannot_be_a_score_is_left_for_langfuse_to_refuse_alone() {
        let (payload, _, batch) = accepted(&json!([7, {"name": "a", "value": 1}, {"id": 8}]));
        assert_eq!(payload.units(), 3);
        assert_eq!(batch["batch"][0]["body"], 7);
        assert_eq!(batch["batch"][2]["body"], json!({"id": 8}));
    }

    #[test]
    fn a_time_is_written_as_langfuse_writes_its_own() {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_764_022_153_007);
        assert_eq!(timestamp(at), "2025-11-24T22:09:13.007Z");
    }
}
