#![no_main]

use langfuse_extension::payload::{Encoding, Kind, Payload};
use langfuse_extension::spool::read_segment;
use langfuse_lambda_extension_fuzz::{LIMITS};
use libfuzzer_sys::fuzz_target;

// A file as a crash, a full disk or somebody else left it.
fuzz_target!(|file: &[u8]| {
    for record in read_segment(file) {
        assert!(record.body.len() <= file.len());
        let kinds = (
            Kind::try_from(record.kind),
            Encoding::try_from(record.encoding),
        );
        if let (Ok(kind), Ok(encoding)) = kinds {
            let _ = Payload::restore(kind, encoding, record.body, &LIMITS);
        }
    }
});
