//! May data be sent to a destination, and what does an answer mean for the next request? Each destination has one of
//! these: a breaker for its host ([`host`]), a gate for each credential it refused ([`keys`]), a look at what it refuses
//! ([`rejections`]), and what of the flush budget is left for it ([`budget`]).
//!
//! After any failure no data is sent until a probe (an empty request, which Langfuse authenticates and answers without
//! storing anything) has come back well, and then a little first. So an outage costs probes, never copies of spans.

mod budget;
pub mod fact;
mod host;
mod keys;
pub mod meaning;
mod rejections;
mod size;

use std::sync::Arc;
use std::time::Duration;

use crate::buffer::ItemId;
use crate::route::{Credential, Destination, RequestLimits, Route};
use crate::time::Now;

use budget::Budget;
use fact::Fact;
use host::Host;
use keys::Keyring;
use meaning::{Asked, Items, Meaning};
use rejections::Rejections;
use size::SizeLimit;

pub use budget::TRIAL_BUDGET;
pub use host::{FIRST_REQUEST_BYTES, FIRST_REQUEST_ITEMS};
pub use keys::PROBE_HOLDS_GOOD;
pub use rejections::{MAX_REFUSED_IN_A_ROW, MAX_REFUSED_PARTS};
pub use size::{LIMIT_HOLDS_FOR, SMALLEST_REQUEST_LIMIT_BYTES};

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// How, as its sender saw it.
    pub fact: Fact,
    /// It took no longer than the flush budget, so that holding the sandbox for it pays.
    pub in_time: bool,
    /// The sandbox was frozen while it was under way.
    pub cut: bool,
}

/// The first wait after a failure; it doubles from there.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// The longest wait between two probes.
pub const LONGEST_BACKOFF: Duration = Duration::from_mins(1);

/// The longest that a `Retry-After` is honoured: Langfuse's windows are one minute long.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(5);

/// How long data of a refused credential is held before it is tried again. Langfuse itself may remember a refusal for
/// five minutes. <https://github.com/langfuse/langfuse/blob/main/web/src/features/public-api/server/apiAuth.ts>
pub const CREDENTIAL_WAIT: Duration = Duration::from_mins(1);

/// How many refused credentials are remembered; past that the oldest is forgotten, and asked again.
pub const MAX_REFUSED_CREDENTIALS: usize = 16;

/// After this long without a new judgement the flush budget may be spent once more on a Langfuse that was bad: where
/// handlers are too short for a probe's answer, nothing else would ever find out that it is well again.
pub const PARDON_AFTER: Duration = Duration::from_mins(5);

/// Whether a route may be sent on, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Data may go.
    Send,
    /// Only a probe may go.
    Probe,
    /// Nothing before this has passed.
    Wait(Duration),
    /// Nothing before the answer to a request that is under way.
    Answer,
    /// Nothing before the extension has its keys.
    Keys,
}

/// What all destinations have shown of themselves.
#[derive(Debug)]
pub struct Destinations {
    langfuse: Delivery,
}

impl Destinations {
    /// Nothing known yet.
    pub fn new(flush_budget: Duration, seed: u64) -> Self {
        Self {
            langfuse: Delivery::new(flush_budget, seed),
        }
    }

    /// What this one has shown.
    pub fn to(&self, destination: Destination) -> &Delivery {
        match destination {
            Destination::Langfuse => &self.langfuse,
        }
    }

    /// What this one has shown.
    pub fn to_mut(&mut self, destination: Destination) -> &mut Delivery {
        match destination {
            Destination::Langfuse => &mut self.langfuse,
        }
    }
}

/// What a destination has shown of itself.
#[derive(Debug)]
pub struct Delivery {
    host: Host,
    keys: Keyring,
    /// By [`crate::route::Door`].
    rejections: [Rejections; 4],
    /// By [`crate::route::Door`].
    sizes: [SizeLimit; 4],
    budget: Budget,
    flush_budget: Duration,
}

