//! Nothing is lost or doubled because the sandbox stood still.

use std::time::Duration;

use e2e::{Fault, FaultRule, Setup, Telemetry, World, json};

#[tokio::test]
async fn connections_that_died_in_the_freeze_cost_nothing() {
    let world = World::start().await;
    for _ in 0..4 {
        world.trace(2).await;
        world.langfuse.close_connections();
        world.lambda.pause(Duration::from_millis(300)).await;
    }
    world.shutdown().await;
    world.assert_delivered_once(8);
    assert_eq!(world.report().maybe_doubled, 0);
}

#[tokio::test]
async fn connections_over_tls_that_died_in_the_freeze_cost_nothing() {
    let world = Setup::new().tls().start().await;
    for _ in 0..4 {
        world.trace(2).await;
        world.langfuse.close_connections();
        world.lambda.pause(Duration::from_millis(1_100)).await;
    }
    world.shutdown().await;
    world.assert_delivered_once(8);
}

#[tokio::test]
async fn no_connection_is_used_again_after_a_long_freeze() {
    // A freezer does not stop the monotonic clock, as Lambda does, so only the silence before INVOKE tells of the freeze
    // here; telemetry that comes just before it would break that silence.
    let silent = Setup::new().lambda(|lambda| lambda.telemetry(Telemetry::NotSupported));
    let world = silent.start().await;
    world.trace(1).await;
    // Longer than the extension trusts an idle connection.
    world.lambda.pause(Duration::from_millis(1_500)).await;
    world.trace(1).await;
    world.shutdown().await;
    world.assert_delivered_once(2);
    let requests = world.langfuse.requests();
    let connections: std::collections::BTreeSet<_> = requests
        .iter()
        .filter(|request| request.span_count > 0)
        .map(|request| request.connection)
        .collect();
    assert_eq!(connections.len(), 2, "{}", world.story());
}

#[tokio::test]
async fn a_send_cut_by_the_freeze_is_judged_after_it() {
    let world = Setup::new().setting("FLUSH_BUDGET_MS", "200").start().await;
    // Stored at once, answered while the sandbox stands still: the answer waits in the socket.
    world
        .langfuse
        .set_fault(FaultRule::from(Fault::latency(Duration::from_millis(900))).on_data());
    world.trace(2).await;
    world.lambda.pause(Duration::from_secs(2)).await;
    world.langfuse.clear_faults();
    for _ in 0..3 {
        world.invoke(json!({ "work_s": 0.3 })).await;
    }
    world.shutdown().await;
    world.assert_delivered_once(2);
    world.report().assert_balanced();
}

#[tokio::test]
async fn a_freeze_in_the_middle_of_an_invocation_changes_nothing() {
    let world = World::start().await;
    world.trace(1).await;
    let invocation = world.begin(&json!({ "tag": "a", "spans": 2, "work_s": 0.5 }));
    let posted = |line: &e2e::LogLine| line.text == "posted a 200";
    assert!(
        world
            .lambda
            .wait_for_log(e2e::PATIENCE, posted)
            .await
            .is_some()
    );
    world.lambda.freeze();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.lambda.thaw();
    assert!(invocation.finished().await.succeeded());
    world.shutdown().await;
    world.assert_delivered_once(3);
}
