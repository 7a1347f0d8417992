//! The service's part: init, invocations one at a time, freezes in between.

use crate::Event;
use crate::config::{EXTENSIONS_MAX, InvokeDelivery, Mode, Reset};
use crate::environment;
use crate::invocation::{FunctionError, Progress};
use crate::lambda::InitReport;
use crate::process::{Launch, RUNTIME, launch};
use crate::state::{AgentEvent, Current, Shared, Stage, State, Trouble, Work};
use crate::teardown::{ShutdownReport, teardown};
use crate::timeline::unix_ms;
use bytes::Bytes;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};

/// AWS's own undocumented switch: with this file in `/opt` no extension is started.
const DISABLE_FILE: &str = "disable-extensions-jwigqn8j";

/// What a handle may ask for. All but `Init` and `Invoke` wait for the invocation under way.
pub(crate) enum Command {
    Init(oneshot::Sender<InitReport>),
    Invoke {
        progress: Arc<watch::Sender<Progress>>,
        payload: Bytes,
    },
    Pause(Duration, oneshot::Sender<()>),
    Reset(Reset, oneshot::Sender<ShutdownReport>),
    Shutdown(oneshot::Sender<ShutdownReport>),
}

pub(crate) struct Conductor {
    shared: Arc<Shared>,
    /// Everybody has initialised, so an invocation can be handed out.
    warm: bool,
    /// There is no environment yet: init has a phase of its own, and `/tmp` starts empty.
    new: bool,
    last_teardown: ShutdownReport,
}

