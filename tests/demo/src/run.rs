//! One run: a function environment from its cold start to its shutdown, with Langfuse in one state of health.

use std::time::{Duration, UNIX_EPOCH};

use lambda_emulator::fake_langfuse::{Config, FakeLangfuse, Project, RecordedRequest};
use lambda_emulator::{Builder, Entry, Event, Invocation, Lambda, ShutdownReport};
use serde_json::json;

use crate::plan::{FUNCTION_TIMEOUT, Health, STEPS, Step, Way};
use crate::setup::{Error, Setup, at};
use crate::tally::{Sent, Tally};

/// What came of a run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) way: Way,
    pub(crate) health: Health,
    pub(crate) turns: Vec<Turn>,
    /// How long the shutdown took, and whether the extension had to be killed.
    pub(crate) shutdown: Shutdown,
    pub(crate) spans: Tally,
    pub(crate) scores: Tally,
}

/// One invocation. All times count from the moment at which the function got the event.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) step: Step,
    /// When the caller had the response, or the error.
    pub(crate) response: Duration,
    /// How Lambda ended it, if it failed.
    pub(crate) failure: Option<String>,
    /// How long starting everything took before, where that was needed.
    pub(crate) init: Option<Duration>,
    /// When the runtime asked for the next event.
    pub(crate) done: Option<Duration>,
    /// How long the sandbox was held for extensions after that.
    pub(crate) held: Option<Duration>,
    /// When everything was frozen.
    pub(crate) frozen: Option<Duration>,
    /// The requests that reached Langfuse from here until the next invocation.
    pub(crate) requests: Vec<Request>,
}

/// A request that reached Langfuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) at: Duration,
    /// Whether it carries spans or scores, as opposed to asking whether Langfuse is well.
    pub(crate) carries_data: bool,
    /// Whether Langfuse answered it in its ordinary way.
    pub(crate) accepted: bool,
}

/// How the environment ended.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown {
    pub(crate) took: Duration,
    pub(crate) extension_killed: bool,
    /// The requests that reached Langfuse meanwhile, counted from its start.
    pub(crate) requests: Vec<Request>,
}

/// Runs all steps, and tells `progress` of each invocation.
pub(crate) async fn run(
    setup: &Setup,
    way: Way,
    health: Health,
    mut progress: impl FnMut(&Turn),
) -> Result<Run, Error> {
    let langfuse =
        FakeLangfuse::start(Config::default()).map_err(at(std::path::Path::new("127.0.0.1")))?;
    let tmp = tempfile::tempdir().map_err(at(&std::env::temp_dir()))?;
    let lambda = function(setup, way, &langfuse)?
        .tmp_dir(tmp.path())
        .extension_env("LANGFUSE_EXTENSION_SPOOL_DIR", tmp.path().join("spool").to_string_lossy())
        .start()
        .await?;
    if let Some(fault) = health.fault() {
        langfuse.set_fault(fault);
    }
    let event = json!({"question": "What is the answer?", "flush": way.flushes()}).to_string();
    let mut turns = Vec::new();
    for step in STEPS {
        if step.recovered {
            langfuse.clear_faults();
        }
        if !step.frozen_before.is_zero() {
            lambda.pause(step.frozen_before).await;
        }
        let invocation = lambda.invoke(event.clone()).await;
        turns.push(turn(step, &invocation, &lambda.timeline()));
        progress(&turns[turns.len() - 1]);
    }
    let report = lambda.shutdown().await;
    let shutdown = place_requests(&mut turns, &lambda.timeline(), &langfuse.requests(), &report);
    let (spans, scores) = tallies(&lambda, &langfuse);
    Ok(Run {
        way,
        health,
        turns,
        shutdown,
        spans,
        scores,
    })
}

/// A function with the Python SDK under AWS's own runtime client, whose Langfuse is the fake one.
fn function(setup: &Setup, way: Way, langfuse: &FakeLangfuse) -> Result<Builder, Error> {
    let builder = python(setup, &setup.python, "app.handler").timeout(FUNCTION_TIMEOUT);
    if !way.has_extension() {
        return Ok(builder.function_env("LANGFUSE_BASE_URL", langfuse.url()));
    }
    let listen = free_address()?;
    let builder = builder
        .opt_dir(&setup.opt_dir)
        .extension_env("LANGFUSE_EXTENSION_LISTEN", &listen)
        .extension_env("LANGFUSE_EXTENSION_BASE_URL", langfuse.url())
        .function_env("LANGFUSE_BASE_URL", format!("http://{listen}"));
    Ok(if way.flushes() {
        builder
    } else {
        builder.function_env("LANGFUSE_FLUSH_AT", "1")
    })
}

