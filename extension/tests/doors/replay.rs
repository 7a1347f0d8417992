//! What real clients were recorded sending arrives as if they had sent it to Langfuse themselves.

use std::collections::BTreeMap;

use lambda_emulator::fake_langfuse::{FakeLangfuse, Recording};
use langfuse_extension::settings::Passthrough;

use crate::fixture::Fixture;
use crate::support::{Doors, PATIENCE, Setup, lists_of_scores};

/// Everything stored or refused, in a form in which two runs can be compared: whose it is, what it is, and the headers
/// by which Langfuse chooses how to store it. Only compression may differ.
fn received(langfuse: &FakeLangfuse) -> Vec<(bool, String, String, BTreeMap<String, String>)> {
    let headers = |headers: &BTreeMap<String, String>| {
        let mut headers = headers.clone();
        headers.remove("content-encoding");
        headers
    };
    langfuse.read(|recording| {
        assert_eq!(recording.left_out_count(), 0);
        let observations = recording
            .observations()
            .chain(recording.refused_observations());
        let observations = observations.map(|it| {
            let project = it.project.clone().unwrap_or_default();
            (
                it.accepted,
                project,
                it.canonical(),
                headers(&it.storage_headers),
            )
        });
        let events = recording
            .events()
            .chain(recording.refused_events())
            .map(|it| {
                let project = it.project.clone().unwrap_or_default();
                // Through either door a score is stored as it is; the event around it is made by us or by Langfuse.
                let what = if it.is_score() {
                    it.body.to_string()
                } else {
                    it.canonical()
                };
                (it.accepted, project, what, headers(&it.storage_headers))
            });
        let mut all: Vec<_> = observations.chain(events).collect();
        all.sort();
        all
    })
}

fn count(it: &Recording) -> usize {
    let observations = it.observations().count() + it.refused_observations().count();
    observations + it.events().count() + it.refused_events().count()
}

#[tokio::test]
async fn each_recorded_request_alone_arrives_as_if_sent_directly() {
    let direct = FakeLangfuse::start(lists_of_scores()).unwrap();
    let mut doors = Doors::open(Setup::default()).await;
    let mut compared = 0;
    for fixture in Fixture::all().into_iter().filter(Fixture::carries_data) {
        doors.invoke();
        let answer = fixture.send(&doors.client, &doors.url).await;
        assert!(
            answer.status().is_success(),
            "{}: {}",
            fixture.id,
            answer.status()
        );
        doors.finish().await;
        let id = fixture.id.clone();
        fixture
            .for_langfuse()
            .send(&doors.client, &direct.url())
            .await;
        let expected = direct.read(count);
        assert!(expected > 0, "{id}");
        let arrived = doors
            .langfuse
            .wait_until(PATIENCE, |it| count(it) >= expected);
        assert!(arrived.await, "{id}");
        assert_eq!(received(&doors.langfuse), received(&direct), "{id}");
        doors.langfuse.clear_recordings();
        direct.clear_recordings();
        compared += 1;
    }
    assert!(compared > 60, "only {compared}");
}

#[tokio::test]
async fn all_recorded_requests_of_one_invocation_arrive_as_if_sent_directly_in_fewer_requests() {
    let direct = FakeLangfuse::start(lists_of_scores()).unwrap();
    let mut doors = Doors::open(Setup::default()).await;
    doors.invoke();
    let mut sent = 0;
    for fixture in Fixture::all().into_iter().filter(Fixture::carries_data) {
        let answer = fixture.send(&doors.client, &doors.url).await;
        assert!(answer.status().is_success(), "{}", fixture.id);
        fixture
            .for_langfuse()
            .send(&doors.client, &direct.url())
            .await;
        sent += 1;
    }
    doors.finish().await;
    let expected = direct.read(count);
    let arrived = doors
        .langfuse
        .wait_until(PATIENCE, |it| count(it) >= expected);
    let arrived = arrived.await;
    let status = doors.get("/status").await.text().await.unwrap();
    assert!(arrived, "{expected} expected: {status}");
    assert_eq!(received(&doors.langfuse), received(&direct));
    let requests = doors.langfuse.requests().len();
    assert!(requests * 2 < sent, "{requests} requests for {sent}");
}

#[tokio::test]
async fn every_other_recorded_request_reaches_langfuse_as_it_was_and_gets_its_answer() {
    let direct = FakeLangfuse::start(lists_of_scores()).unwrap();
    let mut setup = Setup::default();
    setup.receiver.prompt_cache = false;
    setup.receiver.passthrough = Passthrough::All;
    let doors = Doors::open(setup).await;
    let through = Fixture::all()
        .into_iter()
        .filter(|it| it.kind == "passthrough");
    let mut compared = 0;
    for fixture in through {
        let answer = fixture.send(&doors.client, &doors.url).await;
        let expected = fixture.send(&doors.client, &direct.url()).await;
        assert_eq!(answer.status(), expected.status(), "{}", fixture.id);
        let content_type = |it: &reqwest::Response| it.headers().get("content-type").cloned();
        assert_eq!(
            content_type(&answer),
            content_type(&expected),
            "{}",
            fixture.id
        );
        assert_eq!(
            answer.content_length().is_some(),
            expected.content_length().is_some()
        );
        answer.bytes().await.unwrap();
        compared += 1;
    }
    assert!(compared > 25, "only {compared}");
    let head = |langfuse: &FakeLangfuse| -> Vec<_> {
        let requests = langfuse.requests();
        let requests = requests.iter().map(|it| {
            let mut headers = it.headers.clone();
            // Prompts are asked for uncompressed, so that their wait can be counted to the last byte.
            let differs = ["host", "langfuse-extension-hop", "accept-encoding"];
            headers.retain(|(name, _)| !differs.contains(&name.as_str()));
            headers.sort();
            (
                it.method.clone(),
                it.target.clone(),
                headers,
                it.body.clone(),
                it.status,
            )
        });
        requests.collect()
    };
    assert_eq!(head(&doors.langfuse), head(&direct));
}
