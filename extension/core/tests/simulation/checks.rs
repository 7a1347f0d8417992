//! The promises, as what must be true after every single step. Nothing here is taken from the core's own state but what
//! it shows: its actions, its books, and when it wants to be woken.

use std::collections::BTreeMap;
use std::time::Duration;

use langfuse_extension_core::deadline::EXIT_MARGIN;
use langfuse_extension_core::delivery::fact::{Fact, Whose};
use langfuse_extension_core::delivery::{FIRST_BACKOFF, LONGEST_BACKOFF};
use langfuse_extension_core::pipeline::MAX_IN_FLIGHT;
use langfuse_extension_core::route::{Credential, Route};
use langfuse_extension_core::strategy::Strategy;
use langfuse_extension_core::time::Now;
use langfuse_extension_core::{Action, Core, Event, ExportId, Settings};

use crate::load::Load;
use crate::nature::Nature;

/// How long the core must not pay again after a hold in vain.
const NO_SECOND_PAYMENT: Duration = Duration::from_mins(5);

/// What a good probe is worth of a hold, once in an outage.
const TRIAL: Duration = Duration::from_millis(500);

/// How soon the platform tells the end of an invocation.
const TOLD_WITHIN: Duration = Duration::from_millis(31);

/// Lambda's longest timeout.
const LONGEST_TIMEOUT: Duration = Duration::from_mins(15);

/// What SHUTDOWN leaves an extension after a runtime that took its share.
pub(crate) const SHUTDOWN: Duration = Duration::from_millis(1_400);

/// What Langfuse has shown to the core.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trust {
    Well,
    Bad,
    /// A probe came back well; one request with data may follow.
    Trial,
    Tried,
}

#[derive(Debug)]
struct UnderWay {
    units: u64,
    credential: Credential,
    /// In the world's time.
    began: Duration,
}

#[derive(Debug)]
struct Invocation {
    request_id: String,
    told: Option<Now>,
}

#[derive(Debug)]
pub(crate) struct Checks {
    settings: Settings,
    managed: bool,
    odd_clocks: bool,
    holds: bool,
    /// An invocation whose end was told before its INVOKE.
    told_early: Option<(String, Now)>,
    /// In vain, and nothing was delivered since in a time that it could have been held for.
    budget_was_spent: bool,
    /// The extension has its own keys.
    has_keys: bool,
    /// Units that nothing but those keys may carry, as long as it does not have them.
    keyless_units: u64,
    /// They were waited for once.
    keys_were_waited_for: bool,
    /// Holds together in which some data had no keys.
    waited_for_keys: Duration,
    invocation: Option<Invocation>,
    next_outstanding: bool,
    ended: bool,
    /// The world's time.
    pub(crate) time: Duration,
    /// When the platform ends this invocation, in the world's time, and the function's timeout.
    pub(crate) deadline: Option<(Duration, Duration)>,
    /// Deadlines from which this function's timeout could be read.
    honest_deadlines: u32,
    deadline_is_readable: bool,
    shutdown: Option<(Now, Duration)>,
    open_requests: u32,
    telemetry_spoke: bool,
    last_activity: Option<Now>,
    trust: Trust,
    refused: Vec<Credential>,
    in_flight: BTreeMap<ExportId, UnderWay>,
    probe: Option<Credential>,
    failed_probes: u32,
    last_probe: Option<Now>,
    in_vain: Option<Now>,
    /// A good probe has come since: once in an outage, so much more may be spent on whether data is taken again.
    trial: Option<Duration>,
    accepted: u64,
    recovered: u64,
    delivered: u64,
    dropped: u64,
    pub(crate) not_stored: bool,
    /// The sandbox has not been copied yet, as far as anybody can tell.
    pub(crate) to_be_copied: bool,
    latest_event: Option<Now>,
    released_now: bool,
    idle_timeouts: u32,
    last_timeout: Option<Now>,
}

impl Checks {
    pub(crate) fn new(settings: Settings, nature: &Nature) -> Self {
        let to_be_copied = settings.snapshot;
        Self {
            settings,
            managed: nature.managed,
            odd_clocks: nature.odd_clocks,
            holds: nature.holds(),
            budget_was_spent: false,
            has_keys: false,
            keyless_units: 0,
            keys_were_waited_for: false,
            waited_for_keys: Duration::ZERO,
            told_early: None,
            invocation: None,
            next_outstanding: false,
            ended: false,
            time: Duration::ZERO,
            deadline: None,
            honest_deadlines: 0,
            deadline_is_readable: false,
            shutdown: None,
            open_requests: 0,
            telemetry_spoke: false,
            last_activity: None,
            trust: Trust::Well,
            refused: Vec::new(),
            in_flight: BTreeMap::new(),
            probe: None,
            failed_probes: 0,
            last_probe: None,
            in_vain: None,
            trial: None,
            accepted: 0,
            recovered: 0,
            delivered: 0,
            dropped: 0,
            not_stored: false,
            to_be_copied,
            latest_event: None,
            released_now: false,
            idle_timeouts: 0,
            last_timeout: None,
        }
    }

