//! The life of a sandbox as the extension sees it, and the only place that releases it.

use std::time::Duration;

use crate::buffer::{FIRST_ACCEPTED, ItemId, Payload};
use crate::deadline::{self, FunctionTimeout};
use crate::hold::{End, Hold, Holds, Situation, Why};
use crate::late_spans::LateSpans;
use crate::ledger::Ledger;
use crate::pipeline::{Due, PROBE_TIMEOUT, Patience, Pipeline};
use crate::strategy::{Density, Strategy};
use crate::time::{Now, Timer};
use crate::work::Work;
use crate::{Action, Event, Settings};

/// A gap between two events that is long enough for a pooled connection to have died in it.
pub const CONNECTION_IDLE_LIMIT: Duration = Duration::from_secs(1);

/// Data age from which data is sent beside a handler that nobody will wait for, and under Lambda Managed Instances,
/// where nothing tells when an invocation ends.
const UNATTENDED_AGE: Duration = Duration::from_secs(1);

/// Where in its life the sandbox is.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Not yet registered.
    Starting,
    /// Registered, and about to ask for the first event.
    Registered,
    /// The next event is asked for: the sandbox may be frozen at any moment, or the handler still runs.
    Idle,
    /// An invocation is under way and the sandbox is ours until we let go. `paid`: it was held for what is unsent.
    Invoking { release_by: Timer, paid: bool },
    /// The sandbox ends.
    ShuttingDown { exit_by: Timer, receive_by: Timer },
    /// We ended.
    Exited,
}

/// The state machine. See the crate's documentation.
#[derive(Debug)]
pub struct Core<P> {
    settings: Settings,
    phase: Phase,
    work: Work,
    late_spans: LateSpans,
    timeout: FunctionTimeout,
    density: Density,
    pipeline: Pipeline<P>,
    /// Whether INVOKE events come at all.
    invoked: bool,
    /// What was accepted before the current invocation.
    backlog_before: ItemId,
    last_event_at: Now,
    /// When the sandbox was last released.
    idle_since: Now,
    /// Whether what comes belongs to an invocation that we have not been told of yet.
    between_invocations: bool,
    /// Why the sandbox is held since the latest event.
    why: Why,
    holds: Holds,
    thawed_at: Now,
}

impl<P: Payload> Core<P> {
    /// Begins before the extension is registered.
    pub fn new(settings: Settings, now: Now) -> Self {
        Self {
            phase: Phase::Starting,
            work: Work::new(settings.grace_limit, now),
            late_spans: LateSpans::new(settings.grace_limit),
            timeout: FunctionTimeout::default(),
            density: Density::default(),
            pipeline: Pipeline::new(settings.clone()),
            invoked: true,
            backlog_before: FIRST_ACCEPTED,
            last_event_at: now,
            idle_since: now,
            between_invocations: true,
            why: Why::None,
            holds: Holds::default(),
            thawed_at: now,
            settings,
        }
    }

    /// Takes in what happened, and says what is to be done, in this order.
    #[must_use]
    pub fn handle(&mut self, event: Event<P>, now: Now) -> Vec<Action<P>> {
        if matches!(self.phase, Phase::Exited) {
            return Vec::new();
        }
        // Until the end is told nobody knows from when on the sandbox is held.
        if self.why != Why::Telemetry {
            let held = now.awake_since(self.last_event_at);
            self.holds.add(self.why, held);
        }
        let mut actions = self.notice_gap(&event, now);
        if self.shows_a_restore(&event, now) {
            self.pipeline.restored();
        }
        self.take_in(event, now);
        let end_of_phase = self.advance(now);
        actions.append(&mut self.pipeline.take_actions());
        actions.extend(end_of_phase);
        if self.reads_back() {
            self.pipeline.read_back();
            actions.append(&mut self.pipeline.take_actions());
        }
        self.last_event_at = now;
        actions
    }

