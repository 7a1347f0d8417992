//! What goes wrong on the platform's side, on demand.

use crate::setup::{AGENT, ECHO, Opt, lines, with_extensions};
use lambda_emulator::{Event, Fault};
use serde_json::json;
use std::time::Duration;

/// Goes on whatever `next` answers, until SHUTDOWN comes in one piece.
const STUBBORN: &str = "agent = Extension('INVOKE', 'SHUTDOWN')\n\
                        while 'SHUTDOWN' not in agent.next()[1]: time.sleep(0.01)";

#[tokio::test]
async fn next_may_fail_so_many_times() {
    let opt = Opt::with(STUBBORN);
    let fault = Fault::NextFails {
        status: 503,
        times: 3,
    };
    let lambda = with_extensions(ECHO, &opt)
        .fault(fault)
        .start()
        .await
        .unwrap();
    assert!(lambda.invoke("{}").await.succeeded());
    lambda.shutdown().await;
    let failures = lines(&lambda, "agent")
        .iter()
        .filter(|line| line.starts_with("next 503"))
        .count();
    assert_eq!(failures, 3);
}

#[tokio::test]
async fn register_may_fail_or_be_slow() {
    let retrying = "agent = Extension('SHUTDOWN')\nwhile agent.status != 200: agent = Extension('SHUTDOWN')\nagent.serve()";
    let opt = Opt::with(retrying);
    let lambda = with_extensions(ECHO, &opt)
        .fault(Fault::RegisterFails {
            status: 500,
            error_type: "Extension.Unavailable".to_owned(),
            times: 2,
        })
        .fault(Fault::RegisterSlow(Duration::from_millis(100)))
        .start()
        .await
        .unwrap();
    let report = lambda.init().await;
    assert!(
        report.error.is_none() && report.took >= Duration::from_millis(300),
        "{report:?}"
    );
    let refused = lambda
        .timeline()
        .into_iter()
        .filter(|entry| matches!(entry.event, Event::RegisterRefused { .. }));
    assert_eq!(refused.count(), 2);
}

#[tokio::test]
async fn an_event_may_be_broken_json() {
    let opt = Opt::with(STUBBORN);
    let lambda = with_extensions(ECHO, &opt)
        .fault(Fault::MalformedEvent { times: 1 })
        .start()
        .await
        .unwrap();
    assert!(lambda.invoke("{}").await.succeeded());
    lambda.shutdown().await;
    let lines = lines(&lambda, "agent");
    let events: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("next 200 "))
        .collect();
    assert!(serde_json::from_str::<serde_json::Value>(events[0]).is_err());
    assert!(serde_json::from_str::<serde_json::Value>(events[1]).is_ok());
}

#[tokio::test]
async fn a_deadline_may_be_absurd_until_it_is_healed_and_for_one_extension_alone() {
    let opt = Opt::with(AGENT).and("other", AGENT);
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    lambda.inject_for("agent", Fault::InvokeDeadline(json!(5_000_000_000_u64)));
    lambda.invoke("{}").await;
    lambda.heal();
    lambda.inject(Fault::InvokeDeadline(json!(null)));
    lambda.invoke("{}").await;
    lambda.shutdown().await;
    let deadlines = |name: &str| -> Vec<Option<u64>> {
        let lines = lines(&lambda, name);
        let events = lines
            .iter()
            .filter_map(|line| line.strip_prefix("next 200 "));
        let events = events.map(|event| serde_json::from_str::<serde_json::Value>(event).unwrap());
        events
            .filter(|event| event["eventType"] == "INVOKE")
            .map(|event| event["deadlineMs"].as_u64())
            .collect()
    };
    assert_eq!(deadlines("agent"), [Some(5_000_000_000), None]);
    assert!(deadlines("other")[0].unwrap() > 1_600_000_000_000);
}
