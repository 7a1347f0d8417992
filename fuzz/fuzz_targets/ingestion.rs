#![no_main]

use langfuse_extension::payload::Kind;
use langfuse_lambda_extension_fuzz::{accept, merged, round_trips};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|body: &[u8]| {
    round_trips(Kind::Ingestion, "", body);
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    let payload = match (
        accept(Kind::Ingestion, "", body),
        request["batch"].as_array(),
    ) {
        (Ok(payload), Some(_)) => payload,
        (Err(_), None) => return,
        (accepted, batch) => panic!("{accepted:?} for a batch of {batch:?}"),
    };
    let twice: Value =
        serde_json::from_slice(&merged(vec![payload.clone(), payload])).expect("it is JSON");
    let batch = request["batch"].as_array().expect("it was accepted");
    assert_eq!(
        twice["batch"].as_array().expect("a batch"),
        &[batch.clone(), batch.clone()].concat()
    );
});
