//! A disk that fills up in the middle of a record. The kernel is made to behave so by a limit on the size of files,
//! which cannot be lifted again: hence a process of its own, and no test harness.

#![expect(clippy::expect_used, reason = "a test without the harness")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use langfuse_extension::spool::{Record, Spool, StoreError};
use langfuse_extension_core::recovery::Head;
use langfuse_extension_core::route::{Credential, Door, Route};

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("--on-full-disk") => {
            let directory = std::env::args().nth(2).expect("a directory");
            a_record_that_does_not_fit_leaves_the_spool_as_it_was(Path::new(&directory));
        }
        _ => run_on_full_disk(),
    }
}

fn run_on_full_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let status = Command::new("sh")
        .arg("-c")
        // 64 units of 512 or 1024 bytes, by the shell. The signal is ignored so that the write fails instead.
        .arg("trap '' XFSZ; ulimit -f 64; exec \"$0\" --on-full-disk \"$1\"")
        .arg(std::env::current_exe().expect("this program"))
        .arg(directory.path())
        .status()
        .expect("a shell");
    assert!(status.success());
}

fn a_record_that_does_not_fit_leaves_the_spool_as_it_was(directory: &Path) {
    let mut spool = open(directory);
    spool.store(1, &record(3000)).expect("room for this one");
    let before = file_bytes(directory);
    let failed = spool.store(2, &record(50_000));
    assert!(matches!(failed, Err(StoreError::Io(_))), "{failed:?}");
    assert_eq!(file_bytes(directory), before, "the torn record is cut off");

    spool.mark_sent([1]).expect("marks need no room");
    spool.store(3, &record(1000)).expect("room for a small one");
    drop(spool);
    let mut spool = open(directory);
    let heads: Vec<Head> = std::iter::from_fn(|| spool.look())
        .flat_map(|seen| seen.records)
        .collect();
    let read = |head: &Head| spool.read(head.id.0).expect("a record");
    let records = heads.iter().map(read);
    let bodies: Vec<_> = records
        .map(|it| (it.body.len(), it.unresolved_sends))
        .collect();
    assert_eq!(bodies, [(3000, 1), (1000, 0)]);
    assert!(spool.skipped().is_empty());
}

fn open(directory: &Path) -> Spool {
    let day = Duration::from_hours(24);
    Spool::open(&directory.join("spool"), 1 << 30, day, day).expect("a spool")
}

fn file_bytes(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory.join("spool")).expect("the spool");
    files
        .map(|file| file.and_then(|it| it.metadata()).expect("a file").len())
        .sum()
}

fn record(body_bytes: usize) -> Record {
    Record {
        accepted_wall_ms: 0,
        unresolved_sends: 0,
        kind: 1,
        encoding: 0,
        units: 1,
        inflated_bytes: body_bytes as u64,
        route: Arc::new(Route {
            door: Door::TracesProtobuf,
            credential: Credential::Configured,
            headers: Vec::new(),
        }),
        body: Bytes::from(vec![7; body_bytes]),
    }
}
