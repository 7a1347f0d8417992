//! The life of a sandbox as the extension sees it, and the only place that releases it.

use std::time::Duration;

use crate::buffer::{FIRST_ACCEPTED, ItemId, Payload};
use crate::delivery::fact::Fact;
use crate::end_of_work::EndOfWork;
use crate::ledger::Ledger;
use crate::pipeline::{Due, PROBE_TIMEOUT, Patience, Pipeline};
use crate::strategy::{Density, Strategy};
use crate::time::{Now, Timer};
use crate::{Action, Event, Settings};

/// A gap between two events that is long enough for a pooled connection to have died in it.
pub const CONNECTION_IDLE_LIMIT: Duration = Duration::from_secs(1);

/// What SHUTDOWN leaves for the report and the exit itself.
pub const EXIT_MARGIN: Duration = Duration::from_millis(150);

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
    /// An invocation is under way and the sandbox is ours until we let go.
    Invoking { release_by: Timer },
    /// The work is over; the sandbox is held until everything is sent.
    Flushing {
        since: Now,
        release_by: Timer,
        hold: bool,
    },
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
    end_of_work: EndOfWork,
    density: Density,
    pipeline: Pipeline<P>,
    /// Whether INVOKE events come at all.
    invoked: bool,
    /// What was accepted before the current invocation.
    backlog_before: ItemId,
    last_event_at: Now,
    /// When the sandbox was last released.
    idle_since: Now,
    thawed_at: Now,
}

