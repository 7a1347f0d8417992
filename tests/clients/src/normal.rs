//! What two runs of the same app have in common: everything but ids and times.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use lambda_emulator::fake_langfuse::{Event, FakeLangfuse, Observation};
use regex::Regex;
use serde_json::{Value, json};

/// A key that stands for the extension's own; elsewhere the default project's key is written.
pub const PLACEHOLDER_PUBLIC_KEY: &str = "pk-lf-extension";

/// Goes with keys that the extension puts in; the project, which is compared, says the same.
const KEY_HEADER: &str = "x-langfuse-public-key";

/// Ids in hex, UUIDs, and ISO 8601 times, wherever they stand in a text.
static IDS_AND_TIMES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
        r"|\b[0-9a-f]{32}\b|\b[0-9a-f]{16}\b",
        r"|\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?",
        r"|127\.0\.0\.1:\d+",
    ))
    .expect("a pattern")
});

/// Attributes that hold how long something took, a random id or a port: they differ from run to run without any extension.
const MEASURED_ATTRIBUTES: &[&str] = &[
    "process.pid",
    "server.port",
    "gen_ai.response.id",
    "llm.response.id",
    "ai.response.msToFinish",
    "ai.response.avgOutputTokensPerSecond",
    "ai.response.avgCompletionTokensPerSecond",
    "ai.response.msToFirstChunk",
];

/// What a Langfuse has stored, comparable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Each span with its scope, resource, parent's name and the headers that choose how Langfuse stores it; sorted.
    pub spans: Vec<String>,
    /// Each score; sorted.
    pub scores: Vec<String>,
    /// Files uploaded and reported; sorted.
    pub media: Vec<String>,
}

impl Stored {
    /// Everything accepted so far.
    pub fn read(langfuse: &FakeLangfuse) -> Self {
        let media = langfuse.media().into_iter();
        let media = media.map(|one| {
            json!([
                one.content_type,
                one.sha256,
                one.uploaded_bytes,
                one.reported_status
            ])
            .to_string()
        });
        Self {
            spans: normal_spans(&langfuse.observations()),
            scores: sorted(langfuse.scores().iter().map(|score| normal_score(score))),
            media: sorted(media),
        }
    }

    /// What the other has that this one has not, and the other way round; empty if both are the same.
    pub fn differences(&self, direct: &Self) -> Vec<String> {
        let kinds = [
            (&self.spans, &direct.spans),
            (&self.scores, &direct.scores),
            (&self.media, &direct.media),
        ];
        let mut differences = Vec::new();
        for (here, there) in kinds {
            let mut missing = there.clone();
            for one in here {
                match missing.iter().position(|other| other == one) {
                    Some(at) => drop(missing.remove(at)),
                    None => differences.push(format!("only through the extension: {one}")),
                }
            }
            differences.extend(
                missing
                    .iter()
                    .map(|one| format!("only straight to Langfuse: {one}")),
            );
        }
        differences
    }
}

fn normal_spans(observations: &[Arc<Observation>]) -> Vec<String> {
    let names: HashMap<_, _> = observations
        .iter()
        .map(|one| (one.span_id.as_str(), one.name.as_str()))
        .collect();
    sorted(observations.iter().map(|one| {
        let mut span = one.span.clone();
        for key in ["traceId", "spanId", "startTimeUnixNano", "endTimeUnixNano"] {
            span[key] = Value::Null;
        }
        if let Some(parent) = &one.parent_span_id {
            span["parentSpanId"] = json!(names.get(parent.as_str()));
        }
        let headers: Vec<_> = one
            .storage_headers
            .iter()
            .filter(|(name, _)| name.starts_with("x-") || name.starts_with("x_"))
            .filter(|(name, _)| *name != KEY_HEADER)
            .collect();
        let whole = json!([span, *one.scope, *one.resource, headers, one.project]);
        normal(whole).to_string()
    }))
}

/// Through either door the same score is stored; the event around it is the client's, ours, or Langfuse's.
fn normal_score(score: &Event) -> String {
    let mut body = score.body.clone();
    for key in ["id", "timestamp"] {
        body[key] = Value::Null;
    }
    normal(json!([body, score.project])).to_string()
}

/// Sorts attributes by key, and takes ids and times away.
fn normal(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(
            IDS_AND_TIMES
                .replace_all(&text.replace(PLACEHOLDER_PUBLIC_KEY, "pk-lf-test"), "*")
                .into_owned(),
        ),
        Value::Array(items) => {
            let mut items: Vec<_> = items.into_iter().map(normal).collect();
            if items.iter().all(|item| item.get("key").is_some()) {
                items.sort_by_key(|item| item["key"].to_string());
            }
            Value::Array(items)
        }
        Value::Object(mut fields) => {
            let key = fields.get("key").and_then(Value::as_str);
            if key.is_some_and(|key| MEASURED_ATTRIBUTES.contains(&key)) {
                fields.insert("value".into(), Value::Null);
            }
            fields.remove("timeUnixNano");
            Value::Object(
                fields
                    .into_iter()
                    .map(|(key, value)| (key, normal(value)))
                    .collect(),
            )
        }
        other => other,
    }
}

fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<_> = texts.collect();
    texts.sort();
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_times_and_placeholder_keys_do_not_tell_runs_apart_but_values_do() {
        let text = |text: &str| normal(json!({ "key": "k", "value": { "stringValue": text } }));
        assert_eq!(
            text("pk-lf-extension 2026-11-23T23:00:00.123Z 0123456789abcdef"),
            text("pk-lf-test 2025-01-02 03:04:05+00:00 fedcba9876543210")
        );
        assert_ne!(text("1"), text("2"));
        assert_ne!(normal(json!(1)), normal(json!("1")));
    }

    #[test]
    fn what_is_missing_changed_or_doubled_is_a_difference() {
        let stored = |spans: &[&str]| Stored {
            spans: spans.iter().map(|&span| span.to_owned()).collect(),
            ..Stored::default()
        };
        let direct = stored(&["a", "b"]);
        assert!(stored(&["b", "a"]).differences(&direct).is_empty());
        assert_eq!(stored(&["a"]).differences(&direct).len(), 1);
        assert_eq!(stored(&["a", "c"]).differences(&direct).len(), 2);
        assert_eq!(stored(&["a", "b", "b"]).differences(&direct).len(), 1);
    }
}