    fn take_in(&mut self, event: Event<P>, now: Now) {
        match event {
            Event::Registered { invoke } => {
                self.invoked = invoke;
                if matches!(self.phase, Phase::Starting) {
                    self.phase = Phase::Registered;
                }
            }
            Event::SpoolOpened {
                records,
                lost,
                unreadable,
            } => self.pipeline.spool_opened(records, lost, unreadable, now),
            Event::Recovered { id, route, payload } => {
                self.pipeline.recovered(id, &route, payload, now);
            }
            Event::NotRecovered { id } => self.pipeline.not_recovered(id),
            Event::KeysReady => self.pipeline.delivery().keys_ready(now),
            Event::Invoke {
                request_id,
                deadline_epoch_ms,
            } => self.invoke(request_id, deadline_epoch_ms, now),
            Event::TelemetrySpeaks => self.work.telemetry_spoke(),
            Event::RuntimeDone { request_id, at } => {
                self.work.trust_what_is_told(&request_id);
                self.end_told(request_id, at, now);
            }
            // It comes after a hold whose end nothing told as well, so it says nothing about telemetry's worth.
            Event::Reported { request_id, at } => self.end_told(request_id, at, now),
            Event::Restored { seed } => self.restored(seed, now),
            Event::RequestOpened => {
                let quiet_since = self.quiet_since_end();
                self.late_spans.request_opened(quiet_since, now);
                self.work.request_opened(now);
            }
            Event::Accepted {
                route,
                payload,
                facts,
            } => {
                self.late_spans.arrived(&facts, now);
                self.work.data_came(now);
                self.pipeline.accept(&route, payload, now);
            }
            Event::RequestClosed => self.work.request_closed(now),
            Event::Refused { reason, bytes } => self.pipeline.refused_client(reason, bytes),
            Event::HeldBack(held_back) => self.pipeline.held_back(held_back),
            Event::NotStored { id } => self.pipeline.not_stored(id),
            Event::PassedThrough { fact } => {
                self.pipeline.passed_through(fact, now);
            }
            Event::Exported { id, fact } => self.pipeline.exported(id, fact, now),
            Event::Cut { id, parts } => self.pipeline.cut(id, parts),
            Event::Probed { destination, fact } => self.pipeline.probed(destination, fact, now),
            Event::Shutdown { deadline_epoch_ms } => self.shutdown(deadline_epoch_ms, now),
            Event::Timeout => {}
        }
    }

    /// No connection survives a freeze, and no answer is given up before it could have been read after a thaw.
    fn notice_gap(&mut self, event: &Event<P>, now: Now) -> Vec<Action<P>> {
        let woken = matches!(
            event,
            Event::Invoke { .. } | Event::Shutdown { .. } | Event::Restored { .. }
        );
        let gap = if woken {
            now.since(self.idle_since)
        } else {
            now.frozen_since(self.last_event_at)
        };
        if woken || gap >= CONNECTION_IDLE_LIMIT {
            self.thawed_at = now;
        }
        if matches!(event, Event::Restored { .. }) {
            return vec![Action::ResetConnections, Action::RereadKeys];
        }
        if gap >= CONNECTION_IDLE_LIMIT {
            return vec![Action::ResetConnections];
        }
        Vec::new()
    }

    fn invoke(&mut self, request_id: String, deadline_epoch_ms: u64, now: Now) {
        if matches!(self.phase, Phase::ShuttingDown { .. }) {
            return;
        }
        self.density.invoked(now);
        if !self.between_invocations {
            self.late_spans.next_invocation(None, false);
        }
        self.between_invocations = false;
        // It began after the release.
        let late = now.awake_since(self.idle_since);
        self.work.invoked(request_id, now);
        self.backlog_before = self.pipeline.next_item();
        let left = self.timeout.left(deadline_epoch_ms, late, now);
        let release_by = Timer::new(now, left.saturating_sub(self.settings.deadline_margin));
        self.phase = Phase::Invoking {
            release_by,
            paid: false,
        };
    }

    fn end_told(&mut self, request_id: String, at: Option<Duration>, now: Now) {
        if !self.work.end_told(request_id, at, now) {
            return;
        }
        let Some(ended_at) = self.work.told_at() else {
            return;
        };
        self.timeout
            .lasted(ended_at.awake_since(self.work.invoked_at()));
        match self.phase {
            Phase::Invoking { .. } => {
                self.holds.add(Why::Telemetry, now.awake_since(ended_at));
            }
            Phase::Idle if !self.between_invocations => {
                self.density.released(now);
                let stamped_at = self.work.stamped_at();
                self.late_spans.next_invocation(stamped_at, false);
                self.between_invocations = true;
            }
            _ => {}
        }
    }

