//! What `langfuse-extension check` finds out, and what it never prints.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::collections::HashMap;

use lambda_emulator::fake_langfuse::{Config, FakeLangfuse, Fault, FaultRule};
use langfuse_extension::check::check;

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

async fn checked(more: &[(&'static str, &'static str)], langfuse: &FakeLangfuse) -> (String, bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut environment: HashMap<&str, &str> = [
        ("LANGFUSE_EXTENSION_BASE_URL", leak(langfuse.url())),
        ("LANGFUSE_EXTENSION_PUBLIC_KEY", "pk-lf-test"),
        ("LANGFUSE_EXTENSION_SECRET_KEY", "sk-lf-test"),
        ("LANGFUSE_EXTENSION_LISTEN", "127.0.0.1:0"),
        (
            "LANGFUSE_EXTENSION_SPOOL_DIR",
            leak(dir.path().join("spool").to_string_lossy().into_owned()),
        ),
    ]
    .into();
    environment.extend(more.iter().copied());
    environment.retain(|_, value| *value != "-");
    let checked = check(&environment).await;
    assert!(!checked.0.contains("sk-lf-test"), "{}", checked.0);
    checked
}

fn bad(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with("BAD"))
        .collect()
}

#[tokio::test]
async fn where_all_is_well_it_says_what_it_cannot_know() {
    let langfuse = FakeLangfuse::start(Config::default()).unwrap();
    let (text, good) = checked(&[], &langfuse).await;
    assert!(
        good && text.contains("OK   pk-lf-test belongs to"),
        "{text}"
    );
    assert!(text.contains("object store"), "{text}");
    let targets: Vec<_> = langfuse
        .requests()
        .iter()
        .map(|it| it.target.clone())
        .collect();
    assert_eq!(
        targets,
        ["/api/public/projects", "/api/public/otel/v1/traces"]
    );
    assert!(langfuse.observations().is_empty());
}

#[tokio::test]
async fn an_export_that_would_not_be_taken_is_bad() {
    for (fault, words) in [
        (
            Fault::status(503),
            "answers an export without spans with 503",
        ),
        (
            Fault::Status {
                status: 204,
                headers: Vec::new(),
                body: String::new(),
                accept: false,
            },
            "something else than Langfuse's own answer",
        ),
    ] {
        let langfuse = FakeLangfuse::start(Config::default()).unwrap();
        langfuse.set_fault(FaultRule::from(fault).on_path("/api/public/otel"));
        let (text, good) = checked(&[], &langfuse).await;
        assert!(!good && text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn each_fault_of_this_machine_is_said_once() {
    let langfuse = FakeLangfuse::start(Config::default()).unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = leak(other.local_addr().unwrap().to_string());
    for fault in [
        ("LANGFUSE_EXTENSION_LISTEN", taken),
        ("LANGFUSE_EXTENSION_SPOOL_DIR", "/proc/nowhere"),
        ("LANGFUSE_EXTENSION_CA_FILE", "/nowhere/ca.pem"),
        ("LANGFUSE_EXTENSION_SECRET_KEY", "-"),
        ("LANGFUSE_EXTENSION_PASS_THROUGH", "off"),
        (
            "LANGFUSE_EXTENSION_BASE_URL",
            "https://user:hidden@langfuse.example",
        ),
    ] {
        let (text, good) = checked(&[fault], &langfuse).await;
        assert!(!good && bad(&text).len() == 1, "{fault:?}\n{text}");
        assert!(!text.contains("hidden"), "{text}");
    }
}

#[tokio::test]
async fn a_placeholder_without_keys_behind_it_is_bad() {
    let langfuse = FakeLangfuse::start(Config::default()).unwrap();
    let more = [
        ("LANGFUSE_EXTENSION_PUBLIC_KEY", "-"),
        ("LANGFUSE_EXTENSION_SECRET_KEY", "-"),
        ("LANGFUSE_PUBLIC_KEY", "pk-lf-extension"),
        ("LANGFUSE_SECRET_KEY", "sk-lf-extension"),
    ];
    let (text, good) = checked(&more, &langfuse).await;
    assert!(
        !good && bad(&text).len() == 1 && text.contains("placeholder"),
        "{text}"
    );
}
