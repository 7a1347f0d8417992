//! The one table of what a fact means.

use super::Outcome;
use super::fact::{Answer, Fact};

/// What the end of a request with data, or of a probe, means.
pub fn outcome(fact: Fact) -> Outcome {
    match fact {
        Fact::NotConnected | Fact::NothingLeft => Outcome::NotDelivered { retry_after: None },
        Fact::NoAnswer => Outcome::Ambiguous,
        Fact::Answered(Answer {
            status,
            retry_after,
            ..
        }) => match status {
            200..=299 => Outcome::Delivered,
            401 | 403 => Outcome::Unauthorized,
            408 | 500 | 503 => Outcome::NotDelivered { retry_after },
            413 => Outcome::TooLarge,
            429 => Outcome::Throttled { retry_after },
            500..=599 => Outcome::Ambiguous,
            _ => Outcome::Refused,
        },
    }
}