impl Conductor {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            warm: false,
            new: true,
            last_teardown: ShutdownReport::default(),
        }
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Init(reply) => drop(reply.send(self.init_ahead().await)),
                Command::Invoke { progress, payload } => self.invoke(&progress, payload).await,
                Command::Pause(pause, reply) => {
                    tokio::time::sleep(pause).await;
                    let _ = reply.send(());
                }
                Command::Reset(reset, reply) => {
                    if self.warm {
                        self.tear_down(reset_reason(reset), reset).await;
                    }
                    self.shared.update(|state| state.interrupt = None);
                    let _ = reply.send(self.last_teardown.clone());
                }
                Command::Shutdown(reply) => {
                    let running = self.shared.look().stage != Stage::Off;
                    if running {
                        self.tear_down("SPINDOWN", Reset::Failure).await;
                    }
                    self.new = true;
                    let report = std::mem::take(&mut self.last_teardown);
                    let _ = reply.send(if running {
                        report
                    } else {
                        ShutdownReport::default()
                    });
                }
            }
        }
    }

    async fn init_ahead(&mut self) -> InitReport {
        let started = Instant::now();
        let result = if self.warm {
            Ok(())
        } else {
            self.init("init", started + self.shared.config.init_limit)
                .await
        };
        let report = InitReport {
            took: started.elapsed(),
            error: result.err().map(|trouble| init_error(&trouble)),
        };
        if report.error.is_none() {
            self.settle();
        }
        report
    }

    /// Between invocations everything stands still.
    fn settle(&self) {
        if self.shared.config.mode == Mode::OnDemand {
            self.shared.freeze();
        }
    }

    async fn tear_down(&mut self, reason: &'static str, reset: Reset) {
        self.warm = false;
        self.last_teardown = teardown(&self.shared, reason, reset).await;
    }

    /// One init attempt; after a failed one nothing runs any more.
    async fn init(&mut self, phase: &str, deadline: Instant) -> Result<(), Trouble> {
        let shared = Arc::clone(&self.shared);
        if std::mem::take(&mut self.new) && shared.config.tmp_dir.is_none() {
            empty(&shared.tmp_dir);
        }
        let started = Instant::now();
        shared.timeline.add(Event::InitStarted {
            phase: phase.to_owned(),
        });
        let kind = shared.config.initialization_type();
        shared.telemetry.platform(
            "platform.initStart",
            json!({
                "initializationType": kind, "phase": phase,
                "functionName": shared.config.function_name, "functionVersion": "$LATEST",
            }),
        );
        let result = tokio::select! {
            result = try_init(&shared, phase) => result,
            trouble = shared.wait_for(State::trouble) => Err(trouble),
            () = tokio::time::sleep_until(deadline.into()) => Err(Trouble::OutOfTime),
        };
        let error = result
            .as_ref()
            .err()
            .map(|trouble| init_error(trouble).error_type);
        let milliseconds = milliseconds(started.elapsed());
        let status = status_of(result.as_ref().err());
        shared.telemetry.platform(
            "platform.initReport",
            json!({ "initializationType": kind, "phase": phase, "status": status, "metrics": { "durationMs": milliseconds } }),
        );
        shared.timeline.add(Event::InitEnded {
            phase: phase.to_owned(),
            error,
        });
        match result {
            Ok(()) => {
                self.warm = true;
                shared.update(|state| state.stage = Stage::Running);
                Ok(())
            }
            Err(trouble) => {
                self.tear_down(reset_reason(trouble.reset()), trouble.reset())
                    .await;
                Err(trouble)
            }
        }
    }

    async fn invoke(&mut self, progress: &Arc<watch::Sender<Progress>>, payload: Bytes) {
        let shared = Arc::clone(&self.shared);
        let request_id = progress.borrow().request_id.clone();
        shared.thaw();
        shared.timeline.add(Event::InvokeStarted {
            request_id: request_id.clone(),
        });
        let outcome = self.run_invocation(progress, &request_id, payload).await;
        let trouble = outcome.err();
        self.report(progress, &request_id, trouble.as_ref());
        if let Some(trouble) = &trouble {
            let error = trouble.error(&request_id, shared.config.timeout);
            progress.send_modify(|progress| {
                progress.fault = Some(error.clone());
                progress.answer(Err(error));
            });
            let spared = shared.config.mode == Mode::ManagedInstances
                && matches!(trouble, Trouble::OutOfTime);
            if self.warm && !spared {
                self.tear_down(reset_reason(trouble.reset()), trouble.reset())
                    .await;
            }
        }
        shared.update(|state| {
            state.current = None;
            state.interrupt = None;
        });
        let fault = progress
            .borrow()
            .fault
            .as_ref()
            .map(|fault| fault.error_type.clone());
        shared
            .timeline
            .add(Event::InvokeEnded { request_id, fault });
        if self.warm {
            self.settle();
        }
        progress.send_modify(|progress| progress.over = Some(progress.called.elapsed()));
    }

    async fn run_invocation(
        &mut self,
        progress: &Arc<watch::Sender<Progress>>,
        request_id: &str,
        payload: Bytes,
    ) -> Result<(), Trouble> {
        let timeout = self.shared.config.timeout;
        let mut deadline = Instant::now() + timeout;
        if !self.warm {
            deadline = self.warm_up(progress, deadline).await?;
        }
        let shared = &self.shared;
        if let Some(trouble) = shared.look().trouble() {
            return Err(trouble);
        }
        self.hand_out(progress, request_id, payload, deadline);
        tokio::select! {
            biased;
            () = follow(shared, progress, request_id) => Ok(()),
            trouble = shared.wait_for(State::trouble) => Err(trouble),
            () = tokio::time::sleep_until(deadline.into()) => {
                shared.timeline.add(Event::TimedOut { request_id: request_id.to_owned() });
                Err(Trouble::OutOfTime)
            }
        }
    }

    /// Init in its own phase for a new environment; else, or if that failed, within the function's timeout.
    async fn warm_up(
        &mut self,
        progress: &watch::Sender<Progress>,
        deadline: Instant,
    ) -> Result<Instant, Trouble> {
        let started = Instant::now();
        let config = &self.shared.config;
        let (timeout, limit) = (config.timeout, config.init_limit);
        let result = if self.new {
            match self.init("init", started + limit).await {
                Ok(()) => Ok(Instant::now() + timeout),
                Err(interrupted @ Trouble::Interrupt(_)) => Err(interrupted),
                Err(_) => {
                    let deadline = Instant::now() + timeout;
                    self.init("invoke", deadline).await.map(|()| deadline)
                }
            }
        } else {
            self.init("invoke", deadline).await.map(|()| deadline)
        };
        progress.send_modify(|progress| progress.init = Some(started.elapsed()));
        result
    }

    fn hand_out(
        &self,
        progress: &Arc<watch::Sender<Progress>>,
        request_id: &str,
        payload: Bytes,
        deadline: Instant,
    ) {
        let shared = &self.shared;
        let deadline_unix_ms =
            unix_ms(SystemTime::now() + deadline.saturating_duration_since(Instant::now()));
        let trace = trace_header();
        let tracing = json!({ "type": "X-Amzn-Trace-Id", "value": trace });
        shared.telemetry.platform(
            "platform.start",
            json!({ "requestId": request_id, "version": "$LATEST", "tracing": tracing }),
        );
        progress.send_modify(|progress| progress.started = Some(progress.called.elapsed()));
        let event = AgentEvent::Invoke {
            request_id: request_id.to_owned(),
            deadline_unix_ms,
            trace: trace.clone(),
        };
        let late = shared.config.invoke_delivery != InvokeDelivery::WithRuntime;
        let generation = shared.update(|state| {
            state.current = Some(Current::new(request_id.to_owned(), Arc::clone(progress)));
            for agent in state
                .agents
                .iter_mut()
                .filter(|agent| agent.wants("INVOKE"))
            {
                if late {
                    agent.busy = true;
                    agent.owed += 1;
                } else {
                    agent.push(event.clone());
                }
            }
            state.give(Work {
                request_id: request_id.to_owned(),
                deadline_unix_ms,
                trace,
                payload,
            });
            state.generation
        });
        if late {
            tokio::spawn(push_late(
                Arc::clone(shared),
                progress.subscribe(),
                event,
                generation,
            ));
        }
    }

    /// `platform.report`, and `platform.runtimeDone` where the runtime never got to ask for more.
    fn report(
        &self,
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
            runtime_done(&self.shared, request_id, status_of(trouble), trouble);
        }
        let elapsed = progress.borrow().called.elapsed().saturating_sub(started);
        let mut record = json!({
            "requestId": request_id,
            "status": trouble.map_or_else(|| handler_status(&self.shared), |trouble| status_of(Some(trouble))),
            "metrics": {
                "durationMs": milliseconds(elapsed),
                "billedDurationMs": milliseconds(elapsed).ceil(),
                "memorySizeMB": self.shared.config.memory_mb,
                "maxMemoryUsedMB": self.shared.config.memory_mb.min(128),
            },
        });
        if let Some(init) = init {
            record["metrics"]["initDurationMs"] = milliseconds(init).into();
        }
        if let Some(trouble) = trouble {
            record["errorType"] = trouble
                .error(request_id, self.shared.config.timeout)
                .error_type
                .into();
        }
        self.shared.telemetry.platform("platform.report", record);
    }
}

