//! What the spool adds to an acknowledgement: `cargo run --release --example spool_cost [DIRECTORY]`.
//!
//! For each size of body: encoding alone, storing (the file grows), a mark, and forgetting a healthy delivery. The
//! directory should lie on the file system that is asked about; without one, that of temporary files is used.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use langfuse_extension::spool::{Record, Spool};
use langfuse_extension_core::route::{Credential, Door, Route};

const LIMIT_BYTES: u64 = 64 << 20;
const DAY: Duration = Duration::from_hours(24);
const SIZES: [(usize, u32); 4] = [
    (2 << 10, 2000),
    (100 << 10, 1000),
    (1 << 20, 200),
    (4 << 20, 100),
];

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = base.join(format!("spool-cost-{}", std::process::id()));
    println!(
        "µs, median / 99th percentile / worst, in {}",
        base.display()
    );
    println!(
        "{:>9}  {:>22}  {:>22}  {:>22}  {:>22}",
        "body", "copy in memory", "store", "mark sent", "forget"
    );
    for (bytes, rounds) in SIZES {
        measure(&directory, bytes, rounds)?;
    }
    reopening(&directory)?;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

/// Each round is the life of a healthy request: stored, marked, forgotten.
fn measure(directory: &std::path::Path, bytes: usize, rounds: u32) -> Result<(), Box<dyn Error>> {
    let mut spool = Spool::open(directory, LIMIT_BYTES, DAY, DAY)?;
    let record = record(bytes);
    let (mut copy, mut store, mut mark, mut forget) = (vec![], vec![], vec![], vec![]);
    for item in 0..u64::from(rounds) {
        let start = Instant::now();
        std::hint::black_box(record.body.to_vec());
        copy.push(start.elapsed());
        let start = Instant::now();
        spool.store(item, &record)?;
        store.push(start.elapsed());
        let start = Instant::now();
        spool.mark_sent([item])?;
        mark.push(start.elapsed());
        let start = Instant::now();
        spool.forget([item])?;
        forget.push(start.elapsed());
    }
    println!(
        "{bytes:>9}  {:>22}  {:>22}  {:>22}  {:>22}",
        told(copy),
        told(store),
        told(mark),
        told(forget)
    );
    Ok(())
}

/// A full spool of small records, left by a kill.
fn reopening(directory: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let mut spool = Spool::open(directory, LIMIT_BYTES, DAY, DAY)?;
    let record = record(2 << 10);
    let mut item = 0;
    while spool.store(item, &record).is_ok() {
        item += 1;
    }
    drop(spool);
    let start = Instant::now();
    let mut spool = Spool::open(directory, LIMIT_BYTES, DAY, DAY)?;
    let opened = start.elapsed();
    let start = Instant::now();
    let mut recovered = 0;
    while let Some(seen) = spool.look() {
        for head in seen.records {
            recovered += u64::from(spool.read(head.id.0).is_some());
        }
    }
    println!(
        "{recovered} records of 2 KiB: opened in {opened:?}, read in {:?}",
        start.elapsed()
    );
    Ok(())
}

fn told(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_nanos() / 100;
    let told = |tenths: u128| format!("{}.{}", tenths / 10, tenths % 10);
    format!("{} / {} / {}", told(at(50)), told(at(99)), told(at(100)))
}

fn record(bytes: usize) -> Record {
    Record {
        accepted_wall_ms: 0,
        unresolved_sends: 0,
        kind: 1,
        encoding: 0,
        units: 1,
        inflated_bytes: bytes as u64,
        route: Arc::new(Route {
            door: Door::TracesProtobuf,
            credential: Credential::Client(format!("Basic {}", "a".repeat(100))),
            headers: vec![("x-langfuse-ingestion-version".to_owned(), b"4".to_vec())],
        }),
        body: Bytes::from(vec![7; bytes]),
    }
}
