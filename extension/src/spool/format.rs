//! The bytes of a segment file.
//!
//! ```text
//! file    table  record*
//! table   head  slot*                    32 bytes each; as many slots as records may be in the file
//! head    "LFXSPOOL"  version u32  generation u32  slots u32  0…
//! slot    generation u32  crashes u16  0 u16  touched u32  done u8  flags u8  0 u16  sends u16 × 4  0…  crc32(all before)
//! record  "LFXR"  kind u8  encoding u8  destinations u8  flags u8  id u64  replaces u64  accepted_wall_ms u64
//!         inflated_bytes u64  units u32  sends u16  slot u16  touched u32  route_bytes u32  body_bytes u32  0…
//!         crc32(this head) ^ generation u32  route  body  crc32(id, route, body) u32
//! ```
//!
//! Integers are little-endian; what is 0 is room for later.
//!
//! **A record never changes.** What becomes of it is in its slot: how many sends of it began whose end is not known and
//! whether it is done, for each destination; and at how many crashes it was in memory. A slot is only written when there
//! is something to note, over bytes that the file has had from its beginning, so that it needs no room on a full disk;
//! those of records that were stored together lie together, and are written together. A slot of another generation, or
//! of zeros, was never written, and then the record's head says how it began. One whose checksum is wrong was torn by a
//! kill: it counts as sent once more and as not done, because that is the careful reading. Slots do not cross pages.
//!
//! **Generations.** A file of which nothing is wanted any more is written anew from its beginning, in the next
//! generation: what still stands behind the new records is of another generation, and therefore no record.
//!
//! **What a kill leaves**, at any byte of
//! - *a record*: a head without its end, or none. It was not acknowledged, and the file ends before it. In a file that is
//!   written anew the end may be that of an earlier record; the checksum at it covers the id, which no two records share.
//! - *a large record*, whose body is written beside the loop while others may follow it: a head whose slot does not say
//!   [`Slot::whole`]. It was not acknowledged either, and is passed over.
//! - *the parts of a cut item*: the whole, and some of its parts, which name it in `replaces`. As long as the whole is
//!   there, its parts are no records. Once it is done, all of them are there.
//! - *a compaction*: the old file or the new one, by a rename.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{RECORD_LIMIT_BYTES, Record, route};

pub(super) const RECORD_HEAD_BYTES: u64 = HEAD_LENGTH as u64;
/// The checksum behind the body.
pub(super) const RECORD_TAIL_BYTES: u64 = 4;
/// A slot, and the head of the file.
pub(super) const SLOT_BYTES: u64 = SLOT_LENGTH as u64;
/// The most slots in a file; its table then takes 16 KiB.
pub(super) const SLOTS_LIMIT: u32 = 511;
/// The fewest; the table takes one block of the disk.
pub(super) const SLOTS_LEAST: u32 = 127;
/// Langfuse's place among the destinations of a record. There is room for three more.
pub(super) const LANGFUSE: usize = 0;

const DESTINATIONS: usize = 4;
const SLOT_LENGTH: usize = 32;
const HEAD_LENGTH: usize = 80;
/// Where the id lies in a head.
const ID: std::ops::Range<usize> = 8..16;
const FILE_MAGIC: &[u8; 8] = b"LFXSPOOL";
const VERSION: u32 = 2;
const RECORD_MAGIC: &[u8; 4] = b"LFXR";
const FLAG_LARGE: u8 = 1;
const FLAG_WHOLE: u8 = 1;

/// What became of a record since it was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// Sends that began and were not taken back, by destination.
    pub(super) sends: [u16; DESTINATIONS],
    /// The destinations that are done with it, as bits.
    pub(super) done: u8,
    /// Crashes at which it was in memory.
    pub(super) crashes: u16,
    /// The number of crashes when it was last taken into memory.
    pub(super) touched: u32,
    /// The body of a large record is complete.
    pub(super) whole: bool,
}

impl Slot {
    /// Nobody wants it any more.
    pub(super) const DONE: Self = Self {
        sends: [0; DESTINATIONS],
        done: u8::MAX,
        crashes: 0,
        touched: 0,
        whole: true,
    };

