//! What an earlier process left on disk comes back whole, however much it is, and is never sent too often.

use e2e::{EXTENSION, Fault, FaultRule, Ids, PATIENCE, Setup, Signal, World, ids, json};

/// Posts this many requests of ten spans, and kills the extension when all are acknowledged.
async fn kill_with(world: &World, tag: &str, requests: u32, bytes: u32) {
    let event =
        json!({ "tag": tag, "requests": requests, "spans": 10, "bytes": bytes, "work_s": 60 });
    let invocation = world.begin(&event);
    let last = format!("posted {tag}-{} 200", requests - 1);
    let line = world.lambda.wait_for_log(PATIENCE, |log| log.text == last);
    assert!(line.await.is_some(), "{}", world.story());
    assert!(world.lambda.signal(EXTENSION, Signal::KILL));
    invocation.finished().await;
}

/// A few invocations with time beside them, until nothing is missing.
async fn recover(world: &World, invocations: u32) {
    for _ in 0..invocations {
        let ran = world.invoke(json!({ "work_s": 0.3 })).await;
        assert!(ran.succeeded(), "{ran:?}");
        if world.lost().is_empty() {
            break;
        }
    }
}

#[tokio::test]
async fn recovery_brings_back_all_of_a_full_spool() {
    let setup = Setup::new().setting("BUFFER_BYTES", "8388608");
    let world = setup.start().await;
    world.langfuse.set_fault(Fault::status(503));
    kill_with(&world, "t", 160, 40_000).await;
    assert_eq!(world.acknowledged().len(), 1_600);
    world.langfuse.clear_faults();
    recover(&world, 12).await;
    assert_eq!(world.lost(), Ids::new(), "never delivered");
    assert_eq!(world.doubled(), 0);
    world.shutdown().await;
    let report = world.report();
    report.assert_balanced();
    assert_eq!(
        (report.recovered, report.delivered),
        (1_600, 1_600),
        "{report:?}"
    );
}

#[tokio::test]
async fn one_and_a_half_buffers_of_two_processes_lose_nothing_that_is_not_counted() {
    let setup = Setup::new().setting("BUFFER_BYTES", "1000000");
    let world = setup.start().await;
    world.langfuse.set_fault(Fault::Refuse);
    kill_with(&world, "a", 30, 25_000).await;
    let event = json!({ "tag": "b", "requests": 30, "spans": 10, "bytes": 25_000 });
    world.invoke(event).await.assert_acknowledged();
    assert_eq!(world.acknowledged().len(), 600);
    world.langfuse.clear_faults();
    recover(&world, 20).await;
    world.shutdown().await;
    let (lost, report) = (world.lost(), world.report());
    report.assert_balanced();
    assert_eq!(report.dropped, lost.len() as u64, "{report:?}");
    assert!(lost.is_disjoint(&world.stored()), "{lost:?}");
    // The oldest went, and only as many as the newest needed.
    assert!(lost.iter().all(|id| id.starts_with("a-")), "{lost:?}");
}

#[tokio::test]
async fn the_books_know_all_of_a_spool_before_any_of_it_is_sent() {
    let setup = Setup::new().setting("BUFFER_BYTES", "1000000");
    let world = setup.start().await;
    world.langfuse.set_fault(Fault::Refuse);
    kill_with(&world, "t", 30, 25_000).await;
    let books = world.status().await;
    books.assert_balanced();
    assert_eq!(books.recovered, 300, "{books:?}");
}

/// Sends whose answer nobody saw, at most, of one item.
const AMBIGUOUS_SENDS_MAX: u64 = 3;

#[tokio::test]
async fn sends_without_an_answer_are_counted_across_processes() {
    let world = World::start().await;
    let hang = FaultRule::from(Fault::HangAfterAccepting);
    world.langfuse.set_fault(hang.on_data());
    let copies = |world: &World| {
        world.langfuse.read(|recording| {
            let spans = recording.observations();
            spans
                .filter(|span| ids("t", 1).contains(&span.name))
                .count()
        })
    };
    let mut event = json!({ "tag": "t", "work_s": 1.0 });
    for _ in 0..6 {
        let invocation = world.begin(&event);
        event = json!({ "work_s": 1.0 });
        let before = copies(&world);
        world
            .langfuse
            .wait_until(std::time::Duration::from_secs(2), |recording| {
                let spans = recording.observations();
                spans.filter(|span| span.name == "t-0").count() > before
            })
            .await;
        world.lambda.signal(EXTENSION, Signal::KILL);
        invocation.finished().await;
    }
    let sends = copies(&world) as u64;
    assert!(
        sends <= AMBIGUOUS_SENDS_MAX,
        "{sends} sends\n{}",
        world.story()
    );
}
