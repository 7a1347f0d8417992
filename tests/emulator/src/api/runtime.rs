//! The Runtime API, 2018-06-01.

use super::{Reply, error as refusal, header, reply, reply_json};
use crate::Event;
use crate::config::{PAYLOAD_BYTES_MAX, STREAM_BYTES_MAX};
use crate::invocation::{FunctionError, Progress};
use crate::process::RUNTIME;
use crate::state::{Current, Shared, State, Work};
use base64::Engine;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

const ERROR_TYPE: &str = "Lambda-Runtime-Function-Error-Type";
const ERROR_BODY: &str = "Lambda-Runtime-Function-Error-Body";
const RESPONSE_MODE: &str = "Lambda-Runtime-Function-Response-Mode";

pub(super) async fn next(shared: &Arc<Shared>) -> Reply {
    shared.timeline.add(Event::NextCalled {
        process: RUNTIME.to_owned(),
    });
    let Some(work) = shared.update(State::runtime_next) else {
        return refusal(
            403,
            "InvalidStateTransition",
            "the last invocation has not been answered",
        );
    };
    let Ok(work) = work.await else {
        return refusal(410, "Gone", "the environment is gone");
    };
    shared.timeline.add(Event::InvokeDelivered {
        process: RUNTIME.to_owned(),
        request_id: work.request_id.clone(),
    });
    invocation(shared, work)
}

fn invocation(shared: &Shared, work: Work) -> Reply {
    let mut response = reply(200, work.payload);
    let deadline = work.deadline_unix_ms.to_string();
    let arn = shared.config.function_arn();
    for (name, value) in [
        ("lambda-runtime-aws-request-id", work.request_id.as_str()),
        ("lambda-runtime-deadline-ms", &deadline),
        ("lambda-runtime-invoked-function-arn", &arn),
        ("lambda-runtime-trace-id", &work.trace),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
    }
    response
}

pub(super) async fn response(shared: &Arc<Shared>, id: &str, request: Request<Incoming>) -> Reply {
    let streaming = match header(&request, RESPONSE_MODE) {
        None => false,
        Some("streaming") => true,
        Some(_) => {
            return refusal(
                400,
                "InvalidResponseMode",
                "the response mode is not 'streaming'",
            );
        }
    };
    let Some(progress) = begin_answer(shared, id) else {
        return refusal(400, "InvalidRequestID", "no such invocation");
    };
    progress.send_modify(|progress| progress.streamed = streaming);
    shared.timeline.add(Event::ResponseStarted {
        request_id: id.to_owned(),
    });
    let limit = if streaming {
        STREAM_BYTES_MAX
    } else {
        PAYLOAD_BYTES_MAX
    };
    let result = read_response(request.into_body(), streaming.then_some(&*progress), limit).await;
    let too_large =
        matches!(&result, Err(error) if error.error_type == "Function.ResponseSizeTooLarge");
    end_answer(shared, id, &progress, result);
    if too_large {
        return refusal(413, "RequestEntityTooLarge", "the response is too large");
    }
    reply_json(202, &json!({ "status": "OK" }))
}

pub(super) async fn error(shared: &Arc<Shared>, id: &str, request: Request<Incoming>) -> Reply {
    let declared = header(&request, ERROR_TYPE).map(str::to_owned);
    let Some(progress) = begin_answer(shared, id) else {
        return refusal(400, "InvalidRequestID", "no such invocation");
    };
    let result = match read_response(request.into_body(), None, PAYLOAD_BYTES_MAX).await {
        Ok(body) => Err(function_error(declared.as_deref(), body)),
        Err(error) => Err(error),
    };
    end_answer(shared, id, &progress, result);
    reply_json(202, &json!({ "status": "OK" }))
}

