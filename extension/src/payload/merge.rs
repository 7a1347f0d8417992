//! Making one request of several accepted bodies, without parsing any of them again.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::pace::Pace;
use super::{Encoding, Kind, Payload, STEP_BYTES};

/// Below this a gzip frame and the time to make it cost more than they save on the wire.
const WORTH_COMPRESSING_BYTES: usize = 1024;

/// Compressing takes several times as long as validating, so it gives way that much more often: about 50 µs on a whole
/// processor, which is what a client that is to be answered waits for.
const COMPRESS_STEP_BYTES: usize = STEP_BYTES / 4;

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
pub async fn merge(parts: Vec<Payload>) -> Merged {
    let kind = parts.first().map_or(Kind::OtlpProtobuf, Payload::kind);
    debug_assert!(
        parts.iter().all(|part| part.kind == kind),
        "parts of one request are of one kind"
    );
    match kind {
        Kind::OtlpProtobuf => merge_protobuf(parts).await,
        Kind::OtlpJson => compress_if_worth(spliced(parts, br#"{"resourceSpans":["#, b"]}")).await,
        Kind::Ingestion => identity(spliced(parts, br#"{"batch":["#, b"]}").concat().into()),
        Kind::Scores | Kind::Score => identity(spliced(parts, b"[", b"]").concat().into()),
    }
}

fn identity(body: Bytes) -> Merged {
    Merged {
        body,
        content_encoding: None,
    }
}

async fn merge_protobuf(mut parts: Vec<Payload>) -> Merged {
    if let [only] = &mut parts[..]
        && only.encoding == Encoding::Gzip
    {
        return Merged {
            body: std::mem::take(&mut only.body),
            content_encoding: Some("gzip"),
        };
    }
    if parts.iter().all(|part| part.encoding == Encoding::Identity) {
        return compress_if_worth(parts.into_iter().map(|part| part.body).collect()).await;
    }
    let mut body = Vec::new();
    let mut plain: Vec<Bytes> = Vec::new();
    for part in parts {
        match part.encoding {
            Encoding::Identity => plain.push(part.body),
            Encoding::Gzip => {
                if !plain.is_empty() {
                    body = compress(std::mem::take(&mut plain), body).await;
                }
                body.extend_from_slice(&part.body);
            }
        }
    }
    if !plain.is_empty() {
        body = compress(plain, body).await;
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

async fn compress_if_worth(pieces: Vec<Bytes>) -> Merged {
    if pieces.iter().map(Bytes::len).sum::<usize>() < WORTH_COMPRESSING_BYTES {
        return identity(pieces.concat().into());
    }
    Merged {
        body: compress(pieces, Vec::new()).await.into(),
        content_encoding: Some("gzip"),
    }
}

/// Appends one gzip member with the bytes of all pieces to `out`.
pub(super) async fn compress(pieces: Vec<Bytes>, out: Vec<u8>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(out, Compression::fast());
    let mut pace = Pace::default();
    for piece in pieces {
        for chunk in piece.chunks(COMPRESS_STEP_BYTES) {
            // Writing to a vector cannot fail.
            let _ = encoder.write_all(chunk);
            pace.worked(chunk.len() * (STEP_BYTES / COMPRESS_STEP_BYTES))
                .await;
        }
    }
    encoder.finish().unwrap_or_default()
}
