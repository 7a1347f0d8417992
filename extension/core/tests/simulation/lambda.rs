//! Lambda and the function: one run from the first process of a sandbox to its last.

use std::time::Duration;

use langfuse_extension_core::Event;
use langfuse_extension_core::ledger::DropReason;

use crate::checks::SHUTDOWN;
use crate::langfuse::Langfuse;
use crate::nature::Telemetry;
use crate::world::{PLATFORM_EPOCH, What, World};

/// Invocations within which a healthy Langfuse must have got everything, and one more for each unit: it may have to go alone.
const CALM_INVOCATIONS: u64 = 300;

/// Time within which, too: requests that hang from before the calm end by then.
const CALM_TIME: Duration = Duration::from_mins(15);

/// What one run amounted to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) invocations: u64,
    pub(crate) units: u64,
    pub(crate) exports: u64,
    pub(crate) processes: u64,
}

pub(crate) struct Lambda {
    pub(crate) world: World,
    pub(crate) invocation: u64,
    /// The handler, or what it left running, is at work.
    busy: bool,
    invoke_pending: bool,
    /// When the platform ends this invocation, in true time.
    deadline: Duration,
    begin_scheduled: bool,
    shutting_down: bool,
    calm_since: Option<u64>,
    calm_began: Duration,
    /// Units that were left when the world became kind.
    calm_units: u64,
    /// A healthy Langfuse has got everything.
    all_arrived: bool,
    over: bool,
}