impl<P: Payload> Core<P> {
    /// Begins before the extension is registered.
    pub fn new(settings: Settings, now: Now) -> Self {
        Self {
            phase: Phase::Starting,
            end_of_work: EndOfWork::new(settings.grace_limit),
            density: Density::default(),
            pipeline: Pipeline::new(settings.clone()),
            invoked: true,
            backlog_before: FIRST_ACCEPTED,
            last_event_at: now,
            idle_since: now,
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
        let mut actions = self.notice_gap(&event, now);
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
            Event::TelemetrySpeaks => self.end_of_work.telemetry_speaks(),
            Event::RuntimeDone { request_id, .. } | Event::Reported { request_id, .. } => {
                self.end_of_work.runtime_done(request_id, now);
            }
            Event::Restored { seed } => self.pipeline.delivery().reseed(seed),
            Event::RequestOpened => self.end_of_work.request_opened(now),
            Event::Accepted {
                route,
                payload,
                facts,
            } => {
                let released =
                    matches!(self.phase, Phase::Idle) && !self.end_of_work.may_be_running();
                self.end_of_work.arrived(&facts, released, now);
                self.pipeline.accept(&route, payload, now);
            }
            Event::RequestClosed => self.end_of_work.request_closed(now),
            Event::Refused { reason, bytes } => self.pipeline.refused_client(reason, bytes),
            Event::NotStored { id } => self.pipeline.not_stored(id),
            Event::PassedThrough { fact } => {
                let answered = matches!(fact, Fact::Answered(_));
                self.pipeline.delivery().passed_through(answered, now);
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
        self.end_of_work.invoked(request_id, now);
        self.backlog_before = self.pipeline.next_item();
        let release_by = Timer::deadline(deadline_epoch_ms, self.settings.deadline_margin, now);
        self.phase = Phase::Invoking { release_by };
    }

    fn shutdown(&mut self, deadline_epoch_ms: u64, now: Now) {
        let exit_by = Timer::deadline(deadline_epoch_ms, EXIT_MARGIN, now)
            .or_sooner(Timer::new(now, LONGEST_SHUTDOWN), now);
        let receive_by = Timer::new(now, self.settings.grace_limit);
        if !matches!(self.phase, Phase::ShuttingDown { .. }) {
            self.pipeline.delivery().last_chance(now);
            self.phase = Phase::ShuttingDown {
                exit_by,
                receive_by,
            };
        }
    }

    /// Moves on as far as possible. Returns the action that ends this phase, if it ends.
    fn advance(&mut self, now: Now) -> Option<Action<P>> {
        if let Phase::Invoking { release_by } = self.phase
            && self.work_is_over(release_by, now)
        {
            self.begin_flush(release_by, now);
        }
        self.pipeline.abort_overdue(&self.patience(), now);
        self.pipeline.pump(self.due(now), now);
        if matches!(self.phase, Phase::ShuttingDown { .. }) && !self.pipeline.is_bad(now) {
            self.pipeline.read_back();
        }
        match self.phase {
            Phase::Registered => Some(self.release(now)),
            Phase::Flushing {
                since,
                release_by,
                hold,
            } if !self.worth_holding(release_by, hold, now) => {
                if hold && !self.pipeline.is_settled() {
                    let since = self.end_of_work.ended_at().unwrap_or(since);
                    self.pipeline.held_in_vain(now.since(since), now);
                }
                self.end_of_work.released();
                Some(self.release(now))
            }
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

    /// Asks for the next event. Nothing else does.
    fn release(&mut self, now: Now) -> Action<P> {
        self.density.released(now);
        self.idle_since = now;
        self.phase = Phase::Idle;
        // The handler may go on; what is sent beside it is due from now on.
        self.pipeline.pump(self.due(now), now);
        Action::Next
    }

    fn work_is_over(&self, release_by: Timer, now: Now) -> bool {
        self.settings.strategy == Strategy::Background
            || self.latest_release(release_by, now).is_over(now)
            || self.end_of_work.over_in(now) == Some(Duration::ZERO)
    }

    fn begin_flush(&mut self, deadline: Timer, now: Now) {
        if deadline.is_over(now) {
            self.end_of_work.not_told();
        }
        let release_by = Timer::new(now, self.pipeline.budget(now))
            .or_sooner(self.latest_release(deadline, now), now);
        let left = release_by.left(now);
        self.phase = Phase::Flushing {
            since: now,
            release_by,
            hold: !left.is_zero() && self.holds(now) && self.pipeline.has_hope(left, now),
        };
    }

    /// The flush budget counts from the end of work and never reaches past the deadline's margin.
    fn latest_release(&self, deadline: Timer, now: Now) -> Timer {
        match self.end_of_work.ended_at() {
            Some(ended_at) => {
                Timer::new(ended_at, self.settings.flush_budget).or_sooner(deadline, now)
            }
            None => deadline,
        }
    }

    fn worth_holding(&self, release_by: Timer, hold: bool, now: Now) -> bool {
        let left = release_by.left(now);
        let more_comes = self.end_of_work.over_in(now) != Some(Duration::ZERO);
        hold && !left.is_zero() && (more_comes || self.pipeline.has_hope(left, now))
    }

    /// At SHUTDOWN the runtime is gone: a request that it began ends soon, if it ends.
    fn worth_staying(&self, exit_by: Timer, receive_by: Timer, now: Now) -> bool {
        let left = exit_by.left(now);
        let receiving = self.end_of_work.is_receiving() && !receive_by.is_over(now);
        let busy = receiving || self.pipeline.is_reading_back();
        !left.is_zero() && (busy || self.pipeline.has_hope(left, now))
    }

    /// Whether the strategy holds for what is waiting now. In dense traffic only for what would get too old.
    fn holds(&self, now: Now) -> bool {
        match self.settings.strategy {
            Strategy::Background => false,
            Strategy::End => true,
            Strategy::Adaptive => {
                let age = self
                    .pipeline
                    .oldest()
                    .map_or(Duration::ZERO, |oldest| now.since(oldest));
                let next = self.density.next_invocation_in().unwrap_or_default();
                !self.is_dense() || age.saturating_add(next) >= self.settings.max_data_age
            }
        }
    }

    /// Whether the next invocation will come so soon that data may wait for it, and for a request beside its handler.
    fn is_dense(&self) -> bool {
        let next = self.density.next_invocation_in();
        self.settings.strategy == Strategy::Adaptive
            && next.is_some_and(|next| next <= self.settings.max_data_age / 2)
    }

    fn due(&self, now: Now) -> Due {
        match self.phase {
            Phase::ShuttingDown { .. } | Phase::Flushing { hold: true, .. } => Due::Everything,
            Phase::Invoking { .. } if self.end_of_work.nothing_is_missing() && self.holds(now) => {
                Due::Everything
            }
            Phase::Invoking { .. } => self.ripe(self.settings.max_data_age),
            Phase::Idle if !self.invoked || self.end_of_work.may_be_running() => {
                self.ripe(UNATTENDED_AGE)
            }
            // Nothing is begun that a freeze would cut.
            Phase::Starting
            | Phase::Registered
            | Phase::Flushing { .. }
            | Phase::Idle
            | Phase::Exited => Due::Nothing,
        }
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
            Phase::Invoking { release_by } => (
                Some(self.latest_release(release_by, now).left(now)),
                self.end_of_work.over_in(now),
            ),
            Phase::Flushing { release_by, .. } => {
                (Some(release_by.left(now)), self.end_of_work.over_in(now))
            }
            Phase::ShuttingDown {
                exit_by,
                receive_by,
            } => (Some(exit_by.left(now)), Some(receive_by.left(now))),
        };
        let pipeline = self.pipeline.wake_in(self.due(now), &self.patience(), now);
        let waits = [limit, over, pipeline].into_iter().flatten();
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
        self.end_of_work.is_told()
    }
}

/// How long an answer is waited for at SHUTDOWN, from when its request was sent: what an earlier phase waited for in vain
/// is given up, so that its data may have a last chance.
const LAST_REQUEST_PATIENCE: Duration = Duration::from_secs(2);

/// The same for a probe.
const LAST_PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// Lambda gives extensions two seconds at SHUTDOWN; a deadline further away is not Lambda's.
/// <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(2);
