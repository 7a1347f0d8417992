//! Exits nobody asked for, and resets that a test asks for.

use crate::setup::{AGENT, ECHO, Opt, PATIENCE, with_extensions};
use lambda_emulator::{Event, Reset, Signal};
use std::time::Duration;

const SLEEP: &str = "serve(lambda payload: time.sleep(60) or payload)";

#[tokio::test]
async fn an_extension_that_exits_with_0_fails_the_invocation_all_the_same() {
    let opt = Opt::with("agent = Extension('INVOKE', 'SHUTDOWN')\nagent.event()\nsys.exit(0)");
    let lambda = with_extensions(SLEEP, &opt).start().await.unwrap();
    let invocation = lambda.invoke("{}").await;
    assert_eq!(invocation.error_type(), Some("Extension.Crash"));
    assert!(lambda.pid("runtime").is_none(), "the environment is reset");
}

#[tokio::test]
async fn an_extension_that_exits_after_the_answer_fails_what_the_caller_has_already_got() {
    let opt = Opt::with(
        "agent = Extension('INVOKE', 'SHUTDOWN')\nagent.event()\ntime.sleep(0.4)\nsys.exit(0)",
    );
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    let invocation = lambda.invoke("1").await;
    assert_eq!(invocation.text(), "1");
    assert_eq!(invocation.fault.unwrap().error_type, "Extension.Crash");
}

#[tokio::test]
async fn a_crash_of_one_extension_shuts_the_others_down_with_reason_failure() {
    let opt = Opt::with(AGENT).and(
        "broken",
        "agent = Extension('INVOKE')\nagent.event()\nsys.exit(1)",
    );
    let lambda = with_extensions(SLEEP, &opt).start().await.unwrap();
    lambda.invoke("{}").await;
    let told = lambda
        .timeline()
        .into_iter()
        .find_map(|entry| match entry.event {
            Event::ShutdownDelivered {
                process, reason, ..
            } => Some((process, reason)),
            _ => None,
        });
    assert_eq!(told, Some(("agent".to_owned(), "FAILURE".to_owned())));
}

#[tokio::test]
async fn a_runtime_that_exits_is_an_exit_error_and_the_next_invocation_starts_it_anew() {
    let opt = Opt::with(AGENT);
    let script = "serve(lambda payload: os._exit(1) if payload == '\"die\"' else payload)";
    let lambda = with_extensions(script, &opt).start().await.unwrap();
    assert_eq!(
        lambda.invoke("\"die\"").await.error_type(),
        Some("Runtime.ExitError")
    );
    assert_eq!(lambda.invoke("1").await.text(), "1");
}

#[tokio::test]
async fn a_test_may_kill_an_extension_in_the_middle_of_an_invocation() {
    let opt = Opt::with(AGENT);
    let lambda = with_extensions(SLEEP, &opt).start().await.unwrap();
    let mut handle = lambda.invoke_detached("{}");
    handle.started().await;
    assert!(lambda.signal("agent", Signal::KILL));
    let invocation = handle.finished().await;
    let error = invocation.result.unwrap_err();
    assert_eq!(error.error_type, "Extension.Crash");
    assert!(error.error_message.contains("signal 9"));
}

#[tokio::test]
async fn what_dies_between_invocations_fails_the_next_one() {
    let opt = Opt::with(AGENT);
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    lambda.init().await;
    lambda.signal("agent", Signal::KILL);
    let died =
        |event: &Event| matches!(event, Event::ProcessExited { process, .. } if process == "agent");
    assert!(
        lambda
            .wait_for(PATIENCE, |entry| died(&entry.event))
            .await
            .is_some()
    );
    assert_eq!(
        lambda.invoke("{}").await.error_type(),
        Some("Extension.Crash")
    );
    assert!(lambda.invoke("{}").await.succeeded());
}

#[tokio::test]
async fn running_out_of_memory_kills_the_runtime_unasked_and_tells_extensions_of_a_failure() {
    let opt = Opt::with(AGENT);
    let lambda = with_extensions(SLEEP, &opt).start().await.unwrap();
    let mut handle = lambda.invoke_detached("{}");
    handle.started().await;
    let report = lambda.reset(Reset::OutOfMemory).await;
    assert_eq!(
        handle.finished().await.error_type(),
        Some("Runtime.OutOfMemory")
    );
    assert!(report.runtime.unwrap().killed);
    assert!(report.extensions[0].notified && !report.extensions[0].killed);
    assert_eq!(report.reason, "FAILURE");
}

#[tokio::test]
async fn a_killed_environment_tells_nobody_and_keeps_tmp() {
    let opt = Opt::with(AGENT);
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    lambda.init().await;
    std::fs::write(lambda.tmp_dir().join("kept"), "x").unwrap();
    let report = lambda.reset(Reset::Killed).await;
    assert!(report.extensions[0].killed && !report.extensions[0].notified);
    assert!(report.took < Duration::from_secs(1));
    assert!(lambda.invoke("{}").await.succeeded());
    assert!(lambda.tmp_dir().join("kept").exists());
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_cold_start_is_heard() {
    let opt = Opt::with("time.sleep(60)");
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    let handle = lambda.invoke_detached("{}");
    let started = |event: &Event| matches!(event, Event::ProcessStarted { .. });
    assert!(
        lambda
            .wait_for(PATIENCE, |entry| started(&entry.event))
            .await
            .is_some()
    );
    lambda.reset(Reset::Killed).await;
    assert_eq!(
        handle.finished().await.error_type(),
        Some("Sandbox.Failure")
    );
}
