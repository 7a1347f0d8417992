//! What was acknowledged survives a function timeout, an out-of-memory reset and a kill of the extension.

use std::time::Duration;

use e2e::{EXTENSION, Event, Fault, Ids, PATIENCE, Reset, Setup, Signal, World, ids, json};

async fn posted(world: &World, tag: &str) {
    let line = format!("posted {tag} 200");
    assert!(
        world
            .lambda
            .wait_for_log(PATIENCE, |log| log.text == line)
            .await
            .is_some(),
        "{}",
        world.story()
    );
}

/// Waits until Langfuse has read a request with data in it.
async fn sent(world: &World) {
    let sent = world
        .langfuse
        .wait_until(PATIENCE, |recording| {
            recording
                .requests()
                .iter()
                .any(|request| request.span_count > 0)
        })
        .await;
    assert!(sent, "{}", world.story());
}

/// After Langfuse's recovery a few invocations bring everything there.
async fn recovers(world: &World, spans: usize) {
    world.langfuse.clear_faults();
    for _ in 0..40 {
        assert!(
            world.invoke(json!({ "work_s": 0.3 })).await.succeeded(),
            "{}",
            world.story()
        );
        if world.delivered() >= spans && world.lost().is_empty() {
            break;
        }
    }
    assert_eq!(world.lost(), Ids::new(), "lost\n{}", world.story());
    assert!(
        world.delivered() >= spans,
        "{} of {spans}\n{}",
        world.delivered(),
        world.story()
    );
}

#[tokio::test]
async fn a_function_timeout_loses_nothing() {
    let world = Setup::new()
        .lambda(|lambda| lambda.timeout(Duration::from_secs(3)))
        .start()
        .await;
    world.invoke(json!({})).await;
    world.langfuse.set_fault(Fault::Refuse);
    let ran = world
        .invoke(json!({ "tag": "a", "spans": 3, "work_s": 60 }))
        .await;
    assert_eq!(
        ran.error_type(),
        Some("Sandbox.Timedout"),
        "{}",
        world.story()
    );
    recovers(&world, 3).await;
    world.assert_delivered_once(3);
}

#[tokio::test]
async fn an_out_of_memory_reset_loses_nothing() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::Refuse);
    let _invocation = world.begin(&json!({ "tag": "a", "spans": 3, "work_s": 60 }));
    posted(&world, "a").await;
    world.lambda.reset(Reset::OutOfMemory).await;
    recovers(&world, 3).await;
    world.assert_delivered_once(3);
    world.shutdown().await;
    let report = world.report();
    report.assert_balanced();
    assert_eq!(report.recovered, 3, "{report:?}");
}

#[tokio::test]
async fn a_kill_of_the_extension_loses_nothing_that_was_not_sent() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::Refuse);
    let invocation = world.begin(&json!({ "tag": "a", "spans": 3, "work_s": 60 }));
    posted(&world, "a").await;
    assert!(world.lambda.signal(EXTENSION, Signal::KILL));
    assert_eq!(
        invocation.finished().await.error_type(),
        Some("Extension.Crash")
    );
    recovers(&world, 3).await;
    world.assert_delivered_once(3);
}

#[tokio::test]
async fn a_kill_of_everything_loses_nothing() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::Refuse);
    let _invocation = world.begin(&json!({ "tag": "a", "spans": 3, "work_s": 60 }));
    posted(&world, "a").await;
    world.lambda.reset(Reset::Killed).await;
    recovers(&world, 3).await;
    world.assert_delivered_once(3);
}

/// Kills the extension between a send and its answer, then heals.
async fn killed_in_mid_send(fault: Fault, resend: &str) -> World {
    let world = Setup::new()
        .setting("RESEND_AMBIGUOUS", resend)
        .start()
        .await;
    world
        .langfuse
        .set_fault(e2e::FaultRule::from(fault).on_data());
    let invocation = world.begin(&json!({ "tag": "a", "spans": 3 }));
    sent(&world).await;
    assert!(world.lambda.signal(EXTENSION, Signal::KILL));
    invocation.finished().await;
    world.langfuse.clear_faults();
    world
}

#[tokio::test]
async fn a_send_cut_by_a_kill_before_langfuse_took_it_is_made_again() {
    let world = killed_in_mid_send(Fault::HangBeforeAccepting, "true").await;
    recovers(&world, 3).await;
    world.assert_delivered_once(3);
    world.shutdown().await;
    assert_eq!(world.report().maybe_doubled, 3);
}

#[tokio::test]
async fn a_send_cut_by_a_kill_after_langfuse_took_it_is_doubled_at_most_once_and_counted() {
    let world = killed_in_mid_send(Fault::HangAfterAccepting, "true").await;
    recovers(&world, 6).await;
    world.shutdown().await;
    assert_eq!(world.doubled(), 3, "{}", world.story());
    assert_eq!(world.doubled_ids(), ids("a", 3));
    assert_eq!(world.report().maybe_doubled, 3);
}

#[tokio::test]
async fn a_send_cut_by_a_kill_is_not_made_again_where_that_is_switched_off() {
    let world = killed_in_mid_send(Fault::HangAfterAccepting, "false").await;
    for _ in 0..3 {
        world.invoke(json!({ "work_s": 0.2 })).await;
    }
    world.shutdown().await;
    world.assert_delivered_once(3);
    let report = world.report();
    report.assert_balanced();
    assert_eq!(
        report.dropped_by_reason.get("ambiguous"),
        Some(&3),
        "{report:?}"
    );
}

#[tokio::test]
async fn what_a_shutdown_could_not_send_is_sent_by_the_next_process_in_the_same_sandbox() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::Refuse);
    world.trace(4).await;
    world.shutdown().await;
    let report = world.report();
    report.assert_balanced();
    assert_eq!((report.spooled, report.dropped), (4, 0), "{report:?}");
    recovers(&world, 4).await;
    world.assert_delivered_once(4);
}

#[tokio::test]
async fn whatever_was_acknowledged_before_a_kill_arrives() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::Refuse);
    for (round, posts) in [1, 7, 30].into_iter().enumerate() {
        let tag = format!("r{round}");
        let invocation = world.begin(&json!({ "tag": tag, "repeat": true }));
        posted(&world, &format!("{tag}-{posts}")).await;
        assert!(world.lambda.signal(EXTENSION, Signal::KILL));
        invocation.finished().await;
    }
    // The runtime is killed after the extension, so all its lines are there.
    let acknowledged = world.acknowledged().len();
    assert!(acknowledged >= 38);
    recovers(&world, acknowledged).await;
    assert_eq!(world.doubled(), 0, "{}", world.story());
}

#[tokio::test]
async fn without_a_spool_the_loss_is_counted_and_logged() {
    let world = Setup::new().setting("SPOOL_BYTES", "0").start().await;
    world.langfuse.set_fault(Fault::Refuse);
    world.trace(4).await;
    world.shutdown().await;
    let report = world.report();
    report.assert_balanced();
    assert_eq!(report.dropped_by_reason.get("exit"), Some(&4), "{report:?}");
    assert!(!world.spool_dir().exists());
    assert!(
        world
            .lambda
            .timeline()
            .iter()
            .any(|entry| matches!(entry.event, Event::ShutdownDelivered { .. }))
    );
}
