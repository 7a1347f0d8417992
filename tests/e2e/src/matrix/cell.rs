//! One cell: a sandbox, the fault, what happens, SHUTDOWN, and then Langfuse's recovery with a new process in the same
//! sandbox. What is counted then is final.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Condition, Situation};
use crate::{
    Books, EXTENSION, Exit, FLUSH_BUDGET, Fault, FaultRule, Ids, Invocation, PATIENCE, QUICK,
    SLACK, Setup, Signal, World, ids, json,
};

/// Spans of each trace.
const SPANS: usize = 2;

/// The buffer of [`Situation::Overfull`], in bytes, and what it is overfilled with: by each process three quarters of it.
const BUFFER_BYTES: usize = 400_000;
const OVERFULL_REQUESTS: usize = 15;
const OVERFULL_REQUEST_BYTES: usize = BUFFER_BYTES * 3 / 4 / OVERFULL_REQUESTS;

/// Invocations in which what was left may arrive after Langfuse's recovery.
const RECOVERY_INVOCATIONS: usize = 40;

/// What happened in a cell.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Of each invocation that answered.
    pub handlers: Vec<Duration>,
    /// After each invocation.
    pub held: Vec<Duration>,
    /// Spans that the extension acknowledged.
    pub acknowledged: Ids,
    /// Spans left on disk by the last SHUTDOWN before the recovery: lost if the sandbox is destroyed now.
    pub left_on_disk: u64,
    /// Those of them that had something wrong with them, each with all of its request.
    pub poisoned: Ids,
    /// Spans that Langfuse has in the end.
    pub delivered: Ids,
    /// Further copies that it has.
    pub doubled: u64,
    /// Spans sent again although they may have arrived, as the extension counted them.
    pub counted_doubles: u64,
    /// Spans acknowledged and not delivered.
    pub lost: Ids,
    /// Books that do not add up.
    pub unbalanced: Vec<Books>,
    /// Why, as the extension counted it.
    pub reasons: BTreeMap<String, u64>,
    /// How the extension's processes ended, without those that the cell itself killed.
    pub exits: Vec<Exit>,
    /// The longest from SHUTDOWN to the exit.
    pub shutdown: Duration,
}

/// A cell that has been run.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Langfuse.
    pub condition: Condition,
    /// The sandbox.
    pub situation: Situation,
    /// What happened.
    pub measured: Measured,
    /// Promises that it broke.
    pub broken: Vec<String>,
}

/// Handler times of the same function without the extension, which then posts nothing.
pub async fn baseline() -> Vec<Duration> {
    let world = Setup::new().without_extension().start().await;
    world.lambda.init().await;
    let mut handlers = Vec::new();
    for _ in 0..20 {
        handlers.push(
            world
                .invoke(json!({ "tag": "none", "spans": SPANS }))
                .await
                .handler_duration(),
        );
    }
    handlers
}

pub(super) async fn measure(condition: Condition, situation: Situation) -> Cell {
    let mut run = Run {
        world: world(condition, situation).await,
        measured: Measured::default(),
        kills: 0,
        posts: 0,
    };
    run.world.lambda.init().await;
    condition.begin(&run.world.langfuse);
    run.poison(condition).await;
    run.play(condition, situation).await;
    if condition == Condition::BackAtShutdown {
        run.world.langfuse.clear_faults();
    }
    run.shut_down().await;
    run.measured.left_on_disk = run.world.last_report().map_or(0, |report| report.spooled);
    let recovered = run.recover(condition).await;
    let measured = run.count(recovered.as_ref());
    let broken = broken(condition, situation, &measured);
    if !broken.is_empty() && std::env::var_os("STORY").is_some() {
        eprintln!("{}", run.world.story());
    }
    Cell {
        condition,
        situation,
        measured,
        broken,
    }
}

async fn world(condition: Condition, situation: Situation) -> World {
    let setup = match condition {
        Condition::Tls => Setup::new().tls(),
        Condition::Dns => Setup::new().setting("BASE_URL", "https://langfuse.invalid"),
        _ => Setup::new(),
    };
    let setup = match situation {
        Situation::Overfull => setup.setting("BUFFER_BYTES", BUFFER_BYTES.to_string()),
        _ => setup,
    };
    let timeout = if situation == Situation::TimeoutReset {
        Duration::from_secs(4)
    } else {
        PATIENCE
    };
    setup.lambda(|lambda| lambda.timeout(timeout)).start().await
}

