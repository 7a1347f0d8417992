//! Whether a host is to be sent data: the breaker, the pause that it asked for, and how much it is sent at first once it
//! is back.

use std::time::Duration;

use super::{FIRST_BACKOFF, LONGEST_BACKOFF, LONGEST_RETRY_AFTER, Permit};
use crate::route::RequestLimits;
use crate::time::{Now, Timer};

/// Bytes in the first request after an outage, before compression; each one that is taken allows twice as many. A probe
/// that came back well says nothing about Langfuse's storage, which may hang or fail for longer.
pub const FIRST_REQUEST_BYTES: usize = 64 << 10;

/// Client requests in the first request after an outage; these double too.
pub const FIRST_REQUEST_ITEMS: usize = 16;

/// Bytes from which on a request counts as large as any.
const FULL_REQUEST_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Host {
    state: State,
    failures: u32,
    throttle: Option<Timer>,
    growing: Option<Growing>,
    /// The process is about to end: there is no time to grow in more than one step.
    ending: bool,
    jitter: Jitter,
}

#[derive(Debug, PartialEq)]
enum State {
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

/// What a request may carry while the host is coming back.
#[derive(Clone, Copy, Debug)]
struct Growing {
    bytes: usize,
    items: usize,
}

impl Host {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: State::Well,
            failures: 0,
            throttle: None,
            growing: None,
            ending: false,
            jitter: Jitter(seed),
        }
    }

    pub(super) fn permit(&self, now: Now) -> Permit {
        let throttled = self.throttle.map_or(Duration::ZERO, |t| t.left(now));
        if !throttled.is_zero() {
            return Permit::Wait(throttled);
        }
        match self.state {
            State::Well | State::OnTrial { busy: false } => Permit::Send,
            State::Probing | State::OnTrial { busy: true } => Permit::Answer,
            State::Bad { until } if until.is_over(now) => Permit::Probe,
            State::Bad { until } => Permit::Wait(until.left(now)),
        }
    }

    /// Once the wait after a failure is over, a passed-through request may find out as well as a probe.
    pub(super) fn is_bad(&self, now: Now) -> bool {
        match self.state {
            State::Well | State::OnTrial { .. } => false,
            State::Bad { until } => !until.is_over(now),
            State::Probing => true,
        }
    }

    /// Whether it is known to be bad, or being asked.
    pub(super) fn is_suspect(&self) -> bool {
        matches!(self.state, State::Bad { .. } | State::Probing)
    }

    /// Whether the answer to a probe is awaited.
    pub(super) fn is_being_asked(&self) -> bool {
        self.state == State::Probing
    }

    pub(super) fn limits(&self, limits: RequestLimits) -> RequestLimits {
        match self.growing {
            Some(Growing { bytes, items }) => RequestLimits {
                bytes: limits.bytes.min(bytes),
                items: limits.items.min(items),
                ..limits
            },
            None => limits,
        }
    }

    pub(super) fn sending(&mut self) {
        if let State::OnTrial { busy } = &mut self.state {
            *busy = true;
        }
    }

    pub(super) fn not_sent(&mut self) {
        if let State::OnTrial { busy } = &mut self.state {
            *busy = false;
        }
    }

    pub(super) fn probing(&mut self) {
        if matches!(self.state, State::Bad { .. }) {
            self.state = State::Probing;
        }
    }

    /// It took data.
    pub(super) fn took_data(&mut self) {
        self.failures = 0;
        self.state = State::Well;
        self.growing = self.growing.and_then(|Growing { bytes, items }| {
            (bytes < FULL_REQUEST_BYTES && !self.ending).then_some(Growing {
                bytes: bytes * 2,
                items: items * 2,
            })
        });
    }

    /// Whatever it was suspected of is over; what data does to it is to be seen. Returns whether that is news.
    pub(super) fn answered(&mut self) -> bool {
        let news = matches!(self.state, State::Bad { .. } | State::Probing);
        if self.state != State::Well {
            self.state = State::OnTrial { busy: false };
        }
        news
    }

    pub(super) fn throttles(&mut self, retry_after: Option<Duration>, now: Now) {
        self.failures = self.failures.saturating_add(1);
        let wait = self.wait(retry_after);
        self.throttle = Some(Timer::new(now, wait));
        self.answered();
    }

    pub(super) fn failed(&mut self, retry_after: Option<Duration>, now: Now) {
        self.failures = self.failures.saturating_add(1);
        let until = Timer::new(now, self.wait(retry_after));
        self.is_bad_until(until);
    }

    /// A freeze broke the connection, which says nothing about it but that it is to be asked.
    pub(super) fn was_cut_off(&mut self, now: Now) {
        if !matches!(self.state, State::Bad { .. }) {
            self.is_bad_until(Timer::new(now, Duration::ZERO));
        }
    }

    /// It may be asked at once.
    pub(super) fn may_be_asked(&mut self, now: Now) {
        if matches!(self.state, State::Bad { .. }) {
            self.is_bad_until(Timer::new(now, Duration::ZERO));
        }
    }

    /// The process is about to end: it may be asked at once.
    pub(super) fn last_chance(&mut self, now: Now) {
        self.ending = true;
        self.failures = 0;
        self.may_be_asked(now);
    }

    pub(super) fn reseed(&mut self, seed: u64) {
        self.jitter = Jitter(seed);
    }

    fn is_bad_until(&mut self, until: Timer) {
        self.state = State::Bad { until };
        self.growing = Some(Growing {
            bytes: FIRST_REQUEST_BYTES,
            items: FIRST_REQUEST_ITEMS,
        });
    }

    fn wait(&mut self, retry_after: Option<Duration>) -> Duration {
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        let backoff = backoff(self.failures);
        self.jitter.between_half_and_all(backoff).max(asked)
    }
}

/// The longest wait after so many failures in a row.
pub(super) fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_BACKOFF * (1 << doublings)).min(LONGEST_BACKOFF)
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
