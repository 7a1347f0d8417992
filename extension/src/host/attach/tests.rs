use std::collections::BTreeMap;
use std::collections::HashMap;

use super::*;
use crate::settings::{Config, DEFAULT_LISTEN};

const LOCAL: &str = "http://127.0.0.1:4318";

fn change(
    runtime: Runtime,
    given: &[(&'static str, &'static str)],
) -> BTreeMap<&'static str, String> {
    let given: HashMap<_, _> = given.iter().copied().collect();
    changes(&given, runtime, Load::OneAtATime, DEFAULT_LISTEN)
        .into_iter()
        .collect()
}

#[test]
fn the_file_that_is_started_tells_the_runtime() {
    for (program, runtime) in [
        ("python", Runtime::Python),
        ("/var/lang/bin/python3.12", Runtime::Python),
        ("/usr/bin/node", Runtime::Node),
        ("nodejs", Runtime::Node),
        ("sh", Runtime::Unknown),
        ("gunicorn", Runtime::Unknown),
        ("npm", Runtime::Unknown),
        ("python-app", Runtime::Unknown),
        ("", Runtime::Unknown),
    ] {
        assert_eq!(Runtime::of(OsStr::new(program)), runtime, "{program}");
    }
}

#[test]
fn every_address_of_langfuse_becomes_the_local_one() {
    let changed = change(
        Runtime::Python,
        &[
            ("LANGFUSE_BASE_URL", "https://us.cloud.langfuse.com"),
            ("TRACELOOP_BASE_URL", "https://l.example/api/public/otel"),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "https://l.example/api/public/otel",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "https://l.example/api/public/otel/v1/traces",
            ),
        ],
    );
    for name in [
        "LANGFUSE_BASE_URL",
        "LANGFUSE_HOST",
        "LANGFUSE_BASEURL",
        "LANGFUSE_OTEL_HOST",
    ] {
        assert_eq!(changed[name], LOCAL, "{name}");
    }
    for name in ["TRACELOOP_BASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
        assert_eq!(changed[name], format!("{LOCAL}/api/public/otel"), "{name}");
    }
    assert_eq!(
        changed["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"],
        format!("{LOCAL}/api/public/otel/v1/traces")
    );
}

#[test]
fn the_extension_takes_what_the_app_had_for_langfuse() {
    for name in crate::settings::SDK_BASE_URLS {
        let given: HashMap<_, _> = [(name, "https://l.example/base")].into();
        let upstream = Config::read(&given).upstream.unwrap();
        assert_eq!(upstream.as_str(), "https://l.example/base", "{name}");
        assert_eq!(
            change(Runtime::Node, &[(name, "https://l.example/base")])[name],
            LOCAL
        );
    }
}

#[test]
fn another_backend_stays_what_it_is_and_gets_no_request_for_each_span() {
    let others = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://api.honeycomb.io"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "https://api.honeycomb.io/v1/traces",
        ),
        ("OTEL_TRACES_EXPORTER", "xray"),
    ];
    for (name, value) in others {
        let changed = change(Runtime::Python, &[(name, value)]);
        assert!(!changed.contains_key(name), "{name}={value}");
        let batches = changed
            .keys()
            .filter(|name| name.starts_with("OTEL_BSP_"))
            .count();
        assert_eq!(batches, 0, "{name}={value}");
    }
    let traceloop = change(
        Runtime::Python,
        &[("TRACELOOP_BASE_URL", "https://api.traceloop.com")],
    );
    assert!(!traceloop.contains_key("TRACELOOP_BASE_URL"));
}

#[test]
fn plain_opentelemetry_hands_over_at_once_where_it_comes_here() {
    for given in [
        &[][..],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")],
        &[(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "https://l.example/api/public/otel",
        )],
        // Metrics go elsewhere, spans come here.
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "https://l.example/api/public/otel/v1/traces",
            ),
        ],
    ] {
        let changed = change(Runtime::Unknown, given);
        assert_eq!(changed["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"], "1", "{given:?}");
    }
}

#[test]
fn each_runtime_hands_over_at_once_in_its_own_way() {
    let python = change(Runtime::Python, &[]);
    assert_eq!(python["LANGFUSE_FLUSH_AT"], "1");
    assert!(!python.contains_key("LANGFUSE_FLUSH_INTERVAL"));
    for runtime in [Runtime::Node, Runtime::Unknown] {
        let changed = change(runtime, &[]);
        assert_eq!(changed["LANGFUSE_FLUSH_INTERVAL"], "0.02");
        assert!(!changed.contains_key("LANGFUSE_FLUSH_AT"), "{runtime:?}");
    }
}

