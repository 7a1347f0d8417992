//! What the API handlers and the conductor share: one environment's processes, extensions, runtime and invocation.

use crate::config::{Config, Fault, Reset};
use crate::freezer::Freezer;
use crate::invocation::{FunctionError, Progress};
use crate::logs::Logs;
use crate::process::{Exit, Process, RUNTIME};
use crate::telemetry::Hub;
use crate::timeline::Timeline;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Everything that is shared, for as long as the [`crate::Lambda`] lives.
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// Host and port of the APIs.
    pub(crate) api: String,
    pub(crate) tmp_dir: PathBuf,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) logs: Logs,
    pub(crate) freezer: Freezer,
    pub(crate) telemetry: Hub,
    pub(crate) faults: Mutex<Vec<(Option<String>, Fault)>>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn new(config: Config, api: String, tmp_dir: PathBuf, freezer: Freezer) -> Self {
        let timeline = Arc::new(Timeline::new());
        Self {
            telemetry: Hub::new(config.telemetry.clone(), Arc::clone(&timeline)),
            logs: Logs::new(config.echo_logs),
            faults: Mutex::new(
                config
                    .faults
                    .iter()
                    .map(|fault| (None, fault.clone()))
                    .collect(),
            ),
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            timeline,
            api,
            tmp_dir,
            freezer,
            config,
        }
    }

    pub(crate) fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes whoever waits on it.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.look());
        self.changed.send_modify(|version| *version += 1);
        result
    }

    /// Waits until `found` finds something in the state.
    pub(crate) async fn wait_for<T>(&self, found: impl Fn(&State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(found) = found(&self.look()) {
                return found;
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = changed.changed().await;
        }
    }

    /// Uses up one count of the first fault of this extension that `pick` wants.
    pub(crate) fn fault<T>(
        &self,
        extension: &str,
        pick: impl Fn(&Fault) -> Option<T>,
    ) -> Option<T> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let (index, picked) = faults
            .iter()
            .enumerate()
            .find_map(|(index, (only, fault))| {
                let meant = only.as_ref().is_none_or(|only| only == extension);
                meant
                    .then(|| pick(fault))
                    .flatten()
                    .map(|picked| (index, picked))
            })?;
        match &mut faults[index].1 {
            Fault::NextFails { times, .. }
            | Fault::RegisterFails { times, .. }
            | Fault::MalformedEvent { times } => {
                *times = times.saturating_sub(1);
                if *times == 0 {
                    faults.remove(index);
                }
            }
            Fault::RegisterSlow(_) | Fault::InvokeDeadline(_) => {}
        }
        Some(picked)
    }

    /// Freezes everything, unless it is frozen.
    pub(crate) fn freeze(&self) {
        use crate::freezer::FreezerKind;
        let pids = self.look().living_pids();
        if self.freezer.kind() == FreezerKind::Off || self.look().frozen_since.is_some() {
            return;
        }
        self.telemetry.pause(true);
        self.freezer.freeze(&pids);
        self.timeline.add(crate::Event::Frozen {
            by: self.freezer.kind().to_string(),
        });
        self.update(|state| state.frozen_since = Some(Instant::now()));
    }

    /// Thaws everything that [`Shared::freeze`] froze.
    pub(crate) fn thaw(&self) {
        let Some(since) = self.update(|state| state.frozen_since.take()) else {
            return;
        };
        let after_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.timeline.add(crate::Event::Thawed { after_ms });
        self.freezer.thaw(&self.look().living_pids());
        self.telemetry.pause(false);
    }
}

/// Where the environment is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No process runs.
    #[default]
    Off,
    /// Extensions are started and register; the runtime is not started yet.
    Registering,
    /// The runtime is started; not everybody has asked for the next event.
    Initialising,
    /// Ready for, or in, an invocation.
    Running,
    /// Shutdown or reset: exits are expected.
    TearingDown,
}

/// An event for an extension.
#[derive(Clone, Debug)]
pub(crate) enum AgentEvent {
    Invoke {
        request_id: String,
        deadline_unix_ms: u64,
        trace: String,
    },
    Shutdown {
        reason: &'static str,
        deadline_unix_ms: u64,
        deadline: Instant,
    },
}

