#![no_main]

use langfuse_extension::host::lambda::telemetry::{Record, read_delivery};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

// What another parser reads as the end of an invocation must be read as one, whatever stands beside it.
fuzz_target!(|delivery: &[u8]| {
    let records = read_delivery(delivery);
    let Ok(Value::Array(all)) = serde_json::from_slice(delivery) else {
        return;
    };
    assert!(records.len() <= all.len());
    for record in records {
        let Record::RuntimeDone { request_id: id, .. } = record else {
            continue;
        };
        let is_it = |it: &Value| {
            it["type"] == "platform.runtimeDone" && it["record"]["requestId"] == id.as_str()
        };
        assert!(all.iter().any(is_it), "{id:?} was made up");
    }
});
