//! One invocation, as its caller and as the platform sees it.

use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// An error as Lambda reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionError {
    /// For example `Runtime.ExitError`, `Extension.Crash`, `Sandbox.Timedout`, or the name of a handler's exception.
    pub error_type: String,
    /// What a person reads.
    pub error_message: String,
    /// The body that the runtime sent, or the one Lambda makes up.
    #[serde(skip)]
    pub payload: Bytes,
}

impl FunctionError {
    pub(crate) fn new(error_type: &str, error_message: impl Into<String>) -> Self {
        let error_message = error_message.into();
        let payload = serde_json::json!({ "errorType": error_type, "errorMessage": error_message })
            .to_string();
        Self {
            error_type: error_type.to_owned(),
            error_message,
            payload: payload.into(),
        }
    }
}

/// A part of a response, as the runtime sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Since the caller asked.
    pub at: Duration,
    /// The bytes.
    pub bytes: Bytes,
}

/// An invocation that is over. All times count from the call of `invoke`, a cold start included.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// `Lambda-Runtime-Aws-Request-Id`.
    pub request_id: String,
    /// What the caller got. A failure after the response is in `fault` alone.
    pub result: Result<Bytes, FunctionError>,
    /// The platform's own failure, if any, also after the response; the environment was reset then.
    pub fault: Option<FunctionError>,
    /// How long init took, where this invocation brought it about.
    pub init_duration: Option<Duration>,
    /// When the runtime and the extensions got the invocation; `None` if it never came to that.
    pub started_after: Option<Duration>,
    /// When the first byte of the response came.
    pub first_byte_after: Option<Duration>,
    /// When the caller had the whole response, or the error.
    pub responded_after: Duration,
    /// When the runtime asked for the next invocation.
    pub runtime_done_after: Option<Duration>,
    /// From then until every extension with INVOKE had asked for the next event: what extensions add to the duration.
    pub held: Option<Duration>,
    /// When the invocation was over, the reset included where there was one.
    pub over_after: Duration,
    /// The response in parts, with their times.
    pub chunks: Vec<Chunk>,
    /// Whether the runtime streamed the response.
    pub streamed: bool,
}

impl Invocation {
    /// Whether the caller got a response, and nothing failed afterwards.
    pub fn succeeded(&self) -> bool {
        self.result.is_ok() && self.fault.is_none()
    }

    /// From the event's delivery to the whole response: what the handler took, without a cold start.
    pub fn handler_duration(&self) -> Duration {
        self.responded_after
            .saturating_sub(self.started_after.unwrap_or_default())
    }

    /// The payload as text, empty after an error.
    pub fn text(&self) -> String {
        self.result
            .as_ref()
            .map(|payload| String::from_utf8_lossy(payload).into_owned())
            .unwrap_or_default()
    }

    /// The error that the caller got.
    pub fn error_type(&self) -> Option<&str> {
        self.result
            .as_ref()
            .err()
            .map(|error| error.error_type.as_str())
    }
}

/// What is known of an invocation so far.
pub(crate) struct Progress {
    pub(crate) request_id: String,
    pub(crate) called: Instant,
    pub(crate) init: Option<Duration>,
    pub(crate) started: Option<Duration>,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) answer: Option<(Duration, Result<Bytes, FunctionError>)>,
    pub(crate) runtime_done: Option<Duration>,
    pub(crate) released: Option<Duration>,
    pub(crate) over: Option<Duration>,
    pub(crate) fault: Option<FunctionError>,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) streamed: bool,
}

impl Progress {
    pub(crate) fn new() -> watch::Sender<Self> {
        watch::Sender::new(Self {
            request_id: uuid::Uuid::new_v4().to_string(),
            called: Instant::now(),
            init: None,
            started: None,
            first_byte: None,
            answer: None,
            runtime_done: None,
            released: None,
            over: None,
            fault: None,
            chunks: Vec::new(),
            streamed: false,
        })
    }