/// An extension.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) id: String,
    /// A file in `/opt/extensions`, as opposed to a part of the runtime's process.
    pub(crate) external: bool,
    /// What it registered for; `None` until it does.
    pub(crate) events: Option<Vec<String>>,
    /// Whether it has ever asked for an event.
    pub(crate) initialised: bool,
    /// Has been given an INVOKE (or will be) and not asked for the next event since.
    pub(crate) busy: bool,
    /// Events that are decided on and come later.
    pub(crate) owed: u32,
    pub(crate) notified_at: Option<Instant>,
    inbox: VecDeque<AgentEvent>,
    waiting: Option<oneshot::Sender<AgentEvent>>,
}

impl Agent {
    pub(crate) fn new(name: String, external: bool) -> Self {
        Self {
            name,
            id: uuid::Uuid::new_v4().to_string(),
            external,
            events: None,
            initialised: false,
            busy: false,
            owed: 0,
            notified_at: None,
            inbox: VecDeque::new(),
            waiting: None,
        }
    }

    pub(crate) fn wants(&self, event: &str) -> bool {
        self.events.iter().flatten().any(|wanted| wanted == event)
    }

    /// The extension asks for the next event.
    pub(crate) fn next(&mut self) -> oneshot::Receiver<AgentEvent> {
        self.initialised = true;
        let (sender, receiver) = oneshot::channel();
        if let Some(event) = self.inbox.pop_front() {
            let _ = sender.send(event);
        } else {
            self.busy = self.owed > 0;
            self.waiting = Some(sender);
        }
        receiver
    }

    pub(crate) fn push(&mut self, event: AgentEvent) {
        self.busy = true;
        match self
            .waiting
            .take()
            .map(|waiting| waiting.send(event.clone()))
        {
            Some(Ok(())) => {}
            Some(Err(event)) => self.inbox.push_back(event),
            None => self.inbox.push_back(event),
        }
    }
}

/// What the runtime gets from `/invocation/next`.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) request_id: String,
    pub(crate) deadline_unix_ms: u64,
    pub(crate) trace: String,
    pub(crate) payload: bytes::Bytes,
}

/// The invocation under way.
pub(crate) struct Current {
    pub(crate) request_id: String,
    pub(crate) progress: Arc<watch::Sender<Progress>>,
    /// Whether the runtime has picked it up.
    pub(crate) delivered: Option<Instant>,
    pub(crate) response_started: Option<Instant>,
    pub(crate) response_ended: Option<Instant>,
    /// The runtime has posted a response or an error, in full.
    pub(crate) answered: bool,
    pub(crate) error_type: Option<String>,
    pub(crate) bytes: usize,
}

impl Current {
    pub(crate) fn new(request_id: String, progress: Arc<watch::Sender<Progress>>) -> Self {
        Self {
            request_id,
            progress,
            delivered: None,
            response_started: None,
            response_ended: None,
            answered: false,
            error_type: None,
            bytes: 0,
        }
    }
}

/// The state of one environment; a reset starts a new one.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) generation: u64,
    pub(crate) stage: Stage,
    pub(crate) agents: Vec<Agent>,
    pub(crate) processes: Vec<Process>,
    /// Outputs of processes that have not come to their end.
    pub(crate) open_pipes: u32,
    /// Whether an invocation is under way, its init included.
    pub(crate) invoking: bool,
    pub(crate) current: Option<Current>,
    /// The first thing that makes the environment unusable.
    pub(crate) fault: Option<FunctionError>,
    /// A test asked for a reset in the middle of things.
    pub(crate) interrupt: Option<Reset>,
    pub(crate) frozen_since: Option<Instant>,
    /// Whether the runtime has asked for work and got none yet.
    pub(crate) runtime_idle: bool,
    runtime_waiting: VecDeque<oneshot::Sender<Work>>,
    work: Option<Work>,
}

impl State {
    /// Begins a new environment.
    pub(crate) fn renew(&mut self, names: &[String]) {
        let generation = self.generation + 1;
        *self = Self {
            generation,
            stage: Stage::Registering,
            agents: names
                .iter()
                .map(|name| Agent::new(name.clone(), true))
                .collect(),
            interrupt: self.interrupt,
            invoking: self.invoking,
            ..Self::default()
        };
    }

