//! Every recorded request of a real client is accepted, and comes out as it went in.

use std::collections::HashSet;
use std::path::PathBuf;

use bytes::Bytes;
use langfuse_extension::payload::{Kind, Limits, Payload, accept_otlp, accept_scores};
use serde::Deserialize;

use crate::support::{JSON, Unit, accept, accept_batch, gunzip, merged, split_to_the_end, units};

#[derive(Deserialize)]
struct Manifest {
    requests: Vec<Recorded>,
}

#[derive(Deserialize)]
struct Recorded {
    id: String,
    kind: String,
    content_type: Option<String>,
    content_encoding: Option<String>,
    body_file: Option<String>,
    decoded_len: Option<usize>,
    spans: Option<u32>,
    #[serde(default)]
    trace_ids: Vec<String>,
    #[serde(default)]
    event_ids: Vec<String>,
}

impl Recorded {
    fn payload_kind(&self) -> Option<Kind> {
        Some(match (self.kind.as_str(), self.content_type.as_deref()?) {
            ("otlp-traces", JSON) => Kind::OtlpJson,
            ("otlp-traces", _) => Kind::OtlpProtobuf,
            ("ingestion", _) => Kind::Ingestion,
            ("scores-v5", _) => Kind::Scores,
            _ => return None,
        })
    }

    fn encoding(&self) -> &str {
        self.content_encoding.as_deref().unwrap_or_default()
    }

    fn body(&self) -> Bytes {
        let file = self.body_file.as_deref().unwrap();
        std::fs::read(folder().join(file)).unwrap().into()
    }

    /// The body as the client meant it, inflated without our code.
    fn original(&self) -> Vec<u8> {
        match self.encoding() {
            "" => self.body().to_vec(),
            "gzip" => gunzip(&self.body()),
            "deflate" => {
                let mut out = Vec::new();
                let body = self.body();
                std::io::copy(&mut flate2::read::ZlibDecoder::new(&body[..]), &mut out).unwrap();
                out
            }
            other => panic!("no client was recorded with {other}"),
        }
    }

    fn accepted(&self) -> Payload {
        accept(self.payload_kind().unwrap(), self.encoding(), self.body())
            .unwrap_or_else(|refusal| panic!("{}: {refusal}", self.id))
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// The recorded requests of our kinds.
fn recorded() -> Vec<Recorded> {
    let manifest = std::fs::read(folder().join("manifest.json")).unwrap();
    let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    let ours: Vec<_> = manifest
        .requests
        .into_iter()
        .filter(|it| it.payload_kind().is_some())
        .collect();
    assert!(ours.len() >= 60, "only {} recorded requests", ours.len());
    ours
}

#[test]
fn every_recorded_request_is_accepted_with_all_its_units() {
    for it in recorded() {
        let payload = it.accepted();
        let kind = payload.kind();
        assert_eq!(
            payload.inflated_bytes(),
            it.decoded_len.unwrap(),
            "{}",
            it.id
        );
        assert_eq!(
            payload.units() as usize,
            units(kind, &it.original()).len(),
            "{}",
            it.id
        );
        if let Some(spans) = it.spans {
            assert_eq!(payload.units(), spans, "{}", it.id);
        }
    }
}

#[test]
fn every_recorded_request_travels_alone_as_it_came() {
    for it in recorded() {
        assert_eq!(merged(vec![it.accepted()]), it.original(), "{}", it.id);
    }
}

#[test]
fn any_two_recorded_requests_of_a_kind_merge_into_both() {
    let all = recorded();
    for kind in [
        Kind::OtlpProtobuf,
        Kind::OtlpJson,
        Kind::Ingestion,
        Kind::Scores,
    ] {
        let of_kind: Vec<_> = all
            .iter()
            .filter(|it| it.payload_kind() == Some(kind))
            .collect();
        for (first, second) in of_kind.iter().zip(&of_kind[1..]) {
            let both = merged(vec![first.accepted(), second.accepted()]);
            let expected = [
                units(kind, &first.original()),
                units(kind, &second.original()),
            ]
            .concat();
            assert!(
                units(kind, &both) == expected,
                "{} and {}",
                first.id,
                second.id
            );
        }
    }
}

#[test]
fn all_protobuf_requests_of_all_encodings_merge_into_one() {
    let all: Vec<_> = recorded()
        .into_iter()
        .filter(|it| it.payload_kind() == Some(Kind::OtlpProtobuf))
        .collect();
    let expected: Vec<Unit> = all
        .iter()
        .flat_map(|it| units(Kind::OtlpProtobuf, &it.original()))
        .collect();
    let one = merged(all.iter().map(Recorded::accepted).collect());
    assert!(units(Kind::OtlpProtobuf, &one) == expected);
}

#[test]
fn every_recorded_request_can_be_cut_down_to_single_units() {
    for it in recorded() {
        let kind = it.payload_kind().unwrap();
        let pieces = split_to_the_end(it.accepted());
        assert!(pieces.iter().all(|piece| piece.units() == 1), "{}", it.id);
        let cut: Vec<Unit> = pieces
            .into_iter()
            .flat_map(|piece| units(kind, &merged(vec![piece])))
            .collect();
        assert!(cut == units(kind, &it.original()), "{}", it.id);
    }
}

#[test]
fn facts_name_the_traces_of_every_recorded_request_and_where_its_parents_are() {
    for it in recorded().iter().filter(|it| it.kind == "otlp-traces") {
        let content_type = it.content_type.as_deref().unwrap();
        let accepted = accept_otlp(content_type, it.encoding(), it.body(), &Limits::default());
        let (payload, facts) = accepted.unwrap();
        assert_eq!(
            (facts.spans.len(), facts.omitted),
            (payload.units() as usize, 0),
            "{}",
            it.id
        );
        let traces: HashSet<_> = facts.spans.iter().map(|span| hex(&span.trace_id)).collect();
        // The manifest names the first five traces of a request.
        assert!(
            it.trace_ids.iter().all(|trace| traces.contains(trace)),
            "{}",
            it.id
        );
        assert!(it.trace_ids.len() == traces.len().min(5), "{}", it.id);
        assert!(
            facts
                .spans
                .iter()
                .all(|span| span.parent_is_remote.is_some()),
            "{}",
            it.id
        );
    }
}

#[test]
fn every_recorded_event_is_confirmed_by_its_id() {
    for it in recorded().iter().filter(|it| it.kind == "ingestion") {
        let (_, ids) = accept_batch(it.body()).unwrap();
        assert_eq!(ids, it.event_ids, "{}", it.id);
    }
}

#[test]
fn every_recorded_array_of_scores_is_answered_as_python_sdk_5_expects() {
    for it in recorded().iter().filter(|it| it.kind == "scores-v5") {
        let (payload, answer) = accept_scores(JSON, "", it.body(), &Limits::default()).unwrap();
        assert_eq!(payload.kind(), Kind::Scores);
        assert_eq!(
            (answer.status, &answer.body[..]),
            (202, &br#"{"message":"Accepted"}"#[..])
        );
    }
}

#[test]
fn what_was_accepted_can_be_taken_back_from_its_parts() {
    for it in recorded() {
        let payload = it.accepted();
        let (kind, encoding, body) = (payload.kind(), payload.encoding(), payload.body().clone());
        let restored = Payload::restore(kind, encoding, body, &Limits::default());
        assert_eq!(restored.unwrap(), payload, "{}", it.id);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
