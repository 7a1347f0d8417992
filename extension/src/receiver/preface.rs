//! Clients that speak HTTP/2 at once, without asking: exporters set to OTLP over gRPC find 4318 when they are given it
//! as their endpoint, and would otherwise fail with a message that helps nobody.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a person has to change. It stands in the GOAWAY, which gRPC libraries print, and in our own log.
pub const ADVICE: &str = "langfuse-extension takes OTLP over HTTP/1.1, not gRPC: set \
     OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf (or OTEL_EXPORTER_OTLP_TRACES_PROTOCOL)";

/// How long a refused client may take to go away, so that what it was told is not lost to a reset.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the client begins with HTTP/2's preface (RFC 9113, section 3.4). Waits for its first bytes and leaves them
/// where they are.
pub(super) async fn speaks_http2(stream: &TcpStream) -> bool {
    let mut start = [0; 4];
    matches!(stream.peek(&mut start).await, Ok(4) if start == *b"PRI ")
}

/// Says goodbye in HTTP/2.
pub(super) async fn refuse(mut stream: TcpStream) {
    if stream.write_all(&farewell()).await.is_ok() && stream.shutdown().await.is_ok() {
        let mut rest = [0; 1024];
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, async {
            while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        })
        .await;
    }
}

/// An empty SETTINGS frame, with which a server has to begin, and a GOAWAY (RFC 9113, sections 6.5 and 6.8).
fn farewell() -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: [u8; 6] = [7, 0, 0, 0, 0, 0];
    const HTTP_1_1_REQUIRED: [u8; 4] = [0, 0, 0, 0x0d];
    const NO_STREAM: [u8; 4] = [0; 4];
    let length =
        u32::try_from(NO_STREAM.len() + HTTP_1_1_REQUIRED.len() + ADVICE.len()).unwrap_or(0);
    let mut frames = SETTINGS.to_vec();
    frames.extend_from_slice(&length.to_be_bytes()[1..]);
    frames.extend_from_slice(&GOAWAY);
    frames.extend_from_slice(&NO_STREAM);
    frames.extend_from_slice(&HTTP_1_1_REQUIRED);
    frames.extend_from_slice(ADVICE.as_bytes());
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goaway_is_as_long_as_it_says() {
        let frames = farewell();
        let goaway = &frames[9..];
        let length = u32::from_be_bytes([0, goaway[0], goaway[1], goaway[2]]) as usize;
        assert_eq!((goaway[3], goaway.len()), (7, 9 + length));
        assert!(goaway.ends_with(ADVICE.as_bytes()));
    }
}
