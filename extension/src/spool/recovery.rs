//! Taking over what an earlier process left. Records stay where they are and only get a new name, so that there is no
//! moment at which one is on disk twice or not at all.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use langfuse_extension_core::buffer::ItemId;
use langfuse_extension_core::recovery::{Head, Lost};

use super::format::{self, FileKind, Scan, Tail};
use super::segment::{Opened, Segment, on_disk};
use super::{Key, RECORDS_LIMIT, Record, SEGMENTS_LIMIT, Spool, SpoolError};

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

impl Spool {
    /// Looks through the next piece of what earlier processes left, by its heads alone. `None`: there is no more.
    pub fn look(&mut self) -> Option<Seen> {
        let mut seen = Seen::default();
        for key in self.recovered.drain(..) {
            let segment = self.segments.get(&key.segment);
            let Some(head) = segment.and_then(|segment| segment.head(key.ordinal)) else {
                continue;
            };
            let id = seen.records.len() as u64;
            self.items.insert(id, key);
            seen.records.push(Head {
                id: ItemId(id),
                ..head
            });
        }
        (!seen.records.is_empty()).then_some(seen)
    }

    /// Reads a record. `None`: it is damaged, or not there.
    pub fn read(&mut self, item: u64) -> Option<Record> {
        let key = self.items.get(&item)?;
        let record = self.segments.get(&key.segment)?.read(key.ordinal);
        self.skipped.damaged_records += u64::from(record.is_none());
        record
    }

    pub(super) fn take_over(
        &mut self,
        now_wall: Duration,
        max_age: Duration,
    ) -> Result<(), SpoolError> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let listing = directory.list()?;
        self.skipped.foreign_files = listing.foreign;
        let newest = listing.segments.last();
        // Where the numbers end, starting a segment fails and the spool counts as full.
        self.next_index = newest.map_or(0, |(index, _)| index.saturating_add(1));
        let oldest_wall = now_wall.saturating_sub(max_age);
        // Newest first, so that the limits hit the oldest.
        for (index, path) in listing.segments.into_iter().rev() {
            self.take_over_file(index, &path, oldest_wall);
        }
        let segments = self.segments.values();
        self.recovered = segments
            .flat_map(|segment| {
                let segment_index = segment.index;
                segment.ordinals().map(move |ordinal| Key {
                    segment: segment_index,
                    ordinal,
                })
            })
            .collect();
        Ok(())
    }

    fn take_over_file(&mut self, index: u32, path: &Path, oldest_wall: Duration) {
        let file_bytes = std::fs::symlink_metadata(path).map_or(0, |it| it.len());
        let over = self.stored_bytes() + on_disk(file_bytes) > self.limit_bytes
            || self.segments.len() >= SEGMENTS_LIMIT
            || self.stored_records() >= RECORDS_LIMIT;
        if over {
            self.skipped.files_over_limit += 1;
            let _ = std::fs::remove_file(path);
            return;
        }
        let oldest_wall_ms = u64::try_from(oldest_wall.as_millis()).unwrap_or(u64::MAX);
        match Segment::open(path.to_owned(), index, oldest_wall_ms) {
            Ok(Opened::Segment(segment, scan)) => self.take_over_segment(segment, &scan),
            Ok(Opened::Unborn) => {
                let _ = std::fs::remove_file(path);
            }
            Ok(Opened::Unknown) | Err(_) => {
                self.skip_unreadable(path, file_bytes, oldest_wall);
            }
        }
    }

    fn take_over_segment(&mut self, segment: Segment, scan: &Scan) {
        self.skipped.expired += scan.expired;
        match scan.tail {
            Tail::Whole => {}
            Tail::Torn => self.skipped.torn_files += 1,
            Tail::Damaged => self.skipped.damaged_files += 1,
        }
        if segment.is_empty() {
            let _ = segment.remove();
        } else {
            self.segments.insert(segment.index, segment);
        }
    }

    fn skip_unreadable(&mut self, path: &Path, file_bytes: u64, oldest_wall: Duration) {
        let modified = std::fs::symlink_metadata(path)
            .and_then(|it| it.modified())
            .ok()
            .and_then(|it| it.duration_since(std::time::UNIX_EPOCH).ok());
        let expired = modified.is_some_and(|modified| modified < oldest_wall);
        if expired && std::fs::remove_file(path).is_ok() {
            self.skipped.expired += 1;
        } else {
            self.skipped.unreadable_files += 1;
            self.unreadable_bytes += on_disk(file_bytes);
        }
    }
}

/// The records of a segment file that wait, as far as they are whole. Takes any bytes.
pub fn read_segment(bytes: &[u8]) -> Vec<Record> {
    let length = bytes.len() as u64;
    let Ok(FileKind::Segment(generation)) = format::file_kind(bytes, length) else {
        return Vec::new();
    };
    let Ok(scan) = format::scan(bytes, length, generation, 0) else {
        return Vec::new();
    };
    let read = |entry| format::read(bytes, generation, entry).ok().flatten();
    scan.live.into_iter().filter_map(read).collect()
}