    /// The first answer counts.
    pub(crate) fn answer(&mut self, result: Result<Bytes, FunctionError>) {
        if self.answer.is_none() {
            self.answer = Some((self.called.elapsed(), result));
        }
    }

    pub(crate) fn chunk(&mut self, bytes: Bytes) {
        let at = self.called.elapsed();
        self.first_byte.get_or_insert(at);
        self.chunks.push(Chunk { at, bytes });
    }

    fn invocation(&self) -> Invocation {
        let (responded_after, result) = self.answer.clone().unwrap_or_else(|| {
            (
                self.called.elapsed(),
                Err(FunctionError::new(
                    "Emulator.Stopped",
                    "the emulator was stopped",
                )),
            )
        });
        Invocation {
            request_id: self.request_id.clone(),
            result,
            fault: self.fault.clone(),
            init_duration: self.init,
            started_after: self.started,
            first_byte_after: self.first_byte,
            responded_after,
            runtime_done_after: self.runtime_done,
            held: self
                .released
                .zip(self.runtime_done)
                .map(|(released, done)| released.saturating_sub(done)),
            over_after: self.over.unwrap_or_else(|| self.called.elapsed()),
            chunks: self.chunks.clone(),
            streamed: self.streamed,
        }
    }
}

/// An invocation under way: await its stages, act in between. Dropping it does not end the invocation.
pub struct InvocationHandle {
    progress: watch::Receiver<Progress>,
    chunks_taken: usize,
}

impl InvocationHandle {
    pub(crate) fn new(progress: &Arc<watch::Sender<Progress>>) -> Self {
        Self {
            progress: progress.subscribe(),
            chunks_taken: 0,
        }
    }

    /// `Lambda-Runtime-Aws-Request-Id`.
    pub fn request_id(&self) -> String {
        self.progress.borrow().request_id.clone()
    }

    /// Until the runtime has been handed the invocation (or the caller an error).
    pub async fn started(&mut self) {
        let _ = self
            .progress
            .wait_for(|progress| progress.started.is_some() || progress.answer.is_some())
            .await;
    }

    /// The next part of the response, as soon as it comes; `None` after the last.
    pub async fn chunk(&mut self) -> Option<Chunk> {
        let taken = self.chunks_taken;
        let progress = self
            .progress
            .wait_for(|progress| progress.chunks.len() > taken || progress.answer.is_some())
            .await
            .ok()?;
        let chunk = progress.chunks.get(taken).cloned()?;
        self.chunks_taken += 1;
        Some(chunk)
    }

    /// Whether the runtime streams the response, as far as it is known.
    pub fn streamed(&self) -> bool {
        self.progress.borrow().streamed
    }

    /// Until the caller has the response: what the caller got, and how long after the call.
    pub async fn responded(&mut self) -> (Duration, Result<Bytes, FunctionError>) {
        match self
            .progress
            .wait_for(|progress| progress.answer.is_some())
            .await
        {
            Ok(progress) => progress.answer.clone().unwrap_or_else(stopped),
            Err(_) => stopped(),
        }
    }

    /// Until the runtime has asked for the next invocation (or the invocation failed).
    pub async fn runtime_done(&mut self) {
        let _ = self
            .progress
            .wait_for(|progress| progress.runtime_done.is_some() || progress.over.is_some())
            .await;
    }

    /// Until the invocation is over: every extension has asked for the next event, or the environment was reset.
    pub async fn finished(mut self) -> Invocation {
        let _ = self
            .progress
            .wait_for(|progress| progress.over.is_some())
            .await;
        self.progress.borrow().invocation()
    }
}

fn stopped() -> (Duration, Result<Bytes, FunctionError>) {
    (
        Duration::ZERO,
        Err(FunctionError::new(
            "Emulator.Stopped",
            "the emulator was stopped",
        )),
    )
}
