//! Lambda's Extensions API: register, next, and the two ways of saying goodbye with an error.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>
//!
//! Plain hyper on purpose. The sandbox waits for `register` before it starts the runtime, so everything before it is
//! cold start; and `next` may take hours, so no client's timeout may end it.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use lambda_extension::NextEvent;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::inputs::PlatformEvent;

/// Attempts to register before giving up on answers that may pass: no answer, or 5xx.
pub const REGISTER_ATTEMPTS: u32 = 4;

/// Failures of `next` in a row, with [`NEXT_LONGEST_PAUSE`] between the last of them, after which the extension ends.
pub const NEXT_ATTEMPTS: u32 = 10;

/// The first pause between two attempts; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between two attempts at `next`.
pub const NEXT_LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long an answer of Lambda is waited for where one is due at once: not on `next`.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer of Lambda that is read.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;

/// Why Lambda's API did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// Nothing listens, or the connection broke.
    #[error("no answer from Lambda's API: {0}")]
    NoAnswer(String),
    /// An answer that is no success.
    #[error("Lambda's API answered {status}: {body}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// The beginning of its body.
        body: String,
    },
    /// An answer that cannot be read.
    #[error("Lambda's API sent something unreadable: {0}")]
    Malformed(String),
}

impl PlatformError {
    fn may_pass(&self) -> bool {
        match self {
            Self::NoAnswer(_) => true,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Malformed(_) => false,
        }
    }
}

/// The registered extension.
#[derive(Debug)]
pub struct Platform {
    api: Connection,
    extension_id: String,
    /// Whether INVOKE events will come; Lambda Managed Instances refuse them.
    pub told_of_invocations: bool,
}

impl Platform {
    /// Registers under `name`, which must be the name of the executable's file, with the API at `address`.
    ///
    /// # Errors
    /// When Lambda refuses for good, or has not answered [`REGISTER_ATTEMPTS`] times.
    pub async fn register(address: &str, name: &str) -> Result<Self, PlatformError> {
        let mut api = Connection::new(address);
        let mut events = &["INVOKE", "SHUTDOWN"][..];
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            match try_to_register(&mut api, name, events).await {
                Ok(extension_id) => {
                    let told_of_invocations = events.contains(&"INVOKE");
                    return Ok(Self {
                        api,
                        extension_id,
                        told_of_invocations,
                    });
                }
                // Lambda Managed Instances: many invocations at once, and no extension is told of any.
                Err(PlatformError::Refused {
                    status: StatusCode::FORBIDDEN,
                    body,
                }) if events.len() > 1 && body.contains("InvalidEventType") => {
                    events = &["SHUTDOWN"];
                }
                Err(error) if error.may_pass() && attempt < REGISTER_ATTEMPTS => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for the next event, which lets Lambda freeze the sandbox, and waits for it without limit.
    ///
    /// # Errors
    /// When Lambda's API has failed [`NEXT_ATTEMPTS`] times in a row.
    pub async fn next(&mut self) -> Result<PlatformEvent, PlatformError> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let error = match self.try_next().await {
                Ok(event) => return Ok(event),
                Err(error) => error,
            };
            if attempt == NEXT_ATTEMPTS {
                return Err(error);
            }
            tracing::warn!(%error, attempt, "could not get the next event; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(NEXT_LONGEST_PAUSE);
            attempt += 1;
        }
    }

    async fn try_next(&mut self) -> Result<PlatformEvent, PlatformError> {
        let request = self.request(
            Method::GET,
            "/2020-01-01/extension/event/next",
            Bytes::new(),
        )?;
        let body = self.api.send(request).await?.into_success()?;
        parse_event(&body)
    }

    /// Subscribes to the platform's telemetry, to be posted to `destination`.
    ///
    /// # Errors
    /// When Lambda does not offer it here (AWS's emulator does not), or does not answer in time.
    pub async fn subscribe(&mut self, destination: &str) -> Result<(), PlatformError> {
        let schema = if self.told_of_invocations {
            "2022-12-13"
        } else {
            "2025-01-29"
        };
        let body = serde_json::json!({
            "schemaVersion": schema,
            "types": ["platform"],
            // The least that Lambda allows: the end of an invocation is waited for.
            "buffering": { "timeoutMs": 25, "maxItems": 1000, "maxBytes": 262_144 },
            "destination": { "protocol": "HTTP", "URI": destination },
        });
        let request = self.request(
            Method::PUT,
            "/2022-07-01/telemetry",
            body.to_string().into(),
        )?;
        let answer = self.api.send_in_time(request).await?;
        if answer.status == StatusCode::OK {
            return Ok(());
        }
        Err(answer.refusal())
    }

    /// Says why the extension ends instead of asking for its next event.
    ///
    /// # Errors
    /// When Lambda's API does not answer in time; there is nothing left to do about it.
    pub async fn exit_error(&mut self, kind: &str) -> Result<(), PlatformError> {
        let mut request = self.request(
            Method::POST,
            "/2020-01-01/extension/exit/error",
            Bytes::from_static(b"{}"),
        )?;
        if let Ok(kind) = kind.parse() {
            request
                .headers_mut()
                .insert("lambda-extension-function-error-type", kind);
        }
        self.api.send_in_time(request).await.map(|_| ())
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, PlatformError> {
        self.api.request(
            method,
            path,
            &[("lambda-extension-identifier", &self.extension_id)],
            body,
        )
    }
}

async fn try_to_register(
    api: &mut Connection,
    name: &str,
    events: &[&str],
) -> Result<String, PlatformError> {
    let body = serde_json::json!({ "events": events }).to_string();
    let request = api.request(
        Method::POST,
        "/2020-01-01/extension/register",
        &[("lambda-extension-name", name)],
        body.into(),
    )?;
    let answer = api.send_in_time(request).await?;
    let id = answer.extension_id.clone();
    answer.into_success()?;
    id.ok_or_else(|| {
        PlatformError::Malformed("no Lambda-Extension-Identifier in the answer to register".into())
    })
}

/// Reads an event, and makes do with less than Lambda promises: an extension that exits over a missing field would
/// fail the customer's invocation.
fn parse_event(body: &[u8]) -> Result<PlatformEvent, PlatformError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Sketch {
        event_type: String,
        #[serde(default)]
        request_id: String,
        #[serde(default)]
        shutdown_reason: String,
        #[serde(default)]
        deadline_ms: serde_json::Value,
    }
    match serde_json::from_slice(body) {
        Ok(NextEvent::Invoke(event)) => Ok(PlatformEvent::Invoke {
            request_id: event.request_id,
            deadline_epoch_ms: event.deadline_ms,
        }),
        Ok(NextEvent::Shutdown(event)) => Ok(PlatformEvent::Shutdown {
            reason: event.shutdown_reason,
            deadline_epoch_ms: event.deadline_ms,
        }),
        Err(error) => {
            let sketch: Sketch = serde_json::from_slice(body)
                .map_err(|_| PlatformError::Malformed(error.to_string()))?;
            tracing::warn!(%error, "an event of Lambda lacks something; going on with what it has");
            let deadline_epoch_ms = sketch.deadline_ms.as_u64().unwrap_or_default();
            match sketch.event_type.as_str() {
                "INVOKE" => Ok(PlatformEvent::Invoke {
                    request_id: sketch.request_id,
                    deadline_epoch_ms,
                }),
                "SHUTDOWN" => Ok(PlatformEvent::Shutdown {
                    reason: sketch.shutdown_reason,
                    deadline_epoch_ms,
                }),
                other => Err(PlatformError::Malformed(format!(
                    "an event of type {other:?}"
                ))),
            }
        }
    }
}

/// One kept connection to Lambda's API, renewed when it has died.
#[derive(Debug)]
struct Connection {
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

struct Answer {
    status: StatusCode,
    extension_id: Option<String>,
    body: Bytes,
}

impl Connection {
    fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            sender: None,
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, PlatformError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &self.address)
            .header(http::header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
            .body(Full::new(body))
            .map_err(|error| PlatformError::Malformed(error.to_string()))
    }

