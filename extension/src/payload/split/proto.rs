//! Cutting a serialized `ExportTraceServiceRequest` while it is inflated, never holding the whole of it.
//!
//! It is read twice: first for what stands beside the lists of spans (a resource, a scope, what is unknown), which every part
//! repeats and which may come after the spans; then for the spans, each of which goes into one part as it is.

use std::io::Write;
use std::ops::Range;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::memory::Growing;
use crate::payload::encoding::{Declared, Sink, inflate};
use crate::payload::otlp_proto::Head;
use crate::payload::pass::Leaving;
use crate::payload::proto::{Wire, put_varint};
use crate::payload::{Encoding, Kind, Payload, Refusal};

/// The field that leads inwards at each level: from the request to its resources, their scopes, and their spans.
const INWARDS: [u64; 3] = [1, 2, 2];
/// The level of the messages that hold spans.
const SCOPE: usize = 2;
/// Spans of one scope that are collected before they are written; a larger one is written as it comes.
const RUN_BYTES: usize = 256 * 1024;
/// What stands beside the lists is held in memory. Real requests have a few kilobytes of it.
const BESIDE_LIMIT_BYTES: usize = 1024 * 1024;

/// What cutting takes beside the parts: both windows, a run, what stands beside the lists, and a compressor.
pub(super) const SCRATCH_BYTES: usize = RUN_BYTES + BESIDE_LIMIT_BYTES + 512 * 1024;

/// Parts of no more than `part_bytes` before compression, or of one span.
pub(super) fn cut(whole: &Payload, part_bytes: usize) -> Option<Vec<Payload>> {
    let declared = match whole.encoding {
        Encoding::Identity => Declared::Identity,
        Encoding::Gzip => Declared::Gzip,
    };
    let mut outline = Walk::new(Outline::default());
    inflate(declared, &whole.body, whole.inflated_bytes, &mut outline).ok()?;
    let mut cutter = Walk::new(Cutter {
        outline: outline.taker,
        place: [0; 2],
        run: Vec::new(),
        units_of_run: 0,
        part: Part::new(part_bytes),
        part_bytes,
        parts: Vec::new(),
        travels_alone: whole.travels_alone,
    });
    inflate(declared, &whole.body, whole.inflated_bytes, &mut cutter).ok()?;
    cutter.taker.finish_part()?;
    Some(cutter.taker.parts)
}

/// Where a field belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Beside the list at this level.
    Beside(usize),
    Span,
}

/// Told what a walk finds. `None` ends it.
trait Taker {
    /// A message begins at this level.
    fn enter(&mut self, level: usize) -> Option<()>;
    /// It has ended.
    fn leave(&mut self, level: usize) -> Option<()>;
    /// A field of so many bytes begins.
    fn field(&mut self, place: Place, bytes: usize) -> Option<()>;
    /// The next of its bytes.
    fn bytes(&mut self, place: Place, bytes: &[u8]) -> Option<()>;
}

/// Walks a request as its bytes come.
struct Walk<T> {
    taker: T,
    at: u64,
    /// Where the open messages end, from the outside in, the request itself not among them.
    ends: Vec<u64>,
    /// The beginning of a head that is not whole yet.
    head: Vec<u8>,
    /// Bytes of a field that are still to come.
    left: usize,
    place: Place,
}

impl<T: Taker> Walk<T> {
    fn new(taker: T) -> Self {
        Self {
            taker,
            at: 0,
            ends: Vec::new(),
            head: Vec::new(),
            left: 0,
            place: Place::Beside(0),
        }
    }

    fn take_some(&mut self, mut chunk: &[u8]) -> Option<()> {
        loop {
            let content = chunk.split_off(..self.left.min(chunk.len()))?;
            if !content.is_empty() {
                self.taker.bytes(self.place, content)?;
                self.left -= content.len();
                self.at += content.len() as u64;
            }
            while self.left == 0 && self.ends.last().is_some_and(|end| self.at >= *end) {
                self.taker.leave(self.ends.len())?;
                self.ends.pop();
            }
            let Some((first, rest)) = chunk.split_first() else {
                return Some(());
            };
            // A head has a few bytes, and few heads are cut by the end of a chunk.
            self.head.push(*first);
            chunk = rest;
            if let Some((head, length)) = Head::read(&self.head).ok()? {
                let bytes = std::mem::take(&mut self.head);
                debug_assert_eq!(bytes.len(), length, "a head is read as soon as it is whole");
                self.begin(&head, &bytes)?;
                self.head = bytes;
                self.head.clear();
            }
        }
    }

    fn begin(&mut self, head: &Head, bytes: &[u8]) -> Option<()> {
        let level = self.ends.len();
        self.at += bytes.len() as u64;
        let inwards = head.number == INWARDS[level] && head.wire == Wire::Delimited;
        // Groups left the language before OTLP began.
        if matches!(head.wire, Wire::StartGroup | Wire::EndGroup) {
            return None;
        }
        if inwards && level < SCOPE {
            self.ends.push(self.at + head.content_bytes);
            return self.taker.enter(level + 1);
        }
        self.place = if inwards {
            Place::Span
        } else {
            Place::Beside(level)
        };
        self.left = usize::try_from(head.content_bytes).ok()?;
        self.taker.field(self.place, bytes.len() + self.left)?;
        self.taker.bytes(self.place, bytes)
    }
}

impl<T: Taker> Sink for Walk<T> {
    fn take(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        self.take_some(chunk).ok_or(Refusal::Fault)
    }
}

/// What stands beside the lists of each resource and of each scope, in their order.
#[derive(Default)]
struct Outline {
    resources: Vec<Vec<u8>>,
    scopes: Vec<Vec<u8>>,
    total_bytes: usize,
}

