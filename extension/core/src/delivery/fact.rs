//! What is known of a request once it has come to its end. Whoever sent it reports this and nothing more; what it means
//! is [`super::meaning`]'s to say.

use std::time::Duration;

/// How a request ended, as its sender saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// No connection came about.
    NotConnected,
    /// Not one byte of its body left.
    NothingLeft,
    /// There was nothing to send: none of it may leave.
    NothingToSend,
    /// Bytes left, and no answer came back.
    NoAnswer,
    /// The head of an answer came.
    Answered(Answer),
}

/// What an answer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Who wrote its body.
    pub whose: Whose,
    /// `Retry-After`, in whichever form it came.
    pub retry_after: Option<Duration>,
    /// Units that an answer of success names as not taken: the `errors` of an ingestion batch, the `rejectedSpans` of
    /// OTLP's `partialSuccess`.
    pub refused_units: u64,
    /// Langfuse says that the organisation's ingestion is suspended.
    pub suspended: bool,
}

/// Who wrote the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Langfuse: it has the form of Langfuse's own errors.
    Langfuse,
    /// Something on the way, or nobody knows: there was no body, or it did not come in time.
    Unknown,
}

impl Answer {
    /// An answer of which nothing but the status is known.
    pub const fn status(status: u16) -> Self {
        Self {
            status,
            whose: Whose::Unknown,
            retry_after: None,
            refused_units: 0,
            suspended: false,
        }
    }
}

impl Fact {
    /// An answer of which nothing but the status is known.
    pub const fn status(status: u16) -> Self {
        Self::Answered(Answer::status(status))
    }
}
