//! The service's part: init, invocations one at a time, freezes in between.

use crate::Event;
use crate::config::{InvokeDelivery, Mode, Reset};
use crate::init::try_init;
use crate::invocation::{FunctionError, Progress};
use crate::lambda::InitReport;
use crate::records::{handler_status, milliseconds, report, runtime_done, status_of};
use crate::state::{AgentEvent, Current, Shared, Stage, State, Trouble, Work};
use crate::teardown::{ShutdownReport, teardown};
use crate::timeline::unix_ms;
use bytes::Bytes;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};

/// What a handle may ask for; one is done after the other.
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
            &json!({
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
            &json!({ "initializationType": kind, "phase": phase, "status": status, "metrics": { "durationMs": milliseconds } }),
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
        shared.update(|state| state.invoking = true);
        shared.timeline.add(Event::InvokeStarted {
            request_id: request_id.clone(),
        });
        let outcome = self.run_invocation(progress, &request_id, payload).await;
        let trouble = outcome.err();
        report(&shared, progress, &request_id, trouble.as_ref());
        if let Some(trouble) = &trouble {
            let error = trouble.error(&request_id, shared.config.timeout);
            progress.send_modify(|progress| {
                progress.fault = Some(error.clone());
                progress.answer(Err(error));
            });
            let runs_on = shared.config.mode == Mode::ManagedInstances
                && matches!(trouble, Trouble::OutOfTime);
            if self.warm && !runs_on {
                self.tear_down(reset_reason(trouble.reset()), trouble.reset())
                    .await;
            }
        }
        shared.update(|state| {
            state.current = None;
            state.invoking = false;
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
            &json!({ "requestId": request_id, "version": "$LATEST", "tracing": tracing }),
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

fn reset_reason(reset: Reset) -> &'static str {
    if reset == Reset::Timeout {
        "TIMEOUT"
    } else {
        "FAILURE"
    }
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
