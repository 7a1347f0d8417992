//! Under AWS RIE, SAM or plain Docker the same binary is harmless: no telemetry, no freeze.

use e2e::{FLUSH_BUDGET, Fault, Freeze, SLACK, Setup, Telemetry, World};

async fn emulated() -> World {
    let setup = Setup::new().lambda(|lambda| {
        lambda
            .telemetry(Telemetry::NotSupported)
            .freeze(Freeze::Off)
    });
    setup.start().await
}

#[tokio::test]
async fn everything_is_delivered_and_nothing_is_held_for_long() {
    let world = emulated().await;
    for _ in 0..4 {
        let ran = world.trace(2).await;
        assert!(
            ran.held.unwrap_or_default() < FLUSH_BUDGET + SLACK,
            "{}",
            world.story()
        );
    }
    world.wait_delivered(8).await;
    world.shutdown().await;
    world.assert_delivered_once(8);
    assert_eq!(world.said("no telemetry here"), 1, "{}", world.story());
}

#[tokio::test]
async fn an_unreachable_langfuse_changes_nothing_for_the_app() {
    let world = emulated().await;
    world.langfuse.set_fault(Fault::Refuse);
    for _ in 0..3 {
        let ran = world.trace(2).await;
        assert!(
            ran.held.unwrap_or_default() < FLUSH_BUDGET + SLACK,
            "{}",
            world.story()
        );
    }
    world.shutdown().await;
    world.report().assert_balanced();
}
