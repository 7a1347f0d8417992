//! What is wrong with one span costs that span and no other.

use e2e::{Fault, FaultRule, Ids, World, ids, json};

/// What `tests/apps/raw/app.py` puts into a span with `"poison": "text"`.
const TEXT: &str = "DROP TABLE";

/// Three requests of two spans, the second with a poison in its first, then a few healthy ones; nothing is cleared.
async fn feed(world: &World, poison: &str) -> Ids {
    let event = json!({ "tag": "p", "requests": 3, "spans": 2, "poison": poison });
    world.invoke(event).await.assert_acknowledged();
    for number in 0..6 {
        let event = json!({ "tag": format!("after{number}"), "spans": 2, "work_s": 0.3 });
        world.invoke(event).await.assert_acknowledged();
    }
    world.shutdown().await;
    ids("p-1", 2)
}

/// Nothing is lost but what belongs to the poison, and that is counted.
fn assert_only(world: &World, poison: &Ids) {
    let lost = world.lost();
    assert!(lost.is_subset(poison), "lost {lost:?}\n{}", world.story());
    let report = world.report();
    report.assert_balanced();
    let undelivered = report.dropped + report.spooled;
    assert_eq!(
        undelivered,
        lost.len() as u64,
        "{report:?}\n{}",
        world.story()
    );
}

#[tokio::test]
async fn one_refused_span_does_not_block_its_project() {
    for status in [401, 403] {
        let world = World::start().await;
        let firewall = FaultRule::from(Fault::edge(status)).on_content(TEXT);
        world.langfuse.set_fault(firewall);
        let poison = feed(&world, "text").await;
        assert_only(&world, &poison);
        assert_eq!(world.doubled(), 0, "{}", world.story());
    }
}

#[tokio::test]
async fn one_span_that_is_too_large_for_an_edge_does_not_take_its_neighbours_along() {
    let world = World::start().await;
    let firewall = FaultRule::from(Fault::edge(413)).on_content(TEXT);
    world.langfuse.set_fault(firewall);
    let poison = feed(&world, "text").await;
    assert_only(&world, &poison);
}

#[tokio::test]
async fn one_span_that_times_out_does_not_take_its_neighbours_along() {
    let world = World::start().await;
    let gateway = FaultRule::from(Fault::edge(504)).on_content(TEXT);
    world.langfuse.set_fault(gateway);
    let poison = feed(&world, "text").await;
    let lost = world.lost();
    assert!(lost.is_subset(&poison), "lost {lost:?}\n{}", world.story());
    world.report().assert_balanced();
}

/// Langfuse answers 200 and its worker loses the whole request: what came with the poison from the client, as without us.
#[tokio::test]
async fn poison_loses_only_itself() {
    let world = World::start().await;
    let poison = feed(&world, "no_value").await;
    let lost = world.lost();
    assert!(lost.is_subset(&poison), "lost {lost:?}\n{}", world.story());
    world.report().assert_balanced();
}

#[tokio::test]
async fn half_a_character_loses_nothing() {
    let world = World::start().await;
    feed(&world, "half").await;
    assert_eq!(world.lost(), Ids::new(), "{}", world.story());
    world.report().assert_balanced();
}
