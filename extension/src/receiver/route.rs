//! From the headers of a client's request to the route its data takes.

use std::sync::Arc;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT,
    HOST, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use langfuse_extension_core::route::{Credential, Door, Route};

use crate::exporter::upstream::{HOP_HEADER, PUBLIC_KEY_HEADER, Upstream};

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

/// How the headers begin by which Langfuse chooses how to store a request; old SDKs write them with underscores.
const STORAGE_PREFIXES: [&str; 2] = ["x-langfuse-", "x_langfuse_"];

/// Says which project a request is for, in the spelling of old SDKs.
const OLD_PUBLIC_KEY_HEADER: HeaderName = HeaderName::from_static("x_langfuse_public_key");

/// Headers that the request to Langfuse has by itself, or that would change how it is read.
const NEVER: [HeaderName; 7] = [
    HOST,
    AUTHORIZATION,
    COOKIE,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    HOP_HEADER,
];

/// Whether a header may travel because a setting names it.
pub fn may_travel(name: &HeaderName) -> bool {
    !HOP_BY_HOP.contains(name) && !NEVER.contains(name)
}

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

/// The route of data that came with these headers. Only what decides how Langfuse stores a request travels, and the
/// headers that are `named` by a setting; whatever else an app's tracing or proxies add differs with each request, and
/// would keep every one from sharing a request to Langfuse with another. Credentials are never among them.
pub fn route(
    headers: &HeaderMap,
    door: Door,
    credential: Credential,
    named: &[HeaderName],
) -> Arc<Route> {
    let is_replaced = |name: &HeaderName| {
        credential == Credential::Configured
            && (*name == PUBLIC_KEY_HEADER || *name == OLD_PUBLIC_KEY_HEADER)
    };
    let travels = |name: &HeaderName| {
        let decides = STORAGE_PREFIXES
            .iter()
            .any(|prefix| name.as_str().starts_with(prefix));
        (decides && !is_replaced(name)) || (named.contains(name) && may_travel(name))
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

    fn names(
        given: &[(&'static str, &str)],
        credential: Credential,
        named: &[&str],
    ) -> Vec<String> {
        let headers: HeaderMap = given
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let named: Vec<_> = named.iter().map(|name| name.parse().unwrap()).collect();
        let route = route(&headers, Door::TracesJson, credential, &named);
        let mut travelling: Vec<_> = route.headers.iter().map(|(name, _)| name.clone()).collect();
        travelling.sort_unstable();
        travelling
    }

    const GIVEN: [(&str, &str); 14] = [
        ("host", "localhost:4318"),
        ("authorization", "Basic eDp5"),
        ("cookie", "session=1"),
        ("content-type", "application/json"),
        ("user-agent", "OTel"),
        ("x-langfuse-sdk-name", "python"),
        ("x-langfuse-public-key", "pk-lf-1"),
        ("x_langfuse_public_key", "pk-lf-1"),
        ("x_langfuse_sdk_version", "2.60.10"),
        ("x-masking-tenant", "a"),
        ("traceparent", "00-1-2-01"),
        ("elastic-apm-traceparent", "00-1-2-01"),
        ("newrelic", "eyJ2"),
        ("x-cloud-trace-context", "1/2;o=1"),
    ];

    #[test]
    fn only_what_decides_the_storage_path_travels() {
        let of_client = names(&GIVEN, Credential::Client("Basic eDp5".into()), &[]);
        let expected = [
            "x-langfuse-public-key",
            "x-langfuse-sdk-name",
            "x_langfuse_public_key",
            "x_langfuse_sdk_version",
        ];
        assert_eq!(of_client, expected);
        let configured = names(&GIVEN, Credential::Configured, &[]);
        assert_eq!(
            configured,
            ["x-langfuse-sdk-name", "x_langfuse_sdk_version"]
        );
    }

    #[test]
    fn what_a_setting_names_travels_too_unless_it_cannot() {
        let named = [
            "x-masking-tenant",
            "authorization",
            "cookie",
            "host",
            "connection",
        ];
        let travels = names(&GIVEN, Credential::Configured, &named);
        let expected = [
            "x-langfuse-sdk-name",
            "x-masking-tenant",
            "x_langfuse_sdk_version",
        ];
        assert_eq!(travels, expected);
    }
}
