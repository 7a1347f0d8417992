//! What an app's process is told, so that its SDKs hand everything to this extension, and at once.
//!
//! A pure function: environment in, changes out. `/opt/langfuse`, `exec` and `run` all tell an app the same. What each client
//! needs was found by running it: see docs/clients.md.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;

use crate::exporter::upstream::PLACEHOLDER_PUBLIC_KEY;
use crate::settings::{Environment, OTLP_BASE_URLS, OTLP_PATH, langfuse_of_otlp, names_listener};

/// Stands for the secret key beside [`PLACEHOLDER_PUBLIC_KEY`].
const PLACEHOLDER_SECRET_KEY: &str = "sk-lf-extension";

/// What the app is written in, as far as its SDKs need different settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Any Python.
    Python,
    /// Node.js.
    Node,
    /// Something else, or something that starts an app in its turn: a shell, gunicorn, npm.
    Unknown,
}

impl Runtime {
    /// By the file that is started: `python3.12`, `/var/lang/bin/node`.
    pub fn of(program: &OsStr) -> Self {
        let name = Path::new(program).file_name().unwrap_or(program);
        let name = name.to_string_lossy();
        let is_version = |rest: &str| rest.chars().all(|c| c.is_ascii_digit() || c == '.');
        match name.as_ref() {
            "node" | "nodejs" => Self::Node,
            name if name.strip_prefix("python").is_some_and(is_version) => Self::Python,
            _ => Self::Unknown,
        }
    }

    /// As `--runtime` has it. A name that is not known is no reason not to start the app.
    pub fn named(name: &str) -> Self {
        match name {
            "python" => Self::Python,
            "node" | "nodejs" => Self::Node,
            _ => Self::Unknown,
        }
    }
}

/// How much an app does at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One invocation, after which it may be frozen: each span is handed over by itself, at once.
    OneAtATime,
    /// Many requests, and no freeze: spans are handed over fifty times a second. One by one they would queue up in the SDK,
    /// which loses them when its process is ended by a signal.
    ManyAtOnce,
}

