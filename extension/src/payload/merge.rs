//! Making one request of several accepted bodies, without parsing any of them again.

use std::io::{self, BufRead, Read};

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::GzEncoder;

use super::{Encoding, Kind, Payload};

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
    let kind = parts.first().map_or(Kind::OtlpProtobuf, Payload::kind);
    debug_assert!(
        parts.iter().all(|part| part.kind == kind),
        "parts of one request are of one kind"
    );
    match kind {
        Kind::OtlpProtobuf => merge_protobuf(parts),
        Kind::OtlpJson => compress_if_worth(&spliced(parts, br#"{"resourceSpans":["#, b"]}")),
        Kind::Ingestion => identity(spliced(parts, br#"{"batch":["#, b"]}").concat().into()),
        Kind::Scores | Kind::Score => identity(spliced(parts, b"[", b"]").concat().into()),
    }
}

/// The most memory that [`merge()`] takes for what it makes of these.
pub fn bytes_to_merge(parts: &[Payload]) -> usize {
    if let [only] = parts
        && only.encoding == Encoding::Gzip
    {
        return 0;
    }
    // What does not compress grows by five bytes in 65,535, and a member has a frame.
    let bytes: usize = parts.iter().map(Payload::stored_bytes).sum();
    bytes + bytes / 4096 + 64 * (parts.len() + 1)
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
    let mut body = Vec::new();
    let mut plain: Vec<Bytes> = Vec::new();
    for part in parts {
        match part.encoding {
            Encoding::Identity => plain.push(part.body),
            Encoding::Gzip => {
                if !plain.is_empty() {
                    body = compress(&std::mem::take(&mut plain), body);
                }
                body.extend_from_slice(&part.body);
            }
        }
    }
    if !plain.is_empty() {
        body = compress(&plain, body);
    }
    Merged {
        body: body.into(),
        content_encoding: Some("gzip"),
    }
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
    if pieces.iter().map(Bytes::len).sum::<usize>() < WORTH_COMPRESSING_BYTES {
        return identity(pieces.concat().into());
    }
    Merged {
        body: compress(pieces, Vec::new()).into(),
        content_encoding: Some("gzip"),
    }
}

/// Appends one gzip member with the bytes of all pieces to `out`.
pub(super) fn compress(pieces: &[Bytes], mut out: Vec<u8>) -> Vec<u8> {
    // Read, not written: flate2's writer clears its whole buffer for every piece that it is given.
    let mut encoder = GzEncoder::new(Pieces(pieces, 0), Compression::fast());
    // Reading from memory cannot fail.
    let _ = encoder.read_to_end(&mut out);
    out
}

/// Several buffers, read as one, and how much of the first was read already.
struct Pieces<'a>(&'a [Bytes], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while let [first, rest @ ..] = self.0
            && self.1 == first.len()
        {
            *self = Self(rest, 0);
        }
        Ok(self.0.first().map_or(&[], |first| &first[self.1..]))
    }

    fn consume(&mut self, read: usize) {
        self.1 += read;
    }
}
