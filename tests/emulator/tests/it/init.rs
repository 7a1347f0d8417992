//! Who is started when, who may register, and what ends the init phase.

use crate::setup::{AGENT, ECHO, Opt, function, lines, position, time, with_extensions};
use lambda_emulator::Event;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

#[tokio::test]
async fn extensions_are_started_in_the_order_of_their_names_and_register_before_the_runtime_starts()
{
    let opt = Opt::new().and("b", AGENT).and("a", AGENT).and("c", AGENT);
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    assert!(
        lambda.timeline().is_empty(),
        "nothing runs before the first invocation"
    );
    assert!(lambda.init().await.error.is_none());
    let timeline = lambda.timeline();
    let started: Vec<_> = timeline
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::ProcessStarted { process, .. } => Some(process.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(started, ["a", "b", "c", "runtime"]);
    let runtime = position(
        &timeline,
        |event| matches!(event, Event::ProcessStarted { process, .. } if process == "runtime"),
    );
    let registered = timeline[..runtime]
        .iter()
        .filter(|entry| matches!(entry.event, Event::Registered { .. }));
    assert_eq!(registered.count(), 3);
}

#[tokio::test]
async fn init_ends_when_the_slowest_extension_asks_for_its_first_event() {
    let opt = Opt::with("agent = Extension('INVOKE', 'SHUTDOWN')\ntime.sleep(0.4)\nagent.serve()");
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    let invocation = lambda.invoke("{}").await;
    assert!(invocation.init_duration.unwrap() >= Duration::from_millis(400));
    assert!(invocation.started_after.unwrap() >= Duration::from_millis(400));
    let timeline = lambda.timeline();
    let runtime_asked = time(
        &timeline,
        |event| matches!(event, Event::NextCalled { process } if process == "runtime"),
    );
    let ended = time(&timeline, |event| {
        matches!(event, Event::InitEnded { error: None, .. })
    });
    assert!(runtime_asked < ended);
    assert!(lambda.invoke("{}").await.init_duration.is_none());
}

#[tokio::test]
async fn the_registered_name_must_be_that_of_the_file() {
    let opt = Opt::with("Extension('INVOKE', name='other')");
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    assert!(lambda.init().await.error.is_some());
    let refused = lambda
        .timeline()
        .into_iter()
        .find_map(|entry| match entry.event {
            Event::RegisterRefused { status, .. } => Some(status),
            _ => None,
        });
    assert_eq!(refused, Some(403));
}

#[tokio::test]
async fn a_file_that_cannot_be_executed_makes_the_function_unusable() {
    let opt = Opt::with(AGENT);
    fs::set_permissions(opt.file("agent"), fs::Permissions::from_mode(0o644)).unwrap();
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            lambda.invoke("{}").await.error_type(),
            Some("Extension.LaunchError")
        );
    }
}

#[tokio::test]
async fn an_extension_that_never_registers_makes_every_invocation_time_out_and_the_runtime_never_starts()
 {
    let opt = Opt::with("time.sleep(60)");
    let limit = Duration::from_millis(400);
    let lambda = with_extensions(ECHO, &opt)
        .init_limit(limit)
        .timeout(limit)
        .start()
        .await
        .unwrap();
    let first = lambda.invoke("{}").await;
    assert_eq!(first.error_type(), Some("Sandbox.Timedout"));
    assert!(
        first.responded_after >= limit * 2,
        "init is tried again inside the function's timeout"
    );
    let second = lambda.invoke("{}").await;
    assert_eq!(second.error_type(), Some("Sandbox.Timedout"));
    assert!(
        second.responded_after < limit * 2,
        "later there is the function's timeout alone"
    );
    let runtime = |event: &Event| event.process() == Some("runtime");
    assert!(!lambda.timeline().iter().any(|entry| runtime(&entry.event)));
}

#[tokio::test]
async fn an_init_that_failed_is_tried_again_by_the_first_invocation() {
    let marker = "os.path.join(os.environ['TMPDIR'], 'second')";
    let script =
        format!("if not os.path.exists({marker}):\n  open({marker}, 'w')\n  sys.exit(3)\n{AGENT}");
    let opt = Opt::with(&script);
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    assert_eq!(
        lambda.init().await.error.unwrap().error_type,
        "Extension.Crash"
    );
    assert!(lambda.invoke("{}").await.succeeded());
}

