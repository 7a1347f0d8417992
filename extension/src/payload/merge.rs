//! Making one request of several accepted bodies, without parsing any of them again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use super::encoding::GZIP_HEADER;
use super::{Encoding, Kind, Payload};
use crate::memory::Growing;

/// Below this a gzip frame and the time to make it cost more than they save on the wire.
const WORTH_COMPRESSING_BYTES: usize = 1024;

/// The bytes of one request, and how they are to be declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The body to send.
    pub body: Bytes,
    /// The value of the `Content-Encoding` header; without one the header must be absent.
    pub content_encoding: Option<&'static str>,
}

/// Makes one request of `parts`, which have to be of one [`Kind`] that [`Kind::merges`], in their order.
///
/// Serialized OTLP requests concatenate, and so do the gzip members that hold them; the elements of JSON bodies are
/// spliced. Only OTLP is compressed: the other endpoints do not inflate. A single part travels as it was sent.
///
/// Takes about 3 ms for a megabyte that is to be compressed, and does not give way meanwhile.
pub fn merge(parts: Vec<Payload>) -> Merged {
    let parts: Vec<_> = parts
        .into_iter()
        .map(|part| part.leaving().clone())
        .collect();
    let kind = parts.first().map_or(Kind::OtlpProtobuf, Payload::kind);
    debug_assert!(
        parts.iter().all(|part| part.kind == kind),
        "parts of one request are of one kind"
    );
    match kind {
        Kind::OtlpProtobuf => merge_protobuf(parts),
        Kind::OtlpJson => compress_if_worth(&spliced(parts, br#"{"resourceSpans":["#, b"]}")),
        Kind::Ingestion => identity(joined(&spliced(parts, br#"{"batch":["#, b"]}"))),
        Kind::Scores | Kind::Score => identity(joined(&spliced(parts, b"[", b"]"))),
    }
}

/// The most memory that [`merge()`] takes for what it makes of these.
pub fn bytes_to_merge(parts: &[Payload]) -> usize {
    if let [only] = parts
        && only.leaving().encoding == Encoding::Gzip
    {
        return 0;
    }
    let bytes = parts.iter().map(|part| part.leaving().stored_bytes()).sum();
    most_compressed(bytes, parts.len() + 1)
}

fn identity(body: Bytes) -> Merged {
    Merged {
        body,
        content_encoding: None,
    }
}

fn merge_protobuf(mut parts: Vec<Payload>) -> Merged {
    if let [only] = &mut parts[..]
        && only.encoding == Encoding::Gzip
    {
        return Merged {
            body: std::mem::take(&mut only.body),
            content_encoding: Some("gzip"),
        };
    }
    if parts.iter().all(|part| part.encoding == Encoding::Identity) {
        let bodies: Vec<_> = parts.into_iter().map(|part| part.body).collect();
        return compress_if_worth(&bodies);
    }
    let mut body = Growing::new(0, bytes_to_merge(&parts));
    let mut plain: Vec<Bytes> = Vec::new();
    for part in parts {
        match part.encoding {
            Encoding::Identity => plain.push(part.body),
            Encoding::Gzip => {
                if !plain.is_empty() {
                    compress(&std::mem::take(&mut plain), &mut body);
                }
                body.append(&part.body);
            }
        }
    }
    if !plain.is_empty() {
        compress(&plain, &mut body);
    }
    gzip(body)
}

/// The pieces of one JSON body. A single part is left as it is, with whatever else its client put around the list.
fn spliced(parts: Vec<Payload>, open: &'static [u8], close: &'static [u8]) -> Vec<Bytes> {
    if let [only] = &parts[..] {
        return vec![only.body.clone()];
    }
    let mut pieces = vec![Bytes::from_static(open)];
    for part in parts.into_iter().filter(|part| part.units > 0) {
        if pieces.len() > 1 {
            pieces.push(Bytes::from_static(b","));
        }
        pieces.push(part.body.slice(part.elements));
    }
    pieces.push(Bytes::from_static(close));
    pieces
}

fn compress_if_worth(pieces: &[Bytes]) -> Merged {
    let bytes = length(pieces);
    if bytes < WORTH_COMPRESSING_BYTES {
        return identity(joined(pieces));
    }
    let mut body = Growing::new(0, most_compressed(bytes, 1));
    compress(pieces, &mut body);
    gzip(body)
}

fn gzip(body: Growing) -> Merged {
    Merged {
        body: body.finish(),
        content_encoding: Some("gzip"),
    }
}

fn length(pieces: &[Bytes]) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

fn joined(pieces: &[Bytes]) -> Bytes {
    if let [only] = pieces {
        return only.clone();
    }
    let bytes = length(pieces);
    let mut whole = Growing::new(bytes, bytes);
    for piece in pieces {
        whole.append(piece);
    }
    whole.finish()
}

/// What does not compress grows by five bytes in some ten thousand, and a member has a frame.
fn most_compressed(bytes: usize, members: usize) -> usize {
    bytes + bytes / 2048 + 64 * members
}

/// A compressor that is not in use. It is kept because making one clears a quarter of a megabyte within the allocator's
/// lock, for which the loop would wait while a thread of low priority has it.
static SPARE: Mutex<Option<Compress>> = Mutex::new(None);

fn spare() -> MutexGuard<'static, Option<Compress>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Appends one gzip member with the bytes of all pieces to `out`.
fn compress(pieces: &[Bytes], out: &mut Growing) {
    let kept = spare().take();
    let mut stream = kept.unwrap_or_else(|| Compress::new(Compression::fast(), false));
    let mut crc = Crc::new();
    out.append(&GZIP_HEADER);
    for piece in pieces {
        crc.update(piece);
        feed(&mut stream, piece, FlushCompress::None, out);
    }
    feed(&mut stream, &[], FlushCompress::Finish, out);
    out.append(&crc.sum().to_le_bytes());
    out.append(&crc.amount().to_le_bytes());
    stream.reset();
    *spare() = Some(stream);
}

/// Compresses all of `piece`, and with `Finish` what is left in the stream.
fn feed(stream: &mut Compress, mut piece: &[u8], flush: FlushCompress, out: &mut Growing) {
    let mut window = [0; 8 * 1024];
    loop {
        let (before_in, before_out) = (stream.total_in(), stream.total_out());
        // Compressing from memory to memory cannot fail.
        let status = stream.compress(piece, &mut window, flush);
        let used = usize::try_from(stream.total_in() - before_in).unwrap_or(0);
        let made = usize::try_from(stream.total_out() - before_out).unwrap_or(0);
        out.append(&window[..made]);
        piece = &piece[used..];
        let done = piece.is_empty() && made < window.len() && flush == FlushCompress::None;
        let stuck = used == 0 && made == 0;
        if done || stuck || !matches!(status, Ok(Status::Ok | Status::BufError)) {
            return;
        }
    }
}
