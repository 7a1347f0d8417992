//! Lambda Managed Instances: INVOKE is refused, nothing is frozen, nobody tells when an invocation ends.

use e2e::{EXTENSION, Event, Fault, Mode, Setup, World};

async fn managed() -> World {
    Setup::new()
        .lambda(|lambda| lambda.mode(Mode::ManagedInstances))
        .start()
        .await
}

#[tokio::test]
async fn it_registers_for_shutdown_alone_and_delivers_while_the_instance_lives() {
    let world = managed().await;
    for _ in 0..3 {
        world.trace(2).await;
    }
    world.wait_delivered(6).await;
    let registered = world
        .lambda
        .timeline()
        .into_iter()
        .find_map(|entry| match entry.event {
            Event::Registered { process, events } if process == EXTENSION => Some(events),
            _ => None,
        });
    assert_eq!(registered.unwrap(), ["SHUTDOWN"]);
    world.shutdown().await;
    world.assert_delivered_once(6);
}

#[tokio::test]
async fn what_an_outage_kept_back_is_delivered_after_it() {
    let world = managed().await;
    world.langfuse.set_fault(Fault::Refuse);
    world.trace(2).await;
    world.langfuse.clear_faults();
    world.wait_delivered(2).await;
    world.shutdown().await;
    world.assert_delivered_once(2);
    world.report().assert_balanced();
}
