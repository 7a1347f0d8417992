//! The bytes of a segment file.
//!
//! ```text
//! file    "LFXSPOOL"  version u32  generation u32  record*
//! record  "LFXR"  state u32  accepted_wall_ms u64  inflated_bytes u64  units u32  kind u8  encoding u8  0 u16
//!         route_bytes u32  body_bytes u32  crc32(route, body) u32  crc32(this head without state) ^ generation u32
//!         route  body
//! ```
//!
//! A file of which nothing is wanted any more is written anew from its beginning, in the next generation: what still
//! stands behind the new records is of another generation, and therefore no record.
//!
//! Integers are little-endian. `state` is the only thing of a record ever overwritten in place, so that noting a send needs
//! no room on a full disk: a count and its complement, and if they do not match (a write torn by a kill) the record counts as
//! sent once, because that is the careful reading.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{RECORD_LIMIT_BYTES, RECORDS_LIMIT, Record, route};

pub(super) const FILE_HEAD_BYTES: u64 = FILE_HEAD_LENGTH as u64;
pub(super) const RECORD_HEAD_BYTES: u64 = HEAD_LENGTH as u64;
/// Where the state lies in a record.
pub(super) const STATE_OFFSET_BYTES: u64 = 4;

const FILE_HEAD_LENGTH: usize = 16;
const HEAD_LENGTH: usize = 48;
const FILE_MAGIC: &[u8; 8] = b"LFXSPOOL";
const VERSION: u32 = 1;
const RECORD_MAGIC: &[u8; 4] = b"LFXR";
const FORGOTTEN: u16 = u16::MAX;

/// What happened to a record since it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It waits, and this many sends of it began whose end is not known.
    Live { unresolved_sends: u16 },
    /// It is of no use any more.
    Forgotten,
}

impl State {
    pub(super) fn live(unresolved_sends: u16) -> Self {
        Self::Live {
            unresolved_sends: unresolved_sends.min(FORGOTTEN - 1),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; 4] {
        let count = match self {
            Self::Live { unresolved_sends } => unresolved_sends,
            Self::Forgotten => FORGOTTEN,
        };
        let [a, b] = count.to_le_bytes();
        [a, b, !a, !b]
    }

    fn from_bytes([a, b, not_a, not_b]: [u8; 4]) -> Self {
        let count = u16::from_le_bytes([a, b]);
        if [!a, !b] != [not_a, not_b] {
            return Self::live(1);
        }
        match count {
            FORGOTTEN => Self::Forgotten,
            unresolved_sends => Self::Live { unresolved_sends },
        }
    }
}

/// What a file is, judged by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// A segment that this version reads, and its generation.
    Segment(u32),
    /// A segment whose process was killed before it wrote anything.
    Unborn,
    /// Not a segment, or one of another version.
    Unknown,
}

/// The first bytes of every segment.
pub(super) fn file_head(generation: u32) -> [u8; FILE_HEAD_LENGTH] {
    let mut head = [0; FILE_HEAD_LENGTH];
    head[..8].copy_from_slice(FILE_MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..].copy_from_slice(&generation.to_le_bytes());
    head
}

/// A record as the index in memory knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where its head begins in the file.
    pub(super) offset: u64,
    /// Head, route and body.
    pub(super) bytes: u64,
    pub(super) unresolved_sends: u16,
    pub(super) accepted_wall_ms: u64,
    pub(super) units: u32,
    pub(super) body_bytes: u32,
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

/// The records of a file.
#[derive(Debug)]
pub(super) struct Scan {
    /// Those that wait, oldest first.
    pub(super) live: Vec<Entry>,
    /// Those that wait no longer because they were accepted too long ago.
    pub(super) expired: u64,
    /// Where the last whole record ends.
    pub(super) end: u64,
    pub(super) tail: Tail,
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
    if file_bytes < FILE_HEAD_BYTES {
        return Ok(FileKind::Unborn);
    }
    let mut head = [0; FILE_HEAD_LENGTH];
    file.read_exact_at(&mut head, 0)?;
    let [.., a, b, c, d] = head;
    let generation = u32::from_le_bytes([a, b, c, d]);
    Ok(if head == file_head(generation) {
        FileKind::Segment(generation)
    } else {
        FileKind::Unknown
    })
}

