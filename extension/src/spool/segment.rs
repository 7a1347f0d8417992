//! One file of records. It speaks for itself: what became of a record is noted in the same file, so that losing or
//! removing one segment says nothing about another.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::OFlags;

use super::format::{
    self, Birth, Entry, FileHead, FileKind, Found, LANGFUSE, RECORD_HEAD_BYTES, RECORD_TAIL_BYTES,
    SLOT_BYTES, Slot, Tail,
};
use super::{DISK_BLOCK_BYTES, Record};

/// A segment, open for reading and writing.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its place in the order of all segments.
    pub(super) index: u32,
    path: PathBuf,
    file: Arc<File>,
    head: FileHead,
    /// Where the records end.
    bytes: u64,
    /// Where the file ends; what lies between is of earlier generations.
    file_bytes: u64,
    /// By the number of their slots.
    live: BTreeMap<u32, Entry>,
    live_bytes: u64,
    next_slot: u32,
    /// Bodies that are being written beside the loop.
    writing: u32,
    /// Not all of it has been looked through.
    pub(super) unseen: bool,
    /// A failed write could not be taken back; what stands behind the last record is unknown.
    sealed: bool,
}

/// What a file turned out to be.
#[derive(Debug)]
pub(super) enum Opened {
    Segment(Segment, Cursor),
    Unborn,
    Unknown,
}

/// How far a segment has been looked through.
#[derive(Debug)]
pub(super) struct Cursor {
    table: Vec<u8>,
    offset: u64,
    file_bytes: u64,
}

/// A body that is still to be written, on whatever thread.
#[derive(Debug)]
pub struct Write {
    file: Arc<File>,
    offset: u64,
    before_body: Vec<u8>,
    body: Bytes,
}

impl Write {
    /// Writes it, and its checksum behind it.
    ///
    /// # Errors
    /// When the file system refuses, for instance because the disk is full.
    pub fn run(&self) -> io::Result<()> {
        let tail = format::tail(&self.before_body, &self.body);
        write_all(&self.file, &[&self.body, &tail], self.offset)
    }
}

/// A record that is still to be read, on whatever thread.
#[derive(Debug)]
pub struct Reading {
    file: Arc<File>,
    generation: u32,
    entry: Entry,
}

impl Reading {
    /// Bytes of the body.
    pub fn body_bytes(&self) -> usize {
        self.entry.body_bytes as usize
    }

    /// `None`: the record is damaged.
    pub fn run(&self) -> Option<Record> {
        format::read(&*self.file, self.generation, self.entry)
            .ok()
            .flatten()
    }
}

