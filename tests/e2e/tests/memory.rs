//! Memory stays within a control group, however much clients send at once, and comes back afterwards.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use e2e::{EXTENSION, Fault, Freeze, PATIENCE, Setup, World};

const TRACES: &str = "/v1/traces";

/// The extension alone in a control group of so many bytes, where there are such groups.
struct Group(PathBuf);

impl Group {
    fn around(world: &World, bytes: usize) -> Option<Self> {
        let name = format!("langfuse-extension-memory-{}", std::process::id());
        let candidates = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        candidates.iter().find_map(|(root, limit)| {
            let dir = PathBuf::from(root).join(&name);
            std::fs::create_dir(&dir).ok()?;
            let group = Self(dir);
            std::fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            let pid = world.lambda.pid(EXTENSION)?;
            std::fs::write(group.0.join("cgroup.procs"), pid.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn kilobytes(world: &World, name: &str) -> u64 {
    let pid = world.lambda.pid(EXTENSION).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The status that a POST of this body is answered with.
fn post(address: SocketAddr, headers: &str, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST {TRACES} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer[9..12].parse().unwrap()
}

const GZIP_JSON: &str = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";

/// One span as gzip JSON: so much that does not compress, and so much that does.
fn inflating(noise_bytes: usize, bytes: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + u8::try_from(state % 26).unwrap())
    });
    let noise: String = noise.take(noise_bytes).collect();
    let text = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708","name":"{noise}{}"}}]}}]}}]}}"#,
        "x".repeat(bytes)
    );
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

struct Case {
    function_mb: u32,
    group_bytes: usize,
    clients: usize,
    body: Vec<u8>,
}

/// All clients at once, again and again; then one that is small.
async fn attack(case: Case) {
    let world = Setup::new()
        .lambda(|lambda| lambda.freeze(Freeze::Off).memory_mb(case.function_mb))
        .start()
        .await;
    world.langfuse.set_fault(Fault::Refuse);
    world.invoke(e2e::json!({})).await;
    let group = Group::around(&world, case.group_bytes);
    let (address, body) = (world.listen, std::sync::Arc::new(case.body));
    let mut statuses = BTreeMap::new();
    for _ in 0..2 {
        let clients: Vec<_> = (0..case.clients)
            .map(|_| {
                let body = std::sync::Arc::clone(&body);
                std::thread::spawn(move || post(address, GZIP_JSON, &body))
            })
            .collect();
        for client in clients {
            *statuses.entry(client.join().unwrap()).or_insert(0_u64) += 1;
        }
    }
    let taken = statuses.get(&200).copied().unwrap_or(0);
    let refused = statuses.get(&413).copied().unwrap_or(0);
    assert_eq!(taken + refused, 2 * case.clients as u64, "{statuses:?}");
    let small = post(
        address,
        "Content-Type: application/json\r\n",
        br#"{"resourceSpans":[]}"#,
    );
    assert_eq!(small, 200);
    let peak = kilobytes(&world, "VmHWM:");
    let books = world.status().await;
    println!(
        "{statuses:?}, peak {peak} KB, now {} KB, in a control group: {}",
        kilobytes(&world, "VmRSS:"),
        group.is_some()
    );
    assert!(peak < case.group_bytes as u64 >> 10, "{peak} KB");
    books.assert_balanced();
    assert_eq!(books.accepted, taken, "{books:?}");
    assert_eq!(books.refused, refused, "{books:?}");
    // What is delivered or given up goes back to the system.
    world.langfuse.clear_faults();
    world.invoke(e2e::json!({ "work_s": 1 })).await;
    let held_kb = world.status().await.held_bytes >> 10;
    let after = kilobytes(&world, "VmRSS:");
    assert!(
        after < held_kb + 20_000,
        "{after} KB, of which {held_kb} are held"
    );
    assert!(taken > 0);
    tokio::time::timeout(Duration::from_secs(30), world.shutdown())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_clients_whose_bodies_inflate_sixtyfold_stay_within_256_megabytes() {
    attack(Case {
        function_mb: 256,
        group_bytes: 256 << 20,
        clients: 60,
        body: inflating(560_000, 14 << 20),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_stay_within_128_megabytes() {
    attack(Case {
        function_mb: 128,
        group_bytes: 128 << 20,
        clients: 120,
        body: inflating(100, 7 << 20),
    })
    .await;
}
