//! The function over HTTP.

use crate::setup::{ECHO, function};
use lambda_emulator::{Front, Lambda};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn served(script: &str) -> SocketAddr {
    let lambda: Arc<Lambda> = Arc::new(function(script).start().await.unwrap());
    let front = Front::bind(lambda, "127.0.0.1:0").await.unwrap();
    let address = front.address().unwrap();
    tokio::spawn(front.serve());
    address
}

async fn sent(address: SocketAddr, head: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nHost: local\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn exchanged(address: SocketAddr, head: &str, body: &str) -> String {
    let mut answer = String::new();
    sent(address, head, body)
        .await
        .read_to_string(&mut answer)
        .await
        .unwrap();
    answer
}

#[tokio::test]
async fn lambdas_invoke_path_takes_the_body_as_payload() {
    let address = served(ECHO).await;
    let answer = exchanged(
        address,
        "POST /2015-03-31/functions/function/invocations",
        "[1,2]",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("[1,2]"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_failed_invocation_says_so_in_a_header() {
    let script = "while True: fail(next_invocation()[0], '{\"errorType\":\"E\"}')";
    let address = served(script).await;
    let answer = exchanged(
        address,
        "POST /2015-03-31/functions/function/invocations",
        "{}",
    )
    .await;
    assert!(
        answer
            .to_lowercase()
            .contains("x-amz-function-error: unhandled"),
        "{answer}"
    );
}

#[tokio::test]
async fn any_other_request_becomes_an_event_of_format_2() {
    let script = "import json\nserve(lambda payload: json.dumps({'statusCode': 201, 'body': payload, \
                  'headers': {'x-mine': 'yes'}, 'cookies': ['a=b']}))";
    let address = served(script).await;
    let answer = exchanged(address, "PUT /shop/cart?x=1&x=2&name=A%20B", "caf\u{e9}").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 201")
            && head.contains("x-mine: yes")
            && head.contains("set-cookie: a=b"),
        "{head}"
    );
    let event: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(event["version"], "2.0");
    assert_eq!(event["rawPath"], "/shop/cart");
    assert_eq!(event["requestContext"]["http"]["method"], "PUT");
    assert_eq!(
        event["queryStringParameters"],
        serde_json::json!({ "x": "1,2", "name": "A B" })
    );
    assert_eq!(event["body"], "caf\u{e9}");
    assert_eq!(event["isBase64Encoded"], false);
}

#[tokio::test]
async fn a_streamed_answer_goes_out_part_by_part_behind_its_metadata() {
    let script = r#"
while True:
  request_id, _, _ = next_invocation()
  stream = Stream(request_id)
  stream.part(b'{"statusCode":202,"headers":{"content-type":"text/plain"}}' + bytes(8))
  stream.part(b'one ')
  time.sleep(0.4)
  stream.part(b'two')
  stream.end()
"#;
    let address = served(script).await;
    let mut stream = sent(address, "GET /", "").await;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&answer).contains("one ") {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0);
        answer.extend_from_slice(&buffer[..read]);
    }
    let first = Instant::now();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(first.elapsed() >= Duration::from_millis(300));
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 202") && answer.contains("content-type: text/plain"),
        "{answer}"
    );
    assert!(
        answer.contains("two") && !answer.contains("statusCode"),
        "{answer}"
    );
}
