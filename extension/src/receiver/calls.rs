//! What may be asked with the extension's own keys: a closed set of calls. The request that goes to Langfuse is built
//! from what was understood of the client's, and nothing of its path is passed on, so that no proxy on the way can read
//! another call from it than the one that was meant. Without that, a request forged through the app could read the
//! project, or publish a prompt that steers it.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, USER_AGENT,
};
use http::{Method, Uri};

/// The longest name of a prompt or dataset, in bytes.
pub const NAME_LIMIT_BYTES: usize = 512;

/// The longest value in a query, in bytes.
pub const VALUE_LIMIT_BYTES: usize = 1024;

/// How often something on the way may decode a path. More is no name that anybody gave.
const DECODINGS: usize = 8;

/// The headers that a built request takes over from the client's.
const HEADERS: [HeaderName; 8] = [
    ACCEPT,
    ACCEPT_ENCODING,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    USER_AGENT,
    HeaderName::from_static("x-langfuse-sdk-name"),
    HeaderName::from_static("x-langfuse-sdk-version"),
    HeaderName::from_static("x-langfuse-ingestion-version"),
];

/// One segment of a call's path.
enum Segment {
    /// This word.
    Is(&'static str),
    /// What somebody has named something.
    Name,
    /// What Langfuse has named something: letters, digits, `-`, `_`.
    Id,
    /// A whole number.
    Number,
}

use Segment::{Id, Is, Name, Number};

/// A call: its method, what comes after `/api/public/`, and what its query may say.
struct Call(&'static Method, &'static [Segment], &'static [&'static str]);

const PAGES: &[&str] = &["page", "limit"];

/// What SDKs ask at run time.
const SDK_CALLS: &[Call] = &[
    Call(
        &Method::GET,
        &[Is("v2"), Is("prompts"), Name],
        &["version", "label", "resolve"],
    ),
    Call(&Method::GET, &[Is("projects")], &[]),
    Call(&Method::GET, &[Is("health")], &[]),
    Call(&Method::POST, &[Is("media")], &[]),
    Call(&Method::PATCH, &[Is("media"), Id], &[]),
];

/// What experiments and deployments ask as well: they write what steers the app, and read what others wrote.
const WRITE_CALLS: &[Call] = &[
    Call(&Method::POST, &[Is("v2"), Is("prompts")], &[]),
    Call(
        &Method::PATCH,
        &[Is("v2"), Is("prompts"), Name, Is("versions"), Number],
        &[],
    ),
    Call(&Method::GET, &[Is("media"), Id], &[]),
    Call(&Method::POST, &[Is("v2"), Is("datasets")], &[]),
    Call(&Method::GET, &[Is("v2"), Is("datasets"), Name], &[]),
    Call(&Method::GET, &[Is("datasets"), Name, Is("runs")], PAGES),
    Call(&Method::GET, &[Is("datasets"), Name, Is("runs"), Name], &[]),
    Call(
        &Method::GET,
        &[Is("dataset-items")],
        &["datasetName", "page", "limit"],
    ),
    Call(&Method::GET, &[Is("dataset-items"), Id], &[]),
    Call(&Method::POST, &[Is("dataset-items")], &[]),
    Call(&Method::POST, &[Is("dataset-run-items")], &[]),
];

/// Which calls may be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// What SDKs ask at run time.
    Sdk,
    /// And what experiments and deployments ask.
    Write,
}

/// The path and query of the request to build: `None` if the client's is none of the calls.
pub fn target(width: Width, method: &Method, uri: &Uri) -> Option<String> {
    let path = uri.path().trim_start_matches('/');
    let path = path.strip_prefix("api/public/")?;
    let segments: Vec<_> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
    let wider = match width {
        Width::Sdk => &[][..],
        Width::Write => WRITE_CALLS,
    };
    let calls = SDK_CALLS.iter().chain(wider);
    calls
        .filter(|Call(allowed, ..)| *allowed == method)
        .find_map(|Call(_, template, query)| {
            let mut target = built_path(template, &segments)?;
            push_query(&mut target, query, uri.query().unwrap_or_default())?;
            Some(target)
        })
}

