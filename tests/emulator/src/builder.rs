//! The settings of a [`Lambda`], one method each.

use crate::config::{Config, Fault, Freeze, InvokeDelivery, Mode, Telemetry};
use crate::lambda::{Error, Lambda};
use std::path::PathBuf;
use std::time::Duration;

/// Collects what a [`Lambda`] needs; see the methods for the defaults.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Builder {
    config: Config,
}

impl Builder {
    /// A directory laid out like `/opt`: every file in its `extensions/` is started. Without it there are no extensions.
    pub fn opt_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.opt_dir = Some(dir.into());
        self
    }

    /// The command that is the runtime. It is looked up in the `PATH` given to it.
    pub fn bootstrap<S: Into<String>>(mut self, command: impl IntoIterator<Item = S>) -> Self {
        self.config.bootstrap = command.into_iter().map(Into::into).collect();
        self
    }

    /// The function's code, `LAMBDA_TASK_ROOT` and working directory of the runtime. Default `/`.
    pub fn task_root(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.task_root = dir.into();
        self
    }

    /// What plays `/tmp`: given to all processes as `TMPDIR`, kept over resets. Default: a directory of the emulator's
    /// own, emptied when an environment is created and removed at the end; one that is given here is never touched.
    pub fn tmp_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.tmp_dir = Some(dir.into());
        self
    }

    /// `_HANDLER` of the runtime. Default: the last word of the bootstrap command.
    pub fn handler(mut self, handler: impl Into<String>) -> Self {
        self.config.handler = Some(handler.into());
        self
    }

    /// `AWS_LAMBDA_FUNCTION_NAME`. Default `function`.
    pub fn function_name(mut self, name: impl Into<String>) -> Self {
        self.config.function_name = name.into();
        self
    }

    /// `AWS_REGION`. Default `eu-central-1`.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.config.region = region.into();
        self
    }

    /// `AWS_LAMBDA_FUNCTION_MEMORY_SIZE`, in MB; nothing enforces it. Default 512.
    pub fn memory_mb(mut self, memory_mb: u32) -> Self {
        self.config.memory_mb = memory_mb;
        self
    }

    /// The function timeout. Default 3 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    /// What the init phase may take. Default 10 s.
    pub fn init_limit(mut self, limit: Duration) -> Self {
        self.config.init_limit = limit;
        self
    }

    /// What the runtime gets between SIGTERM and SIGKILL. Default 600 ms, as AWS's emulator; AWS documents 300 ms.
    pub fn runtime_grace(mut self, grace: Duration) -> Self {
        self.config.runtime_grace = grace;
        self
    }

    /// An environment variable for all processes. Nothing is inherited from the emulator's own environment.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.env.insert(name.into(), value.into());
        self
    }

    /// An environment variable for extensions alone.
    pub fn extension_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.extension_env.insert(name.into(), value.into());
        self
    }

    /// An environment variable for the runtime alone.
    pub fn function_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.function_env.insert(name.into(), value.into());
        self
    }

    /// `AWS_LAMBDA_INITIALIZATION_TYPE`. Default `on-demand`, or what the [`Mode`] brings.
    pub fn initialization_type(mut self, kind: impl Into<String>) -> Self {
        self.config.initialization_type = Some(kind.into());
        self
    }

    /// How the Telemetry API behaves. Default [`Telemetry::Delivered`].
    pub fn telemetry(mut self, telemetry: Telemetry) -> Self {
        self.config.telemetry = telemetry;
        self
    }

    /// How processes are frozen between invocations. Default [`Freeze::Auto`].
    pub fn freeze(mut self, freeze: Freeze) -> Self {
        self.config.freeze = freeze;
        self
    }

    /// Which kind of Lambda is played. Default [`Mode::OnDemand`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.config.mode = mode;
        self
    }

    /// When extensions get their INVOKE event. Default [`InvokeDelivery::WithRuntime`].
    pub fn invoke_delivery(mut self, delivery: InvokeDelivery) -> Self {
        self.config.invoke_delivery = delivery;
        self
    }

    /// A fault that is there from the start, for every extension; see `Lambda::inject` for later ones.
    pub fn fault(mut self, fault: Fault) -> Self {
        self.config.faults.push(fault);
        self
    }

    /// Gives all processes together this many CPUs (0.29 is a function of 512 MB), by cgroup. Without a writable `cpu`
    /// controller nothing is limited, which `Lambda::cpu_quota_in_force` tells.
    pub fn cpu_quota(mut self, cpus: f64) -> Self {
        self.config.cpu_quota = Some(cpus);
        self
    }

    /// Also prints captured log lines to standard error. Default false.
    pub fn echo_logs(mut self, echo: bool) -> Self {
        self.config.echo_logs = echo;
        self
    }

    /// Serves the APIs and returns. No process is started before the first invocation (or `Lambda::init`), as on Lambda.
    pub async fn start(self) -> Result<Lambda, Error> {
        Lambda::start(self.config).await
    }
}
