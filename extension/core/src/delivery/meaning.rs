//! The one table of what a fact means: for the items of its request, for the host, and for the keys.
//!
//! What Langfuse itself answers when is in its source:
//! <https://github.com/langfuse/langfuse/blob/main/web/src/pages/api/public/otel/v1/traces/index.ts>. But a load balancer,
//! an ingress or a firewall may stand before it and answer in its place.

use std::time::Duration;

use super::fact::{Answer, Fact, Whose};

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A request with data. `keys_are_good`: a probe with the same keys has just come back well.
    Data {
        /// So that a refusal by somebody before Langfuse is not theirs.
        keys_are_good: bool,
    },
    /// An empty request, which Langfuse authenticates and answers before it touches its storage.
    Probe,
    /// A request that a client made, of whatever kind.
    PassThrough,
}

/// What the end of a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// For what it carried.
    pub items: Items,
    /// For the host.
    pub host: Host,
    /// For the keys that it was sent with.
    pub keys: Keys,
}

/// What became of the items of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Items {
    /// Langfuse has them.
    Delivered {
        /// All but so many units, which it will never take.
        refused_units: u64,
    },
    /// Langfuse surely does not have them, and may take them later.
    Unsent,
    /// Nothing says whether Langfuse has them.
    Unknown,
    /// They will never be taken, or one of them will not, and the others share its request.
    Refused {
        /// Langfuse itself says so of the request, rather than something that may refuse whatever is sent.
        surely: bool,
    },
    /// 413: they are larger than something on the way accepts.
    TooLarge,
}

/// What a host has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// It takes what it is sent.
    Well,
    /// It answers; whether it takes data was not shown.
    Answers,
    /// Somebody got an answer from it: worth a probe.
    Lives,
    /// It wants fewer requests, and is well otherwise.
    Throttles {
        /// For how long.
        retry_after: Option<Duration>,
    },
    /// It is not to be sent data before a probe has come back well.
    Bad {
        /// When it may be asked again.
        retry_after: Option<Duration>,
    },
    /// Nothing new.
    Unchanged,
}

/// What keys have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// They may.
    Good,
    /// They may not, for now.
    Refused,
    /// It may be they that were refused, or the request: a probe tells.
    Doubtful,
    /// Nothing new.
    Unchanged,
}

impl Meaning {
    /// What `fact` means as the end of what was `asked`.
    pub fn of(asked: Asked, fact: Fact) -> Self {
        match fact {
            Fact::NotConnected | Fact::NothingLeft | Fact::NothingToSend => {
                Self::new(Items::Unsent, BAD)
            }
            Fact::NoAnswer => Self::new(Items::Unknown, BAD),
            Fact::Answered(answer) => match asked {
                Asked::Data { keys_are_good } => Self::of_data(keys_are_good, answer),
                Asked::Probe => Self::of_probe(answer),
                Asked::PassThrough => Self::of_pass_through(answer),
            },
        }
    }

    fn of_data(keys_are_good: bool, answer: Answer) -> Self {
        let Answer {
            status,
            whose,
            retry_after,
            refused_units,
            suspended,
        } = answer;
        let bad = Host::Bad { retry_after };
        match status {
            200..=299 => Self::new(Items::Delivered { refused_units }, Host::Well).with(Keys::Good),
            401 if whose == Whose::Langfuse => REFUSED_KEYS,
            403 if suspended => REFUSED_KEYS,
            401 | 403 if keys_are_good => {
                Self::new(Items::Refused { surely: false }, Host::Answers)
            }
            401 | 403 => Self::new(Items::Unsent, Host::Answers).with(Keys::Doubtful),
            413 => Self::new(Items::TooLarge, Host::Answers),
            429 => Self::new(Items::Unsent, Host::Throttles { retry_after }),
            400 | 406 | 411 | 414..=417 | 422 | 431 => {
                let surely = whose == Whose::Langfuse;
                Self::new(Items::Refused { surely }, Host::Answers)
            }
            503 if whose == Whose::Langfuse || retry_after.is_some() => {
                Self::new(Items::Unsent, bad)
            }
            501..=599 => Self::new(Items::Unknown, bad),
            // 500, which Langfuse answers when it could neither store nor queue; what an ingress says during a roll-out
            // (404, 405, redirects); and all that Langfuse never says.
            _ => Self::new(Items::Unsent, bad),
        }
    }

    fn of_probe(answer: Answer) -> Self {
        let retry_after = answer.retry_after;
        let host = match answer.status {
            200..=299 => return Self::new(Items::Unsent, Host::Well).with(Keys::Good),
            401 | 403 => {
                return Self::new(Items::Unsent, Host::Answers).with(Keys::Refused);
            }
            // A header of the client is wrong, which is looked at after the keys.
            400 if answer.whose == Whose::Langfuse => {
                return Self::new(Items::Unsent, Host::Well).with(Keys::Good);
            }
            429 => Host::Throttles { retry_after },
            _ => Host::Bad { retry_after },
        };
        Self::new(Items::Unsent, host)
    }

    /// Other endpoints have other limits, other storage and other keys: an answer from one of them ends no outage and
    /// begins none.
    fn of_pass_through(answer: Answer) -> Self {
        let host = match answer.status {
            200..=299 => Host::Lives,
            _ => Host::Unchanged,
        };
        Self::new(Items::Unsent, host)
    }

    fn new(items: Items, host: Host) -> Self {
        Self {
            items,
            host,
            keys: Keys::Unchanged,
        }
    }

    fn with(self, keys: Keys) -> Self {
        Self { keys, ..self }
    }
}

const REFUSED_KEYS: Meaning = Meaning {
    items: Items::Unsent,
    host: Host::Answers,
    keys: Keys::Refused,
};

const BAD: Host = Host::Bad { retry_after: None };

#[cfg(test)]
mod tests;
