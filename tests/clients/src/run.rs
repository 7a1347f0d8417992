//! One environment of one client: its features one after the other, then the end of the sandbox.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lambda_emulator::fake_langfuse::{Config, FakeLangfuse, Fault, Project};
use lambda_emulator::{Builder, Freeze, Lambda};
use serde::Deserialize;
use serde_json::json;

use crate::client::{Address, Client};
use crate::install::{Installed, extension_binary, library_dir};
use crate::normal::{PLACEHOLDER_PUBLIC_KEY, Stored};

/// What a function of this test may take: longer than any client waits for a hung Langfuse.
const FUNCTION_TIMEOUT: Duration = Duration::from_mins(2);

/// How often the function is invoked after Langfuse is well again, until everything has arrived.
const RECOVERY_INVOCATIONS_MAX: usize = 60;

/// Between two of those invocations.
const RECOVERY_PAUSE: Duration = Duration::from_millis(700);

/// How often a function without the extension is invoked so that its client's threads get their turn.
const DIRECT_IDLE_INVOCATIONS: usize = 5;

/// What is between the app and Langfuse, and how Langfuse is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// No extension, Langfuse healthy.
    Direct,
    /// Through the extension, Langfuse healthy.
    Healthy,
    /// Through the extension; Langfuse takes connections and never answers, until the features are through.
    Hung,
    /// Through the extension; Langfuse refuses connections, until the features are through.
    Refusing,
}

/// What differs between environments of one client.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// What is in between.
    pub way: Way,
    /// Whether the client is told to hand over at once.
    pub at_once: bool,
    /// Whether the function has placeholders for keys, and the extension the real ones.
    pub placeholder_keys: bool,
    /// Whether the function keeps the settings that it has without the extension, and `/opt/langfuse` does the rest.
    pub attached: bool,
    /// Settings of the extension beside its keys.
    pub settings: &'a [(&'a str, &'a str)],
    /// What the app is asked to do.
    pub features: &'a [&'a str],
    /// What there is to arrive before the sandbox may end; `None` to end it at once.
    pub awaited: Option<&'a Stored>,
}

/// The handler's own answer to one invocation.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    /// What the feature returned, as text.
    pub result: String,
    /// How long the handler waited for it, in milliseconds.
    pub waited_ms: f64,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// By feature.
    pub answers: BTreeMap<String, Answer>,
    /// What Langfuse had after the sandbox had ended.
    pub stored: Stored,
    /// Spans and scores stored twice.
    pub doubled: usize,
    /// How many spans and scores the extension has answered 200 for, by its last report.
    pub acknowledged: Option<usize>,
    /// What the processes wrote, for the message of a failure.
    pub log: String,
}

/// Runs it.
///
/// # Panics
/// If an invocation fails, or the extension does not leave in time.
pub async fn run(client: &Client, installed: &Installed, plan: Plan<'_>) -> Outcome {
    // langfuse-python 5 sends lists of scores, which Langfuse 4.16.0 does not take: what is tried here is the way there.
    let config = Config {
        score_lists: true,
        ..Config::default()
    };
    let langfuse = FakeLangfuse::start(config).expect("a fake Langfuse");
    let dir = tempfile::tempdir().expect("a directory");
    let lambda = builder(client, installed, plan, &langfuse, dir.path());
    match plan.way {
        Way::Direct | Way::Healthy => {}
        Way::Hung => langfuse.set_fault(Fault::HangBeforeAccepting),
        Way::Refusing => langfuse.set_fault(Fault::Refuse),
    }
    let lambda = lambda.start().await.expect("an emulator");
    let mut answers = BTreeMap::new();
    for feature in plan.features {
        answers.insert((*feature).to_owned(), invoke(&lambda, feature).await);
    }
    langfuse.clear_faults();
    if plan.way == Way::Direct {
        for _ in 0..DIRECT_IDLE_INVOCATIONS {
            invoke(&lambda, "idle").await;
        }
    }
    if let Some(awaited) = plan.awaited {
        recover(&lambda, &langfuse, awaited).await;
    }
    let report = lambda.shutdown().await;
    let log = log(&lambda);
    for extension in &report.extensions {
        assert!(!extension.killed, "killed at shutdown\n{log}");
    }
    let duplicates = langfuse.duplicates();
    Outcome {
        answers,
        stored: Stored::read(&langfuse),
        acknowledged: acknowledged(&lambda),
        doubled: duplicates.observations.len() + duplicates.events.len(),
        log,
    }
}

