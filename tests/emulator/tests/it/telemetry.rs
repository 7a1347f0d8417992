//! The Telemetry API: who gets which records when, and what is wrong with them on demand.

use crate::setup::{Opt, PATIENCE, lines, with_extensions};
use lambda_emulator::{Builder, Event, Freeze, Lambda, Mode, Telemetry};
use serde_json::Value;
use std::time::Duration;

const ECHO: &str = crate::setup::ECHO;
const SUBSCRIBED: &str =
    "agent = Extension('INVOKE', 'SHUTDOWN')\nagent.subscribe(listen())\nagent.serve()";

/// Never frozen, so that records come while a test waits for them.
async fn started(opt: &Opt, telemetry: Telemetry) -> Lambda {
    with_extensions(ECHO, opt)
        .freeze(Freeze::Off)
        .telemetry(telemetry)
        .start()
        .await
        .unwrap()
}

async fn until_printed(lambda: &Lambda, what: &str) {
    let printed = lambda.wait_for_log(PATIENCE, |line| {
        line.source == "agent" && line.text.contains(what)
    });
    assert!(printed.await.is_some(), "{what} never came");
}

/// All records that the listener has printed.
fn records(lambda: &Lambda) -> Vec<Value> {
    let lines = lines(lambda, "agent");
    let batches = lines
        .iter()
        .filter_map(|line| line.strip_prefix("telemetry "));
    batches
        .flat_map(|batch| serde_json::from_str::<Vec<Value>>(batch).unwrap())
        .collect()
}

fn kinds(lambda: &Lambda) -> Vec<String> {
    records(lambda)
        .iter()
        .map(|record| record["type"].as_str().unwrap().to_owned())
        .collect()
}

fn find(lambda: &Lambda, kind: &str) -> Value {
    records(lambda)
        .into_iter()
        .find(|record| record["type"] == kind)
        .unwrap_or_else(|| panic!("no {kind}"))["record"]
        .take()
}

#[tokio::test]
async fn a_subscriber_gets_the_records_of_init_invocation_and_end() {
    let opt = Opt::with(SUBSCRIBED);
    let lambda = started(&opt, Telemetry::Delivered).await;
    let invocation = lambda.invoke("12345").await;
    lambda.invoke("{}").await;
    until_printed(&lambda, "platform.report").await;
    lambda.shutdown().await;
    let kinds = kinds(&lambda);
    assert_eq!(
        kinds[..8],
        [
            "platform.initStart",
            "platform.telemetrySubscription",
            "platform.initRuntimeDone",
            "platform.extension",
            "platform.initReport",
            "platform.start",
            "platform.runtimeDone",
            "platform.report",
        ]
    );
    let done = find(&lambda, "platform.runtimeDone");
    assert_eq!(done["requestId"], invocation.request_id);
    assert_eq!(done["status"], "success");
    assert_eq!(done["metrics"]["producedBytes"], 5);
    assert_eq!(done["spans"].as_array().unwrap().len(), 3);
    let report = find(&lambda, "platform.report");
    assert!(report["metrics"]["initDurationMs"].as_f64().unwrap() > 0.0);
    assert_eq!(report["metrics"]["memorySizeMB"], 512);
}

#[tokio::test]
async fn a_batch_that_is_not_taken_comes_again() {
    let opt = Opt::with(
        "agent = Extension('INVOKE', 'SHUTDOWN')\nagent.subscribe(listen(500, 503))\nagent.serve()",
    );
    let lambda = with_extensions(ECHO, &opt)
        .freeze(Freeze::Off)
        .start()
        .await
        .unwrap();
    lambda.init().await;
    let taken = |event: &Event| {
        matches!(
            event,
            Event::TelemetryDelivered {
                status: Some(200),
                attempt: 3,
                ..
            }
        )
    };
    assert!(
        lambda
            .wait_for(PATIENCE, |entry| taken(&entry.event))
            .await
            .is_some()
    );
    let lines = lines(&lambda, "agent");
    let batches: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("telemetry"))
        .collect();
    assert!(batches.len() >= 3);
    assert_eq!((batches[0], batches[0]), (batches[1], batches[2]));
}

