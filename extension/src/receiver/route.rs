//! From the headers of a client's request to the route its data takes.

use std::sync::Arc;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use langfuse_extension_core::route::{Credential, Door, Route};

use crate::exporter::upstream::{PUBLIC_KEY_HEADER, Upstream};

/// Headers that concern one connection only, and never travel on. RFC 9110, section 7.6.1.
pub(super) const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
];

/// Headers that describe one body or its answer.
const OF_ONE_REQUEST: [HeaderName; 6] = [
    HOST,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    ACCEPT,
    ACCEPT_ENCODING,
];

/// Headers of the app's own tracing. They differ with each request, mean nothing to Langfuse, and would keep every
/// request from sharing one with another.
const TRACE_CONTEXT: [&str; 10] = [
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "sentry-trace",
    "uber-trace-id",
    "x-amzn-trace-id",
    "x-request-id",
    "keep-alive",
    "proxy-connection",
];

/// Prefixes of further such headers.
const TRACE_CONTEXT_PREFIXES: [&str; 2] = ["x-b3-", "x-datadog-"];

/// Whose keys a request goes with. `None`: it has none and the extension has none either.
pub(super) fn credential(
    headers: &HeaderMap,
    upstream: &Upstream,
    has_keys: bool,
) -> Option<Credential> {
    let authorization = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .filter(|it| !it.is_empty());
    match authorization {
        None => has_keys.then_some(Credential::Configured),
        Some(text) if has_keys && upstream.stands_for_our_keys(text) => {
            Some(Credential::Configured)
        }
        Some(text) => Some(Credential::Client(text.to_owned())),
    }
}

/// The route of data that came with these headers. Credentials are never among the headers that travel on.
pub fn route(headers: &HeaderMap, door: Door, credential: Credential) -> Arc<Route> {
    let travels = |name: &HeaderName| {
        !(HOP_BY_HOP.contains(name)
            || OF_ONE_REQUEST.contains(name)
            || *name == AUTHORIZATION
            || credential == Credential::Configured && *name == PUBLIC_KEY_HEADER
            || TRACE_CONTEXT.contains(&name.as_str())
            || TRACE_CONTEXT_PREFIXES
                .iter()
                .any(|prefix| name.as_str().starts_with(prefix)))
    };
    let headers = headers.iter().filter(|(name, _)| travels(name));
    let headers = headers
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    Arc::new(Route {
        door,
        credential,
        headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_the_storage_path_travels_and_what_differs_each_time_does_not() {
        let headers: HeaderMap = [
            ("host", "localhost:4318"),
            ("authorization", "Basic eDp5"),
            ("x-langfuse-sdk-name", "python"),
            ("x_langfuse_sdk_version", "2.60.10"),
            ("x-masking-tenant", "a"),
            ("traceparent", "00-1-2-01"),
            ("x-b3-traceid", "1"),
            ("content-type", "application/json"),
        ]
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect();
        let route = route(
            &headers,
            Door::TracesJson,
            Credential::Client("Basic eDp5".into()),
        );
        let mut names: Vec<_> = route
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "x-langfuse-sdk-name",
                "x-masking-tenant",
                "x_langfuse_sdk_version"
            ]
        );
    }
}
