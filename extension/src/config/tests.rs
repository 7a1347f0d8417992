use super::*;

fn read(variables: &[(&'static str, &'static str)]) -> Config {
    Config::read(&variables.iter().copied().collect::<HashMap<_, _>>())
}

#[test]
fn nothing_set_means_the_defaults() {
    let config = read(&[]);
    assert_eq!(config.listen, DEFAULT_LISTEN);
    assert_eq!(
        config.upstream.unwrap().as_str(),
        "https://cloud.langfuse.com/"
    );
    assert_eq!(config.core.buffer_bytes, LARGEST_DEFAULT_BUFFER_BYTES);
    assert!(config.core.enabled && config.core.spool && config.keys.is_none());
    assert!(config.problems.is_empty(), "{:?}", config.problems);
}

#[test]
fn the_sdks_address_counts_unless_it_is_the_extensions() {
    let url = |variables| read(variables).upstream.unwrap().to_string();
    assert_eq!(
        url(&[("LANGFUSE_BASE_URL", "https://us.cloud.langfuse.com")]),
        "https://us.cloud.langfuse.com/"
    );
    for loopback in [
        "http://localhost:4318",
        "http://127.0.0.1:4318/",
        "http://[::1]:4318",
    ] {
        let both = read(&[
            ("LANGFUSE_BASE_URL", loopback),
            ("LANGFUSE_HOST", "https://langfuse.example/base"),
        ]);
        assert_eq!(
            both.upstream.unwrap().as_str(),
            "https://langfuse.example/base"
        );
    }
    let own = [
        ("LANGFUSE_EXTENSION_BASE_URL", "http://127.0.0.1:9"),
        ("LANGFUSE_HOST", "https://other.example"),
    ];
    assert_eq!(url(&own), "http://127.0.0.1:9/");
}

#[test]
fn a_langfuse_on_this_machine_is_one_unless_its_port_is_the_extensions() {
    let url = |listen, url| {
        let config = read(&[
            ("LANGFUSE_EXTENSION_LISTEN", listen),
            ("LANGFUSE_BASE_URL", url),
        ]);
        config.upstream.unwrap().to_string()
    };
    assert_eq!(
        url("127.0.0.1:4318", "http://localhost:3000"),
        "http://localhost:3000/"
    );
    assert_eq!(
        url("127.0.0.1:3000", "http://localhost:3000"),
        "https://cloud.langfuse.com/"
    );
}

#[test]
fn whatever_client_names_langfuse_names_it_for_the_extension() {
    let url = |name, value| read(&[(name, value)]).upstream.unwrap().to_string();
    for name in ["LANGFUSE_HOST", "LANGFUSE_BASEURL", "LANGFUSE_OTEL_HOST"] {
        assert_eq!(
            url(name, "https://l.example/base"),
            "https://l.example/base"
        );
    }
    for name in ["TRACELOOP_BASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
        assert_eq!(
            url(name, "https://l.example/api/public/otel"),
            "https://l.example/"
        );
        assert_eq!(
            url(name, "https://collector.example"),
            "https://cloud.langfuse.com/"
        );
    }
    assert_eq!(
        url(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "https://l.example/api/public/otel/v1/traces"
        ),
        "https://l.example/"
    );
}

#[test]
fn what_makes_no_sense_is_named_and_replaced() {
    let config = read(&[
        ("LANGFUSE_EXTENSION_FLUSH", "sometimes"),
        ("LANGFUSE_EXTENSION_FLUSH_BUDGET_MS", "2s"),
        ("LANGFUSE_EXTENSION_LISTEN", "0.0.0.0:4318"),
        ("LANGFUSE_EXTENSION_RESEND_AMBIGUOUS", "perhaps"),
        ("LANGFUSE_EXTENSION_PASSTHROUGH", "none"),
        ("LANGFUSE_EXTENSION_ACCEPT", "some"),
        ("LANGFUSE_EXTENSION_PROMPT_CACHE", "sometimes"),
        ("LANGFUSE_EXTENSION_LOG_LEVEL", "loud"),
        ("LANGFUSE_EXTENSION_BASE_URL", "cloud.langfuse.com"),
    ]);
    assert_eq!(config.problems.len(), 9, "{:#?}", config.problems);
    assert_eq!(config.core.flush_budget, Duration::from_secs(2));
    assert_eq!(config.listen, DEFAULT_LISTEN);
    assert!(config.upstream.is_none());
}

#[test]
fn a_small_function_gets_a_small_buffer() {
    let config = read(&[("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")]);
    assert_eq!(config.core.buffer_bytes, 8 << 20);
}

#[test]
fn localhost_stands_for_both_families_and_an_address_for_itself() {
    let listen = |text| {
        let config = read(&[("LANGFUSE_EXTENSION_LISTEN", text)]);
        (
            config.listen.to_string(),
            config.also_listen.map(|it| it.to_string()),
        )
    };
    let both = ("127.0.0.1:4319".into(), Some("[::1]:4319".into()));
    assert_eq!(listen("localhost:4319"), both);
    assert_eq!(listen("127.0.0.1:4319"), ("127.0.0.1:4319".into(), None));
    assert_eq!(listen("[::1]:4319"), ("[::1]:4319".into(), None));
    assert_eq!(listen("").1.as_deref(), Some("[::1]:4318"));
}

#[test]
fn the_apps_keys_serve_unless_they_are_placeholders() {
    let keys = |public| {
        read(&[
            ("LANGFUSE_PUBLIC_KEY", public),
            ("LANGFUSE_SECRET_KEY", "sk-lf-1"),
        ])
        .keys
    };
    assert!(keys("pk-lf-1").is_some());
    assert!(keys(PLACEHOLDER_PUBLIC_KEY).is_none());
}

#[test]
fn half_a_pair_of_keys_is_named_as_a_problem() {
    let config = read(&[("LANGFUSE_EXTENSION_SECRET_KEY", "sk-lf-1")]);
    assert!(config.keys.is_none());
    assert_eq!(config.problems.len(), 1, "{:?}", config.problems);
}

#[test]
fn tracing_can_be_switched_off() {
    assert!(!read(&[("LANGFUSE_TRACING_ENABLED", "False")]).core.enabled);
    assert!(read(&[("LANGFUSE_TRACING_ENABLED", "maybe")]).core.enabled);
}

#[test]
fn the_spool_can_be_switched_off() {
    assert!(!read(&[("LANGFUSE_EXTENSION_SPOOL_BYTES", "0")]).core.spool);
}