/// A Python function with the keys of the fake Langfuse's project.
pub(crate) fn python(setup: &Setup, interpreter: &str, handler: &str) -> Builder {
    Lambda::builder()
        .bootstrap([interpreter, "-m", "awslambdaric", handler])
        .task_root(&setup.task_root)
        .function_env("LANGFUSE_PUBLIC_KEY", Project::PUBLIC_KEY)
        .function_env("LANGFUSE_SECRET_KEY", Project::SECRET_KEY)
        .function_env("PYTHONDONTWRITEBYTECODE", "1")
}

/// 4318 may be in use on this machine, as it may be anywhere.
fn free_address() -> Result<String, Error> {
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    Ok(address.map_err(Error::NoPort)?.to_string())
}

fn turn(step: Step, invocation: &Invocation, timeline: &[Entry]) -> Turn {
    let started = invocation.started_after.unwrap_or_default();
    let since_start = |after: Duration| after.saturating_sub(started);
    let began = began_at(timeline, timeline.len());
    let frozen = timeline.last().and_then(|last| match last.event {
        Event::Frozen { .. } => Some(last.at.saturating_sub(began?)),
        _ => None,
    });
    let error = invocation.result.as_ref().err().or(invocation.fault.as_ref());
    Turn {
        step,
        response: since_start(invocation.responded_after),
        failure: error.map(|error| error.error_type.clone()),
        init: invocation.init_duration,
        done: invocation.runtime_done_after.map(since_start),
        held: invocation.held,
        frozen,
        requests: Vec::new(),
    }
}

/// When the last invocation within the first `count` entries began.
fn began_at(timeline: &[Entry], count: usize) -> Option<Duration> {
    let mut entries = timeline[..count].iter().rev();
    let is_start = |entry: &&Entry| matches!(entry.event, Event::InvokeStarted { .. });
    entries.find(is_start).map(|entry| entry.at)
}

/// Gives each request to the invocation, or the shutdown, in which it reached Langfuse.
fn place_requests(
    turns: &mut [Turn],
    timeline: &[Entry],
    requests: &[std::sync::Arc<RecordedRequest>],
    report: &ShutdownReport,
) -> Shutdown {
    let starts: Vec<&Entry> = timeline
        .iter()
        .filter(|entry| matches!(entry.event, Event::InvokeStarted { .. }))
        .collect();
    let spindown = |entry: &&Entry| {
        matches!(&entry.event, Event::TeardownStarted { reason } if *reason == report.reason)
    };
    let end = timeline.iter().rev().find(spindown);
    let mut shutdown = Shutdown {
        took: report.took,
        extension_killed: report.extensions.iter().any(|extension| extension.killed),
        requests: Vec::new(),
    };
    for request in requests {
        let arrived = request.arrived_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = |entry: &Entry| arrived.checked_sub(Duration::from_millis(entry.unix_ms));
        let placed = |at| Request {
            at,
            carries_data: request.span_count + request.event_count > 0,
            accepted: request.accepted,
        };
        if let Some(at) = end.and_then(since) {
            shutdown.requests.push(placed(at));
        } else if let Some((index, at)) = (0..starts.len())
            .rev()
            .find_map(|index| since(starts[index]).map(|at| (index, at)))
            && let Some(turn) = turns.get_mut(index)
        {
            turn.requests.push(placed(at));
        }
    }
    shutdown
}

/// The function prints what it sends, so that it is known even where a timeout eats the response.
fn tallies(lambda: &Lambda, langfuse: &FakeLangfuse) -> (Tally, Tally) {
    let sent: Vec<Sent> = lambda
        .logs_of("runtime")
        .iter()
        .filter_map(|line| serde_json::from_str(&line.text).ok())
        .collect();
    let observations = langfuse.observations();
    let span_ids = observations
        .iter()
        .map(|span| format!("{}/{}", span.trace_id, span.span_id));
    let scores = langfuse.scores();
    let score_ids = scores
        .iter()
        .filter_map(|score| score.body.get("id")?.as_str().map(str::to_owned));
    (
        Tally::new(sent.iter().flat_map(|sent| &sent.spans), span_ids),
        Tally::new(sent.iter().flat_map(|sent| &sent.scores), score_ids),
    )
}
