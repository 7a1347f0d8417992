//! Langfuse as the exporter meets it: what it stores, and what it answers when.

use std::time::Duration;

use langfuse_extension_core::delivery::fact::{Answer, Fact, Whose};
use langfuse_extension_core::route::Credential;

use crate::load::Load;
use crate::rng::Rng;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Healthy,
    Refusing,
    HangBefore,
    HangAfter,
    Slow(Duration),
    Throttling(Option<Duration>),
    /// 500 and 503: surely not stored.
    Failing(Option<Duration>),
    /// 502 and 504: stored or not, nobody knows.
    BadGateway {
        stores: bool,
    },
    /// A load balancer or an ingress answers in its place, during a roll-out.
    Misrouted(u16),
    /// A load balancer gives up; Langfuse may have stored all the same.
    Unavailable {
        stores: bool,
    },
    /// A probe is answered well, and data cannot be stored.
    OnlyStorageFails,
    /// A probe is answered well; a request with data hangs.
    OnlyDataHangs,
}

#[derive(Debug)]
pub(crate) struct Langfuse {
    pub(crate) mode: Mode,
    pub(crate) size_limit_bytes: usize,
    pub(crate) client_keys_valid: bool,
    pub(crate) configured_keys_valid: bool,
    pub(crate) poison_works: bool,
    /// What is refused is refused by a firewall before it.
    pub(crate) behind_a_firewall: bool,
}

/// What becomes of a request that has arrived.
pub(crate) struct Reception {
    pub(crate) stored: bool,
    /// `None`: no answer ever comes.
    pub(crate) answer: Option<(Duration, Fact)>,
}

impl Langfuse {
    pub(crate) fn healthy() -> Self {
        Self {
            mode: Mode::Healthy,
            size_limit_bytes: usize::MAX,
            client_keys_valid: true,
            configured_keys_valid: true,
            poison_works: true,
            behind_a_firewall: false,
        }
    }

    pub(crate) fn changes(&mut self, rng: &mut Rng) {
        let retry_after = rng.one_in(2).then(|| rng.ms(0, 90_000));
        self.mode = match rng.between(0, 20) {
            0 => Mode::Refusing,
            1 => Mode::HangBefore,
            2 => Mode::HangAfter,
            3 => Mode::Slow(rng.ms(1_000, 12_000)),
            4 => Mode::Throttling(retry_after),
            5 => Mode::Failing(retry_after),
            6 => Mode::BadGateway {
                stores: rng.one_in(2),
            },
            7 => Mode::OnlyDataHangs,
            8 => Mode::Misrouted(rng.pick(&[404, 405, 302, 308])),
            9 => Mode::Unavailable {
                stores: rng.one_in(2),
            },
            10 => Mode::OnlyStorageFails,
            _ => Mode::Healthy,
        };
        self.behind_a_firewall = rng.one_in(2);
        self.client_keys_valid = !rng.one_in(12);
        self.configured_keys_valid = !rng.one_in(8);
        self.size_limit_bytes = rng.pick(&[usize::MAX, usize::MAX, 1_000_000, 70_000, 3_000]);
    }

    pub(crate) fn receives(
        &self,
        credential: &Credential,
        loads: &[&Load],
        rng: &mut Rng,
    ) -> Reception {
        let is_probe = loads.is_empty();
        let quick = rng.ms(5, 120);
        let refuses = |fact| Reception {
            stored: false,
            answer: Some((quick, fact)),
        };
        match self.mode {
            Mode::Refusing => return refuses(Fact::NotConnected),
            Mode::HangBefore => return SILENCE,
            Mode::OnlyDataHangs if !is_probe => return SILENCE,
            Mode::OnlyStorageFails if !is_probe => return refuses(FAILED),
            Mode::Misrouted(status) => return refuses(Fact::status(status)),
            Mode::Throttling(retry_after) => return refuses(later(429, retry_after)),
            Mode::Failing(retry_after) => return refuses(later(500, retry_after)),
            _ => {}
        }
        let keys_valid = match credential {
            Credential::Configured => self.configured_keys_valid,
            Credential::Client(_) => self.client_keys_valid,
        };
        if !keys_valid {
            return refuses(UNAUTHORIZED);
        }
        if loads.iter().map(|load| load.bytes).sum::<usize>() > self.size_limit_bytes {
            return refuses(Fact::status(413));
        }
        if loads.iter().any(|load| load.is_refused()) {
            let by_a_firewall = Fact::status(rng.pick(&[401, 403]));
            return refuses(if self.behind_a_firewall {
                by_a_firewall
            } else {
                Fact::status(400)
            });
        }
        if !self.poison_works && loads.iter().any(|load| load.is_poison()) {
            return refuses(FAILED);
        }
        match self.mode {
            Mode::HangAfter => Reception {
                stored: true,
                answer: None,
            },
            Mode::Slow(by) => Reception {
                stored: true,
                answer: Some((by, Fact::status(200))),
            },
            Mode::Unavailable { stores } => Reception {
                stored: stores,
                answer: Some((quick, Fact::status(503))),
            },
            Mode::BadGateway { stores } => Reception {
                stored: stores,
                answer: Some((quick, Fact::status(504))),
            },
            _ => Reception {
                stored: true,
                answer: Some((quick, Fact::status(200))),
            },
        }
    }
}

const UNAUTHORIZED: Fact = Fact::Answered(Answer {
    whose: Whose::Langfuse,
    ..Answer::status(401)
});

const FAILED: Fact = Fact::status(500);

fn later(status: u16, retry_after: Option<Duration>) -> Fact {
    Fact::Answered(Answer {
        retry_after,
        ..Answer::status(status)
    })
}

const SILENCE: Reception = Reception {
    stored: false,
    answer: None,
};
