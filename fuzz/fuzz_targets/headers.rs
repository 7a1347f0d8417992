#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use langfuse_extension::receiver::route::route;
use langfuse_extension_core::route::{Credential, Door};
use libfuzzer_sys::fuzz_target;

// One header in each line. Keys never travel as ordinary headers, and equal requests share a route.
fuzz_target!(|lines: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(64) {
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(&line[..colon]),
            HeaderValue::from_bytes(value),
        ) {
            headers.append(name, value);
        }
    }
    for credential in [
        Credential::Configured,
        Credential::Client("Basic eDp5".into()),
    ] {
        let made = route(&headers, Door::TracesProtobuf, credential.clone(), &[]);
        assert_eq!(
            made,
            route(&headers.clone(), Door::TracesProtobuf, credential, &[])
        );
        for (name, value) in &made.headers {
            let never = [
                "authorization",
                "proxy-authorization",
                "host",
                "content-length",
                "transfer-encoding",
            ];
            assert!(!never.contains(&name.as_str()), "{name}");
            assert!(
                headers
                    .get_all(name)
                    .iter()
                    .any(|it| it.as_bytes() == value)
            );
        }
    }
});
