//! What must outlive this process, under `/tmp`: every accepted body is written here before it is acknowledged.
//!
//! ```text
//!   store ──▶ 00000007.segment  (active)      forget ──▶ the last record of a file gone: the file is used anew, or goes
//!             00000006.segment  (full)        look ──▶ reading ──▶ forget
//!             00000003.segment  (left by an earlier process; its records stay where they are)
//! ```
//!
//! A write goes to the page cache and is not synced: that outlives the process, whatever kills it. What it does not
//! outlive, the end of the sandbox, takes the disk along. What is always true, and what a kill leaves, is in [`format`].
//!
//! No step does more than [`LARGE_BYTES`] of anything: larger bodies are written elsewhere ([`Write`]), and acknowledged
//! after; what was left is looked through in pieces; what is marked together is written together. Nothing is mapped into
//! memory, because a file that somebody cuts, or a disk that is full, would then be a signal instead of an error.
//!
//! Records hold `Authorization` headers: files have mode 0600, the directory 0700.

mod directory;
pub mod disk;
mod format;
mod recovery;
mod route;
mod segment;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use langfuse_extension_core::route::Route;

use directory::Directory;
use format::{Birth, SLOT_BYTES, SLOTS_LEAST, SLOTS_LIMIT};
use recovery::Looking;
use segment::{Segment, on_disk, record_bytes};

pub use recovery::{LOOK_RECORDS, Seen, Skipped, read_segment};
pub use segment::{Reading, Write};

/// The most that one record may take, head and route included; the largest local body is 20 MB.
pub const RECORD_LIMIT_BYTES: u64 = 24 << 20;
/// Records that may wait at once, so that the index stays small in memory.
pub const RECORDS_LIMIT: usize = 32_000;
/// Files of the spool, its lock not counted; each is kept open.
pub const SEGMENTS_LIMIT: usize = 64;
/// A segment grows up to this part of the limit in bytes, unless a single record is larger.
pub const SEGMENTS_TARGET: u64 = 16;
/// Records fill the limit but for this part, so that a segment can be rewritten before the old one goes.
pub const COMPACTION_RESERVE: u64 = 2 * SEGMENTS_TARGET;
/// The most that is copied at once to free room; segments with more in them are let alone.
pub const COMPACTION_LIMIT_BYTES: u64 = 64 << 10;
/// Bodies larger than this are written beside the loop.
pub const LARGE_BYTES: usize = 64 << 10;
/// Files that may lie in the directory, those of others included.
pub const ENTRIES_LIMIT: usize = 4096;
/// The unit in which disk space is charged.
pub const DISK_BLOCK_BYTES: u64 = 4096;

/// The directory itself, and its lock.
const DIRECTORY_BYTES: u64 = 2 * DISK_BLOCK_BYTES;

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
    slot: u32,
}

/// An item whose parts are being written beside the loop.
#[derive(Debug, Default)]
struct Whole {
    parts: HashSet<u64>,
    forgotten: bool,
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
    /// Those whose bodies are being written beside the loop.
    writing: HashMap<u64, Key>,
    /// What of earlier processes is still to be looked through.
    looking: Looking,
    /// Items whose parts are not all written yet, with how many those are, and whether they are to go then.
    wholes: HashMap<u64, Whole>,
    next_name: u64,
    stored: u32,
    skipped: Skipped,
    removed: Vec<u64>,
    /// Bytes of files that have the name of a segment but cannot be read.
    unreadable_bytes: u64,
    /// Unreadable files from before this, since the Unix epoch, go.
    oldest_wall: Duration,
}

