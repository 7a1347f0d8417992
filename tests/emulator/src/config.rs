//! What a test chooses: the function's settings, the variants of the platform, the faults.

use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How long the init phase may take before Lambda gives up and retries it inside the first invocation.
pub(crate) const INIT_LIMIT: Duration = Duration::from_secs(10);
/// What the shutdown phase may take altogether when external extensions are registered.
pub(crate) const SHUTDOWN_BUDGET: Duration = Duration::from_secs(2);
/// The share of the runtime in the shutdown phase, between SIGTERM and SIGKILL (AWS documents 300 ms, its emulator takes 600).
pub(crate) const RUNTIME_GRACE: Duration = Duration::from_millis(600);
/// Lambda accepts at most this many extensions per function.
pub(crate) const EXTENSIONS_MAX: usize = 10;
/// The largest buffered request or response payload (6 MB and a little for the envelope, as Lambda has it).
pub(crate) const PAYLOAD_BYTES_MAX: usize = 6 * 1024 * 1024 + 100;
/// The largest streamed response.
pub(crate) const STREAM_BYTES_MAX: usize = 200 * 1024 * 1024;

/// How the Telemetry API behaves.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Telemetry {
    /// Subscriptions are accepted and records delivered.
    #[default]
    Delivered,
    /// A subscription is answered 202 `Telemetry.NotSupported`, as AWS's Runtime Interface Emulator does.
    NotSupported,
    /// A subscription is answered with this status.
    Refused(u16),
    /// A subscription is accepted and nothing ever comes.
    Silent,
    /// Every batch comes this much later than it should.
    Delayed(Duration),
    /// All records but `platform.runtimeDone` are delivered.
    WithoutRuntimeDone,
}

/// By which means all processes are frozen between invocations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freeze {
    /// The first that works of [`Freeze::CgroupV2`], [`Freeze::CgroupV1`] and [`Freeze::Signals`].
    #[default]
    Auto,
    /// The freezer of the unified hierarchy: takes every descendant, also those that left their process group.
    CgroupV2,
    /// The freezer of the first hierarchy.
    CgroupV1,
    /// SIGSTOP and SIGCONT to process groups and descendants; a daemonised grandchild escapes it.
    Signals,
    /// Nothing is ever frozen, as under AWS's Runtime Interface Emulator.
    Off,
}

/// Which kind of Lambda is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One invocation at a time, frozen in between.
    #[default]
    OnDemand,
    /// Lambda Managed Instances: no INVOKE events, no `platform.runtimeDone`, no freeze, schema 2025-01-29 only.
    ManagedInstances,
}

/// When extensions get their INVOKE event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InvokeDelivery {
    /// Together with the runtime.
    #[default]
    WithRuntime,
    /// This long after the runtime got the invocation.
    After(Duration),
    /// This long after the handler's response has come in full, which a fast handler brings about on the service too.
    AfterResponse(Duration),
}

/// Why an environment is torn down and started anew within the next invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Reset {
    /// The function timed out: SIGTERM to the runtime, then SHUTDOWN with reason `TIMEOUT`.
    Timeout,
    /// A failure of the runtime or an extension: the same with reason `FAILURE`.
    Failure,
    /// The runtime ran out of memory: it is killed without notice, extensions get SHUTDOWN with reason `FAILURE`.
    OutOfMemory,
    /// Everything is killed at once and nobody is told.
    Killed,
}

/// What goes wrong on the platform's side. Counted faults are used up, the others hold until `Lambda::heal`.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// `/extension/event/next` answers this status, so many times.
    NextFails {
        /// The HTTP status.
        status: u16,
        /// How many requests are answered so.
        times: u32,
    },
    /// `/extension/register` answers this status and `errorType`, so many times.
    RegisterFails {
        /// The HTTP status.
        status: u16,
        /// The `errorType` of the body.
        error_type: String,
        /// How many requests are answered so.
        times: u32,
    },
    /// `/extension/register` takes this long, every time.
    RegisterSlow(Duration),
    /// So many events are delivered as broken JSON.
    MalformedEvent {
        /// How many events.
        times: u32,
    },
    /// `deadlineMs` of INVOKE events is this JSON value (zero, the past, 5·10⁹ ms, a string); `Null` leaves the field out.
    InvokeDeadline(serde_json::Value),
}

/// Everything [`crate::Builder`] collects.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) opt_dir: Option<PathBuf>,
    pub(crate) bootstrap: Vec<String>,
    pub(crate) task_root: PathBuf,
    pub(crate) tmp_dir: Option<PathBuf>,
    pub(crate) handler: Option<String>,
    pub(crate) function_name: String,
    pub(crate) region: String,
    pub(crate) memory_mb: u32,
    pub(crate) timeout: Duration,
    pub(crate) init_limit: Duration,
    pub(crate) runtime_grace: Duration,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) extension_env: BTreeMap<String, String>,
    pub(crate) function_env: BTreeMap<String, String>,
    pub(crate) initialization_type: Option<String>,
    pub(crate) telemetry: Telemetry,
    pub(crate) freeze: Freeze,
    pub(crate) mode: Mode,
    pub(crate) invoke_delivery: InvokeDelivery,
    pub(crate) faults: Vec<Fault>,
    pub(crate) cpu_quota: Option<f64>,
    pub(crate) echo_logs: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            opt_dir: None,
            bootstrap: Vec::new(),
            task_root: PathBuf::from("/"),
            tmp_dir: None,
            handler: None,
            function_name: "function".to_owned(),
            region: "eu-central-1".to_owned(),
            memory_mb: 512,
            timeout: Duration::from_secs(3),
            init_limit: INIT_LIMIT,
            runtime_grace: RUNTIME_GRACE,
            env: BTreeMap::new(),
            extension_env: BTreeMap::new(),
            function_env: BTreeMap::new(),
            initialization_type: None,
            telemetry: Telemetry::default(),
            freeze: Freeze::default(),
            mode: Mode::default(),
            invoke_delivery: InvokeDelivery::default(),
            faults: Vec::new(),
            cpu_quota: None,
            echo_logs: false,
        }
    }
}

impl Config {
    pub(crate) fn function_arn(&self) -> String {
        format!(
            "arn:aws:lambda:{}:{ACCOUNT_ID}:function:{}",
            self.region, self.function_name
        )
    }

    pub(crate) fn initialization_type(&self) -> &str {
        match (&self.initialization_type, self.mode) {
            (Some(chosen), _) => chosen,
            (None, Mode::OnDemand) => "on-demand",
            (None, Mode::ManagedInstances) => "lambda-managed-instances",
        }
    }
}

/// The account of the function's ARN: AWS's documentation account.
pub(crate) const ACCOUNT_ID: &str = "123456789012";
