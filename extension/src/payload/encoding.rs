//! Content encodings: what a client may send, what is kept, and how it is inflated without ever growing past a limit.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::{Limits, Refusal};
use crate::memory::Growing;

/// How a body is compressed while we hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// Not at all.
    Identity = 0,
    /// One or more gzip members.
    Gzip = 1,
}

impl Encoding {
    /// The value of a `Content-Encoding` header; empty for identity.
    pub fn header(self) -> &'static str {
        match self {
            Self::Identity => "",
            Self::Gzip => "gzip",
        }
    }
}

impl TryFrom<u8> for Encoding {
    type Error = u8;

    fn try_from(code: u8) -> Result<Self, u8> {
        match code {
            0 => Ok(Self::Identity),
            1 => Ok(Self::Gzip),
            other => Err(other),
        }
    }
}

/// How a gzip member begins that says nothing of itself (RFC 1952).
pub(super) const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// The encoding a client declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    Identity,
    Gzip,
    Deflate,
}

/// Reads a `Content-Encoding` header in any case, and repeated as proxies and double-configured exporters send it.
/// Codings unknown to everybody count as identity, as they do for Langfuse; the validation that follows decides.
pub(super) fn declared(header: &str) -> Result<Declared, Refusal> {
    let mut found = Declared::Identity;
    for coding in header
        .split(',')
        .map(|coding| coding.trim().to_ascii_lowercase())
    {
        let this = match coding.as_str() {
            "gzip" | "x-gzip" => Declared::Gzip,
            "deflate" => Declared::Deflate,
            "zstd" | "br" | "compress" | "x-compress" | "dcb" | "dcz" => {
                return Err(Refusal::UnsupportedEncoding(coding));
            }
            _ => continue,
        };
        if found != Declared::Identity && found != this {
            return Err(Refusal::UnsupportedEncoding(header.to_owned()));
        }
        found = this;
    }
    Ok(found)
}

/// Takes inflated bytes as they come, so that they need not be kept.
pub(super) trait Sink {
    fn take(&mut self, chunk: &[u8]) -> Result<(), Refusal>;
}

/// Keeps them, within what memory there is.
pub(super) struct Kept<'a> {
    bytes: Growing,
    limits: &'a Limits<'a>,
}

impl Sink for Kept<'_> {
    fn take(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        self.limits.charge(chunk.len())?;
        self.bytes.append(chunk);
        Ok(())
    }
}

/// The whole of a compressed body. Memory is taken for it as it grows.
pub(super) fn inflated(
    declared: Declared,
    body: &Bytes,
    limit_bytes: usize,
    limits: &Limits<'_>,
) -> Result<Bytes, Refusal> {
    let mut kept = Kept {
        bytes: Growing::new(expected(body).min(limit_bytes), limit_bytes),
        limits,
    };
    inflate(declared, body, limit_bytes, &mut kept)?;
    Ok(kept.bytes.finish())
}

/// What a gzip member says that it inflates to, in its last four bytes. It may be wrong, or be another member's.
pub(super) fn expected(body: &[u8]) -> usize {
    let size = body
        .last_chunk()
        .map_or(0, |size| u32::from_le_bytes(*size));
    usize::try_from(size).unwrap_or(0)
}

/// What inflating found.
pub(super) struct Inflated {
    /// The compressed bytes as gzip, without padding behind them: Node's `gunzip` stops at a zero byte, and would
    /// ignore whatever is appended after it.
    pub(super) gzip: Bytes,
    /// Bytes given to the sink.
    pub(super) bytes: usize,
}

/// Inflates `body` into `sink`. Holds no more than a window of inflated bytes itself.
pub(super) fn inflate(
    declared: Declared,
    body: &Bytes,
    limit_bytes: usize,
    sink: &mut impl Sink,
) -> Result<Inflated, Refusal> {
    match declared {
        Declared::Identity => sink.take(body).map(|()| Inflated {
            gzip: body.clone(),
            bytes: body.len(),
        }),
        Declared::Gzip => gunzip(body, limit_bytes, sink),
        Declared::Deflate => undeflate(body, limit_bytes, sink),
    }
}