    pub(super) fn encode(self, generation: u32) -> [u8; SLOT_LENGTH] {
        let mut bytes = [0; SLOT_LENGTH];
        bytes[..4].copy_from_slice(&generation.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.crashes.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.touched.to_le_bytes());
        bytes[12] = self.done;
        bytes[13] = u8::from(self.whole) * FLAG_WHOLE;
        for (to, sends) in bytes[16..24].chunks_exact_mut(2).zip(self.sends) {
            to.copy_from_slice(&sends.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `begun`: how its record was stored.
    fn decode(bytes: &[u8; SLOT_LENGTH], generation: u32, begun: Self) -> Self {
        if bytes.iter().all(|byte| *byte == 0) {
            return begun;
        }
        let crc = u32_at(bytes, 28);
        if crc != crc32fast::hash(&bytes[..28]) {
            let mut careful = begun;
            careful.sends[LANGFUSE] = careful.sends[LANGFUSE].saturating_add(1);
            return careful;
        }
        if u32_at(bytes, 0) != generation {
            return begun;
        }
        let mut sends = [0; DESTINATIONS];
        for (sends, at) in sends.iter_mut().zip((16..).step_by(2)) {
            *sends = u16_at(bytes, at);
        }
        Self {
            sends,
            done: bytes[12],
            crashes: u16_at(bytes, 4),
            touched: u32_at(bytes, 8),
            whole: bytes[13] & FLAG_WHOLE != 0,
        }
    }
}

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHead {
    pub(super) generation: u32,
    pub(super) slots: u32,
}

impl FileHead {
    pub(super) fn encode(self) -> [u8; SLOT_LENGTH] {
        let mut head = [0; SLOT_LENGTH];
        head[..8].copy_from_slice(FILE_MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&self.generation.to_le_bytes());
        head[16..20].copy_from_slice(&self.slots.to_le_bytes());
        head
    }

    /// Where the records begin.
    pub(super) fn table_bytes(self) -> u64 {
        SLOT_BYTES * u64::from(self.slots + 1)
    }
}

/// What a file is, judged by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// A segment that this version reads.
    Segment(FileHead),
    /// A segment whose process was killed before it wrote anything.
    Unborn,
    /// Not a segment, or one of another version.
    Unknown,
}

/// Reads a part of a file, exactly.
pub(super) trait ReadAt {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let eof = io::ErrorKind::UnexpectedEof;
        let start = usize::try_from(offset).map_err(|_| eof)?;
        let end = start.checked_add(buffer.len()).ok_or(eof)?;
        buffer.copy_from_slice(self.get(start..end).ok_or(eof)?);
        Ok(())
    }
}

pub(super) fn file_kind(file: &(impl ReadAt + ?Sized), file_bytes: u64) -> io::Result<FileKind> {
    if file_bytes < SLOT_BYTES {
        return Ok(FileKind::Unborn);
    }
    let mut bytes = [0; SLOT_LENGTH];
    file.read_exact_at(&mut bytes, 0)?;
    let head = FileHead {
        generation: u32_at(&bytes, 12),
        slots: u32_at(&bytes, 16),
    };
    let slots = (SLOTS_LEAST..=SLOTS_LIMIT).contains(&head.slots);
    Ok(if !slots || bytes != head.encode() {
        FileKind::Unknown
    } else if file_bytes < head.table_bytes() {
        FileKind::Unborn
    } else {
        FileKind::Segment(head)
    })
}

/// A record as the index in memory knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where its head begins in the file.
    pub(super) offset: u64,
    /// Head, route, body and checksum.
    pub(super) bytes: u64,
    pub(super) body_bytes: u32,
    pub(super) slot: u32,
    pub(super) id: u64,
    pub(super) replaces: u64,
    pub(super) accepted_wall_ms: u64,
    pub(super) units: u32,
    /// What became of it.
    pub(super) state: Slot,
}

/// How the records of a file end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// With the file.
    Whole,
    /// In the middle of a record: its writer was killed.
    Torn,
    /// In something that is no record.
    Damaged,
}

/// What stands at one place of a file.
#[derive(Debug)]
pub(super) enum Found {
    /// A record that waits.
    Live(Entry),
    /// One that is done, or was never whole, of so many bytes.
    Dead(u64),
    /// The end of the records.
    End(Tail),
}

