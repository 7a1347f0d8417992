//! Cutting an accepted body into requests of a size, for a Langfuse that finds it too large.
//!
//! The cuts lie between units. What encloses them (resource, scope, unknown members) is repeated in each part, byte for
//! byte.

mod json;
mod proto;

use bytes::Bytes;

use super::{Encoding, Kind, Limits, Payload};

pub(super) fn cut(payload: &Payload, part_bytes: usize) -> Option<Vec<Payload>> {
    if payload.units < 2 {
        return None;
    }
    let part_bytes = part_bytes.min(payload.inflated_bytes / 2);
    let parts = match payload.kind {
        Kind::OtlpProtobuf => proto::cut(payload, part_bytes)?,
        _ => cut_json(payload, part_bytes)?,
    };
    let units: u64 = parts.iter().map(|part| u64::from(part.units)).sum();
    (parts.len() > 1 && units == u64::from(payload.units)).then_some(parts)
}

/// What [`cut`] takes, its parts included.
pub(super) fn bytes_to_cut(payload: &Payload) -> usize {
    match payload.kind {
        Kind::OtlpProtobuf => payload.stored_bytes() + proto::SCRATCH_BYTES,
        // All parts, and the two halves of one of them.
        _ => 2 * payload.stored_bytes(),
    }
}

/// Halves it and its halves, until none is too large that has several units.
fn cut_json(payload: &Payload, part_bytes: usize) -> Option<Vec<Payload>> {
    let [left, right] = halves(payload)?;
    let (mut parts, mut rest) = (Vec::new(), vec![right, left]);
    while let Some(part) = rest.pop() {
        let smaller = (part.inflated_bytes > part_bytes).then(|| halves(&part));
        match smaller.flatten() {
            Some([left, right]) => rest.extend([right, left]),
            None => parts.push(part),
        }
    }
    Some(parts)
}

fn halves(payload: &Payload) -> Option<[Payload; 2]> {
    let lists: &[&str] = match payload.kind {
        _ if payload.units < 2 => return None,
        Kind::OtlpJson => &["resourceSpans", "scopeSpans", "spans"],
        Kind::Ingestion => &["batch"],
        Kind::Scores => &[],
        Kind::OtlpProtobuf | Kind::Score => return None,
    };
    let (left, right) = json::split(&payload.body, lists)?;
    let halves = [
        accepted(payload, left.into())?,
        accepted(payload, right.into())?,
    ];
    let [left, right] = halves.each_ref().map(|half| half.units);
    (left > 0 && right > 0 && left + right == payload.units).then_some(halves)
}

fn accepted(whole: &Payload, half: Bytes) -> Option<Payload> {
    let limits = Limits {
        facts_spans: 0,
        json_inflated_bytes: usize::MAX,
        ..Limits::default()
    };
    Payload::restore(whole.kind, Encoding::Identity, half, &limits).ok()
}
