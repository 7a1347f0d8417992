//! Shared set-up of the end-to-end tests: the release binary under `lambda-emulator`, a function without an SDK
//! (`tests/apps/raw`), and a fake Langfuse.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "set-up of tests fails loudly"
)]

mod books;
mod ids;
pub mod matrix;
pub mod process;

pub use books::{Answer, Books, Ran};
pub use ids::{Ids, ids};
pub use lambda_emulator::fake_langfuse::{
    Config as LangfuseConfig, FakeLangfuse, Fault, FaultRule, Project,
};
pub use lambda_emulator::{
    Builder, Entry, Event, Exit, Fault as LambdaFault, Freeze, Invocation, InvocationHandle,
    InvokeDelivery, Lambda, LogLine, Mode, Reset, ShutdownReport, Signal, Telemetry,
};
pub use serde_json::{Value, json};

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use tempfile::TempDir;

/// The name under which the extension is started.
pub const EXTENSION: &str = "langfuse-extension";

/// What no event in these tests takes, however busy the machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a step without any wait in it may take on a busy machine: far below every fault's time.
pub const QUICK: Duration = Duration::from_millis(1_500);

/// The default of `LANGFUSE_EXTENSION_FLUSH_BUDGET_MS`.
pub const FLUSH_BUDGET: Duration = Duration::from_secs(2);

/// How far a bound may be overrun where processes wait for a processor.
pub const SLACK: Duration = Duration::from_millis(700);

/// What is shown of one log line.
const LINE_CHARS: usize = 600;

/// The interpreter itself, as opposed to a version manager's wrapper around it.
static PYTHON: LazyLock<String> = LazyLock::new(|| {
    let output = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output();
    String::from_utf8(output.expect("python3 is installed").stdout)
        .expect("a path")
        .trim()
        .to_owned()
});

/// The binary under test: the one that `EXTENSION_BINARY` names, such as a layer's, or what `make build` makes.
pub fn binary() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let binary = std::env::var_os("EXTENSION_BINARY").map_or_else(
        || {
            let target = std::env::var_os("CARGO_TARGET_DIR")
                .map_or_else(|| root.join("target"), |dir| root.join(dir));
            target.join("release").join(EXTENSION)
        },
        |named| root.join(named),
    );
    binary
        .canonicalize()
        .unwrap_or_else(|error| panic!("{}: {error}; `make build` makes it", binary.display()))
}

/// What a [`World`] is made of; each test changes what it is about.
pub struct Setup {
    langfuse: LangfuseConfig,
    settings: BTreeMap<String, String>,
    lambda: Builder,
    with_extension: bool,
    straight: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("../apps/raw/app.py");
        let app = app.canonicalize().expect("the app");
        let lambda = Lambda::builder()
            .bootstrap([PYTHON.as_str(), "-S", &app.to_string_lossy()])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .timeout(PATIENCE);
        let keys = [
            ("PUBLIC_KEY", Project::PUBLIC_KEY),
            ("SECRET_KEY", Project::SECRET_KEY),
        ];
        Self {
            langfuse: LangfuseConfig::default(),
            settings: keys
                .map(|(name, value)| (prefixed(name), value.to_owned()))
                .into(),
            lambda,
            with_extension: true,
            straight: false,
        }
    }
}

impl Setup {
    /// Healthy, everything at its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// `LANGFUSE_EXTENSION_` and `name`.
    #[must_use]
    pub fn setting(self, name: &str, value: impl Into<String>) -> Self {
        self.variable(&prefixed(name), value)
    }

    /// A variable of the extension's environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// Takes `LANGFUSE_EXTENSION_` and `name` away.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.settings.remove(&prefixed(name));
        self
    }

    /// What the emulator plays.
    #[must_use]
    pub fn lambda(mut self, change: impl FnOnce(Builder) -> Builder) -> Self {
        self.lambda = change(self.lambda);
        self
    }

    /// Langfuse over HTTPS, trusted by the extension.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.langfuse.tls = true;
        self
    }

    /// The function alone, which then posts nothing.
    #[must_use]
    pub fn without_extension(mut self) -> Self {
        self.with_extension = false;
        self
    }

    /// The function alone, which posts to Langfuse itself.
    #[must_use]
    pub fn straight(mut self) -> Self {
        self.with_extension = false;
        self.straight = true;
        self
    }

    /// Starts everything; the first invocation brings the cold start.
    pub async fn start(self) -> World {
        let langfuse = FakeLangfuse::start(self.langfuse).expect("a fake Langfuse");
        let dir = tempfile::tempdir().expect("a directory");
        let opt = dir.path().join("opt/extensions");
        std::fs::create_dir_all(&opt).expect("a directory");
        let listen = free_address();
        let mut settings: BTreeMap<_, _> = [
            (prefixed("BASE_URL"), langfuse.url()),
            (prefixed("LISTEN"), listen.to_string()),
            (
                prefixed("SPOOL_DIR"),
                dir.path().join("spool").to_string_lossy().into_owned(),
            ),
        ]
        .into();
        if let Some(file) = langfuse.ca_file() {
            settings.insert(prefixed("CA_FILE"), file.to_string_lossy().into_owned());
        }
        settings.extend(self.settings);
        let mut lambda = settings.iter().fold(self.lambda, |lambda, (name, value)| {
            lambda.extension_env(name, value)
        });
        if self.with_extension {
            symlink(binary(), opt.join(EXTENSION)).expect("a link");
            lambda = lambda
                .opt_dir(dir.path().join("opt"))
                .function_env("COLLECTOR", listen.to_string());
        }
        if self.straight {
            let keys = format!("{}:{}", Project::PUBLIC_KEY, Project::SECRET_KEY);
            lambda = lambda
                .function_env("COLLECTOR", langfuse.address().to_string())
                .function_env("COLLECTOR_KEYS", keys);
        }
        let lambda = lambda.start().await.expect("an emulator");
        World {
            lambda,
            langfuse,
            listen,
            dir,
            tags: std::cell::Cell::new(0),
        }
    }
}

