//! Does it pay to wait for spans that SDK threads and background tasks hand over when the work is over? The spans say what
//! is missing and to which invocation they belong, and this sandbox's past says whether it comes.
//!
//! A torn trace has a reason to wait. One that is whole when the work ends has its spans; only what an SDK hands over by
//! another door, scores, may come a moment later.
//! What learning gains over a fixed grace, per invocation with a round trip of 20 ms, is in `tests/scenarios/grace.rs`.

use std::time::Duration;

use crate::time::{Now, Timer};
use crate::traces::{Completeness, SpanFact, Traces};

/// The grace that a sandbox starts with where every span's parent is here. Python's SDK 5 and the JS SDK hand scores over
/// about 20 ms after the spans; Lambda's telemetry takes as long to tell the end, so this costs little more than it.
pub const WHOLE_TRACE_GRACE: Duration = Duration::from_millis(40);

/// A grace that has shrunk below this is none.
const SHORTEST_GRACE: Duration = Duration::from_millis(1);

/// Learns from each invocation for the next.
#[derive(Debug)]
pub struct LateSpans {
    traces: Traces,
    graces: Graces,
    /// Requests with data of this invocation.
    requests: u32,
    /// What that came to last time.
    requests_last_time: u32,
    /// How quiet it had been, after the work was done, when the latest request began.
    quiet_before_request: Option<Duration>,
    late_this_time: bool,
    before: Option<Before>,
}

/// An invocation whose work is over.
#[derive(Clone, Copy, Debug)]
struct Before {
    /// By the platform's own time, without which only its trace says whose a span is.
    ended_at: Option<Now>,
    /// When the one before it ended, in nanoseconds since the Unix epoch.
    after_unix_nano: u64,
    completeness: Completeness,
}

impl LateSpans {
    /// Waits at most `grace_limit`.
    pub fn new(grace_limit: Duration) -> Self {
        Self {
            traces: Traces::default(),
            graces: Graces::new(grace_limit),
            requests: 0,
            requests_last_time: 1,
            quiet_before_request: None,
            late_this_time: false,
            before: None,
        }
    }

    /// A client has begun a request, when nothing had been heard since `quiet_since` after the work was done.
    pub fn request_opened(&mut self, quiet_since: Option<Now>, now: Now) {
        self.quiet_before_request = quiet_since.map(|since| now.since(since));
    }

    /// Data has come. What its spans say of themselves decides whose it is; the order of events does not.
    pub fn arrived(&mut self, facts: &[SpanFact], now: Now) {
        let situation = self.traces.completeness();
        let quiet = self.quiet_before_request.take();
        let mut ours = facts.is_empty();
        let mut belated = Belated::None;
        for fact in facts {
            match self.belated(fact) {
                Belated::None => {
                    ours = true;
                    self.traces.add(fact);
                }
                late => belated = belated.max(late),
            }
        }
        self.requests += u32::from(ours);
        if let (Belated::FromLast, Some(before)) = (belated, self.before)
            && let Some(ended_at) = before.ended_at
        {
            let lateness = now.awake_since(ended_at);
            self.graces.missed(before.completeness, lateness);
        }
        if let (true, Some(quiet)) = (ours, quiet) {
            self.graces.late(situation, quiet);
            self.late_this_time = true;
        }
    }

    fn belated(&self, fact: &SpanFact) -> Belated {
        let Some(before) = self.before.filter(|_| !self.traces.knows(fact)) else {
            return Belated::None;
        };
        let ended = before.ended_at.map_or(0, unix_nano);
        let started = fact.start_unix_nano;
        let says = started > 0 && ended > 0;
        if says && started <= before.after_unix_nano {
            // Something that sends now and then brings what no grace would have caught.
            Belated::FromLongBefore
        } else if says && started <= ended || !says && self.traces.was_left_torn(fact) {
            Belated::FromLast
        } else {
            Belated::None
        }
    }

    /// The work is over and the sandbox released. `ended_at`: by the platform's own time. `in_vain`: a grace was waited out.
    /// What comes from here on belongs to another invocation, or comes late.
    pub fn next_invocation(&mut self, ended_at: Option<Now>, in_vain: bool) {
        let completeness = self.traces.completeness();
        if in_vain && !self.late_this_time {
            self.graces.in_vain(completeness);
        }
        let last = self.before.and_then(|before| before.ended_at);
        self.before = Some(Before {
            ended_at,
            after_unix_nano: last.map_or(0, unix_nano),
            completeness,
        });
        self.requests_last_time = std::mem::take(&mut self.requests);
        self.quiet_before_request = None;
        self.late_this_time = false;
        self.traces.next_invocation();
    }

    /// The sandbox was restored from a snapshot: what came before belongs to no invocation of this one.
    pub fn restored(&mut self) {
        self.next_invocation(None, false);
        self.requests_last_time = 1;
    }

    /// How long late spans are still waited for, since the work ended or a client was last heard of.
    pub fn grace_left(&self, since: Now, now: Now) -> Duration {
        Timer::new(since, self.grace()).left(now)
    }

    /// Whether every trace is whole, so that what is here need not wait for more.
    pub fn nothing_is_missing(&self) -> bool {
        self.traces.completeness() == Completeness::Whole
    }

    /// Whether an invocation that still runs has handed over just what the last one did, whole, and no spans were late.
    /// One that hands over more is no longer foretold: what comes then shares a request at the end, for requests are
    /// what Langfuse's limits count.
    pub fn nothing_more_is_expected(&self) -> bool {
        let nothing = self.requests == 0 && self.requests_last_time == 0;
        let all = nothing || self.nothing_is_missing();
        all && self.requests == self.requests_last_time && self.grace() <= WHOLE_TRACE_GRACE
    }

    fn grace(&self) -> Duration {
        self.graces.of(self.traces.completeness())
    }
}

/// Whose a span is, if not the current invocation's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Belated {
    None,
    FromLast,
    FromLongBefore,
}

fn unix_nano(at: Now) -> u64 {
    u64::try_from(at.wall.as_nanos()).unwrap_or(u64::MAX)
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
            self.late(situation, lateness);
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
