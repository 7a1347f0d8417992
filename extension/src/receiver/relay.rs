//! Bodies on their way through: piece by piece, never all of it, and not for longer than they may take.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// Whatever ends a body early.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a body was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CutOff {
    #[error("the body stood still for too long")]
    Idle,
    #[error("the body took too long")]
    TooSlow,
    #[error("the body is larger than what is passed through")]
    TooLarge,
    #[error("the body ended early")]
    Broken,
}

/// What is seen of a body from outside.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    moved_at: Instant,
    /// Its next piece is wanted, and not there yet.
    awaited: bool,
    cut_off: Option<CutOff>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            moved_at: Instant::now(),
            awaited: false,
            cut_off: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        let mut state = self.state();
        state.moved_at = Instant::now();
        state.awaited = false;
    }

    fn last_moved(&self) -> Instant {
        self.state().moved_at
    }

    pub(super) fn cut_off_for(&self) -> Option<CutOff> {
        self.state().cut_off
    }

    /// Waits for `work` until nothing has moved for `idle`. `None`: it was not done by then. If that is because the body
    /// did not come, it counts as cut off.
    pub(super) async fn wait_for<T>(
        &self,
        work: impl Future<Output = T>,
        idle: Duration,
        deadline: Instant,
    ) -> Option<T> {
        let mut work = pin!(work);
        loop {
            let patience = (self.last_moved() + idle).min(deadline);
            match tokio::time::timeout_at(patience, &mut work).await {
                Ok(done) => return Some(done),
                Err(_)
                    if self.last_moved() + idle <= Instant::now() || deadline <= Instant::now() =>
                {
                    let mut state = self.state();
                    if state.awaited {
                        state.cut_off = Some(CutOff::Idle);
                    }
                    return None;
                }
                Err(_) => {}
            }
        }
    }
}

/// A body with bounds.
pub(super) struct Relayed<B> {
    body: B,
    /// Already read from it.
    ahead: Option<Bytes>,
    left_bytes: usize,
    idle: Duration,
    /// Runs while the body is waited for, and not while whoever takes it in is slow.
    idle_over: Option<Pin<Box<Sleep>>>,
    deadline: Pin<Box<Sleep>>,
    progress: Progress,
}

impl<B> Relayed<B> {
    /// Passes at most `limit_bytes` on, until `deadline`, with no pause longer than `idle`.
    pub(super) fn new(body: B, limit_bytes: usize, idle: Duration, deadline: Instant) -> Self {
        Self {
            body,
            ahead: None,
            left_bytes: limit_bytes,
            idle,
            idle_over: None,
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
            progress: Progress::new(),
        }
    }

    /// Begins with what was read from the body before.
    pub(super) fn after(mut self, ahead: Bytes) -> Self {
        self.ahead = Some(ahead).filter(|ahead| !ahead.is_empty());
        self
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    fn cut_off(&self, why: CutOff) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.progress.state().cut_off = Some(why);
        Poll::Ready(Some(Err(why.into())))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Relayed<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Some(Ok(Frame::data(ahead))));
        }
        if self.deadline.as_mut().poll(context).is_ready() {
            return self.cut_off(CutOff::TooSlow);
        }
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(_))) => return self.cut_off(CutOff::Broken),
            Poll::Ready(None) => {
                self.progress.moved();
                return Poll::Ready(None);
            }
            Poll::Pending => {
                self.progress.state().awaited = true;
                let idle = self.idle;
                let idle_over = &mut self.idle_over;
                let idle_over = idle_over.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
                return match idle_over.as_mut().poll(context) {
                    Poll::Ready(()) => self.cut_off(CutOff::Idle),
                    Poll::Pending => Poll::Pending,
                };
            }
        };
        self.progress.moved();
        self.idle_over = None;
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        let Some(left) = self.left_bytes.checked_sub(bytes) else {
            return self.cut_off(CutOff::TooLarge);
        };
        self.left_bytes = left;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.ahead.is_some() {
            return SizeHint::default();
        }
        self.body.size_hint()
    }
}

/// Reads a body up to about `limit_bytes`. Returns what was read, and whether that is all of it.
pub(super) async fn read_some<B>(
    body: &mut B,
    limit_bytes: usize,
) -> Result<(Bytes, bool), B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data);
        }
        if read.len() > limit_bytes {
            return Ok((read.freeze(), false));
        }
    }
    Ok((read.freeze(), true))
}
