//! The runtime starts once every extension has registered, so nothing comes before that.

use std::time::Duration;

use e2e::{EXTENSION, Event, LambdaFault, PATIENCE, Setup, World};

#[tokio::test]
async fn registering_is_the_first_thing_that_it_does() {
    let world = World::start().await;
    world.trace(1).await;
    let timeline = world.lambda.timeline();
    let mut of_extension = timeline
        .iter()
        .filter(|entry| entry.event.process() == Some(EXTENSION));
    assert!(matches!(
        of_extension.next().unwrap().event,
        Event::ProcessStarted { .. }
    ));
    assert!(
        matches!(of_extension.next().unwrap().event, Event::Registered { .. }),
        "{}",
        world.story()
    );
    let place = |wanted: fn(&Event) -> bool| {
        timeline
            .iter()
            .position(|entry| wanted(&entry.event))
            .unwrap()
    };
    let registered = place(|event| matches!(event, Event::Registered { .. }));
    let runtime = place(
        |event| matches!(event, Event::ProcessStarted { process, .. } if process == "runtime"),
    );
    assert!(registered < runtime);
    world.shutdown().await;
}

#[tokio::test]
async fn until_lambda_has_answered_it_has_no_spool_and_no_connection() {
    let slow = LambdaFault::RegisterSlow(Duration::from_millis(800));
    let world = Setup::new()
        .lambda(|lambda| lambda.fault(slow))
        .start()
        .await;
    let invocation = world.begin(&e2e::json!({}));
    let started = world
        .lambda
        .wait_for(
            PATIENCE,
            |entry| matches!(&entry.event, Event::ProcessStarted { process, .. } if process == EXTENSION),
        )
        .await;
    assert!(started.is_some());
    let registered = |entry: &e2e::Entry| matches!(entry.event, Event::Registered { .. });
    let mut looked = 0;
    loop {
        let has_spool = world.spool_dir().exists();
        let asked_langfuse = !world.langfuse.requests().is_empty();
        // A look that ended after the registration says nothing.
        if world.lambda.timeline().iter().any(registered) {
            break;
        }
        // Its port it has: the wrapper looks there as soon as Lambda starts the runtime.
        assert_eq!((has_spool, asked_langfuse), (false, false));
        looked += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(looked > 0);
    assert!(invocation.finished().await.succeeded(), "{}", world.story());
    world.trace(1).await;
    assert!(world.spool_dir().exists());
}
