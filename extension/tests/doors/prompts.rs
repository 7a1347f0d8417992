//! A prompt that this sandbox has seen costs nothing more, whatever Langfuse does.

use std::time::{Duration, Instant};

use lambda_emulator::fake_langfuse::{Fault, Prompt};
use serde_json::Value;

use crate::support::{Doors, SECOND, Setup};

const GREETING: &str = "/api/public/v2/prompts/greeting";

async fn text_of(doors: &Doors, path: &str) -> String {
    let answer = doors.get(path).await;
    assert_eq!(answer.status(), 200, "{path}");
    let prompt: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    prompt["prompt"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_prompt_is_asked_for_once_and_answered_alike() {
    let doors = Doors::open(Setup::default()).await;
    let first = doors.get(GREETING).await;
    let second = doors.get(GREETING).await;
    assert_eq!(
        first.headers()["content-type"],
        second.headers()["content-type"]
    );
    assert_eq!(first.bytes().await.unwrap(), second.bytes().await.unwrap());
    assert_eq!(doors.asked(GREETING), 1);
}

#[tokio::test]
async fn another_query_or_credential_is_another_prompt() {
    let doors = Doors::open(Setup::default()).await;
    text_of(&doors, GREETING).await;
    assert_eq!(
        text_of(&doors, &format!("{GREETING}?version=1")).await,
        "Hello {{name}}"
    );
    let second = doors.client.get(format!("{}{GREETING}", doors.url));
    let second = second.header("authorization", SECOND).send().await.unwrap();
    assert_eq!(second.status(), 200);
    let forged = doors.client.get(format!("{}{GREETING}", doors.url));
    // The right public key with the wrong secret.
    let forged = forged.header("authorization", "Basic cGstbGYtdGVzdDp3cm9uZw==");
    assert_eq!(forged.send().await.unwrap().status(), 401);
    let projects: Vec<_> = doors
        .langfuse
        .requests()
        .iter()
        .map(|it| it.project.clone())
        .collect();
    let (first, second) = (
        Some("project-test".to_owned()),
        Some("project-second".to_owned()),
    );
    assert_eq!(projects, [first.clone(), first, second, None]);
}

#[tokio::test]
async fn a_seen_prompt_costs_nothing_while_langfuse_hangs() {
    let doors = Doors::open(Setup::default()).await;
    text_of(&doors, GREETING).await;
    doors.langfuse.set_fault(Fault::HangBeforeAccepting);
    let start = Instant::now();
    text_of(&doors, GREETING).await;
    assert!(start.elapsed() < Duration::from_millis(200));
    assert_eq!(
        doors.get("/api/public/v2/prompts/unseen").await.status(),
        424
    );
}

#[tokio::test]
async fn what_langfuse_does_not_have_is_not_kept() {
    let doors = Doors::open(Setup::default()).await;
    let path = "/api/public/v2/prompts/missing";
    assert_eq!(doors.get(path).await.status(), 404);
    doors
        .langfuse
        .set_prompts(vec![Prompt::text("missing", 1, "found")]);
    assert_eq!(text_of(&doors, path).await, "found");
}

#[tokio::test]
async fn a_prompt_changed_through_us_is_asked_for_again() {
    let doors = Doors::open(Setup::default()).await;
    text_of(&doors, GREETING).await;
    let new = serde_json::json!({"name": "greeting", "prompt": "Hi", "labels": ["production"]});
    assert_eq!(doors.post("/api/public/v2/prompts", &new).await, 201);
    assert_eq!(text_of(&doors, GREETING).await, "Hi");
}

#[tokio::test]
async fn without_the_setting_every_prompt_is_asked_for() {
    let mut setup = Setup::default();
    setup.receiver.prompt_cache = false;
    let doors = Doors::open(setup).await;
    text_of(&doors, GREETING).await;
    text_of(&doors, GREETING).await;
    assert_eq!(doors.asked(GREETING), 2);
}

#[tokio::test]
async fn a_prompt_too_large_to_keep_comes_whole_every_time() {
    let doors = Doors::open(Setup::default()).await;
    let text = "x".repeat(3 << 20);
    doors
        .langfuse
        .set_prompts(vec![Prompt::text("greeting", 1, &text)]);
    for _ in 0..2 {
        assert!(text_of(&doors, GREETING).await == text);
    }
    assert_eq!(doors.asked(GREETING), 2);
}

fn ages(fresh: Duration, revalidated: Duration) -> Setup {
    let mut setup = Setup::default();
    setup.receiver.limits.prompt_fresh = fresh;
    setup.receiver.limits.prompt_revalidated = revalidated;
    setup
}

#[tokio::test]
async fn a_stale_prompt_is_answered_at_once_and_asked_for_in_the_background() {
    let doors = Doors::open(ages(Duration::ZERO, Duration::from_hours(1))).await;
    text_of(&doors, GREETING).await;
    doors
        .langfuse
        .set_prompts(vec![Prompt::text("greeting", 4, "new")]);
    assert_eq!(text_of(&doors, GREETING).await, "Hello again {{name}}");
    let start = Instant::now();
    while text_of(&doors, GREETING).await != "new" {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn a_background_request_that_fails_neither_costs_the_prompt_nor_blames_langfuse() {
    let doors = Doors::open(ages(Duration::from_nanos(1), Duration::from_hours(1))).await;
    text_of(&doors, GREETING).await;
    doors
        .langfuse
        .set_fault(Fault::ResetBeforeResponse { accept: false });
    text_of(&doors, GREETING).await;
    let twice = doors
        .langfuse
        .wait_until(Duration::from_secs(10), |it| it.requests().len() > 1);
    assert!(twice.await);
    doors.langfuse.clear_faults();
    assert_eq!(doors.get("/api/public/projects").await.status(), 200);
    text_of(&doors, GREETING).await;
}

#[tokio::test]
async fn an_old_prompt_is_better_than_none() {
    let doors = Doors::open(ages(Duration::ZERO, Duration::ZERO)).await;
    text_of(&doors, GREETING).await;
    text_of(&doors, GREETING).await;
    assert_eq!(doors.asked(GREETING), 2);
    for fault in [
        Fault::status(500),
        Fault::too_many_requests(1),
        Fault::Refuse,
    ] {
        doors.langfuse.set_fault(fault);
        assert_eq!(text_of(&doors, GREETING).await, "Hello again {{name}}");
    }
}

#[tokio::test]
async fn a_prompt_that_langfuse_has_no_more_is_forgotten() {
    let doors = Doors::open(ages(Duration::ZERO, Duration::ZERO)).await;
    text_of(&doors, GREETING).await;
    doors.langfuse.set_prompts(Vec::new());
    assert_eq!(doors.get(GREETING).await.status(), 404);
    doors.langfuse.set_fault(Fault::Refuse);
    assert_eq!(doors.get(GREETING).await.status(), 424);
}

#[tokio::test]
async fn repeats_of_an_unseen_prompt_wait_no_longer_together_than_one_may() {
    let patience = Duration::from_millis(600);
    for fault in [
        Fault::HangBeforeAccepting,
        Fault::StallMidResponse,
        Fault::slow_drip(Duration::from_millis(20)),
    ] {
        let mut setup = Setup::default();
        setup.receiver.limits.passthrough_timeout = patience;
        let doors = Doors::open(setup).await;
        doors.langfuse.set_fault(fault.clone());
        let start = Instant::now();
        for _ in 0..4 {
            assert_eq!(doors.get(GREETING).await.status(), 424, "{fault:?}");
        }
        let took = start.elapsed();
        assert!(took < 2 * patience, "{fault:?}: {took:?}");
        assert_eq!(doors.asked(GREETING), 1, "{fault:?}");
    }
}
