//! Is this invocation over? The platform's word (`platform.runtimeDone`), no open local request, and then a grace for
//! spans that SDK threads and background tasks hand over late: as long as the spans themselves and this sandbox's past
//! say that more is coming, and no longer.
//!
//! What learning gains, per invocation with a round trip of 20 ms (`tests/scenarios/grace.rs`), against a fixed grace of
//! 300 ms: held 20 ms instead of 320 where everything was flushed; 100 instead of 370 where an SDK thread sends the root
//! up to 100 ms late, all roots caught (a fixed 50 ms catches half); 24 instead of 324 where one root in twenty is late,
//! all caught; 25 instead of 320 where tasks end long after any grace, 89 where they end just after it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::{Now, Timer};
use crate::traces::{Completeness, SpanFact, Traces};

/// The grace that a sandbox starts with where every span's parent is already here.
pub const WHOLE_TRACE_GRACE: Duration = Duration::from_millis(100);

/// A grace that has shrunk below this is none.
const SHORTEST_GRACE: Duration = Duration::from_millis(1);

/// Where nothing tells the end of an invocation, how long a request that a client began and does not finish is waited
/// for.
pub const OPEN_REQUEST_PATIENCE: Duration = Duration::from_secs(2);

/// `runtimeDone` records kept that came before their INVOKE.
const MAX_EARLY_DONE: usize = 8;

/// What is known of the Telemetry API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telemetry {
    /// Nothing has come from it yet.
    Silent,
    /// It has sent records, so that the end of this invocation will be told.
    Speaking,
    /// It sends records, and yet an invocation came to its deadline without its end being told.
    Unreliable,
}

/// Watches one invocation after another for its end.
#[derive(Debug)]
pub struct EndOfWork {
    telemetry: Telemetry,
    request_id: String,
    running: bool,
    done_at: Option<Now>,
    done_early: VecDeque<(String, Now)>,
    open_requests: u32,
    last_activity: Option<Now>,
    traces: Traces,
    graces: Graces,
    fallback_grace: Duration,
    /// How quiet it had been, after the work was done, when the latest request began.
    quiet_before_request: Option<Duration>,
    late_this_time: bool,
    /// What was known of the traces when the sandbox was released.
    at_release: Completeness,
    /// When the work of that invocation had ended.
    done_before: Option<Now>,
    /// How late data came after the release, unless it belongs to an invocation that we have not been told of yet.
    came_released: Option<Duration>,
}

impl EndOfWork {
    /// Waits at most `grace_limit` for spans that come late.
    pub fn new(grace_limit: Duration) -> Self {
        Self {
            telemetry: Telemetry::Silent,
            request_id: String::new(),
            running: false,
            done_at: None,
            done_early: VecDeque::new(),
            open_requests: 0,
            last_activity: None,
            traces: Traces::default(),
            graces: Graces::new(grace_limit),
            fallback_grace: grace_limit,
            quiet_before_request: None,
            late_this_time: false,
            at_release: Completeness::Unknown,
            done_before: None,
            came_released: None,
        }
    }

    /// A new invocation begins. Its end may have been told already.
    pub fn invoked(&mut self, request_id: String, now: Now) {
        let mut early = self.done_early.drain(..);
        self.done_at = early.find(|(id, _)| *id == request_id).map(|(_, at)| at);
        drop(early);
        if let (Some(lateness), None) = (self.came_released.take(), self.done_at) {
            self.graces.missed(self.at_release, lateness);
        }
        self.request_id = request_id;
        self.running = self.done_at.is_none();
        self.last_activity = Some(now);
        self.quiet_before_request = None;
        self.late_this_time = false;
    }

    /// The Telemetry API has sent something.
    pub fn telemetry_speaks(&mut self) {
        if self.telemetry == Telemetry::Silent {
            self.telemetry = Telemetry::Speaking;
        }
    }

    /// The runtime has asked for its next invocation.
    pub fn runtime_done(&mut self, request_id: String, now: Now) {
        self.telemetry = Telemetry::Speaking;
        if request_id == self.request_id {
            self.running = false;
            self.done_at.get_or_insert(now);
        } else {
            if self.done_early.len() == MAX_EARLY_DONE {
                self.done_early.pop_front();
            }
            self.done_early.push_back((request_id, now));
        }
    }

    /// A client has begun a request.
    pub fn request_opened(&mut self, now: Now) {
        self.quiet_before_request = self.quiet_since_done(now);
        self.open_requests += 1;
        self.last_activity = Some(now);
    }

    /// A client's request is answered, or its connection is gone.
    pub fn request_closed(&mut self, now: Now) {
        self.open_requests = self.open_requests.saturating_sub(1);
        self.last_activity = Some(now);
    }

