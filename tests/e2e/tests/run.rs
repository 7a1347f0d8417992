//! `langfuse-extension run -- CMD`: a container's entry point where there is no Lambda.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use e2e::process::{Host, Running, send};
use e2e::{Fault, PATIENCE, QUICK, SLACK};

fn names(tag: &str, count: usize) -> BTreeSet<String> {
    (0..count).map(|number| format!("{tag}-{number}")).collect()
}

#[test]
fn what_the_app_sends_arrives_and_its_status_is_the_containers() {
    let host = Host::new();
    let mut running = host.run_app(&["t", "20", "exit:7"]);
    let (status, _) = running.wait();
    assert_eq!(status.code(), Some(7));
    assert_eq!(running.acked(), names("t", 20));
    assert_eq!(host.delivered(), names("t", 20));
}

#[test]
fn sigterm_is_passed_on_and_what_comes_until_the_app_has_ended_arrives() {
    let host = Host::new();
    let mut running = host.run_app(&["t", "5", "term"]);
    running.wait_line("ready");
    running.signal("TERM");
    let (status, took) = running.wait();
    assert_eq!(status.code(), Some(0));
    assert!(took < QUICK, "{took:?}");
    let acked = running.acked();
    assert!(acked.contains("t-last"));
    assert_eq!(host.delivered(), acked);
}

#[tokio::test]
async fn with_langfuse_hung_the_end_comes_in_time_and_the_next_one_on_this_disk_delivers() {
    let host = Host::new();
    host.langfuse.set_fault(Fault::HangBeforeAccepting);
    let shutdown = Duration::from_secs(4);
    let variables = [("LANGFUSE_EXTENSION_SHUTDOWN_MS", "4000")];
    let mut running = host.run_app_with(&["first", "5", "term"], &variables);
    running.wait_line("ready");
    running.signal("TERM");
    let (status, took) = running.wait();
    assert_eq!(status.code(), Some(0));
    assert!(took < shutdown + SLACK, "{took:?}");
    let mut all = running.acked();
    assert_eq!(host.delivered(), BTreeSet::new());

    host.langfuse.clear_faults();
    let mut running = host.run_app(&["second", "1", "term"]);
    running.wait_line("ready");
    host.wait_delivered(&all).await;
    running.signal("TERM");
    running.wait();
    all.extend(running.acked());
    assert_eq!(host.delivered(), all);
}

#[tokio::test]
async fn a_killed_extension_is_started_again_on_its_spool_and_the_app_lives_on() {
    let host = Host::new();
    host.langfuse.set_fault(Fault::Refuse);
    let mut running = host.run_app(&["t", "5", "ignore"]);
    running.wait_line("ready");
    let killed = running.extension().expect("an extension");
    send("KILL", &killed.to_string());
    // Refused while nobody listens, and acknowledged again by the next one.
    running.wait_line("refused");
    running.wait_line("acked");
    assert_ne!(running.extension(), Some(killed));
    host.langfuse.clear_faults();
    let acked = running.acked();
    assert!(acked.is_superset(&names("t", 5)));
    host.wait_delivered(&acked).await;
}

#[tokio::test]
async fn after_the_death_of_the_whole_container_the_next_one_on_this_disk_delivers() {
    let host = Host::new();
    host.langfuse.set_fault(Fault::Refuse);
    let mut running = host.run_app(&["first", "5", "term"]);
    let app = running.wait_line("pid ");
    running.wait_line("ready");
    let extension = running.extension().expect("an extension");
    let acked = running.acked();
    for pid in [running.pid().to_string(), extension.to_string(), app] {
        send("KILL", &pid);
    }
    let (status, _) = running.wait();
    assert_eq!(status.signal(), Some(9));

    host.langfuse.clear_faults();
    let mut running = host.run_app(&["second", "1", "term"]);
    running.wait_line("ready");
    host.wait_delivered(&acked).await;
}