/// Finds the records by their heads alone, so that no body is read before it is wanted. `oldest_wall_ms`: when the
/// oldest record that is still of use was accepted.
pub(super) fn scan(
    file: &(impl ReadAt + ?Sized),
    file_bytes: u64,
    generation: u32,
    oldest_wall_ms: u64,
) -> io::Result<Scan> {
    // Behind the records of a later generation stands whatever was there before.
    let no_record = |tail| if generation == 0 { tail } else { Tail::Whole };
    let mut found = Scan {
        live: Vec::new(),
        expired: 0,
        end: FILE_HEAD_BYTES,
        tail: Tail::Whole,
    };
    while found.end < file_bytes {
        let left = file_bytes - found.end;
        if left < RECORD_HEAD_BYTES {
            found.tail = no_record(Tail::Torn);
            break;
        }
        let mut bytes = [0; HEAD_LENGTH];
        file.read_exact_at(&mut bytes, found.end)?;
        let head = Head::decode(&bytes, generation);
        let Some(head) = head.filter(|_| found.live.len() < RECORDS_LIMIT) else {
            found.tail = no_record(Tail::Damaged);
            break;
        };
        if left < head.record_bytes() {
            found.tail = Tail::Torn;
            break;
        }
        match head.state {
            State::Forgotten => {}
            State::Live { .. } if head.accepted_wall_ms < oldest_wall_ms => found.expired += 1,
            State::Live { unresolved_sends } => found.live.push(Entry {
                offset: found.end,
                bytes: head.record_bytes(),
                unresolved_sends,
                accepted_wall_ms: head.accepted_wall_ms,
                units: head.units,
                body_bytes: head.body_bytes,
            }),
        }
        found.end += head.record_bytes();
    }
    Ok(found)
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
    let route_offset = entry.offset + RECORD_HEAD_BYTES;
    file.read_exact_at(&mut route, route_offset)?;
    file.read_exact_at(&mut body, route_offset + u64::from(head.route_bytes))?;
    if content_crc(&route, &body) != head.content_crc {
        return Ok(None);
    }
    Ok(route::decode(&route).map(|route| Record {
        accepted_wall_ms: head.accepted_wall_ms,
        unresolved_sends: entry.unresolved_sends,
        kind: head.kind,
        encoding: head.encoding,
        units: head.units,
        inflated_bytes: head.inflated_bytes,
        route: Arc::new(route),
        body: Bytes::from(body),
    }))
}

/// Everything of a record but its body, to be [`sealed`](seal) and written before it. `None`: it is larger than a record
/// may be.
pub(super) fn encode_before_body(record: &Record) -> Option<Vec<u8>> {
    let mut bytes = vec![0; HEAD_LENGTH];
    route::encode(&record.route, &mut bytes)?;
    let route = &bytes[HEAD_LENGTH..];
    let head = Head {
        state: State::live(record.unresolved_sends),
        accepted_wall_ms: record.accepted_wall_ms,
        inflated_bytes: record.inflated_bytes,
        units: record.units,
        kind: record.kind,
        encoding: record.encoding,
        route_bytes: u32::try_from(route.len()).ok()?,
        body_bytes: u32::try_from(record.body.len()).ok()?,
        content_crc: content_crc(route, &record.body),
    };
    if head.record_bytes() > RECORD_LIMIT_BYTES {
        return None;
    }
    bytes[..HEAD_LENGTH].copy_from_slice(&head.encode());
    Some(bytes)
}

/// Makes an encoded record one of a file's generation.
pub(super) fn seal(before_body: &mut [u8], generation: u32) {
    if let Some(head) = before_body.first_chunk_mut::<HEAD_LENGTH>() {
        let crc = head_crc(head) ^ generation;
        head[44..].copy_from_slice(&crc.to_le_bytes());
    }
}

fn content_crc(route: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(route);
    crc.update(body);
    crc.finalize()
}

#[derive(Debug)]
struct Head {
    state: State,
    accepted_wall_ms: u64,
    inflated_bytes: u64,
    units: u32,
    kind: u8,
    encoding: u8,
    route_bytes: u32,
    body_bytes: u32,
    content_crc: u32,
}

impl Head {
    fn record_bytes(&self) -> u64 {
        RECORD_HEAD_BYTES + u64::from(self.route_bytes) + u64::from(self.body_bytes)
    }

    fn encode(&self) -> [u8; HEAD_LENGTH] {
        let mut bytes = [0; HEAD_LENGTH];
        bytes[..4].copy_from_slice(RECORD_MAGIC);
        bytes[4..8].copy_from_slice(&self.state.to_bytes());
        bytes[8..16].copy_from_slice(&self.accepted_wall_ms.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.inflated_bytes.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.units.to_le_bytes());
        bytes[28] = self.kind;
        bytes[29] = self.encoding;
        bytes[32..36].copy_from_slice(&self.route_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.content_crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEAD_LENGTH], generation: u32) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (state, rest) = rest.split_first_chunk()?;
        let (accepted, rest) = rest.split_first_chunk()?;
        let (inflated, rest) = rest.split_first_chunk()?;
        let (units, rest) = rest.split_first_chunk()?;
        let ([kind, encoding, _, _], rest) = rest.split_first_chunk()?;
        let (route_bytes, rest) = rest.split_first_chunk()?;
        let (body_bytes, rest) = rest.split_first_chunk()?;
        let (content_crc, rest) = rest.split_first_chunk()?;
        let (crc, _) = rest.split_first_chunk()?;
        let head = Self {
            state: State::from_bytes(*state),
            accepted_wall_ms: u64::from_le_bytes(*accepted),
            inflated_bytes: u64::from_le_bytes(*inflated),
            units: u32::from_le_bytes(*units),
            kind: *kind,
            encoding: *encoding,
            route_bytes: u32::from_le_bytes(*route_bytes),
            body_bytes: u32::from_le_bytes(*body_bytes),
            content_crc: u32::from_le_bytes(*content_crc),
        };
        let crc = u32::from_le_bytes(*crc) ^ generation;
        let valid = magic == RECORD_MAGIC && crc == head_crc(bytes);
        (valid && head.record_bytes() <= RECORD_LIMIT_BYTES).then_some(head)
    }
}

fn head_crc(bytes: &[u8; HEAD_LENGTH]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..4]);
    crc.update(&bytes[8..44]);
    crc.finalize()
}