async fn invoke(lambda: &Lambda, feature: &str) -> Answer {
    let payload = json!({ "feature": feature }).to_string();
    let invocation = lambda.invoke(payload).await;
    assert!(
        invocation.succeeded(),
        "{feature}: {:?}\n{}",
        invocation.result,
        log(lambda)
    );
    serde_json::from_str(&invocation.text()).expect("the answer of an app")
}

/// Invocations go on coming, as they do, until Langfuse has what it should.
async fn recover(lambda: &Lambda, langfuse: &FakeLangfuse, awaited: &Stored) {
    let arrived = || {
        langfuse.observations().len() >= awaited.spans.len()
            && langfuse.scores().len() >= awaited.scores.len()
    };
    for _ in 0..RECOVERY_INVOCATIONS_MAX {
        if arrived() {
            return;
        }
        lambda.pause(RECOVERY_PAUSE).await;
        invoke(lambda, "idle").await;
    }
}

fn builder(
    client: &Client,
    installed: &Installed,
    plan: Plan<'_>,
    langfuse: &FakeLangfuse,
    dir: &std::path::Path,
) -> Builder {
    let listen = free_address();
    let direct = plan.way == Way::Direct;
    let url = if direct {
        langfuse.url()
    } else {
        format!("http://{listen}")
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let mut lambda = Lambda::builder()
        .bootstrap(installed.bootstrap.clone())
        .task_root(&installed.task_root)
        .timeout(FUNCTION_TIMEOUT)
        .init_limit(FUNCTION_TIMEOUT)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .function_env("PATH", path)
        .function_env("PYTHONPATH", library_dir())
        .function_env("HOME", dir.to_string_lossy());
    let at_once: &[_] = if plan.at_once { client.at_once } else { &[] };
    for (name, value) in client.variables.iter().chain(at_once) {
        lambda = lambda.function_env(*name, *value);
    }
    if plan.attached {
        return attached(lambda, client, plan, langfuse, listen, dir);
    }
    for (name, value) in address(client.address, &url, plan, direct) {
        lambda = lambda.function_env(name, value);
    }
    if direct {
        return lambda.freeze(Freeze::Off);
    }
    lambda = lambda
        .opt_dir(opt(dir))
        .extension_env("LANGFUSE_EXTENSION_BASE_URL", langfuse.url())
        .extension_env("LANGFUSE_EXTENSION_LISTEN", listen.to_string())
        .extension_env(
            "LANGFUSE_EXTENSION_SPOOL_DIR",
            dir.join("spool").to_string_lossy(),
        );
    for (name, value) in plan.settings {
        lambda = lambda.extension_env(*name, *value);
    }
    if plan.placeholder_keys || client.address == Address::OpenTelemetry {
        lambda = lambda
            .extension_env("LANGFUSE_EXTENSION_PUBLIC_KEY", Project::PUBLIC_KEY)
            .extension_env("LANGFUSE_EXTENSION_SECRET_KEY", Project::SECRET_KEY);
    }
    lambda
}

/// What somebody has who traces to Langfuse without the extension, and adds the layer and one variable. Everybody sees the
/// same environment. (The port and the spool are this test's own, because many sandboxes share one machine here.)
fn attached(
    lambda: Builder,
    client: &Client,
    plan: Plan<'_>,
    langfuse: &FakeLangfuse,
    listen: SocketAddr,
    dir: &std::path::Path,
) -> Builder {
    let own = address(client.address, &langfuse.url(), plan, true);
    let spool = dir.join("spool").to_string_lossy().into_owned();
    let of_test = [
        ("LANGFUSE_EXTENSION_LISTEN", listen.to_string()),
        ("LANGFUSE_EXTENSION_SPOOL_DIR", spool),
    ];
    own.into_iter()
        .chain(of_test)
        .fold(lambda.opt_dir(opt(dir)), |lambda, (name, value)| {
            lambda.env(name, value)
        })
        .env("AWS_LAMBDA_EXEC_WRAPPER", "/opt/langfuse")
}

/// What the layer is, unpacked.
fn opt(dir: &std::path::Path) -> std::path::PathBuf {
    let opt = dir.join("opt");
    let extensions = opt.join("extensions");
    std::fs::create_dir_all(&extensions).expect("a directory");
    symlink(extension_binary(), extensions.join("langfuse-extension")).expect("a link");
    symlink("extensions/langfuse-extension", opt.join("langfuse")).expect("a link");
    opt
}

/// The variables by which the client finds Langfuse or the extension.
fn address(
    address: Address,
    url: &str,
    plan: Plan<'_>,
    direct: bool,
) -> Vec<(&'static str, String)> {
    let (public, secret) = if plan.placeholder_keys {
        (PLACEHOLDER_PUBLIC_KEY, "anything")
    } else {
        (Project::PUBLIC_KEY, Project::SECRET_KEY)
    };
    let keys = [
        ("LANGFUSE_PUBLIC_KEY", public.to_owned()),
        ("LANGFUSE_SECRET_KEY", secret.to_owned()),
    ];
    match address {
        Address::Langfuse => [("LANGFUSE_BASE_URL", url.to_owned())]
            .into_iter()
            .chain(keys)
            .collect(),
        Address::LiteLlm => [("LANGFUSE_OTEL_HOST", url.to_owned())]
            .into_iter()
            .chain(keys)
            .collect(),
        Address::OpenTelemetry if direct => {
            let basic = STANDARD.encode(format!("{public}:{secret}"));
            vec![
                (
                    "OTEL_EXPORTER_OTLP_ENDPOINT",
                    format!("{url}/api/public/otel"),
                ),
                (
                    "OTEL_EXPORTER_OTLP_HEADERS",
                    format!("Authorization=Basic%20{basic}"),
                ),
            ]
        }
        Address::OpenTelemetry => vec![("OTEL_EXPORTER_OTLP_ENDPOINT", url.to_owned())],
    }
}

/// Each environment has a loopback address of its own, so that two can hardly pick the same port.
fn free_address() -> SocketAddr {
    static ENVIRONMENTS: AtomicU8 = AtomicU8::new(1);
    let [.., middle, low] = std::process::id().to_be_bytes();
    let own = ENVIRONMENTS.fetch_add(1, Ordering::Relaxed);
    let ip = Ipv4Addr::new(127, 1 + middle % 99, low, own.clamp(1, 254));
    let listener = TcpListener::bind((ip, 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

fn acknowledged(lambda: &Lambda) -> Option<usize> {
    let lines = lambda.logs_of("langfuse-extension").into_iter().rev();
    let mut reports = lines.filter(|line| line.text.contains("langfuse-extension report"));
    let report: serde_json::Value = serde_json::from_str(&reports.next()?.text).ok()?;
    usize::try_from(report["accepted"].as_u64()?).ok()
}

fn log(lambda: &Lambda) -> String {
    lambda.logs().iter().fold(String::new(), |log, line| {
        let text: String = line.text.chars().take(500).collect();
        format!(
            "{log}{:9.3} {}: {text}\n",
            line.at.as_secs_f64(),
            line.source
        )
    })
}
