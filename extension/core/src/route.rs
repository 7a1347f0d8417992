//! Where an item goes, and with which headers: what must be equal for two items to share a request.

use std::fmt;

/// Where data is delivered: each with a health, limits and books of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// Langfuse's own API.
    Langfuse,
}

/// Everything of a client's request that decides how Langfuse stores what it carries. Only items of equal routes are
/// ever sent in one request, because Langfuse chooses its storage path by the headers of the whole request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The endpoint of Langfuse and the form of its body.
    pub door: Door,
    /// Whose project it goes to.
    pub credential: Credential,
    /// Headers that travel on, names in lower case, in the client's order. Never `authorization`.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// An endpoint of Langfuse that takes data, with the form of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    /// `POST /api/public/otel/v1/traces`, `application/x-protobuf`.
    TracesProtobuf,
    /// `POST /api/public/otel/v1/traces`, `application/json`.
    TracesJson,
    /// `POST /api/public/ingestion`: batches of events, nowadays scores.
    Ingestion,
    /// `POST /api/public/scores`: one score, or an array of them.
    Scores,
}

/// How much one request to Langfuse may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes before compression.
    pub bytes: usize,
    /// Spans, events or scores.
    pub units: u32,
    /// Client requests.
    pub items: usize,
}

impl Door {
    /// What one request to this endpoint may carry, below what Langfuse accepts: Cloud takes 5 MB on the traces
    /// endpoint, 4.5 MB (3.5 MB by its own advice) on ingestion.
    /// <https://langfuse.com/faq/all/api-limits>
    pub fn limits(self) -> RequestLimits {
        let (bytes, items) = match self {
            Self::TracesProtobuf | Self::TracesJson => (4_000_000, usize::MAX),
            Self::Ingestion => (3_500_000, usize::MAX),
            // One object and an array are different requests; each goes as it came.
            Self::Scores => (1_000_000, 1),
        };
        RequestLimits {
            bytes,
            units: 512,
            items,
        }
    }

    /// Whether Langfuse surely stores a repeated request once. Scores carry ids that it deduplicates by; spans do not.
    pub fn resend_is_safe(self) -> bool {
        matches!(self, Self::Ingestion)
    }
}

/// Whose keys a request is sent with.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// The `Authorization` header as the client sent it.
    Client(String),
    /// The keys configured on the extension, put in at the moment of sending, so that a rotation reaches held data.
    Configured,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client(_) => "Client(…)",
            Self::Configured => "Configured",
        })
    }
}
