//! Cutting an accepted body in two, for a Langfuse that finds it too large.
//!
//! The cut lies between two units, at the first one that begins in the second half of the bytes. What encloses it
//! (resource, scope, unknown members) is repeated on both sides, byte for byte.

mod json;
mod proto;

use bytes::Bytes;

use super::encoding::{self, Declared};
use super::merge::compress;
use super::{Encoding, Kind, Limits, Payload};

pub(super) fn split(payload: &Payload) -> Option<[Payload; 2]> {
    if payload.units < 2 {
        return None;
    }
    let (left, right) = match payload.kind {
        Kind::OtlpProtobuf => proto::split(&inflated(payload)?)?,
        Kind::OtlpJson => json::split(&payload.body, &["resourceSpans", "scopeSpans", "spans"])?,
        Kind::Ingestion => json::split(&payload.body, &["batch"])?,
        Kind::Scores => json::split(&payload.body, &[])?,
        Kind::Score => return None,
    };
    let left = accepted(payload, left.into())?;
    let right = accepted(payload, right.into())?;
    let whole = left.units > 0 && right.units > 0 && left.units + right.units == payload.units;
    whole.then_some([left, right])
}

fn inflated(payload: &Payload) -> Option<Bytes> {
    if payload.encoding == Encoding::Identity {
        return Some(payload.body.clone());
    }
    let bytes = payload.inflated_bytes;
    encoding::inflated(Declared::Gzip, &payload.body, bytes, &Limits::default()).ok()
}

/// Holds one half the way the whole was held.
fn accepted(whole: &Payload, half: Bytes) -> Option<Payload> {
    let half = match whole.encoding {
        Encoding::Identity => half,
        Encoding::Gzip => compress(&[half], Vec::new()).into(),
    };
    let limits = Limits {
        facts_spans: 0,
        inflated_bytes: usize::MAX,
        json_inflated_bytes: usize::MAX,
        memory: None,
    };
    Payload::restore(whole.kind, whole.encoding, half, &limits).ok()
}