/// How a variable is changed.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// It is replaced by the local address.
    Address,
    /// It is replaced by the local address and this path, where it names Langfuse. Another backend stays what it is.
    OtlpAddress(&'static str),
    /// It gets this value where it has none.
    Absent(&'static str),
    /// The same, but not where spans go to another backend, which would get a request for each of them.
    AbsentWithoutOtherBackend(&'static str),
    /// It gets this value where the app has no key but the extension has: SDKs switch themselves off without keys.
    Placeholder {
        value: &'static str,
        extensions: &'static str,
    },
    /// The local address is added to those that no proxy is asked for, where there is a proxy.
    NoProxy,
    /// The local address is added to those whose calls are not traced.
    NotTraced,
}

/// One variable.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    runtimes: &'static [Runtime],
    /// `None`: under any.
    load: Option<Load>,
    rule: Rule,
}

const ANY: &[Runtime] = &[Runtime::Python, Runtime::Node, Runtime::Unknown];
const PYTHON: &[Runtime] = &[Runtime::Python];
const ALL_BUT_NODE: &[Runtime] = &[Runtime::Python, Runtime::Unknown];
const ALL_BUT_PYTHON: &[Runtime] = &[Runtime::Node, Runtime::Unknown];

const fn row(name: &'static str, runtimes: &'static [Runtime], rule: Rule) -> Row {
    Row {
        name,
        runtimes,
        load: None,
        rule,
    }
}

const fn under(load: Load, row: Row) -> Row {
    Row {
        load: Some(load),
        ..row
    }
}

/// Everything that is changed.
const TABLE: &[Row] = &[
    row("LANGFUSE_BASE_URL", ANY, Rule::Address),
    row("LANGFUSE_HOST", ANY, Rule::Address),
    row("LANGFUSE_BASEURL", ANY, Rule::Address),
    row("LANGFUSE_OTEL_HOST", ANY, Rule::Address),
    row("TRACELOOP_BASE_URL", ANY, Rule::OtlpAddress(OTLP_PATH)),
    row(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        ANY,
        Rule::OtlpAddress(OTLP_PATH),
    ),
    row(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ANY,
        Rule::OtlpAddress("/api/public/otel/v1/traces"),
    ),
    under(
        Load::OneAtATime,
        row("LANGFUSE_FLUSH_AT", PYTHON, Rule::Absent("1")),
    ),
    under(
        Load::ManyAtOnce,
        row("LANGFUSE_FLUSH_INTERVAL", PYTHON, Rule::Absent("0.02")),
    ),
    // With LANGFUSE_FLUSH_AT=1 the JS SDK forgets scores; so this is what is safe for both.
    row(
        "LANGFUSE_FLUSH_INTERVAL",
        ALL_BUT_PYTHON,
        Rule::Absent("0.02"),
    ),
    under(
        Load::OneAtATime,
        row(
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            ANY,
            Rule::AbsentWithoutOtherBackend("1"),
        ),
    ),
    under(
        Load::ManyAtOnce,
        row(
            "OTEL_BSP_SCHEDULE_DELAY",
            ANY,
            Rule::AbsentWithoutOtherBackend("20"),
        ),
    ),
    row("NO_PROXY", ANY, Rule::NoProxy),
    row("no_proxy", ANY, Rule::NoProxy),
    row(
        "OTEL_PYTHON_HTTPX_EXCLUDED_URLS",
        ALL_BUT_NODE,
        Rule::NotTraced,
    ),
    row(
        "OTEL_PYTHON_REQUESTS_EXCLUDED_URLS",
        ALL_BUT_NODE,
        Rule::NotTraced,
    ),
    row(
        "OTEL_PYTHON_URLLIB3_EXCLUDED_URLS",
        ALL_BUT_NODE,
        Rule::NotTraced,
    ),
    row(
        "OTEL_PYTHON_URLLIB_EXCLUDED_URLS",
        ALL_BUT_NODE,
        Rule::NotTraced,
    ),
    row(
        "OTEL_PYTHON_AIOHTTP_CLIENT_EXCLUDED_URLS",
        ALL_BUT_NODE,
        Rule::NotTraced,
    ),
    row(
        "LANGFUSE_PUBLIC_KEY",
        ANY,
        Rule::Placeholder {
            value: PLACEHOLDER_PUBLIC_KEY,
            extensions: "LANGFUSE_EXTENSION_PUBLIC_KEY",
        },
    ),
    row(
        "LANGFUSE_SECRET_KEY",
        ANY,
        Rule::Placeholder {
            value: PLACEHOLDER_SECRET_KEY,
            extensions: "LANGFUSE_EXTENSION_SECRET_KEY",
        },
    ),
];

/// Which variables the app's process gets, and their values, where the extension listens on `local`. Everything else stays
/// what it is.
pub fn changes(
    given: &impl Environment,
    runtime: Runtime,
    load: Load,
    local: SocketAddr,
) -> Vec<(&'static str, String)> {
    let concerns = |row: &&Row| {
        row.runtimes.contains(&runtime) && row.load.is_none_or(|of_row| of_row == load)
    };
    let rows = TABLE.iter().filter(concerns);
    rows.filter_map(|row| Some((row.name, new_value(row, given, local)?)))
        .collect()
}

fn new_value(row: &Row, given: &impl Environment, local: SocketAddr) -> Option<String> {
    let old = given.get(row.name);
    let absent = |value: &str| old.is_none().then(|| value.to_owned());
    match row.rule {
        Rule::Address => Some(format!("http://{local}")),
        Rule::OtlpAddress(path) => {
            langfuse_of_otlp(old.as_deref()?)?;
            Some(format!("http://{local}{path}"))
        }
        Rule::Absent(value) => absent(value),
        Rule::AbsentWithoutOtherBackend(value) => {
            if has_other_backend(given, local) {
                None
            } else {
                absent(value)
            }
        }
        Rule::Placeholder { value, extensions } => {
            given.get(extensions)?;
            absent(value)
        }
        Rule::NoProxy => no_proxy(row.name, old, given, local),
        Rule::NotTraced => {
            // One that is set for a single client takes the place of the general one.
            let old = old.or_else(|| given.get("OTEL_PYTHON_EXCLUDED_URLS"));
            let port = local.port();
            with(old, &[&format!("localhost:{port}"), &local.to_string()])
        }
    }
}

/// Whether plain OpenTelemetry in the app sends its spans elsewhere than here or to Langfuse.
fn has_other_backend(given: &impl Environment, local: SocketAddr) -> bool {
    let other_exporter = given
        .get("OTEL_TRACES_EXPORTER")
        .is_some_and(|name| name != "otlp");
    let [_, for_traces, for_all] = OTLP_BASE_URLS;
    let endpoint = given.get(for_traces).or_else(|| given.get(for_all));
    other_exporter
        || endpoint
            .is_some_and(|url| langfuse_of_otlp(&url).is_none() && !names_listener(&url, local))
}

/// Of the two spellings, tools prefer one or the other. So each that is there is told, and the usual one if none is.
fn no_proxy(
    name: &str,
    old: Option<String>,
    given: &impl Environment,
    local: SocketAddr,
) -> Option<String> {
    let proxies = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let has_proxy = proxies.iter().any(|name| given.get(name).is_some());
    let other_spelling_is_there = name == "NO_PROXY" && given.get("no_proxy").is_some();
    let is_needed = old.is_some() || (name == "NO_PROXY" && !other_spelling_is_there);
    if !has_proxy || !is_needed || old.as_deref() == Some("*") {
        return None;
    }
    with(old, &["localhost", &local.ip().to_string()])
}

/// A list with these entries at its end, or nothing if it has them all.
fn with(list: Option<String>, entries: &[&str]) -> Option<String> {
    let list = list.unwrap_or_default();
    let mut all: Vec<_> = list.split(',').map(str::trim).collect();
    all.retain(|entry| !entry.is_empty());
    let before = all.len();
    for entry in entries {
        if !all.contains(entry) {
            all.push(entry);
        }
    }
    (all.len() > before).then(|| all.join(","))
}

#[cfg(test)]
mod tests;
