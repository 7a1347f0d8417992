//! The sandbox is never held past the deadline minus the margin, nor longer than the flush budget after the end of work.

use std::time::Duration;

use e2e::{FLUSH_BUDGET, Fault, QUICK, SLACK, Setup, World, json, median};

/// What one hold may exceed another by where both wait for the same.
const NOISE: Duration = Duration::from_millis(60);

#[tokio::test]
async fn a_hung_langfuse_costs_the_flush_budget_once_and_then_next_to_nothing() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::HangBeforeAccepting);
    let first = world.trace(2).await.held.unwrap();
    assert!(first < FLUSH_BUDGET + SLACK, "{first:?}");
    // What a sandbox is held for that is never held for data: Lambda's telemetry, on this machine, at this moment.
    let background = Setup::new().setting("FLUSH", "background").start().await;
    background.trace(2).await;
    let (mut held, mut baseline) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        held.push(world.trace(2).await.held.unwrap());
        baseline.push(background.trace(2).await.held.unwrap());
    }
    assert!(held.iter().all(|held| *held < SLACK), "{held:?}");
    assert!(
        median(&held) < median(&baseline) + NOISE,
        "{held:?} against {baseline:?}\n{}",
        world.story()
    );
}

#[tokio::test]
async fn a_langfuse_that_refuses_connections_costs_less_than_the_budget() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::Refuse);
    let mut all = Duration::ZERO;
    for _ in 0..4 {
        all += world.trace(2).await.held.unwrap();
    }
    assert!(all < FLUSH_BUDGET + 4 * SLACK, "{all:?}");
}

#[tokio::test]
async fn a_healthy_langfuse_is_answered_long_before_the_budget_ends() {
    let world = World::start().await;
    for _ in 0..3 {
        let held = world.trace(2).await.held.unwrap();
        assert!(held < QUICK, "{held:?}\n{}", world.story());
    }
    world.assert_delivered_once(6);
}

#[tokio::test]
async fn the_budget_is_a_setting() {
    let world = Setup::new().setting("FLUSH_BUDGET_MS", "200").start().await;
    world.langfuse.set_fault(Fault::HangBeforeAccepting);
    let held = world.trace(2).await.held.unwrap();
    assert!(
        held < Duration::from_millis(200) + SLACK,
        "{held:?}\n{}",
        world.story()
    );
}

#[tokio::test]
async fn the_deadline_ends_a_hold_before_the_budget_does() {
    let world = Setup::new()
        .setting("FLUSH_BUDGET_MS", "60000")
        .lambda(|lambda| lambda.timeout(Duration::from_secs(4)))
        .start()
        .await;
    assert!(world.invoke(json!({})).await.succeeded());
    world.langfuse.set_fault(Fault::HangBeforeAccepting);
    let ran = world.trace(2).await;
    assert!(ran.held.unwrap() < Duration::from_secs(4), "{ran:?}");
    // Work that ends inside the margin leaves nothing to hold.
    let ran = world.invoke(json!({ "tag": "late", "work_s": 3.0 })).await;
    assert!(ran.succeeded(), "{ran:?}\n{}", world.story());
}
