#![no_main]

use http::{Method, Uri};
use langfuse_extension::exporter::upstream::Upstream;
use langfuse_extension::receiver::allowed::raw_target;
use langfuse_extension::receiver::calls::{self, Width};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static UPSTREAM: Upstream = Upstream::open("https://langfuse.example/base".parse().ok(), None);
}

// Whatever a client asks for, the URL that results lies below the base path, and with the extension's keys it is one of
// a closed set.
fuzz_target!(|target: &[u8]| {
    let Ok(uri) = Uri::try_from(target) else {
        return;
    };
    if let Some(raw) = raw_target(&uri) {
        assert!(raw.starts_with('/') && !raw.starts_with("//"));
        if let Some(path) = path_below_base(&raw) {
            let asked = raw.split('?').next().unwrap_or_default();
            assert_eq!(path.split('/').count(), asked.split('/').count(), "{raw}");
        }
    }
    if let Some(built) = calls::target(Width::Sdk, &Method::GET, &uri) {
        let path = path_below_base(&built).expect("what is built is a URL");
        assert_eq!(Some(path.as_str()), built.split('?').next());
        let prompt = path.strip_prefix("/api/public/v2/prompts/");
        let is_prompt = prompt.is_some_and(|name| !name.is_empty() && !name.contains('/'));
        let is_other = matches!(path.as_str(), "/api/public/projects" | "/api/public/health");
        assert!(is_prompt || is_other, "{built}");
    }
});

fn path_below_base(target: &str) -> Option<String> {
    let url = UPSTREAM.with(|upstream| upstream.url(target))?;
    assert_eq!(url.host_str(), Some("langfuse.example"));
    let path = url.path().strip_prefix("/base");
    Some(path.expect("it lies under the base path").to_owned())
}
