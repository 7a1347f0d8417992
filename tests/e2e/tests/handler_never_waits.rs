//! For traces and scores the handler's time does not depend on Langfuse.

use std::time::Duration;

use e2e::{FakeLangfuse, Fault, QUICK, Setup, World, json};
use lambda_emulator::fake_langfuse::TlsFailure;

/// A handler that posts spans and scores is as quick as ever, cold and warm, and what it posted is acknowledged.
async fn is_never_waited_for(world: World, fault: impl FnOnce(&FakeLangfuse)) {
    fault(&world.langfuse);
    for number in 0..3 {
        let ran = world
            .invoke(json!({ "tag": format!("t{number}"), "spans": 3, "scores": 2 }))
            .await;
        ran.assert_acknowledged();
        assert!(
            ran.handler_duration() < QUICK,
            "{:?}\n{}",
            ran.handler_duration(),
            world.story()
        );
    }
    assert_eq!(world.said("panicked"), 0, "{}", world.story());
    world.shutdown().await;
    world.report().assert_balanced();
}

#[tokio::test]
async fn a_healthy_langfuse() {
    let world = World::start().await;
    is_never_waited_for(world, |_| {}).await;
}

#[tokio::test]
async fn a_hung_langfuse() {
    is_never_waited_for(World::start().await, |langfuse| {
        langfuse.set_fault(Fault::HangBeforeAccepting)
    })
    .await;
}

#[tokio::test]
async fn a_langfuse_that_refuses_connections() {
    is_never_waited_for(World::start().await, |langfuse| {
        langfuse.set_fault(Fault::Refuse)
    })
    .await;
}

#[tokio::test]
async fn a_langfuse_that_takes_ten_seconds() {
    let slow = Fault::latency(Duration::from_secs(10));
    is_never_waited_for(World::start().await, |langfuse| langfuse.set_fault(slow)).await;
}

#[tokio::test]
async fn a_langfuse_that_answers_byte_by_byte() {
    let drip = Fault::slow_drip(Duration::from_millis(200));
    is_never_waited_for(World::start().await, |langfuse| langfuse.set_fault(drip)).await;
}

#[tokio::test]
async fn a_langfuse_that_answers_with_errors() {
    for status in [401, 413, 429, 500, 503] {
        is_never_waited_for(World::start().await, |langfuse| {
            langfuse.set_fault(Fault::status(status))
        })
        .await;
    }
}

#[tokio::test]
async fn a_langfuse_whose_certificate_is_wrong_or_whose_handshake_hangs() {
    for failure in [TlsFailure::UnknownAuthority, TlsFailure::Hang] {
        let world = Setup::new().tls().start().await;
        is_never_waited_for(world, |langfuse| langfuse.set_fault(Fault::tls(failure))).await;
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let world = Setup::new()
        .setting("BASE_URL", "https://langfuse.invalid")
        .start()
        .await;
    is_never_waited_for(world, |_| {}).await;
}