impl Delivery {
    /// Nothing known yet. `seed` spreads the waits of many sandboxes.
    pub fn new(flush_budget: Duration, seed: u64) -> Self {
        Self {
            host: Host::new(seed),
            keys: Keyring::default(),
            rejections: Default::default(),
            sizes: Default::default(),
            budget: Budget::default(),
            flush_budget,
        }
    }

    /// Whether data, or a probe, may go to `route`.
    pub fn permit(&self, route: &Route, now: Now) -> Permit {
        if self.keys.are_missing(&route.credential) {
            return Permit::Keys;
        }
        match self.host.permit(now) {
            Permit::Send => {}
            other => return other,
        }
        if let Some(permit) = self.keys.permit(&route.credential, now) {
            return permit;
        }
        let wait = self.rejections[route.door as usize].wait(now);
        if wait.is_zero() {
            Permit::Send
        } else {
            Permit::Wait(wait)
        }
    }

    /// Whether something for `route` may be settled `within` this time, so that holding the sandbox for it may pay.
    pub fn has_hope(&self, route: &Route, within: Duration, now: Now) -> bool {
        let worth = self.keys.are_worth_a_hold(&route.credential);
        worth
            && match self.permit(route, now) {
                Permit::Wait(left) => left < within,
                Permit::Send | Permit::Probe | Permit::Answer | Permit::Keys => true,
            }
    }

    /// What one request to `route` may carry.
    pub fn limits(&self, route: &Route, now: Now) -> RequestLimits {
        let limits = self.host.limits(route.door.limits());
        let limits = RequestLimits {
            bytes: limits.bytes.min(self.size_limit(route, now)),
            ..limits
        };
        if self.rejections[route.door as usize].are_held() {
            RequestLimits { items: 1, ..limits }
        } else {
            limits
        }
    }

    /// Bytes above which a request to `route` is too large, as far as was learned.
    pub fn size_limit(&self, route: &Route, now: Now) -> usize {
        self.sizes[route.door as usize].bytes(now)
    }

    /// Whether Langfuse is known to be bad, so that the pass-through answers at once instead of asking it.
    pub fn is_bad(&self, now: Now) -> bool {
        self.host.is_bad(now)
    }

    /// What of the flush budget may still be spent on waiting for it: an outage costs the budget once, whether in one
    /// invocation or in several.
    pub fn budget(&self, now: Now) -> Duration {
        self.budget.left_of(self.flush_budget, now)
    }

    /// A request with data has left.
    pub fn sending(&mut self) {
        self.host.sending();
    }

    /// It has not, after all: there was nothing to send.
    pub fn not_sent(&mut self) {
        self.host.not_sent();
    }

    /// A probe has left for the credential of `route`.
    pub fn probing(&mut self, route: &Arc<Route>) {
        self.host.probing();
        self.keys.probing(&route.credential);
    }

    /// The sandbox was held for `held`, and something was still unsent at the end, or even `unanswered`.
    pub fn held_in_vain(&mut self, held: Duration, unanswered: bool, now: Now) {
        let spent = self.budget.held_in_vain(held, self.flush_budget, now);
        if spent {
            self.keys.waited_in_vain();
        }
        if unanswered && spent && !self.host.is_suspect() {
            self.failed(None, now);
        }
    }

    /// Learns from a passed-through request.
    pub fn passed_through(&mut self, fact: Fact, now: Now) {
        match Meaning::of(Asked::PassThrough, fact).host {
            meaning::Host::Bad { retry_after } if !self.host.is_being_asked() => {
                self.failed(retry_after, now);
            }
            meaning::Host::Lives => self.host.may_be_asked(now),
            _ => {}
        }
    }

    /// The process is about to end: the next probe may go at once.
    pub fn last_chance(&mut self, now: Now) {
        self.host.last_chance(now);
        self.keys.may_be_asked(now);
        for rejections in &mut self.rejections {
            rejections.may_be_asked(now);
        }
        self.budget.is_back();
    }

