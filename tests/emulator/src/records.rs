//! The `platform.*` records of an invocation, as the Telemetry API delivers them.

use crate::Event;
use crate::config::{Mode, Reset};
use crate::invocation::Progress;
use crate::state::{Current, Shared, Trouble};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

pub(crate) fn handler_status(shared: &Shared) -> &'static str {
    let failed = shared
        .look()
        .current
        .as_ref()
        .is_some_and(|current| current.error_type.is_some());
    if failed { "error" } else { "success" }
}

pub(crate) fn runtime_done(
    shared: &Shared,
    request_id: &str,
    status: &str,
    trouble: Option<&Trouble>,
) {
    if shared.config.mode == Mode::ManagedInstances {
        return;
    }
    shared.timeline.add(Event::RuntimeDone {
        request_id: request_id.to_owned(),
        status: status.to_owned(),
    });
    let mut record = json!({ "requestId": request_id, "status": status });
    if let Some(current) = &shared.look().current {
        let since = current
            .delivered
            .map(|delivered| milliseconds(delivered.elapsed()));
        record["metrics"] = json!({ "durationMs": since, "producedBytes": current.bytes });
        record["spans"] = spans(current);
        record["errorType"] = json!(current.error_type);
    }
    if let Some(trouble) = trouble {
        record["errorType"] = trouble
            .error(request_id, shared.config.timeout)
            .error_type
            .into();
    }
    if record["errorType"].is_null()
        && let Some(fields) = record.as_object_mut()
    {
        fields.remove("errorType");
    }
    shared.telemetry.platform("platform.runtimeDone", &record);
}

/// The three spans of a `platform.runtimeDone` record.
fn spans(current: &Current) -> Value {
    let (Some(delivered), Some(started), Some(ended)) = (
        current.delivered,
        current.response_started,
        current.response_ended,
    ) else {
        return json!([]);
    };
    let span = |name: &str, from: Instant, to: Instant| {
        let start = SystemTime::now() - from.elapsed();
        let start = humantime::format_rfc3339_millis(start).to_string();
        json!({ "name": name, "start": start, "durationMs": milliseconds(to.saturating_duration_since(from)) })
    };
    json!([
        span("responseLatency", delivered, started),
        span("responseDuration", started, ended),
        span("runtimeOverhead", ended, Instant::now()),
    ])
}

/// `platform.report`, and `platform.runtimeDone` where the runtime never got to ask for more.
pub(crate) fn report(
    shared: &Shared,
    progress: &watch::Sender<Progress>,
    request_id: &str,
    trouble: Option<&Trouble>,
) {
    let (started, done, init) = {
        let progress = progress.borrow();
        (progress.started, progress.runtime_done, progress.init)
    };
    let Some(started) = started else { return };
    if done.is_none() && trouble.is_some() {
        runtime_done(shared, request_id, status_of(trouble), trouble);
    }
    let elapsed = progress.borrow().called.elapsed().saturating_sub(started);
    let mut record = json!({
        "requestId": request_id,
        "status": trouble.map_or_else(|| handler_status(shared), |trouble| status_of(Some(trouble))),
        "metrics": {
            "durationMs": milliseconds(elapsed),
            "billedDurationMs": u64::try_from(elapsed.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
            "memorySizeMB": shared.config.memory_mb,
            "maxMemoryUsedMB": shared.config.memory_mb.min(128),
        },
    });
    if let Some(init) = init {
        record["metrics"]["initDurationMs"] = milliseconds(init).into();
    }
    if let Some(trouble) = trouble {
        record["errorType"] = trouble
            .error(request_id, shared.config.timeout)
            .error_type
            .into();
    }
    shared.telemetry.platform("platform.report", &record);
}

pub(crate) fn status_of(trouble: Option<&Trouble>) -> &'static str {
    match trouble {
        None => "success",
        Some(Trouble::OutOfTime | Trouble::Interrupt(Reset::Timeout)) => "timeout",
        Some(_) => "failure",
    }
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}
