//! The handle on a local Lambda, which lives on a thread of its own and dies with the handle.

use crate::api;
use crate::builder::Builder;
use crate::conductor::{Command, Conductor};
use crate::config::{Config, Fault, Freeze, PAYLOAD_BYTES_MAX, Reset};
use crate::freezer::{Freezer, FreezerKind, is_stale, owned_name, signal};
use crate::invocation::{FunctionError, Invocation, InvocationHandle, Progress};
use crate::logs::LogLine;
use crate::state::{Shared, Stage};
use crate::teardown::{ShutdownReport, kill_rest};
use crate::timeline::{Entry, Event};
use bytes::Bytes;
use rustix::process::Signal;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// Why a [`Lambda`] could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No loopback port, thread or directory could be had.
    #[error("the emulator cannot start: {0}")]
    Io(#[from] std::io::Error),
    /// The control group that was asked for cannot be written here.
    #[error("freezing by {0:?} is not possible here")]
    NoFreezer(Freeze),
    /// The emulator's thread ended before it was ready.
    #[error("the emulator's thread ended")]
    Ended,
}

/// How an init phase of its own went.
#[derive(Clone, Debug, Serialize)]
pub struct InitReport {
    /// From the start of the first process until everybody had asked for the first event.
    pub took: Duration,
    /// Why it failed; the next invocation tries again within the function's timeout.
    pub error: Option<FunctionError>,
}

/// A local Lambda with one execution environment. Dropping it kills everything it started.
pub struct Lambda {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    own_tmp_dir: Option<PathBuf>,
}

impl Lambda {
    /// Begins the settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) async fn start(mut config: Config) -> Result<Self, Error> {
        config.task_root = std::path::absolute(&config.task_root)?;
        let own_tmp_dir = if config.tmp_dir.is_none() {
            Some(new_tmp_dir()?)
        } else {
            None
        };
        let tmp_dir = config
            .tmp_dir
            .clone()
            .or_else(|| own_tmp_dir.clone())
            .unwrap_or_default();
        let freezer = Freezer::new(config.freeze, config.cpu_quota)?;
        let (ready, is_ready) = oneshot::channel();
        let (stop, is_stopped) = oneshot::channel();
        let (commands, inbox) = mpsc::unbounded_channel();
        // Processes die with the thread that started them, and a test may block its own: hence a thread for it alone.
        let thread = std::thread::Builder::new()
            .name("lambda-emulator".to_owned())
            .spawn(move || {
                let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                else {
                    return;
                };
                runtime.block_on(live(config, tmp_dir, freezer, ready, inbox, is_stopped));
            })?;
        let shared = is_ready.await.map_err(|_| Error::Ended)??;
        Ok(Self {
            shared,
            commands,
            stop: Some(stop),
            thread: Some(thread),
            own_tmp_dir,
        })
    }

    /// Runs the init phase ahead of the first invocation, as provisioned concurrency does, and freezes.
    pub async fn init(&self) -> InitReport {
        let ended = || InitReport {
            took: Duration::ZERO,
            error: Some(FunctionError::new("Emulator.Stopped", "")),
        };
        self.ask(Command::Init).await.unwrap_or_else(ended)
    }

    /// Invokes the function, and returns when the invocation is over: the runtime and every extension with INVOKE have
    /// asked for the next event and everything is frozen, or the environment was reset.
    pub async fn invoke(&self, payload: impl Into<Bytes>) -> Invocation {
        self.invoke_detached(payload).finished().await
    }

    /// Invokes the function and returns at once; the handle awaits the stages. Invocations queue up.
    pub fn invoke_detached(&self, payload: impl Into<Bytes>) -> InvocationHandle {
        let payload = payload.into();
        let progress = Arc::new(Progress::new());
        let handle = InvocationHandle::new(&progress);
        if payload.len() > PAYLOAD_BYTES_MAX {
            progress.send_modify(|progress| {
                progress.answer(Err(FunctionError::new(
                    "RequestEntityTooLarge",
                    "the payload is larger than 6 MB",
                )));
                progress.over = Some(progress.called.elapsed());
            });
        } else {
            let _ = self.commands.send(Command::Invoke { progress, payload });
        }
        handle
    }

    /// Lets the environment stay as it is, which is frozen, for this long; after the invocations that are under way.
    pub async fn pause(&self, pause: Duration) {
        self.ask(|reply| Command::Pause(pause, reply)).await;
    }

    /// Ends the environment as a timeout, failure or lack of memory would, also in the middle of an invocation. The next
    /// invocation starts everything anew within its own timeout; the temporary directory stays.
    pub async fn reset(&self, reset: Reset) -> ShutdownReport {
        self.shared.update(|state| {
            if state.invoking {
                state.interrupt = Some(reset);
            }
        });
        self.ask(|reply| Command::Reset(reset, reply))
            .await
            .unwrap_or_default()
    }

    /// Spins the environment down, after the invocations that are under way. A later invocation finds a new one, whose
    /// temporary directory is empty unless it was given by [`Builder::tmp_dir`].
    pub async fn shutdown(&self) -> ShutdownReport {
        self.ask(Command::Shutdown).await.unwrap_or_default()
    }

    /// Freezes everything now, also in the middle of an invocation, whose deadline goes on. Blocks until all stands still.
    pub fn freeze(&self) {
        self.shared.freeze();
    }

    /// Undoes [`Lambda::freeze`], or the freeze after an invocation.
    pub fn thaw(&self) {
        self.shared.thaw();
    }

    /// Sends a signal to a process, `runtime` or an extension by name. False if it does not run.
    pub fn signal(&self, process: &str, which: Signal) -> bool {
        let Some(pid) = self.pid(process) else {
            return false;
        };
        self.shared.timeline.add(Event::Signalled {
            process: process.to_owned(),
            signal: signal_name(which),
        });
        signal(pid, which);
        true
    }

    /// The process id of `runtime` or an extension, while it runs.
    pub fn pid(&self, process: &str) -> Option<u32> {
        self.shared
            .look()
            .living(process)
            .map(|process| process.pid)
    }

    /// Brings in a fault, for every extension.
    pub fn inject(&self, fault: Fault) {
        self.faults().push((None, fault));
    }

    /// Brings in a fault for one extension.
    pub fn inject_for(&self, extension: &str, fault: Fault) {
        self.faults().push((Some(extension.to_owned()), fault));
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        self.faults().clear();
    }

    /// What happened so far, in order.
    pub fn timeline(&self) -> Vec<Entry> {
        self.shared.timeline.entries()
    }

    /// The first entry, old or to come, that is wanted; `None` when the limit has passed.
    pub async fn wait_for(
        &self,
        limit: Duration,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Option<Entry> {
        self.shared.timeline.wait_for(limit, wanted).await
    }

    /// What the processes wrote so far.
    pub fn logs(&self) -> Vec<LogLine> {
        self.shared.logs.lines()
    }

    /// What `runtime` or an extension wrote so far.
    pub fn logs_of(&self, process: &str) -> Vec<LogLine> {
        self.logs()
            .into_iter()
            .filter(|line| line.source == process)
            .collect()
    }

    /// The first log line, old or to come, that is wanted; `None` when the limit has passed.
    pub async fn wait_for_log(
        &self,
        limit: Duration,
        wanted: impl Fn(&LogLine) -> bool,
    ) -> Option<LogLine> {
        self.shared.logs.wait_for(limit, wanted).await
    }

    /// Since the emulator was started: the clock of the timeline and the logs.
    pub fn elapsed(&self) -> Duration {
        self.shared.timeline.now()
    }

    /// What plays `/tmp`.
    pub fn tmp_dir(&self) -> &Path {
        &self.shared.tmp_dir
    }

    /// `AWS_LAMBDA_RUNTIME_API`: host and port.
    pub fn runtime_api(&self) -> &str {
        &self.shared.api
    }

    /// The means of freezing that is in use.
    pub fn freezer(&self) -> FreezerKind {
        self.shared.freezer.kind()
    }

    /// Whether the quota of [`Builder::cpu_quota`] really holds.
    pub fn cpu_quota_in_force(&self) -> bool {
        self.shared.freezer.limits_cpu()
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Vec<(Option<String>, Fault)>> {
        self.shared
            .faults
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).ok()?;
        answer.await.ok()
    }
}

