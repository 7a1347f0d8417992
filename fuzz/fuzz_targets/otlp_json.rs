#![no_main]

use langfuse_extension::payload::Kind;
use langfuse_lambda_extension_fuzz::{accept, round_trips};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let is_json = serde_json::from_slice::<serde_json::Value>(body).is_ok();
    match round_trips(Kind::OtlpJson, "", body) {
        Some(alone) => assert_eq!(alone, body, "what goes in comes out"),
        // Whatever another parser reads is refused for its shape, not as malformed.
        None if is_json => {
            let refusal = accept(Kind::OtlpJson, "", body).expect_err("it was refused before");
            assert!(!refusal.to_string().contains("invalid JSON"), "{refusal}");
        }
        None => {}
    }
});
