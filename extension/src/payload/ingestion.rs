//! Accepting a batch for `/api/public/ingestion`.
//!
//! Langfuse refuses the whole request only if it is no object with a list named `batch`
//! (`web/src/pages/api/public/ingestion.ts`); an event it cannot read is reported alone and harms no other.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use super::answer::{Answer, IngestionSuccess};
use super::encoding::declared;
use super::json::{Json, Shape};
use super::otlp::inflated_json;
use super::pass::Leaving;
use super::poison::storable;
use super::{
    EVENTS_LIMIT, Encoding, INGESTION_REQUEST_LIMIT_BYTES, Kind, Limits, Payload, Refusal,
};

/// What Langfuse itself says of an event without a string for an id.
const UNKNOWN_ID: &str = "unknown";
/// The byte order mark, which Langfuse's body parser removes here.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Validates a batch and returns the answer to it, which names every event.
pub fn accept_ingestion(
    content_type: &str,
    content_encoding: &str,
    body: Bytes,
    limits: &Limits<'_>,
) -> Result<(Payload, Answer), Refusal> {
    let body = json_body(content_type, content_encoding, body, limits)?;
    let mut json = Json::new(&body);
    let Some(batch) = read_batch(&mut json, limits)? else {
        return Err(Refusal::Shape(
            "an ingestion request must be an object with an array named batch",
        ));
    };
    json.end()?;
    let repaired = json.has_lone_surrogates();
    let body = storable(body, repaired, limits)?;
    let payload = Payload {
        kind: Kind::Ingestion,
        encoding: Encoding::Identity,
        inflated_bytes: body.len(),
        units: batch.events,
        elements: batch.elements,
        body,
        travels_alone: false,
        repaired,
        leaving: Leaving::default(),
    };
    Ok((payload, batch.answer.finish()))
}

/// The JSON text of a request whose body Next.js parses: the content type has to say so exactly.
pub(super) fn json_body(
    content_type: &str,
    content_encoding: &str,
    body: Bytes,
    limits: &Limits<'_>,
) -> Result<Bytes, Refusal> {
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if !matches!(
        media_type.as_str(),
        "application/json" | "application/ld+json"
    ) {
        return Err(Refusal::UnsupportedMediaType(
            content_type.to_owned(),
            "this endpoint takes application/json",
        ));
    }
    let text = inflated_json(declared(content_encoding)?, body, limits)?;
    Ok(if text.starts_with(BOM) {
        text.slice(BOM.len()..)
    } else {
        text
    })
}

struct Batch {
    events: u32,
    answer: IngestionSuccess,
    elements: Range<usize>,
}

fn read_batch(json: &mut Json<'_>, limits: &Limits<'_>) -> Result<Option<Batch>, Refusal> {
    if json.shape()? != Shape::Object {
        json.skip()?;
        return Ok(None);
    }
    let (mut batch, mut first) = (None, true);
    while let Some(key) = json.next_key(&mut first)? {
        if json.text(&key).as_deref() != Some("batch") {
            json.skip()?;
        } else if json.shape()? == Shape::Array {
            batch = Some(read_events(json, limits)?);
        } else {
            json.skip()?;
            batch = None;
        }
    }
    Ok(batch)
}

fn read_events(json: &mut Json<'_>, limits: &Limits<'_>) -> Result<Batch, Refusal> {
    const ENVELOPE_BYTES: usize = r#"{"batch":[]}"#.len();
    const EVENT_LIMIT_BYTES: usize = INGESTION_REQUEST_LIMIT_BYTES - ENVELOPE_BYTES;
    let elements = json.at() + 1;
    let (mut events, mut answer, mut first) = (0, IngestionSuccess::new(), true);
    while json.next_element(&mut first)? {
        if events >= EVENTS_LIMIT {
            return Err(Refusal::TooMany {
                limit: EVENTS_LIMIT,
            });
        }
        let start = json.at();
        limits.charge(answer.add(&read_event_id(json)?))?;
        events += 1;
        if json.at() - start > EVENT_LIMIT_BYTES {
            return Err(Refusal::TooLarge {
                what: "an event",
                limit_bytes: EVENT_LIMIT_BYTES,
            });
        }
    }
    Ok(Batch {
        events,
        answer,
        elements: elements..json.at() - 1,
    })
}

fn read_event_id<'a>(json: &mut Json<'a>) -> Result<Cow<'a, str>, Refusal> {
    let mut id = None;
    if json.shape()? != Shape::Object {
        json.skip()?;
        return Ok(UNKNOWN_ID.into());
    }
    let mut first = true;
    while let Some(key) = json.next_key(&mut first)? {
        if json.text(&key).as_deref() == Some("id") && json.shape()? == Shape::Text {
            let text = json.string()?;
            id = json.text(&text);
        } else {
            json.skip()?;
        }
    }
    Ok(id.unwrap_or(UNKNOWN_ID.into()))
}
