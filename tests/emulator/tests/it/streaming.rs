//! Streamed responses.

use crate::setup::{ECHO, function};
use std::time::Duration;

const TWO_PARTS: &str = r"
while True:
  request_id, _, _ = next_invocation()
  stream = Stream(request_id)
  stream.part(b'one')
  time.sleep(0.4)
  stream.part(b'two')
  stream.end()
";

#[tokio::test]
async fn the_parts_of_a_streamed_response_reach_the_caller_as_they_are_sent() {
    let lambda = function(TWO_PARTS).start().await.unwrap();
    let mut handle = lambda.invoke_detached("{}");
    let (first, second) = (handle.chunk().await.unwrap(), handle.chunk().await.unwrap());
    assert_eq!((&*first.bytes, &*second.bytes), (&b"one"[..], &b"two"[..]));
    assert!(second.at >= first.at + Duration::from_millis(350));
    assert!(handle.chunk().await.is_none());
    let invocation = handle.finished().await;
    assert!(invocation.streamed);
    assert_eq!(invocation.text(), "onetwo");
    assert_eq!(invocation.first_byte_after, Some(first.at));
    assert!(invocation.responded_after >= second.at);
}

#[tokio::test]
async fn a_stream_may_end_in_an_error_that_its_trailers_tell() {
    let script = r"
import base64
while True:
  request_id, _, _ = next_invocation()
  stream = Stream(request_id)
  stream.part(b'begun')
  body = base64.b64encode(b'{}'.replace(b'{}', b'{\x22errorMessage\x22:\x22broke\x22}'))
  stream.end([(b'Lambda-Runtime-Function-Error-Type', b'Handler.Broke'), (b'Lambda-Runtime-Function-Error-Body', body)])
";
    let lambda = function(script).start().await.unwrap();
    let invocation = lambda.invoke("{}").await;
    let error = invocation.result.unwrap_err();
    assert_eq!(
        (error.error_type.as_str(), error.error_message.as_str()),
        ("Handler.Broke", "broke")
    );
    assert_eq!(&*invocation.chunks[0].bytes, b"begun");
}

#[tokio::test]
async fn a_buffered_response_comes_in_one_part_at_its_end() {
    let lambda = function(ECHO).start().await.unwrap();
    let invocation = lambda.invoke("\"whole\"").await;
    assert!(!invocation.streamed);
    assert_eq!(invocation.chunks.len(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_and_the_runtimes_end_a_fault() {
    let script = "request_id, _, _ = next_invocation()\nstream = Stream(request_id)\nstream.part(b'begun')\n\
                  time.sleep(0.1)\nos._exit(1)";
    let lambda = function(script).start().await.unwrap();
    let invocation = lambda.invoke("{}").await;
    assert!(matches!(
        invocation.error_type(),
        Some("Runtime.TruncatedResponse" | "Runtime.ExitError")
    ));
    assert_eq!(invocation.fault.unwrap().error_type, "Runtime.ExitError");
}
