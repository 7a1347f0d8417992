//! The way into the loop: what the receiver, the exporter and the host tell it. They know this, and not the loop.

use std::sync::Arc;

use langfuse_extension_core::buffer::ItemId;
use langfuse_extension_core::route::Route;
use langfuse_extension_core::traces::SpanFact;
use tokio::sync::{mpsc, oneshot};

use crate::payload::{Passed, Payload};
use crate::report::Status;

/// What the core is told, with this product's payload.
pub type Event = langfuse_extension_core::Event<Payload>;

/// What the loop is told.
#[derive(Debug)]
pub enum Input {
    /// Something happened.
    Event(Event),
    /// A client's data is whole and valid. `ack` is answered once it is in the buffer and in the spool.
    Accept {
        /// Where it goes.
        route: Arc<Route>,
        /// Its body.
        payload: Payload,
        /// What its spans say of their traces.
        facts: Vec<SpanFact>,
        /// Answered when the client may be told.
        ack: oneshot::Sender<()>,
    },
    /// The stage has said what of these leaves. `ack` is answered once that holds.
    Passed(Vec<Passed>, oneshot::Sender<()>),
    /// A large item was written to disk beside the loop.
    Written {
        /// Which one.
        id: ItemId,
        /// Whether all of it is there.
        whole: bool,
    },
    /// Lambda's next event.
    Platform(PlatformEvent),
    /// Somebody asks how things stand.
    Status(oneshot::Sender<Status>),
    /// The pass-through asks whether Langfuse is known to be bad.
    IsLangfuseBad(oneshot::Sender<bool>),
}

/// The way into the loop. The channel has no bound of its own: each connection waits for its acknowledgement before it
/// says more, and connections are bounded.
#[derive(Clone, Debug)]
pub struct Inputs(mpsc::UnboundedSender<Input>);

impl Inputs {
    /// The way in, and the end that [`Agent::run`] reads.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Input>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Tells what happened. After the loop has ended nobody is interested.
    pub fn event(&self, event: Event) {
        self.send(Input::Event(event));
    }

    /// Hands something to the loop.
    pub fn send(&self, input: Input) {
        let _ = self.0.send(input);
    }

    /// Hands a client's data over and waits until it is safe.
    pub async fn accept(&self, route: Arc<Route>, payload: Payload, facts: Vec<SpanFact>) {
        let (ack, acknowledged) = oneshot::channel();
        self.send(Input::Accept {
            route,
            payload,
            facts,
            ack,
        });
        let _ = acknowledged.await;
    }

    /// Asks the loop something. `None` after it has ended.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Input) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.send(question(reply));
        answer.await.ok()
    }
}

/// What `next` brought.
#[derive(Debug, PartialEq, Eq)]
pub enum PlatformEvent {
    /// An invocation.
    Invoke {
        /// Lambda's id of it.
        request_id: String,
        /// Its deadline, in milliseconds since the Unix epoch.
        deadline_epoch_ms: u64,
    },
    /// The end of the sandbox.
    Shutdown {
        /// SPINDOWN, TIMEOUT or FAILURE, in any spelling.
        reason: String,
        /// When the process is killed, in milliseconds since the Unix epoch.
        deadline_epoch_ms: u64,
    },
}
