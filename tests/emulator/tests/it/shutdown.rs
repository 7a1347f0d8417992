//! The spindown, and that nothing outlives a Lambda.

use crate::setup::{AGENT, ECHO, Opt, QUICK, function, with_extensions};
use lambda_emulator::{Exit, Freeze};
use std::path::Path;
use std::time::{Duration, Instant};

#[tokio::test]
async fn an_extension_that_leaves_at_once_ends_the_spindown_at_once() {
    let opt = Opt::with(AGENT);
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    lambda.invoke("{}").await;
    let report = lambda.shutdown().await;
    assert_eq!(report.reason, "SPINDOWN");
    let agent = &report.extensions[0];
    assert_eq!(
        (agent.exit, agent.killed, agent.notified),
        (Some(Exit::Code(0)), false, true)
    );
    assert!(report.took < Duration::from_secs(1), "{report:?}");
}

#[tokio::test]
async fn an_extension_that_stays_is_killed_after_2_s() {
    let opt = Opt::with("agent = Extension('INVOKE', 'SHUTDOWN')\nagent.serve()\ntime.sleep(60)");
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    lambda.init().await;
    let report = lambda.shutdown().await;
    assert!(report.extensions[0].killed);
    assert!(
        report.took >= Duration::from_millis(1_950) && report.took < Duration::from_secs(2) + QUICK,
        "{report:?}"
    );
}

#[tokio::test]
async fn after_a_spindown_there_is_a_new_environment_with_an_empty_tmp() {
    let lambda = function(ECHO).start().await.unwrap();
    lambda.invoke("{}").await;
    std::fs::write(lambda.tmp_dir().join("left"), "x").unwrap();
    lambda.shutdown().await;
    assert!(
        lambda.tmp_dir().join("left").exists(),
        "what was left can be looked at"
    );
    assert!(lambda.invoke("{}").await.init_duration.is_some());
    assert!(!lambda.tmp_dir().join("left").exists());
}

#[tokio::test]
async fn a_spindown_of_nothing_is_nothing() {
    let lambda = function(ECHO).start().await.unwrap();
    assert!(lambda.shutdown().await.runtime.is_none());
}

/// A grandchild that has left its process group, and says its number.
const FORK: &str = "if os.fork() == 0:\n  os.setsid()\n  time.sleep(60)\n  os._exit(0)\n";

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn children_of(pid: u32) -> Vec<u32> {
    let tasks =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    tasks
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn wait_until_dead(pids: &[u32]) {
    let limit = Instant::now() + Duration::from_secs(5);
    while pids.iter().any(|pid| alive(*pid)) {
        assert!(Instant::now() < limit, "{pids:?} are still there");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn dropping_a_frozen_lambda_in_a_panic_leaves_no_process_and_no_file() {
    let opt = Opt::with(&format!("{FORK}{AGENT}"));
    for freeze in [Freeze::Auto, Freeze::Signals, Freeze::Off] {
        let lambda = with_extensions(ECHO, &opt)
            .freeze(freeze)
            .start()
            .await
            .unwrap();
        lambda.invoke("{}").await;
        let agent = lambda.pid("agent").unwrap();
        let mut pids = children_of(agent);
        assert_eq!(pids.len(), 1);
        pids.extend([agent, lambda.pid("runtime").unwrap()]);
        let tmp_dir = lambda.tmp_dir().to_owned();
        let panicked = std::thread::spawn(move || {
            let _lambda = lambda;
            std::panic::resume_unwind(Box::new("a test fails"));
        });
        assert!(panicked.join().is_err());
        wait_until_dead(&pids);
        assert!(!tmp_dir.exists());
        assert!(
            !Path::new(&format!("/proc/{agent}")).exists(),
            "it was reaped, too"
        );
    }
}
