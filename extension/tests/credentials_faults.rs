//! What AWS, or whatever stands in its place, may do wrong: hang, fail, throttle, redirect, speak garbage.

#![expect(
    clippy::unwrap_used,
    reason = "A test stops where it cannot go on; clippy's leave for tests does not cover what they call."
)]

mod credentials_client;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use credentials_client::{environment, resolve_settings};
use langfuse_extension::credentials::{AwsEnvironment, CredentialsError, KeyKind, Keys, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

const WITHIN: Duration = Duration::from_secs(20);
const PARAMETER: &str = r#"{"Parameter":{"Value":"sk-lf-found"}}"#;
const SECRET: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:pair-AbCdEf";

/// A server that gives each connection the next of its answers, the last one over and over, and remembers what it was asked.
struct Scripted {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    async fn start(answers: Vec<Vec<u8>>) -> Self {
        Self::start_together(answers, 1).await
    }

    /// Answers no request before `together` of them are there.
    async fn start_together(answers: Vec<Vec<u8>>, together: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let barrier = Arc::new(Barrier::new(together));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            let mut answers = answers.into_iter().peekable();
            let mut last = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                last = answers.next().unwrap_or(last);
                let (seen, barrier) = (Arc::clone(&seen), Arc::clone(&barrier));
                tokio::spawn(answer(stream, last.clone(), seen, barrier));
            }
        });
        Self { address, requests }
    }

    fn aws(&self) -> AwsEnvironment {
        aws(&self.address)
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    async fn resolve(&self) -> Result<Keys, CredentialsError> {
        resolve_settings("pk-lf-1", "ssm:/a", &self.aws(), WITHIN).await
    }
}

/// Reads one request, says its answer, and closes; an empty answer is silence for ever.
async fn answer(
    mut stream: TcpStream,
    answer: Vec<u8>,
    seen: Arc<Mutex<Vec<String>>>,
    barrier: Arc<Barrier>,
) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if stream.read_buf(&mut request).await.unwrap_or_default() == 0 {
            return;
        }
    }
    let text = String::from_utf8(request).unwrap();
    seen.lock().unwrap().push(text);
    barrier.wait().await;
    if answer.is_empty() {
        std::future::pending::<()>().await;
    }
    // A client that gives up on a long answer closes before all of it is written.
    let _ = stream.write_all(&answer).await;
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .split_once("content-length: ")
        .map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
    body.len() >= length
}

