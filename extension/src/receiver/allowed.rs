//! What passes through, and what could climb out of where it may pass.

use http::{Method, Uri};

/// What an app may ask with the extension's keys: what SDKs ask at run time. More, and a request forged through the app
/// could read the whole project.
const SDK_CALLS: [(&Method, &str); 14] = [
    (&Method::GET, "v2/prompts"),
    (&Method::POST, "v2/prompts"),
    (&Method::PATCH, "v2/prompts"),
    (&Method::POST, "media"),
    (&Method::PATCH, "media"),
    (&Method::GET, "media"),
    (&Method::GET, "projects"),
    (&Method::GET, "v2/datasets"),
    (&Method::POST, "v2/datasets"),
    (&Method::GET, "datasets"),
    (&Method::GET, "dataset-items"),
    (&Method::POST, "dataset-items"),
    (&Method::POST, "dataset-run-items"),
    (&Method::GET, "health"),
];

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

/// Prompt names may hold anything, so only whole segments count. `target` comes from [`raw_target`].
pub fn is_sdk_call(method: &Method, target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("/api/public/").unwrap_or_default();
    let starts = |(_, start): &&(&Method, &str)| {
        path.strip_prefix(start)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    SDK_CALLS
        .iter()
        .filter(starts)
        .any(|(allowed, _)| **allowed == *method)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(method: &Method, path: &str) -> bool {
        raw_target(&path.parse().unwrap()).is_some_and(|target| is_sdk_call(method, &target))
    }

    #[test]
    fn with_injected_keys_only_what_sdks_ask_passes() {
        assert!(passes(
            &Method::GET,
            "/api/public/v2/prompts/movie%2Fcritic"
        ));
        assert!(passes(&Method::GET, "/api/public/v2/prompts/x?label=../y"));
        assert!(passes(&Method::GET, "//api/public/projects"));
        assert!(passes(&Method::PATCH, "/api/public/media/abc"));
        for (method, path) in [
            (Method::GET, "/api/public/traces"),
            (Method::DELETE, "/api/public/v2/prompts/x"),
            (Method::GET, "/api/public/projects2"),
            (Method::GET, "/api/public/projects?/../traces/"),
            (Method::GET, "/api/public/scores"),
            (Method::GET, "/api/public//projects/x"),
        ] {
            let expected = path.contains('?');
            assert_eq!(passes(&method, path), expected, "{path}");
        }
    }

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
