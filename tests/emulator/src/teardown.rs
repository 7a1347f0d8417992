//! The shutdown phase, at a spindown as at a reset: the runtime first, then the extensions, within one budget.

use crate::Event;
use crate::config::{Reset, SHUTDOWN_BUDGET};
use crate::freezer::signal;
use crate::process::{Exit, RUNTIME};
use crate::state::{AgentEvent, Shared, Stage, State};
use crate::timeline::unix_ms;
use rustix::process::Signal;
use serde::Serialize;
use std::time::{Duration, Instant, SystemTime};

/// How long a process may take to vanish after SIGKILL.
const REAP_LIMIT: Duration = Duration::from_secs(2);

/// How an environment ended.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ShutdownReport {
    /// `SPINDOWN`, `TIMEOUT` or `FAILURE`; empty when nothing was running.
    pub reason: String,
    /// From the start of the phase until no process was left.
    pub took: Duration,
    /// The runtime, unless it never ran.
    pub runtime: Option<ProcessEnd>,
    /// The extensions, in their order.
    pub extensions: Vec<ProcessEnd>,
}

/// How a process ended.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessEnd {
    /// `runtime` or the extension's name.
    pub name: String,
    /// Its exit status or signal.
    pub exit: Option<Exit>,
    /// Whether the platform had to kill it (or did not care to ask).
    pub killed: bool,
    /// Whether it got its SHUTDOWN event (an extension) or SIGTERM (the runtime).
    pub notified: bool,
    /// From that, or else from the start of the phase, to its end.
    pub took: Duration,
}

/// Ends all processes, and leaves an empty state behind.
pub(crate) async fn teardown(
    shared: &Shared,
    reason: &'static str,
    reset: Reset,
) -> ShutdownReport {
    let started = Instant::now();
    shared.thaw();
    shared.timeline.add(Event::TeardownStarted {
        reason: reason.to_owned(),
    });
    let registered = shared.update(|state| {
        state.stage = Stage::TearingDown;
        state
            .agents
            .iter()
            .any(|agent| agent.external && agent.events.is_some())
    });
    let deadline = started + SHUTDOWN_BUDGET;
    let gently = reset != Reset::Killed;
    let terminated_at = if gently {
        stop_runtime(shared, reset, registered, deadline).await
    } else {
        None
    };
    if gently {
        stop_extensions(shared, reason, deadline).await;
    }
    kill_rest(shared).await;
    shared.telemetry.clear();
    let report = shared.update(|state| {
        let report = report(state, reason, started, terminated_at);
        state.stage = Stage::Off;
        state.fault = None;
        report
    });
    shared.timeline.add(Event::TeardownEnded {
        reason: reason.to_owned(),
    });
    report
}

/// SIGTERM if there is an extension whose work it could matter to, SIGKILL after the grace. Says when SIGTERM went out.
async fn stop_runtime(
    shared: &Shared,
    reset: Reset,
    registered: bool,
    deadline: Instant,
) -> Option<Instant> {
    let pid = shared.look().living(RUNTIME)?.pid;
    let mut terminated_at = None;
    if registered && reset != Reset::OutOfMemory {
        terminated_at = Some(Instant::now());
        shared.timeline.add(Event::Signalled {
            process: RUNTIME.to_owned(),
            signal: "SIGTERM".to_owned(),
        });
        signal(pid, Signal::TERM);
        let limit = (Instant::now() + shared.config.runtime_grace).min(deadline);
        wait_for_exit(shared, limit, |state| state.living(RUNTIME).is_none()).await;
    }
    if shared.look().living(RUNTIME).is_some() {
        kill(shared, RUNTIME);
    } else {
        // Its children end with it: the runtime's domain is shut down as a whole.
        shared.freezer.kill(RUNTIME, pid);
    }
    wait_for_exit(shared, deadline, |state| state.living(RUNTIME).is_none()).await;
    terminated_at
}

async fn stop_extensions(shared: &Shared, reason: &'static str, deadline: Instant) {
    let deadline_unix_ms =
        unix_ms(SystemTime::now() + deadline.saturating_duration_since(Instant::now()));
    let uninterested: Vec<String> = shared.update(|state| {
        for agent in state
            .agents
            .iter_mut()
            .filter(|agent| agent.external && agent.wants("SHUTDOWN"))
        {
            agent.push(AgentEvent::Shutdown {
                reason,
                deadline_unix_ms,
                deadline,
            });
        }
        let names = state
            .agents
            .iter()
            .filter(|agent| agent.external && !agent.wants("SHUTDOWN"));
        names.map(|agent| agent.name.clone()).collect()
    });
    for name in uninterested {
        kill(shared, &name);
    }
    wait_for_exit(shared, deadline, |state| state.living_pids().is_empty()).await;
}

/// Kills what is left, and waits until it is gone and its last words are read.
pub(crate) async fn kill_rest(shared: &Shared) {
    let left: Vec<String> = shared
        .look()
        .processes
        .iter()
        .filter(|process| process.exited.is_none())
        .map(|process| process.name.clone())
        .collect();
    for name in left {
        kill(shared, &name);
    }
    let pids: Vec<u32> = shared
        .look()
        .processes
        .iter()
        .map(|process| process.pid)
        .collect();
    shared.freezer.kill_all(&pids);
    wait_for_exit(shared, Instant::now() + REAP_LIMIT, |state| {
        state.living_pids().is_empty() && state.open_pipes == 0
    })
    .await;
}

fn kill(shared: &Shared, name: &str) {
    let pid = shared.update(|state| {
        let process = state
            .processes
            .iter_mut()
            .find(|process| process.name == name && process.exited.is_none())?;
        process.killed = true;
        Some(process.pid)
    });
    if let Some(pid) = pid {
        shared.timeline.add(Event::Signalled {
            process: name.to_owned(),
            signal: "SIGKILL".to_owned(),
        });
        shared.freezer.kill(name, pid);
    }
}

async fn wait_for_exit(shared: &Shared, limit: Instant, gone: impl Fn(&State) -> bool) {
    let gone = shared.wait_for(|state| gone(state).then_some(()));
    let _ = tokio::time::timeout_at(limit.into(), gone).await;
}

fn report(
    state: &State,
    reason: &str,
    started: Instant,
    terminated_at: Option<Instant>,
) -> ShutdownReport {
    let end = |name: &str, notified_at: Option<Instant>| {
        let process = state
            .processes
            .iter()
            .find(|process| process.name == name)?;
        let since = notified_at.unwrap_or(started);
        Some(ProcessEnd {
            name: name.to_owned(),
            exit: process.exited.map(|(exit, _)| exit),
            killed: process.killed,
            notified: notified_at.is_some(),
            took: process.exited.map_or_else(
                || since.elapsed(),
                |(_, at)| at.saturating_duration_since(since),
            ),
        })
    };
    ShutdownReport {
        reason: reason.to_owned(),
        took: started.elapsed(),
        runtime: end(RUNTIME, terminated_at),
        extensions: state
            .agents
            .iter()
            .filter(|agent| agent.external)
            .filter_map(|agent| end(&agent.name, agent.notified_at))
            .collect(),
    }
}
