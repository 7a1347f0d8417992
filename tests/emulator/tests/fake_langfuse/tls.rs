//! HTTPS, and what a client must not accept.

use lambda_emulator::fake_langfuse::{Config, FakeLangfuse, Fault, FaultRule, TlsFailure};
use reqwest::{Certificate, Client};

use crate::client::*;

fn start_tls() -> FakeLangfuse {
    FakeLangfuse::start(Config {
        tls: true,
        ..Config::default()
    })
    .unwrap()
}

fn trusting_client(langfuse: &FakeLangfuse, timeout: std::time::Duration) -> Client {
    let pem = std::fs::read(langfuse.ca_file().unwrap()).unwrap();
    let authority = Certificate::from_pem(&pem).unwrap();
    client_with(|builder| builder.timeout(timeout).tls_certs_only([authority]))
}

#[tokio::test]
async fn https_works_for_whoever_trusts_the_authority() {
    let langfuse = start_tls();
    assert!(langfuse.url().starts_with("https://127.0.0.1:"));
    let client = trusting_client(&langfuse, PATIENCE);
    assert_eq!(
        try_post(&client, &langfuse, TRACES, &one_span("a", "b"))
            .await
            .unwrap()
            .status(),
        200
    );
    let by_name = format!(
        "https://localhost:{}/api/public/health",
        langfuse.address().port()
    );
    assert_eq!(client.get(by_name).send().await.unwrap().status(), 200);
    let stranger = trusting_client(&start_tls(), PATIENCE);
    assert!(
        try_post(&stranger, &langfuse, TRACES, &one_span("a", "b"))
            .await
            .is_err()
    );
    assert_eq!(langfuse.requests().len(), 2);
}

#[tokio::test]
async fn every_tls_failure_keeps_clients_away_until_it_is_cleared() {
    let langfuse = start_tls();
    for failure in [
        TlsFailure::Expired,
        TlsFailure::WrongName,
        TlsFailure::UnknownAuthority,
        TlsFailure::Garbage,
        TlsFailure::Hang,
    ] {
        // A new client each time: what is tested is the handshake, not a connection kept from before.
        let client = || trusting_client(&langfuse, IMPATIENCE * 5);
        try_post(&client(), &langfuse, TRACES, &one_span("a", "b"))
            .await
            .unwrap();
        langfuse.clear_recordings();
        langfuse.set_fault(Fault::tls(failure));
        let error = try_post(&client(), &langfuse, TRACES, &one_span("a", "b"))
            .await
            .unwrap_err();
        assert!(
            error.is_connect() || error.is_timeout(),
            "{failure:?}: {error:?}"
        );
        let cause = format!("{error:?}");
        let expected = match failure {
            TlsFailure::Expired => "Expired",
            TlsFailure::WrongName => "NotValidForName",
            TlsFailure::UnknownAuthority => "UnknownIssuer",
            TlsFailure::Garbage => "InvalidMessage",
            TlsFailure::Hang => "TimedOut",
        };
        assert!(
            cause.contains(expected) || cause.contains("BadSignature"),
            "{failure:?}: {cause}"
        );
        assert!(langfuse.requests().is_empty(), "{failure:?}");
        langfuse.clear_faults();
    }
}

#[tokio::test]
async fn a_tls_failure_can_be_limited_to_the_first_connections() {
    let langfuse = start_tls();
    let client = trusting_client(&langfuse, PATIENCE);
    langfuse.set_fault(FaultRule::from(Fault::tls(TlsFailure::Expired)).first(1));
    assert!(
        try_post(&client, &langfuse, TRACES, &one_span("a", "b"))
            .await
            .is_err()
    );
    assert_eq!(
        try_post(&client, &langfuse, TRACES, &one_span("a", "b"))
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test]
async fn faults_of_answers_work_below_tls_too() {
    let langfuse = start_tls();
    let client = trusting_client(&langfuse, PATIENCE);
    langfuse.set_fault(Fault::ResetMidResponse);
    let response = try_post(&client, &langfuse, TRACES, &one_span("a", "b")).await;
    let body = match response {
        Ok(response) => response.bytes().await,
        Err(error) => Err(error),
    };
    assert!(body.is_err());
    langfuse.set_fault(Fault::slow_drip(std::time::Duration::from_micros(100)));
    assert_eq!(
        try_post(&client, &langfuse, TRACES, &one_span("a", "c"))
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(langfuse.observations().len(), 2);
}