    async fn send_in_time(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, PlatformError> {
        tokio::time::timeout(ANSWER_TIMEOUT, self.send(request))
            .await
            .unwrap_or_else(|_| {
                Err(PlatformError::NoAnswer(format!(
                    "within {ANSWER_TIMEOUT:?}"
                )))
            })
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, PlatformError> {
        let no_answer = |error: hyper::Error| PlatformError::NoAnswer(error.to_string());
        // Taken out, so that a connection on which something went wrong is not used again.
        let kept = self.sender.take().filter(|sender| !sender.is_closed());
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await.map_err(no_answer)?;
        let status = response.status();
        let extension_id = response.headers().get("lambda-extension-identifier");
        let extension_id = extension_id
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_LIMIT_BYTES);
        let body = body
            .collect()
            .await
            .map_err(|error| PlatformError::NoAnswer(error.to_string()))?;
        self.sender = Some(sender);
        Ok(Answer {
            status,
            extension_id,
            body: body.to_bytes(),
        })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, PlatformError> {
        let stream = TcpStream::connect(&self.address).await;
        let stream = stream.map_err(|error| PlatformError::NoAnswer(error.to_string()))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) =
            handshake.map_err(|error| PlatformError::NoAnswer(error.to_string()))?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl Answer {
    fn into_success(self) -> Result<Bytes, PlatformError> {
        if self.status.is_success() {
            Ok(self.body)
        } else {
            Err(self.refusal())
        }
    }

    fn refusal(&self) -> PlatformError {
        let body = &self.body[..self.body.len().min(300)];
        PlatformError::Refused {
            status: self.status,
            body: String::from_utf8_lossy(body).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_with_missing_fields_is_made_do_with() {
        let event =
            parse_event(br#"{"eventType":"INVOKE","requestId":"r","deadlineMs":"soon"}"#).unwrap();
        assert_eq!(
            event,
            PlatformEvent::Invoke {
                request_id: "r".into(),
                deadline_epoch_ms: 0
            }
        );
        let event = parse_event(br#"{"eventType":"SHUTDOWN"}"#).unwrap();
        assert_eq!(
            event,
            PlatformEvent::Shutdown {
                reason: String::new(),
                deadline_epoch_ms: 0
            }
        );
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        assert!(matches!(
            parse_event(b"[]"),
            Err(PlatformError::Malformed(_))
        ));
        assert!(matches!(
            parse_event(br#"{"eventType":"LUNCH"}"#),
            Err(PlatformError::Malformed(_))
        ));
    }
}
