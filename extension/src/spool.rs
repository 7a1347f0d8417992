//! What must outlive this process, under `/tmp`: every accepted body is written here before it is acknowledged.
//!
//! ```text
//!   store ──▶ 00000007.segment  (active)      forget ──▶ the last record of a file gone: the file is used anew, or goes
//!             00000006.segment  (full)        look ──▶ read | forget
//!             00000003.segment  (left by an earlier process; its records stay where they are)
//! ```
//!
//! A write goes to the page cache and is not synced: that outlives the process, whatever kills it. What it does not
//! outlive, the end of the sandbox, takes the disk along. A record is written with one system call and carries
//! checksums, so a kill at any byte costs at most the record being written, which is not acknowledged yet.
//! What became of a record is overwritten in its head, so that it can be noted on a full disk as well.
//!
//! Records hold `Authorization` headers: files have mode 0600, the directory 0700.

mod directory;
pub mod disk;
mod format;
mod recovery;
mod route;
mod segment;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use langfuse_extension_core::route::Route;

use directory::Directory;
use format::FILE_HEAD_BYTES;
use segment::{Segment, on_disk};

pub use recovery::{Seen, Skipped, read_segment};

/// The most that one record may take, head and route included; the largest local body is 20 MB.
pub const RECORD_LIMIT_BYTES: u64 = 24 << 20;
/// Records that may wait at once, so that the index stays small in memory.
pub const RECORDS_LIMIT: usize = 32_768;
/// Files of the spool, its lock not counted; each is kept open.
pub const SEGMENTS_LIMIT: usize = 64;
/// A segment grows up to this part of the limit in bytes, unless a single record is larger.
pub const SEGMENTS_TARGET: u64 = 16;
/// Records fill the limit but for this part, so that a segment can be rewritten before the old one goes.
pub const COMPACTION_RESERVE: u64 = 2 * SEGMENTS_TARGET;
/// The most that is copied at once to free room; segments with more in them are let alone.
pub const COMPACTION_LIMIT_BYTES: u64 = 4 << 20;
/// Files that may lie in the directory, those of others included.
pub const ENTRIES_LIMIT: usize = 4096;
/// The unit in which disk space is charged.
pub const DISK_BLOCK_BYTES: u64 = 4096;

/// One accepted client request, as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub accepted_wall_ms: u64,
    /// Sends that began and of which it is not known whether they arrived.
    pub unresolved_sends: u16,
    /// What the body is, as a code of its owner.
    pub kind: u8,
    /// How the body is compressed, as a code of its owner.
    pub encoding: u8,
    /// Spans, events or scores in it.
    pub units: u32,
    /// Bytes of the body once inflated.
    pub inflated_bytes: u64,
    /// Where it goes.
    pub route: Arc<Route>,
    /// The body.
    pub body: Bytes,
}

/// Why there is no spool. The extension goes on without.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The path names a file or a symbolic link.
    #[error("the spool's path is not a directory")]
    NotADirectory,
    /// Another user owns the directory, or may write to it.
    #[error("the spool's directory belongs to somebody else or is writable by others")]
    NotOurs,
    /// More than [`ENTRIES_LIMIT`] files lie in the directory.
    #[error("the spool's directory is full of other files")]
    Crowded,
    /// Another process has it.
    #[error("the spool is in use by another process")]
    InUse,
    /// The file system refuses.
    #[error("the spool cannot {doing}: {source}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The answer.
        source: io::Error,
    },
}

impl SpoolError {
    fn io(doing: &'static str, source: io::Error) -> Self {
        Self::Io { doing, source }
    }
}

/// Why a record was not stored. Nothing of it is left on disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room within the limits, even after compaction.
    #[error("the spool is full")]
    Full,
    /// It is larger than [`RECORD_LIMIT_BYTES`], or its route has more headers than can be counted.
    #[error("the record is too large for the spool")]
    TooLarge,
    /// The directory is missing and cannot be made.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The file system refuses, for instance because the disk is full.
    #[error("the record cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// Names a record for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    segment: u32,
    ordinal: u32,
}

/// Records on disk, each known by the name that its owner gave it.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    limit_bytes: u64,
    /// `None` until something is to be kept.
    directory: Option<Directory>,
    segments: BTreeMap<u32, Segment>,
    /// The one that is written to.
    active: Option<u32>,
    /// An empty one, to be the next.
    spare: Option<Segment>,
    next_index: u32,
    items: HashMap<u64, Key>,
    recovered: VecDeque<Key>,
    skipped: Skipped,
    /// Bytes of files that have the name of a segment but cannot be read.
    unreadable_bytes: u64,
}