    /// A copy is told of its invocation, or of the restore, or nobody tells it and only the wall clock shows it: the app may
    /// post before either word has come.
    fn shows_a_restore(&self, event: &Event<P>, now: Now) -> bool {
        let told = matches!(
            event,
            Event::Invoke { .. } | Event::Shutdown { .. } | Event::Restored { .. }
        );
        told || now.frozen_since(self.last_event_at) >= CONNECTION_IDLE_LIMIT
    }

    /// What this sandbox is now was learned by other clocks, and of other invocations.
    fn restored(&mut self, seed: u64, now: Now) {
        self.pipeline.delivery().reseed(seed);
        self.density = Density::default();
        self.timeout.restored();
        if matches!(self.phase, Phase::Idle) {
            self.late_spans.restored();
            self.between_invocations = true;
            self.idle_since = now;
        }
    }

    fn shutdown(&mut self, deadline_epoch_ms: u64, now: Now) {
        if !matches!(self.phase, Phase::ShuttingDown { .. }) {
            let longest = self.settings.longest_shutdown;
            self.why = Why::None;
            self.pipeline.delivery().last_chance(now);
            self.phase = Phase::ShuttingDown {
                exit_by: Timer::new(now, deadline::exit_in(deadline_epoch_ms, longest, now)),
                receive_by: Timer::new(now, self.settings.grace_limit),
            };
        }
    }

    /// Moves on as far as possible. Returns the action that ends this phase, if it ends.
    fn advance(&mut self, now: Now) -> Option<Action<P>> {
        self.pipeline.abort_overdue(&self.patience(), now);
        if matches!(self.phase, Phase::Invoking { .. }) {
            self.guess_end(now);
        }
        self.pipeline.pump(self.due(now), now);
        if matches!(self.phase, Phase::ShuttingDown { .. }) && !self.pipeline.is_bad(now) {
            self.pipeline.read_back();
        }
        match self.phase {
            Phase::Registered => Some(self.release(now)),
            Phase::Invoking { release_by, paid } => self.hold_on(release_by, paid, now),
            Phase::ShuttingDown {
                exit_by,
                receive_by,
            } if !self.worth_staying(exit_by, receive_by, now) => {
                self.pipeline.finish();
                self.phase = Phase::Exited;
                Some(Action::Exit)
            }
            _ => None,
        }
    }

    fn guess_end(&mut self, now: Now) {
        let quiet_since = self.work.last_activity();
        if self.work.guess_end(now) {
            self.holds.add(Why::Telemetry, now.awake_since(quiet_since));
        }
    }

    /// Holds the sandbox for as long as there is a reason.
    fn hold_on(&mut self, release_by: Timer, paid: bool, now: Now) -> Option<Action<P>> {
        let Hold { why, .. } = self.hold(release_by, now);
        if why == Why::None {
            return Some(self.let_go(release_by, paid, now));
        }
        self.why = why;
        let paid = paid || matches!(why, Why::Unsent | Why::Probing);
        self.phase = Phase::Invoking { release_by, paid };
        None
    }

    fn let_go(&mut self, release_by: Timer, paid: bool, now: Now) -> Action<P> {
        if release_by.is_over(now) {
            self.work.deadline_came();
        }
        if let Some(ended_at) = self.work.ended_at() {
            if paid && !self.pipeline.is_settled() {
                self.pipeline.held_in_vain(now.since(ended_at), now);
            }
            let in_vain = self.work.told_at().is_some() && self.grace_left(now).is_zero();
            let stamped_at = self.work.stamped_at();
            self.late_spans.next_invocation(stamped_at, in_vain);
            self.between_invocations = true;
        }
        let held_at_all = self.work.ended_at().is_some() || release_by.is_over(now);
        self.holds
            .released(if held_at_all { self.why } else { Why::None });
        self.work.released();
        self.release(now)
    }

