//! Why a body is refused, and the answer that says so in the client's own words.

use bytes::Bytes;
use serde::Serialize;

use super::answer::{Answer, JSON, PROTOBUF};
use super::proto;

/// Why a body is refused. None of these is worth a retry by the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The content type names neither of the encodings that Langfuse reads at this endpoint.
    #[error("unsupported content type {0:?}: {1}")]
    UnsupportedMediaType(String, &'static str),
    /// The content encoding is one that we do not decode.
    #[error("unsupported content encoding {0:?}: use gzip, deflate or none")]
    UnsupportedEncoding(String),
    /// The body, or one part of it that cannot be cut further, is larger than what is accepted.
    #[error("{what} exceeds {limit_bytes} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit it exceeds, in bytes.
        limit_bytes: usize,
    },
    /// It brought no keys, and the extension has none.
    #[error("No authorization header")]
    NoKeys,
    /// There is no memory for it now.
    #[error("there is no memory for this request now")]
    NoRoom,
    /// More events or scores than one request may hold.
    #[error("more than {limit} elements in one request")]
    TooMany {
        /// The limit exceeded.
        limit: u32,
    },
    /// The compressed body cannot be inflated.
    #[error("the body is not valid {0}")]
    Compression(&'static str),
    /// The body is not what its content type says, or Langfuse could not read it.
    #[error("invalid {what} at byte {at}: {reason}")]
    Malformed {
        /// What the body should have been.
        what: &'static str,
        /// How far the inflated body was read.
        at: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// One of the spans, or a list that holds them, is of a shape that makes Langfuse refuse the whole request.
    #[error(
        "invalid OTLP trace export ({0}): every span needs a traceId and a spanId, and scopeSpans, spans, attributes and \
         events must be arrays. The whole request was refused. Only traces are accepted here, not logs"
    )]
    UnreadableSpans(&'static str),
    /// It could not be read, and that is our fault.
    #[error("the request could not be read")]
    Fault,
    /// The JSON is not of the shape that the endpoint takes.
    #[error("{0}")]
    Shape(&'static str),
}

impl Refusal {
    /// The HTTP status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoKeys => 401,
            Self::UnsupportedMediaType(..) | Self::UnsupportedEncoding(_) => 415,
            Self::TooLarge { .. } | Self::TooMany { .. } | Self::NoRoom => 413,
            Self::Compression(_)
            | Self::Malformed { .. }
            | Self::UnreadableSpans(_)
            | Self::Fault
            | Self::Shape(_) => 400,
        }
    }

    /// The answer of an OTLP endpoint: a `google.rpc.Status` in the encoding of the request, as OTLP/HTTP asks
    /// (<https://opentelemetry.io/docs/specs/otlp/#failures>).
    pub fn otlp_answer(&self, content_type: &str) -> Answer {
        let code = self.grpc_code();
        let message = self.to_string();
        if is_protobuf(content_type) {
            let mut body = vec![0x08, code, 0x12];
            proto::put_varint(&mut body, message.len() as u64);
            body.extend_from_slice(message.as_bytes());
            return Answer {
                status: self.status(),
                content_type: PROTOBUF,
                body: body.into(),
            };
        }
        self.json_answer(&OtlpStatus {
            code,
            message: &message,
        })
    }

    /// The answer of Langfuse's own endpoints: `{"message", "error"}`.
    pub fn langfuse_answer(&self) -> Answer {
        let error = match self {
            Self::NoKeys => "UnauthorizedError",
            Self::TooLarge { .. } | Self::TooMany { .. } | Self::NoRoom => "PayloadTooLargeError",
            Self::UnsupportedMediaType(..) | Self::UnsupportedEncoding(_) => {
                "UnsupportedMediaTypeError"
            }
            _ => "InvalidRequestError",
        };
        self.json_answer(&LangfuseError {
            message: &self.to_string(),
            error,
        })
    }

    /// <https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto>
    fn grpc_code(&self) -> u8 {
        const INVALID_ARGUMENT: u8 = 3;
        const RESOURCE_EXHAUSTED: u8 = 8;
        const UNAUTHENTICATED: u8 = 16;
        match self.status() {
            401 => UNAUTHENTICATED,
            413 => RESOURCE_EXHAUSTED,
            _ => INVALID_ARGUMENT,
        }
    }

    fn json_answer(&self, body: &impl Serialize) -> Answer {
        let body = serde_json::to_vec(body).map_or_else(|_| Bytes::from_static(b"{}"), Bytes::from);
        Answer {
            status: self.status(),
            content_type: JSON,
            body,
        }
    }
}

/// Whether a content type asks for protobuf: by the same test as Langfuse's, or by the name that has been registered.
pub(super) fn is_protobuf(content_type: &str) -> bool {
    const REGISTERED: &str = "application/protobuf";
    contains_ignoring_case(content_type, PROTOBUF)
        || contains_ignoring_case(content_type, REGISTERED)
}

pub(super) fn contains_ignoring_case(text: &str, lower: &str) -> bool {
    text.to_ascii_lowercase().contains(lower)
}

#[derive(Serialize)]
struct OtlpStatus<'a> {
    code: u8,
    message: &'a str,
}

#[derive(Serialize)]
struct LangfuseError<'a> {
    message: &'a str,
    error: &'static str,
}
