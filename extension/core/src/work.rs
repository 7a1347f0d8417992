//! Is this invocation over? The platform says so, or, where it does not, a long quiet does; and clients may be in the
//! middle of a request.

use std::collections::VecDeque;
use std::time::Duration;

use crate::telemetry::{self, Telemetry};
use crate::time::{Now, Timer};

/// How long a request that a client began and does not finish is waited for, after the latest sign of any client.
pub const OPEN_REQUEST_PATIENCE: Duration = Duration::from_secs(1);

/// Ends of invocations kept that came before their INVOKE.
const MAX_EARLY_ENDS: usize = 8;

/// An end that was told before its INVOKE came.
#[derive(Debug)]
struct Early {
    request_id: String,
    at: Now,
    stamped_at: Option<Now>,
}

/// Watches the work of one invocation after another.
#[derive(Debug)]
pub struct Work {
    telemetry: Telemetry,
    request_id: String,
    last_request_id: String,
    /// It came to its deadline, and nothing had told its end.
    given_up: bool,
    begun: bool,
    invoked_at: Now,
    /// When its end was, as the platform told it.
    told_at: Option<Now>,
    /// The same, if the record itself says so. One that does not may have been under way through a freeze.
    stamped_at: Option<Now>,
    /// When it was taken for over, because it was quiet.
    guessed_at: Option<Now>,
    ended_early: VecDeque<Early>,
    open_requests: u32,
    /// Those of them that were waited for in vain.
    stalled: u32,
    last_activity: Now,
    /// The quiet after which an invocation is over where nothing tells.
    quiet_limit: Duration,
}

impl Work {
    /// Nothing has begun yet.
    pub fn new(quiet_limit: Duration, now: Now) -> Self {
        Self {
            telemetry: Telemetry::default(),
            request_id: String::new(),
            last_request_id: String::new(),
            given_up: false,
            begun: false,
            invoked_at: now,
            told_at: None,
            stamped_at: None,
            guessed_at: None,
            ended_early: VecDeque::new(),
            open_requests: 0,
            stalled: 0,
            last_activity: now,
            quiet_limit,
        }
    }

    /// A new invocation begins. Its end may have been told already.
    pub fn invoked(&mut self, request_id: String, now: Now) {
        let mut early = self.ended_early.drain(..);
        let early = early.find(|early| early.request_id == request_id);
        self.told_at = early.as_ref().map(|early| early.at);
        self.stamped_at = early.and_then(|early| early.stamped_at);
        self.guessed_at = None;
        self.last_request_id = std::mem::replace(&mut self.request_id, request_id);
        self.begun = true;
        self.given_up = false;
        self.invoked_at = now;
        self.last_activity = now;
    }

    /// The Telemetry API has sent something.
    pub fn telemetry_spoke(&mut self) {
        self.telemetry.spoke();
    }

    /// The runtime's end was told. Unless it was told when nobody waited for it any more, the next one will be too.
    pub fn trust_what_is_told(&mut self, request_id: &str) {
        let too_late = self.given_up && request_id == self.request_id;
        if !too_late && request_id != self.last_request_id {
            self.telemetry.told_an_end();
        }
    }

    /// The platform tells the end of an invocation, by a record of this time. Returns whether that is news of this one.
    pub fn end_told(&mut self, request_id: String, at: Option<Duration>, now: Now) -> bool {
        let stamped_at = telemetry::moment(at, now);
        let at = stamped_at.unwrap_or(now);
        if request_id != self.request_id {
            if self.ended_early.len() == MAX_EARLY_ENDS {
                self.ended_early.pop_front();
            }
            self.ended_early.push_back(Early {
                request_id,
                at,
                stamped_at,
            });
            return false;
        }
        if self.told_at.is_some() {
            return false;
        }
        // It did not end before it began, whatever the clocks say.
        let longest = now.since(self.invoked_at);
        self.told_at = Some(now.before(now.since(at).min(longest)));
        self.stamped_at = stamped_at.filter(|at| !at.is_before(self.invoked_at));
        true
    }

    /// A client has begun a request.
    pub fn request_opened(&mut self, now: Now) {
        self.open_requests += 1;
        self.last_activity = now;
    }

    /// A client's request is answered, or its connection is gone.
    pub fn request_closed(&mut self, now: Now) {
        self.open_requests = self.open_requests.saturating_sub(1);
        self.stalled = self.stalled.min(self.open_requests);
        self.last_activity = now;
    }

    /// A client's data has come.
    pub fn data_came(&mut self, now: Now) {
        self.last_activity = now;
    }

    /// Takes the invocation for over if nothing tells and it has been quiet for long. Returns whether it just did.
    pub fn guess_end(&mut self, now: Now) -> bool {
        let over = self.ended_at().is_none() && self.end_comes_in(now) == Some(Duration::ZERO);
        if over {
            self.guessed_at = Some(now);
        }
        over
    }

    /// The deadline came first. From now on ends are guessed, until the platform tells one again.
    pub fn deadline_came(&mut self) {
        if self.told_at.is_none() {
            self.telemetry.let_us_down();
            self.given_up = true;
        }
    }

    /// The sandbox is released. A request that did not end by now is not waited for again.
    pub fn released(&mut self) {
        self.stalled = self.open_requests;
    }

    /// When the invocation will be taken for over if it stays quiet. `None`: only the platform tells that.
    pub fn end_comes_in(&self, now: Now) -> Option<Duration> {
        let limit = if self.is_receiving() {
            self.quiet_limit.max(OPEN_REQUEST_PATIENCE)
        } else {
            self.quiet_limit
        };
        let quiet = Timer::new(self.last_activity, limit).left(now);
        (!self.telemetry.is_trusted()).then_some(quiet)
    }

    /// How long a client in the middle of a request is still waited for.
    pub fn open_request_left(&self, now: Now) -> Duration {
        if self.is_receiving() && self.guessed_at.is_none() {
            let since = self.last_activity;
            let since = self
                .told_at
                .filter(|end| since.is_before(*end))
                .unwrap_or(since);
            Timer::new(since, OPEN_REQUEST_PATIENCE).left(now)
        } else {
            Duration::ZERO
        }
    }

    /// Whether a client is in the middle of a request that was not waited for in vain.
    pub fn is_receiving(&self) -> bool {
        self.open_requests > self.stalled
    }

    /// When the work ended, if it has: what the flush budget and the grace count from.
    pub fn ended_at(&self) -> Option<Now> {
        self.told_at.or(self.guessed_at)
    }

    /// When the platform says that it ended.
    pub fn told_at(&self) -> Option<Now> {
        self.told_at
    }

    /// The same, if its record itself says so: a span that began later is of another invocation.
    pub fn stamped_at(&self) -> Option<Now> {
        self.stamped_at
    }

    /// Whether the function may be at work now, so that the sandbox is not frozen. Without telemetry nobody knows.
    pub fn may_be_running(&self) -> bool {
        self.begun && self.told_at.is_none()
    }

    /// When we were told that it began.
    pub fn invoked_at(&self) -> Now {
        self.invoked_at
    }

    /// The latest sign of life: INVOKE, or anything that a client does.
    pub fn last_activity(&self) -> Now {
        self.last_activity
    }

    /// Whether ends are told by the Telemetry API rather than guessed.
    pub fn is_told(&self) -> bool {
        self.telemetry.is_trusted()
    }
}
