//! What the libraries below write into a log at its most talkative level.
//!
//! Alone in its process: beside tests without a subscriber, tracing may leave out what this one looks for.

#![expect(
    clippy::unwrap_used,
    reason = "A test stops where it cannot go on; clippy's leave for tests does not cover what they call."
)]

mod credentials_client;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use credentials_client::{environment, resolve_settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn serve(listener: TcpListener, body: &str) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
    }
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn the_most_talkative_log_of_every_library_below_holds_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let aws = environment(&[
        ("AWS_REGION", "eu-west-1"),
        (
            "AWS_ENDPOINT_URL",
            &format!("http://{}", listener.local_addr().unwrap()),
        ),
        ("AWS_ACCESS_KEY_ID", "ASIA1"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-access"),
        ("AWS_SESSION_TOKEN", "hidden-session"),
    ]);
    let server = tokio::spawn(serve(listener, r#"{"Parameter":{"Value":"sk-lf-found"}}"#));
    let keys = resolve_settings("pk-lf-1", "ssm:/a", &aws, Duration::from_secs(20)).await;
    let keys = keys.unwrap();
    server.await.unwrap();
    tracing::info!(?aws, ?keys, authorization = ?keys.basic_authorization());
    let written = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(written.contains("canonical_request"), "{written}");
    assert!(written.contains("hyper_util"), "{written}");
    for secret in ["hidden", "sk-lf-found", "cGstbGYtMTpz"] {
        assert!(!written.contains(secret), "{written}");
    }
}
