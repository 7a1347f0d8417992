use std::io::Read;
use std::path::PathBuf;

use langfuse_extension::egress::{Enrich, Filter, Rules, Sample, Stage, Value as Added};
use langfuse_extension::payload::Kind;

use crate::support::{NOW, everything, masking, pass};

/// The recorded bodies of real SDKs, inflated, and what they are.
fn recorded() -> Vec<(String, Kind, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|it| it != "body") {
            continue;
        }
        let body = inflated(&std::fs::read(&path).unwrap());
        let json = body.first().is_some_and(|it| matches!(it, b'{' | b'['));
        let kind = if name.contains("traces") || name.contains("otelpy_root") {
            if json {
                Kind::OtlpJson
            } else {
                Kind::OtlpProtobuf
            }
        } else if name.contains("ingestion") {
            Kind::Ingestion
        } else if name.contains("scores") {
            Kind::Scores
        } else {
            continue;
        };
        found.push((name, kind, body));
    }
    assert!(found.len() > 60, "{} recorded bodies", found.len());
    found
}

pub(crate) fn inflated(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let read = match body {
        [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(body).read_to_end(&mut out),
        [0x78, ..] => flate2::read::ZlibDecoder::new(body).read_to_end(&mut out),
        _ => return body.to_vec(),
    };
    read.unwrap();
    out
}

#[test]
fn what_no_rule_touches_leaves_byte_for_byte() {
    for (name, kind, body) in recorded() {
        let stages = [
            Rules::default(),
            masking(
                &[],
                &["no-such-key"],
                &[("nothing", "no such text anywhere")],
            ),
            Rules {
                sample: Some(Sample::new(1.0).unwrap()),
                max_attribute_bytes: Some(usize::MAX),
                ..Rules::default()
            },
        ];
        for stage in stages {
            let left = Stage::new(stage).pass(kind, &body, NOW);
            assert_eq!(left.body, None, "{name}");
            assert_eq!(
                left.counts,
                langfuse_extension::egress::Counts::default(),
                "{name}"
            );
        }
    }
}

#[test]
fn everything_at_once_leaves_valid_bodies_of_what_was_kept() {
    for (name, kind, body) in recorded() {
        let mut stage = masking(
            &everything(),
            &["input", "user_id"],
            &[("word", r"\b(?i)the\b")],
        );
        stage.max_attribute_bytes = Some(256);
        stage.sample = Some(Sample::new(0.5).unwrap());
        stage.filter = Filter {
            spans: langfuse_extension::egress::Spans::LlmTree,
            ..Filter::default()
        };
        stage.enrich = Enrich::new(vec![("faas.name", Added::Text("f".into()))], false);
        let before = crate::support::accept(kind, &body).unwrap().units();
        let (left, counts) = pass(&Stage::new(stage), kind, &body);
        let after = crate::support::accept(kind, &left).unwrap().units();
        assert_eq!(after + counts.held_back(), before, "{name}");
    }
}
