//! Looking through what earlier processes left, a piece at a time. Records stay where they are and only get a name, so
//! that there is no moment at which one is on disk twice or not at all.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use langfuse_extension_core::buffer::ItemId;
use langfuse_extension_core::ledger::DropReason;
use langfuse_extension_core::recovery::{Head, Lost};

use super::format::{self, Entry, FileKind, Found, LANGFUSE, Tail};
use super::segment::{Cursor, Opened, Reading, Segment, on_disk};
use super::{Key, RECORDS_LIMIT, Record, SEGMENTS_LIMIT, Spool, SpoolError};

/// Heads that are read in one turn of the loop.
pub const LOOK_RECORDS: usize = 64;

/// A piece of what earlier processes left.
#[derive(Debug, Default)]
pub struct Seen {
    /// What can be read back, named in the order of its age.
    pub records: Vec<Head>,
    /// What cannot, and went.
    pub lost: Vec<Lost>,
    /// Records, or files, that not even that is known of.
    pub unreadable: u64,
}

/// What was found on disk and not used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Files of other names; let alone.
    pub foreign_files: u64,
    /// Files that cannot be read, or of another version; let alone until they are too old, and charged to the limit.
    pub unreadable_files: u64,
    /// Files that end in the middle of a record, because their writer was killed.
    pub torn_files: u64,
    /// Files cut off where something stands that is no record.
    pub damaged_files: u64,
    /// Records whose checksum is wrong.
    pub damaged_records: u64,
    /// Records, or unreadable files, that are too old.
    pub expired: u64,
    /// Files beyond the limits in bytes, records or number; the oldest.
    pub files_over_limit: u64,
    /// Records of this process whose files somebody removed.
    pub removed_records: u64,
}

impl Skipped {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.foreign_files, "foreign files"),
            (self.unreadable_files, "unreadable files"),
            (self.torn_files, "torn files"),
            (self.damaged_files, "damaged files"),
            (self.damaged_records, "damaged records"),
            (self.expired, "too old"),
            (self.files_over_limit, "files over the limit"),
            (self.removed_records, "records removed by others"),
        ];
        let mut separator = "";
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{what}: {count}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// What has not been looked through yet.
#[derive(Debug, Default)]
pub(super) struct Looking {
    /// Oldest first.
    files: VecDeque<File>,
    /// The one that is being looked through, and whether it goes because the limits are passed.
    current: Option<(u32, Cursor, bool)>,
    /// The numbers of all records that wait. As long as one of them is there, its parts are no records.
    wholes: HashSet<u64>,
    /// They are judged at the end.
    parts: Vec<(Key, u64)>,
}

#[derive(Debug)]
struct File {
    index: u32,
    path: PathBuf,
    bytes: u64,
    /// Beyond the limits: its records are only counted.
    over: bool,
}

impl Looking {
    /// Bytes of disk that they occupy.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| on_disk(file.bytes)).sum()
    }
}