/// The one in the middle.
pub fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn prefixed(name: &str) -> String {
    format!("LANGFUSE_EXTENSION_{name}")
}

/// Each process has a loopback address of its own, so that two tests can hardly pick the same port.
pub fn free_address() -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 100 + high % 100, middle, low.clamp(1, 254));
    let listener = TcpListener::bind((ip, 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

/// One function with its extension and its Langfuse.
pub struct World {
    /// The platform.
    pub lambda: Lambda,
    /// What is shipped to.
    pub langfuse: FakeLangfuse,
    /// Where the extension listens.
    pub listen: SocketAddr,
    dir: TempDir,
    tags: std::cell::Cell<u32>,
}

impl World {
    /// Healthy, everything at its default.
    pub async fn start() -> Self {
        Setup::new().start().await
    }

    /// The spool's directory.
    pub fn spool_dir(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    /// Invokes the function with what `tests/apps/raw/app.py` understands, until it is over.
    pub async fn invoke(&self, event: Value) -> Ran {
        Ran::new(self.lambda.invoke(event.to_string()).await)
    }

    /// An invocation that posts this many spans under a new tag. Its answer is checked: each was acknowledged with 200.
    pub async fn trace(&self, spans: u32) -> Ran {
        self.tags.set(self.tags.get() + 1);
        let ran = self
            .invoke(json!({ "tag": format!("t{}", self.tags.get()), "spans": spans }))
            .await;
        ran.assert_acknowledged();
        ran
    }

    /// Starts an invocation and returns at once.
    pub fn begin(&self, event: &Value) -> InvocationHandle {
        self.lambda.invoke_detached(event.to_string())
    }

    /// Spans that Langfuse has stored.
    pub fn delivered(&self) -> usize {
        self.langfuse
            .read(|recording| recording.observations().count())
    }

    /// Waits until Langfuse has stored this many spans.
    pub async fn wait_delivered(&self, spans: usize) {
        let arrived = self
            .langfuse
            .wait_until(PATIENCE, |recording| {
                recording.observations().count() >= spans
            })
            .await;
        assert!(
            arrived,
            "{} of {spans} spans arrived\n{}",
            self.delivered(),
            self.story()
        );
    }

    /// Nothing was stored twice, and exactly this many spans once, each that was acknowledged among them.
    pub fn assert_delivered_once(&self, spans: usize) {
        assert_eq!(self.doubled(), 0, "doubled\n{}", self.story());
        assert_eq!(self.lost(), Ids::new(), "lost\n{}", self.story());
        assert_eq!(self.delivered(), spans, "delivered\n{}", self.story());
    }

    /// `GET /status`, read by the function in an invocation of its own.
    pub async fn status(&self) -> Books {
        let ran = self.invoke(json!({ "get": "/status" })).await;
        Books::read(&ran.got().answer)
    }

    /// The extension's lines so far, as JSON where they are.
    pub fn lines(&self) -> Vec<String> {
        self.lambda
            .logs_of(EXTENSION)
            .into_iter()
            .map(|line| line.text)
            .collect()
    }

    /// How often the extension has said something that contains this.
    pub fn said(&self, text: &str) -> usize {
        self.lines()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }

    /// The last shutdown report.
    pub fn report(&self) -> Books {
        self.last_report()
            .unwrap_or_else(|| panic!("no report\n{}", self.story()))
    }

    /// The same, if there is one: a process that was killed leaves none.
    pub fn last_report(&self) -> Option<Books> {
        let lines = self.lines();
        let line = lines
            .iter()
            .rev()
            .find(|line| line.contains("langfuse-extension report"));
        line.map(|line| Books::read(line))
    }

    /// How often a process of this name has ended, each with how.
    pub fn exits(&self, process: &str) -> Vec<Exit> {
        let entries = self.lambda.timeline().into_iter();
        entries
            .filter_map(|entry| match entry.event {
                Event::ProcessExited {
                    process: name,
                    exit,
                    ..
                } if name == process => Some(exit),
                _ => None,
            })
            .collect()
    }

    /// Ends the sandbox, and checks that the extension left in time, by itself and with success.
    pub async fn shutdown(&self) -> ShutdownReport {
        let report = self.lambda.shutdown().await;
        for extension in &report.extensions {
            assert!(!extension.killed, "killed at shutdown\n{}", self.story());
            assert_eq!(extension.exit, Some(Exit::Code(0)), "{}", self.story());
        }
        report
    }

    /// Everything that is known, for the message of a failed assertion.
    pub fn story(&self) -> String {
        let timeline = self.lambda.timeline().into_iter();
        let timeline =
            timeline.map(|entry| format!("{:9.3} {:?}", entry.at.as_secs_f64(), entry.event));
        let logs = self.lambda.logs().into_iter().map(|line| {
            let text: String = line.text.chars().take(LINE_CHARS).collect();
            format!("{:9.3} {}: {text}", line.at.as_secs_f64(), line.source)
        });
        let requests = self.langfuse.requests().into_iter().map(|request| {
            let seen = (
                &request.target,
                request.status,
                request.fault,
                request.span_count,
                request.connection,
            );
            format!("langfuse: {seen:?}")
        });
        timeline
            .chain(logs)
            .chain(requests)
            .collect::<Vec<_>>()
            .join("\n")
    }
}