    pub(crate) fn living_pids(&self) -> Vec<u32> {
        self.processes
            .iter()
            .filter(|process| process.exited.is_none())
            .map(|process| process.pid)
            .collect()
    }

    pub(crate) fn living(&self, name: &str) -> Option<&Process> {
        self.processes
            .iter()
            .find(|process| process.name == name && process.exited.is_none())
    }

    pub(crate) fn agent(&mut self, id: &str) -> Option<&mut Agent> {
        self.agents.iter_mut().find(|agent| agent.id == id)
    }

    pub(crate) fn process_exited(&mut self, name: &str, pid: u32, generation: u64, exit: Exit) {
        if let Some(process) = self
            .processes
            .iter_mut()
            .find(|process| process.pid == pid && process.exited.is_none())
        {
            process.exited = Some((exit, Instant::now()));
        }
        if generation != self.generation || matches!(self.stage, Stage::Off | Stage::TearingDown) {
            return;
        }
        let how = match exit {
            Exit::Code(code) => format!("exit status {code}"),
            Exit::Signal(signal) => format!("signal {signal}"),
        };
        let error = if name == RUNTIME {
            FunctionError::new("Runtime.ExitError", format!("Runtime exited: {how}"))
        } else {
            FunctionError::new("Extension.Crash", format!("Extension {name} exited: {how}"))
        };
        self.fault.get_or_insert(error);
    }

    /// The runtime asks for work. `None` if it may not: it owes the answer to the last one.
    pub(crate) fn runtime_next(&mut self) -> Option<oneshot::Receiver<Work>> {
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.delivered.is_some() && !current.answered)
        {
            return None;
        }
        self.runtime_idle = true;
        let (sender, receiver) = oneshot::channel();
        self.runtime_waiting.push_back(sender);
        if let Some(work) = self.work.take() {
            self.give(work);
        }
        Some(receiver)
    }

    /// Hands work to the runtime, now or when it asks.
    pub(crate) fn give(&mut self, mut work: Work) {
        while let Some(waiting) = self.runtime_waiting.pop_front() {
            match waiting.send(work) {
                Ok(()) => {
                    self.runtime_idle = !self.runtime_waiting.is_empty();
                    if let Some(current) = &mut self.current {
                        current.delivered = Some(Instant::now());
                    }
                    return;
                }
                // The one that waited has gone away.
                Err(back) => work = back,
            }
        }
        self.runtime_idle = false;
        self.work = Some(work);
    }

    /// What the invocation under way ran into, if anything.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let fault = self.fault.clone().map(Trouble::Fault);
        self.interrupt.map(Trouble::Interrupt).or(fault)
    }

    pub(crate) fn everybody_initialised(&self) -> bool {
        self.runtime_idle && self.agents.iter().all(|agent| agent.initialised)
    }

    pub(crate) fn everybody_released(&self) -> bool {
        self.agents.iter().all(|agent| !agent.busy)
    }
}

/// Why an invocation or an init cannot go on.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    Fault(FunctionError),
    Interrupt(Reset),
    OutOfTime,
}

impl Trouble {
    pub(crate) fn reset(&self) -> Reset {
        match self {
            Self::Fault(_) => Reset::Failure,
            Self::Interrupt(reset) => *reset,
            Self::OutOfTime => Reset::Timeout,
        }
    }

    pub(crate) fn error(&self, request_id: &str, limit: Duration) -> FunctionError {
        match self {
            Self::Fault(error) => error.clone(),
            Self::OutOfTime | Self::Interrupt(Reset::Timeout) => {
                let message = format!(
                    "RequestId: {request_id} Error: Task timed out after {:.2} seconds",
                    limit.as_secs_f64()
                );
                FunctionError::new("Sandbox.Timedout", message)
            }
            Self::Interrupt(Reset::OutOfMemory) => {
                FunctionError::new("Runtime.OutOfMemory", "Runtime exited: signal: killed")
            }
            Self::Interrupt(Reset::Failure | Reset::Killed) => {
                FunctionError::new("Sandbox.Failure", "the environment was reset")
            }
        }
    }
}
