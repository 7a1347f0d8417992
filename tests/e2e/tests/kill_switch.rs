//! `LANGFUSE_TRACING_ENABLED=false`: registered, everything answered, nothing shipped.

use e2e::{QUICK, Setup, json};

#[tokio::test]
async fn everything_is_acknowledged_and_nothing_leaves() {
    let world = Setup::new()
        .variable("LANGFUSE_TRACING_ENABLED", "false")
        .start()
        .await;
    for number in 0..3 {
        let ran = world
            .invoke(json!({ "tag": format!("t{number}"), "spans": 2, "scores": 1 }))
            .await;
        ran.assert_acknowledged();
        assert!(ran.held.unwrap() < QUICK, "{}", world.story());
    }
    world.shutdown().await;
    assert!(world.langfuse.requests().is_empty(), "{}", world.story());
    let report = world.report();
    report.assert_balanced();
    assert_eq!(
        report.dropped_by_reason.get("disabled"),
        Some(&9),
        "{report:?}"
    );
}