    /// Asks for the next event. Nothing else does.
    fn release(&mut self, now: Now) -> Action<P> {
        self.density.released(now);
        self.idle_since = now;
        self.why = Why::None;
        self.phase = Phase::Idle;
        // The handler may go on; what is sent beside it is due from now on.
        self.pipeline.pump(self.due(now), now);
        Action::Next
    }

    fn hold(&self, release_by: Timer, now: Now) -> Hold {
        let ended_at = self.work.ended_at();
        let ended = ended_at.map_or(Duration::ZERO, |at| now.since(at));
        let deadline = release_by.left(now);
        let budget = self.pipeline.budget(now);
        let within = budget.saturating_sub(ended).min(deadline);
        Hold::of(&Situation {
            strategy: self.settings.strategy,
            deadline,
            end: match ended_at {
                Some(_) => End::Ago(ended),
                None => End::Outstanding(self.work.end_comes_in(now)),
            },
            budget,
            hope: self.pipeline.hope(within, now),
            open_request: self.work.open_request_left(now),
            grace: self.grace_left(now),
            overlaps: self.overlaps(now),
            nothing_more_is_expected: self.late_spans.nothing_more_is_expected(),
        })
    }

    /// What is left of the wait for late spans. A quiet by which an end was guessed was one.
    fn grace_left(&self, now: Now) -> Duration {
        let since = self.quiet_since_end();
        since.map_or(Duration::ZERO, |since| {
            self.late_spans.grace_left(since, now)
        })
    }

    /// Since when nothing was heard after the work was done, if the platform told so and the sandbox is still held.
    fn quiet_since_end(&self) -> Option<Now> {
        let held = matches!(self.phase, Phase::Invoking { .. });
        let ended_at = self.work.told_at().filter(|_| held)?;
        let heard_at = self.work.last_activity();
        Some(if ended_at.is_before(heard_at) {
            heard_at
        } else {
            ended_at
        })
    }

    /// At SHUTDOWN the runtime is gone: a request that it began ends soon, if it ends.
    fn worth_staying(&self, exit_by: Timer, receive_by: Timer, now: Now) -> bool {
        let left = exit_by.left(now);
        let receiving = self.work.is_receiving() && !receive_by.is_over(now);
        let busy = receiving || self.pipeline.is_reading_back();
        !left.is_zero() && (busy || self.pipeline.has_hope(left, now))
    }

    /// Whether what is waiting may wait for the next invocation: in dense traffic, until it would get too old.
    fn overlaps(&self, now: Now) -> bool {
        self.is_dense() && self.overlaps_for(now).is_none_or(|left| !left.is_zero())
    }

    /// How long what is waiting may wait for the next invocation. `None`: nothing is waiting.
    fn overlaps_for(&self, now: Now) -> Option<Duration> {
        let next = self.density.next_invocation_in().unwrap_or_default();
        let oldest = self.pipeline.oldest()?;
        let most = self.settings.max_data_age.saturating_sub(next);
        Some(Timer::new(oldest, most).left(now))
    }

    /// Whether the next invocation will come so soon that data may wait for it, and for a request beside its handler.
    fn is_dense(&self) -> bool {
        let next = self.density.next_invocation_in();
        self.settings.strategy == Strategy::Adaptive
            && next.is_some_and(|next| next <= self.settings.max_data_age / 2)
    }

    fn due(&self, now: Now) -> Due {
        match self.phase {
            Phase::ShuttingDown { .. } => Due::Everything,
            Phase::Invoking { release_by, .. } => self.due_in_invocation(release_by, now),
            Phase::Idle if !self.invoked || self.work.may_be_running() => self.ripe(UNATTENDED_AGE),
            // Nothing is begun that a freeze would cut.
            Phase::Starting | Phase::Registered | Phase::Idle | Phase::Exited => Due::Nothing,
        }
    }

    fn due_in_invocation(&self, release_by: Timer, now: Now) -> Due {
        let whole = self.late_spans.nothing_is_missing();
        match self.hold(release_by, now).why {
            // About to be released.
            Why::None if self.work.ended_at().is_some() => Due::Nothing,
            _ if self.overlaps(now) => self.ripe(self.settings.max_data_age),
            Why::Unsent | Why::Probing => Due::Everything,
            Why::OpenRequest | Why::TornTrace if whole || self.grace_left(now).is_zero() => {
                Due::Everything
            }
            // What the handler handed over last time is here: the sending need not wait for the word that it ended.
            Why::Telemetry if self.all_came_early(now) => Due::Everything,
            _ => self.ripe(self.settings.max_data_age),
        }
    }