impl Drop for Lambda {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(dir) = &self.own_tmp_dir {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// The life of the emulator's thread.
async fn live(
    config: Config,
    tmp_dir: PathBuf,
    freezer: Freezer,
    ready: oneshot::Sender<Result<Arc<Shared>, Error>>,
    commands: mpsc::UnboundedReceiver<Command>,
    stopped: oneshot::Receiver<()>,
) {
    let bound = TcpListener::bind("127.0.0.1:0")
        .await
        .and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = match bound {
        Ok(bound) => bound,
        Err(error) => return drop(ready.send(Err(error.into()))),
    };
    let shared = Arc::new(Shared::new(config, address.to_string(), tmp_dir, freezer));
    tokio::spawn(api::serve(listener, Arc::clone(&shared)));
    if ready.send(Ok(Arc::clone(&shared))).is_err() {
        return;
    }
    tokio::select! {
        () = Conductor::new(Arc::clone(&shared)).run(commands) => {}
        _ = stopped => {}
    }
    shared.thaw();
    shared.update(|state| state.stage = Stage::TearingDown);
    kill_rest(&shared).await;
}

fn new_tmp_dir() -> std::io::Result<PathBuf> {
    let parent = std::env::temp_dir();
    for entry in fs::read_dir(&parent)?
        .flatten()
        .filter(|entry| is_stale(&entry.path()))
    {
        let _ = fs::remove_dir_all(entry.path());
    }
    let dir = parent.join(owned_name());
    fs::create_dir(&dir)?;
    Ok(dir)
}

fn signal_name(signal: Signal) -> String {
    match signal {
        Signal::KILL => "SIGKILL".to_owned(),
        Signal::TERM => "SIGTERM".to_owned(),
        Signal::STOP => "SIGSTOP".to_owned(),
        Signal::CONT => "SIGCONT".to_owned(),
        other => format!("signal {}", other.as_raw()),
    }
}