impl Lambda {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let world = World::new(seed, traced);
        Self {
            world,
            invocation: 0,
            busy: false,
            invoke_pending: false,
            deadline: Duration::ZERO,
            begin_scheduled: false,
            shutting_down: false,
            calm_since: None,
            calm_began: Duration::ZERO,
            calm_units: 0,
            all_arrived: false,
            over: false,
        }
    }

    pub(crate) fn run(&mut self) -> Tally {
        self.boot();
        self.plan_fate();
        while !self.over {
            let what = self.world.next().expect("a world without a future");
            self.happen(what);
            self.settle();
        }
        Tally {
            invocations: self.invocation,
            units: self.world.units.len() as u64,
            exports: self.world.exports,
            processes: self.world.life,
        }
    }

    fn boot(&mut self) {
        self.world.start_process();
        self.busy = false;
        self.invoke_pending = false;
        self.begin_scheduled = false;
        self.shutting_down = false;
        if self.world.nature.shutdown_first && self.world.life == 1 {
            return self.reset();
        }
        if self.world.nature.settings.snapshot && !self.world.nature.managed {
            // The function's initialisation posts too, before the sandbox is copied.
            let soon = self.world.rng.ms(0, 20);
            let load = self.new_load(0);
            self.world.after_running(soon, What::Post(0, load));
        }
        let left = self.world.spool.open();
        self.world.untold_units = self.world.spool.units();
        let registers_first = self.world.rng.one_in(2);
        let invoke = !self.world.nature.managed;
        if registers_first {
            self.world.tell(Event::Registered { invoke });
        }
        // Looked through in pieces, the latest of them when the sandbox is long at work.
        let piece = usize::try_from(self.world.rng.between(1, 40)).expect("a count");
        let mut wait = Duration::ZERO;
        for records in left.chunks(piece) {
            let opened = Event::SpoolOpened {
                records: records.to_vec(),
                lost: Vec::new(),
                unreadable: 0,
            };
            if wait.is_zero() && registers_first {
                self.world.tell(opened);
            } else {
                self.world.after_running(wait, What::Tell(opened));
            }
            wait += self.world.rng.ms(0, 3);
        }
        if !registers_first {
            self.world.tell(Event::Registered { invoke });
        }
        let keys = if self.world.rng.one_in(10) {
            self.world.rng.ms(2_000, 100_000)
        } else {
            self.world.rng.ms(0, 400)
        };
        self.world.after_running(keys, What::Tell(Event::KeysReady));
        if self.world.nature.telemetry == Telemetry::Told && !self.world.nature.managed {
            let soon = self.world.rng.ms(0, 50);
            self.world
                .after_running(soon, What::Tell(Event::TelemetrySpeaks));
        }
        if self.world.nature.managed {
            self.world.after(Duration::from_secs(1), What::Begin);
        }
    }

    fn plan_fate(&mut self) {
        if self.world.nature.outages {
            self.world.after(Duration::ZERO, What::LangfuseChanges);
        }
        if self.world.nature.odd_clocks {
            let soon = self.world.rng.ms(0, 60_000);
            self.world.after(soon, What::WallJumps);
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Begin if self.world.nature.managed => self.tick(),
            What::Begin => self.begin(),
            What::Freeze => self.freeze(),
            What::FunctionTimeout(n) if n == self.invocation && !self.shutting_down => {
                let held = !self.busy && !self.world.checks.is_idle();
                if held {
                    self.world.checks.outlived_the_deadline();
                }
                if self.busy || held {
                    self.reset();
                }
            }
            What::Crash(n) if n == self.invocation && !self.shutting_down => {
                if self.busy || !self.world.checks.is_idle() {
                    self.reset();
                }
            }
            What::HandlerEnds(n) if n == self.invocation => self.handler_ends(),
            What::HandlerEnds(_) | What::FunctionTimeout(_) | What::Crash(_) => {}
            What::Sigkill => self.process_ends(),
            What::Kill if self.calm_since.is_some() => {}
            What::Kill => self.world.dies_after_actions = Some(self.world.rng.between(0, 3)),
            What::Tell(Event::Invoke { .. }) if self.shutting_down => {}
            What::Tell(event) => {
                if matches!(event, Event::Invoke { .. }) {
                    self.invoke_pending = false;
                }
                self.world.tell(event);
            }
            What::Post(route, load) => self.post(route, load),
            What::Arrives(id) => self.world.arrives(id),
            What::ArrivesLate(route, loads) => self.world.arrives_late(&route, &loads),
            What::Answers(id, fact) => self.world.answers(id, fact),
            What::ProbeArrives(number) => self.world.probe_arrives(number),
            What::ProbeAnswers(number, fact) => self.world.probe_answers(number, fact),
            What::LangfuseChanges => self.langfuse_changes(),
            What::WallJumps => self.wall_jumps(),
        }
    }

    /// The platform acts once everyone has had their say.
    fn settle(&mut self) {
        if self.world.checks.ended() {
            return self.process_ends();
        }
        let done = !self.busy && !self.invoke_pending && self.world.checks.is_idle();
        if done && !self.begin_scheduled && !self.world.nature.managed && !self.shutting_down {
            self.begin_scheduled = true;
            let (least, most) = self.world.nature.gaps_ms;
            let gap = self.world.rng.ms(least, most);
            let linger = self.world.rng.ms(0, 2);
            self.world.after(linger, What::Freeze);
            self.world.after(gap, What::Begin);
        }
    }

    fn freeze(&mut self) {
        if !self.busy && !self.invoke_pending && self.begin_scheduled {
            self.world.note(|_| "frozen".into());
            self.world.disturb();
            self.world.frozen = true;
        }
    }

    fn begin(&mut self) {
        self.begin_scheduled = false;
        self.world.frozen = false;
        self.world.disturb();
        if self.calm_since.is_none() && self.invocation >= self.world.nature.invocations {
            self.calm_down();
        }
        if self.everything_arrived() {
            self.all_arrived = true;
            return self.reset();
        }
        self.invocation += 1;
        self.busy = true;
        self.invoke_pending = true;
        if self.world.rng.one_in(60) {
            let seed = self.world.rng.next();
            self.world.tell(Event::Restored { seed });
        }
        self.plan_invocation();
    }

    fn plan_invocation(&mut self) {
        let calm = self.calm_since.is_some();
        let rng = &mut self.world.rng;
        let (least, most) = self.world.nature.handlers_ms;
        let handler = rng.ms(least, most) + Duration::from_millis(if calm { 300 } else { 0 });
        let timeout = self.world.nature.timeout;
        let never_ends = !calm && rng.one_in(60);
        let handler = handler.min(timeout - Duration::from_millis(1));
        self.deadline = self.world.time + timeout;
        let rng = &mut self.world.rng;
        let late_invoke = rng.one_in(6);
        let hears_after = if late_invoke && !never_ends && !calm {
            handler + rng.ms(0, 40)
        } else {
            rng.ms(0, 2)
        };
        let kills = self.world.nature.kills && !calm;
        let kill_after = (kills && rng.one_in(8)).then(|| rng.ms(0, 30_000));
        let reset_after = (kills && rng.one_in(12)).then(|| rng.ms(0, 30_000));

        let deadline_epoch_ms = self.told_deadline();
        let invoke = Event::Invoke {
            request_id: self.request_id(),
            deadline_epoch_ms,
        };
        let n = self.invocation;
        self.world.checks.deadline = Some((self.deadline, timeout));
        self.world.after(timeout, What::FunctionTimeout(n));
        self.world.after_running(hears_after, What::Tell(invoke));
        if !never_ends {
            self.world.after_running(handler, What::HandlerEnds(n));
        }
        if let Some(wait) = kill_after {
            self.world.after(wait, What::Kill);
        }
        if let Some(wait) = reset_after {
            self.world.after(wait, What::Crash(n));
        }
        if self.posts_now() {
            self.plan_posts(handler);
        }
    }

    /// What INVOKE says: the truth, by the platform's clock, where it is not nonsense.
    fn told_deadline(&mut self) -> u64 {
        let truth = PLATFORM_EPOCH + self.deadline;
        let honest = u64::try_from(truth.as_millis()).expect("a time");
        let rng = &mut self.world.rng;
        if self.world.nature.odd_deadlines && rng.one_in(4) && self.calm_since.is_none() {
            rng.pick(&[
                0,
                1,
                u64::MAX,
                honest - 3_600_000,
                5_000_000_000,
                honest * 1_000,
            ])
        } else {
            honest
        }
    }

    fn posts_now(&self) -> bool {
        self.calm_since
            .is_none_or(|since| self.invocation < since + 3)
    }

    fn request_id(&self) -> String {
        format!("r{}", self.invocation)
    }

    fn handler_ends(&mut self) {
        self.busy = false;
        self.world.note(|_| "the runtime is done".into());
        let telemetry = self.world.nature.telemetry;
        let at = Some(self.world.platform_now()).filter(|_| !self.world.rng.one_in(8));
        let only_reported = telemetry == Telemetry::Flaky && self.world.rng.one_in(4);
        let done = |request_id| {
            What::Tell(if only_reported {
                Event::Reported { request_id, at }
            } else {
                Event::RuntimeDone { request_id, at }
            })
        };
        let request_id = self.request_id();
        let rng = &mut self.world.rng;
        let soon = rng.ms(0, 30);
        let times = match telemetry {
            Telemetry::Told => 1,
            Telemetry::Silent => 0,
            Telemetry::Flaky => rng.pick(&[0, 1, 1, 2, 3]),
        };
        let late = telemetry == Telemetry::Flaky && rng.one_in(3);
        let soon = if late { rng.ms(0, 4_000) } else { soon };
        for time in 0..times {
            let wrong = telemetry == Telemetry::Flaky && self.world.rng.one_in(5);
            let id = if wrong {
                "another".into()
            } else {
                request_id.clone()
            };
            self.world.after_running(soon * (time + 1), done(id));
        }
    }

    /// The runtime is killed, and the extension is told to end.
    fn reset(&mut self) {
        self.world.note(|_| "the sandbox is reset".into());
        self.busy = false;
        self.world.runtime_is_killed();
        self.shutting_down = true;
        self.world.frozen = false;
        self.world.disturb();
        let left = SHUTDOWN;
        let deadline = (self.world.platform_now() + left).as_millis();
        let deadline_epoch_ms = u64::try_from(deadline).expect("a time");
        self.world.after(left, What::Sigkill);
        self.world.tell(Event::Shutdown { deadline_epoch_ms });
    }

    fn process_ends(&mut self) {
        if self.shutting_down && !self.world.checks.ended() {
            assert!(
                self.world.nature.odd_clocks || self.world.nature.kills,
                "it was killed for not exiting"
            );
        }
        self.world.dies_after_actions = None;
        self.world.dies();
        if !self.world.checks.ended() {
            self.world.spool.crash();
        }
        if self.all_arrived {
            self.nothing_is_left();
            self.over = true;
        } else {
            self.boot();
        }
    }

    /// From here on the world is kind.
    fn calm_down(&mut self) {
        self.world.note(|_| "the world is kind from here on".into());
        self.calm_since = Some(self.invocation);
        self.calm_began = self.world.time;
        self.calm_units = self.units_left();
        self.world.langfuse = Langfuse::healthy();
        self.world.nature.kills = false;
        self.world.wall_offset = PLATFORM_EPOCH;
        self.world.disturb();
        self.world.tell(Event::KeysReady);
    }

    fn everything_arrived(&self) -> bool {
        let Some(since) = self.calm_since else {
            return false;
        };
        let held = self.units_left();
        let waited = self.invocation - since;
        let lasts = self.world.time - self.calm_began;
        assert!(
            waited < CALM_INVOCATIONS + self.calm_units || lasts < CALM_TIME,
            "{held} units were never delivered to a healthy Langfuse"
        );
        waited > 4 && held == 0 && !self.world.clients_are_busy()
    }

    fn units_left(&self) -> u64 {
        self.world.core.held_units() + self.world.core.ledger().on_disk
    }

    fn nothing_is_left(&self) {
        let books = self.world.core.ledger();
        assert_eq!(books.spooled, 0, "left in the spool by a healthy Langfuse");
        assert_eq!(books.dropped.of(DropReason::Exit), 0, "{books:?}");
    }

    /// Under Managed Instances nobody is frozen and nobody is told of invocations.
    fn tick(&mut self) {
        self.invocation += 1;
        if self.calm_since.is_none() && self.invocation >= self.world.nature.invocations {
            self.calm_down();
        }
        if self.everything_arrived() {
            self.all_arrived = true;
            return self.reset();
        }
        if self.posts_now() {
            self.plan_posts(Duration::from_millis(900));
        }
        let calm = self.calm_since.is_some();
        if self.world.nature.kills && !calm && self.world.rng.one_in(8) {
            return self.reset();
        }
        self.world.after(Duration::from_secs(3), What::Begin);
    }

    fn langfuse_changes(&mut self) {
        if self.calm_since.is_some() {
            return;
        }
        let langfuse = &mut self.world.langfuse;
        langfuse.changes(&mut self.world.rng);
        langfuse.poison_works = false;
        self.world.note(|world| format!("{:?}", world.langfuse));
        let (least, most) = self.world.nature.gaps_ms;
        let longest = (least + most + self.world.nature.handlers_ms.1) * 6;
        let lasts = self.world.rng.ms(10, longest);
        self.world.after(lasts, What::LangfuseChanges);
    }

    fn wall_jumps(&mut self) {
        if self.calm_since.is_some() {
            return;
        }
        let rng = &mut self.world.rng;
        let far = rng.pick(&[50, 2_000, 100_000, 20_000_000]);
        let by = rng.ms(0, far);
        let forward = rng.one_in(2);
        let offset = &mut self.world.wall_offset;
        *offset = if forward { *offset + by } else { *offset - by };
        self.world.disturb();
        self.world.note(|world| {
            format!(
                "the wall clock is set: {by:?}, forward: {forward}, {:?}",
                world.now()
            )
        });
        let next = self.world.rng.ms(100, 600_000);
        self.world.after(next, What::WallJumps);
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.invocations += other.invocations;
        self.units += other.units;
        self.exports += other.exports;
        self.processes += other.processes;
    }
}