struct Run {
    world: World,
    measured: Measured,
    kills: usize,
    posts: u32,
}

impl Run {
    async fn play(&mut self, condition: Condition, situation: Situation) {
        match situation {
            Situation::Steady => self.traces(3).await,
            Situation::Dense => self.traces(12).await,
            Situation::Frozen => self.traces_between_freezes(false).await,
            Situation::DeadConnections => self.traces_between_freezes(true).await,
            Situation::HalfOpen => {
                self.traces(1).await;
                self.world.lambda.pause(Duration::from_millis(300)).await;
                // A connection that swallows what is sent on it and never answers, as one whose peer is gone.
                self.world.langfuse.set_fault(
                    FaultRule::from(Fault::HangBeforeAccepting)
                        .on_data()
                        .first(1),
                );
                condition.begin(&self.world.langfuse);
                self.traces(3).await;
            }
            Situation::TimeoutReset => {
                let event = json!({ "tag": self.tag(), "spans": SPANS, "work_s": 60 });
                self.world.invoke(event).await;
                self.traces(1).await;
            }
            Situation::Killed => {
                self.kill_after_a_post().await;
                self.traces(1).await;
            }
            Situation::ShutdownFirst => {
                self.shut_down().await;
                self.traces(1).await;
            }
            Situation::Overfull => {
                self.overfill().await;
                self.shut_down().await;
                self.overfill().await;
            }
        }
    }

    /// Three requests, so that what is wrong with the second has a neighbour on either side.
    async fn poison(&mut self, condition: Condition) {
        if let Some(poison) = condition.poison() {
            let tag = self.tag();
            self.measured.poisoned = ids(&format!("{tag}-1"), SPANS);
            let event = json!({ "tag": tag, "spans": SPANS, "requests": 3, "poison": poison });
            let ran = self.world.invoke(event).await;
            self.note(&ran);
        }
    }

    async fn overfill(&mut self) {
        let event = json!({
            "tag": self.tag(),
            "spans": SPANS,
            "requests": OVERFULL_REQUESTS,
            "bytes": OVERFULL_REQUEST_BYTES,
        });
        let ran = self.world.invoke(event).await;
        self.note(&ran);
    }

    async fn traces(&mut self, count: usize) {
        for _ in 0..count {
            let event = json!({ "tag": self.tag(), "spans": SPANS });
            let ran = self.world.invoke(event).await;
            self.note(&ran);
        }
    }

    async fn traces_between_freezes(&mut self, close: bool) {
        for _ in 0..3 {
            self.traces(1).await;
            if close {
                self.world.langfuse.close_connections();
            }
            self.world.lambda.pause(Duration::from_secs(2)).await;
        }
    }

    async fn kill_after_a_post(&mut self) {
        let tag = self.tag();
        let invocation = self
            .world
            .begin(&json!({ "tag": tag, "spans": SPANS, "work_s": 60 }));
        let line = format!("posted {tag} ");
        self.world
            .lambda
            .wait_for_log(PATIENCE, |log| log.text.starts_with(&line))
            .await;
        if self.world.lambda.signal(EXTENSION, Signal::KILL) {
            self.kills += 1;
        }
        invocation.finished().await;
    }

    fn tag(&mut self) -> String {
        self.posts += 1;
        format!("p{}", self.posts)
    }

    fn note(&mut self, invocation: &Invocation) {
        if invocation.result.is_ok() {
            self.measured.handlers.push(invocation.handler_duration());
        }
        self.measured.held.extend(invocation.held);
    }

    async fn shut_down(&mut self) {
        let report = self.world.lambda.shutdown().await;
        let longest = report
            .extensions
            .iter()
            .map(|extension| extension.took)
            .max();
        self.measured.shutdown = self.measured.shutdown.max(longest.unwrap_or_default());
    }

    /// Langfuse is well again, and the sandbox lives on. A name that does not resolve is replaced by one that does,
    /// which takes another function over the same directory.
    async fn recover(&mut self, condition: Condition) -> Option<World> {
        let another = match condition {
            Condition::Dns => {
                let spool = self.world.spool_dir().to_string_lossy().into_owned();
                Some(Setup::new().setting("SPOOL_DIR", spool).start().await)
            }
            _ => None,
        };
        let world = another.as_ref().unwrap_or(&self.world);
        world.langfuse.clear_faults();
        world
            .langfuse
            .set_max_request_bytes(lambda_emulator::fake_langfuse::DEFAULT_MAX_REQUEST_BYTES);
        for _ in 0..RECOVERY_INVOCATIONS {
            world.invoke(json!({ "work_s": 0.2 })).await;
            let stored = &self.world.stored() | &world.stored();
            if (&self.world.acknowledged() - &stored).is_subset(&self.measured.poisoned) {
                break;
            }
        }
        world.lambda.shutdown().await;
        another
    }

