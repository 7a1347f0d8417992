#![no_main]
//! What is valid leaves as something valid, every unit is counted, and what no rule touches is not changed.

use std::sync::LazyLock;
use std::time::Duration;

use langfuse_extension::egress::{Detector, Enrich, Filter, Mask, Rules, Sample, Spans, Stage, Value};
use langfuse_extension::payload::Kind;
use langfuse_lambda_extension_fuzz::accept;
use libfuzzer_sys::fuzz_target;

static EVERYTHING: LazyLock<Stage> = LazyLock::new(|| {
    let detectors = Detector::NAMES.map(|(_, it)| it);
    let patterns = [("word".to_owned(), r"\bth\w+".to_owned())];
    Stage::new(Rules {
        filter: Filter {
            spans: Spans::LlmTree,
            ..Filter::default()
        },
        sample: Sample::new(0.5).ok(),
        mask: Mask::new(&detectors, &["input".to_owned()], &patterns),
        max_attribute_bytes: Some(128),
        enrich: Enrich::new(vec![("faas.name", Value::Text("f".into()))], false),
    })
});

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let kind = [Kind::OtlpProtobuf, Kind::OtlpJson, Kind::Ingestion][usize::from(*first) % 3];
    let Ok(payload) = accept(kind, "", body) else {
        return;
    };
    let body = payload.body();
    let nothing = Stage::new(Rules {
        mask: Mask::new(&[], &[], &[("never".to_owned(), r"\z\A.".to_owned())]),
        sample: Sample::new(1.0).ok(),
        ..Rules::default()
    });
    if !body.windows(6).any(|it| it == b"sk-lf-" || it.contains(&b'\\')) {
        assert_eq!(nothing.pass(kind, body, Duration::ZERO).body, None);
    }
    let left = EVERYTHING.pass(kind, body, Duration::ZERO);
    let units = match &left.body {
        Some(body) => accept(kind, "", body).expect("what leaves is valid").units(),
        None => payload.units(),
    };
    assert_eq!(units + left.counts.held_back(), payload.units());
});
