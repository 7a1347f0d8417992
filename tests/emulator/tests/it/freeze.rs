//! Between invocations nothing runs, whatever was forked.

use crate::setup::{AGENT, ECHO, Opt, PATIENCE, with_extensions};
use lambda_emulator::{Error, Event, Freeze, FreezerKind, Lambda};
use std::time::Duration;

/// A child of the extension that counts, into a file of `TMPDIR`, for as long as it runs.
const COUNTING_CHILD: &str = r#"
if os.fork() == 0:
  count = 0
  while True:
    count += 1
    with open(os.path.join(os.environ["TMPDIR"], "count.new"), "w") as file: file.write(str(count))
    os.rename(file.name, os.path.join(os.environ["TMPDIR"], "count"))
    time.sleep(0.002)
"#;

fn count(lambda: &Lambda) -> u64 {
    std::fs::read_to_string(lambda.tmp_dir().join("count")).map_or(0, |text| text.parse().unwrap())
}

/// An invocation that lasts until the child has counted further.
async fn invoke_until_counted(lambda: &Lambda) {
    let before = count(lambda);
    for _ in 0..1_000 {
        assert!(lambda.invoke("{}").await.succeeded());
        if count(lambda) > before {
            return;
        }
    }
    panic!("the child does not count");
}

async fn stands_still_between_invocations(freeze: Freeze, kind: FreezerKind) {
    let opt = Opt::with(&format!("{COUNTING_CHILD}{AGENT}"));
    let slowly = "serve(lambda payload: time.sleep(0.02) or payload)";
    let lambda = match with_extensions(slowly, &opt).freeze(freeze).start().await {
        Err(Error::NoFreezer(_)) => return eprintln!("{freeze:?} cannot be tested here"),
        started => started.unwrap(),
    };
    assert_eq!(lambda.freezer(), kind);
    for _ in 0..3 {
        invoke_until_counted(&lambda).await;
        let frozen_at = count(&lambda);
        lambda.pause(Duration::from_millis(200)).await;
        assert_eq!(count(&lambda), frozen_at);
    }
    assert!(
        lambda
            .shutdown()
            .await
            .extensions
            .iter()
            .all(|agent| !agent.killed)
    );
}

#[tokio::test]
async fn the_v2_freezer_stops_the_children_too() {
    stands_still_between_invocations(Freeze::CgroupV2, FreezerKind::CgroupV2).await;
}

#[tokio::test]
async fn the_v1_freezer_stops_the_children_too() {
    stands_still_between_invocations(Freeze::CgroupV1, FreezerKind::CgroupV1).await;
}

#[tokio::test]
async fn signals_stop_the_children_too() {
    stands_still_between_invocations(Freeze::Signals, FreezerKind::Signals).await;
}

#[tokio::test]
async fn without_freezing_the_child_goes_on() {
    let opt = Opt::with(&format!("{COUNTING_CHILD}{AGENT}"));
    let lambda = with_extensions(ECHO, &opt)
        .freeze(Freeze::Off)
        .start()
        .await
        .unwrap();
    lambda.invoke("{}").await;
    let before = count(&lambda);
    lambda.pause(Duration::from_millis(300)).await;
    assert!(count(&lambda) > before);
    assert!(
        !lambda
            .timeline()
            .iter()
            .any(|entry| matches!(entry.event, Event::Frozen { .. }))
    );
}

#[tokio::test]
async fn the_timeline_tells_how_long_the_freeze_was() {
    let opt = Opt::with(AGENT);
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    lambda.init().await;
    lambda.pause(Duration::from_millis(150)).await;
    lambda.invoke("{}").await;
    let thawed = lambda
        .timeline()
        .into_iter()
        .find_map(|entry| match entry.event {
            Event::Thawed { after_ms } => Some(after_ms),
            _ => None,
        });
    assert!(thawed.unwrap() >= 150);
}

#[tokio::test]
async fn a_test_may_freeze_and_thaw_in_the_middle_of_an_invocation() {
    let opt = Opt::with(&format!("{COUNTING_CHILD}{AGENT}"));
    let script = "serve(lambda payload: say('working') or time.sleep(0.1) or payload)";
    let lambda = with_extensions(script, &opt).start().await.unwrap();
    let handle = lambda.invoke_detached("{}");
    assert!(
        lambda
            .wait_for_log(PATIENCE, |line| line.text == "working")
            .await
            .is_some()
    );
    lambda.freeze();
    let frozen_at = count(&lambda);
    assert!(
        lambda
            .wait_for(Duration::from_millis(300), |entry| matches!(
                entry.event,
                Event::ResponseEnded { .. }
            ))
            .await
            .is_none()
    );
    assert_eq!(count(&lambda), frozen_at);
    lambda.thaw();
    assert!(handle.finished().await.responded_after >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_cpu_quota_slows_what_computes() {
    let script = "def spin(payload):\n  until = time.process_time() + 0.2\n  while time.process_time() < until: pass\n  \
                  return payload\nserve(spin)";
    let opt = Opt::new();
    let lambda = with_extensions(script, &opt)
        .cpu_quota(0.25)
        .start()
        .await
        .unwrap();
    if !lambda.cpu_quota_in_force() {
        return eprintln!("no CPU quota can be set here");
    }
    lambda.init().await;
    let invocation = lambda.invoke("{}").await;
    assert!(
        invocation.handler_duration() >= Duration::from_millis(450),
        "{invocation:?}"
    );
}
