//! May data be sent, and what does an answer mean for the next request? One breaker for Langfuse's host, one gate for
//! each credential it refused, and one pause when it asked for fewer requests.
//!
//! After any failure no data is sent until a probe (an empty request, which Langfuse authenticates and answers without
//! storing anything) has come back well. So an outage costs probes, never copies of spans.

pub mod fact;
pub mod meaning;

use std::sync::Arc;
use std::time::Duration;

use crate::route::{Credential, Route};
use crate::time::{Now, Timer};

/// What became of a request, as far as its sender can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Langfuse has it.
    Delivered,
    /// Langfuse surely does not have it, and may take it later: no connection, 408, 500, 503.
    NotDelivered {
        /// What Langfuse asked us to wait.
        retry_after: Option<Duration>,
    },
    /// Langfuse surely does not have it, because it wants fewer requests: 429. It is well otherwise.
    Throttled {
        /// What Langfuse asked us to wait.
        retry_after: Option<Duration>,
    },
    /// It left, and no answer says what became of it: a timeout, a reset, 502, 504.
    Ambiguous,
    /// 401 or 403: these keys may not, for now.
    Unauthorized,
    /// 413: it is larger than something on the way accepts.
    TooLarge,
    /// It will never be taken: 400, 404 and the like.
    Refused,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// What became of it.
    pub outcome: Outcome,
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

/// What Langfuse has shown of itself.
#[derive(Debug)]
pub struct Delivery {
    health: Health,
    failures: u32,
    /// For how long sandboxes were held in vain since Langfuse last answered in time.
    paid: Duration,
    /// When that is forgiven.
    pardon: Option<Timer>,
    throttle: Option<Timer>,
    refused: Vec<RefusedCredential>,
    keys_ready: bool,
    keys_reread_at: Option<Now>,
    jitter: Jitter,
}

#[derive(Debug, PartialEq)]
enum Health {
    Well,
    Bad {
        until: Timer,
    },
    Probing,
    /// A probe came back well; one request with data may prove it.
    OnTrial {
        busy: bool,
    },
}

#[derive(Debug)]
struct RefusedCredential {
    credential: Credential,
    until: Timer,
    probing: bool,
}

impl Delivery {
    /// Nothing known yet. `seed` spreads the waits of many sandboxes.
    pub fn new(seed: u64) -> Self {
        Self {
            health: Health::Well,
            failures: 0,
            paid: Duration::ZERO,
            pardon: None,
            throttle: None,
            refused: Vec::new(),
            keys_ready: false,
            keys_reread_at: None,
            jitter: Jitter(seed),
        }
    }

    /// Whether data, or a probe, may go to `route`.
    pub fn permit(&self, route: &Route, now: Now) -> Permit {
        if route.credential == Credential::Configured && !self.keys_ready {
            return Permit::Keys;
        }
        let throttled = self.throttle.map_or(Duration::ZERO, |t| t.left(now));
        if !throttled.is_zero() {
            return Permit::Wait(throttled);
        }
        let health = match self.health {
            Health::Well | Health::OnTrial { busy: false } => Permit::Send,
            Health::Probing | Health::OnTrial { busy: true } => Permit::Answer,
            Health::Bad { until } if until.is_over(now) => Permit::Probe,
            Health::Bad { until } => Permit::Wait(until.left(now)),
        };
        let gate = self
            .refused
            .iter()
            .find(|r| r.credential == route.credential);
        match (health, gate) {
            (Permit::Send, Some(gate)) if gate.probing => Permit::Answer,
            (Permit::Send, Some(gate)) if gate.until.is_over(now) => Permit::Probe,
            (Permit::Send, Some(gate)) => Permit::Wait(gate.until.left(now)),
            (health, _) => health,
        }
    }

    /// Whether Langfuse is known to be bad, so that the pass-through answers at once instead of asking it. Once the
    /// wait after a failure is over, a passed-through request may find out as well as a probe.
    pub fn is_bad(&self, now: Now) -> bool {
        match self.health {
            Health::Well | Health::OnTrial { .. } => false,
            Health::Bad { until } => !until.is_over(now),
            Health::Probing => true,
        }
    }

    /// What of the flush budget may still be spent on waiting for Langfuse: an outage costs the budget once, whether
    /// in one invocation or in several.
    pub fn left_of(&self, flush_budget: Duration, now: Now) -> Duration {
        if self.pardon.is_some_and(|pardon| !pardon.is_over(now)) {
            flush_budget.saturating_sub(self.paid)
        } else {
            flush_budget
        }
    }

    /// A request with data has left.
    pub fn sending(&mut self) {
        if let Health::OnTrial { busy } = &mut self.health {
            *busy = true;
        }
    }

    /// A probe has left for the credential of `route`.
    pub fn probing(&mut self, route: &Arc<Route>) {
        if matches!(self.health, Health::Bad { .. }) {
            self.health = Health::Probing;
        }
        if let Some(gate) = self.gate_mut(&route.credential) {
            gate.probing = true;
        }
    }

    /// The sandbox was held for `held`, and something was still unsent at the end, or even `unanswered`.
    pub fn held_in_vain(&mut self, held: Duration, budget: Duration, unanswered: bool, now: Now) {
        let paid = budget.saturating_sub(self.left_of(budget, now));
        self.paid = paid.saturating_add(held);
        self.pardon = Some(Timer::new(now, PARDON_AFTER));
        let no_answer = unanswered && self.paid >= budget;
        if no_answer && !matches!(self.health, Health::Bad { .. } | Health::Probing) {
            self.bad(None, now);
        }
    }

