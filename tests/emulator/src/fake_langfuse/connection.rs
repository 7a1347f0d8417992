//! A TCP stream that can drip and reset at another's command.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

/// How one connection is to misbehave from now on; shared by the stream and whoever answers on it.
#[derive(Debug)]
pub(super) struct Control {
    mode: Mutex<Mode>,
    written_bytes: AtomicU64,
    flushed_bytes: watch::Sender<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Normal,
    Drip(Duration),
    Reset,
}

impl Control {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            mode: Mutex::new(Mode::Normal),
            written_bytes: AtomicU64::new(0),
            flushed_bytes: watch::Sender::new(0),
        })
    }

    pub(super) fn behave(&self) {
        self.set(Mode::Normal);
    }

    pub(super) fn drip(&self, interval: Duration) {
        self.set(Mode::Drip(interval));
    }

    /// From now on nothing is written, and closing sends RST instead of FIN.
    pub(super) fn reset(&self) {
        self.set(Mode::Reset);
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// Returns when more than this many bytes have been written and flushed, so that nothing is left in a buffer.
    pub(super) async fn wait_for_flush_beyond(&self, count: u64) {
        let mut flushed = self.flushed_bytes.subscribe();
        let _gone = flushed.wait_for(|flushed| *flushed > count).await;
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lowest layer of every connection, under TLS if there is TLS.
pub(super) struct ControlledStream {
    stream: TcpStream,
    control: Arc<Control>,
    next_byte: Option<Pin<Box<Sleep>>>,
}

impl ControlledStream {
    pub(super) fn new(stream: TcpStream, control: Arc<Control>) -> Self {
        Self {
            stream,
            control,
            next_byte: None,
        }
    }

    fn poll_one_byte(
        &mut self,
        cx: &mut Context<'_>,
        byte: &[u8],
        interval: Duration,
    ) -> Poll<io::Result<usize>> {
        let timer = self
            .next_byte
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(interval)));
        std::task::ready!(timer.as_mut().poll(cx));
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, byte))?;
        timer.as_mut().reset(Instant::now() + interval);
        Poll::Ready(Ok(written))
    }
}

impl Drop for ControlledStream {
    fn drop(&mut self) {
        if self.control.mode() == Mode::Reset {
            let _already_closed = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for ControlledStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ControlledStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match self.control.mode() {
            Mode::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Mode::Drip(interval) if !bytes.is_empty() => {
                std::task::ready!(self.poll_one_byte(cx, &bytes[..1], interval))?
            }
            _ => std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?,
        };
        self.control
            .written_bytes
            .fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.control
            .flushed_bytes
            .send_replace(self.control.written_bytes());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.control.mode() {
            // A shutdown would send FIN first; the reset comes when the stream is dropped.
            Mode::Reset => Poll::Ready(Ok(())),
            _ => Pin::new(&mut self.stream).poll_shutdown(cx),
        }
    }
}