fn aws(address: &str) -> AwsEnvironment {
    environment(&[
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL", &format!("http://{address}")),
        ("AWS_ACCESS_KEY_ID", "ASIA1"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-access"),
        ("AWS_SESSION_TOKEN", "hidden-session"),
    ])
}

fn http(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn a_service_that_never_answers_costs_the_time_given_and_no_more() {
    let server = Scripted::start(vec![vec![]]).await;
    let within = Duration::from_millis(300);
    let started = Instant::now();
    let error = resolve_settings("pk-lf-1", "ssm:/a", &server.aws(), within).await;
    assert!(started.elapsed() < Duration::from_secs(2));
    let error = error.unwrap_err();
    assert!(matches!(error.reason, Reason::TimedOut { .. }), "{error}");
    assert!(error.is_passing());
    assert!(error.to_string().contains("NAT gateway"), "{error}");
}

#[tokio::test]
async fn an_answer_that_stops_in_the_middle_costs_the_time_given_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let aws = aws(&listener.local_addr().unwrap().to_string());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let part = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";
        stream.write_all(part).await.unwrap();
        std::future::pending::<()>().await;
    });
    let within = Duration::from_millis(300);
    let error = resolve_settings("pk-lf-1", "ssm:/a", &aws, within).await;
    let error = error.unwrap_err();
    assert!(matches!(error.reason, Reason::TimedOut { .. }), "{error}");
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn one_attempt_takes_three_seconds_at_most_and_there_are_two() {
    let server = Scripted::start(vec![vec![]]).await;
    match server.resolve().await.unwrap_err().reason {
        Reason::TimedOut { waited, .. } => {
            assert_eq!(waited.as_millis() / 100, 61, "{waited:?}");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_failing_or_throttling_service_is_asked_once_more() {
    let throttled = http(400, r#"{"__type":"ThrottlingException"}"#);
    let late = http(
        400,
        r#"{"__type":"InvalidSignatureException","message":"Signature expired: a is now earlier than b"}"#,
    );
    for first in [http(500, ""), http(503, "<html>"), throttled, late] {
        let server = Scripted::start(vec![first, http(200, PARAMETER)]).await;
        let keys = server.resolve().await.unwrap();
        assert_eq!(keys.secret.expose(), "sk-lf-found");
        assert_eq!(server.count(), 2);
    }
}

#[tokio::test]
async fn a_service_that_keeps_failing_is_asked_twice_and_no_more() {
    let server = Scripted::start(vec![http(500, "")]).await;
    let error = server.resolve().await.unwrap_err();
    assert_eq!(error.reason, Reason::AwsFault { status: 500 });
    assert!(error.is_passing());
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_refusal_is_final() {
    let denied = http(
        400,
        r#"{"__type":"ExpiredTokenException","message":"The security token included in the request is expired"}"#,
    );
    let server = Scripted::start(vec![denied]).await;
    let error = server.resolve().await.unwrap_err();
    assert_eq!(error.reason, Reason::ExpiredToken);
    assert!(!error.is_passing());
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_refused_connection_is_told_with_its_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = resolve_settings("pk-lf-1", "ssm:/a", &aws(&address), WITHIN).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error.reason, Reason::Unreachable { .. }),
        "{error}"
    );
    assert!(error.is_passing());
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn garbage_is_an_error_that_quotes_nothing_of_it() {
    for garbage in [
        b"\x16\x03\x01 hidden\r\n\r\n".to_vec(),
        b"SSH-2.0-hidden\r\n".to_vec(),
        http(200, "<html>hidden</html>"),
        http(200, r#"{"Parameter":{"Value":["hidden"]}}"#),
        http(200, r#"{"Parameter":"hidden"}"#),
        http(400, r#"{"__type":"hidden message with spaces"}"#),
        http(403, "<Error><Code>hidden code</Code></Error>"),
    ] {
        let server = Scripted::start(vec![garbage.clone()]).await;
        let error = server.resolve().await.unwrap_err();
        let printed = format!("{error} {error:?}");
        let of = String::from_utf8_lossy(&garbage);
        assert!(!printed.contains("hidden"), "{printed} of {of}");
    }
}

#[tokio::test]
async fn an_answer_longer_than_the_limit_is_not_read_to_its_end() {
    let limit = 512 * 1024;
    let long = |length: usize| {
        let frame = r#"{"Parameter":{"Value":"sk-lf-found"},"X":""}"#.len();
        let filler = "x".repeat(length - frame);
        let body = format!(r#"{{"Parameter":{{"Value":"sk-lf-found"}},"X":"{filler}"}}"#);
        assert_eq!(body.len(), length);
        http(200, &body)
    };
    let server = Scripted::start(vec![long(limit)]).await;
    assert!(server.resolve().await.is_ok());
    let server = Scripted::start(vec![long(limit + 1)]).await;
    let error = server.resolve().await.unwrap_err();
    assert!(
        matches!(error.reason, Reason::AnswerTooLarge { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_redirect_which_would_carry_the_session_token_away_is_not_followed() {
    let elsewhere = Scripted::start(vec![http(200, PARAMETER)]).await;
    let location = format!("http://{}/", elsewhere.address);
    let redirect = format!("HTTP/1.1 307 X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
    let server = Scripted::start(vec![redirect.into_bytes()]).await;
    let error = server.resolve().await.unwrap_err();
    assert!(
        matches!(error.reason, Reason::Refused { status: 307, .. }),
        "{error}"
    );
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn two_parameters_are_asked_for_at_the_same_time() {
    let answer = http(200, r#"{"Parameter":{"Value":"a-key"}}"#);
    let server = Scripted::start_together(vec![answer], 2).await;
    let keys = resolve_settings("ssm:/a", "ssm:/b", &server.aws(), WITHIN).await;
    assert_eq!(keys.unwrap().public, "a-key");
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn two_members_of_one_secret_cost_one_call() {
    let body = r#"{"SecretString":"{\"public\":\"pk-lf-1\",\"secret\":\"sk-lf-1\"}"}"#;
    let server = Scripted::start(vec![http(200, body)]).await;
    let (public, secret) = (format!("{SECRET}#public"), format!("{SECRET}#secret"));
    let keys = resolve_settings(&public, &secret, &server.aws(), WITHIN).await;
    let keys = keys.unwrap();
    assert_eq!(
        (keys.public.as_str(), keys.secret.expose()),
        ("pk-lf-1", "sk-lf-1")
    );
    assert_eq!(server.count(), 1);
    let request = server.requests.lock().unwrap()[0].to_lowercase();
    assert!(
        request.contains("x-amz-target: secretsmanager.getsecretvalue\r\n"),
        "{request}"
    );
    assert!(request.contains(&SECRET.to_lowercase()), "{request}");
    assert!(!request.contains("#public"), "{request}");
}

#[tokio::test]
async fn a_missing_member_is_told_for_the_key_that_lacks_it() {
    let body = r#"{"SecretString":"{\"secret\":\"sk-lf-hidden\"}"}"#;
    let server = Scripted::start(vec![http(200, body)]).await;
    let (public, secret) = (format!("{SECRET}#public"), format!("{SECRET}#secret"));
    let error = resolve_settings(&public, &secret, &server.aws(), WITHIN).await;
    let error = error.unwrap_err();
    assert_eq!((error.key, error.place.as_str()), (KeyKind::Public, SECRET));
    assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
}

#[tokio::test]
async fn without_credentials_or_region_nothing_is_sent() {
    let bare = environment(&[("AWS_REGION", "eu-west-1")]);
    let error = resolve_settings("pk-lf-1", "ssm:/a", &bare, WITHIN).await;
    assert_eq!(error.unwrap_err().reason, Reason::NoAwsCredentials);
    let nowhere = environment(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]);
    let error = resolve_settings("pk-lf-1", "ssm:/a", &nowhere, WITHIN).await;
    assert_eq!(error.unwrap_err().reason, Reason::NoRegion);
}
