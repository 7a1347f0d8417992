//! One invocation: who gets what when, and who waits for whom.

use crate::setup::{AGENT, ECHO, Opt, PATIENCE, QUICK, function, lines, time, with_extensions};
use lambda_emulator::{Event, InvokeDelivery};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[tokio::test]
async fn the_caller_is_answered_without_waiting_for_extensions() {
    let opt =
        Opt::with("agent = Extension('INVOKE', 'SHUTDOWN')\nwhile agent.event(): time.sleep(0.6)");
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    lambda.init().await;
    let invocation = lambda.invoke("\"hello\"").await;
    assert_eq!(invocation.text(), "\"hello\"");
    assert!(invocation.responded_after < QUICK, "{invocation:?}");
    assert!(
        invocation.held.unwrap() >= Duration::from_millis(500),
        "{invocation:?}"
    );
    assert!(invocation.over_after >= Duration::from_millis(600));
}

#[tokio::test]
async fn an_extension_without_invoke_holds_nothing_and_sees_no_invocation() {
    let opt = Opt::with("agent = Extension('SHUTDOWN')\nagent.serve()");
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    assert!(lambda.invoke("{}").await.succeeded());
    lambda.shutdown().await;
    assert!(
        !lines(&lambda, "agent")
            .iter()
            .any(|line| line.contains("INVOKE"))
    );
    assert!(
        lines(&lambda, "agent")
            .iter()
            .any(|line| line.contains("SHUTDOWN"))
    );
}

#[tokio::test]
async fn invocations_come_one_at_a_time() {
    let lambda = function("serve(lambda payload: time.sleep(0.2) or payload)")
        .start()
        .await
        .unwrap();
    let (first, second) = (lambda.invoke_detached("1"), lambda.invoke_detached("2"));
    let (first, second) = (first.finished().await, second.finished().await);
    assert_eq!(
        (first.text(), second.text()),
        ("1".to_owned(), "2".to_owned())
    );
    assert!(
        second.started_after.unwrap()
            >= first
                .over_after
                .checked_sub(Duration::from_millis(20))
                .unwrap()
    );
}

#[tokio::test]
async fn the_runtime_is_done_when_it_asks_again_and_not_when_it_has_answered() {
    let lambda = function("serve(afterwards=lambda: time.sleep(0.5))")
        .start()
        .await
        .unwrap();
    let invocation = lambda.invoke("{}").await;
    let work = invocation
        .runtime_done_after
        .unwrap()
        .saturating_sub(invocation.responded_after);
    assert!(work >= Duration::from_millis(450), "{invocation:?}");
}

#[tokio::test]
async fn the_deadline_is_the_wall_clock_time_at_which_the_function_times_out() {
    let opt = Opt::with(AGENT);
    let script = "while True:\n  request_id, _, headers = next_invocation()\n  \
                  respond(request_id, headers['Lambda-Runtime-Deadline-Ms'])";
    let lambda = with_extensions(script, &opt)
        .timeout(Duration::from_secs(7))
        .start()
        .await
        .unwrap();
    lambda.init().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let deadline: u64 = lambda.invoke("{}").await.text().parse().unwrap();
    let left = Duration::from_millis(deadline).saturating_sub(now);
    assert!(
        left <= Duration::from_millis(7_500) && left >= Duration::from_millis(6_900),
        "{left:?}"
    );
    let told = lambda
        .wait_for_log(PATIENCE, |line| {
            line.text.contains(&format!("\"deadlineMs\":{deadline}"))
        })
        .await;
    assert!(told.is_some(), "extensions are told the same");
}

#[tokio::test]
async fn a_handlers_error_reaches_the_caller_and_the_environment_goes_on() {
    let script = "while True:\n  request_id, payload, _ = next_invocation()\n  \
                  fail(request_id, '{\"errorType\":\"KeyError\",\"errorMessage\":\"x\"}')";
    let lambda = function(script).start().await.unwrap();
    for _ in 0..2 {
        let invocation = lambda.invoke("{}").await;
        assert_eq!(invocation.error_type(), Some("KeyError"));
        assert!(invocation.fault.is_none());
    }
    let starts = lambda
        .timeline()
        .iter()
        .filter(|entry| matches!(entry.event, Event::ProcessStarted { .. }))
        .count();
    assert_eq!(starts, 1);
}

#[tokio::test]
async fn an_answer_to_another_invocation_is_refused() {
    let script = "while True:\n  request_id, payload, _ = next_invocation()\n  \
                  status = respond('someone-else', 'x')\n  respond(request_id, str(status))";
    let lambda = function(script).start().await.unwrap();
    assert_eq!(lambda.invoke("{}").await.text(), "400");
}

#[tokio::test]
async fn a_response_of_more_than_6_mb_is_refused() {
    let lambda = function("serve(lambda payload: 'x' * (6 * 1024 * 1024 + 101))")
        .start()
        .await
        .unwrap();
    assert_eq!(
        lambda.invoke("{}").await.error_type(),
        Some("Function.ResponseSizeTooLarge")
    );
    let payload = vec![b'x'; 6 * 1024 * 1024 + 101];
    assert_eq!(
        lambda.invoke(payload).await.error_type(),
        Some("RequestEntityTooLarge")
    );
}

#[tokio::test]
async fn the_invoke_event_may_come_after_the_handler_has_answered() {
    let opt = Opt::with(AGENT);
    let delivery = InvokeDelivery::AfterResponse(Duration::from_millis(100));
    let lambda = with_extensions(ECHO, &opt)
        .invoke_delivery(delivery)
        .start()
        .await
        .unwrap();
    for _ in 0..2 {
        let invocation = lambda.invoke("{}").await;
        assert!(
            invocation.over_after >= invocation.responded_after + Duration::from_millis(100),
            "{invocation:?}"
        );
    }
    let timeline = lambda.timeline();
    let answered = time(&timeline, |event| {
        matches!(event, Event::ResponseEnded { .. })
    });
    let told = time(
        &timeline,
        |event| matches!(event, Event::InvokeDelivered { process, .. } if process == "agent"),
    );
    assert!(told >= answered + Duration::from_millis(90));
}

#[tokio::test]
async fn an_internal_extension_may_register_from_within_the_runtime() {
    let script = "status, headers, _ = call('POST', '/2020-01-01/extension/register', '{\"events\":[]}', \
                  {'Lambda-Extension-Name': 'inside'})\n\
                  import threading\n\
                  ask = {'Lambda-Extension-Identifier': headers['Lambda-Extension-Identifier']}\n\
                  threading.Thread(target=call, args=('GET', '/2020-01-01/extension/event/next', None, ask), daemon=True).start()\n\
                  serve(lambda payload: str(status))";
    let lambda = function(script).start().await.unwrap();
    assert_eq!(lambda.invoke("{}").await.text(), "200");
}