    /// Learns from a passed-through request whether Langfuse answers at all.
    pub fn passed_through(&mut self, answered: bool, now: Now) {
        match (answered, &self.health) {
            (false, Health::Well | Health::OnTrial { .. } | Health::Bad { .. }) => {
                self.bad(None, now);
            }
            (true, Health::Bad { .. }) => self.health = Health::OnTrial { busy: false },
            _ => {}
        }
    }

    /// The process is about to end: the next probe may go at once.
    pub fn last_chance(&mut self, now: Now) {
        self.failures = 0;
        self.pardon = None;
        for gate in &mut self.refused {
            gate.until = Timer::new(now, Duration::ZERO);
        }
        if matches!(self.health, Health::Bad { .. }) {
            self.health = Health::Bad {
                until: Timer::new(now, Duration::ZERO),
            };
        }
    }

    /// The configured keys are there, for the first time or anew. Refused ones are not trusted with data, but a probe
    /// may find out at once.
    pub fn keys_ready(&mut self, now: Now) {
        self.keys_ready = true;
        if let Some(gate) = self.gate_mut(&Credential::Configured) {
            gate.until = Timer::new(now, Duration::ZERO);
        }
    }

    /// Langfuse refused these keys. Whether to read them again: not more often than once in [`CREDENTIAL_WAIT`], or
    /// keys that stay bad would be read and tried in a loop.
    #[must_use]
    pub fn reread_keys(&mut self, route: &Route, now: Now) -> bool {
        let lately = self
            .keys_reread_at
            .is_some_and(|at| now.since(at) < CREDENTIAL_WAIT);
        let again = route.credential == Credential::Configured && !lately;
        if again {
            self.keys_reread_at = Some(now);
        }
        again
    }

    /// The sandbox was restored from a snapshot that many others are restored from too.
    pub fn reseed(&mut self, seed: u64) {
        self.jitter = Jitter(seed);
    }

    /// Learns from the answer to a request with data.
    pub fn sent(&mut self, route: &Route, answer: Answer, now: Now) {
        match answer.outcome {
            Outcome::Delivered => {
                self.failures = 0;
                if answer.in_time {
                    self.pardon = None;
                }
                self.answered_well(&route.credential);
            }
            // The request was at fault, or its size: Langfuse is there and the keys are good.
            Outcome::Refused | Outcome::TooLarge => self.answered_well(&route.credential),
            _ => self.failed(route, answer, now),
        }
    }

    /// Learns from the answer to a probe.
    pub fn probed(&mut self, route: &Route, answer: Answer, now: Now) {
        match answer.outcome {
            Outcome::Delivered | Outcome::Refused | Outcome::TooLarge => {
                self.refused.retain(|r| r.credential != route.credential);
                if !matches!(self.health, Health::OnTrial { .. }) {
                    self.host_answered();
                }
            }
            _ => self.failed(route, answer, now),
        }
    }

    fn answered_well(&mut self, credential: &Credential) {
        self.refused.retain(|r| r.credential != *credential);
        self.health = Health::Well;
    }

    fn failed(&mut self, route: &Route, answer: Answer, now: Now) {
        if let Some(gate) = self.gate_mut(&route.credential) {
            gate.probing = false;
        }
        match answer.outcome {
            Outcome::Unauthorized => {
                self.refuse(&route.credential, now);
                self.host_answered();
            }
            Outcome::Throttled { retry_after } => {
                self.failures = self.failures.saturating_add(1);
                let wait = self.wait(retry_after);
                self.throttle = Some(Timer::new(now, wait));
                self.host_answered();
            }
            Outcome::NotDelivered { retry_after } => self.bad(retry_after, now),
            // The freeze broke the connection, which says nothing about Langfuse but that it is to be asked.
            _ if answer.cut => {
                if !matches!(self.health, Health::Bad { .. }) {
                    let until = Timer::new(now, Duration::ZERO);
                    self.health = Health::Bad { until };
                }
            }
            _ => self.bad(None, now),
        }
    }

    /// Whatever the host was suspected of is over; what data does to it is to be seen.
    fn host_answered(&mut self) {
        if self.health != Health::Well {
            self.health = Health::OnTrial { busy: false };
        }
    }

    fn bad(&mut self, retry_after: Option<Duration>, now: Now) {
        self.failures = self.failures.saturating_add(1);
        let until = Timer::new(now, self.wait(retry_after));
        self.health = Health::Bad { until };
        if let Some(pardon) = &mut self.pardon {
            *pardon = Timer::new(now, PARDON_AFTER);
        }
    }

    fn wait(&mut self, retry_after: Option<Duration>) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let backoff = (FIRST_BACKOFF * (1 << doublings)).min(LONGEST_BACKOFF);
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        self.jitter.between_half_and_all(backoff).max(asked)
    }

    fn refuse(&mut self, credential: &Credential, now: Now) {
        self.refused.retain(|r| r.credential != *credential);
        if self.refused.len() == MAX_REFUSED_CREDENTIALS {
            self.refused.remove(0);
        }
        self.refused.push(RefusedCredential {
            credential: credential.clone(),
            until: Timer::new(now, CREDENTIAL_WAIT),
            probing: false,
        });
    }

    fn gate_mut(&mut self, credential: &Credential) -> Option<&mut RefusedCredential> {
        self.refused
            .iter_mut()
            .find(|r| r.credential == *credential)
    }
}

/// A xorshift generator: enough to keep sandboxes from retrying in step.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    fn between_half_and_all(&mut self, whole: Duration) -> Duration {
        let mut x = self.0 | 1;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0 = x;
        let share = u32::try_from(x % 1_000).unwrap_or_default();
        whole / 2 + whole / 2 * share / 1_000
    }
}
