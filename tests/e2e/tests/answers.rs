//! What an answer means, whoever gives it: nothing is lost, doubled or called delivered that is not.

use std::time::Duration;

use e2e::{Fault, FaultRule, Ids, World, json};

/// Traffic under the fault, then health, then a new process.
async fn survives(fault: impl Into<FaultRule>) -> World {
    let world = World::start().await;
    world.langfuse.set_fault(fault);
    for number in 0..8 {
        let event = json!({ "tag": format!("t{number}"), "spans": 2, "work_s": 0.1 });
        world.invoke(event).await.assert_acknowledged();
    }
    world.langfuse.clear_faults();
    for _ in 0..40 {
        world.invoke(json!({ "work_s": 0.3 })).await;
        if world.lost().is_empty() {
            break;
        }
    }
    world.shutdown().await;
    assert_eq!(world.lost(), Ids::new(), "lost\n{}", world.story());
    assert_eq!(world.doubled(), 0, "doubled\n{}", world.story());
    world.report().assert_balanced();
    world
}

#[tokio::test]
async fn a_roll_out_that_answers_404_405_or_302_loses_nothing() {
    survives(Fault::edge(404)).await;
    survives(Fault::edge(405)).await;
    survives(Fault::redirect(302, "https://login.invalid/")).await;
}

#[tokio::test]
async fn a_load_balancer_s_503_loses_nothing_however_often_it_comes() {
    survives(Fault::edge(503)).await;
}

#[tokio::test]
async fn a_storage_that_is_down_behind_good_probes_loses_nothing() {
    survives(FaultRule::storage_down()).await;
}

#[tokio::test]
async fn a_storage_that_hangs_behind_good_probes_loses_nothing() {
    survives(FaultRule::storage_hung()).await;
}

#[tokio::test]
async fn the_status_is_the_outcome_though_the_body_stalls() {
    let world = World::start().await;
    world.invoke(json!({})).await;
    let stall = FaultRule::from(Fault::StallMidResponse);
    world.langfuse.set_fault(stall.on_data());
    let held = world.trace(2).await.held.unwrap();
    assert!(held < Duration::from_secs(1), "{held:?}\n{}", world.story());
    world.shutdown().await;
    world.assert_delivered_once(2);
    let report = world.report();
    report.assert_balanced();
    assert_eq!(
        (report.delivered, report.maybe_doubled),
        (2, 0),
        "{report:?}"
    );
}

#[tokio::test]
async fn items_that_langfuse_refuses_are_dropped_and_never_called_delivered() {
    let world = World::start().await;
    let refuse = |text: &str| Fault::RefuseItems {
        containing: text.into(),
        status: 400,
    };
    world.langfuse.set_fault(refuse("-1\""));
    let event = json!({ "tag": "t", "spans": 3, "scores": 3 });
    world.invoke(event).await.assert_acknowledged();
    world.shutdown().await;
    let one = Ids::from(["t-1".to_owned()]);
    assert_eq!((world.lost(), world.lost_scores()), (one.clone(), one));
    let report = world.report();
    report.assert_balanced();
    assert_eq!(
        (report.delivered, report.dropped),
        (4, 2),
        "{report:?}\n{}",
        world.story()
    );
}

#[tokio::test]
async fn a_changing_header_loses_nothing() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::Refuse);
    let event = json!({ "tag": "t", "requests": 150, "header": "tenant-" });
    world.invoke(event).await.assert_acknowledged();
    world.langfuse.clear_faults();
    for _ in 0..40 {
        world.invoke(json!({ "work_s": 0.3 })).await;
        if world.lost().is_empty() {
            break;
        }
    }
    world.shutdown().await;
    assert_eq!(world.lost(), Ids::new(), "{:?}", world.report());
    world.report().assert_balanced();
}