/// Of the client's headers those that a built request takes over.
pub(super) fn headers(of_client: &HeaderMap) -> HeaderMap {
    let taken = of_client.iter().filter(|(name, _)| HEADERS.contains(name));
    taken
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn built_path(template: &[Segment], segments: &[&str]) -> Option<String> {
    if template.len() != segments.len() {
        return None;
    }
    let mut path = String::from("/api/public");
    for (expected, segment) in template.iter().zip(segments) {
        path.push('/');
        match expected {
            Is(word) => path.push_str((word == segment).then_some(*word)?),
            Name => push_encoded(&mut path, &name(segment)?),
            Id => path.push_str(Some(segment).filter(|it| is_id(it))?),
            Number => path.push_str(Some(segment).filter(|it| is_number(it))?),
        }
    }
    Some(path)
}

/// Says what the call's query may say; what else the client's says is left out.
fn push_query(target: &mut String, allowed: &[&str], query: &str) -> Option<()> {
    let mut separator = '?';
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(key) = allowed.iter().find(|it| **it == key) else {
            continue;
        };
        let value = value.replace('+', " ");
        let value = decoded(value.as_bytes());
        let value = std::str::from_utf8(&value).ok()?;
        if value.len() > VALUE_LIMIT_BYTES {
            return None;
        }
        target.push(separator);
        target.push_str(key);
        target.push('=');
        push_encoded(target, value);
        separator = '&';
    }
    Some(())
}

/// What a segment names, if that stays one name for whatever reads the path on the way.
fn name(segment: &str) -> Option<String> {
    let bytes = decoded(segment.as_bytes());
    let name = std::str::from_utf8(&bytes).ok()?.to_owned();
    if name.len() > NAME_LIMIT_BYTES {
        return None;
    }
    let mut read = bytes;
    for _ in 0..DECODINGS {
        let text = std::str::from_utf8(&read).ok()?;
        if text.chars().any(char::is_control) || !text.split(is_slash).all(stays) {
            return None;
        }
        let again = decoded(&read).into_owned();
        if again == *read {
            return Some(name);
        }
        read = Cow::Owned(again);
    }
    None
}

/// What some server or file system takes for a slash.
fn is_slash(c: char) -> bool {
    matches!(
        c,
        '/' | '\\' | '\u{2044}' | '\u{2215}' | '\u{29f8}' | '\u{ff0f}' | '\u{ff3c}'
    )
}

/// Whether a piece between slashes stays where it is: it is not nothing, and not dots, for a reader that cuts off
/// parameters (`..;x`), a query or a fragment, and trims.
fn stays(piece: &str) -> bool {
    let read = piece.split([';', '?', '#']).next().unwrap_or_default();
    let is_dot = |c| matches!(c, '.' | '\u{2024}' | '\u{2025}' | '\u{2026}' | '\u{ff0e}');
    !read.trim().trim_matches(is_dot).trim().is_empty()
}

fn is_id(segment: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=NAME_LIMIT_BYTES).contains(&segment.len()) && segment.bytes().all(is_letter)
}

fn is_number(segment: &str) -> bool {
    (1..=10).contains(&segment.len()) && segment.bytes().all(|byte| byte.is_ascii_digit())
}

/// Decodes every `%` with two hexadecimal digits after it, once.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let pair = Some(()).filter(|()| *byte == b'%');
        let pair = pair.and_then(|()| u8::try_from(digit(at + 1)? * 16 + digit(at + 2)?).ok());
        bytes.push(pair.unwrap_or(*byte));
        at += if pair.is_some() { 3 } else { 1 };
    }
    Cow::Owned(bytes)
}