    /// The configured keys are there, for the first time or anew.
    pub fn keys_ready(&mut self, now: Now) {
        self.keys.configured_are_there(now);
    }

    /// Langfuse refused these keys. Whether to read them again.
    #[must_use]
    pub fn reread_keys(&mut self, credential: &Credential, now: Now) -> bool {
        self.keys.reread(credential, now)
    }

    /// The sandbox was restored from a snapshot that many others are restored from too.
    pub fn reseed(&mut self, seed: u64) {
        self.host.reseed(seed);
    }

    /// Learns from the end of a request with data, `bytes` before compression, and says what it means.
    pub fn sent(&mut self, route: &Route, bytes: usize, end: End, now: Now) -> Meaning {
        let keys_are_good = self.keys.are_good(&route.credential, now);
        let meaning = Meaning::of(Asked::Data { keys_are_good }, end.fact);
        match meaning.keys {
            meaning::Keys::Good => self.keys.took_data(&route.credential),
            meaning::Keys::Refused => self.keys.data_was_refused(&route.credential, now),
            meaning::Keys::Doubtful => self.keys.are_doubtful(&route.credential, now),
            meaning::Keys::Unchanged => {}
        }
        let door = route.door as usize;
        match meaning.items {
            Items::Delivered { .. } => {
                self.rejections[door].took_data();
                self.sizes[door].took(bytes, now);
                if end.in_time {
                    self.budget.is_back();
                }
            }
            Items::TooLarge => self.sizes[door].too_large(bytes, now),
            Items::Unsent | Items::Unknown | Items::Refused { .. } => {}
        }
        match meaning.host {
            meaning::Host::Well => self.host.took_data(),
            other => self.learn(other, end, now),
        }
        meaning
    }

    /// Learns from the end of a probe, and says what it means.
    pub fn probed(&mut self, route: &Route, end: End, now: Now) -> Meaning {
        let meaning = Meaning::of(Asked::Probe, end.fact);
        self.keys.probed(&route.credential);
        match meaning.keys {
            meaning::Keys::Good => self.keys.a_probe_was_good(&route.credential, now),
            meaning::Keys::Refused => self.keys.a_probe_was_refused(&route.credential, now),
            meaning::Keys::Doubtful | meaning::Keys::Unchanged => {}
        }
        match meaning.host {
            meaning::Host::Well => self.answered(),
            other => self.learn(other, end, now),
        }
        meaning
    }

    /// Whether it pays to look for what is refused in a part of what a client sent as `origin`.
    pub fn pays_to_cut(&mut self, route: &Route, origin: ItemId) -> bool {
        self.rejections[route.door as usize].pays_to_cut(origin)
    }

    /// Whether to give up what was refused alone.
    pub fn gives_up(&mut self, route: &Route, origin: ItemId, now: Now) -> bool {
        self.rejections[route.door as usize].gives_up(origin, now)
    }

    fn learn(&mut self, shown: meaning::Host, end: End, now: Now) {
        match shown {
            meaning::Host::Throttles { retry_after } => self.host.throttles(retry_after, now),
            meaning::Host::Bad { .. } if end.cut && end.fact == Fact::NoAnswer => {
                self.host.was_cut_off(now);
            }
            meaning::Host::Bad { retry_after } => self.failed(retry_after, now),
            meaning::Host::Well | meaning::Host::Answers => self.answered(),
            meaning::Host::Lives | meaning::Host::Unchanged => {}
        }
    }

    fn answered(&mut self) {
        if self.host.answered() {
            self.budget.host_answers(self.flush_budget);
        }
    }

    fn failed(&mut self, retry_after: Option<Duration>, now: Now) {
        self.host.failed(retry_after, now);
        self.budget.host_failed(now);
    }
}
