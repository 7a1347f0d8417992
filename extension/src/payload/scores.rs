//! Accepting what is sent to `/api/public/scores`: an array from Python SDK 5, one object from everybody else.
//!
//! Langfuse at 62751446 knows only the object, so an array is forwarded as it came, never taken apart.

use bytes::Bytes;
use uuid::Uuid;

use super::answer::{score_success, scores_success};
use super::ingestion::json_body;
use super::json::{Json, Shape};
use super::poison::storable;
use super::{
    Answer, EVENTS_LIMIT, Encoding, Kind, Limits, Payload, Refusal, SCORES_REQUEST_LIMIT_BYTES,
};

/// Validates scores and returns the answer to them. One object without an id is given one, so that the id in the
/// answer is the one that Langfuse will store, however often the score is sent.
pub fn accept_scores(
    content_type: &str,
    content_encoding: &str,
    body: Bytes,
    limits: &Limits<'_>,
) -> Result<(Payload, Answer), Refusal> {
    let body = json_body(content_type, content_encoding, body, limits)?;
    let shape = Json::new(&body).shape()?;
    let (payload, answer) = match shape {
        Shape::Array => (accept_array(body, limits)?, scores_success()),
        Shape::Object => accept_object(body, limits)?,
        _ => {
            return Err(Refusal::Shape(
                "a score must be an object, or several of them an array",
            ));
        }
    };
    Ok((payload, answer))
}

fn accept_array(body: Bytes, limits: &Limits<'_>) -> Result<Payload, Refusal> {
    const SCORE_LIMIT_BYTES: usize = SCORES_REQUEST_LIMIT_BYTES - "[]".len();
    let mut json = Json::new(&body);
    json.shape()?;
    let (start, mut units, mut first) = (json.at() + 1, 0, true);
    while json.next_element(&mut first)? {
        if units >= EVENTS_LIMIT {
            return Err(Refusal::TooMany {
                limit: EVENTS_LIMIT,
            });
        }
        if json.skip()?.len() > SCORE_LIMIT_BYTES {
            return Err(Refusal::TooLarge {
                what: "a score",
                limit_bytes: SCORE_LIMIT_BYTES,
            });
        }
        units += 1;
    }
    let elements = start..json.at() - 1;
    json.end()?;
    let repaired = json.has_lone_surrogates();
    let body = storable(body, repaired, limits)?;
    Ok(payload(Kind::Scores, body, units, elements, repaired))
}

fn accept_object(body: Bytes, limits: &Limits<'_>) -> Result<(Payload, Answer), Refusal> {
    let mut json = Json::new(&body);
    let open = { json.shape().map(|_| json.at())? };
    let (mut id, mut id_range, mut name, mut value) = (None, None, None, None);
    let (mut first, mut empty) = (true, true);
    while let Some(key) = json.next_key(&mut first)? {
        empty = false;
        let shape = json.shape()?;
        match json.text(&key).as_deref() {
            Some("id") if shape == Shape::Text => {
                let text = json.string()?;
                id = json.text(&text).map(std::borrow::Cow::into_owned);
                id_range = Some(text.range.start - 1..text.range.end + 1);
            }
            Some("id") if shape == Shape::Null => (id, id_range) = (None, Some(json.skip()?)),
            Some("id") => return Err(Refusal::Shape("the id of a score must be a string")),
            Some("name") => name = json.skip().map(|_| Some(shape))?,
            Some("value") => value = json.skip().map(|_| Some(shape))?,
            _ => {
                json.skip()?;
            }
        }
    }
    json.end()?;
    if name != Some(Shape::Text) {
        return Err(Refusal::Shape("a score needs a name, which is a string"));
    }
    if !matches!(value, Some(Shape::Text | Shape::Number)) {
        return Err(Refusal::Shape(
            "a score needs a value, which is a number or a string",
        ));
    }
    within_limit(&body)?;
    let repaired = json.has_lone_surrogates();
    let body = storable(body, repaired, limits)?;
    let (id, body) = match id {
        Some(id) if !id.is_empty() => (id, body),
        _ => {
            limits.charge(body.len())?;
            with_new_id(&body, open, id_range, empty)
        }
    };
    within_limit(&body)?;
    let elements = 0..body.len();
    Ok((
        payload(Kind::Score, body, 1, elements, repaired),
        score_success(&id),
    ))
}

fn within_limit(score: &Bytes) -> Result<(), Refusal> {
    if score.len() > SCORES_REQUEST_LIMIT_BYTES {
        return Err(Refusal::TooLarge {
            what: "a score",
            limit_bytes: SCORES_REQUEST_LIMIT_BYTES,
        });
    }
    Ok(())
}

/// Puts an id where the object has an empty one, or else in front of all other members.
fn with_new_id(
    body: &Bytes,
    open: usize,
    id_range: Option<std::ops::Range<usize>>,
    empty: bool,
) -> (String, Bytes) {
    let id = Uuid::new_v4().to_string();
    let comma = if empty { "" } else { "," };
    let (before, inserted, after) = id_range.map_or_else(
        || {
            (
                &body[..=open],
                format!("\"id\":\"{id}\"{comma}"),
                &body[open + 1..],
            )
        },
        |range| {
            (
                &body[..range.start],
                format!("\"{id}\""),
                &body[range.end..],
            )
        },
    );
    let body = [before, inserted.as_bytes(), after].concat();
    (id, body.into())
}

fn payload(
    kind: Kind,
    body: Bytes,
    units: u32,
    elements: std::ops::Range<usize>,
    repaired: bool,
) -> Payload {
    Payload {
        kind,
        encoding: Encoding::Identity,
        inflated_bytes: body.len(),
        body,
        units,
        elements,
        travels_alone: false,
        repaired,
    }
}
