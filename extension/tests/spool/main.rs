//! What the spool promises: whole records survive a kill at any byte, nothing else is made of them, and limits hold.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use langfuse_extension::spool::{
    COMPACTION_LIMIT_BYTES, COMPACTION_RESERVE, DISK_BLOCK_BYTES, ENTRIES_LIMIT, LARGE_BYTES,
    LOOK_RECORDS, RECORD_LIMIT_BYTES, RECORDS_LIMIT, Record, SEGMENTS_LIMIT, Skipped, Spool,
    SpoolError, StoreError, read_segment,
};
use langfuse_extension_core::recovery::Head;
use langfuse_extension_core::route::{Credential, Door, Route};

const NOW: Duration = Duration::from_secs(1_700_000_000);
const MAX_AGE: Duration = Duration::from_hours(1);
const LIMIT_BYTES: u64 = 16 << 20;

mod directory;
mod limits;
mod records;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("spool")
    }

    fn open(&self) -> Spool {
        self.open_limited(LIMIT_BYTES)
    }

    fn open_limited(&self, limit_bytes: u64) -> Spool {
        Spool::open(&self.path(), limit_bytes, NOW, MAX_AGE).unwrap()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|it| it == "segment"))
            .collect();
        paths.sort();
        paths
    }

    /// What `du` says.
    fn disk_bytes(&self) -> u64 {
        let entries = fs::read_dir(self.path()).unwrap();
        let files: u64 = entries
            .map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512)
            .sum();
        files + fs::metadata(self.path()).unwrap().blocks() * 512
    }
}

fn record(body: impl Into<Bytes>) -> Record {
    let body = body.into();
    Record {
        accepted_wall_ms: u64::try_from(NOW.as_millis()).unwrap() - 1000,
        unresolved_sends: 0,
        kind: 3,
        encoding: 1,
        units: 42,
        inflated_bytes: 4 * body.len() as u64,
        route: Arc::new(Route {
            door: Door::Ingestion,
            credential: Credential::Client("Basic cGs6c2s=".to_owned()),
            headers: vec![("x-langfuse-sdk-name".to_owned(), b"python".to_vec())],
        }),
        body,
    }
}

fn sized(bytes: usize) -> Record {
    record(vec![7; bytes])
}

fn recover(spool: &mut Spool) -> Vec<Record> {
    names(spool)
        .into_iter()
        .filter_map(|item| spool.read(item))
        .collect()
}

/// The names of all records that an earlier process left.
fn names(spool: &mut Spool) -> Vec<u64> {
    heads(spool).iter().map(|head| head.id.0).collect()
}

fn heads(spool: &mut Spool) -> Vec<Head> {
    let seen = std::iter::from_fn(|| spool.look());
    seen.flat_map(|seen| seen.records).collect()
}

fn bodies(records: &[Record]) -> Vec<&[u8]> {
    records.iter().map(|it| it.body.as_ref()).collect()
}

fn drop_in(dir: &Dir, bytes: &[u8]) {
    fs::create_dir(dir.path()).unwrap();
    fs::write(dir.path().join("00000000.segment"), bytes).unwrap();
}
