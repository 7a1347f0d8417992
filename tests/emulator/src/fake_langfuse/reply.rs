//! Answers as Langfuse words them.

use bytes::Bytes;
use serde_json::{Value, json};

/// A whole answer, not yet on the wire.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json; charset=utf-8", body.to_string())
    }

    pub(super) fn text(status: u16, body: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.to_owned())
    }

    pub(super) fn html(status: u16, body: String) -> Self {
        Self::new(status, "text/html; charset=utf-8", body)
    }

    pub(super) fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub(super) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("content-type".into(), content_type.into())],
            body: body.into(),
        }
    }

    /// `{"message": …, "error": …}`, the shape of most refusals.
    pub(super) fn refusal(status: u16, error: &str, message: &str) -> Self {
        Self::json(status, &json!({"message": message, "error": error}))
    }

    pub(super) fn not_found(message: &str) -> Self {
        Self::refusal(404, "LangfuseNotFoundError", message)
    }

    pub(super) fn invalid(issue: &str) -> Self {
        Self::json(
            400,
            &json!({"message": "Invalid request data", "error": [{"message": issue}]}),
        )
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::refusal(405, "MethodNotAllowedError", "Method not allowed")
    }

    /// A page of the web application, which is what an unknown path gets.
    pub(super) fn unknown_page() -> Self {
        Self::html(
            404,
            "<!DOCTYPE html><html><head><title>404: This page could not be found</title></head></html>".into(),
        )
    }

    #[must_use]
    pub(super) fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// The page a load balancer answers with.
pub(super) fn edge_page(status: u16) -> String {
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|code| code.canonical_reason())
        .unwrap_or("Error");
    format!(
        "<html><head><title>{status} {reason}</title></head><body><center><h1>{status} {reason}</h1></center></body></html>"
    )
}