/// Encodes everything but what RFC 3986 calls unreserved.
fn push_encoded(into: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn built(width: Width, method: &Method, target_of_client: &str) -> Option<String> {
        target(width, method, &target_of_client.parse().ok()?)
    }

    #[test]
    fn what_sdks_ask_is_built_anew() {
        for (method, asked, expected) in [
            (
                Method::GET,
                "//api/public/projects/",
                "/api/public/projects",
            ),
            (
                Method::GET,
                "/api/public/projects?x=../traces",
                "/api/public/projects",
            ),
            (
                Method::GET,
                "/api/public/v2/prompts/movie%20critic%2fv2%20%C3%A4!?label=a+b%26c&version=3&x=1",
                "/api/public/v2/prompts/movie%20critic%2Fv2%20%C3%A4%21?label=a%20b%26c&version=3",
            ),
            (
                Method::GET,
                "/api/public/v2/prompts/100%25%20sure",
                "/api/public/v2/prompts/100%25%20sure",
            ),
            (
                Method::GET,
                "/api/public/v2/prompts/v1..2",
                "/api/public/v2/prompts/v1..2",
            ),
            (Method::POST, "/api/public/media", "/api/public/media"),
            (
                Method::PATCH,
                "/api/public/media/a3-kN_P",
                "/api/public/media/a3-kN_P",
            ),
        ] {
            assert_eq!(
                built(Width::Sdk, &method, asked).as_deref(),
                Some(expected),
                "{asked}"
            );
        }
    }

    #[test]
    fn what_is_none_of_the_calls_is_not_built() {
        for (method, asked) in [
            (Method::GET, "/api/public/traces"),
            (Method::GET, "/api/public/v2/prompts"),
            (Method::GET, "/api/public/v2/prompts/"),
            (Method::GET, "/api/public/v2/prompts/x/versions/1"),
            (Method::POST, "/api/public/v2/prompts"),
            (Method::PATCH, "/api/public/v2/prompts/x/versions/1"),
            (Method::POST, "/api/public/dataset-items"),
            (Method::GET, "/api/public/datasets"),
            (Method::GET, "/api/public/media/x"),
            (Method::HEAD, "/api/public/projects"),
            (Method::GET, "/api/public/projects/x"),
            (Method::GET, "/api/public//projects"),
            (Method::GET, "/api/public/PROJECTS"),
            (Method::GET, "/api/public/project%73"),
        ] {
            assert_eq!(built(Width::Sdk, &method, asked), None, "{method} {asked}");
        }
    }

    #[test]
    fn no_name_is_a_way_out() {
        for name in [
            "..%2ftraces",
            "..%2F..%2Ftraces",
            "%2e%2e%2fsessions",
            "%2e%2e",
            ".",
            "..%5ctraces",
            "x%5c..%5c..%5ctraces",
            "..;%2ftraces",
            "..;x%2ftraces",
            "a%2F..%2Fb",
            "%252e%252e%252ftraces",
            "%25252e%25252e%25252ftraces",
            "%c0%ae%c0%ae%c0%aftraces",
            "%EF%BC%8E%EF%BC%8E%EF%BC%8Ftraces",
            "%E2%80%A5%2Ftraces",
            "%2F",
            "x%2F",
            "%2Fx",
            "a%2F%2Fb",
            "%20",
            "%20..%20%2Ftraces",
            "%3Flimit=100",
            "%23",
            "x%00",
            "x%0d%0aHost:%20y",
            "%ff",
        ] {
            let asked = format!("/api/public/v2/prompts/{name}");
            assert_eq!(built(Width::Write, &Method::GET, &asked), None, "{name}");
        }
        let longest = "x".repeat(NAME_LIMIT_BYTES);
        let asked = |name: &str| format!("/api/public/v2/prompts/{name}");
        assert!(built(Width::Sdk, &Method::GET, &asked(&longest)).is_some());
        assert!(built(Width::Sdk, &Method::GET, &asked(&format!("{longest}x"))).is_none());
        let label = asked(&format!("x?label={}", "y".repeat(VALUE_LIMIT_BYTES + 1)));
        assert!(built(Width::Sdk, &Method::GET, &label).is_none());
    }

    #[test]
    fn more_is_built_where_the_setting_says_so() {
        for (method, asked) in [
            (Method::POST, "/api/public/v2/prompts"),
            (Method::PATCH, "/api/public/v2/prompts/a%2Fb/versions/12"),
            (
                Method::GET,
                "/api/public/dataset-items?datasetName=a%2Fb&page=2",
            ),
            (Method::POST, "/api/public/dataset-run-items"),
            (Method::GET, "/api/public/datasets/a/runs/b"),
        ] {
            assert_eq!(built(Width::Sdk, &method, asked), None, "{asked}");
            assert_eq!(built(Width::Write, &method, asked).as_deref(), Some(asked));
        }
        let climbing = "/api/public/v2/prompts/x/versions/..%2f1";
        assert_eq!(built(Width::Write, &Method::PATCH, climbing), None);
        assert_eq!(
            built(Width::Write, &Method::GET, "/api/public/traces"),
            None
        );
    }

    #[test]
    fn of_the_clients_headers_only_a_closed_list_is_taken_over() {
        let of_client: HeaderMap = [
            "cookie",
            "x-http-method-override",
            "x-original-url",
            "x-rewrite-url",
            "x-forwarded-host",
            "forwarded",
            "authorization",
            "connection",
            "content-type",
            "x-langfuse-sdk-name",
        ]
        .into_iter()
        .map(|name| (HeaderName::from_static(name), "x".parse().unwrap()))
        .collect();
        let taken = headers(&of_client);
        let mut names: Vec<_> = taken.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "x-langfuse-sdk-name"]);
    }

    /// What the most willing reader on the way makes of a path: it decodes as often as it can, takes backslashes for
    /// slashes, cuts parameters off, and then climbs.
    fn willing(path: &str) -> String {
        let mut path = path.to_owned();
        loop {
            let bytes = decoded(path.as_bytes()).into_owned();
            let next = String::from_utf8_lossy(&bytes).replace('\\', "/");
            if next == path {
                break;
            }
            path = next;
        }
        let path = path.split(['?', '#']).next().unwrap_or_default().to_owned();
        let mut climbed: Vec<&str> = Vec::new();
        for piece in path.split('/') {
            match piece.split(';').next().unwrap_or_default().trim() {
                "" | "." => {}
                ".." => {
                    climbed.pop();
                }
                piece => climbed.push(piece),
            }
        }
        format!("/{}", climbed.join("/"))
    }

    fn is_in_the_set(path: &str) -> bool {
        let prompt = path.strip_prefix("/api/public/v2/prompts/");
        prompt.is_some_and(|name| !name.is_empty())
            || matches!(path, "/api/public/projects" | "/api/public/health")
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_asked_and_whoever_reads_it_the_call_is_one_of_the_set(
            start in prop::sample::select(vec!["/api/public/", "/api/public/v2/prompts/", "/api/public/projects", "//api/public/health/"]),
            pieces in prop::collection::vec(prop_oneof![
                prop::sample::select(vec![
                    ".", "..", "/", "\\", ";", "%2e", "%2E", "%2f", "%2F", "%5c", "%252e", "%252f", "%25", "%3b", "%3f", "%23",
                    "%c0%ae", "%c0%af", "%e2%80%a5", "%ef%bc%8f", "%00", "%0a", "%20", "traces", "v2", "prompts", "?", "&label=", "x",
                ]).prop_map(|it| it.as_bytes().to_vec()),
                prop::collection::vec(any::<u8>(), 0..4),
            ], 0..12),
        ) {
            let mut asked = start.as_bytes().to_vec();
            asked.extend(pieces.concat());
            let Ok(uri) = Uri::try_from(asked) else { return Ok(()) };
            let Some(built) = target(Width::Sdk, &Method::GET, &uri) else { return Ok(()) };
            let url = reqwest::Url::parse(&format!("http://langfuse.example/base{built}")).unwrap();
            let path = built.split('?').next().unwrap();
            prop_assert_eq!(url.path(), format!("/base{path}"));
            prop_assert!(url.fragment().is_none() && url.host_str() == Some("langfuse.example"));
            prop_assert!(is_in_the_set(&willing(path)), "{} is read as {}", built, willing(path));
            prop_assert_eq!(target(Width::Sdk, &Method::GET, &built.parse().unwrap()), Some(built.clone()));
        }
    }
}