    fn see_whether_copied(&mut self, event: &Event<Load>, now: Now) {
        let latest = self.latest_event.replace(now);
        let frozen = latest.is_some_and(|at| now.frozen_since(at) >= Duration::from_secs(1));
        let told = matches!(
            event,
            Event::Invoke { .. } | Event::Shutdown { .. } | Event::Restored { .. }
        );
        // Before a copy nothing is put on disk.
        let left = matches!(event, Event::SpoolOpened { records, .. } if !records.is_empty());
        self.not_stored |= self.to_be_copied && left;
        self.to_be_copied &= !frozen && !told && !left;
    }

    pub(crate) fn before(&mut self, event: &Event<Load>, now: Now) {
        self.see_whether_copied(event, now);
        match event {
            Event::Invoke {
                request_id,
                deadline_epoch_ms,
            } => {
                assert!(
                    self.next_outstanding,
                    "the world invoked without being asked"
                );
                self.see_deadline(*deadline_epoch_ms, now);
                let early = self.told_early.take();
                let early = early.filter(|(id, _)| id == request_id);
                self.invocation = Some(Invocation {
                    request_id: request_id.clone(),
                    told: early.map(|(_, at)| at),
                });
                self.next_outstanding = false;
                self.last_activity = Some(now);
            }
            Event::RuntimeDone { request_id, .. } | Event::Reported { request_id, .. } => {
                self.telemetry_spoke = true;
                if let Some(invocation) = &mut self.invocation
                    && invocation.request_id == *request_id
                {
                    invocation.told.get_or_insert(now);
                } else {
                    self.told_early = Some((request_id.clone(), now));
                }
            }
            Event::TelemetrySpeaks => self.telemetry_spoke = true,
            Event::Shutdown { deadline_epoch_ms } => {
                let left = Duration::from_millis(*deadline_epoch_ms).saturating_sub(now.wall);
                let left = left.min(Duration::from_secs(2)).max(SHUTDOWN);
                self.shutdown = Some((now, left.saturating_sub(EXIT_MARGIN)));
                self.failed_probes = 0;
                self.in_vain = None;
                self.next_outstanding = false;
            }
            Event::RequestOpened => {
                self.open_requests += 1;
                self.last_activity = Some(now);
            }
            Event::RequestClosed => {
                self.open_requests -= 1;
                self.last_activity = Some(now);
            }
            Event::Accepted { route, payload, .. } => {
                self.accepted += units(payload);
                self.last_activity = Some(now);
                self.see_whether_keyless(route, payload);
            }
            Event::Recovered { route, payload, .. } => self.see_whether_keyless(route, payload),
            Event::SpoolOpened { records, .. } => {
                let units = records.iter().map(|head| u64::from(head.units));
                self.recovered += units.sum::<u64>();
            }
            Event::NotStored { .. } => self.not_stored = true,
            Event::Exported { id, fact } => self.exported(*id, *fact),
            Event::Probed { fact, .. } => self.probed(*fact, now),
            Event::PassedThrough {
                fact: Fact::Answered(_),
            } => self.failed_probes = 0,
            Event::KeysReady => {
                self.failed_probes = 0;
                self.has_keys = true;
                self.keyless_units = 0;
                self.waited_for_keys = Duration::ZERO;
            }
            Event::PassedThrough { .. } => {
                self.trust = Trust::Bad;
            }
            // One reading by the clocks of another sandbox is none.
            Event::Restored { .. } if self.honest_deadlines < 2 => self.honest_deadlines = 0,
            Event::NotRecovered { .. }
            | Event::Cut { .. }
            | Event::Restored { .. }
            | Event::Registered { .. }
            | Event::Refused { .. }
            | Event::HeldBack(_)
            | Event::Timeout => {}
        }
    }

    fn see_whether_keyless(&mut self, route: &Route, payload: &Load) {
        if route.credential == Credential::Configured && !self.has_keys {
            self.keyless_units += units(payload);
        }
    }

