//! The function over HTTP: Lambda's invoke call, and a function URL for everything else.

use crate::invocation::InvocationHandle;
use crate::lambda::{Error, Lambda};
use crate::timeline::unix_ms;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::TcpListener;

const INVOKE_PATH: &str = "/2015-03-31/functions/function/invocations";
/// Between the metadata and the body of a streamed HTTP response.
const METADATA_END: [u8; 8] = [0; 8];
/// Metadata that grows beyond this is taken for a plain response.
const METADATA_BYTES_MAX: usize = 64 * 1024;
/// Parts of a streamed answer that wait for a slow client here; the rest waits in the invocation.
const PARTS_MAX: usize = 16;

type Answer = Response<BoxBody<Bytes, io::Error>>;

/// An HTTP listener in front of a [`Lambda`].
pub struct Front {
    listener: TcpListener,
    lambda: Arc<Lambda>,
}

impl Front {
    /// Binds the address, for example `127.0.0.1:0`.
    pub async fn bind(lambda: Arc<Lambda>, address: &str) -> Result<Self, Error> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            lambda,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until it is dropped. `POST /2015-03-31/functions/function/invocations` invokes with the body as payload;
    /// any other request becomes an event of payload format 2.0, and its answer is streamed out as it comes.
    pub async fn serve(self) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                continue;
            };
            let lambda = Arc::clone(&self.lambda);
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let lambda = Arc::clone(&lambda);
                    async move { Ok::<_, Infallible>(answer(&lambda, request).await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }
}

async fn answer(lambda: &Lambda, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, crate::config::PAYLOAD_BYTES_MAX)
        .collect()
        .await
    else {
        return whole(StatusCode::PAYLOAD_TOO_LARGE, Bytes::new());
    };
    let body = body.to_bytes();
    if head.method == Method::POST && head.uri.path() == INVOKE_PATH {
        return invoke(lambda.invoke_detached(body)).await;
    }
    url(lambda.invoke_detached(url_event(&head, &body).to_string())).await
}

async fn invoke(mut handle: InvocationHandle) -> Answer {
    match handle.responded().await.1 {
        Ok(payload) => whole(StatusCode::OK, payload),
        Err(error) => {
            let mut answer = whole(StatusCode::OK, error.payload);
            answer.headers_mut().insert(
                "X-Amz-Function-Error",
                HeaderValue::from_static("Unhandled"),
            );
            answer
        }
    }
}

/// A streamed answer goes out part by part; a buffered one is looked into for `statusCode`, `headers` and `body`.
async fn url(mut handle: InvocationHandle) -> Answer {
    let mut begun = BytesMut::new();
    let mut streamed = false;
    while let Some(chunk) = handle.chunk().await {
        begun.extend_from_slice(&chunk.bytes);
        streamed = handle.streamed();
        if !streamed || end_of_metadata(&begun).is_some() || begun.len() > METADATA_BYTES_MAX {
            break;
        }
    }
    if streamed {
        return streamed_answer(begun, handle);
    }
    match handle.responded().await.1 {
        Ok(payload) => buffered_answer(payload),
        Err(error) => whole(StatusCode::BAD_GATEWAY, error.payload),
    }
}

fn end_of_metadata(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(METADATA_END.len())
        .position(|window| window == METADATA_END)
}

fn streamed_answer(mut begun: BytesMut, mut handle: InvocationHandle) -> Answer {
    let mut head = Value::Null;
    if let Some(end) = end_of_metadata(&begun) {
        head = serde_json::from_slice(&begun[..end]).unwrap_or_default();
        let _ = begun.split_to(end + METADATA_END.len());
    }
    let (mut parts, body) = Channel::<Bytes, io::Error>::new(PARTS_MAX);
    tokio::spawn(async move {
        let mut next = Some(begun.freeze());
        while let Some(part) = next {
            if !part.is_empty() && parts.send_data(part).await.is_err() {
                return;
            }
            next = handle.chunk().await.map(|chunk| chunk.bytes);
        }
        if let (_, Err(error)) = handle.responded().await {
            parts.abort(io::Error::other(error.error_type));
        }
    });
    with_head(&head, body.boxed())
}

