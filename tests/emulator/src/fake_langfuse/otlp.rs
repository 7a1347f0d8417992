//! The OTLP door's reading of a request: encoding, content type, whole-request rules, and the spans in it.
//!
//! The order of the checks and the wording of the answers follow Langfuse 4.16.0,
//! <https://github.com/langfuse/langfuse/blob/62751446149b702b419a9292ddfc2280cdf74b8c/web/src/pages/api/public/otel/v1/traces/index.ts>

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use flate2::bufread::GzDecoder;
use serde_json::{Value, json};

use super::otlp_protobuf;
use super::recording::Observation;
use super::reply::Reply;
use super::request::Incoming;
use super::surrogate;

/// Bytes a request may inflate to. Langfuse itself has no limit; this is the fake's own protection.
pub const MAX_INFLATED_BYTES: usize = 80 << 20;
/// Names of instrumentation scopes and reasons that a refusal lists.
const MAX_NAMED: usize = 5;
/// The newest `x-langfuse-ingestion-version` there is.
const NEWEST_INGESTION_VERSION: i64 = 4;

/// The request's `resourceSpans` as OTLP/JSON ([`Value::Null`] if absent), or the answer to a body that cannot be read.
pub(super) fn decode(incoming: &Incoming) -> Result<Value, Reply> {
    let inflated;
    let body = if incoming
        .header("content-encoding")
        .is_some_and(|one| one.contains("gzip"))
    {
        inflated =
            gunzip(&incoming.body).ok_or_else(|| refuse("Failed to decompress request body"))?;
        &inflated[..]
    } else {
        &incoming.body[..]
    };
    let content_type = incoming
        .header("content-type")
        .unwrap_or_default()
        .to_lowercase();
    let request = if content_type.contains("application/json") {
        let mended = surrogate::mended(body);
        let text = String::from_utf8_lossy(&mended);
        let parsed = serde_json::from_str(&text)
            .ok()
            .filter(|value: &Value| !value.is_null());
        parsed.ok_or_else(|| refuse("Failed to parse OTel JSON Trace"))?
    } else if content_type.contains("application/x-protobuf") {
        otlp_protobuf::decode_request(body)
            .map_err(|_| refuse("Failed to parse OTel Protobuf Trace"))?
    } else {
        return Err(refuse("Invalid content type"));
    };
    Ok(request.get("resourceSpans").cloned().unwrap_or(Value::Null))
}

/// The body without its compression, or as it is where that cannot be undone.
pub(super) fn plain(incoming: &Incoming) -> Cow<'_, [u8]> {
    let inflated = incoming
        .header("content-encoding")
        .filter(|one| one.contains("gzip"))
        .and_then(|_| gunzip(&incoming.body));
    inflated.map_or(Cow::Borrowed(&incoming.body[..]), Cow::Owned)
}

/// Every member of a gzip body, one after the other; what follows the last one is ignored, as Node's zlib does.
fn gunzip(body: &[u8]) -> Option<Vec<u8>> {
    const MAGIC: [u8; 2] = [0x1f, 0x8b];
    let mut inflated = Vec::new();
    let mut rest = body;
    loop {
        let mut member = GzDecoder::new(rest);
        let room = MAX_INFLATED_BYTES.saturating_sub(inflated.len()) as u64;
        let read_bytes = (&mut member)
            .take(room + 1)
            .read_to_end(&mut inflated)
            .ok()? as u64;
        if read_bytes > room {
            return None;
        }
        rest = member.into_inner();
        if !rest.starts_with(&MAGIC) {
            return Some(inflated);
        }
    }
}

/// Whether there is anything to store: an absent or empty list answers 200 and stores nothing.
pub(super) fn is_empty(resource_spans: &Value) -> bool {
    match resource_spans {
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Object(_) => false,
    }
}

