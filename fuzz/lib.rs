//! What the fuzz targets share: the round trips that have to hold for whatever was accepted.

use std::io::Read;

use bytes::Bytes;
use langfuse_extension::payload::{Kind, Limits, Merged, Payload, Refusal};
use langfuse_extension::payload::{accept_ingestion, accept_otlp, merge};

/// Small enough that a fuzzer finds the limits.
pub const LIMITS: Limits = Limits {
    inflated_bytes: 1 << 20,
    json_inflated_bytes: 1 << 20,
    facts_spans: 4,
};

/// Accepts a body as the receiver would.
pub fn accept(kind: Kind, encoding: &str, body: &[u8]) -> Result<Payload, Refusal> {
    let body = Bytes::copy_from_slice(body);
    match kind {
        Kind::OtlpProtobuf => accept_otlp(
            "application/x-protobuf",
            encoding,
            body,
            &LIMITS,
        )
        .map(|it| it.0),
        Kind::OtlpJson => {
            accept_otlp("application/json", encoding, body, &LIMITS).map(|it| it.0)
        }
        _ => accept_ingestion(
            "application/json",
            encoding,
            body,
            &LIMITS,
        )
        .map(|it| it.0),
    }
}

/// The merged body as Langfuse sees it.
pub fn merged(parts: Vec<Payload>) -> Vec<u8> {
    let Merged {
        body,
        content_encoding,
    } = merge(parts);
    if content_encoding.is_none() {
        return body.to_vec();
    }
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(&body[..])
        .read_to_end(&mut out)
        .expect("what we send inflates");
    out
}

/// Accepts, and if that went well checks that nothing is lost or added on any way out.
pub fn round_trips(kind: Kind, encoding: &str, body: &[u8]) -> Option<Vec<u8>> {
    let payload = accept(kind, encoding, body).ok()?;
    let alone = merged(vec![payload.clone()]);
    let again = accept(kind, "", &alone).expect("what is sent is valid");
    assert_eq!(again.units(), payload.units(), "alone");
    let twice = accept(kind, "", &merged(vec![payload.clone(), payload.clone()]))
        .expect("what is merged is valid");
    assert_eq!(twice.units(), 2 * payload.units(), "merged with itself");
    if let Some(parts) = payload.cut(payload.inflated_bytes() / 3) {
        let units: u32 = parts.iter().map(Payload::units).sum();
        assert_eq!(units, payload.units(), "cut");
        let whole = accept(kind, "", &merged(parts)).expect("parts are valid");
        assert_eq!(whole.units(), payload.units(), "cut and merged");
    }
    Some(alone)
}
