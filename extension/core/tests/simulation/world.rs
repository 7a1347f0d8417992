//! The world around the core: true time, the freezer, the queue of what is to come, and the performing of actions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use langfuse_extension_core::buffer::{Batch, ItemId};
use langfuse_extension_core::delivery::fact::Fact;
use langfuse_extension_core::route::{Credential, Destination, Door, Route};
use langfuse_extension_core::time::Now;
use langfuse_extension_core::{Action, Core, Event, ExportId};

use crate::checks::Checks;
use crate::langfuse::Langfuse;
use crate::load::Load;
use crate::nature::Nature;
use crate::rng::Rng;
use crate::spool::Spool;

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum What {
    /// The platform hands the function its next invocation.
    Begin,
    /// Nothing runs any more, and the platform stops the guest.
    Freeze,
    /// The function's timeout is over: what is not done by now is killed.
    FunctionTimeout(u64),
    /// The runtime crashes, and the sandbox is reset.
    Crash(u64),
    HandlerEnds(u64),
    /// The platform's last word to a process that did not exit.
    Sigkill,
    /// The extension dies in the middle of what it is doing.
    Kill,
    Tell(Event<Load>),
    /// A client posts, and closes a moment later.
    Post(usize, Load),
    Arrives(ExportId),
    /// A copy that nobody waits for any more is with Langfuse after all.
    ArrivesLate(Arc<Route>, Vec<Load>),
    Answers(ExportId, Fact),
    ProbeArrives(u64),
    ProbeAnswers(u64, Fact),
    LangfuseChanges,
    WallJumps,
}

/// What the platform's clock read when the world began.
pub(crate) const PLATFORM_EPOCH: Duration = Duration::from_secs(1_700_000_000);

/// How long data may wait for requests of others: four at a time, and one for each route.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(4);

/// One unit's fate, as only the world knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unit {
    pub(crate) stored_times: u8,
    /// An earlier send of it may have arrived, as far as the extension can know.
    pub(crate) uncertain: bool,
}

#[derive(Debug)]
struct Send {
    batch: Batch<Load>,
    began: Duration,
    arrived: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) nature: Nature,
    pub(crate) langfuse: Langfuse,
    pub(crate) spool: Spool,
    pub(crate) checks: Checks,
    pub(crate) core: Core<Load>,
    pub(crate) units: Vec<Unit>,
    pub(crate) trace: Option<String>,
    /// True time since the world began.
    pub(crate) time: Duration,
    /// The part of it in which the guest ran.
    mono: Duration,
    pub(crate) wall_offset: Duration,
    started: Duration,
    pub(crate) frozen: bool,
    real: BTreeMap<(Duration, u64), (u64, What)>,
    local: BTreeMap<(Duration, u64), (u64, What)>,
    sequence: u64,
    /// Counts processes; what was meant for an earlier one never happens.
    pub(crate) life: u64,
    wake_at: Option<Duration>,
    undisturbed_until: Option<Duration>,
    sends: BTreeMap<ExportId, Send>,
    probe: Option<(u64, Arc<Route>)>,
    probes: u64,
    pub(crate) dies_after_actions: Option<u64>,
    pub(crate) exports: u64,
    dead: bool,
    /// When what was never sent yet was accepted, by its first unit, in the guest's time.
    unsent: BTreeMap<u32, Duration>,
    /// Those of them that came while nobody could know that the sandbox is at work.
    unseen: Vec<u32>,
    /// Units that earlier processes left on disk and this one has not come across yet.
    pub(crate) untold_units: u64,
    /// Units of the records that were removed from disk in this step.
    forgotten: Vec<u32>,
}