impl Spool {
    /// Takes over what earlier processes of this sandbox left at `path`, unless it was accepted more than `max_age`
    /// before `now_wall` (time since the Unix epoch). A missing directory is only made by the first [`Self::store`].
    /// All files together never take more than `limit_bytes` of disk; if they already do, the oldest go.
    ///
    /// Fails if the directory is not ours alone, if another process uses it, or if it cannot be read and written.
    pub fn open(
        path: &Path,
        limit_bytes: u64,
        now_wall: Duration,
        max_age: Duration,
    ) -> Result<Self, SpoolError> {
        let mut spool = Self {
            path: path.to_owned(),
            limit_bytes,
            directory: Directory::find(path)?,
            segments: BTreeMap::new(),
            active: None,
            spare: None,
            next_index: 0,
            items: HashMap::new(),
            recovered: VecDeque::new(),
            skipped: Skipped::default(),
            unreadable_bytes: 0,
        };
        spool.take_over(now_wall, max_age)?;
        Ok(spool)
    }

    /// Keeps a record under the name `item`, which must be new. Write-through: once this returns, the record survives
    /// the process. Blocks for one write to the page cache.
    pub fn store(&mut self, item: u64, record: &Record) -> Result<(), StoreError> {
        let mut before_body = format::encode_before_body(record).ok_or(StoreError::TooLarge)?;
        let bytes = (before_body.len() + record.body.len()) as u64;
        self.notice_removal();
        self.make_room(bytes)?;
        let segment = self.active_for(bytes)?;
        let key = Key {
            segment: segment.index,
            ordinal: segment.append(&mut before_body, record)?,
        };
        if let Some(earlier) = self.items.insert(item, key) {
            self.drop_records([earlier])?;
        }
        Ok(())
    }

    /// Notes that a send of these begins. Must have returned before its first byte leaves. Names that are not known
    /// are let alone. An error says that a kill from now on may make some look unsent.
    pub fn mark_sent(&mut self, items: impl IntoIterator<Item = u64>) -> io::Result<()> {
        self.count_sends(items, |sends| sends.saturating_add(1))
    }

    /// Notes that the latest send of these surely did not arrive.
    pub fn mark_unsent(&mut self, items: impl IntoIterator<Item = u64>) -> io::Result<()> {
        self.count_sends(items, |sends| sends.saturating_sub(1))
    }

    /// Removes these: they are delivered, or given up. Names that are not known are let alone.
    pub fn forget(&mut self, items: impl IntoIterator<Item = u64>) -> io::Result<()> {
        let keys: Vec<_> = items
            .into_iter()
            .filter_map(|item| self.items.remove(&item))
            .collect();
        self.drop_records(keys)
    }

    /// Bytes of disk in use, with all overhead; never more than the limit.
    pub fn stored_bytes(&self) -> u64 {
        let segments = self.segments.values().chain(&self.spare);
        let segments: u64 = segments.map(Segment::disk_bytes).sum();
        let directory = u64::from(self.directory.is_some()) * DISK_BLOCK_BYTES;
        directory + segments + self.unreadable_bytes
    }

    /// Records that wait on disk, those not yet recovered included.
    pub fn stored_records(&self) -> usize {
        self.segments.values().map(Segment::live_records).sum()
    }