/// Looks at the record at `offset` by its head alone, so that no body is read before it is wanted.
pub(super) fn look_at(
    file: &(impl ReadAt + ?Sized),
    file_bytes: u64,
    generation: u32,
    table: &[u8],
    offset: u64,
) -> io::Result<Found> {
    // Behind the records of a later generation stands whatever was there before.
    let no_record = |tail| Found::End(if generation == 0 { tail } else { Tail::Whole });
    let left = file_bytes.saturating_sub(offset);
    if left == 0 {
        return Ok(Found::End(Tail::Whole));
    }
    if left < RECORD_HEAD_BYTES {
        return Ok(no_record(Tail::Torn));
    }
    let mut bytes = [0; HEAD_LENGTH];
    file.read_exact_at(&mut bytes, offset)?;
    let Some(head) = Head::decode(&bytes, generation) else {
        return Ok(no_record(Tail::Damaged));
    };
    let at = SLOT_LENGTH * (usize::from(head.slot) + 1);
    let Some(slot) = table.get(at..).and_then(|it| it.first_chunk()) else {
        return Ok(no_record(Tail::Damaged));
    };
    let state = Slot::decode(slot, generation, head.begun());
    let unfinished = head.flags & FLAG_LARGE != 0 && !state.whole;
    if left < head.record_bytes() {
        return Ok(Found::End(Tail::Torn));
    }
    if unfinished || head.destinations & !state.done == 0 {
        return Ok(Found::Dead(head.record_bytes()));
    }
    Ok(Found::Live(Entry {
        offset,
        bytes: head.record_bytes(),
        body_bytes: head.body_bytes,
        slot: head.slot.into(),
        id: head.id,
        replaces: head.replaces,
        accepted_wall_ms: head.accepted_wall_ms,
        units: head.units,
        state,
    }))
}

/// Reads one record whole. `None`: it is damaged.
pub(super) fn read(
    file: &(impl ReadAt + ?Sized),
    generation: u32,
    entry: Entry,
) -> io::Result<Option<Record>> {
    let mut bytes = [0; HEAD_LENGTH];
    file.read_exact_at(&mut bytes, entry.offset)?;
    let head = Head::decode(&bytes, generation);
    let Some(head) = head.filter(|head| head.record_bytes() == entry.bytes) else {
        return Ok(None);
    };
    let mut route = vec![0; head.route_bytes as usize];
    let mut body = vec![0; head.body_bytes as usize];
    let mut crc = [0; 4];
    let route_offset = entry.offset + RECORD_HEAD_BYTES;
    let body_offset = route_offset + u64::from(head.route_bytes);
    file.read_exact_at(&mut route, route_offset)?;
    file.read_exact_at(&mut body, body_offset)?;
    file.read_exact_at(&mut crc, body_offset + u64::from(head.body_bytes))?;
    if content_crc(&head.id.to_le_bytes(), &route, &body) != u32::from_le_bytes(crc) {
        return Ok(None);
    }
    Ok(route::decode(&route).map(|route| Record {
        accepted_wall_ms: head.accepted_wall_ms,
        unresolved_sends: entry.state.sends[LANGFUSE],
        kind: head.kind,
        encoding: head.encoding,
        units: head.units,
        inflated_bytes: head.inflated_bytes,
        route: Arc::new(route),
        body: Bytes::from(body),
    }))
}

/// What a record is named, and how it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Birth {
    pub(super) id: u64,
    /// The record that it is a part of, or 0.
    pub(super) replaces: u64,
    /// The number of crashes so far.
    pub(super) touched: u32,
    /// Its body is written beside the loop.
    pub(super) large: bool,
}