    fn exported(&mut self, id: ExportId, fact: Fact) {
        let UnderWay {
            units,
            credential,
            began,
        } = self.in_flight.remove(&id).expect("an export under way");
        let status = status(fact);
        match status {
            Some(200) => {
                self.delivered += units;
                self.in_vain = None;
                self.trial = None;
                self.budget_was_spent &= self.time - began > self.settings.flush_budget;
                self.failed_probes = 0;
            }
            // It answers, so that it may be sent data, let alone a probe.
            Some(400 | 403 | 413 | 429) => self.failed_probes = 0,
            Some(401) if by_langfuse(fact) => self.refused.push(credential.clone()),
            _ => {}
        }
        self.trust = match status {
            Some(200) => Trust::Well,
            Some(400 | 401 | 403 | 413 | 429) if self.trust == Trust::Well => Trust::Well,
            Some(400 | 401 | 403 | 413 | 429) => Trust::Trial,
            _ => Trust::Bad,
        };
        if status == Some(200) {
            self.refused.retain(|refused| *refused != credential);
            self.failed_probes = 0;
        }
    }

    fn probed(&mut self, fact: Fact, now: Now) {
        let credential = self.probe.take().expect("a probe under way");
        let status = status(fact);
        if status == Some(200) {
            self.refused.retain(|refused| *refused != credential);
            self.failed_probes = 0;
            if self.in_vain.is_some() {
                self.trial.get_or_insert(TRIAL);
            }
        } else {
            let frozen = self.last_probe.map(|at| now.frozen_since(at));
            let cut = frozen.is_some_and(|frozen| frozen >= Duration::from_secs(1));
            self.failed_probes += u32::from(!cut);
            self.last_probe = self.last_probe.filter(|_| !cut);
        }
        if status == Some(401) {
            self.refused.push(credential);
            self.failed_probes = 0;
        }
        match status {
            None | Some(..200 | 300..=399 | 404..=428 | 430..) => self.trust = Trust::Bad,
            _ if self.trust != Trust::Well => self.trust = Trust::Trial,
            _ => {}
        }
    }

    pub(crate) fn action(&mut self, action: &Action<Load>, now: Now) {
        assert!(!self.ended, "{action:?} after Exit");
        let leaves_a_trace = matches!(
            action,
            Action::Export { .. } | Action::Probe { .. } | Action::Store { .. }
        );
        assert!(
            !(self.to_be_copied && leaves_a_trace),
            "{action:?} would be done by every copy"
        );
        match action {
            Action::Next => {
                assert!(!self.next_outstanding, "a second Next");
                assert!(self.shutdown.is_none(), "a Next after SHUTDOWN");
                self.next_outstanding = true;
                self.released_now = true;
            }
            Action::Export { id, batch, .. } => {
                self.may_send(&batch.route.credential);
                let full = self.in_flight.len() == MAX_IN_FLIGHT;
                assert!(!full, "too many requests under way");
                if self.trust == Trust::Trial {
                    self.trust = Trust::Tried;
                }
                let limits = batch.route.door.limits();
                let too_much = batch.request_bytes() > limits.bytes
                    || batch.units() > u64::from(limits.units)
                    || batch.items.len() > limits.items;
                assert!(
                    !too_much || batch.items.len() == 1,
                    "a batch over its limits"
                );
                assert!(!batch.items.is_empty(), "an empty batch");
                let send = UnderWay {
                    units: batch.units(),
                    credential: batch.route.credential.clone(),
                    began: self.time,
                };
                let before = self.in_flight.insert(*id, send);
                assert!(before.is_none(), "an export id used twice");
            }
            Action::Probe { route, .. } => {
                assert!(self.probe.is_none(), "two probes at once");
                self.probe_is_spaced(now);
                self.probe = Some(route.credential.clone());
            }
            Action::Dropped { units, .. } => self.dropped += units,
            Action::Exit => self.ended = true,
            Action::Abort { id } => assert!(self.in_flight.contains_key(id), "aborts nothing"),
            Action::AbortProbe { .. } => assert!(self.probe.is_some(), "aborts no probe"),
            _ => {}
        }
    }

    fn may_send(&self, credential: &Credential) {
        assert!(
            matches!(self.trust, Trust::Well | Trust::Trial),
            "data was sent to a Langfuse not proven healthy"
        );
        assert!(
            !self.refused.contains(credential),
            "data was sent with refused keys"
        );
        if let Some(invocation) = &self.invocation
            && !self.managed
            && self.next_outstanding
        {
            let running = invocation.told.is_none();
            assert!(running, "data was sent in a sandbox that may freeze");
        }
    }

