//! What an answer means, whoever gives it: nothing is lost, doubled or called delivered that is not.

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