/// Everything of a record before its body, to be [`sealed`](seal) and written before it. `None`: it is larger than a
/// record may be.
pub(super) fn encode_before_body(record: &Record, birth: Birth) -> Option<Vec<u8>> {
    let mut bytes = vec![0; HEAD_LENGTH];
    route::encode(&record.route, &mut bytes)?;
    let head = Head {
        kind: record.kind,
        encoding: record.encoding,
        destinations: 1 << LANGFUSE,
        flags: u8::from(birth.large) * FLAG_LARGE,
        id: birth.id,
        replaces: birth.replaces,
        accepted_wall_ms: record.accepted_wall_ms,
        inflated_bytes: record.inflated_bytes,
        units: record.units,
        sends: record.unresolved_sends,
        slot: 0,
        touched: birth.touched,
        route_bytes: u32::try_from(bytes.len() - HEAD_LENGTH).ok()?,
        body_bytes: u32::try_from(record.body.len()).ok()?,
    };
    if head.record_bytes() > RECORD_LIMIT_BYTES {
        return None;
    }
    bytes[..HEAD_LENGTH].copy_from_slice(&head.encode());
    Some(bytes)
}

/// Makes an encoded record one of a file's generation, with this slot.
pub(super) fn seal(before_body: &mut [u8], generation: u32, slot: u32) {
    if let Some(head) = before_body.first_chunk_mut::<HEAD_LENGTH>() {
        head[46..48].copy_from_slice(&u16::try_from(slot).unwrap_or(u16::MAX).to_le_bytes());
        let crc = crc32fast::hash(&head[..76]) ^ generation;
        head[76..].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The checksum that stands behind a body.
pub(super) fn tail(before_body: &[u8], body: &[u8]) -> [u8; 4] {
    let id = before_body.get(ID).unwrap_or_default();
    let route = before_body.get(HEAD_LENGTH..).unwrap_or_default();
    content_crc(id, route, body).to_le_bytes()
}

fn content_crc(id: &[u8], route: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(id);
    crc.update(route);
    crc.update(body);
    crc.finalize()
}

#[derive(Debug)]
struct Head {
    kind: u8,
    encoding: u8,
    destinations: u8,
    flags: u8,
    id: u64,
    replaces: u64,
    accepted_wall_ms: u64,
    inflated_bytes: u64,
    units: u32,
    sends: u16,
    slot: u16,
    touched: u32,
    route_bytes: u32,
    body_bytes: u32,
}

impl Head {
    fn record_bytes(&self) -> u64 {
        let contents = u64::from(self.route_bytes) + u64::from(self.body_bytes);
        RECORD_HEAD_BYTES + contents + RECORD_TAIL_BYTES
    }

    /// What its slot says before it is first written.
    fn begun(&self) -> Slot {
        let mut slot = Slot {
            touched: self.touched,
            ..Slot::default()
        };
        slot.sends[LANGFUSE] = self.sends;
        slot
    }

    fn encode(&self) -> [u8; HEAD_LENGTH] {
        let mut bytes = [0; HEAD_LENGTH];
        bytes[..4].copy_from_slice(RECORD_MAGIC);
        bytes[4..8].copy_from_slice(&[self.kind, self.encoding, self.destinations, self.flags]);
        bytes[ID].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.replaces.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.accepted_wall_ms.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.inflated_bytes.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.units.to_le_bytes());
        bytes[44..46].copy_from_slice(&self.sends.to_le_bytes());
        bytes[46..48].copy_from_slice(&self.slot.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.touched.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.route_bytes.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEAD_LENGTH], generation: u32) -> Option<Self> {
        let head = Self {
            kind: bytes[4],
            encoding: bytes[5],
            destinations: bytes[6],
            flags: bytes[7],
            id: u64_at(bytes, ID.start),
            replaces: u64_at(bytes, 16),
            accepted_wall_ms: u64_at(bytes, 24),
            inflated_bytes: u64_at(bytes, 32),
            units: u32_at(bytes, 40),
            sends: u16_at(bytes, 44),
            slot: u16_at(bytes, 46),
            touched: u32_at(bytes, 48),
            route_bytes: u32_at(bytes, 52),
            body_bytes: u32_at(bytes, 56),
        };
        let crc = u32_at(bytes, 76) ^ generation;
        let valid = bytes.starts_with(RECORD_MAGIC) && crc == crc32fast::hash(&bytes[..76]);
        (valid && head.record_bytes() <= RECORD_LIMIT_BYTES).then_some(head)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// Zeros where there are not so many bytes.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().unwrap_or([0; N])
}