fn buffered_answer(payload: Bytes) -> Answer {
    let answer: Value = serde_json::from_slice(&payload).unwrap_or_default();
    let Some(text) = answer
        .get("body")
        .and_then(Value::as_str)
        .filter(|_| answer.get("statusCode").is_some())
    else {
        // A payload that is not of the form is the body itself, as at a real function URL.
        let empty = answer.get("statusCode").is_some();
        return with_head(&answer, full(if empty { Bytes::new() } else { payload }));
    };
    let encoded = answer
        .get("isBase64Encoded")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let body = if encoded {
        STANDARD.decode(text).unwrap_or_default()
    } else {
        text.as_bytes().to_vec()
    };
    with_head(&answer, full(body.into()))
}

/// Status, headers and cookies as format 2.0 has them.
fn with_head(head: &Value, body: BoxBody<Bytes, io::Error>) -> Answer {
    let mut answer = Response::new(body);
    let status = head
        .get("statusCode")
        .and_then(Value::as_u64)
        .and_then(|status| u16::try_from(status).ok());
    if let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) {
        *answer.status_mut() = status;
    }
    let headers = head
        .get("headers")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    let cookies = head
        .get("cookies")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let cookies = cookies.filter_map(|cookie| Some(("set-cookie", cookie.as_str()?)));
    for (name, value) in headers.chain(cookies) {
        // The length and framing are ours to say.
        let framing = ["content-length", "transfer-encoding", "connection"]
            .contains(&name.to_ascii_lowercase().as_str());
        if !framing
            && let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
        {
            answer.headers_mut().append(name, value);
        }
    }
    if !answer.headers().contains_key("content-type") {
        answer
            .headers_mut()
            .insert("content-type", HeaderValue::from_static("application/json"));
    }
    answer
}

fn whole(status: StatusCode, body: Bytes) -> Answer {
    with_head(&json!({ "statusCode": status.as_u16() }), full(body))
}

fn full(body: Bytes) -> BoxBody<Bytes, io::Error> {
    Full::new(body).map_err(|never| match never {}).boxed()
}

/// The request as an event of payload format 2.0.
fn url_event(head: &Parts, body: &Bytes) -> Value {
    let headers = joined(&head.headers);
    let cookies: Vec<&str> = head
        .headers
        .get_all("cookie")
        .iter()
        .filter_map(|cookie| cookie.to_str().ok())
        .collect();
    let cookies: Vec<&str> = cookies
        .iter()
        .flat_map(|cookie| cookie.split("; "))
        .collect();
    let host = headers.get("host").cloned().unwrap_or_default();
    let now = SystemTime::now();
    let text = std::str::from_utf8(body);
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": head.uri.path(),
        "rawQueryString": head.uri.query().unwrap_or_default(),
        "headers": headers,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "domainName": host,
            "domainPrefix": "local",
            "http": {
                "method": head.method.as_str(),
                "path": head.uri.path(),
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": headers.get("user-agent"),
            },
            "requestId": uuid::Uuid::new_v4().to_string(),
            "routeKey": "$default",
            "stage": "$default",
            "time": humantime::format_rfc3339_seconds(now).to_string(),
            "timeEpoch": unix_ms(now),
        },
        "isBase64Encoded": text.is_err(),
    });
    if let Some(query) = head.uri.query() {
        event["queryStringParameters"] = json!(query_parameters(query));
    }
    if !cookies.is_empty() {
        event["cookies"] = json!(cookies);
    }
    if !body.is_empty() {
        event["body"] = text
            .map_or_else(|_| STANDARD.encode(body), str::to_owned)
            .into();
    }
    event
}

/// Headers in lower case, those of one name joined by commas.
fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut joined: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| *name != "cookie") {
        let value = String::from_utf8_lossy(value.as_bytes());
        joined
            .entry(name.to_string())
            .and_modify(|all| *all = format!("{all},{value}"))
            .or_insert_with(|| value.into_owned());
    }
    joined
}

fn query_parameters(query: &str) -> BTreeMap<String, String> {
    let mut parameters: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        parameters
            .entry(name.into_owned())
            .and_modify(|all| *all = format!("{all},{value}"))
            .or_insert_with(|| value.into_owned());
    }
    parameters
}
