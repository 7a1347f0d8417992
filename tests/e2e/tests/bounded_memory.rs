//! Memory and disk are bounded, whatever arrives, and the app never waits because of it.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests fail loudly"
)]

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;

use e2e::{EXTENSION, FLUSH_BUDGET, Fault, Freeze, QUICK, SLACK, Setup, World, json};

fn resident_kb(world: &World) -> u64 {
    let pid = world.lambda.pid(EXTENSION).expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("a peak");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn spool_bytes(world: &World) -> u64 {
    let files = std::fs::read_dir(world.spool_dir()).expect("a spool");
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

#[tokio::test]
async fn a_full_buffer_drops_the_oldest_and_still_acknowledges_at_once() {
    let setup = Setup::new()
        .setting("BUFFER_BYTES", "300000")
        .setting("SPOOL_BYTES", "400000");
    let world = setup.start().await;
    world.langfuse.set_fault(Fault::Refuse);
    let ran = world
        .invoke(json!({ "tag": "t", "requests": 30, "bytes": 50_000 }))
        .await;
    ran.assert_acknowledged();
    assert!(ran.slowest_ms() < QUICK.as_secs_f64() * 1_000.0, "{ran:?}");
    let books = world.status().await;
    books.assert_balanced();
    assert!(books.held_bytes <= 300_000, "{books:?}");
    assert_eq!(
        books.dropped_by_reason.get("buffer_full"),
        Some(&(30 - books.held - books.on_disk)),
        "{books:?}"
    );
    assert!(books.held >= 3, "{books:?}");
    assert!(spool_bytes(&world) <= 400_000);
    world.langfuse.clear_faults();
    world.shutdown().await;
    let names: BTreeSet<_> = world
        .langfuse
        .observations()
        .iter()
        .map(|one| one.name.clone())
        .collect();
    let newest: BTreeSet<_> = (30 - books.held..30)
        .map(|number| format!("t-{number}-0"))
        .collect();
    // Older ones that made room in memory may have waited on disk.
    if !names.is_empty() {
        assert!(names.is_superset(&newest), "{}", world.story());
        assert!(names.len() as u64 <= books.held + books.on_disk);
    }
    world.report().assert_balanced();
}

#[tokio::test]
async fn bodies_near_and_beyond_the_limit_harm_nobody() {
    let world = World::start().await;
    world.langfuse.set_fault(Fault::Refuse);
    for bytes in [3_000_000, 15_000_000, 25_000_000] {
        let ran = world.invoke(json!({ "tag": "t", "bytes": bytes })).await;
        assert!(ran.succeeded(), "{}", world.story());
        assert!(ran.requests[0].status < 500, "{:?}", ran.requests);
    }
    assert!(resident_kb(&world) < 160_000, "{} KB", resident_kb(&world));
    world.shutdown().await;
    world.report().assert_balanced();
}

#[tokio::test]
async fn a_hundred_idle_connections_and_slow_clients_do_not_keep_the_app_waiting() {
    let world = Setup::new()
        .lambda(|lambda| lambda.freeze(Freeze::Off))
        .start()
        .await;
    world.invoke(json!({})).await;
    let head = b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n";
    let connections: Vec<_> = (0..100)
        .map(|number| {
            let mut connection = TcpStream::connect(world.listen).expect("a connection");
            connection
                .write_all(&head[..(number % 3) * head.len() / 2])
                .expect("a head");
            connection
        })
        .collect();
    let ran = world.trace(1).await;
    assert!(ran.slowest_ms() < QUICK.as_secs_f64() * 1_000.0, "{ran:?}");
    assert!(
        ran.held.unwrap() < FLUSH_BUDGET + SLACK,
        "{ran:?}\n{}",
        world.story()
    );
    drop(connections);
    world.shutdown().await;
}

#[tokio::test]
async fn a_client_that_stalls_in_a_body_holds_the_sandbox_no_longer_than_the_budget() {
    let world = World::start().await;
    world.invoke(json!({})).await;
    let invocation = world.begin(&json!({ "tag": "t", "work_s": 0.5 }));
    let line = |log: &e2e::LogLine| log.text == "posted t 200";
    assert!(
        world
            .lambda
            .wait_for_log(e2e::PATIENCE, line)
            .await
            .is_some()
    );
    let mut connection = TcpStream::connect(world.listen).expect("a connection");
    let beginning = "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    connection.write_all(beginning.as_bytes()).expect("a head");
    let held = invocation.finished().await.held.unwrap();
    assert!(held < FLUSH_BUDGET + SLACK, "{held:?}\n{}", world.story());
    drop(connection);
    world.shutdown().await;
    world.assert_delivered_once(1);
}