impl World {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let nature = Nature::new(&mut rng);
        let wall_offset = nature.wall_offset;
        let now = Now {
            mono: Duration::ZERO,
            wall: wall_offset,
        };
        let settings = nature.settings.clone();
        let mut world = Self {
            checks: Checks::new(settings.clone(), &nature),
            core: Core::new(settings, now),
            langfuse: Langfuse::healthy(),
            spool: Spool::default(),
            units: Vec::new(),
            trace: traced.then(String::new),
            time: Duration::ZERO,
            mono: Duration::ZERO,
            wall_offset,
            started: Duration::ZERO,
            frozen: false,
            real: BTreeMap::new(),
            local: BTreeMap::new(),
            sequence: 0,
            life: 0,
            wake_at: None,
            undisturbed_until: None,
            sends: BTreeMap::new(),
            probe: None,
            probes: 0,
            dies_after_actions: None,
            exports: 0,
            dead: false,
            unsent: BTreeMap::new(),
            unseen: Vec::new(),
            untold_units: 0,
            forgotten: Vec::new(),
            rng,
            nature,
        };
        world.note(|world| format!("{:#?}", world.nature));
        world
    }

    /// A new process begins in the same sandbox.
    pub(crate) fn start_process(&mut self) {
        self.life += 1;
        self.started = self.mono;
        let settings = self.nature.settings.clone();
        self.checks = Checks::new(settings.clone(), &self.nature);
        self.core = Core::new(settings, self.now());
        self.sends.clear();
        // What a step told that a kill cut short is gone with its process.
        self.forgotten.clear();
        self.unsent.clear();
        self.unseen.clear();
        self.probe = None;
        self.wake_at = None;
        self.undisturbed_until = None;
        self.frozen = false;
    }

    /// What the platform's own clock reads, which is always right.
    pub(crate) fn platform_now(&self) -> Duration {
        PLATFORM_EPOCH + self.time
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: self.mono - self.started,
            wall: self.wall_offset + self.time,
        }
    }

    /// Happens at its time whether the guest is frozen or not, unless it needs the guest.
    pub(crate) fn after(&mut self, wait: Duration, what: What) {
        self.sequence += 1;
        self.real
            .insert((self.time + wait, self.sequence), (self.life, what));
    }

    /// Happens once the guest has run for this long.
    pub(crate) fn after_running(&mut self, wait: Duration, what: What) {
        self.sequence += 1;
        self.local
            .insert((self.mono + wait, self.sequence), (self.life, what));
    }

    /// Moves time to what comes next, and says what it is. `None`: nothing will ever happen again.
    pub(crate) fn next(&mut self) -> Option<What> {
        if std::mem::take(&mut self.dead) {
            return Some(What::Sigkill);
        }
        loop {
            let real = self.real.keys().next().map(|(at, _)| *at);
            let running = !self.frozen;
            let local = self.local.keys().next().map(|(at, _)| *at);
            let local = local.filter(|_| running).map(|at| self.when(at));
            let wake = self.wake_at.filter(|_| running).map(|at| self.when(at));
            let at = [real, local, wake].into_iter().flatten().min()?;
            self.pass(at.saturating_sub(self.time));
            if local == Some(at) {
                let (_, (life, what)) = self.local.pop_first()?;
                if life == self.life {
                    return Some(what);
                }
            } else if real == Some(at) {
                let (_, (life, what)) = self.real.pop_first()?;
                if life != self.life && !outlives_the_process(&what) {
                    continue;
                }
                if self.frozen && needs_the_guest(&what) {
                    let jitter = self.rng.ms(0, 3);
                    self.after_running(jitter, what);
                    continue;
                }
                return Some(what);
            } else {
                self.wake_at = None;
                return Some(What::Tell(Event::Timeout));
            }
        }
    }

    fn when(&self, mono: Duration) -> Duration {
        self.time + mono.saturating_sub(self.mono)
    }

    fn pass(&mut self, by: Duration) {
        self.time += by;
        if !self.frozen {
            self.mono += by;
        }
    }

    /// Tells the core something, does what it asks, and checks every promise.
    pub(crate) fn tell(&mut self, event: Event<Load>) {
        let now = self.now();
        self.note(|_| format!("{:?} {event:?}", now.mono));
        let was_timeout = matches!(event, Event::Timeout);
        self.checks.time = self.time;
        self.checks.before(&event, now);
        if let Event::Accepted { route, payload, .. } = &event
            && matches!(route.credential, Credential::Client(_))
        {
            self.unsent.insert(payload.units.start, self.mono);
            if self.checks.is_between_invocations() {
                self.unseen.push(payload.units.start);
            }
        }
        if matches!(event, Event::Invoke { .. }) {
            // It may be so late that nothing could be sent before.
            for unit in std::mem::take(&mut self.unseen) {
                self.unsent
                    .entry(unit)
                    .and_modify(|since| *since = self.mono);
            }
            if self.checks.is_over() {
                self.unsent
                    .values_mut()
                    .for_each(|since| *since = self.mono);
            }
        }
        let brings = matches!(event, Event::Accepted { .. } | Event::Recovered { .. });
        let asks = self.core.held_units() > 0 || brings;
        self.judge(&event);
        if let Event::SpoolOpened { records, .. } = &event {
            let units = records.iter().map(|head| u64::from(head.units));
            self.untold_units -= units.sum::<u64>();
        }
        let doubled_before = self.core.ledger().maybe_doubled;
        let actions = self.core.handle(event, now);
        if was_timeout
            && self
                .undisturbed_until
                .is_some_and(|until| self.mono < until)
        {
            assert!(actions.is_empty(), "it slept although {actions:?} was due");
        }
        let probes = actions.iter().any(|it| matches!(it, Action::Probe { .. }));
        assert!(asks || !probes, "it asks for the sake of nothing");
        let (mut doubled, mut dropped) = (0, 0);
        for action in &actions {
            if let Action::Dropped { units, .. } = action {
                dropped += units;
            }
        }
        for action in actions {
            if self.dies_now() {
                self.dead = true;
                return;
            }
            self.note(|_| format!("{:?}     {action:?}", now.mono));
            self.checks.action(&action, now);
            doubled += self.perform(action);
        }
        assert_eq!(self.core.ledger().maybe_doubled - doubled_before, doubled);
        self.nothing_vanished(dropped);
        if dropped > 0 {
            // Nobody tells which.
            self.unsent.clear();
        }
        self.nothing_grows_old();
        self.checks.after(was_timeout, &self.core, now);
        self.spool_is_true();
        self.sleep(now);
    }

    fn dies_now(&mut self) -> bool {
        if let Some(left) = &mut self.dies_after_actions {
            if *left == 0 {
                self.dies_after_actions = None;
                return true;
            }
            *left -= 1;
        }
        false
    }

    fn sleep(&mut self, now: Now) {
        let wake_in = self.core.wake_in(now).filter(|_| !self.checks.ended());
        self.wake_at = wake_in.map(|wait| self.mono + wait);
        self.undisturbed_until = Some(self.wake_at.unwrap_or(Duration::MAX));
        if self.rng.one_in(8) {
            // Woken for nothing, it must find nothing to do.
            let early = self.rng.ms(0, 3_000);
            if wake_in.is_none_or(|wait| early < wait) && !self.checks.ended() {
                self.wake_at = Some(self.mono + early);
            }
        }
    }

    /// The clocks were moved by something that the core could not know of when it went to sleep.
    pub(crate) fn disturb(&mut self) {
        self.undisturbed_until = None;
    }

    /// After this answer, may an earlier send have arrived?
    fn judge(&mut self, event: &Event<Load>) {
        if let Event::Exported { id, fact } = event {
            let send = self.sends.remove(id).expect("one answer for each send");
            if *fact == Fact::NoAnswer && !send.arrived && self.rng.one_in(3) {
                self.copy_is_under_way(&send.batch);
            }
            for item in &send.batch.items {
                for unit in item.payload.units.clone() {
                    self.units[unit as usize].uncertain |= may_have_arrived(*fact);
                }
            }
        }
        if let Event::Probed { .. } = event {
            self.probe = None;
        }
    }

    fn copy_is_under_way(&mut self, batch: &Batch<Load>) {
        let loads = batch.items.iter().map(|item| item.payload.clone());
        let copy = What::ArrivesLate(Arc::clone(&batch.route), loads.collect());
        let wait = self.rng.ms(0, 90_000);
        self.after(wait, copy);
    }

    pub(crate) fn arrives_late(&mut self, route: &Arc<Route>, loads: &[Load]) {
        let loads: Vec<_> = loads.iter().collect();
        let reception = self
            .langfuse
            .receives(&route.credential, &loads, &mut self.rng);
        if reception.stored {
            self.stores(route, &loads);
        }
    }

    fn stores(&mut self, route: &Route, loads: &[&Load]) {
        for unit in loads.iter().flat_map(|load| load.units.clone()) {
            let unit = &mut self.units[unit as usize];
            unit.stored_times = unit.stored_times.saturating_add(1);
            let known = unit.uncertain || is_deduplicated(route);
            assert!(unit.stored_times == 1 || known, "a span was doubled");
        }
    }

    /// Returns how many units of spans are sent again although they may have arrived.
    fn perform(&mut self, action: Action<Load>) -> u64 {
        match action {
            Action::Export { id, batch, .. } => return self.export(id, batch),
            Action::Probe { route, .. } => {
                self.probes += 1;
                self.probe = Some((self.probes, route));
                let latency = self.rng.ms(0, 3);
                self.after(latency, What::ProbeArrives(self.probes));
            }
            Action::Abort { id } => {
                let wait = self.aborting();
                self.after_running(wait, What::Answers(id, Fact::NoAnswer));
            }
            Action::AbortProbe { .. } => {
                let wait = self.aborting();
                let answer = What::ProbeAnswers(self.probes, Fact::NoAnswer);
                self.after_running(wait, answer);
            }
            Action::Cut { id, payload, .. } => {
                let wait = self.rng.ms(0, 30);
                let parts = payload.halves().map_or(Vec::new(), Vec::from);
                self.after_running(wait, What::Tell(Event::Cut { id, parts }));
            }
            Action::Store {
                route,
                item,
                replaces,
            } => {
                let room = self.spool.units() < self.nature.spool_limit_units;
                if room {
                    self.spool.store(route, &item, replaces);
                } else {
                    let told = What::Tell(Event::NotStored { id: item.id });
                    self.checks.not_stored = true;
                    self.after_running(Duration::ZERO, told);
                }
            }
            Action::MarkSent { ids } => self.spool.mark(&ids, true),
            Action::MarkUnsent { ids } => self.spool.mark(&ids, false),
            Action::Forget { ids } => self.forget(&ids),
            Action::Recover { id } => {
                let latency = self.rng.ms(0, 3);
                let damaged = self.rng.one_in(100);
                let stored = self.spool.read(id).filter(|_| !damaged);
                let answer = stored.map_or(Event::NotRecovered { id }, |stored| Event::Recovered {
                    id,
                    route: stored.route,
                    payload: stored.load,
                });
                self.after_running(latency, What::Tell(answer));
            }
            Action::RereadKeys => {
                if self.rng.one_in(2) {
                    self.langfuse.configured_keys_valid = true;
                }
                let wait = self.rng.ms(5, 500);
                self.after_running(wait, What::Tell(Event::KeysReady));
            }
            _ => {}
        }
        0
    }

    fn forget(&mut self, ids: &[ItemId]) {
        for stored in self.spool.forget(ids) {
            self.forgotten.extend(stored.load.units);
        }
    }

    /// A send is aborted at once, but the answer may be quicker still.
    fn aborting(&mut self) -> Duration {
        if self.rng.one_in(8) {
            self.rng.ms(0, 100)
        } else {
            Duration::ZERO
        }
    }

    /// What is removed from disk is with Langfuse, or there in other records, or told as given up.
    fn nothing_vanished(&mut self, dropped: u64) {
        let forgotten = std::mem::take(&mut self.forgotten);
        // What found no room on disk is in memory alone.
        if forgotten.is_empty() || self.checks.not_stored {
            return;
        }
        let there = self.spool.unit_ids();
        let gone = forgotten.into_iter().collect::<BTreeSet<_>>();
        let vanished = gone.difference(&there);
        let vanished = vanished.filter(|unit| self.units[**unit as usize].stored_times == 0);
        let vanished: Vec<_> = vanished.collect();
        assert!(
            vanished.len() as u64 <= dropped,
            "{vanished:?} vanished, and {dropped} were told"
        );
    }

    /// Data is sent before it is older than promised, as long as the sandbox is awake, as far as it was told.
    fn nothing_grows_old(&self) {
        let oldest = self.unsent.values().min().copied();
        let age = oldest.map_or(Duration::ZERO, |since| self.mono - since);
        let most = self.nature.settings.max_data_age + WAIT_FOR_OTHERS;
        assert!(
            age <= most || !self.nature.is_kind() || self.checks.is_between_invocations(),
            "data is {age:?} old, and was never sent"
        );
    }

    fn export(&mut self, id: ExportId, batch: Batch<Load>) -> u64 {
        for item in &batch.items {
            self.unsent.remove(&item.payload.units.start);
        }
        self.exports += 1;
        let mut again = 0;
        for item in &batch.items {
            let came_by = &self.nature.routes[item.payload.route];
            assert_eq!(*came_by, batch.route, "routes were mixed");
            if let Some(stored) = self.spool.get(item.id) {
                let known = stored.sends > item.history.ambiguous_sends;
                assert!(known, "a byte left before the spool knew");
            }
            let units = item.payload.units.clone();
            again += units
                .filter(|unit| self.units[*unit as usize].uncertain)
                .count();
        }
        if is_deduplicated(&batch.route) {
            again = 0;
        }
        assert!(
            again == 0 || self.nature.settings.resend_ambiguous,
            "sent again against the setting"
        );
        let latency = self.rng.ms(0, 3);
        self.after(latency, What::Arrives(id));
        let began = self.time;
        let send = Send {
            batch,
            began,
            arrived: false,
        };
        self.sends.insert(id, send);
        again as u64
    }

    /// A request with data is with Langfuse.
    pub(crate) fn arrives(&mut self, id: ExportId) {
        let Some(send) = self.sends.get(&id) else {
            return;
        };
        if self.frozen && self.rng.one_in(3) {
            // Its last bytes were still in the guest.
            return self.after_running(Duration::ZERO, What::Arrives(id));
        }
        let batch = send.batch.clone();
        let route = &batch.route;
        let loads: Vec<_> = batch.items.iter().map(|item| &item.payload).collect();
        let reception = self
            .langfuse
            .receives(&route.credential, &loads, &mut self.rng);
        if reception.stored {
            self.stores(route, &loads);
        }
        if let Some(send) = self.sends.get_mut(&id) {
            send.arrived = true;
        }
        let dies = self.nature.outages && self.rng.one_in(60);
        let answer = reception.answer.filter(|_| !dies);
        if dies {
            // The connection, and with it the answer.
            let soon = self.rng.ms(0, 100);
            return self.after(soon, What::Answers(id, Fact::NoAnswer));
        }
        let (wait, fact) = answer.unwrap_or_else(|| {
            let dies = self.rng.ms(30_000, 300_000);
            (dies, Fact::NoAnswer)
        });
        self.after(wait, What::Answers(id, fact));
    }

    /// The exporter knows how it went, unless it has said so already.
    pub(crate) fn answers(&mut self, id: ExportId, mut fact: Fact) {
        let Some(send) = self.sends.get(&id) else {
            return;
        };
        let age = self.time - send.began;
        if age > Duration::from_mins(1) && self.rng.one_in(2) {
            fact = Fact::NoAnswer;
        }
        self.tell(Event::Exported { id, fact });
    }

    pub(crate) fn probe_arrives(&mut self, number: u64) {
        if let Some((_, route)) = self.probe.as_ref().filter(|(n, _)| *n == number) {
            let reception = self
                .langfuse
                .receives(&route.credential, &[], &mut self.rng);
            let silence = (Duration::from_mins(2), Fact::NoAnswer);
            let (wait, fact) = reception.answer.unwrap_or(silence);
            self.after(wait, What::ProbeAnswers(number, fact));
        }
    }

    pub(crate) fn probe_answers(&mut self, number: u64, fact: Fact) {
        if self.probe.as_ref().is_some_and(|(n, _)| *n == number) {
            let destination = Destination::Langfuse;
            self.tell(Event::Probed { destination, fact });
        }
    }

    /// Whether a request of the app is under way or to come.
    pub(crate) fn clients_are_busy(&self) -> bool {
        let mut coming = self.local.values().map(|(_, what)| what);
        coming.any(|what| matches!(what, What::Post(..)) || ends_a_request(what))
    }

    /// Requests that had begun come to their end, and no other begins.
    pub(crate) fn runtime_is_killed(&mut self) {
        self.local
            .retain(|_, (_, what)| !matches!(what, What::Post(..)));
    }

    /// What would be left after a kill at this moment is neither more nor less than what is held.
    fn spool_is_true(&self) {
        if !self.nature.settings.spool {
            assert_eq!(self.spool.units(), 0);
        } else if self.checks.ended() {
            let told = self.core.ledger().spooled;
            assert_eq!(self.spool.units(), told + self.untold_units);
        } else if !self.checks.not_stored && !self.checks.to_be_copied {
            let books = self.core.ledger();
            let told = self.core.held_units() + books.on_disk;
            assert_eq!(self.spool.units(), told + self.untold_units);
        }
    }

    /// The process is gone. What may have left it is uncertain from now on, and the spool must know.
    pub(crate) fn dies(&mut self) {
        self.forgotten.clear();
        for stored in self.spool.entries() {
            let sending = stored.load.units.clone().map(|unit| unit as usize);
            for unit in sending {
                let sent = stored.sends > 0;
                assert!(sent || !self.units[unit].uncertain, "a mark is lost");
                self.units[unit].uncertain |= sent;
            }
        }
        for send in std::mem::take(&mut self.sends).into_values() {
            for item in send.batch.items {
                if let Some(stored) = self.spool.get(item.id) {
                    assert!(stored.sends > 0, "a send is not marked");
                }
            }
        }
        self.note(|_| "the process is gone".into());
    }

    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = line(self);
            if let Some(trace) = &mut self.trace {
                let _ = writeln!(trace, "{line}");
            }
        }
    }
}

/// Whether somebody may have stored it, as far as its sender can know: the truth of the wire, not of the core.
fn may_have_arrived(fact: Fact) -> bool {
    match fact {
        Fact::NotConnected | Fact::NothingLeft | Fact::NothingToSend => false,
        Fact::NoAnswer => true,
        Fact::Answered(answer) => matches!(answer.status, 501..=599),
    }
}

/// Langfuse knows events by their identifiers, and neither spans nor single scores.
fn is_deduplicated(route: &Route) -> bool {
    route.door == Door::Ingestion
}

fn ends_a_request(what: &What) -> bool {
    matches!(
        what,
        What::Tell(Event::Accepted { .. } | Event::RequestClosed)
    )
}

fn outlives_the_process(what: &What) -> bool {
    matches!(
        what,
        What::LangfuseChanges | What::WallJumps | What::ArrivesLate(..)
    )
}

fn needs_the_guest(what: &What) -> bool {
    matches!(
        what,
        What::Tell(_)
            | What::Answers(..)
            | What::ProbeAnswers(..)
            | What::Post(..)
            | What::HandlerEnds(_)
    )
}
