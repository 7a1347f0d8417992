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
use crate::payload::proto::{self, Value};

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
    let form = Form::of(response.headers());
    let body = Limited::new(reqwest::Body::from(response), ANSWER_LIMIT_BYTES).collect();
    let body = tokio::select! {
        body = tokio::time::timeout(ANSWER_BODY_TIMEOUT, body) => body.ok().and_then(Result::ok),
        _ = aborted => None,
    };
    if let Some(body) = body.map(http_body_util::Collected::to_bytes)
        && let Some(form) = form
    {
        answer = with_body(answer, door, form, body).await;
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

async fn with_body(answer: Answer, door: Door, form: Form, body: Bytes) -> Answer {
    if body.len() <= ONE_TURN_BYTES {
        return read_body(answer, door, form, &body);
    }
    let read = aside(move || read_body(answer, door, form, &body)).await;
    read.unwrap_or(answer)
}

fn read_body(mut answer: Answer, door: Door, form: Form, body: &[u8]) -> Answer {
    if (200..300).contains(&answer.status) {
        answer.refused_units = match form {
            Form::Json => refused_units(door, body),
            Form::Protobuf => rejected_spans(body).unwrap_or(0),
        };
    } else if form == Form::Json
        && let Some(error) = object::<LangfuseError>(body)
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
            object::<Ingestion>(body).map_or(0, |answer| answer.errors.len() as u64)
        }
        Door::TracesProtobuf | Door::TracesJson => match object::<Otlp>(body) {
            Some(answer) => match answer.partial_success.rejected_spans {
                Count::Number(spans) => spans,
                Count::Text(spans) => spans.parse().unwrap_or(0),
            },
            None => 0,
        },
    }
}

/// What a JSON object says. A list is nothing, though serde would take one for a struct.
fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    serde_json::from_slice(body).ok()
}

/// `partial_success.rejected_spans` of an `ExportTraceServiceResponse`: field 1 in field 1.
/// <https://github.com/open-telemetry/opentelemetry-proto/blob/v1.5.0/opentelemetry/proto/collector/trace/v1/trace_service.proto>
fn rejected_spans(response: &[u8]) -> Option<u64> {
    const PARTIAL_SUCCESS: u64 = 1;
    const REJECTED_SPANS: u64 = 1;
    let partial_success = proto::fields(response).find_map(|(number, value)| match value {
        Value::Delimited(message) if number == PARTIAL_SUCCESS => Some(message),
        _ => None,
    })?;
    proto::fields(partial_success).find_map(|(number, value)| match value {
        Value::Varint(spans) if number == REJECTED_SPANS => Some(spans),
        _ => None,
    })
}

/// How the body of an answer is written, where it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Protobuf,
}

impl Form {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(CONTENT_TYPE)?.to_str().ok()?.trim_start();
        if content_type.starts_with("application/json") {
            return Some(Self::Json);
        }
        content_type
            .starts_with("application/x-protobuf")
            .then_some(Self::Protobuf)
    }
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
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };
    use prost::Message;

    use super::*;

    fn read(status: u16, door: Door, body: &str) -> Answer {
        read_body(Answer::status(status), door, Form::Json, body.as_bytes())
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
        for other in [r#"{"id":"9"}"#, "{}", "[[3]]", ""] {
            assert_eq!(read(200, Door::TracesJson, other).refused_units, 0);
        }
    }

    #[test]
    fn refused_spans_are_counted_in_protobuf_too() {
        let told = |rejected_spans, error_message: &str| {
            let partial_success = Some(ExportTracePartialSuccess {
                rejected_spans,
                error_message: error_message.into(),
            });
            ExportTraceServiceResponse { partial_success }.encode_to_vec()
        };
        let read = |body: &[u8]| {
            let answer = Answer::status(200);
            read_body(answer, Door::TracesProtobuf, Form::Protobuf, body).refused_units
        };
        assert_eq!(read(&told(3, "too old")), 3);
        assert_eq!(read(&told(300, "")), 300);
        // Only a warning, nothing at all, an answer cut off, and none of protobuf's.
        assert_eq!(read(&told(0, "a warning")), 0);
        assert_eq!(read(b""), 0);
        assert_eq!(read(&told(3, "too old")[..2]), 0);
        assert_eq!(read(b"<html>"), 0);
    }

    #[test]
    fn an_answer_is_read_in_the_form_that_it_names() {
        for (content_type, form) in [
            ("application/json; charset=utf-8", Some(Form::Json)),
            ("application/x-protobuf", Some(Form::Protobuf)),
            ("text/html", None),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())]);
            assert_eq!(Form::of(&headers), form, "{content_type}");
        }
        assert_eq!(Form::of(&HeaderMap::new()), None);
    }
}