/// The rules by which one bad span, or one bad list above the spans, has the whole request refused with 400.
pub(super) fn validate(resource_spans: &Value) -> Result<(), Reply> {
    let mut findings = Findings::default();
    for resource_span in list(Some(resource_spans)) {
        findings.check_collection(
            attributes_below(resource_span, "resource"),
            "resource.attributes",
            None,
        );
        findings.check_collection(resource_span.get("scopeSpans"), "scopeSpans", None);
        for scope_span in list(resource_span.get("scopeSpans")) {
            let scope_name = scope_span.pointer("/scope/name");
            findings.check_collection(
                attributes_below(scope_span, "scope"),
                "scope.attributes",
                scope_name,
            );
            findings.check_collection(scope_span.get("spans"), "spans", scope_name);
            for span in list(scope_span.get("spans")) {
                findings.check_span(span, scope_name);
            }
        }
    }
    findings.verdict()
}

/// Langfuse knows the versions up to 4, reads numbers as JavaScript's `parseInt` does, and takes either spelling of the
/// header.
pub(super) fn validate_ingestion_version(incoming: &Incoming) -> Result<(), Reply> {
    let hyphens = incoming.header("x-langfuse-ingestion-version");
    let Some(version) = hyphens.or_else(|| incoming.header("x_langfuse_ingestion_version")) else {
        return Ok(());
    };
    if version.is_empty()
        || leading_integer(version).is_some_and(|number| number <= NEWEST_INGESTION_VERSION)
    {
        return Ok(());
    }
    Err(refuse(&format!(
        "Unsupported x-langfuse-ingestion-version: \"{version}\". Maximum supported: \"{NEWEST_INGESTION_VERSION}\"."
    )))
}

fn leading_integer(text: &str) -> Option<i64> {
    let text = text.trim_start();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digit_count = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let number = match &unsigned[..digit_count] {
        "" => return None,
        digits => digits.parse().unwrap_or(i64::MAX),
    };
    Some(if text.starts_with('-') {
        -number
    } else {
        number
    })
}

pub(super) fn span_count(resource_spans: &Value) -> usize {
    list(Some(resource_spans))
        .iter()
        .flat_map(|resource_span| list(resource_span.get("scopeSpans")))
        .map(|scope_span| list(scope_span.get("spans")).len())
        .sum()
}

/// Every span with what stands above it.
pub(super) fn observations(resource_spans: &Value, template: &Observation) -> Vec<Observation> {
    let mut observations = Vec::new();
    for resource_span in list(Some(resource_spans)) {
        let resource = Arc::new(without(resource_span, "resource", "scopeSpans"));
        for scope_span in list(resource_span.get("scopeSpans")) {
            let scope = Arc::new(without(scope_span, "scope", "spans"));
            for span in list(scope_span.get("spans")) {
                observations.push(Observation {
                    trace_id: id_text(span.get("traceId")).unwrap_or_default(),
                    span_id: id_text(span.get("spanId")).unwrap_or_default(),
                    parent_span_id: id_text(span.get("parentSpanId")).filter(|id| !id.is_empty()),
                    name: span
                        .get("name")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .to_owned(),
                    span: span.clone(),
                    resource: Arc::clone(&resource),
                    scope: Arc::clone(&scope),
                    ..template.clone()
                });
            }
        }
    }
    observations
}

/// An observation that only knows its request.
pub(super) fn template(
    request: u64,
    project: Option<String>,
    accepted: bool,
    storage_headers: Arc<BTreeMap<String, String>>,
) -> Observation {
    Observation {
        request,
        project,
        accepted,
        lost_in_worker: false,
        trace_id: String::new(),
        span_id: String::new(),
        parent_span_id: None,
        name: String::new(),
        span: Value::Null,
        resource: Arc::default(),
        scope: Arc::default(),
        storage_headers,
    }
}

/// The inner object with the outer one's other fields (a schema URL, unknown fields) beside its own.
fn without(outer: &Value, inner: &str, children: &str) -> Value {
    let mut merged = outer
        .get(inner)
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for (key, value) in outer.as_object().into_iter().flatten() {
        if key != inner && key != children {
            merged.insert(format!("outer.{key}"), value.clone());
        }
    }
    Value::Object(merged)
}

