//! Every limit of the receiver, reached.

use std::time::{Duration, Instant};

use langfuse_extension::receiver::{HEAD_LIMIT_BYTES, MAX_HEADERS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{BASIC, Doors, Setup, TRACES, gzip, span};

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// One answer, on a connection that stays open.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let (_, length) = head.split_once("content-length: ").unwrap();
            let length = length.lines().next().unwrap().parse::<usize>().unwrap();
            if body.len() == length {
                return text.into_owned();
            }
        }
    }
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
async fn a_body_that_stops_coming_is_not_answered_and_its_connection_is_closed() {
    let mut setup = Setup::default();
    setup.receiver.limits.body_pause = Duration::from_millis(100);
    let doors = Doors::open(setup).await;
    let mut stream = doors.connect().await;
    stream.write_all(head(10).as_bytes()).await.unwrap();
    stream.write_all(b"half").await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
    assert_eq!(doors.refused("incomplete").await, [1, 4]);
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_before_it_is_sent() {
    let mut setup = Setup::default();
    setup.receiver.limits.body_bytes = 1000;
    let doors = Doors::open(setup).await;
    let mut stream = doors.connect().await;
    stream.write_all(head(1001).as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 413"));
    let mut stream = doors.connect().await;
    let chunked = head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    stream.write_all(chunked.as_bytes()).await.unwrap();
    let chunk = format!("3e9\r\n{}\r\n0\r\n\r\n", " ".repeat(1001));
    stream.write_all(chunk.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 413"));
    assert_eq!(doors.refused("too_large").await, [2, 2002]);
}

#[tokio::test]
async fn a_refused_body_may_be_sent_to_its_end_and_the_connection_be_used_again() {
    const BODY_BYTES: usize = 4 << 20;
    let mut setup = Setup::default();
    setup.receiver.limits.body_bytes = 1000;
    let doors = Doors::open(setup).await;
    let mut stream = doors.connect().await;
    let head = head(BODY_BYTES).replace("Connection: close\r\n", "");
    for _ in 0..2 {
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; BODY_BYTES]).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 413"));
    }
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
async fn idle_connections_give_way_to_new_ones() {
    let mut setup = Setup::default();
    setup.receiver.limits.connections = 3;
    let doors = Doors::open(setup).await;
    let request = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (mut oldest, mut newest) = (doors.connect().await, doors.connect().await);
    for stream in [&mut oldest, &mut newest] {
        stream.write_all(request).await.unwrap();
        answer(stream).await;
    }
    for _ in 0..10 {
        newest.write_all(request).await.unwrap();
        assert!(answer(&mut newest).await.starts_with("HTTP/1.1 200"));
        let mut another = doors.connect().await;
        another.write_all(request).await.unwrap();
        assert!(answer(&mut another).await.starts_with("HTTP/1.1 200"));
        std::mem::forget(another);
    }
    assert_eq!(rest(&mut oldest).await, "");
}

/// A body of so many chunks of 64 KiB, for which no length is announced.
async fn send_chunked(stream: &mut TcpStream, chunks: usize) {
    let chunked = head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    stream.write_all(chunked.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(1 << 16));
    for _ in 0..chunks {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn large_bodies_that_stand_still_do_not_hold_up_small_ones() {
    const MEMORY_BYTES: usize = 16 << 20;
    let doors = Doors::open(Setup {
        memory_bytes: MEMORY_BYTES,
        ..Setup::default()
    })
    .await;
    let mut standing = Vec::new();
    for _ in 0..2 {
        let mut stream = doors.connect().await;
        send_chunked(&mut stream, (MEMORY_BYTES / 4) >> 16).await;
        standing.push(stream);
    }
    // What has come is counted by the time that it is there.
    while doors.budget.held_bytes() < MEMORY_BYTES / 2 {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    assert_eq!(doors.post(TRACES, &span(1, "small")).await, 200);
    assert!(start.elapsed() < Duration::from_secs(1));
    drop(standing);
}

#[tokio::test]
async fn of_large_bodies_at_once_those_that_do_not_fit_are_refused_and_the_rest_is_taken() {
    const MEMORY_BYTES: usize = 8 << 20;
    const BODY_BYTES: usize = 3 << 20;
    let mut setup = Setup {
        memory_bytes: MEMORY_BYTES,
        ..Setup::default()
    };
    setup.core.buffer_bytes = 64 << 20;
    let doors = Doors::open(setup).await;
    let mut posts = tokio::task::JoinSet::new();
    for id in 0..4 {
        let body = span(id, &"x".repeat(BODY_BYTES)).to_string();
        let request = doors
            .request(reqwest::Method::POST, TRACES)
            .header("content-type", "application/json");
        let chunks: Vec<_> = body
            .as_bytes()
            .chunks(1 << 16)
            .map(<[u8]>::to_vec)
            .collect();
        let body = reqwest::Body::wrap(crate::support::Chunks(chunks.into_iter()));
        posts.spawn(async move { request.body(body).send().await.unwrap().status().as_u16() });
    }
    let mut statuses = posts.join_all().await;
    statuses.sort_unstable();
    assert_eq!((statuses[0], statuses[3]), (200, 413), "{statuses:?}");
    assert!(
        statuses.iter().all(|it| [200, 413].contains(it)),
        "{statuses:?}"
    );
    let refused = statuses.iter().filter(|it| **it == 413).count();
    assert_eq!(doors.refused("no_memory").await[0], refused as u64);
    assert_eq!(doors.status().await["accepted"], 4 - refused);
}

#[tokio::test]
async fn clients_whose_bodies_inflate_hugely_are_taken_or_refused_within_the_memory_there_is() {
    const MEMORY_BYTES: usize = 4 << 20;
    const CLIENTS: u64 = 12;
    const TEXT_BYTES: usize = 1 << 20;
    let doors = Doors::open(Setup {
        memory_bytes: MEMORY_BYTES,
        ..Setup::default()
    })
    .await;
    let mut posts = tokio::task::JoinSet::new();
    for id in 0..CLIENTS {
        let body = gzip(span(id, &"x".repeat(TEXT_BYTES)).to_string().as_bytes());
        let request = doors
            .request(reqwest::Method::POST, TRACES)
            .header("content-type", "application/json")
            .header("content-encoding", "gzip");
        posts.spawn(async move { request.body(body).send().await.unwrap().status().as_u16() });
    }
    let mut most = 0;
    let mut statuses = Vec::new();
    while (statuses.len() as u64) < CLIENTS {
        most = most.max(doors.budget.held_bytes());
        match posts.try_join_next() {
            Some(status) => statuses.push(status.unwrap()),
            None => tokio::task::yield_now().await,
        }
    }
    assert!(most > TEXT_BYTES && most <= MEMORY_BYTES, "{most}");
    let status = doors.status().await;
    let taken = statuses.iter().filter(|it| **it == 200).count() as u64;
    let refused = doors.refused("no_memory").await[0];
    assert_eq!(
        (status["accepted"].as_u64(), taken + refused),
        (Some(taken), CLIENTS)
    );
    assert!(taken > 0);
    assert_eq!(doors.budget.held_bytes(), 0);
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
