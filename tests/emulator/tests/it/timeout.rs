//! The function's timeout: who is signalled, told and killed when, and what the next invocation finds.

use crate::setup::{AGENT, ECHO, Opt, QUICK, function, position, time, with_extensions};
use lambda_emulator::{Entry, Event, Exit};
use std::time::Duration;

const SLEEP: &str = "serve(lambda payload: time.sleep(60) or payload)";
const DEAF_SLEEP: &str = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: None)\nserve(lambda _: time.sleep(60) or '')";
const LIMIT: Duration = Duration::from_millis(300);

fn signalled(timeline: &[Entry], name: &str, which: &str) -> Duration {
    time(
        timeline,
        |event| matches!(event, Event::Signalled { process, signal } if process == name && signal == which),
    )
}

#[tokio::test]
async fn a_timeout_terminates_the_runtime_kills_it_600_ms_later_and_then_tells_extensions_what_is_left_of_2_s()
 {
    let opt = Opt::with(AGENT);
    let lambda = with_extensions(DEAF_SLEEP, &opt)
        .timeout(LIMIT)
        .start()
        .await
        .unwrap();
    lambda.init().await;
    let invocation = lambda.invoke("{}").await;
    assert_eq!(invocation.error_type(), Some("Sandbox.Timedout"));
    assert!(invocation.responded_after >= LIMIT && invocation.responded_after < LIMIT + QUICK);
    assert!(invocation.over_after >= LIMIT + Duration::from_millis(600));
    let timeline = lambda.timeline();
    let grace = signalled(&timeline, "runtime", "SIGKILL")
        .checked_sub(signalled(&timeline, "runtime", "SIGTERM"))
        .unwrap();
    assert!(
        grace >= Duration::from_millis(600) && grace < Duration::from_millis(600) + QUICK,
        "{grace:?}"
    );
    let dead = position(
        &timeline,
        |event| matches!(event, Event::ProcessExited { process, .. } if process == "runtime"),
    );
    let told = position(&timeline, |event| {
        matches!(event, Event::ShutdownDelivered { .. })
    });
    assert!(
        dead < told,
        "extensions are told only when the runtime is dead"
    );
    let Event::ShutdownDelivered {
        reason, budget_ms, ..
    } = &timeline[told].event
    else {
        unreachable!()
    };
    assert_eq!(reason, "TIMEOUT");
    assert!((900..=1_400).contains(budget_ms), "{budget_ms}");
}

#[tokio::test]
async fn a_runtime_that_heeds_sigterm_leaves_extensions_nearly_the_whole_2_s() {
    let opt = Opt::with(AGENT);
    let lambda = with_extensions(SLEEP, &opt)
        .timeout(LIMIT)
        .start()
        .await
        .unwrap();
    lambda.invoke("{}").await;
    let budget_ms = lambda
        .timeline()
        .into_iter()
        .find_map(|entry| match entry.event {
            Event::ShutdownDelivered { budget_ms, .. } => Some(budget_ms),
            _ => None,
        });
    assert!(budget_ms.unwrap() > 1_500, "{budget_ms:?}");
}

#[tokio::test]
async fn an_extension_that_does_not_leave_is_killed_2_s_after_the_timeout() {
    let opt = Opt::with("agent = Extension('INVOKE', 'SHUTDOWN')\nagent.serve()\ntime.sleep(60)");
    let lambda = with_extensions(SLEEP, &opt)
        .timeout(LIMIT)
        .start()
        .await
        .unwrap();
    lambda.init().await;
    let invocation = lambda.invoke("{}").await;
    let reset = invocation
        .over_after
        .saturating_sub(invocation.responded_after);
    assert!(
        reset >= Duration::from_millis(1_950) && reset < Duration::from_secs(2) + QUICK,
        "{reset:?}"
    );
    signalled(&lambda.timeline(), "agent", "SIGKILL");
}

#[tokio::test]
async fn an_extension_that_did_not_ask_for_shutdown_is_killed_at_once() {
    let opt = Opt::with("agent = Extension('INVOKE')\nwhile agent.event(): pass");
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    lambda.init().await;
    let report = lambda.shutdown().await;
    assert!(report.extensions[0].killed && !report.extensions[0].notified);
    assert_eq!(report.extensions[0].exit, Some(Exit::Signal(9)));
    assert!(report.took < Duration::from_secs(1));
}

#[tokio::test]
async fn without_extensions_the_runtime_is_killed_without_a_sigterm() {
    let lambda = function(DEAF_SLEEP).timeout(LIMIT).start().await.unwrap();
    lambda.init().await;
    let invocation = lambda.invoke("{}").await;
    assert!(invocation.over_after < LIMIT + QUICK);
    let timeline = lambda.timeline();
    assert!(!timeline.iter().any(
        |entry| matches!(&entry.event, Event::Signalled { signal, .. } if signal == "SIGTERM")
    ));
}

#[tokio::test]
async fn an_extension_that_holds_on_past_the_deadline_times_the_function_out_after_its_answer() {
    let opt = Opt::with(
        "agent = Extension('INVOKE', 'SHUTDOWN')\nagent.event()\ntime.sleep(1)\nagent.serve()",
    );
    let lambda = with_extensions(ECHO, &opt)
        .timeout(LIMIT)
        .start()
        .await
        .unwrap();
    lambda.init().await;
    let invocation = lambda.invoke("1").await;
    assert_eq!(invocation.text(), "1", "the caller has its answer");
    assert_eq!(
        invocation.fault.as_ref().unwrap().error_type,
        "Sandbox.Timedout"
    );
    assert!(!invocation.succeeded());
}

#[tokio::test]
async fn after_a_reset_both_are_started_anew_inside_the_next_invocation_and_tmp_is_kept() {
    let keep = "open(os.path.join(os.environ['TMPDIR'], 'agent'), 'a').write('x')\n";
    let opt = Opt::with(&format!("{keep}{AGENT}"));
    let script = "serve(lambda payload: time.sleep(60) if payload == '\"sleep\"' else payload)";
    let lambda = with_extensions(script, &opt)
        .timeout(Duration::from_secs(4))
        .start()
        .await
        .unwrap();
    lambda.init().await;
    assert_eq!(
        lambda.invoke("\"sleep\"").await.error_type(),
        Some("Sandbox.Timedout")
    );
    assert!(lambda.pid("agent").is_none() && lambda.pid("runtime").is_none());
    let next = lambda.invoke("1").await;
    assert_eq!(next.text(), "1");
    assert!(next.init_duration.is_some());
    assert_eq!(
        std::fs::read_to_string(lambda.tmp_dir().join("agent")).unwrap(),
        "xx"
    );
}
