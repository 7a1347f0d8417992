//! A payload as the core's buffer sees it.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::Payload;

impl langfuse_extension_core::buffer::Payload for Payload {
    fn stored_bytes(&self) -> usize {
        self.stored_bytes()
    }

    fn request_bytes(&self) -> usize {
        self.inflated_bytes()
    }

    fn units(&self) -> u32 {
        self.units()
    }

    /// Does not give way to other tasks: it is asked for only after Langfuse answered 413 to a single item.
    fn split(self) -> Result<(Self, Self), Self> {
        let mut split = pin!(self.split());
        loop {
            if let Poll::Ready(parts) = split.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                return parts;
            }
        }
    }
}