/// From the handing out to the moment when nobody holds the environment any more.
async fn follow(shared: &Shared, progress: &watch::Sender<Progress>, request_id: &str) {
    let answered = |state: &State| {
        state
            .current
            .as_ref()
            .is_some_and(|current| current.answered)
    };
    if shared.config.mode == Mode::ManagedInstances {
        shared.wait_for(|state| answered(state).then_some(())).await;
        return;
    }
    shared
        .wait_for(|state| (answered(state) && state.runtime_idle).then_some(()))
        .await;
    progress.send_modify(|progress| progress.runtime_done = Some(progress.called.elapsed()));
    runtime_done(shared, request_id, handler_status(shared), None);
    shared
        .wait_for(|state| state.everybody_released().then_some(()))
        .await;
    progress.send_modify(|progress| progress.released = Some(progress.called.elapsed()));
}

fn handler_status(shared: &Shared) -> &'static str {
    let failed = shared
        .look()
        .current
        .as_ref()
        .is_some_and(|current| current.error_type.is_some());
    if failed { "error" } else { "success" }
}

fn runtime_done(shared: &Shared, request_id: &str, status: &str, trouble: Option<&Trouble>) {
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
    shared.telemetry.platform("platform.runtimeDone", record);
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

async fn push_late(
    shared: Arc<Shared>,
    mut progress: watch::Receiver<Progress>,
    event: AgentEvent,
    generation: u64,
) {
    let delay = match shared.config.invoke_delivery {
        InvokeDelivery::WithRuntime => Duration::ZERO,
        InvokeDelivery::After(delay) => delay,
        InvokeDelivery::AfterResponse(delay) => {
            let _ = progress
                .wait_for(|progress| progress.answer.is_some())
                .await;
            delay
        }
    };
    tokio::time::sleep(delay).await;
    shared.update(|state| {
        if state.generation == generation && state.stage == Stage::Running {
            for agent in state
                .agents
                .iter_mut()
                .filter(|agent| agent.wants("INVOKE") && agent.owed > 0)
            {
                agent.owed -= 1;
                agent.push(event.clone());
            }
        }
    });
}

/// Extensions first, all of them; then the runtime; then until everybody asks for the first event.
async fn try_init(shared: &Arc<Shared>, phase: &str) -> Result<(), Trouble> {
    let files = extension_files(shared.config.opt_dir.as_deref());
    if files.len() > EXTENSIONS_MAX {
        let message = format!("{} extensions, at most {EXTENSIONS_MAX}", files.len());
        return Err(Trouble::Fault(FunctionError::new(
            "Extension.LimitExceeded",
            message,
        )));
    }
    let names: Vec<String> = files.iter().map(|file| file_name(file)).collect();
    shared.update(|state| state.renew(&names));
    for (name, file) in names.iter().zip(&files) {
        start_extension(shared, name, file)?;
    }
    shared
        .wait_for(|state| {
            state
                .agents
                .iter()
                .all(|agent| agent.registered)
                .then_some(())
        })
        .await;
    shared.update(|state| state.stage = Stage::Initialising);
    start_runtime(shared)?;
    shared
        .wait_for(|state| state.runtime_idle.then_some(()))
        .await;
    shared.telemetry.platform(
        "platform.initRuntimeDone",
        json!({ "initializationType": shared.config.initialization_type(), "phase": phase, "status": "success" }),
    );
    shared
        .wait_for(|state| state.everybody_initialised().then_some(()))
        .await;
    let agents: Vec<_> = shared
        .look()
        .agents
        .iter()
        .map(|agent| (agent.name.clone(), agent.events.clone()))
        .collect();
    for (name, events) in agents {
        let record = json!({ "name": name, "state": "Ready", "events": events });
        shared.telemetry.platform("platform.extension", record);
    }
    Ok(())
}

fn start_extension(shared: &Arc<Shared>, name: &str, file: &Path) -> Result<(), Trouble> {
    let env = environment::of_extension(&shared.config, &shared.api, &shared.tmp_dir);
    launch(
        shared,
        &Launch {
            name,
            program: file,
            arguments: &[],
            env,
            directory: Path::new("/"),
        },
    )
    .map_err(|error| launch_error("Extension.LaunchError", file, &error))
}

fn start_runtime(shared: &Arc<Shared>) -> Result<(), Trouble> {
    let Some((program, arguments)) = shared.config.bootstrap.split_first() else {
        return Err(Trouble::Fault(FunctionError::new(
            "Runtime.InvalidEntrypoint",
            "no bootstrap was given",
        )));
    };
    let env = environment::of_runtime(&shared.config, &shared.api, &shared.tmp_dir);
    let program = Path::new(program);
    launch(
        shared,
        &Launch {
            name: RUNTIME,
            program,
            arguments,
            env,
            directory: &shared.config.task_root,
        },
    )
    .map_err(|error| launch_error("Runtime.InvalidEntrypoint", program, &error))
}

fn launch_error(error_type: &str, program: &Path, error: &std::io::Error) -> Trouble {
    Trouble::Fault(FunctionError::new(
        error_type,
        format!("{}: {error}", program.display()),
    ))
}

/// Every file, executable or not, in the order of their names.
fn extension_files(opt_dir: Option<&Path>) -> Vec<PathBuf> {
    let Some(opt_dir) = opt_dir.filter(|dir| !dir.join(DISABLE_FILE).exists()) else {
        return Vec::new();
    };
    let entries = fs::read_dir(opt_dir.join("extensions"))
        .into_iter()
        .flatten()
        .flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .map(|path| std::path::absolute(&path).unwrap_or(path))
        .collect();
    files.sort();
    files
}

fn file_name(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn empty(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let _ = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
    }
}

fn init_error(trouble: &Trouble) -> FunctionError {
    match trouble {
        Trouble::OutOfTime => FunctionError::new("Sandbox.Timedout", "init timed out"),
        other => other.error("", Duration::ZERO),
    }
}

fn status_of(trouble: Option<&Trouble>) -> &'static str {
    match trouble {
        None => "success",
        Some(Trouble::OutOfTime | Trouble::Interrupt(Reset::Timeout)) => "timeout",
        Some(_) => "failure",
    }
}

fn reset_reason(reset: Reset) -> &'static str {
    if reset == Reset::Timeout {
        "TIMEOUT"
    } else {
        "FAILURE"
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

fn trace_header() -> String {
    let root = uuid::Uuid::new_v4().simple().to_string();
    let parent = uuid::Uuid::new_v4().simple().to_string();
    format!(
        "Root=1-{}-{};Parent={};Sampled=0",
        &root[..8],
        &root[8..],
        &parent[..16]
    )
}