    /// Failed probes are further and further apart, as far as clocks that are not set can show it.
    fn probe_is_spaced(&mut self, now: Now) {
        if let (Some(last), 2..) = (
            self.last_probe.filter(|_| !self.odd_clocks),
            self.failed_probes,
        ) {
            let doublings = (self.failed_probes - 1).min(8);
            let least = (FIRST_BACKOFF * (1 << doublings)).min(LONGEST_BACKOFF) / 4;
            assert!(
                now.since(last) >= least,
                "probes in a row: {:?}",
                now.since(last)
            );
        }
        self.last_probe = Some(now);
    }

    pub(crate) fn after(&mut self, event_was_timeout: bool, core: &Core<Load>, now: Now) {
        self.books_balance(core);
        assert!(core.held_bytes() <= self.settings.buffer_bytes);
        let wake_in = core.wake_in(now);
        assert_ne!(wake_in, Some(Duration::ZERO), "would spin");
        for late in [1, 10_000].map(Duration::from_millis) {
            let asked = core.wake_in(Now {
                mono: now.mono + late,
                wall: now.wall + late,
            });
            let left = wake_in.map(|wait| wait.saturating_sub(late));
            assert_eq!(asked, left, "would oversleep what became due meanwhile");
        }
        self.does_not_spin(event_was_timeout, now);
        if let Some((began, longest)) = self.shutdown.filter(|_| !self.ended) {
            let left = longest.saturating_sub(now.since(began));
            assert!(!left.is_zero(), "SHUTDOWN was overrun");
            assert!(wake_in.is_some_and(|w| w <= left), "SHUTDOWN would be");
            let left = core.held_units() + core.ledger().on_disk;
            if left == 0 && self.open_requests == 0 {
                panic!("nothing was left, and it did not exit");
            }
        } else if !self.ended {
            self.hold_is_bounded(core, wake_in, now);
        }
    }

    fn books_balance(&self, core: &Core<Load>) {
        let books = core.ledger();
        let held = core.held_units();
        let ended = books.delivered + books.spooled + books.dropped.total();
        let held = held + books.on_disk;
        assert_eq!(books.accepted + books.recovered, ended + held, "{books:?}");
        assert_eq!(books.accepted, self.accepted);
        assert_eq!(books.recovered, self.recovered);
        assert_eq!(books.delivered, self.delivered);
        assert_eq!(books.dropped.total(), self.dropped);
        assert!(!self.ended || held == 0, "something was held at the end");
    }

    fn does_not_spin(&mut self, event_was_timeout: bool, now: Now) {
        let again = event_was_timeout
            && self
                .last_timeout
                .is_some_and(|last| now.since(last) < Duration::from_millis(1));
        self.idle_timeouts = if again { self.idle_timeouts + 1 } else { 0 };
        self.last_timeout = Some(now);
        assert!(self.idle_timeouts < 20, "it spins");
    }

    fn hold_is_bounded(&mut self, core: &Core<Load>, wake_in: Option<Duration>, now: Now) {
        let Some(invocation) = &self.invocation else {
            return;
        };
        let since_told = invocation.told.map(|told| now.since(told));
        let quiet = self
            .last_activity
            .map_or(Duration::ZERO, |at| now.since(at));
        if self.next_outstanding {
            let released_now = std::mem::take(&mut self.released_now);
            if released_now {
                let held = since_told.unwrap_or(Duration::ZERO);
                self.trial = self.trial.map(|trial| trial.saturating_sub(held));
                self.hold_held(since_told, core.held_units());
            }
            let Some(invocation) = &self.invocation else {
                return;
            };
            let since_told = invocation.told.map(|told| now.since(told));
            let clients_are_quiet = self.open_requests == 0 && quiet >= self.settings.flush_budget;
            let paid = released_now
                && clients_are_quiet
                && since_told.is_some_and(|held| held >= self.settings.flush_budget);
            if paid && core.held_units() > 0 && self.trust != Trust::Well {
                self.in_vain.get_or_insert(now);
            }
            return;
        }
        // The truth, before which the margin is kept, as far as anybody could know it.
        let deadline = self.deadline.map_or(Duration::ZERO, |(at, _)| at);
        let deadline = deadline.saturating_sub(self.time);
        let deadline = match (self.knows_the_timeout(), self.odd_clocks) {
            (true, false) => deadline.saturating_sub(self.settings.deadline_margin),
            (true, true) => deadline,
            (false, _) => LONGEST_TIMEOUT,
        };
        let budget = since_told.map(|held| self.settings.flush_budget.saturating_sub(held));
        let left = budget.map_or(deadline, |budget| budget.min(deadline));
        assert!(!left.is_zero(), "the sandbox was held too long");
        let wakes = wake_in.is_some_and(|wake| wake <= left);
        assert!(wakes, "it would sleep over its limit: {wake_in:?}");

        let strategy = self.settings.strategy;
        assert!(strategy != Strategy::Background, "background never holds");
        let grace_over = since_told.is_some_and(|held| held >= self.settings.grace_limit)
            && quiet >= self.settings.grace_limit
            && self.open_requests == 0;
        let vain = self
            .in_vain
            .is_some_and(|at| now.since(at) < NO_SECOND_PAYMENT);
        let on_trial = self.trial.is_some_and(|trial| !trial.is_zero());
        let vain = vain && !self.odd_clocks && !on_trial;
        assert!(!(vain && grace_over), "a known outage is paid for again");
        assert!(
            !(grace_over && core.held_units() == 0),
            "held for nothing at all"
        );
        let blind_limit = self.settings.grace_limit + self.settings.flush_budget;
        let blind = !self.telemetry_spoke
            && !self.odd_clocks
            && quiet > blind_limit + Duration::from_secs(2);
        assert!(!blind, "held without a word from anyone");
    }