#[test]
fn under_many_requests_at_once_nothing_is_handed_over_one_by_one() {
    let given: HashMap<&str, &str> = HashMap::new();
    for runtime in [Runtime::Python, Runtime::Node, Runtime::Unknown] {
        let changed = changes(&given, runtime, Load::ManyAtOnce, DEFAULT_LISTEN);
        let changed: BTreeMap<_, _> = changed.into_iter().collect();
        assert_eq!(changed["LANGFUSE_FLUSH_INTERVAL"], "0.02");
        assert_eq!(changed["OTEL_BSP_SCHEDULE_DELAY"], "20");
        assert!(!changed.contains_key("LANGFUSE_FLUSH_AT"), "{runtime:?}");
        assert!(!changed.contains_key("OTEL_BSP_MAX_EXPORT_BATCH_SIZE"));
    }
}

#[test]
fn what_the_app_is_told_already_is_left() {
    let given = [
        ("LANGFUSE_FLUSH_AT", "15"),
        ("LANGFUSE_FLUSH_INTERVAL", "1"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64"),
        ("LANGFUSE_PUBLIC_KEY", "pk-lf-1"),
        ("LANGFUSE_SECRET_KEY", "sk-lf-1"),
        ("LANGFUSE_EXTENSION_PUBLIC_KEY", "pk-lf-2"),
        ("LANGFUSE_EXTENSION_SECRET_KEY", "ssm:/langfuse/secret"),
    ];
    for runtime in [Runtime::Python, Runtime::Node, Runtime::Unknown] {
        let changed = change(runtime, &given);
        for (name, _) in given {
            assert!(!changed.contains_key(name), "{name}");
        }
    }
}

#[test]
fn placeholders_stand_for_keys_that_only_the_extension_has() {
    let own = [
        ("LANGFUSE_EXTENSION_PUBLIC_KEY", "pk-lf-2"),
        ("LANGFUSE_EXTENSION_SECRET_KEY", "ssm:/langfuse/secret"),
    ];
    let changed = change(Runtime::Python, &own);
    assert_eq!(changed["LANGFUSE_PUBLIC_KEY"], "pk-lf-extension");
    assert_eq!(changed["LANGFUSE_SECRET_KEY"], "sk-lf-extension");
    // Nobody has keys: the SDK stays as silent as it was.
    assert!(!change(Runtime::Python, &[]).contains_key("LANGFUSE_PUBLIC_KEY"));
}

#[test]
fn no_proxy_is_asked_for_the_local_address() {
    let proxy = ("HTTP_PROXY", "http://proxy.example:3128");
    let changed = change(Runtime::Python, &[proxy]);
    assert_eq!(changed["NO_PROXY"], "localhost,127.0.0.1");
    assert!(!changed.contains_key("no_proxy"));

    let changed = change(
        Runtime::Python,
        &[proxy, ("no_proxy", ".internal, localhost")],
    );
    assert_eq!(changed["no_proxy"], ".internal,localhost,127.0.0.1");
    assert!(!changed.contains_key("NO_PROXY"));

    for nothing_to_do in [
        &[][..],
        &[proxy, ("NO_PROXY", "*")],
        &[proxy, ("NO_PROXY", "127.0.0.1,localhost")],
    ] {
        let changed = change(Runtime::Python, nothing_to_do);
        assert!(!changed.contains_key("NO_PROXY"), "{nothing_to_do:?}");
    }
}

#[test]
fn calls_to_the_extension_are_not_traced() {
    let changed = change(
        Runtime::Python,
        &[
            ("OTEL_PYTHON_EXCLUDED_URLS", "/health"),
            ("OTEL_PYTHON_REQUESTS_EXCLUDED_URLS", "/ready"),
        ],
    );
    assert_eq!(
        changed["OTEL_PYTHON_HTTPX_EXCLUDED_URLS"],
        "/health,localhost:4318,127.0.0.1:4318"
    );
    assert_eq!(
        changed["OTEL_PYTHON_REQUESTS_EXCLUDED_URLS"],
        "/ready,localhost:4318,127.0.0.1:4318"
    );
    assert!(
        !change(Runtime::Node, &[])
            .keys()
            .any(|name| name.starts_with("OTEL_PYTHON_"))
    );
}

#[test]
fn attaching_twice_changes_nothing_more() {
    let once = change(Runtime::Python, &[("HTTP_PROXY", "http://proxy.example")]);
    let mut given: HashMap<&str, &str> = once
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    given.insert("HTTP_PROXY", "http://proxy.example");
    let twice = changes(&given, Runtime::Python, Load::OneAtATime, DEFAULT_LISTEN);
    for (name, value) in twice {
        assert_eq!(once[name], value, "{name}");
    }
}
