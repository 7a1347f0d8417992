//! Accepting what is sent to `/api/public/scores`: an array from Python SDK 5, one object from everybody else.
//!
//! Kept as they came they are sent as they came; usually they are kept as events instead ([`super::score_events`]).

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use uuid::Uuid;

use super::answer::{score_success, scores_success};
use super::ingestion::json_body;
use super::json::{Json, Shape};
use super::pass::Leaving;
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
    let score = read_object(&body)?;
    if score.name != Some(Shape::Text) {
        return Err(Refusal::Shape("a score needs a name, which is a string"));
    }
    if !matches!(score.value, Some(Shape::Text | Shape::Number)) {
        return Err(Refusal::Shape(
            "a score needs a value, which is a number or a string",
        ));
    }
    within_limit(&body)?;
    let body = storable(body, score.repaired, limits)?;
    let (id, body) = match &score.id {
        Some(id) if !id.is_empty() => (id.clone(), body),
        _ => {
            limits.charge(body.len())?;
            let (id, body) = score.with_new_id(&body);
            (id, body.into())
        }
    };
    within_limit(&body)?;
    let elements = 0..body.len();
    Ok((
        payload(Kind::Score, body, 1, elements, score.repaired),
        score_success(&id),
    ))
}

/// What of a score decides here.
struct Score {
    /// Where its members begin.
    open: usize,
    empty: bool,
    id: Option<String>,
    /// Where an id stands, be it null.
    id_range: Option<Range<usize>>,
    name: Option<Shape>,
    value: Option<Shape>,
    /// Whether a text in it holds half of a surrogate pair.
    repaired: bool,
}

fn read_object(body: &[u8]) -> Result<Score, Refusal> {
    let mut json = Json::new(body);
    if json.shape()? != Shape::Object {
        return Err(Refusal::Shape("a score must be an object"));
    }
    let mut score = Score {
        open: json.at(),
        empty: true,
        id: None,
        id_range: None,
        name: None,
        value: None,
        repaired: false,
    };
    let mut first = true;
    while let Some(key) = json.next_key(&mut first)? {
        score.empty = false;
        let shape = json.shape()?;
        match json.text(&key).as_deref() {
            Some("id") if shape == Shape::Text => {
                let text = json.string()?;
                score.id = json.text(&text).map(Cow::into_owned);
                score.id_range = Some(text.range.start - 1..text.range.end + 1);
            }
            Some("id") if shape == Shape::Null => {
                (score.id, score.id_range) = (None, Some(json.skip()?));
            }
            Some("id") => return Err(Refusal::Shape("the id of a score must be a string")),
            Some("name") => score.name = json.skip().map(|_| Some(shape))?,
            Some("value") => score.value = json.skip().map(|_| Some(shape))?,
            _ => {
                json.skip()?;
            }
        }
    }
    json.end()?;
    score.repaired = json.has_lone_surrogates();
    Ok(score)
}

/// A score with an id: its own or a new one.
pub(super) fn with_id(score: &[u8]) -> Result<(String, Cow<'_, [u8]>), Refusal> {
    let read = read_object(score)?;
    Ok(match &read.id {
        Some(id) if !id.is_empty() => (id.clone(), Cow::Borrowed(score)),
        _ => {
            let (id, score) = read.with_new_id(score);
            (id, Cow::Owned(score))
        }
    })
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

impl Score {
    /// Puts an id where the object has an empty one, or else in front of all other members.
    fn with_new_id(&self, body: &[u8]) -> (String, Vec<u8>) {
        let id = Uuid::new_v4().to_string();
        let comma = if self.empty { "" } else { "," };
        let (before, inserted, after) = self.id_range.as_ref().map_or_else(
            || {
                (
                    &body[..=self.open],
                    format!("\"id\":\"{id}\"{comma}"),
                    &body[self.open + 1..],
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
        (id, body)
    }
}

fn payload(kind: Kind, body: Bytes, units: u32, elements: Range<usize>, repaired: bool) -> Payload {
    Payload {
        kind,
        encoding: Encoding::Identity,
        inflated_bytes: body.len(),
        body,
        units,
        elements,
        travels_alone: false,
        repaired,
        leaving: Leaving::default(),
    }
}