fn gunzip(body: &Bytes, limit_bytes: usize, sink: &mut impl Sink) -> Result<Inflated, Refusal> {
    let mut output = Output::new(limit_bytes, sink);
    let mut rest = &body[..];
    loop {
        let mut member = GzDecoder::new(rest);
        loop {
            let read = member
                .read(&mut output.window)
                .map_err(|_| Refusal::Compression("gzip"))?;
            if read == 0 {
                break;
            }
            output.deliver(read)?;
        }
        rest = member.into_inner();
        if rest.first().is_none_or(|byte| *byte == 0) {
            break;
        }
    }
    Ok(Inflated {
        gzip: body.slice(..body.len() - rest.len()),
        bytes: output.bytes,
    })
}

/// HTTP's `deflate` is zlib, but some clients send the bare stream. Either becomes gzip by exchanging the frame.
fn undeflate(body: &Bytes, limit_bytes: usize, sink: &mut impl Sink) -> Result<Inflated, Refusal> {
    const ZLIB_HEADER_BYTES: usize = 2;
    const ZLIB_TRAILER_BYTES: usize = 4;
    let zlib = matches!(body[..], [cmf, flg, ..] if cmf & 0x0f == 8 && (u16::from(cmf) << 8 | u16::from(flg)) % 31 == 0);
    let mut output = Output::new(limit_bytes, sink);
    let mut stream = Decompress::new(zlib);
    let mut crc = Crc::new();
    let consumed = loop {
        let (before_in, before_out) = (stream.total_in(), stream.total_out());
        let from = usize::try_from(before_in).unwrap_or(body.len());
        let status = stream
            .decompress(&body[from..], &mut output.window, FlushDecompress::None)
            .map_err(|_| Refusal::Compression("deflate"))?;
        let made = usize::try_from(stream.total_out() - before_out).unwrap_or(0);
        crc.update(&output.window[..made]);
        output.deliver(made)?;
        if status == Status::StreamEnd {
            break usize::try_from(stream.total_in()).unwrap_or(body.len());
        }
        if made == 0 && stream.total_in() == before_in {
            return Err(Refusal::Compression("deflate"));
        }
    };
    let raw = if zlib {
        ZLIB_HEADER_BYTES..consumed - ZLIB_TRAILER_BYTES
    } else {
        0..consumed
    };
    Ok(Inflated {
        gzip: as_gzip(&body[raw], &crc),
        bytes: output.bytes,
    })
}

/// Frames a bare deflate stream as a gzip member (RFC 1952).
fn as_gzip(raw: &[u8], crc: &Crc) -> Bytes {
    let mut member = Vec::with_capacity(GZIP_HEADER.len() + raw.len() + 8);
    member.extend_from_slice(&GZIP_HEADER);
    member.extend_from_slice(raw);
    member.extend_from_slice(&crc.sum().to_le_bytes());
    member.extend_from_slice(&crc.amount().to_le_bytes());
    member.into()
}

/// The window that inflated bytes pass through, and the limit on all of them.
struct Output<'a, S> {
    window: Vec<u8>,
    bytes: usize,
    limit_bytes: usize,
    sink: &'a mut S,
}

impl<'a, S: Sink> Output<'a, S> {
    fn new(limit_bytes: usize, sink: &'a mut S) -> Self {
        const WINDOW_BYTES: usize = 32 * 1024;
        Self {
            window: vec![0; WINDOW_BYTES],
            bytes: 0,
            limit_bytes,
            sink,
        }
    }

    fn deliver(&mut self, read: usize) -> Result<(), Refusal> {
        self.bytes += read;
        if self.bytes > self.limit_bytes {
            return Err(Refusal::TooLarge {
                what: "the inflated body",
                limit_bytes: self.limit_bytes,
            });
        }
        self.sink.take(&self.window[..read])
    }
}
