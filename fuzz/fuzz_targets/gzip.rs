#![no_main]

use langfuse_extension::payload::Kind;
use langfuse_lambda_extension_fuzz::round_trips;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else {
        return;
    };
    let encoding = if *choice & 1 == 0 { "gzip" } else { "deflate" };
    let kind = [Kind::OtlpProtobuf, Kind::OtlpJson, Kind::Ingestion][usize::from(*choice >> 1) % 3];
    round_trips(kind, encoding, body);
});
