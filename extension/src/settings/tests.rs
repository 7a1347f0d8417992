use std::time::Duration;

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
    assert!(config.upstream_is_default);
}

#[test]
fn what_makes_no_sense_is_named_once_and_replaced() {
    let wrong = [
        ("LANGFUSE_EXTENSION_FLUSH", "sometimes"),
        ("LANGFUSE_EXTENSION_FLUSH_BUDGET_MS", "2s"),
        ("LANGFUSE_EXTENSION_MAX_DATA_AGE_MS", "99999999999"),
        ("LANGFUSE_EXTENSION_LISTEN", "0.0.0.0:4318"),
        ("LANGFUSE_EXTENSION_RESEND_AMBIGUOUS", "perhaps"),
        ("LANGFUSE_EXTENSION_PASSTHROUGH", "none"),
        ("LANGFUSE_EXTENSION_ACCEPT", "some"),
        ("LANGFUSE_EXTENSION_PROMPT_CACHE", "sometimes"),
        ("LANGFUSE_EXTENSION_LOG_LEVEL", "loud"),
        ("LANGFUSE_EXTENSION_BASE_URL", "cloud.langfuse.com"),
        ("LANGFUSE_EXTENSION_BUFFER_BYTES", "0"),
        ("LANGFUSE_EXTENSION_SPOOL_BYTES", "1"),
        ("LANGFUSE_EXTENSION_SPOOL_DIR", "/"),
        ("LANGFUSE_EXTENSION_CA_FILE", "ca.pem"),
        ("LANGFUSE_TRACING_ENABLED", "nope"),
        ("LANGFUSE_EXTENSION_ROUTE_HEADERS", "x-tenant,authorization"),
        ("LANGFUSE_EXTENTION_FLUSH", "end"),
        ("LANGFUSE_EXTENSION_PUBLIC_KEY", "/langfuse/public"),
        ("LANGFUSE_EXTENSION_SECRET_KEY", "'sk-lf-hidden'"),
    ];
    let config = read(&wrong);
    let mut named: Vec<_> = config.problems.iter().map(|it| it.name.as_str()).collect();
    let mut set = wrong.map(|(name, _)| name);
    named.sort_unstable();
    set.sort_unstable();
    assert_eq!(named, set, "{:#?}", config.problems);
    for problem in &config.problems {
        assert!(problem.to_string().contains(&problem.name), "{problem}");
        assert!(!problem.to_string().contains("hidden"), "{problem}");
    }
    let default = read(&[]);
    assert_eq!(format!("{:?}", config.core), format!("{:?}", default.core));
    assert_eq!(config.listen, default.listen);
    assert_eq!(config.spool_dir, default.spool_dir);
    assert_eq!(config.spool_bytes, 64 << 20);
    assert!(config.upstream.is_none() && config.keys.is_none());
}

#[test]
fn a_relative_directory_is_refused_and_dots_are_no_name() {
    for dir in ["tmp/spool", "./x", "//", "/..", "/."] {
        let config = read(&[("LANGFUSE_EXTENSION_SPOOL_DIR", dir)]);
        assert_eq!(config.problems.len(), 1, "{dir}");
    }
}

#[test]
fn letter_case_and_white_space_do_not_matter() {
    let config = read(&[
        ("LANGFUSE_EXTENSION_FLUSH", " End\n"),
        ("LANGFUSE_EXTENSION_PASSTHROUGH", "OFF"),
        ("LANGFUSE_EXTENSION_LOG_LEVEL", "Debug"),
        ("LANGFUSE_EXTENSION_PROMPT_CACHE", " FALSE "),
        ("LANGFUSE_EXTENSION_SPOOL_BYTES", " 1048576 "),
        ("LANGFUSE_EXTENSION_LISTEN", " LocalHost:4319"),
        ("LANGFUSE_EXTENSION_BASE_URL", " https://langfuse.example "),
    ]);
    assert_eq!(config.problems, []);
    assert_eq!(config.core.strategy, Strategy::End);
    assert_eq!(config.passthrough, Passthrough::Off);
    assert_eq!(config.log_level, tracing::Level::DEBUG);
    assert_eq!((config.prompt_cache, config.spool_bytes), (false, 1 << 20));
    assert_eq!(config.listen.port(), 4319);
    assert_eq!(
        config.upstream.unwrap().as_str(),
        "https://langfuse.example/"
    );
}

