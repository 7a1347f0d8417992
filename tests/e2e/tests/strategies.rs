//! `LANGFUSE_EXTENSION_FLUSH=adaptive|end|background`.

use std::time::Duration;

use e2e::{Fault, SLACK, Setup, json, median};

async fn with(strategy: &str) -> e2e::World {
    Setup::new().setting("FLUSH", strategy).start().await
}

#[tokio::test]
async fn end_delivers_before_the_sandbox_is_released() {
    let world = with("end").await;
    for number in 1..=6 {
        world.trace(2).await;
        assert_eq!(world.delivered(), 2 * number, "{}", world.story());
    }
    world.shutdown().await;
    world.assert_delivered_once(12);
}

#[tokio::test]
async fn background_never_holds() {
    let world = with("background").await;
    world
        .langfuse
        .set_fault(Fault::latency(Duration::from_millis(1_500)));
    for _ in 0..4 {
        let held = world.trace(2).await.held.unwrap();
        assert!(held < SLACK, "{held:?}\n{}", world.story());
    }
    world.langfuse.clear_faults();
    for _ in 0..4 {
        world.invoke(json!({ "work_s": 0.5 })).await;
    }
    world.shutdown().await;
    let report = world.report();
    report.assert_balanced();
    assert_eq!(report.delivered + report.spooled, 8, "{report:?}");
}

#[tokio::test]
async fn adaptive_stops_holding_in_dense_traffic_and_shares_requests() {
    let world = with("adaptive").await;
    for _ in 0..30 {
        world.trace(1).await;
    }
    world.shutdown().await;
    world.assert_delivered_once(30);
    let requests = world.report().requests;
    assert!(
        requests <= 15,
        "{requests} requests for 30 invocations\n{}",
        world.story()
    );
}

/// How far away Langfuse is where it matters, there and back.
const FAR: Duration = Duration::from_millis(50);

/// The other side of holding little: what dense traffic leaves in a frozen sandbox. `-- --nocapture` shows the figures of
/// docs/promises.md.
#[tokio::test]
async fn dense_traffic_is_held_for_less_than_sparse_and_pays_with_what_is_frozen() {
    let (mut figures, mut delivered) = (Vec::new(), Vec::new());
    // Traffic is dense while the next invocation can be expected before data grows too old.
    for pause in [Duration::ZERO, Duration::from_millis(1_200)] {
        let setup = Setup::new().setting("MAX_DATA_AGE_MS", "2000");
        let world = setup.start().await;
        world.langfuse.set_fault(Fault::latency(FAR));
        world.trace(1).await;
        let (mut held, mut undelivered) = (Vec::new(), 0);
        for _ in 0..10 {
            held.push(world.trace(1).await.held.unwrap());
            undelivered += usize::from(!world.lost().is_empty());
            if !pause.is_zero() {
                world.lambda.pause(pause).await;
            }
        }
        let requests = world.status().await.requests;
        eprintln!(
            "pause {pause:?}: held {held:?}; {undelivered} of 10 frozen with data; {requests} requests"
        );
        world.shutdown().await;
        world.assert_delivered_once(11);
        figures.push(median(&held));
        delivered.push(undelivered);
    }
    assert!(figures[0] < figures[1], "{figures:?}");
    assert!(delivered[0] >= 5 && delivered[1] == 0, "{delivered:?}");
}

#[tokio::test]
async fn adaptive_delivers_at_once_in_sparse_traffic() {
    let world = with("adaptive").await;
    for number in 1..=2 {
        world.trace(2).await;
        assert_eq!(world.delivered(), 2 * number, "{}", world.story());
        world.lambda.pause(Duration::from_millis(400)).await;
    }
}

#[tokio::test]
async fn data_grows_no_older_than_its_limit_in_dense_traffic() {
    let world = Setup::new().setting("MAX_DATA_AGE_MS", "300").start().await;
    for number in 0..15 {
        world
            .invoke(json!({ "tag": format!("t{number}"), "work_s": 0.1 }))
            .await
            .assert_acknowledged();
    }
    // 1.5 s of handlers alone: some of it was sent beside them.
    assert!(world.delivered() >= 5, "{}", world.story());
    world.shutdown().await;
    world.assert_delivered_once(15);
}