    /// Data has come. `released`: the sandbox had been released by then.
    pub fn arrived(&mut self, facts: &[SpanFact], released: bool, now: Now) {
        let situation = self.traces.completeness();
        let quiet = self.quiet_before_request.take();
        if self.traces.arrived(facts) {
            self.graces.missed(Completeness::Torn, self.lateness(now));
        } else if released {
            let lateness = self.lateness(now);
            self.came_released.get_or_insert(lateness);
        } else if let Some(quiet) = quiet {
            self.graces.late(situation, quiet);
            self.late_this_time = true;
        }
        self.last_activity = Some(now);
    }

    /// The sandbox is released: what this invocation taught about late spans is kept.
    pub fn released(&mut self) {
        self.at_release = self.traces.completeness();
        self.done_before = self.done_at;
        if !self.late_this_time && self.done_at.is_some() {
            self.graces.in_vain(self.at_release);
        }
        self.traces.next_invocation();
    }

    /// The deadline came first. From now on the end is guessed, until the platform tells one again.
    pub fn not_told(&mut self) {
        if self.done_at.is_none() && self.telemetry == Telemetry::Speaking {
            self.telemetry = Telemetry::Unreliable;
        }
    }

    /// When the invocation is over: the wait that is left, or `None` while only the platform or a client can end it.
    pub fn over_in(&self, now: Now) -> Option<Duration> {
        let quiet = |grace| {
            self.last_activity
                .map_or(Duration::ZERO, |at| Timer::new(at, grace).left(now))
        };
        if self.open_requests > 0 {
            let told = self.done_at.is_some() || self.telemetry == Telemetry::Speaking;
            return (!told).then(|| quiet(OPEN_REQUEST_PATIENCE));
        }
        match (self.done_at, self.telemetry) {
            (Some(done_at), _) => {
                let grace = self.graces.of(self.traces.completeness());
                Some(quiet(grace).max(Timer::new(done_at, grace).left(now)))
            }
            (None, Telemetry::Speaking) => None,
            (None, Telemetry::Silent | Telemetry::Unreliable) => Some(quiet(self.fallback_grace)),
        }
    }

    /// Whether the work is done and every trace is whole, so that what is here need not wait for more.
    pub fn nothing_is_missing(&self) -> bool {
        let whole = self.traces.completeness() == Completeness::Whole;
        whole && self.done_at.is_some() && self.open_requests == 0
    }

    /// Whether a client is in the middle of a request.
    pub fn is_receiving(&self) -> bool {
        self.open_requests > 0
    }

    /// When the work ended, as far as that is known: what the flush budget counts from.
    pub fn ended_at(&self) -> Option<Now> {
        self.done_at
    }

    /// Whether the function may be at work now, so that the sandbox is not frozen. Without telemetry nobody knows.
    pub fn may_be_running(&self) -> bool {
        self.running
    }

    /// Whether the Telemetry API has ever spoken and not failed since.
    pub fn is_told(&self) -> bool {
        self.telemetry == Telemetry::Speaking
    }

    /// How long after the end of the last invocation's work, not counting the freeze: its threads stood still too.
    fn lateness(&self, now: Now) -> Duration {
        self.done_before
            .map_or(Duration::ZERO, |done_at| now.awake_since(done_at))
    }

    fn quiet_since_done(&self, now: Now) -> Option<Duration> {
        let done_at = self.done_at?;
        let since = self.last_activity.map_or(done_at, |at| {
            if done_at.since(at).is_zero() {
                at
            } else {
                done_at
            }
        });
        Some(now.since(since))
    }
}

/// How long it pays to wait for late spans, learned apart for each thing the spans may say.
#[derive(Debug)]
struct Graces {
    unknown: Duration,
    torn: Duration,
    whole: Duration,
    limit: Duration,
}

impl Graces {
    fn new(limit: Duration) -> Self {
        Self {
            unknown: limit,
            torn: limit,
            whole: WHOLE_TRACE_GRACE.min(limit),
            limit,
        }
    }

    fn of(&self, situation: Completeness) -> Duration {
        match situation {
            Completeness::Unknown => self.unknown,
            Completeness::Torn => self.torn,
            Completeness::Whole => self.whole,
        }
    }

    /// Data came after a quiet time of `quiet`: the next wait is twice that, at least what it was.
    fn late(&mut self, situation: Completeness, quiet: Duration) {
        let grace = (quiet * 2).max(self.of(situation)).min(self.limit);
        *self.of_mut(situation) = grace;
    }

    /// Data came when the wait was already over. It is worth a longer one, unless the longest would not have caught it.
    fn missed(&mut self, situation: Completeness, lateness: Duration) {
        if lateness <= self.limit {
            *self.of_mut(situation) = self.limit;
        }
    }

    /// Nothing came: the next wait is half as long.
    fn in_vain(&mut self, situation: Completeness) {
        let half = self.of(situation) / 2;
        *self.of_mut(situation) = if half < SHORTEST_GRACE {
            Duration::ZERO
        } else {
            half
        };
    }

    fn of_mut(&mut self, situation: Completeness) -> &mut Duration {
        match situation {
            Completeness::Unknown => &mut self.unknown,
            Completeness::Torn => &mut self.torn,
            Completeness::Whole => &mut self.whole,
        }
    }
}