#[derive(Default)]
struct Findings {
    span_count: usize,
    bad_span_count: usize,
    bad_collection_count: usize,
    reasons: Vec<String>,
    scope_names: Vec<String>,
}

impl Findings {
    fn check_collection(
        &mut self,
        collection: Option<&Value>,
        name: &str,
        scope_name: Option<&Value>,
    ) {
        if is_malformed_list(collection) {
            self.bad_collection_count += 1;
            self.add(format!("{name}:not_an_array"), scope_name);
        }
    }

    fn check_span(&mut self, span: &Value, scope_name: Option<&Value>) {
        self.span_count += 1;
        let reasons = span_reasons(span);
        self.bad_span_count += usize::from(!reasons.is_empty());
        for reason in reasons {
            self.add(reason, scope_name);
        }
    }

    fn add(&mut self, reason: String, scope_name: Option<&Value>) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
        let name = scope_name.and_then(Value::as_str).unwrap_or_default();
        if !name.is_empty()
            && self.scope_names.len() < MAX_NAMED
            && !self.scope_names.iter().any(|one| one == name)
        {
            self.scope_names.push(name.to_owned());
        }
    }

    fn verdict(self) -> Result<(), Reply> {
        if self.reasons.is_empty() {
            return Ok(());
        }
        Err(refuse(&format!(
            "Invalid OTLP trace export: {} of {} span(s) and {} collection(s) cannot be processed ({}). The entire export \
             was rejected and no spans were ingested. Instrumentation scopes: {}.",
            self.bad_span_count,
            self.span_count,
            self.bad_collection_count,
            self.reasons.join(", "),
            self.scope_names.join(", ")
        )))
    }
}

fn span_reasons(span: &Value) -> Vec<String> {
    let mut reasons = Vec::new();
    for field in ["traceId", "spanId"] {
        reasons.extend(id_problem(span.get(field)).map(|problem| format!("{field}:{problem}")));
    }
    if let Some(parent) = span.get("parentSpanId").filter(|id| is_truthy(id)) {
        reasons.extend(id_problem(Some(parent)).map(|problem| format!("parentSpanId:{problem}")));
    }
    if is_malformed_list(span.get("attributes")) {
        reasons.push("attributes:not_an_array".into());
    }
    if is_malformed_list(span.get("events")) {
        reasons.push("events:not_an_array".into());
    } else if list(span.get("events"))
        .iter()
        .any(|event| is_malformed_list(event.get("attributes")))
    {
        reasons.push("event.attributes:not_an_array".into());
    }
    reasons
}

/// An id is a string, a list of bytes, or a `Buffer` as Node writes it to JSON; its length does not matter.
fn id_problem(id: Option<&Value>) -> Option<&'static str> {
    match id {
        None | Some(Value::Null) => Some("absent"),
        Some(Value::String(_) | Value::Array(_)) => None,
        Some(other) if buffer_bytes(other).is_some() => None,
        Some(_) => Some("not_an_id"),
    }
}

fn id_text(id: Option<&Value>) -> Option<String> {
    let bytes = |list: &[Value]| -> Vec<u8> {
        list.iter()
            .map(|byte| byte.as_u64().unwrap_or(0).to_le_bytes()[0])
            .collect()
    };
    match id? {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => Some(otlp_protobuf::to_hex(&bytes(list))),
        other => buffer_bytes(other).map(|list| otlp_protobuf::to_hex(&bytes(list))),
    }
}

fn buffer_bytes(value: &Value) -> Option<&Vec<Value>> {
    let tagged = value.get("type").and_then(Value::as_str) == Some("Buffer");
    value
        .get("data")
        .and_then(Value::as_array)
        .filter(|_| tagged)
}

fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
}

fn is_malformed_list(value: Option<&Value>) -> bool {
    !matches!(value, None | Some(Value::Null | Value::Array(_)))
}

fn attributes_below<'a>(owner: &'a Value, field: &str) -> Option<&'a Value> {
    owner.get(field)?.get("attributes")
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn refuse(error: &str) -> Reply {
    Reply::json(400, &json!({"error": error}))
}