#[tokio::test]
async fn nothing_is_delivered_to_a_frozen_environment() {
    let opt = Opt::with(SUBSCRIBED);
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    lambda.invoke("{}").await;
    // The report is made when the invocation is over, and the freeze comes with it.
    lambda.pause(Duration::from_millis(200)).await;
    assert!(!kinds(&lambda).contains(&"platform.report".to_owned()));
    lambda.thaw();
    until_printed(&lambda, "platform.report").await;
}

#[tokio::test]
async fn telemetry_may_be_unsupported_or_refused() {
    let opt = Opt::with(SUBSCRIBED);
    for (telemetry, status) in [
        (Telemetry::NotSupported, 202),
        (Telemetry::Refused(500), 500),
    ] {
        let lambda = started(&opt, telemetry).await;
        assert!(lambda.invoke("{}").await.succeeded());
        lambda.shutdown().await;
        assert!(
            lines(&lambda, "agent")
                .iter()
                .any(|line| line.starts_with(&format!("subscribe {status}")))
        );
        assert!(kinds(&lambda).is_empty());
    }
}

#[tokio::test]
async fn a_subscription_may_stay_silent() {
    let opt = Opt::with(SUBSCRIBED);
    let lambda = started(&opt, Telemetry::Silent).await;
    lambda.invoke("{}").await;
    lambda.shutdown().await;
    assert!(
        lines(&lambda, "agent")
            .iter()
            .any(|line| line.starts_with("subscribe 200"))
    );
    assert!(kinds(&lambda).is_empty());
}

#[tokio::test]
async fn runtime_done_may_be_missing_while_all_else_comes() {
    let opt = Opt::with(SUBSCRIBED);
    let lambda = started(&opt, Telemetry::WithoutRuntimeDone).await;
    lambda.invoke("{}").await;
    until_printed(&lambda, "platform.report").await;
    lambda.shutdown().await;
    let kinds = kinds(&lambda);
    assert!(
        kinds.contains(&"platform.start".to_owned())
            && !kinds.contains(&"platform.runtimeDone".to_owned())
    );
}

#[tokio::test]
async fn telemetry_may_be_late() {
    let opt = Opt::with(SUBSCRIBED);
    let telemetry = Telemetry::Delayed(Duration::from_millis(300));
    let slowly = "serve(lambda payload: time.sleep(1) or payload)";
    let lambda = with_extensions(slowly, &opt)
        .telemetry(telemetry)
        .start()
        .await
        .unwrap();
    lambda.invoke("{}").await;
    let timeline = lambda.timeline();
    let at = |wanted: &dyn Fn(&Event) -> bool| {
        timeline
            .iter()
            .find(|entry| wanted(&entry.event))
            .unwrap()
            .at
    };
    let begun = at(&|event| matches!(event, Event::InitStarted { .. }));
    let came = at(&|event| matches!(event, Event::TelemetryDelivered { .. }));
    assert!(came >= begun + Duration::from_millis(300));
}