    /// In sparse traffic what was accepted and could be sent is gone before the freeze. Keys that do not come are waited
    /// for once.
    fn hold_held(&mut self, since_told: Option<Duration>, held_units: u64) {
        let Some(held) = since_told.filter(|_| held_units > 0) else {
            return;
        };
        let end = self.deadline.map_or(Duration::ZERO, |(at, _)| at);
        let deadline_is_near =
            end.saturating_sub(self.time) <= self.settings.deadline_margin + TOLD_WITHIN;
        // The wait for keys that do not come spends the budget, in one invocation or in several.
        let before = self.waited_for_keys;
        let spent = held + before + TOLD_WITHIN >= self.settings.flush_budget;
        if self.keyless_units > 0 {
            self.waited_for_keys += held;
        }
        let keyless = self.keys_were_waited_for && held_units <= self.keyless_units;
        let excused = spent || deadline_is_near || self.budget_was_spent || keyless;
        assert!(
            excused || !self.holds || !self.refused.is_empty(),
            "{held_units} units were left to freeze after {held:?}"
        );
        self.budget_was_spent |= spent;
        self.keys_were_waited_for |= spent && self.keyless_units > 0;
    }

    /// Whether this deadline can be kept: the function's timeout was there to be read, twice if its clock or its deadlines are odd.
    fn knows_the_timeout(&self) -> bool {
        self.honest_deadlines >= 2 && self.deadline_is_readable
    }

    /// A deadline of whole seconds says the timeout if the clock is right and INVOKE in time.
    fn see_deadline(&mut self, deadline_epoch_ms: u64, now: Now) {
        let left = Duration::from_millis(deadline_epoch_ms).saturating_sub(now.wall);
        let timeout = self.deadline.map_or(Duration::ZERO, |(_, timeout)| timeout);
        let off = timeout.saturating_sub(left);
        let truth = self.deadline.map_or(Duration::ZERO, |(at, _)| at);
        let truth = truth.saturating_sub(self.time);
        // An INVOKE that is late by a clock that is off is as late as that clock says.
        self.deadline_is_readable = left.abs_diff(truth) < Duration::from_millis(2)
            || timeout.saturating_sub(truth) <= self.settings.deadline_margin;
        if left <= timeout && off < Duration::from_secs(1) {
            self.honest_deadlines += 1;
        }
    }

    /// The handler was done, and yet the platform had to end the invocation.
    pub(crate) fn outlived_the_deadline(&self) {
        assert!(
            !self.knows_the_timeout(),
            "a hold has cost the function its life"
        );
    }

    /// Its end was told before its INVOKE.
    pub(crate) fn is_over(&self) -> bool {
        self.invocation.as_ref().is_some_and(|it| it.told.is_some())
    }

    /// Released, and no invocation that it was told of is under way: it may be frozen at any moment.
    pub(crate) fn is_between_invocations(&self) -> bool {
        let running = self.invocation.as_ref().is_some_and(|it| it.told.is_none());
        self.next_outstanding && !running
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.next_outstanding
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended
    }
}

fn status(fact: Fact) -> Option<u16> {
    match fact {
        Fact::Answered(answer) => Some(answer.status),
        _ => None,
    }
}

fn by_langfuse(fact: Fact) -> bool {
    matches!(fact, Fact::Answered(answer) if answer.whose == Whose::Langfuse)
}

fn units(load: &Load) -> u64 {
    u64::from(load.units.end - load.units.start)
}