pub(super) async fn init_error(shared: &Arc<Shared>, request: Request<Incoming>) -> Reply {
    let declared = header(&request, ERROR_TYPE).map(str::to_owned);
    let body = super::body(request).await.unwrap_or_default();
    let error = function_error(declared.as_deref().or(Some("Runtime.InitError")), body);
    shared.timeline.add(Event::ErrorReported {
        process: RUNTIME.to_owned(),
        error_type: error.error_type.clone(),
    });
    shared.update(|state| state.fault.get_or_insert(error).error_type.clone());
    reply_json(202, &json!({ "status": "OK" }))
}

/// The invocation of this id, if the runtime still owes its answer.
fn begin_answer(shared: &Shared, id: &str) -> Option<Arc<watch::Sender<Progress>>> {
    shared.update(|state| {
        let current = owed(state, id)?;
        current.response_started = Some(Instant::now());
        Some(Arc::clone(&current.progress))
    })
}

fn owed<'a>(state: &'a mut State, id: &str) -> Option<&'a mut Current> {
    state.current.as_mut().filter(|current| {
        current.request_id == id && current.delivered.is_some() && !current.answered
    })
}

fn end_answer(
    shared: &Shared,
    id: &str,
    progress: &watch::Sender<Progress>,
    result: Result<Bytes, FunctionError>,
) {
    let error_type = result.as_ref().err().map(|error| error.error_type.clone());
    let bytes = result.as_ref().map_or(0, Bytes::len);
    progress.send_modify(|progress| {
        if progress.chunks.is_empty()
            && let Ok(payload) = &result
        {
            progress.chunk(payload.clone());
        }
        progress.answer(result);
    });
    shared.timeline.add(Event::ResponseEnded {
        request_id: id.to_owned(),
        bytes,
        error_type: error_type.clone(),
    });
    shared.update(|state| {
        if let Some(current) = owed(state, id) {
            current.answered = true;
            current.response_ended = Some(Instant::now());
            current.error_type = error_type;
            current.bytes = bytes;
        }
    });
}

/// Reads the body to its end and passes its parts on; the trailers may turn it into an error.
async fn read_response(
    mut body: Incoming,
    chunks: Option<&watch::Sender<Progress>>,
    bytes_max: usize,
) -> Result<Bytes, FunctionError> {
    let mut payload = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| FunctionError::new("Runtime.TruncatedResponse", error.to_string()))?;
        let frame = match frame.into_data() {
            Ok(data) => {
                if payload.len() + data.len() > bytes_max {
                    let message = format!(
                        "Response payload size exceeded maximum allowed payload size ({bytes_max} bytes)."
                    );
                    return Err(FunctionError::new("Function.ResponseSizeTooLarge", message));
                }
                payload.extend_from_slice(&data);
                if let Some(chunks) = chunks {
                    chunks.send_modify(|progress| progress.chunk(data));
                }
                continue;
            }
            Err(frame) => frame,
        };
        if let Some(error) = frame
            .into_trailers()
            .ok()
            .and_then(|trailers| error_in(&trailers))
        {
            return Err(error);
        }
    }
    Ok(payload.freeze())
}

fn error_in(trailers: &HeaderMap) -> Option<FunctionError> {
    let error_type = trailers.get(ERROR_TYPE)?.to_str().ok()?;
    let body = trailers
        .get(ERROR_BODY)
        .and_then(|body| base64::engine::general_purpose::STANDARD.decode(body).ok());
    Some(function_error(
        Some(error_type),
        body.unwrap_or_default().into(),
    ))
}

/// The body's own `errorType` counts, then the header's.
fn function_error(declared: Option<&str>, body: Bytes) -> FunctionError {
    let parsed: Value = serde_json::from_slice(&body).unwrap_or_default();
    let field = |name: &str| parsed.get(name).and_then(Value::as_str);
    FunctionError {
        error_type: field("errorType")
            .or(declared)
            .unwrap_or("Runtime.Unknown")
            .to_owned(),
        error_message: field("errorMessage").unwrap_or_default().to_owned(),
        payload: body,
    }
}
