//! The three APIs of the environment, on one loopback port.

mod extensions;
mod runtime;
mod telemetry;

use crate::state::Shared;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpListener;

pub(crate) type Reply = Response<Full<Bytes>>;

/// Bodies of the Extensions and Telemetry APIs are small.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Serves until the runtime it runs on is dropped.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(route(&shared, request).await) }
            });
            // A client that goes away in mid-request is its own business.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn route(shared: &Arc<Shared>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["2018-06-01", "runtime", "invocation", "next"]) => {
            runtime::next(shared).await
        }
        (&Method::POST, ["2018-06-01", "runtime", "invocation", id, "response"]) => {
            runtime::response(shared, id, request).await
        }
        (&Method::POST, ["2018-06-01", "runtime", "invocation", id, "error"]) => {
            runtime::error(shared, id, request).await
        }
        (&Method::POST, ["2018-06-01", "runtime", "init", "error"]) => {
            runtime::init_error(shared, request).await
        }
        (&Method::POST, ["2020-01-01", "extension", "register"]) => {
            extensions::register(shared, request).await
        }
        (&Method::GET, ["2020-01-01", "extension", "event", "next"]) => {
            extensions::next(shared, &request).await
        }
        (
            &Method::POST,
            [
                "2020-01-01",
                "extension",
                phase @ ("init" | "exit"),
                "error",
            ],
        ) => extensions::error(shared, phase, &request),
        (&Method::PUT, ["2022-07-01", "telemetry"]) => telemetry::subscribe(shared, request).await,
        _ => reply(404, "404 page not found\n"),
    }
}

fn header<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

async fn body(request: Request<Incoming>) -> Option<Bytes> {
    Some(
        Limited::new(request.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
            .ok()?
            .to_bytes(),
    )
}

fn reply(status: u16, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        "Content-Type",
        http::HeaderValue::from_static("application/json"),
    );
    response
}

fn reply_json(status: u16, body: &Value) -> Reply {
    reply(status, body.to_string())
}

fn error(status: u16, error_type: &str, message: &str) -> Reply {
    reply_json(
        status,
        &json!({ "errorType": error_type, "errorMessage": message }),
    )
}
