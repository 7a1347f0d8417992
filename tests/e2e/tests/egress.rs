//! What may leave, through the release binary: counted once, whatever becomes of the request.

use e2e::{Fault, Ids, Setup, World, ids, json};

async fn invoked(world: &World, tag: &str) {
    let event = json!({ "tag": tag, "spans": 3, "scores": 2, "bytes": 5_000 });
    world.invoke(event).await.assert_acknowledged();
}

#[tokio::test]
async fn what_is_filtered_is_counted_and_asks_langfuse_for_nothing() {
    let world = Setup::new()
        .setting("SPANS_EXCLUDE", "langfuse-sdk")
        .start()
        .await;
    world
        .invoke(json!({ "tag": "t", "spans": 3 }))
        .await
        .assert_acknowledged();
    world.shutdown().await;
    assert!(world.langfuse.requests().is_empty(), "{}", world.story());
    let report = world.report();
    report.assert_balanced();
    assert_eq!(
        (report.filtered, report.delivered, report.requests),
        (3, 0, 0)
    );
}

#[tokio::test]
async fn scores_leave_with_their_trace_or_not_at_all() {
    let world = Setup::new().setting("SAMPLE", "0").start().await;
    invoked(&world, "t").await;
    world.shutdown().await;
    assert!(world.langfuse.requests().is_empty(), "{}", world.story());
    let report = world.report();
    report.assert_balanced();
    assert_eq!((report.sampled_out, report.requests), (5, 0));
}

#[tokio::test]
async fn what_is_masked_is_stored_with_marks_and_cut() {
    let world = Setup::new()
        .setting("MASK", "email")
        .setting("MAX_ATTRIBUTE_BYTES", "256")
        .setting("ENRICH", "trace")
        .start()
        .await;
    invoked(&world, "anna@example.org").await;
    world.shutdown().await;
    let stored: Ids = ids("[masked:email]", 3);
    assert_eq!(world.stored(), stored, "{}", world.story());
    assert_eq!(world.stored_scores(), ids("[masked:email]", 2));
    for observation in world.langfuse.observations() {
        let seen = observation.canonical();
        assert!(!seen.contains("anna"), "{seen}");
        assert!(
            seen.len() < 5_000 && seen.contains("aws_request_id"),
            "{seen}"
        );
    }
    for request in world.langfuse.requests() {
        assert!(!format!("{request:?}").contains("anna"));
    }
    world.report().assert_balanced();
}

#[tokio::test]
async fn what_passed_the_stage_once_is_not_counted_again_after_an_outage() {
    let world = Setup::new().setting("MASK", "email").start().await;
    world.langfuse.set_fault(Fault::status(503));
    invoked(&world, "anna@example.org").await;
    world.langfuse.clear_faults();
    for _ in 0..5 {
        world.invoke(json!({ "work_s": 0.5 })).await;
    }
    world.shutdown().await;
    assert_eq!(
        world.stored(),
        ids("[masked:email]", 3),
        "{}",
        world.story()
    );
    let report = world.report();
    report.assert_balanced();
    assert_eq!((report.masked, report.delivered), (5, 5));
}

#[tokio::test]
async fn a_pattern_that_does_not_compile_lets_no_text_leave_and_is_said_loudly() {
    let world = Setup::new().setting("MASK_PATTERN_BAD", "(").start().await;
    invoked(&world, "clear-text").await;
    world.shutdown().await;
    assert!(
        world.said("ALL VALUES LEAVE WITHOUT THEIR CONTENT") > 0,
        "{}",
        world.story()
    );
    for request in world.langfuse.requests() {
        assert!(!format!("{request:?}").contains("clear-text"));
    }
    assert_eq!(world.langfuse.observations().len(), 3, "{}", world.story());
    let report = world.report();
    report.assert_balanced();
    assert!(report.stripped > 0);
}

#[tokio::test]
async fn while_anything_is_masked_bodies_do_not_pass_through() {
    let world = Setup::new().setting("MASK", "email").start().await;
    let ran = world
        .invoke(json!({ "tag": "t", "spans": 1, "get": "/api/public/projects" }))
        .await;
    assert_eq!(
        ran.got().status,
        200,
        "what has no body passes: {}",
        world.story()
    );
    world.shutdown().await;
}