    fn count(&self, recovered: Option<&World>) -> Measured {
        let mut measured = self.measured.clone();
        let worlds: Vec<&World> = std::iter::once(&self.world).chain(recovered).collect();
        measured.acknowledged = self.world.acknowledged();
        measured.delivered = worlds.iter().flat_map(|world| world.stored()).collect();
        measured.doubled = worlds.iter().map(|world| world.doubled()).sum();
        measured.lost = &measured.acknowledged - &measured.delivered;
        for line in worlds.iter().flat_map(|world| world.lines()) {
            if line.contains("langfuse-extension report") {
                let books = Books::read(&line);
                measured.counted_doubles += books.maybe_doubled;
                if !books.is_balanced() {
                    measured.unbalanced.push(books.clone());
                }
                for (reason, units) in books.dropped_by_reason {
                    *measured.reasons.entry(reason).or_default() += units;
                }
            }
        }
        measured.exits = worlds
            .iter()
            .flat_map(|world| world.exits(EXTENSION))
            .collect();
        for _ in 0..self.kills {
            if let Some(place) = measured
                .exits
                .iter()
                .position(|exit| *exit == Exit::Signal(9))
            {
                measured.exits.remove(place);
            }
        }
        measured
    }
}

/// What of the promises does not hold, with bounds that a busy machine keeps.
fn broken(condition: Condition, situation: Situation, measured: &Measured) -> Vec<String> {
    let mut broken = Vec::new();
    let mut promise = |kept: bool, what: String| {
        if !kept {
            broken.push(what);
        }
    };
    let slowest = measured.handlers.iter().max().copied().unwrap_or_default();
    promise(slowest < QUICK, format!("a handler took {slowest:?}"));
    let longest = measured.held.iter().max().copied().unwrap_or_default();
    promise(longest < FLUSH_BUDGET + SLACK, format!("held {longest:?}"));
    let all: Duration = measured.held.iter().sum();
    // A dead connection and a dead Langfuse are found out one after the other, and each process finds out for itself.
    let payments = match situation {
        Situation::HalfOpen | Situation::Overfull => 2,
        _ => 1,
    };
    let bound =
        FLUSH_BUDGET * payments + SLACK * u32::try_from(measured.held.len()).unwrap_or(u32::MAX);
    promise(all < bound, format!("held {all:?} in all"));
    promise(
        !measured.acknowledged.is_empty(),
        "nothing was acknowledged".into(),
    );
    let lost = &measured.lost - &measured.poisoned;
    // A buffer that is full lets the oldest go, and counts it.
    let counted: u64 = measured.reasons.values().sum();
    let may_lose = situation == Situation::Overfull && lost.len() as u64 <= counted;
    promise(lost.is_empty() || may_lose, format!("lost {lost:?}"));
    promise(
        condition != Condition::HalfCharacter || measured.lost.is_empty(),
        format!("lost {:?}", measured.lost),
    );
    // A gateway's page leaves open whether what stood behind it has stored the data.
    let unknown = matches!(condition, Condition::Gateway504 | Condition::Balancer503);
    let may_double = condition.is_ambiguous() || unknown || situation == Situation::Killed;
    promise(
        measured.doubled == 0 || may_double,
        format!("doubled {}", measured.doubled),
    );
    promise(
        measured.doubled <= measured.counted_doubles,
        format!("doubled {} uncounted", measured.doubled),
    );
    promise(
        measured.unbalanced.is_empty(),
        format!("unbalanced {:?}", measured.unbalanced),
    );
    if condition.poison().is_some() {
        let poisoned = measured.poisoned.len() as u64;
        promise(
            measured.left_on_disk <= poisoned,
            format!("{} kept from a healthy Langfuse", measured.left_on_disk),
        );
    }
    let exits_well = measured.exits.iter().all(|exit| *exit == Exit::Code(0));
    promise(exits_well, format!("exits {:?}", measured.exits));
    if condition == Condition::BackAtShutdown {
        promise(
            measured.left_on_disk == 0,
            format!("{} not delivered at SHUTDOWN", measured.left_on_disk),
        );
    }
    broken
}
