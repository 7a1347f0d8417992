//! One file of records. It speaks for itself: what became of a record is noted in the record, so that losing or
//! removing one segment says nothing about another.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use langfuse_extension_core::buffer::ItemId;
use langfuse_extension_core::recovery::Head;
use rustix::fs::OFlags;

use super::format::{
    self, Entry, FILE_HEAD_BYTES, FileKind, STATE_OFFSET_BYTES, Scan, State, file_head,
};
use super::{DISK_BLOCK_BYTES, Record};

/// A segment, open for reading and writing.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its place in the order of all segments.
    pub(super) index: u32,
    path: PathBuf,
    file: File,
    generation: u32,
    /// Where the records end.
    bytes: u64,
    /// Where the file ends; what lies between is of earlier generations.
    file_bytes: u64,
    live: BTreeMap<u32, Entry>,
    live_bytes: u64,
    next_ordinal: u32,
    /// A failed write could not be taken back; what stands behind the last record is unknown.
    sealed: bool,
}

/// What a file turned out to be.
#[derive(Debug)]
pub(super) enum Opened {
    Segment(Segment, Scan),
    Unborn,
    Unknown,
}

impl Segment {
    /// A new file, which must not exist.
    pub(super) fn create(path: PathBuf, index: u32) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all_at(&file_head(0), 0).inspect_err(|_| {
            let _ = std::fs::remove_file(&path);
        })?;
        Ok(Self::new(path, index, file, 0))
    }

    /// A file that an earlier process left. What follows its last whole record is cut off.
    pub(super) fn open(path: PathBuf, index: u32, oldest_wall_ms: u64) -> io::Result<Opened> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Opened::Unknown);
        }
        let generation = match format::file_kind(&file, metadata.len())? {
            FileKind::Segment(generation) => generation,
            FileKind::Unborn => return Ok(Opened::Unborn),
            FileKind::Unknown => return Ok(Opened::Unknown),
        };
        let scan = format::scan(&file, metadata.len(), generation, oldest_wall_ms)?;
        if scan.end < metadata.len() {
            file.set_len(scan.end)?;
        }
        let mut segment = Self::new(path, index, file, generation);
        segment.bytes = scan.end;
        segment.file_bytes = scan.end;
        for entry in &scan.live {
            segment.index_entry(*entry);
        }
        Ok(Opened::Segment(segment, scan))
    }

    fn new(path: PathBuf, index: u32, file: File, generation: u32) -> Self {
        Self {
            index,
            path,
            file,
            generation,
            bytes: FILE_HEAD_BYTES,
            file_bytes: FILE_HEAD_BYTES,
            live: BTreeMap::new(),
            live_bytes: 0,
            next_ordinal: 0,
            sealed: false,
        }
    }

    /// Writes one record in one system call, unless the kernel takes less at once; a failed write is taken back.
    pub(super) fn append(&mut self, before_body: &mut [u8], record: &Record) -> io::Result<u32> {
        let body = &record.body;
        let bytes = (before_body.len() + body.len()) as u64;
        format::seal(before_body, self.generation);
        if let Err(error) = write_all(&self.file, before_body, body, self.bytes) {
            if self.trim().is_err() {
                self.sealed = true;
                self.bytes += bytes;
                self.file_bytes = self.file_bytes.max(self.bytes);
            }
            return Err(error);
        }
        let offset = self.bytes;
        self.bytes += bytes;
        self.file_bytes = self.file_bytes.max(self.bytes);
        Ok(self.index_entry(Entry {
            offset,
            bytes,
            unresolved_sends: record.unresolved_sends,
            accepted_wall_ms: record.accepted_wall_ms,
            units: record.units,
            body_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
        }))
    }

    fn index_entry(&mut self, entry: Entry) -> u32 {
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        self.live_bytes += entry.bytes;
        self.live.insert(ordinal, entry);
        ordinal
    }

    /// Changes how many sends of a record may have arrived.
    pub(super) fn count_sends(
        &mut self,
        ordinal: u32,
        change: impl FnOnce(u16) -> u16,
    ) -> io::Result<()> {
        let Some(entry) = self.live.get_mut(&ordinal) else {
            return Ok(());
        };
        let state = State::live(change(entry.unresolved_sends));
        if let State::Live { unresolved_sends } = state {
            entry.unresolved_sends = unresolved_sends;
        }
        self.file
            .write_all_at(&state.to_bytes(), entry.offset + STATE_OFFSET_BYTES)
    }

    /// Takes a record out of the index. The caller still has to [`Self::note_forgotten`] it, or to remove the file.
    pub(super) fn forget(&mut self, ordinal: u32) -> Option<Entry> {
        let entry = self.live.remove(&ordinal)?;
        self.live_bytes -= entry.bytes;
        Some(entry)
    }

    pub(super) fn note_forgotten(&self, entry: Entry) -> io::Result<()> {
        let state = State::Forgotten.to_bytes();
        self.file
            .write_all_at(&state, entry.offset + STATE_OFFSET_BYTES)
    }

    /// `None`: the record is damaged, or forgotten.
    pub(super) fn read(&self, ordinal: u32) -> Option<Record> {
        let entry = self.live.get(&ordinal)?;
        format::read(&self.file, self.generation, *entry)
            .ok()
            .flatten()
    }

    /// Begins anew. There must be no record left that waits. The file keeps its pages, because writing over them takes half
    /// the time of getting new ones, unless it is larger than `limit_bytes`.
    pub(super) fn renew(&mut self, limit_bytes: u64) -> io::Result<()> {
        let next = self.generation.checked_add(1);
        let renewed = next.filter(|_| self.file_bytes <= limit_bytes);
        if let Some(generation) = renewed
            && self.file.write_all_at(&file_head(generation), 0).is_ok()
        {
            self.generation = generation;
        } else {
            self.file.set_len(FILE_HEAD_BYTES)?;
            self.file_bytes = FILE_HEAD_BYTES;
        }
        self.bytes = FILE_HEAD_BYTES;
        self.sealed = false;
        Ok(())
    }

    /// Gives back what lies behind the records.
    pub(super) fn trim(&mut self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file_bytes = self.bytes;
        Ok(())
    }

    /// Gives the file another place in the order of all segments.
    pub(super) fn rename(&mut self, path: PathBuf, index: u32) -> io::Result<()> {
        std::fs::rename(&self.path, &path)?;
        self.path = path;
        self.index = index;
        Ok(())
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Rewrites the file without what is forgotten. A kill at any moment leaves either the old file or the new one.
    pub(super) fn compact(&mut self, scratch: &Path) -> io::Result<()> {
        let _ = std::fs::remove_file(scratch);
        let mut compacted = Self::create(scratch.to_owned(), self.index)?;
        let copied = self
            .live
            .values()
            .try_for_each(|entry| self.copy(*entry, &mut compacted))
            .and_then(|()| std::fs::rename(scratch, &self.path));
        if let Err(error) = copied {
            let _ = std::fs::remove_file(scratch);
            return Err(error);
        }
        // The ordinals stay, because others know the records by them; only the offsets move.
        for (entry, moved) in self.live.values_mut().zip(compacted.live.values()) {
            entry.offset = moved.offset;
        }
        self.file = compacted.file;
        self.generation = compacted.generation;
        self.bytes = compacted.bytes;
        self.file_bytes = compacted.bytes;
        self.sealed = false;
        Ok(())
    }

    fn copy(&self, entry: Entry, to: &mut Self) -> io::Result<()> {
        const CHUNK_BYTES: usize = 64 * 1024;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut done = 0;
        while done < entry.bytes {
            let step = (entry.bytes - done).min(CHUNK_BYTES as u64);
            let part = &mut chunk[..usize::try_from(step).unwrap_or(CHUNK_BYTES)];
            self.file.read_exact_at(part, entry.offset + done)?;
            if done == 0 {
                format::seal(part, to.generation);
            }
            to.file.write_all_at(part, to.bytes + done)?;
            done += step;
        }
        let offset = to.bytes;
        to.bytes += entry.bytes;
        to.index_entry(Entry { offset, ..entry });
        Ok(())
    }

    /// What is known of a record without reading it. Its name is for the caller to give.
    pub(super) fn head(&self, ordinal: u32) -> Option<Head> {
        let entry = self.live.get(&ordinal)?;
        Some(Head {
            id: ItemId(0),
            accepted_wall: Duration::from_millis(entry.accepted_wall_ms),
            units: entry.units,
            bytes: entry.body_bytes as usize,
            sends: entry.unresolved_sends.into(),
            crashes: 0,
        })
    }

    /// The names of the records that wait, oldest first.
    pub(super) fn ordinals(&self) -> impl Iterator<Item = u32> {
        self.live.keys().copied()
    }

    pub(super) fn live_records(&self) -> usize {
        self.live.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Whether a record of this size may be appended to a file that is to stay within `limit_bytes`.
    pub(super) fn takes(&self, record_bytes: u64, limit_bytes: u64) -> bool {
        let fits = self.bytes + record_bytes <= limit_bytes || self.bytes == FILE_HEAD_BYTES;
        fits && !self.sealed && self.next_ordinal < u32::MAX
    }

    /// Bytes of the file that are of no use.
    pub(super) fn dead_bytes(&self) -> u64 {
        self.bytes - FILE_HEAD_BYTES - self.live_bytes
    }

    /// Bytes of the file if it were rewritten.
    pub(super) fn compacted_bytes(&self) -> u64 {
        FILE_HEAD_BYTES + self.live_bytes
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of disk that the file occupies.
    pub(super) fn disk_bytes(&self) -> u64 {
        on_disk(self.file_bytes)
    }

    /// The same once a record of this size is appended.
    pub(super) fn disk_bytes_with(&self, record_bytes: u64) -> u64 {
        on_disk(self.file_bytes.max(self.bytes + record_bytes))
    }

    /// Whether [`Self::trim`] would give back disk.
    pub(super) fn has_slack(&self) -> bool {
        self.disk_bytes() > on_disk(self.bytes)
    }

    /// Whether the file can still be found by a later process.
    pub(super) fn is_linked(&self) -> bool {
        self.file.metadata().is_ok_and(|it| it.nlink() > 0)
    }
}

/// Bytes of disk that a file of this length occupies.
pub(super) fn on_disk(file_bytes: u64) -> u64 {
    file_bytes.next_multiple_of(DISK_BLOCK_BYTES)
}

fn write_all(file: &File, first: &[u8], second: &[u8], mut offset: u64) -> io::Result<()> {
    let mut parts = [IoSlice::new(first), IoSlice::new(second)];
    let mut parts = &mut parts[..];
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match rustix::io::pwritev(file, parts, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut parts, written);
                offset += written as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