impl Segment {
    /// A new file, which must not exist. All its slots are written, so that no note will ever need room.
    pub(super) fn create(path: PathBuf, index: u32, slots: u32) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let head = FileHead {
            generation: 0,
            slots,
        };
        let zeros = vec![0; usize::try_from(head.table_bytes() - SLOT_BYTES).unwrap_or_default()];
        write_all(&file, &[&head.encode(), &zeros], 0).inspect_err(|_| {
            let _ = std::fs::remove_file(&path);
        })?;
        Ok(Self::new(path, index, file, head))
    }

    /// A file that an earlier process left. Nothing but its table is read.
    pub(super) fn open(path: PathBuf, index: u32) -> io::Result<Opened> {
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
        let head = match format::file_kind(&file, metadata.len())? {
            FileKind::Segment(head) => head,
            FileKind::Unborn => return Ok(Opened::Unborn),
            FileKind::Unknown => return Ok(Opened::Unknown),
        };
        let mut table = vec![0; usize::try_from(head.table_bytes()).unwrap_or_default()];
        file.read_exact_at(&mut table, 0)?;
        let mut segment = Self::new(path, index, file, head);
        segment.bytes = metadata.len();
        segment.file_bytes = metadata.len();
        segment.next_slot = head.slots;
        segment.unseen = true;
        let cursor = Cursor {
            table,
            offset: head.table_bytes(),
            file_bytes: metadata.len(),
        };
        Ok(Opened::Segment(segment, cursor))
    }

    fn new(path: PathBuf, index: u32, file: File, head: FileHead) -> Self {
        Self {
            index,
            path,
            file: Arc::new(file),
            head,
            bytes: head.table_bytes(),
            file_bytes: head.table_bytes(),
            live: BTreeMap::new(),
            live_bytes: 0,
            next_slot: 0,
            writing: 0,
            unseen: false,
            sealed: false,
        }
    }

    /// Looks at the next record. At the end, what follows the last whole record is cut off.
    pub(super) fn look(&mut self, cursor: &mut Cursor) -> Found {
        let generation = self.head.generation;
        let (at, end) = (cursor.offset, cursor.file_bytes);
        let found = format::look_at(&*self.file, end, generation, &cursor.table, at);
        let found = found.unwrap_or(Found::End(Tail::Damaged));
        match &found {
            Found::Live(entry) => {
                cursor.offset += entry.bytes;
                self.index_entry(*entry);
            }
            Found::Dead(bytes) => cursor.offset += bytes,
            Found::End(_) => {
                self.unseen = false;
                self.bytes = cursor.offset;
                if self.file.set_len(self.bytes).is_ok() {
                    self.file_bytes = self.bytes;
                }
            }
        }
        found
    }

    /// Writes one record in one system call, unless the kernel takes less at once; a failed write is taken back. Of a
    /// large one only the head is written here, and the rest is given back to be written elsewhere.
    pub(super) fn append(
        &mut self,
        mut before_body: Vec<u8>,
        record: &Record,
        birth: Birth,
    ) -> io::Result<(u32, Option<Write>)> {
        let slot = self.next_slot;
        format::seal(&mut before_body, self.head.generation, slot);
        let bytes = record_bytes(&before_body, &record.body);
        let written = if birth.large {
            write_all(&self.file, &[&before_body], self.bytes)
        } else {
            let tail = format::tail(&before_body, &record.body);
            write_all(&self.file, &[&before_body, &record.body, &tail], self.bytes)
        };
        if let Err(error) = written {
            if self.trim().is_err() {
                self.sealed = true;
                self.bytes += bytes;
                self.file_bytes = self.file_bytes.max(self.bytes);
            }
            return Err(error);
        }
        let mut state = Slot {
            touched: birth.touched,
            ..Slot::default()
        };
        state.sends[LANGFUSE] = record.unresolved_sends;
        self.index_entry(Entry {
            offset: self.bytes,
            bytes,
            body_bytes: u32::try_from(record.body.len()).unwrap_or(u32::MAX),
            slot,
            id: birth.id,
            replaces: birth.replaces,
            accepted_wall_ms: record.accepted_wall_ms,
            units: record.units,
            state,
        });
        let rest = birth.large.then(|| Write {
            file: Arc::clone(&self.file),
            offset: self.bytes + before_body.len() as u64,
            before_body,
            body: record.body.clone(),
        });
        self.writing += u32::from(birth.large);
        self.next_slot += 1;
        self.bytes += bytes;
        self.file_bytes = self.file_bytes.max(self.bytes);
        Ok((slot, rest))
    }

    fn index_entry(&mut self, entry: Entry) {
        self.live_bytes += entry.bytes;
        self.live.insert(entry.slot, entry);
    }

    /// A body was written beside the loop. It may be forgotten by now.
    pub(super) fn written(&mut self, slot: u32, whole: bool) -> io::Result<()> {
        self.writing -= 1;
        self.change(&[slot], |state| state.whole = whole)
    }

    /// Changes what is noted of these, and writes all of it at once.
    pub(super) fn change(&mut self, slots: &[u32], change: impl Fn(&mut Slot)) -> io::Result<()> {
        for slot in slots {
            if let Some(entry) = self.live.get_mut(slot) {
                change(&mut entry.state);
            }
        }
        self.note(slots)
    }

    /// Takes a record out of the index. The caller still has to [`Self::note`] it, or to remove the file.
    pub(super) fn forget(&mut self, slot: u32) -> bool {
        let entry = self.live.remove(&slot);
        self.live_bytes -= entry.map_or(0, |entry| entry.bytes);
        entry.is_some()
    }

    /// Writes these slots and all that lie between, in one system call.
    pub(super) fn note(&self, slots: &[u32]) -> io::Result<()> {
        let (Some(first), Some(last)) = (slots.iter().min(), slots.iter().max()) else {
            return Ok(());
        };
        let state = |slot| self.live.get(&slot).map_or(Slot::DONE, |entry| entry.state);
        let bytes: Vec<_> = (*first..=*last)
            .flat_map(|slot| state(slot).encode(self.head.generation))
            .collect();
        self.file
            .write_all_at(&bytes, SLOT_BYTES * u64::from(first + 1))
    }

    /// To read a record.
    pub(super) fn reading(&self, slot: u32) -> Option<Reading> {
        Some(Reading {
            file: Arc::clone(&self.file),
            generation: self.head.generation,
            entry: *self.live.get(&slot)?,
        })
    }

    /// What is known of a record without reading it.
    pub(super) fn entry(&self, slot: u32) -> Option<&Entry> {
        self.live.get(&slot)
    }

    /// Begins anew. There must be no record left that waits. The file keeps its pages, because writing over them takes half
    /// the time of getting new ones, unless it is larger than `limit_bytes`.
    pub(super) fn renew(&mut self, limit_bytes: u64) -> io::Result<()> {
        let next = self.head.generation.checked_add(1);
        let table_bytes = self.head.table_bytes();
        let Some(generation) = next else {
            self.sealed = true;
            return Ok(());
        };
        let head = FileHead {
            generation,
            ..self.head
        };
        self.file.write_all_at(&head.encode(), 0)?;
        self.head = head;
        if self.file_bytes > limit_bytes {
            self.file.set_len(table_bytes)?;
            self.file_bytes = table_bytes;
        }
        self.bytes = table_bytes;
        self.next_slot = 0;
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
        let mut compacted = Self::create(scratch.to_owned(), self.index, self.head.slots)?;
        let copied = self
            .live
            .values()
            .try_for_each(|entry| self.copy(*entry, &mut compacted))
            .and_then(|()| compacted.note(&compacted.live.keys().copied().collect::<Vec<_>>()))
            .and_then(|()| std::fs::rename(scratch, &self.path));
        if let Err(error) = copied {
            let _ = std::fs::remove_file(scratch);
            return Err(error);
        }
        compacted.path.clone_from(&self.path);
        compacted.next_slot = self.next_slot;
        *self = compacted;
        Ok(())
    }

    /// It keeps its slot, because others know it by that.
    fn copy(&self, entry: Entry, to: &mut Self) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(entry.bytes).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, entry.offset)?;
        format::seal(&mut bytes, to.head.generation, entry.slot);
        to.file.write_all_at(&bytes, to.bytes)?;
        let offset = to.bytes;
        to.bytes += entry.bytes;
        to.file_bytes = to.bytes;
        to.index_entry(Entry { offset, ..entry });
        Ok(())
    }

    pub(super) fn live_records(&self) -> usize {
        self.live.len()
    }

    /// Nothing in it waits, and nobody is at work on it.
    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty() && !self.is_busy()
    }

    fn is_busy(&self) -> bool {
        self.writing > 0 || self.unseen
    }

    /// Whether a record of this size may be appended to a file that is to stay within `limit_bytes`.
    pub(super) fn takes(&self, record_bytes: u64, limit_bytes: u64) -> bool {
        let first = self.bytes == self.head.table_bytes();
        let fits = self.bytes + record_bytes <= limit_bytes || first;
        fits && !self.sealed && self.next_slot < self.head.slots
    }

    /// Bytes of the file that are of no use, if it can be rewritten.
    pub(super) fn dead_bytes(&self) -> u64 {
        if self.is_busy() {
            return 0;
        }
        self.bytes - self.head.table_bytes() - self.live_bytes
    }

    /// Bytes of the file if it were rewritten.
    pub(super) fn compacted_bytes(&self) -> u64 {
        self.head.table_bytes() + self.live_bytes
    }

    /// Bytes of the records that wait.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
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

/// Bytes that a record will take.
pub(super) fn record_bytes(before_body: &[u8], body: &[u8]) -> u64 {
    debug_assert!(before_body.len() as u64 >= RECORD_HEAD_BYTES);
    (before_body.len() + body.len()) as u64 + RECORD_TAIL_BYTES
}

/// Bytes of disk that a file of this length occupies.
pub(super) fn on_disk(file_bytes: u64) -> u64 {
    file_bytes.next_multiple_of(DISK_BLOCK_BYTES)
}

fn write_all(file: &File, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
    let mut slices = [IoSlice::new(&[]), IoSlice::new(&[]), IoSlice::new(&[])];
    for (slice, part) in slices.iter_mut().zip(parts) {
        *slice = IoSlice::new(part);
    }
    let mut parts = &mut slices[..];
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
