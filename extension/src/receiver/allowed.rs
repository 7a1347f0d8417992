//! What a client may ask with keys of its own: anything under Langfuse's API, and nothing that climbs out of it.

use http::Uri;

/// Path and query as the client wrote them, but for doubled slashes at the front. `None` if a URL parser on the way
/// could read another path from it: it has segments of dots, however encoded, or a backslash.
pub fn raw_target(uri: &Uri) -> Option<String> {
    let target = uri.path_and_query()?.as_str();
    let climbs = uri.path().split('/').any(is_dots);
    (!climbs && !uri.path().contains('\\')).then(|| format!("/{}", target.trim_start_matches('/')))
}

/// `.` and `..`, as the URL standard reads them: <https://url.spec.whatwg.org/#single-dot-path-segment>.
fn is_dots(segment: &str) -> bool {
    let decoded = segment.replace("%2e", ".").replace("%2E", ".");
    matches!(decoded.as_str(), "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_climbs_passes() {
        for path in [
            "/api/public/projects/../traces",
            "/api/public/projects/%2e%2E/traces",
            "/api/public/projects/.%2e/traces",
            "/api/public/projects/./x",
            "/api/public/projects/x\\..\\..\\traces",
            "/api/public/projects/\\..\\traces",
            "/..",
        ] {
            assert_eq!(raw_target(&path.parse().unwrap()), None, "{path}");
        }
        for path in ["/a/...", "/a/..b", "/a/%2F..%2Fb", "/a?../b"] {
            assert_eq!(raw_target(&path.parse().unwrap()).as_deref(), Some(path));
        }
    }
}
