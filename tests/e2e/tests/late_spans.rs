//! With `LANGFUSE_FLUSH_AT=1` and no `flush()` the spans come from a thread, around or after the handler's answer: they
//! arrive before the freeze all the same.

use e2e::{Setup, World, json};

#[tokio::test]
async fn spans_posted_just_after_the_answer_arrive_before_the_freeze() {
    let world = Setup::new().setting("FLUSH", "end").start().await;
    for number in 1..=5 {
        let event = json!({ "tag": format!("t{number}"), "spans": 3, "late_s": 0.02 });
        assert!(world.invoke(event).await.succeeded());
        assert_eq!(world.delivered(), 3 * number, "{}", world.story());
    }
    world.shutdown().await;
    world.assert_delivered_once(15);
}

#[tokio::test]
async fn in_dense_traffic_they_go_with_a_later_invocation_at_the_latest() {
    let world = World::start().await;
    for number in 0..10 {
        let event = json!({ "tag": format!("t{number}"), "spans": 3, "late_s": 0.02 });
        assert!(world.invoke(event).await.succeeded());
    }
    world.shutdown().await;
    world.assert_delivered_once(30);
}

#[tokio::test]
async fn spans_posted_long_after_the_answer_arrive_with_a_later_thaw() {
    let world = World::start().await;
    for number in 0..3 {
        world
            .invoke(json!({ "tag": format!("t{number}"), "late_s": 5.0 }))
            .await;
    }
    // The threads of the app go on once this one gives them the time.
    world.invoke(json!({ "work_s": 6.0 })).await;
    world.shutdown().await;
    world.assert_delivered_once(3);
}