#[test]
fn the_tables_defaults_are_the_cores() {
    let default = Settings::default();
    let read = read(&[]).core;
    assert_eq!(read.flush_budget, default.flush_budget);
    assert_eq!(read.max_data_age, default.max_data_age);
    assert_eq!(read.buffer_bytes, default.buffer_bytes);
    assert_eq!(read.resend_ambiguous, default.resend_ambiguous);
    assert_eq!((read.strategy, read.enabled), (default.strategy, true));
    assert_eq!(read.flush_budget, Duration::from_secs(2));
}

#[test]
fn headers_are_named_with_commas_between() {
    let config = read(&[("LANGFUSE_EXTENSION_ROUTE_HEADERS", " X-Tenant, x-region,")]);
    assert_eq!(config.route_headers, ["x-tenant", "x-region"]);
    assert_eq!(config.problems, []);
}

#[test]
fn a_choice_has_its_default_among_its_words() {
    for setting in table::TABLE {
        if let table::Kind::Choice(words) = setting.kind {
            assert!(words.contains(&setting.default_value()), "{}", setting.name);
            for word in words {
                let config = read(&[(setting.name, word)]);
                assert_eq!(config.problems, [], "{}={word}", setting.name);
            }
        }
    }
}

#[test]
fn what_is_shown_holds_no_secret() {
    let environment: HashMap<_, _> = [
        (
            "LANGFUSE_EXTENSION_BASE_URL",
            "https://user:hidden@langfuse.example",
        ),
        ("LANGFUSE_EXTENSION_PUBLIC_KEY", "sk-lf-hidden"),
        ("LANGFUSE_EXTENSION_SECRET_KEY", "hidden"),
        ("HTTPS_PROXY", "http://user:hidden@proxy.example"),
        ("LANGFUSE_EXTENSION_FLUSH", "end"),
    ]
    .into();
    let shown = shown(&environment);
    assert_eq!(shown.len(), 5);
    assert!(!format!("{shown:?}").contains("hidden"), "{shown:?}");
    assert!(shown.contains(&("LANGFUSE_EXTENSION_FLUSH", "end".into())));
    assert!(!format!("{:?}", Config::read(&environment).problems).contains("hidden"));
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
    assert!(config.has_problem_with_keys());
}

#[test]
fn tracing_can_be_switched_off() {
    assert!(!read(&[("LANGFUSE_TRACING_ENABLED", "False")]).core.enabled);
    let maybe = read(&[("LANGFUSE_TRACING_ENABLED", "maybe")]);
    assert!(maybe.core.enabled && maybe.problems.len() == 1);
}

#[test]
fn the_spool_can_be_switched_off() {
    assert!(!read(&[("LANGFUSE_EXTENSION_SPOOL_BYTES", "0")]).core.spool);
}

#[test]
fn a_langfuse_on_this_machine_is_one_unless_its_port_is_the_extensions() {
    let url = |listen, url| {
        let config = read(&[
            ("LANGFUSE_EXTENSION_LISTEN", listen),
            ("LANGFUSE_BASE_URL", url),
        ]);
        config.upstream.map(|url| url.to_string())
    };
    let langfuse = "http://localhost:3000";
    let there = Some("http://localhost:3000/".to_owned());
    assert_eq!(url("127.0.0.1:4318", langfuse), there);
    assert_eq!(url("127.0.0.1:3000", langfuse), None);
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
