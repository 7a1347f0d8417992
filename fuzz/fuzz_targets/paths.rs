#![no_main]

use http::{Method, Uri};
use langfuse_extension::receiver::allowed::{is_sdk_call, raw_target};
use langfuse_extension::exporter::upstream::Upstream;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static UPSTREAM: Upstream = Upstream::open("https://langfuse.example/base".parse().ok(), None);
}

// Whatever a client asks for, the URL that results lies where the allow-list looked.
fuzz_target!(|target: &[u8]| {
    let Ok(uri) = Uri::try_from(target) else {
        return;
    };
    let Some(raw) = raw_target(&uri) else {
        return;
    };
    assert!(raw.starts_with('/') && !raw.starts_with("//"));
    let Some(url) = UPSTREAM.with(|upstream| upstream.url(&raw)) else {
        return;
    };
    assert_eq!(url.host_str(), Some("langfuse.example"));
    let path = url
        .path()
        .strip_prefix("/base")
        .expect("it lies under the base path");
    let asked = raw.split('?').next().unwrap_or_default();
    assert_eq!(
        path.split('/').count(),
        asked.split('/').count(),
        "{raw} became {url}"
    );
    if is_sdk_call(&Method::GET, &raw) {
        let allowed = [
            "v2/prompts",
            "media",
            "projects",
            "v2/datasets",
            "datasets",
            "dataset-items",
            "health",
        ];
        assert!(
            allowed
                .iter()
                .any(|it| path.starts_with(&format!("/api/public/{it}"))),
            "{raw} became {url}"
        );
    }
});