    /// What was found and could not be used, to be logged once when recovery is over.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn count_sends(
        &mut self,
        items: impl IntoIterator<Item = u64>,
        change: impl Fn(u16) -> u16,
    ) -> io::Result<()> {
        let mut result = Ok(());
        for item in items {
            if let Some(key) = self.items.get(&item)
                && let Some(segment) = self.segments.get_mut(&key.segment)
            {
                result = result.and(segment.count_sends(key.ordinal, &change));
            }
        }
        result
    }

    /// Every record is tried, whatever befalls the others; the first error is told.
    fn drop_records(&mut self, keys: impl IntoIterator<Item = Key>) -> io::Result<()> {
        let mut dropped = Vec::new();
        for key in keys {
            if let Some(segment) = self.segments.get_mut(&key.segment)
                && let Some(entry) = segment.forget(key.ordinal)
            {
                dropped.push((key.segment, entry));
            }
        }
        let mut result = Ok(());
        for (index, entry) in &dropped {
            if let Some(segment) = self.segments.get(index).filter(|it| !it.is_empty()) {
                result = result.and(segment.note_forgotten(*entry));
            }
        }
        let touched: BTreeSet<_> = dropped.into_iter().map(|(index, _)| index).collect();
        for index in touched {
            result = result.and(self.release_if_empty(index));
        }
        result
    }

    fn release_if_empty(&mut self, index: u32) -> io::Result<()> {
        let target = self.segment_target();
        if self.active == Some(index) {
            return match self.segments.get_mut(&index) {
                Some(segment) if segment.is_empty() => segment.renew(target),
                _ => Ok(()),
            };
        }
        if !self.segments.get(&index).is_some_and(Segment::is_empty) {
            return Ok(());
        }
        let Some(mut segment) = self.segments.remove(&index) else {
            return Ok(());
        };
        if self.spare.is_none() {
            let renewed = segment.renew(target);
            self.spare = Some(segment);
            return renewed;
        }
        segment.remove().or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => segment.renew(0),
        })
    }

    /// A segment grows to this, unless a single record is larger.
    fn segment_target(&self) -> u64 {
        self.limit_bytes / SEGMENTS_TARGET
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), StoreError> {
        if self.stored_records() >= RECORDS_LIMIT {
            return Err(StoreError::Full);
        }
        while !self.has_room(bytes) {
            self.free_some()?;
        }
        Ok(())
    }

    fn has_room(&self, bytes: u64) -> bool {
        let (before, after) = match self.active_with_room(bytes).or(self.spare.as_ref()) {
            Some(file) => (file.disk_bytes(), file.disk_bytes_with(bytes)),
            None if self.segments.len() >= SEGMENTS_LIMIT => return false,
            None => (0, on_disk(FILE_HEAD_BYTES + bytes)),
        };
        let directory = u64::from(self.directory.is_none()) * DISK_BLOCK_BYTES;
        let reserve = self.limit_bytes / COMPACTION_RESERVE;
        self.stored_bytes() - before + after + directory <= self.limit_bytes - reserve
    }

    /// Frees at least one block, or fails.
    fn free_some(&mut self) -> Result<(), StoreError> {
        if let Some(spare) = self.spare.take() {
            return Ok(spare.remove()?);
        }
        match self.segments.values_mut().find(|it| it.has_slack()) {
            Some(segment) => Ok(segment.trim()?),
            None => self.compact_one(),
        }
    }

    fn compact_one(&mut self) -> Result<(), StoreError> {
        let room = self.limit_bytes.saturating_sub(self.stored_bytes());
        let worth_it = |it: &&mut Segment| {
            let rest = it.compacted_bytes();
            it.dead_bytes() >= DISK_BLOCK_BYTES.max(it.bytes() / 2)
                && rest <= COMPACTION_LIMIT_BYTES
                && on_disk(rest) <= room
        };
        let segment = self.segments.values_mut().filter(worth_it);
        let segment = segment.max_by_key(|it| it.dead_bytes());
        let (Some(segment), Some(directory)) = (segment, &self.directory) else {
            return Err(StoreError::Full);
        };
        Ok(segment.compact(&directory.scratch())?)
    }

    fn active_with_room(&self, bytes: u64) -> Option<&Segment> {
        let active = self.segments.get(&self.active?)?;
        active.takes(bytes, self.segment_target()).then_some(active)
    }

    fn active_for(&mut self, bytes: u64) -> Result<&mut Segment, StoreError> {
        let index = match self.active_with_room(bytes) {
            Some(active) => active.index,
            None => self.start_segment()?,
        };
        let gone = || StoreError::Io(io::ErrorKind::NotFound.into());
        self.segments.get_mut(&index).ok_or_else(gone)
    }

    fn start_segment(&mut self) -> Result<u32, StoreError> {
        let directory = match self.directory.take() {
            Some(directory) => directory,
            None => Directory::make(&self.path)?,
        };
        let directory = self.directory.insert(directory);
        let index = self.next_index;
        let next = index.checked_add(1).ok_or(StoreError::Full)?;
        let path = directory.segment(index);
        let spare = self.spare.take();
        let spare = spare.and_then(|mut it| it.rename(path.clone(), index).is_ok().then_some(it));
        let segment = match spare {
            Some(segment) => segment,
            None => Segment::create(path, index)?,
        };
        self.next_index = next;
        self.segments.insert(index, segment);
        let earlier = self.active.replace(index);
        if let Some(earlier) = earlier {
            self.release_if_empty(earlier)?;
        }
        Ok(index)
    }

    /// Functions do empty `/tmp`. Then what was stored is in memory only, and what comes now gets new files.
    fn notice_removal(&mut self) {
        let gone = |it: &Directory| !it.is_linked();
        if !self.directory.as_ref().is_some_and(gone) {
            return;
        }
        self.directory = None;
        self.active = None;
        self.spare = None;
        let before = self.stored_records();
        self.segments.retain(|_, segment| segment.is_linked());
        self.skipped.removed_records += (before - self.stored_records()) as u64;
        let segments = &self.segments;
        self.items
            .retain(|_, key| segments.contains_key(&key.segment));
        self.recovered
            .retain(|key| segments.contains_key(&key.segment));
    }
}
