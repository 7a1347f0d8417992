//! Every limit of the receiver, reached.

use std::time::{Duration, Instant};

use langfuse_extension::receiver::{HEAD_LIMIT_BYTES, MAX_HEADERS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{BASIC, Doors, Setup, TRACES, span};

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn head(length: usize) -> String {
    format!(
        "POST {TRACES} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {BASIC}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

#[tokio::test]
async fn a_client_that_says_nothing_or_half_a_head_is_let_go() {
    let mut setup = Setup::default();
    setup.receiver.limits.head_timeout = Duration::from_millis(100);
    let doors = Doors::open(setup).await;
    for start in ["", "P", "POST / HTTP/1.1\r\nHost:"] {
        let mut stream = doors.connect().await;
        stream.write_all(start.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_408() {
    let mut setup = Setup::default();
    setup.receiver.limits.body_timeout = Duration::from_millis(100);
    let doors = Doors::open(setup).await;
    let mut stream = doors.connect().await;
    stream.write_all(head(10).as_bytes()).await.unwrap();
    stream.write_all(b"half").await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 408"));
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_before_it_is_sent() {
    let mut setup = Setup::default();
    setup.receiver.limits.body_bytes = 1000;
    let doors = Doors::open(setup).await;
    let mut stream = doors.connect().await;
    stream.write_all(head(1001).as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 413"));
    let mut stream = doors.connect().await;
    let chunked = head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    stream.write_all(chunked.as_bytes()).await.unwrap();
    let chunk = format!("3e9\r\n{}\r\n0\r\n\r\n", " ".repeat(1001));
    stream.write_all(chunk.as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn too_many_headers_or_too_large_ones_are_refused() {
    let mut setup = Setup::default();
    setup.receiver.limits.head_timeout = Duration::from_secs(2);
    let doors = Doors::open(setup).await;
    let many = "x: y\r\n".repeat(MAX_HEADERS + 1);
    let large = format!("x: {}\r\n", "y".repeat(2 * HEAD_LIMIT_BYTES));
    for headers in [many, large] {
        let mut stream = doors.connect().await;
        let request = format!("GET /status HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = rest(&mut stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 431"),
            "{} {answer}",
            headers.len()
        );
    }
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_their_turn() {
    let mut setup = Setup::default();
    setup.receiver.limits.connections = 2;
    let doors = Doors::open(setup).await;
    let (first, _second) = (doors.connect().await, doors.connect().await);
    let mut third = doors.connect().await;
    let request = b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    third.write_all(request).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(100), rest(&mut third));
    assert!(waiting.await.is_err(), "it was served beyond the limit");
    drop(first);
    assert!(rest(&mut third).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn bodies_above_the_memory_for_open_ones_wait_for_their_turn() {
    let mut setup = Setup::default();
    setup.receiver.limits.body_bytes = 1000;
    setup.receiver.limits.open_bodies_bytes = 1000;
    let doors = Doors::open(setup).await;
    let mut slow = doors.connect().await;
    slow.write_all(head(900).as_bytes()).await.unwrap();
    slow.write_all(b" ").await.unwrap();
    // By the time of this answer the slow one has its memory.
    assert_eq!(doors.get("/status").await.status(), 200);
    let body = span(1, "x").to_string();
    let mut other = doors.connect().await;
    other.write_all(head(body.len()).as_bytes()).await.unwrap();
    other.write_all(body.as_bytes()).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(100), rest(&mut other));
    assert!(waiting.await.is_err(), "it was read beyond the limit");
    drop(slow);
    assert!(rest(&mut other).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn many_clients_at_once_are_all_answered_from_memory() {
    let mut doors = Doors::open(Setup::default()).await;
    doors
        .langfuse
        .set_fault(lambda_emulator::fake_langfuse::Fault::HangBeforeAccepting);
    doors.invoke();
    let start = Instant::now();
    let bodies: Vec<_> = (0..100).map(|id| span(id, "x")).collect();
    let mut posts = tokio::task::JoinSet::new();
    for body in bodies {
        let request = doors
            .request(reqwest::Method::POST, TRACES)
            .header("content-type", "application/json");
        posts.spawn(async move {
            request
                .body(body.to_string())
                .send()
                .await
                .unwrap()
                .status()
                .as_u16()
        });
    }
    assert!(posts.join_all().await.iter().all(|status| *status == 200));
    assert!(start.elapsed() < Duration::from_secs(5));
    doors.langfuse.clear_faults();
    doors.finish().await;
    let all = doors.langfuse.wait_until(crate::support::PATIENCE, |it| {
        it.observations().count() == 100
    });
    assert!(all.await);
}
