//! A fault of the extension's own, or of what it is given, never fails an invocation.

use std::net::TcpListener;
use std::time::Duration;

use e2e::{
    EXTENSION, Event, FLUSH_BUDGET, Fault, InvokeDelivery, LambdaFault, PATIENCE, SLACK, Setup,
    Telemetry, World, json,
};

/// Invocations succeed, the sandbox is not held beyond the budget, and SHUTDOWN ends as it should.
async fn is_harmless(world: &World) {
    for number in 0..3 {
        let ran = world.invoke(json!({ "tag": format!("t{number}") })).await;
        assert!(ran.succeeded(), "{}", world.story());
        assert!(
            ran.held.unwrap_or_default() < FLUSH_BUDGET + SLACK,
            "{}",
            world.story()
        );
    }
    world.shutdown().await;
    assert_eq!(world.said("panicked"), 0, "{}", world.story());
}

/// Harmless, and says so in exactly one line.
async fn is_harmless_and_says(setup: Setup, line: &str) -> World {
    let world = setup.start().await;
    is_harmless(&world).await;
    assert_eq!(world.said(line), 1, "{line:?} in\n{}", world.story());
    world
}

#[tokio::test]
async fn without_keys() {
    let world = Setup::new()
        .without("PUBLIC_KEY")
        .without("SECRET_KEY")
        .start()
        .await;
    is_harmless(&world).await;
    assert!(world.langfuse.observations().is_empty());
    assert!(
        !world.lines().iter().all(|line| line.contains("report")),
        "it says why\n{}",
        world.story()
    );
}

#[tokio::test]
async fn with_an_address_that_is_none() {
    let setup = Setup::new().setting("BASE_URL", "cloud.langfuse.com");
    is_harmless_and_says(setup, "no address of Langfuse").await;
}

#[tokio::test]
async fn with_every_setting_wrong() {
    let wrong = [
        ("FLUSH", "sometimes"),
        ("FLUSH_BUDGET_MS", "2s"),
        ("MAX_DATA_AGE_MS", "-1"),
        ("BUFFER_BYTES", "32MiB"),
        ("SPOOL_BYTES", "a lot"),
        ("RESEND_AMBIGUOUS", "perhaps"),
        ("PASSTHROUGH", "none"),
        ("LOG_LEVEL", "loud"),
    ];
    let setup = wrong.iter().fold(Setup::new(), |setup, (name, value)| {
        setup.setting(name, *value)
    });
    let world = setup.start().await;
    is_harmless(&world).await;
    for (name, _) in wrong {
        assert_eq!(
            world.said(&format!("LANGFUSE_EXTENSION_{name}=")),
            1,
            "{name}\n{}",
            world.story()
        );
    }
    world.assert_delivered_once(3);
}

#[tokio::test]
async fn with_settings_at_their_extremes() {
    for value in ["0", "18446744073709551615"] {
        let names = [
            "FLUSH_BUDGET_MS",
            "MAX_DATA_AGE_MS",
            "BUFFER_BYTES",
            "SPOOL_BYTES",
        ];
        let setup = names
            .iter()
            .fold(Setup::new(), |setup, name| setup.setting(name, value));
        let world = setup.start().await;
        for _ in 0..3 {
            assert!(
                world.invoke(json!({ "tag": "t" })).await.succeeded(),
                "{}",
                world.story()
            );
        }
        world.shutdown().await;
        assert_eq!(world.said("panicked"), 0, "{}", world.story());
        world.report().assert_balanced();
    }
}

#[tokio::test]
async fn with_an_address_to_listen_on_that_is_not_loopback() {
    // Its default stands in for it, which another process may hold: both are harmless.
    let setup = Setup::new().setting("LISTEN", "0.0.0.0:0");
    is_harmless_and_says(setup, "LANGFUSE_EXTENSION_LISTEN=").await;
}

#[tokio::test]
async fn with_its_port_taken() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let world =
        is_harmless_and_says(Setup::new().setting("LISTEN", address), "another collector").await;
    assert!(world.langfuse.requests().is_empty());
}

#[tokio::test]
async fn with_a_ca_file_that_is_missing() {
    let setup = Setup::new().setting("CA_FILE", "/nowhere/ca.pem");
    is_harmless_and_says(setup, "going on with the compiled-in certificates").await;
}

#[tokio::test]
async fn whatever_the_telemetry_api_does() {
    for telemetry in [
        Telemetry::NotSupported,
        Telemetry::Refused(403),
        Telemetry::Refused(500),
        Telemetry::Silent,
        Telemetry::WithoutRuntimeDone,
        Telemetry::Delayed(Duration::from_millis(700)),
    ] {
        let setup = Setup::new().lambda(|lambda| {
            lambda
                .telemetry(telemetry.clone())
                .timeout(Duration::from_secs(5))
        });
        let world = setup.start().await;
        for _ in 0..3 {
            let ran = world.invoke(json!({ "tag": "t", "work_s": 0.2 })).await;
            ran.assert_acknowledged();
        }
        world.shutdown().await;
        world.assert_delivered_once(3);
    }
}

