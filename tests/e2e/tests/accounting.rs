//! Accepted = delivered + held + spooled + dropped(reason), always, and it can be read.

use e2e::{Fault, FaultRule, World, ids, json};

#[tokio::test]
async fn status_and_report_tell_the_same_story_as_langfuse() {
    let world = World::start().await;
    world
        .invoke(json!({ "tag": "a", "spans": 3, "scores": 2 }))
        .await
        .assert_acknowledged();
    world.wait_delivered(3).await;
    let sent = (world.stored(), world.stored_scores());
    assert_eq!(sent, (ids("a", 3), ids("a", 2)));
    let books = world.status().await;
    books.assert_balanced();
    assert_eq!(
        (books.accepted, books.delivered, books.held),
        (5, 5, 0),
        "{books:?}"
    );
    world.langfuse.set_fault(Fault::Refuse);
    world.trace(4).await;
    let books = world.status().await;
    books.assert_balanced();
    assert_eq!(
        (books.accepted, books.delivered, books.held),
        (9, 5, 4),
        "{books:?}"
    );
    world.shutdown().await;
    let report = world.report();
    report.assert_balanced();
    assert_eq!(
        (report.accepted, report.delivered, report.spooled),
        (9, 5, 4),
        "{report:?}"
    );
    assert_eq!((world.stored(), world.stored_scores()), sent);
    assert_eq!(world.lost(), ids("t1", 4));
}

#[tokio::test]
async fn data_that_langfuse_refuses_for_good_is_counted_with_its_reason() {
    let world = World::start().await;
    world
        .langfuse
        .set_fault(FaultRule::from(Fault::status(400)).on_data());
    world.trace(3).await;
    world.shutdown().await;
    assert_eq!(world.lost(), ids("t1", 3));
    let report = world.report();
    report.assert_balanced();
    assert_eq!(
        report.dropped_by_reason.get("refused"),
        Some(&3),
        "{report:?}\n{}",
        world.story()
    );
    assert!(world.said("data was given up") >= 1);
}

#[tokio::test]
async fn each_process_keeps_its_own_books_and_takes_over_what_the_last_one_left() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::Refuse);
    for _ in 0..3 {
        world.trace(2).await;
        world.shutdown().await;
        world.report().assert_balanced();
    }
    let report = world.report();
    assert_eq!(
        (report.accepted, report.recovered, report.spooled),
        (2, 4, 6),
        "{report:?}"
    );
}
