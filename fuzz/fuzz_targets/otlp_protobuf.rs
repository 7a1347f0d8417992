#![no_main]

use langfuse_extension::payload::Kind;
use langfuse_lambda_extension_fuzz::{accept, merged, round_trips};
use libfuzzer_sys::fuzz_target;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

fuzz_target!(|body: &[u8]| {
    let Some(alone) = round_trips(Kind::OtlpProtobuf, "", body) else {
        return;
    };
    assert_eq!(alone, body, "what goes in comes out");
    // The other decoder refuses some that Langfuse reads, such as text that is not UTF-8.
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return;
    };
    let payload = accept(Kind::OtlpProtobuf, "", body).expect("it was accepted before");
    let twice = ExportTraceServiceRequest::decode(&merged(vec![payload.clone(), payload])[..])
        .expect("it decodes");
    let expected = [request.resource_spans.clone(), request.resource_spans].concat();
    let bytes = |resource_spans| ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    assert_eq!(bytes(twice.resource_spans), bytes(expected));
});