#[tokio::test]
async fn when_registering_is_slow_or_fails_in_passing() {
    let passing = LambdaFault::RegisterFails {
        status: 500,
        error_type: "Extension.Internal".into(),
        times: 2,
    };
    for fault in [
        LambdaFault::RegisterSlow(Duration::from_millis(900)),
        passing,
    ] {
        let world = Setup::new()
            .lambda(|lambda| lambda.fault(fault))
            .start()
            .await;
        is_harmless(&world).await;
        world.assert_delivered_once(3);
    }
}

#[tokio::test]
async fn a_registration_that_is_refused_for_good_fails_at_once_and_visibly() {
    let refused = LambdaFault::RegisterFails {
        status: 403,
        error_type: "Extension.Refused".into(),
        times: 1_000,
    };
    let world = Setup::new()
        .lambda(|lambda| lambda.fault(refused))
        .start()
        .await;
    let ran = world.invoke(json!({})).await;
    assert_eq!(
        ran.error_type(),
        Some("Extension.Crash"),
        "{}",
        world.story()
    );
    assert!(ran.over_after < PATIENCE);
    assert!(world.said("refused to register") >= 1, "{}", world.story());
}

#[tokio::test]
async fn with_a_spool_that_cannot_be_had() {
    let setup = Setup::new().setting("SPOOL_DIR", "/proc/nowhere/spool");
    let world = is_harmless_and_says(setup, ":\"the spool").await;
    world.assert_delivered_once(3);
    let file = tempfile::NamedTempFile::new().unwrap();
    let setup = Setup::new().setting("SPOOL_DIR", file.path().to_string_lossy());
    let world = is_harmless_and_says(setup, ":\"the spool").await;
    world.assert_delivered_once(3);
}

#[tokio::test]
async fn with_a_spool_of_foreign_and_broken_files() {
    let world = World::start().await;
    std::fs::create_dir_all(world.spool_dir()).unwrap();
    for name in [
        "foreign.txt",
        "0000000000000001.spool",
        "segment-1",
        "1.seg",
    ] {
        std::fs::write(world.spool_dir().join(name), vec![0xA5_u8; 5_000]).unwrap();
    }
    is_harmless(&world).await;
    world.assert_delivered_once(3);
}

#[tokio::test]
async fn whatever_deadline_it_is_told() {
    for deadline in [
        json!(0),
        json!(1),
        json!(5_000_000_000_u64),
        json!(u64::MAX),
        json!("soon"),
        json!(-5),
        json!(null),
    ] {
        let world = Setup::new()
            .lambda(|lambda| lambda.fault(LambdaFault::InvokeDeadline(deadline.clone())))
            .start()
            .await;
        for _ in 0..2 {
            let ran = world.trace(1).await;
            assert!(
                ran.held.unwrap() < FLUSH_BUDGET + SLACK,
                "{deadline}\n{}",
                world.story()
            );
        }
        world.shutdown().await;
        world.assert_delivered_once(2);
    }
}

#[tokio::test]
async fn an_event_that_is_no_json() {
    let world = World::start().await;
    world.trace(1).await;
    world
        .lambda
        .inject(LambdaFault::MalformedEvent { times: 1 });
    is_harmless(&world).await;
    world.assert_delivered_once(4);
}

#[tokio::test]
async fn a_next_that_fails_in_passing() {
    let world = World::start().await;
    world.trace(1).await;
    world.lambda.inject(LambdaFault::NextFails {
        status: 500,
        times: 3,
    });
    is_harmless(&world).await;
    world.assert_delivered_once(4);
    assert!(world.said("could not get the next event") >= 3);
}

#[tokio::test]
async fn a_next_that_fails_for_good_ends_it_without_a_busy_loop() {
    let world = World::start().await;
    world.trace(1).await;
    world.lambda.inject(LambdaFault::NextFails {
        status: 500,
        times: 10_000,
    });
    let ran = world.invoke(json!({})).await;
    assert!(ran.fault.is_some(), "{}", world.story());
    let refused = world
        .lambda
        .timeline()
        .iter()
        .filter(|entry| matches!(entry.event, Event::NextRefused { .. }))
        .count();
    assert!(refused <= 20, "{refused}");
    let reported = |event: &Event| matches!(event, Event::ErrorReported { process, .. } if process == EXTENSION);
    assert!(
        world
            .lambda
            .timeline()
            .iter()
            .any(|entry| reported(&entry.event)),
        "{}",
        world.story()
    );
    world.lambda.heal();
    world.trace(1).await;
}

#[tokio::test]
async fn an_invoke_event_that_comes_after_the_handler_has_answered() {
    let delivery = InvokeDelivery::AfterResponse(Duration::from_millis(100));
    let world = Setup::new()
        .lambda(|lambda| lambda.invoke_delivery(delivery))
        .start()
        .await;
    is_harmless(&world).await;
    world.assert_delivered_once(3);
}

#[tokio::test]
async fn requests_that_make_no_sense() {
    let world = World::start().await;
    for path in [
        "/",
        "/status",
        "/nowhere",
        "/api/public/nowhere?x=%ff",
        "//v1/traces",
        "/../../etc/passwd",
    ] {
        let ran = world.invoke(json!({ "get": path })).await;
        assert!(
            ran.succeeded() && ran.got().status != 0,
            "{path} {}",
            world.story()
        );
    }
    world.langfuse.set_fault(Fault::status(500));
    is_harmless(&world).await;
}