#[tokio::test]
async fn function_and_extension_lines_come_to_those_who_want_them() {
    let opt = Opt::with(
        "agent = Extension('INVOKE', 'SHUTDOWN')\nagent.subscribe(listen(), ('function',))\nagent.serve()",
    );
    let lambda = with_extensions(
        "serve(lambda payload: say('from the handler') or payload)",
        &opt,
    )
    .freeze(Freeze::Off)
    .start()
    .await
    .unwrap();
    lambda.invoke("{}").await;
    until_printed(&lambda, r#""type":"function""#).await;
    lambda.shutdown().await;
    let records = records(&lambda);
    assert!(
        records
            .iter()
            .any(|record| record["type"] == "function" && record["record"] == "from the handler")
    );
    assert!(records.iter().all(|record| record["type"] == "function"));
}

fn subscribing(with: &str) -> Opt {
    Opt::with(&format!(
        "agent = Extension('SHUTDOWN')\nagent.subscribe({with})\nagent.serve()"
    ))
}

async fn subscription_status(builder: Builder) -> u16 {
    let lambda = builder.start().await.unwrap();
    lambda.init().await;
    lambda
        .timeline()
        .into_iter()
        .find_map(|entry| match entry.event {
            Event::TelemetrySubscribed { status, .. } => Some(status),
            _ => None,
        })
        .unwrap()
}

#[tokio::test]
async fn both_schemas_are_taken_and_what_lambda_refuses_is_refused() {
    for (with, status) in [
        ("listen(), schema='2022-12-13'", 200),
        ("listen(), schema='2025-01-29'", 200),
        ("listen(), schema='1999-01-01'", 400),
        ("listen(), ('metrics',)", 400),
        ("9001", 400),
    ] {
        let opt = subscribing(with);
        assert_eq!(
            subscription_status(with_extensions(ECHO, &opt)).await,
            status,
            "{with}"
        );
    }
}

#[tokio::test]
async fn managed_instances_know_no_invoke_no_runtime_done_and_one_schema() {
    let opt = Opt::with("Extension('INVOKE')");
    let lambda = with_extensions(ECHO, &opt)
        .mode(Mode::ManagedInstances)
        .start()
        .await
        .unwrap();
    lambda.init().await;
    let refused = lambda.timeline().into_iter().any(|entry| {
        matches!(entry.event, Event::RegisterRefused { status: 403, error_type, .. } if error_type == "Extension.InvalidEventType")
    });
    assert!(refused);

    let old = subscribing("listen(), schema='2022-12-13'");
    assert_eq!(
        subscription_status(with_extensions(ECHO, &old).mode(Mode::ManagedInstances)).await,
        400
    );

    let new = subscribing("listen(), schema='2025-01-29'");
    let lambda = with_extensions(ECHO, &new)
        .mode(Mode::ManagedInstances)
        .start()
        .await
        .unwrap();
    assert!(lambda.invoke("{}").await.succeeded());
    assert!(lambda.invoke("{}").await.succeeded());
    until_printed(&lambda, "platform.report").await;
    lambda.shutdown().await;
    let kinds = kinds(&lambda);
    assert!(!kinds.contains(&"platform.runtimeDone".to_owned()));
    assert!(
        !lambda
            .timeline()
            .iter()
            .any(|entry| matches!(entry.event, Event::Frozen { .. }))
    );
}

#[tokio::test]
async fn a_timeout_of_managed_instances_leaves_everything_running() {
    let opt = subscribing("listen(), schema='2025-01-29'");
    let script = "serve(lambda payload: time.sleep(0.6) or payload)";
    let lambda = with_extensions(script, &opt)
        .mode(Mode::ManagedInstances)
        .timeout(Duration::from_millis(300))
        .start()
        .await
        .unwrap();
    lambda.init().await;
    let runtime = lambda.pid("runtime");
    assert_eq!(
        lambda.invoke("{}").await.error_type(),
        Some("Sandbox.Timedout")
    );
    assert_eq!(lambda.pid("runtime"), runtime);
    until_printed(&lambda, "\"status\":\"timeout\"").await;
}

#[tokio::test]
async fn a_batch_that_is_never_taken_is_given_up_after_20_deliveries() {
    let opt = Opt::with(
        "agent = Extension('SHUTDOWN')\nagent.subscribe(listen(*[500] * 20))\nagent.serve()",
    );
    let lambda = started(&opt, Telemetry::Delivered).await;
    lambda.init().await;
    let taken = |event: &Event| {
        matches!(
            event,
            Event::TelemetryDelivered {
                status: Some(200),
                ..
            }
        )
    };
    let later = lambda
        .wait_for(PATIENCE, |entry| taken(&entry.event))
        .await
        .unwrap();
    assert!(
        matches!(later.event, Event::TelemetryDelivered { attempt: 1, .. }),
        "the next batch has its own count"
    );
}
