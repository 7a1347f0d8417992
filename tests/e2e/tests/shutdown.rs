//! SHUTDOWN ends by its deadline, and at once when nothing is left.

use std::time::Duration;

use e2e::{Fault, QUICK, ShutdownReport, World, json};

/// From the extension's SHUTDOWN to its end.
fn took(report: &ShutdownReport) -> Duration {
    report.extensions[0].took
}

#[tokio::test]
async fn shutdown_may_be_the_first_event() {
    let world = World::start().await;
    assert!(world.lambda.init().await.error.is_none());
    assert!(took(&world.shutdown().await) < QUICK, "{}", world.story());
    assert_eq!(world.report().invocations, 0);
}

#[tokio::test]
async fn with_nothing_left_it_ends_at_once() {
    let world = World::start().await;
    world.trace(3).await;
    world.wait_delivered(3).await;
    assert!(took(&world.shutdown().await) < QUICK, "{}", world.story());
    world.assert_delivered_once(3);
}

#[tokio::test]
async fn a_hung_langfuse_does_not_make_it_overrun() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::HangBeforeAccepting);
    world.trace(3).await;
    world.shutdown().await;
    let report = world.report();
    report.assert_balanced();
    assert_eq!(report.spooled + report.dropped, 3, "{report:?}");
}

#[tokio::test]
async fn a_langfuse_that_is_back_gets_everything() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::Refuse);
    world.trace(3).await;
    world.langfuse.clear_faults();
    world.shutdown().await;
    let report = world.report();
    report.assert_balanced();
    assert_eq!(
        (report.delivered, report.spooled),
        (3, 0),
        "{}",
        world.story()
    );
    world.assert_delivered_once(3);
}

#[tokio::test]
async fn what_is_posted_while_the_runtime_ends_is_kept() {
    let world = World::start().await;
    let ran = world.invoke(json!({ "tag": "a", "late_s": 0.05 })).await;
    assert!(ran.succeeded());
    world.shutdown().await;
    world.report().assert_balanced();
}