impl Taker for Outline {
    fn enter(&mut self, level: usize) -> Option<()> {
        let list = if level == SCOPE {
            &mut self.scopes
        } else {
            &mut self.resources
        };
        list.push(Vec::new());
        // An empty message takes memory too.
        self.total_bytes += size_of::<Vec<u8>>();
        Some(())
    }

    fn leave(&mut self, _: usize) -> Option<()> {
        Some(())
    }

    fn field(&mut self, place: Place, bytes: usize) -> Option<()> {
        if matches!(place, Place::Beside(1..)) {
            self.total_bytes += bytes;
        }
        (self.total_bytes <= BESIDE_LIMIT_BYTES).then_some(())
    }

    fn bytes(&mut self, place: Place, bytes: &[u8]) -> Option<()> {
        match place {
            Place::Beside(1) => self.resources.last_mut()?.extend_from_slice(bytes),
            Place::Beside(SCOPE) => self.scopes.last_mut()?.extend_from_slice(bytes),
            _ => {}
        }
        Some(())
    }
}

/// Writes one part after another.
struct Cutter {
    outline: Outline,
    /// How many resources and scopes have begun.
    place: [usize; SCOPE],
    run: Vec<u8>,
    units_of_run: u32,
    part: Part,
    part_bytes: usize,
    parts: Vec<Payload>,
    travels_alone: bool,
}

impl Cutter {
    fn beside(&self) -> Option<[&[u8]; SCOPE]> {
        let [resource, scope] = self.place;
        let resource = self.outline.resources.get(resource.checked_sub(1)?)?;
        let scope = self.outline.scopes.get(scope.checked_sub(1)?)?;
        Some([resource, scope])
    }

    /// Writes the messages around so many bytes of spans, up to where these begin.
    fn wrap(&mut self, spans: usize, units: u32) -> Option<()> {
        let [resource, scope] = self.beside()?;
        let mut inner = Vec::with_capacity(scope.len() + 16);
        put_head(&mut inner, INWARDS[1], scope.len() + spans);
        inner.extend_from_slice(scope);
        let mut outer = Vec::with_capacity(resource.len() + inner.len() + 16);
        put_head(&mut outer, INWARDS[0], resource.len() + inner.len() + spans);
        outer.extend_from_slice(resource);
        outer.extend_from_slice(&inner);
        self.part.units += units;
        self.part.write(&outer)
    }

    fn flush_run(&mut self) -> Option<()> {
        if self.units_of_run > 0 {
            let units = std::mem::take(&mut self.units_of_run);
            self.wrap(self.run.len(), units)?;
            self.part.write(&self.run)?;
            self.run.clear();
        }
        Some(())
    }

    fn finish_part(&mut self) -> Option<()> {
        self.flush_run()?;
        let part = std::mem::replace(&mut self.part, Part::new(self.part_bytes));
        if part.units > 0 {
            self.parts.push(part.finish(self.travels_alone)?);
        }
        Some(())
    }
}

impl Taker for Cutter {
    fn enter(&mut self, level: usize) -> Option<()> {
        self.place[level - 1] += 1;
        Some(())
    }

    fn leave(&mut self, level: usize) -> Option<()> {
        if level == SCOPE {
            self.flush_run()
        } else {
            Some(())
        }
    }

    fn field(&mut self, place: Place, bytes: usize) -> Option<()> {
        if place != Place::Span {
            return Some(());
        }
        let beside: usize = self.beside()?.iter().map(|it| it.len()).sum();
        let so_far = self.part.bytes + self.run.len();
        let is_empty = self.part.units + self.units_of_run == 0;
        if !is_empty && so_far + beside + bytes > self.part_bytes {
            self.finish_part()?;
        }
        if self.run.len() + bytes > RUN_BYTES {
            self.flush_run()?;
        }
        if bytes > RUN_BYTES {
            return self.wrap(bytes, 1);
        }
        self.units_of_run += 1;
        Some(())
    }

    fn bytes(&mut self, place: Place, bytes: &[u8]) -> Option<()> {
        match place {
            // A span that is collected was counted when it began.
            Place::Span if self.units_of_run > 0 => self.run.extend_from_slice(bytes),
            // What is unknown at the top is repeated nowhere.
            Place::Span | Place::Beside(0) => self.part.write(bytes)?,
            Place::Beside(_) => {}
        }
        Some(())
    }
}

fn put_head(out: &mut Vec<u8>, number: u64, length: usize) {
    const DELIMITED: u64 = 2;
    put_varint(out, number << 3 | DELIMITED);
    put_varint(out, length as u64);
}

/// One request in the making.
struct Part {
    encoder: GzEncoder<Growing>,
    bytes: usize,
    units: u32,
}

impl Part {
    fn new(bytes: usize) -> Self {
        let compressed = Growing::new(0, bytes + bytes / 8);
        Self {
            encoder: GzEncoder::new(compressed, Compression::fast()),
            bytes: 0,
            units: 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.bytes += bytes.len();
        self.encoder.write_all(bytes).ok()
    }

    fn finish(self, travels_alone: bool) -> Option<Payload> {
        const ELEMENTS: Range<usize> = 0..0;
        let body: Bytes = self.encoder.finish().ok()?.finish();
        Some(Payload {
            kind: Kind::OtlpProtobuf,
            encoding: Encoding::Gzip,
            body,
            inflated_bytes: self.bytes,
            units: self.units,
            elements: ELEMENTS,
            travels_alone,
            repaired: false,
            leaving: Leaving::default(),
        })
    }
}
