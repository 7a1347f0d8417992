//! The answers to what was accepted, as each client expects them.

use bytes::Bytes;
use serde::Serialize;

use super::refusal::is_protobuf;

pub(super) const JSON: &str = "application/json";
pub(super) const PROTOBUF: &str = "application/x-protobuf";

/// A complete answer to a local client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The value of the `Content-Type` header.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

/// An `ExportTraceServiceResponse` without partial success, in the encoding of the request. Serialized as protobuf it
/// is empty; as JSON it is `{}`.
pub fn otlp_success(content_type: &str) -> Answer {
    if is_protobuf(content_type) {
        return Answer {
            status: 200,
            content_type: PROTOBUF,
            body: Bytes::new(),
        };
    }
    Answer {
        status: 200,
        content_type: JSON,
        body: Bytes::from_static(b"{}"),
    }
}

/// The 207 of `/api/public/ingestion` with every event among the successes, written event by event while they are read.
/// Python SDKs up to 4 send everything again after any other status, and after any entry among the errors.
pub(super) struct IngestionSuccess(Vec<u8>);

impl IngestionSuccess {
    pub(super) fn new() -> Self {
        Self(br#"{"successes":["#.to_vec())
    }

    /// Adds an event, and says how many bytes that took.
    pub(super) fn add(&mut self, id: &str) -> usize {
        #[derive(Serialize)]
        struct Success<'a> {
            id: &'a str,
            status: u16,
        }
        let before = self.0.len();
        if self.0.last() != Some(&b'[') {
            self.0.push(b',');
        }
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut self.0, &Success { id, status: 201 });
        self.0.len() - before
    }

    pub(super) fn finish(mut self) -> Answer {
        self.0.extend_from_slice(br#"],"errors":[]}"#);
        Answer {
            status: 207,
            content_type: JSON,
            body: self.0.into(),
        }
    }
}

/// The answer of `/api/public/scores` to one score: its id.
pub(super) fn score_success(id: &str) -> Answer {
    #[derive(Serialize)]
    struct Created<'a> {
        id: &'a str,
    }
    let body = serde_json::to_vec(&Created { id }).unwrap_or_else(|_| b"{}".to_vec());
    Answer {
        status: 200,
        content_type: JSON,
        body: body.into(),
    }
}

/// The answer of `/api/public/scores` to an array of scores.
pub(super) fn scores_success() -> Answer {
    Answer {
        status: 202,
        content_type: JSON,
        body: Bytes::from_static(br#"{"message":"Accepted"}"#),
    }
}