impl Spool {
    /// Sees which files there are, and reads none of them.
    pub(super) fn list(&mut self, now_wall: Duration, max_age: Duration) -> Result<(), SpoolError> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let listing = directory.list()?;
        self.skipped.foreign_files = listing.foreign;
        let newest = listing.segments.last();
        // Where the numbers end, starting a segment fails and the spool counts as full.
        self.next_index = newest.map_or(0, |(index, _)| index.saturating_add(1));
        self.oldest_wall = now_wall.saturating_sub(max_age);
        let (mut files, mut bytes) = (0, self.stored_bytes());
        // Newest first, so that the limits hit the oldest.
        for (index, path) in listing.segments.into_iter().rev() {
            let length = std::fs::symlink_metadata(&path).map_or(0, |it| it.len());
            files += 1;
            bytes += on_disk(length);
            let over = bytes > self.limit_bytes || files > SEGMENTS_LIMIT;
            self.looking.files.push_front(File {
                index,
                path,
                bytes: length,
                over,
            });
        }
        Ok(())
    }

    /// Looks through the next piece of what earlier processes left, by its heads alone. `None`: there is no more.
    pub fn look(&mut self) -> Option<Seen> {
        let mut seen = Seen::default();
        let Some((index, mut cursor, over)) = self.looking.current.take() else {
            if let Some(file) = self.looking.files.pop_front() {
                self.open_file(&file, &mut seen);
                return Some(seen);
            }
            self.judge_parts(&mut seen);
            self.looking = Looking::default();
            return (!seen.records.is_empty()).then_some(seen);
        };
        for _ in 0..LOOK_RECORDS {
            let Some(segment) = self.segments.get_mut(&index) else {
                return Some(seen);
            };
            match segment.look(&mut cursor) {
                Found::Live(entry) => self.found(index, entry, over, &mut seen),
                Found::Dead(_) => {}
                Found::End(tail) => {
                    match tail {
                        Tail::Whole => {}
                        Tail::Torn => self.skipped.torn_files += 1,
                        Tail::Damaged => {
                            self.skipped.damaged_files += 1;
                            seen.unreadable += 1;
                        }
                    }
                    self.close_file(index);
                    return Some(seen);
                }
            }
        }
        self.looking.current = Some((index, cursor, over));
        Some(seen)
    }

    fn found(&mut self, segment: u32, entry: Entry, over: bool, seen: &mut Seen) {
        let key = Key {
            segment,
            slot: entry.slot,
        };
        if over || self.stored_records() > RECORDS_LIMIT {
            seen.lost.push(Lost {
                reason: DropReason::OverLimit,
                units: entry.units.into(),
            });
            let _ = self.drop_records([key]);
            return;
        }
        self.looking.wholes.insert(entry.id);
        if entry.replaces == 0 {
            self.name(key, &entry, seen);
        } else {
            self.looking.parts.push((key, entry.replaces));
        }
    }

    fn judge_parts(&mut self, seen: &mut Seen) {
        for (key, whole) in std::mem::take(&mut self.looking.parts) {
            let segment = self.segments.get(&key.segment);
            let Some(entry) = segment.and_then(|segment| segment.entry(key.slot)).copied() else {
                continue;
            };
            if self.looking.wholes.contains(&whole) {
                let _ = self.drop_records([key]);
            } else {
                self.name(key, &entry, seen);
            }
        }
    }

    fn name(&mut self, key: Key, entry: &Entry, seen: &mut Seen) {
        let id = self.next_name;
        self.next_name += 1;
        self.items.insert(id, key);
        seen.records.push(Head {
            id: ItemId(id),
            accepted_wall: Duration::from_millis(entry.accepted_wall_ms),
            units: entry.units,
            bytes: entry.body_bytes as usize,
            sends: entry.state.sends[LANGFUSE].into(),
            crashes: self.crashes(entry).into(),
        });
    }

    /// Crashes at which it was in memory: a process that took it and is not the one that goes on has crashed with it.
    fn crashes(&self, entry: &Entry) -> u16 {
        let now = self.directory.as_ref().map(|it| it.process.crashes);
        let crashed = now.is_some_and(|now| now != entry.state.touched);
        entry.state.crashes.saturating_add(crashed.into())
    }

    fn open_file(&mut self, file: &File, seen: &mut Seen) {
        match Segment::open(file.path.clone(), file.index) {
            Ok(Opened::Segment(segment, cursor)) => {
                self.segments.insert(file.index, segment);
                self.looking.current = Some((file.index, cursor, file.over));
                self.skipped.files_over_limit += u64::from(file.over);
            }
            Ok(Opened::Unborn) => {
                let _ = std::fs::remove_file(&file.path);
            }
            Ok(Opened::Unknown) | Err(_) => {
                seen.unreadable += 1;
                self.skip_unreadable(file);
            }
        }
    }

    /// All of it has been seen.
    fn close_file(&mut self, index: u32) {
        if self.segments.get(&index).is_some_and(Segment::is_empty)
            && let Some(segment) = self.segments.remove(&index)
        {
            let _ = segment.remove();
        }
    }

    fn skip_unreadable(&mut self, file: &File) {
        let modified = std::fs::symlink_metadata(&file.path)
            .and_then(|it| it.modified())
            .ok()
            .and_then(|it| it.duration_since(std::time::UNIX_EPOCH).ok());
        let expired = modified.is_some_and(|modified| modified < self.oldest_wall);
        if (expired || file.over) && std::fs::remove_file(&file.path).is_ok() {
            self.skipped.expired += 1;
        } else {
            self.skipped.unreadable_files += 1;
            self.unreadable_bytes += on_disk(file.bytes);
        }
    }

    /// To read a record, wherever. Notes that this process has it in memory. `None`: it is not there.
    pub fn reading(&mut self, item: u64) -> Option<Reading> {
        let key = *self.items.get(&item)?;
        let entry = *self.segments.get(&key.segment)?.entry(key.slot)?;
        let crashes = self.crashes(&entry);
        let touched = self.directory.as_ref().map(|it| it.process.crashes);
        let segment = self.segments.get_mut(&key.segment)?;
        if let Some(touched) = touched.filter(|now| *now != entry.state.touched) {
            // If even that fails, a crash is not counted.
            let _ = segment.change(&[key.slot], |state| {
                state.crashes = crashes;
                state.touched = touched;
            });
        }
        segment.reading(key.slot)
    }

    /// Whether the body of this item is still being written beside the loop, and cannot be read yet.
    pub fn is_writing(&self, item: u64) -> bool {
        self.writing.contains_key(&item)
    }

    /// Reads a record. `None`: it is damaged, or not there.
    pub fn read(&mut self, item: u64) -> Option<Record> {
        let record = self.reading(item)?.run();
        self.skipped.damaged_records += u64::from(record.is_none());
        record
    }
}

/// The records of a segment file that wait, as far as they are whole. Takes any bytes.
pub fn read_segment(bytes: &[u8]) -> Vec<Record> {
    let length = bytes.len() as u64;
    let Ok(FileKind::Segment(head)) = format::file_kind(bytes, length) else {
        return Vec::new();
    };
    let table_bytes = head.table_bytes();
    let table = usize::try_from(table_bytes).map_or(bytes, |end| &bytes[..end]);
    let (mut offset, mut entries) = (table_bytes, Vec::new());
    loop {
        match format::look_at(bytes, length, head.generation, table, offset) {
            Ok(Found::Live(entry)) => {
                offset += entry.bytes;
                entries.push(entry);
            }
            Ok(Found::Dead(bytes)) => offset += bytes,
            Ok(Found::End(_)) | Err(_) => break,
        }
    }
    let numbers: HashSet<_> = entries.iter().map(|entry| entry.id).collect();
    entries.retain(|entry| !numbers.contains(&entry.replaces));
    let read = |entry| format::read(bytes, head.generation, entry).ok().flatten();
    entries.into_iter().filter_map(read).collect()
}