    fn all_came_early(&self, now: Now) -> bool {
        self.late_spans.nothing_more_is_expected()
            && !self.work.is_receiving()
            && !self.pipeline.budget(now).is_zero()
    }

    /// What is left of earlier invocations goes at once; in dense traffic it waits to share a request with later ones,
    /// for half its maximum age, because the next chance may be one invocation away.
    fn ripe(&self, age: Duration) -> Due {
        if self.is_dense() {
            Due::Ripe {
                age: self.settings.max_data_age / 2,
                before: ItemId(0),
            }
        } else {
            Due::Ripe {
                age,
                before: self.backlog_before,
            }
        }
    }

    /// What earlier processes left is read back beside the handler and before a freeze, never before the first `/next`
    /// and never while the sandbox is held. It is the last thing of a step, so that nothing waits for the disk.
    fn reads_back(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Invoking { .. })
    }

    fn patience(&self) -> Patience {
        let cut_short = matches!(self.phase, Phase::ShuttingDown { .. });
        let (request, probe) = if cut_short {
            (LAST_REQUEST_PATIENCE, LAST_PROBE_PATIENCE)
        } else {
            (self.settings.request_timeout, PROBE_TIMEOUT)
        };
        Patience {
            request,
            probe,
            thawed_at: self.thawed_at,
            cut_short,
        }
    }

    /// How long nothing needs to be done unless something happens. `None`: for as long as nothing happens.
    ///
    /// It is reckoned from the latest event, after which nothing was left to do: what has become due since is due at once,
    /// however long the processor was away in between.
    pub fn wake_in(&self, now: Now) -> Option<Duration> {
        let wait = self.wake_after_event()?;
        Some(wait.saturating_sub(now.since(self.last_event_at)))
    }

    fn wake_after_event(&self) -> Option<Duration> {
        let now = self.last_event_at;
        let (limit, over) = match self.phase {
            Phase::Starting | Phase::Registered | Phase::Exited => return None,
            Phase::Idle => (None, None),
            Phase::Invoking { release_by, .. } => (
                Some(self.hold(release_by, now).left),
                Some(self.grace_left(now)),
            ),
            Phase::ShuttingDown {
                exit_by,
                receive_by,
            } => (Some(exit_by.left(now)), Some(receive_by.left(now))),
        };
        let pipeline = self.pipeline.wake_in(self.due(now), &self.patience(), now);
        let overlaps = matches!(self.phase, Phase::Invoking { .. })
            .then(|| self.overlaps_for(now))
            .flatten()
            .filter(|_| self.is_dense());
        let waits = [limit, over, overlaps, pipeline].into_iter().flatten();
        waits.filter(|wait| !wait.is_zero()).min()
    }

    /// The books: accepted + recovered = delivered + on disk + spooled + dropped + [`Self::held_units`].
    pub fn ledger(&self) -> &Ledger {
        self.pipeline.ledger()
    }

    /// Units in memory: waiting, or on their way.
    pub fn held_units(&self) -> u64 {
        self.pipeline.held_units()
    }

    /// Bytes charged to the buffer.
    pub fn held_bytes(&self) -> usize {
        self.pipeline.held_bytes()
    }

    /// Whether Langfuse is known to be bad, so that the pass-through answers at once instead of asking it.
    pub fn langfuse_is_bad(&self, now: Now) -> bool {
        self.pipeline.is_bad(now)
    }

    /// Whether the end of an invocation is told by the Telemetry API rather than guessed.
    pub fn is_told(&self) -> bool {
        self.work.is_told()
    }

    /// For how long sandboxes were held, and why.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }
}

/// How long an answer is waited for at SHUTDOWN, from when its request was sent: what an earlier phase waited for in vain
/// is given up, so that its data may have a last chance.
const LAST_REQUEST_PATIENCE: Duration = Duration::from_secs(2);

/// The same for a probe.
const LAST_PROBE_PATIENCE: Duration = Duration::from_secs(1);