impl Spool {
    /// Opens what earlier processes of this sandbox left at `path`; nothing of it is read before [`Self::look`]. A missing
    /// directory is only made by the first [`Self::store`]. All files together never take more than `limit_bytes` of disk;
    /// if they already do, the oldest go. Files that cannot be read go when they are `max_age` older than `now_wall` (time
    /// since the Unix epoch).
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
            writing: HashMap::new(),
            looking: Looking::default(),
            wholes: HashMap::new(),
            next_name: 0,
            stored: 0,
            skipped: Skipped::default(),
            removed: Vec::new(),
            unreadable_bytes: 0,
            oldest_wall: Duration::ZERO,
        };
        spool.list(now_wall, max_age)?;
        Ok(spool)
    }

    /// Keeps a record under the name `item`, which must be new. Write-through: once this returns, the record survives
    /// the process. Blocks for one write to the page cache.
    pub fn store(&mut self, item: u64, record: &Record) -> Result<(), StoreError> {
        if let Some(write) = self.begin(item, None, record)? {
            let written = write.run();
            self.written(item, written.is_ok())?;
            written?;
        }
        Ok(())
    }

    /// The same, but the body of a record beyond [`LARGE_BYTES`] is given back to be written on another thread: it is
    /// stored when [`Self::written`] has been told so. `whole`: the item that this is a part of. As long as that one is on
    /// disk, the part is no record of its own.
    pub fn begin(
        &mut self,
        item: u64,
        whole: Option<u64>,
        record: &Record,
    ) -> Result<Option<Write>, StoreError> {
        self.notice_removal();
        let large = record.body.len() > LARGE_BYTES;
        let birth = self.birth(whole, large);
        let before_body = format::encode_before_body(record, birth).ok_or(StoreError::TooLarge)?;
        let bytes = record_bytes(&before_body, &record.body);
        self.make_room(bytes)?;
        let segment = self.active_for(bytes)?;
        let (slot, write) = segment.append(before_body, record, birth)?;
        let segment = segment.index;
        self.stored += 1;
        if let Some(earlier) = self.items.insert(item, Key { segment, slot }) {
            self.drop_records([earlier])?;
        }
        if write.is_some() {
            self.writing.insert(item, Key { segment, slot });
        }
        if let Some(whole) = whole.filter(|_| write.is_some()) {
            self.wholes.entry(whole).or_default().parts.insert(item);
        }
        Ok(write)
    }

    /// The body of a large record was written beside, or not. What waited for it is done now.
    pub fn written(&mut self, item: u64, whole: bool) -> io::Result<()> {
        let mut result = Ok(());
        if let Some(key) = self.writing.remove(&item)
            && let Some(segment) = self.segments.get_mut(&key.segment)
        {
            result = segment.written(key.slot, whole);
            result = result.and(self.release_if_empty(key.segment));
        }
        if !whole {
            result = result.and(self.forget([item]));
        }
        let mut complete = Vec::new();
        self.wholes.retain(|name, it| {
            it.parts.remove(&item);
            let waits = !it.parts.is_empty();
            complete.extend((!waits && it.forgotten).then_some(*name));
            waits
        });
        result.and(self.forget(complete))
    }

    /// Names a new record. Its number is not that of any other in this directory.
    fn birth(&self, whole: Option<u64>, large: bool) -> Birth {
        let process = self.directory.as_ref().map(|it| it.process);
        let process = process.unwrap_or_default();
        let whole = whole.and_then(|whole| self.items.get(&whole));
        let whole = whole.and_then(|key| self.segments.get(&key.segment)?.entry(key.slot));
        Birth {
            id: (u64::from(process.starts) << 32) | (u64::from(self.stored) + 1),
            replaces: whole.map_or(0, |entry| entry.id),
            touched: process.crashes,
            large,
        }
    }

    /// Counts that a send of these begins. Must have returned before its first byte leaves. Names that are not known
    /// are let alone. An error says that a kill from now on may make some look unsent.
    pub fn mark_sent(&mut self, items: impl IntoIterator<Item = u64>) -> io::Result<()> {
        // A whole that is still there stands for its parts.
        let mut items: Vec<_> = items.into_iter().collect();
        let wholes = self.wholes.iter().filter(|(_, whole)| whole.forgotten);
        let sent = wholes.filter(|(_, it)| items.iter().any(|item| it.parts.contains(item)));
        let sent: Vec<_> = sent.map(|(name, _)| *name).collect();
        items.extend(sent);
        self.count_sends(items, |sends| sends.saturating_add(1))
    }

    /// Takes that back for the latest send of these: it surely did not arrive.
    pub fn mark_unsent(&mut self, items: impl IntoIterator<Item = u64>) -> io::Result<()> {
        self.count_sends(items, |sends| sends.saturating_sub(1))
    }

    /// Removes these: they are delivered, or given up. Names that are not known are let alone. An item whose parts are
    /// still being written goes when they are there.
    pub fn forget(&mut self, items: impl IntoIterator<Item = u64>) -> io::Result<()> {
        let mut keys = Vec::new();
        for item in items {
            match self.wholes.get_mut(&item) {
                Some(whole) if !whole.parts.is_empty() => whole.forgotten = true,
                _ => keys.extend(self.items.remove(&item)),
            }
        }
        self.drop_records(keys)
    }

    /// The process ends in order: what is left is not to blame for it.
    pub fn close(&mut self) -> io::Result<()> {
        self.directory.as_ref().map_or(Ok(()), Directory::close)
    }

    /// The items of this process whose files somebody removed since this was last asked.
    pub fn take_removed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.removed)
    }

    /// Bytes of disk in use, with all overhead; never more than the limit.
    pub fn stored_bytes(&self) -> u64 {
        let segments = self.segments.values().chain(&self.spare);
        let segments: u64 = segments.map(Segment::disk_bytes).sum();
        let directory = u64::from(self.directory.is_some()) * DIRECTORY_BYTES;
        directory + segments + self.unreadable_bytes + self.looking.bytes()
    }

    /// Records that wait on disk, as far as it has been looked through.
    pub fn stored_records(&self) -> usize {
        self.segments.values().map(Segment::live_records).sum()
    }

    /// What was found and could not be used, to be logged once all is looked through.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn count_sends(
        &mut self,
        items: impl IntoIterator<Item = u64>,
        change: impl Fn(u16) -> u16,
    ) -> io::Result<()> {
        let keys = items.into_iter().filter_map(|item| self.items.get(&item));
        let by_segment = by_segment(keys.copied());
        let mut result = Ok(());
        for (index, slots) in by_segment {
            if let Some(segment) = self.segments.get_mut(&index) {
                let count = |state: &mut format::Slot| {
                    let sends = &mut state.sends[format::LANGFUSE];
                    *sends = change(*sends);
                };
                result = result.and(segment.change(&slots, count));
            }
        }
        result
    }

    /// Every file is tried, whatever befalls the others; the first error is told.
    fn drop_records(&mut self, keys: impl IntoIterator<Item = Key>) -> io::Result<()> {
        let mut result = Ok(());
        for (index, mut slots) in by_segment(keys) {
            let Some(segment) = self.segments.get_mut(&index) else {
                continue;
            };
            slots.retain(|slot| segment.forget(*slot));
            if !segment.is_empty() {
                result = result.and(segment.note(&slots));
            }
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

    /// Slots of a new segment: one for each 8 KiB.
    fn slots(&self) -> u32 {
        // With the head of the file a whole number of blocks.
        let slots = (self.segment_target() / (8 << 10)).saturating_sub(1);
        u32::try_from(slots).map_or(SLOTS_LIMIT, |slots| slots.clamp(SLOTS_LEAST, SLOTS_LIMIT))
    }

    fn table_bytes(&self) -> u64 {
        SLOT_BYTES * u64::from(self.slots() + 1)
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), StoreError> {
        if self.stored_records() >= RECORDS_LIMIT {
            return Err(StoreError::Full);
        }
        let mut copied = 0;
        while !self.has_room(bytes) {
            copied += self.free_some(COMPACTION_LIMIT_BYTES - copied)?;
        }
        Ok(())
    }

    fn has_room(&self, bytes: u64) -> bool {
        let (before, after) = match self.active_with_room(bytes).or(self.spare.as_ref()) {
            Some(file) => (file.disk_bytes(), file.disk_bytes_with(bytes)),
            None if self.segments.len() >= SEGMENTS_LIMIT => return false,
            None => (0, on_disk(self.table_bytes() + bytes)),
        };
        let directory = u64::from(self.directory.is_none()) * DIRECTORY_BYTES;
        let reserve = self.limit_bytes / COMPACTION_RESERVE;
        self.stored_bytes() - before + after + directory <= self.limit_bytes - reserve
    }

    /// Frees at least one block, or fails. Copies at most so many bytes, and returns how many.
    fn free_some(&mut self, most_bytes: u64) -> Result<u64, StoreError> {
        if let Some(spare) = self.spare.take() {
            spare.remove()?;
            return Ok(0);
        }
        match self.segments.values_mut().find(|it| it.has_slack()) {
            Some(segment) => segment.trim().map(|()| 0).map_err(StoreError::from),
            None => self.compact_one(most_bytes),
        }
    }

    fn compact_one(&mut self, most_bytes: u64) -> Result<u64, StoreError> {
        let room = self.limit_bytes.saturating_sub(self.stored_bytes());
        let worth_it = |it: &&mut Segment| {
            it.dead_bytes() >= DISK_BLOCK_BYTES.max(it.bytes() / 2)
                && it.live_bytes() <= most_bytes
                && on_disk(it.compacted_bytes()) <= room
        };
        let segment = self.segments.values_mut().filter(worth_it);
        let segment = segment.max_by_key(|it| it.dead_bytes());
        let (Some(segment), Some(directory)) = (segment, &self.directory) else {
            return Err(StoreError::Full);
        };
        segment.compact(&directory.scratch())?;
        Ok(segment.live_bytes())
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
        let slots = self.slots();
        let directory = self.directory.insert(directory);
        let index = self.next_index;
        let next = index.checked_add(1).ok_or(StoreError::Full)?;
        let path = directory.segment(index);
        let spare = self.spare.take();
        let spare = spare.and_then(|mut it| it.rename(path.clone(), index).is_ok().then_some(it));
        let segment = match spare {
            Some(segment) => segment,
            None => Segment::create(path, index, slots)?,
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
        self.wholes.clear();
        self.segments.retain(|_, segment| segment.is_linked());
        self.looking = Looking::default();
        let segments = &self.segments;
        let removed = &mut self.removed;
        self.items.retain(|item, key| {
            let there = segments.contains_key(&key.segment);
            removed.extend((!there).then_some(*item));
            there
        });
        self.skipped.removed_records += self.removed.len() as u64;
    }
}

fn by_segment(keys: impl IntoIterator<Item = Key>) -> BTreeMap<u32, Vec<u32>> {
    let mut by_segment = BTreeMap::<_, Vec<_>>::new();
    for key in keys {
        by_segment.entry(key.segment).or_default().push(key.slot);
    }
    by_segment
}