#[tokio::test]
async fn an_error_of_the_runtimes_init_is_what_the_caller_gets() {
    let report = r#"call("POST", "/2018-06-01/runtime/init/error", '{"errorType":"ImportError","errorMessage":"no"}')"#;
    let lambda = function(report).start().await.unwrap();
    assert_eq!(lambda.invoke("{}").await.error_type(), Some("ImportError"));
}

#[tokio::test]
async fn an_extension_may_report_that_its_init_failed() {
    let report = "agent = Extension()\nagent.headers['Lambda-Extension-Function-Error-Type'] = 'Agent.NoKeys'\n\
                  call('POST', '/2020-01-01/extension/init/error', '', agent.headers)\ntime.sleep(60)";
    let opt = Opt::with(report);
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    let error = lambda.init().await.error.unwrap();
    assert_eq!(error.error_type, "Extension.InitError");
    assert!(error.error_message.contains("Agent.NoKeys"));
}

#[tokio::test]
async fn extensions_see_lambdas_environment_without_what_is_the_functions_alone() {
    let print = "for name, value in os.environ.items(): say(f'{name}={value}')\n";
    let opt = Opt::with(&format!("{print}{AGENT}"));
    let lambda = with_extensions(&format!("{print}{ECHO}"), &opt)
        .function_name("shop")
        .memory_mb(256)
        .extension_env("FOR_EXTENSIONS", "1")
        .function_env("FOR_THE_FUNCTION", "1")
        .start()
        .await
        .unwrap();
    lambda.init().await;
    lambda.shutdown().await;
    let (agent, runtime) = (lines(&lambda, "agent"), lines(&lambda, "runtime"));
    let has = |lines: &[String], name: &str| {
        lines
            .iter()
            .any(|line| line.starts_with(&format!("{name}=")))
    };
    for both in [
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_REGION",
        "TMPDIR",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
    ] {
        assert!(has(&agent, both) && has(&runtime, both), "{both}");
    }
    for alone in [
        "_HANDLER",
        "LAMBDA_TASK_ROOT",
        "AWS_EXECUTION_ENV",
        "FOR_THE_FUNCTION",
    ] {
        assert!(!has(&agent, alone) && has(&runtime, alone), "{alone}");
    }
    assert!(has(&agent, "FOR_EXTENSIONS") && !has(&runtime, "FOR_EXTENSIONS"));
    assert!(agent.contains(&"AWS_LAMBDA_FUNCTION_NAME=shop".to_owned()));
    assert!(agent.contains(&"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=256".to_owned()));
    assert!(!has(&agent, "CARGO_MANIFEST_DIR"), "nothing is inherited");
}

#[tokio::test]
async fn there_are_at_most_10_extensions() {
    let opt = (0..11).fold(Opt::new(), |opt, number| {
        opt.and(&format!("agent{number}"), AGENT)
    });
    let lambda = with_extensions(ECHO, &opt).start().await.unwrap();
    assert_eq!(
        lambda.init().await.error.unwrap().error_type,
        "Extension.LimitExceeded"
    );
}

#[tokio::test]
async fn an_extension_may_speak_the_runtime_api_for_the_function_as_the_web_adapter_does() {
    let adapter = "import threading\nadapter = Extension()\n\
                   threading.Thread(target=adapter.next, daemon=True).start()\nimport function\nfunction.serve()";
    let opt = Opt::new().and("adapter", adapter).and("agent", AGENT);
    let lambda = with_extensions("time.sleep(60)", &opt)
        .start()
        .await
        .unwrap();
    for payload in ["1", "2"] {
        assert_eq!(lambda.invoke(payload).await.text(), payload);
    }
    let report = lambda.shutdown().await;
    let killed: Vec<_> = report
        .extensions
        .iter()
        .map(|end| (end.name.as_str(), end.killed))
        .collect();
    assert_eq!(killed, [("adapter", true), ("agent", false)]);
}
