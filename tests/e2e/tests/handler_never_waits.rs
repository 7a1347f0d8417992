//! For traces and scores the handler's time does not depend on Langfuse.

use std::time::Duration;

use e2e::{FakeLangfuse, Fault, QUICK, Setup, World, json, median};
use lambda_emulator::fake_langfuse::TlsFailure;

/// Invocations of each kind, one beside the other, so that a busy machine slows both.
const ROUNDS: usize = 5;

/// How much longer a handler may take than one that posts straight to a healthy Langfuse on loopback: so many times, and
/// what is noise where both take a few milliseconds.
const RATIO: u32 = 3;
const NOISE: Duration = Duration::from_millis(60);

/// A handler that posts spans and scores is as quick as one whose Langfuse is well and next door, cold and warm, and what
/// it posted is acknowledged.
async fn is_never_waited_for(world: World, fault: impl FnOnce(&FakeLangfuse)) {
    let straight = Setup::new().straight().start().await;
    fault(&world.langfuse);
    let (mut handlers, mut baseline) = (Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        let event = json!({ "tag": format!("t{number}"), "spans": 3, "scores": 2 });
        let direct = straight.invoke(event.clone()).await;
        direct.assert_acknowledged();
        let ran = world.invoke(event).await;
        ran.assert_acknowledged();
        assert!(
            ran.handler_duration() < QUICK,
            "{:?}\n{}",
            ran.handler_duration(),
            world.story()
        );
        handlers.push(ran.handler_duration());
        baseline.push(direct.handler_duration());
    }
    let (through, direct) = (median(&handlers), median(&baseline));
    assert!(
        through < direct * RATIO + NOISE,
        "{through:?} against {direct:?}\n{}",
        world.story()
    );
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
        langfuse.set_fault(Fault::HangBeforeAccepting);
    })
    .await;
}

#[tokio::test]
async fn a_langfuse_that_refuses_connections() {
    is_never_waited_for(World::start().await, |langfuse| {
        langfuse.set_fault(Fault::Refuse);
    })
    .await;
}

#[tokio::test]
async fn a_langfuse_that_takes_ten_seconds() {
    let slow = Fault::latency(Duration::from_secs(10));
    is_never_waited_for(World::start().await, |langfuse| {
        langfuse.set_fault(slow);
    })
    .await;
}

#[tokio::test]
async fn a_langfuse_that_answers_byte_by_byte() {
    let drip = Fault::slow_drip(Duration::from_millis(200));
    is_never_waited_for(World::start().await, |langfuse| {
        langfuse.set_fault(drip);
    })
    .await;
}

#[tokio::test]
async fn a_langfuse_that_answers_with_errors() {
    for status in [401, 413, 429, 500, 503] {
        is_never_waited_for(World::start().await, |langfuse| {
            langfuse.set_fault(Fault::status(status));
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