#[tokio::test]
async fn an_app_that_ignores_sigterm_has_its_share_of_the_grace_and_its_data_goes_then() {
    let host = Host::new();
    let variables = [
        ("LANGFUSE_EXTENSION_SHUTDOWN_MS", "2000"),
        // Nothing is sent for its age.
        ("LANGFUSE_EXTENSION_MAX_DATA_AGE_MS", "600000"),
    ];
    let mut running = host.run_app_with(&["t", "3", "ignore"], &variables);
    let app = running.wait_line("pid ");
    running.wait_line("ready");
    running.signal("TERM");
    let signalled = Instant::now();
    running.wait_line("term");
    // Once the extension has left, the app is refused, and lives on.
    running.wait_line("refused");
    assert!(signalled.elapsed() >= Duration::from_millis(1500));
    assert!(signalled.elapsed() < Duration::from_secs(2) + SLACK);
    assert!(host.delivered().is_superset(&names("t", 3)));
    // As the platform does at last.
    send("KILL", &format!("-{app}"));
    let (status, _) = running.wait();
    assert_eq!(status.code(), Some(128 + 9));
    // What it sent while the last request was on its way stayed on the disk.
    let acked = running.acked();
    let mut running = host.run_app(&["second", "0", "term"]);
    running.wait_line("ready");
    host.wait_delivered(&acked).await;
    assert_eq!(host.delivered(), acked);
}

#[test]
fn an_app_that_dies_at_once_or_cannot_be_started_is_told_as_shells_tell_it() {
    let host = Host::new();
    for (words, code) in [
        (&["run", "--", "sh", "-c", "exit 3"][..], 3),
        (&["run", "sh", "-c", "kill -s KILL $$"], 128 + 9),
        (&["run", "sh", "-c", "kill -s SEGV $$"], 128 + 11),
        (&["run", "--", "/no/such/program"], 127),
        (&["run", "--", "/dev/null"], 126),
        (&["run"], 2),
    ] {
        let mut running = Running::start(host.command(words));
        let (status, _) = running.wait();
        assert_eq!(status.code(), Some(code), "{words:?}");
    }
}

#[tokio::test]
async fn whoever_the_app_leaves_behind_is_reaped() {
    let host = Host::new();
    let mut running = host.run_app(&["t", "1", "fork"]);
    let mut orphan = String::new();
    while orphan != "t-orphan" {
        orphan = running.wait_line("acked");
    }
    host.wait_delivered(&[orphan].into()).await;
    let until = Instant::now() + PATIENCE;
    // The app itself does not ask for its own child, so one zombie may be the app's; ours has none.
    while running.zombies() > 0 {
        assert!(Instant::now() < until, "a zombie stays");
        std::thread::yield_now();
    }
    running.signal("TERM");
    assert_eq!(running.wait().0.code(), Some(0));
}

#[test]
fn a_full_disk_ends_nobody() {
    let host = Host::new();
    let variables = [("LANGFUSE_EXTENSION_SPOOL_DIR", "/dev/full")];
    let mut running = host.run_app_with(&["t", "5", "exit:0"], &variables);
    let (status, _) = running.wait();
    assert_eq!(status.code(), Some(0));
    assert_eq!(host.delivered(), names("t", 5));
}

#[test]
fn where_another_holds_the_port_the_app_runs_as_it_is() {
    let host = Host::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let variables = [("LANGFUSE_EXTENSION_LISTEN", address.as_str())];
    let mut running = host.run_app_with(&["t", "3", "exit:0"], &variables);
    let (status, _) = running.wait();
    assert_eq!(status.code(), Some(0));
    assert_eq!(host.delivered(), names("t", 3), "straight to Langfuse");
}

#[test]
fn a_sidecar_ends_in_time_and_ships_what_it_was_given() {
    let host = Host::new();
    let mut command = host.command(&["serve"]);
    command.env("LANGFUSE_EXTENSION_SHUTDOWN_MS", "2000");
    let mut sidecar = Running::start(command);
    host.wait_listening();
    let mut app = host.exec_app(&["t", "5", "exit:0"]);
    app.wait();
    assert_eq!(app.acked(), names("t", 5));
    sidecar.signal("TERM");
    let (status, took) = sidecar.wait();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
    assert_eq!(host.delivered(), names("t", 5));
}
