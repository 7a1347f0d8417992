//! Accepting a batch for `/api/public/ingestion`.
//!
//! Langfuse refuses the whole request only if it is no object with a list named `batch`
//! (`web/src/pages/api/public/ingestion.ts`); an event it cannot read is reported alone and harms no other.

use std::ops::Range;

use bytes::Bytes;

use super::encoding::declared;
use super::json::{Json, Shape};
use super::otlp::inflated_json;
use super::{
    EVENTS_LIMIT, Encoding, INGESTION_REQUEST_LIMIT_BYTES, Kind, Limits, Payload, Refusal,
};

/// What Langfuse itself says of an event without a string for an id.
const UNKNOWN_ID: &str = "unknown";
/// The byte order mark, which Langfuse's body parser removes here.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Validates a batch and returns the ids of its events, in their order, for [`super::ingestion_success`].
pub async fn accept_ingestion(
    content_type: &str,
    content_encoding: &str,
    body: Bytes,
    limits: &Limits,
) -> Result<(Payload, Vec<String>), Refusal> {
    let body = json_body(content_type, content_encoding, body, limits).await?;
    let mut json = Json::new(&body);
    let Some(batch) = read_batch(&mut json).await? else {
        return Err(Refusal::Shape(
            "an ingestion request must be an object with an array named batch",
        ));
    };
    json.end().await?;
    let payload = Payload {
        kind: Kind::Ingestion,
        encoding: Encoding::Identity,
        inflated_bytes: body.len(),
        units: u32::try_from(batch.ids.len()).unwrap_or(u32::MAX),
        elements: batch.elements,
        body,
    };
    Ok((payload, batch.ids))
}

/// The JSON text of a request whose body Next.js parses: the content type has to say so exactly.
pub(super) async fn json_body(
    content_type: &str,
    content_encoding: &str,
    body: Bytes,
    limits: &Limits,
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
    let text = inflated_json(declared(content_encoding)?, body, limits).await?;
    Ok(if text.starts_with(BOM) {
        text.slice(BOM.len()..)
    } else {
        text
    })
}

struct Batch {
    ids: Vec<String>,
    elements: Range<usize>,
}

async fn read_batch(json: &mut Json<'_>) -> Result<Option<Batch>, Refusal> {
    if json.shape().await? != Shape::Object {
        json.skip().await?;
        return Ok(None);
    }
    let (mut batch, mut first) = (None, true);
    while let Some(key) = json.next_key(&mut first).await? {
        if json.text(&key).as_deref() != Some("batch") {
            json.skip().await?;
        } else if json.shape().await? == Shape::Array {
            batch = Some(read_events(json).await?);
        } else {
            json.skip().await?;
            batch = None;
        }
    }
    Ok(batch)
}

async fn read_events(json: &mut Json<'_>) -> Result<Batch, Refusal> {
    const ENVELOPE_BYTES: usize = r#"{"batch":[]}"#.len();
    const EVENT_LIMIT_BYTES: usize = INGESTION_REQUEST_LIMIT_BYTES - ENVELOPE_BYTES;
    let elements = json.at() + 1;
    let (mut ids, mut first) = (Vec::new(), true);
    while json.next_element(&mut first).await? {
        if ids.len() >= EVENTS_LIMIT as usize {
            return Err(Refusal::TooMany {
                limit: EVENTS_LIMIT,
            });
        }
        let start = json.at();
        ids.push(read_event_id(json).await?);
        if json.at() - start > EVENT_LIMIT_BYTES {
            return Err(Refusal::TooLarge {
                what: "an event",
                limit_bytes: EVENT_LIMIT_BYTES,
            });
        }
    }
    Ok(Batch {
        ids,
        elements: elements..json.at() - 1,
    })
}

async fn read_event_id(json: &mut Json<'_>) -> Result<String, Refusal> {
    let mut id = None;
    if json.shape().await? != Shape::Object {
        json.skip().await?;
        return Ok(UNKNOWN_ID.to_owned());
    }
    let mut first = true;
    while let Some(key) = json.next_key(&mut first).await? {
        if json.text(&key).as_deref() == Some("id") && json.shape().await? == Shape::Text {
            let text = json.string().await?;
            id = json.text(&text).map(std::borrow::Cow::into_owned);
        } else {
            json.skip().await?;
        }
    }
    Ok(id.unwrap_or_else(|| UNKNOWN_ID.to_owned()))
}
