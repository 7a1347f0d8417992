//! What an answer says. The status is the fact; the body only tells who wrote it and which items were not taken, and is
//! never waited for long. None of its text is kept or logged: it may repeat what the request held.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http_body_util::{BodyExt, Limited};
use langfuse_extension_core::delivery::fact::{Answer, Fact, Whose};
use langfuse_extension_core::route::Door;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::aside::{ONE_TURN_BYTES, aside};

/// The longest answer that is read.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;

/// How long the body of an answer is waited for once its head is there: they usually come together.
const ANSWER_BODY_TIMEOUT: Duration = Duration::from_millis(250);

/// How Langfuse begins its message where an organisation may not ingest any more.
/// <https://github.com/langfuse/langfuse/blob/main/web/src/pages/api/public/otel/v1/traces/index.ts>
const SUSPENDED: &str = "Ingestion suspended";

/// Reads an answer until `aborted`, which its status does not wait for.
pub(super) async fn read(door: Door, response: reqwest::Response, aborted: impl Future) -> Fact {
    let mut answer = head(response.status(), response.headers());
    let is_json = is_json(response.headers());
    let body = Limited::new(reqwest::Body::from(response), ANSWER_LIMIT_BYTES).collect();
    let body = tokio::select! {
        body = tokio::time::timeout(ANSWER_BODY_TIMEOUT, body) => body.ok().and_then(Result::ok),
        _ = aborted => None,
    };
    if let Some(body) = body.map(http_body_util::Collected::to_bytes)
        && is_json
    {
        answer = with_body(answer, door, body).await;
    }
    Fact::Answered(answer)
}

/// The fact in the head of an answer.
pub(crate) fn fact_of(status: StatusCode, headers: &HeaderMap) -> Fact {
    Fact::Answered(head(status, headers))
}

fn head(status: StatusCode, headers: &HeaderMap) -> Answer {
    Answer {
        retry_after: retry_after(headers, SystemTime::now()),
        ..Answer::status(status.as_u16())
    }
}

async fn with_body(answer: Answer, door: Door, body: Bytes) -> Answer {
    if body.len() <= ONE_TURN_BYTES {
        return read_body(answer, door, &body);
    }
    let read = aside(move || read_body(answer, door, &body)).await;
    read.unwrap_or(answer)
}

fn read_body(mut answer: Answer, door: Door, body: &[u8]) -> Answer {
    if (200..300).contains(&answer.status) {
        answer.refused_units = refused_units(door, body);
    } else if body.trim_ascii_start().starts_with(b"{")
        && let Ok(error) = serde_json::from_slice::<LangfuseError>(body)
        && (error.message.is_some() || error.error.is_some())
    {
        answer.whose = Whose::Langfuse;
        answer.suspended = error
            .message
            .is_some_and(|message| message.starts_with(SUSPENDED));
    }
    answer
}

/// The form of all of Langfuse's errors.
#[derive(Deserialize)]
struct LangfuseError<'a> {
    #[serde(borrow, default)]
    message: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

/// Ingestion's 207 names the events that were not taken, OTLP's `partialSuccess` their number.
fn refused_units(door: Door, body: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Ingestion {
        errors: Vec<IgnoredAny>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Otlp {
        partial_success: PartialSuccess,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct PartialSuccess {
        rejected_spans: Count,
    }
    /// A 64-bit integer of protobuf as JSON: a string, or a number.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Count {
        Number(u64),
        Text(String),
    }
    match door {
        Door::Ingestion | Door::Scores => {
            serde_json::from_slice::<Ingestion>(body).map_or(0, |answer| answer.errors.len() as u64)
        }
        Door::TracesProtobuf | Door::TracesJson => match serde_json::from_slice::<Otlp>(body) {
            Ok(answer) => match answer.partial_success.rejected_spans {
                Count::Number(spans) => spans,
                Count::Text(spans) => spans.parse().unwrap_or(0),
            },
            Err(_) => 0,
        },
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    content_type.is_some_and(|it| it.trim_start().starts_with("application/json"))
}

/// Langfuse sends whole seconds (<https://langfuse.com/faq/all/api-limits>); what stands before it may send a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, door: Door, body: &str) -> Answer {
        read_body(Answer::status(status), door, body.as_bytes())
    }

    #[test]
    fn retry_after_is_understood_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, wait) in [
            ("30", Some(Duration::from_secs(30))),
            (
                "Sun, 06 Nov 1994 08:50:07 GMT",
                Some(Duration::from_secs(30)),
            ),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(Duration::ZERO)),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), wait, "{value}");
        }
    }

    #[test]
    fn langfuses_own_errors_are_told_from_others() {
        let door = Door::TracesJson;
        for (body, whose) in [
            (r#"{"message":"Access denied"}"#, Whose::Langfuse),
            (r#"{"error":"Invalid content type"}"#, Whose::Langfuse),
            ("{}", Whose::Unknown),
            ("<html>", Whose::Unknown),
            (r#"["message"]"#, Whose::Unknown),
        ] {
            assert_eq!(read(403, door, body).whose, whose, "{body}");
        }
        let suspended = r#"{"message":"Ingestion suspended: Usage threshold exceeded. Please upgrade your plan.","error":"ForbiddenError"}"#;
        assert!(read(403, door, suspended).suspended);
    }

    #[test]
    fn refused_items_are_counted() {
        let errors = r#"{"successes":[{"id":"a","status":201}],"errors":[{"id":"b"},{"id":"c"}]}"#;
        assert_eq!(read(207, Door::Ingestion, errors).refused_units, 2);
        for body in [
            r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#,
            r#"{"partialSuccess":{"rejectedSpans":3}}"#,
        ] {
            assert_eq!(read(200, Door::TracesProtobuf, body).refused_units, 3);
        }
        assert_eq!(
            read(200, Door::TracesJson, r#"{"id":"9"}"#).refused_units,
            0
        );
    }
}
