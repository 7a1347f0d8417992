//! A request as read from the wire, before anyone has judged it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use percent_encoding::percent_decode_str;

/// Bytes of a body that are read at all; a longer one ends its connection.
pub const MAX_READ_BODY_BYTES: usize = 32 << 20;

/// A whole request.
pub(super) struct Incoming {
    pub(super) arrived_at: SystemTime,
    pub(super) connection: u64,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Incoming {
    pub(super) async fn read(
        request: Request<hyper::body::Incoming>,
        connection: u64,
    ) -> std::io::Result<Self> {
        let arrived_at = SystemTime::now();
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, MAX_READ_BODY_BYTES)
            .collect()
            .await
            .map_err(std::io::Error::other)?;
        let headers = parts.headers.iter();
        Ok(Self {
            arrived_at,
            connection,
            method: parts.method.to_string(),
            target: parts
                .uri
                .path_and_query()
                .map_or_else(|| parts.uri.to_string(), ToString::to_string),
            headers: headers
                .map(|(name, value)| {
                    (
                        name.to_string(),
                        String::from_utf8_lossy(value.as_bytes()).into_owned(),
                    )
                })
                .collect(),
            body: body.to_bytes(),
        })
    }

    /// The raw path, without the query.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The first value of this query parameter, decoded.
    pub(super) fn query(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&key.replace('+', " ")) == name).then(|| decode(&value.replace('+', " ")))
        })
    }

    /// See [`super::Observation::storage_headers`].
    pub(super) fn storage_headers(&self) -> Arc<BTreeMap<String, String>> {
        let decides = |name: &str| {
            matches!(name, "content-type" | "content-encoding")
                || name.starts_with("x-langfuse")
                || name.starts_with("x_langfuse")
        };
        Arc::new(
            self.headers
                .iter()
                .filter(|(name, _)| decides(name))
                .cloned()
                .collect(),
        )
    }
}

pub(super) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
