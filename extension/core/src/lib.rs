//! Every decision of langfuse-lambda-extension, and nothing else: no I/O, no clock, no async.
//!
//! ```text
//!   a client's request                                        Langfuse
//!         │ Accepted                                              ▲
//!         ▼                Export / Probe                         │
//!   ┌───────────┐  take   ┌──────────────┐ ────────────────▶ exporter
//!   │  buffer   │────────▶│   delivery   │                        │
//!   │ per route │◀────────│ breaker,gates│ ◀──────────────────────┘
//!   └───────────┘ put back└──────────────┘   Exported / Probed
//!         ▲                      ▲
//!         └────── lifecycle ─────┘   Invoke, RuntimeDone, Shutdown  ──▶  Next, Exit
//!                 hold: work, late spans, strategy
//! ```
//!
//! *Receive*: what a client hands over is acknowledged from memory ([`buffer`]), grouped by [`route`].
//! *Export*: [`delivery`] says whether Langfuse may be sent anything now, and what an answer means.
//! *Lifecycle*: [`lifecycle`] lives through the phases and releases the sandbox ([`Action::Next`]) when [`hold`] knows no
//! reason to keep it. [`work`] watches for the end of the invocation, with [`telemetry`]'s word and [`deadline`]'s limits;
//! [`late_spans`] learns what comes after it; [`strategy`] chooses between holding and overlapping.
//!
//! One loop in the extension feeds [`Core::handle`] an [`Event`] with what both clocks read ([`time::Now`]) and performs
//! the [`Action`]s it gets back, in order; when nothing happens for [`Core::wake_in`], it sends [`Event::Timeout`].

pub mod buffer;
pub mod deadline;
pub mod delivery;
pub mod hold;
mod in_flight;
pub mod late_spans;
pub mod ledger;
pub mod lifecycle;
pub mod memory;
pub mod pipeline;
pub mod recovery;
pub mod refusals;
pub mod route;
mod stock;
pub mod strategy;
pub mod telemetry;
pub mod time;
pub mod traces;
pub mod work;

use std::sync::Arc;
use std::time::Duration;

use buffer::{Batch, Item, ItemId};
use delivery::fact::Fact;
use route::{Destination, Route};
use strategy::Strategy;
use traces::SpanFact;

pub use buffer::MAX_ROUTES;
pub use lifecycle::Core;

/// What the core is configured with. The defaults are those of docs/settings.md.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "settings are independent of each other"
)]
pub struct Settings {
    /// Whether anything is shipped at all; if not, everything is acknowledged and given up.
    pub enabled: bool,
    /// Hold or overlap.
    pub strategy: Strategy,
    /// The longest that the sandbox is held after the end of work.
    pub flush_budget: Duration,
    /// How long before the function's deadline the sandbox is released in any case.
    pub deadline_margin: Duration,
    /// The longest wait for spans that come after the end of work.
    pub grace_limit: Duration,
    /// The longest that the host gives between the word that it ends and the end.
    pub longest_shutdown: Duration,
    /// How old data may get before it is sent, while the sandbox is awake.
    pub max_data_age: Duration,
    /// How long an answer is waited for before a request counts as ambiguous.
    pub request_timeout: Duration,
    /// Bytes that the buffer may hold.
    pub buffer_bytes: usize,
    /// Whether spans that may have arrived are sent again.
    pub resend_ambiguous: bool,
    /// Whether what is left at the end stays in a spool on disk.
    pub spool: bool,
    /// Whether the sandbox is copied once the function is initialised, and lives on in its copies only (`SnapStart`).
    pub snapshot: bool,
    /// Spreads the waits of many sandboxes.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            strategy: Strategy::Adaptive,
            flush_budget: Duration::from_secs(2),
            deadline_margin: Duration::from_millis(200),
            grace_limit: Duration::from_millis(300),
            longest_shutdown: deadline::LONGEST_SHUTDOWN,
            max_data_age: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            buffer_bytes: 32 << 20,
            resend_ambiguous: true,
            spool: true,
            snapshot: false,
            seed: 1,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event<P> {
    /// The extension is registered. `invoke`: it will be told of invocations (not so under Lambda Managed Instances).
    Registered {
        /// Whether INVOKE events will come.
        invoke: bool,
    },
    /// A part of what earlier processes of this sandbox left on disk was looked through. Comes as often as it takes.
    SpoolOpened {
        /// What can be read back.
        records: Vec<recovery::Head>,
        /// What cannot, and went.
        lost: Vec<recovery::Lost>,
        /// Records, or files, of which not even that could be read.
        unreadable: u64,
    },
    /// The answer to an [`Action::Recover`].
    Recovered {
        /// Which one.
        id: ItemId,
        /// Where it goes.
        route: Arc<Route>,
        /// Its body.
        payload: P,
    },
    /// The other answer to an [`Action::Recover`]: the record is damaged, or gone.
    NotRecovered {
        /// Which one.
        id: ItemId,
    },
    /// The configured keys are known, for the first time or again after a rotation.
    KeysReady,
    /// An invocation begins. Its handler may have answered already.
    Invoke {
        /// Lambda's id of it.
        request_id: String,
        /// `deadlineMs`: milliseconds since the Unix epoch.
        deadline_epoch_ms: u64,
    },
    /// The Telemetry API has sent something.
    TelemetrySpeaks,
    /// `platform.runtimeDone`: the runtime asks for its next invocation. May come before its INVOKE, late, or never.
    RuntimeDone {
        /// Lambda's id of the invocation.
        request_id: String,
        /// When, since the Unix epoch, by the record's own `time`.
        at: Option<Duration>,
    },
    /// Another record of an invocation that the platform makes only when it is over: `platform.report` above all.
    Reported {
        /// Lambda's id of the invocation.
        request_id: String,
        /// When, since the Unix epoch, by the record's own `time`.
        at: Option<Duration>,
    },
    /// The sandbox was restored from a snapshot.
    Restored {
        /// Fresh randomness.
        seed: u64,
    },
    /// A client has begun to send a request that carries data.
    RequestOpened,
    /// A client's data is whole and valid; it is acknowledged once this is handled.
    Accepted {
        /// Where it goes.
        route: Arc<Route>,
        /// Its body.
        payload: P,
        /// What its spans say of their traces.
        facts: Vec<SpanFact>,
    },
    /// That request is answered, or its connection is gone.
    RequestClosed,
    /// A client's request with data was not taken.
    Refused {
        /// Why.
        reason: refusals::Reason,
        /// How large its body was, as far as is known.
        bytes: u64,
    },
    /// The spool does not have this item, though it was to store it: there was no room, or somebody removed its file.
    NotStored {
        /// Which one.
        id: ItemId,
    },
    /// A passed-through request has come to its end.
    PassedThrough {
        /// How it ended.
        fact: Fact,
    },
    /// Of units that are on their way, some may not leave. Their payloads count without them from now on.
    HeldBack(ledger::HeldBack),
    /// An [`Action::Export`] has come to its end. Each one is answered by exactly one of these.
    Exported {
        /// Which one.
        id: ExportId,
        /// How it ended.
        fact: Fact,
    },
    /// An [`Action::Cut`] is done. Each one is answered by exactly one of these.
    Cut {
        /// Which item.
        id: ItemId,
        /// What together holds the item's units: two or more, or none if it cannot be cut.
        parts: Vec<P>,
    },
    /// An [`Action::Probe`] has come to its end. Each one is answered by exactly one of these.
    Probed {
        /// Whom it asked.
        destination: Destination,
        /// How it ended.
        fact: Fact,
    },
    /// The sandbox is about to end.
    Shutdown {
        /// `deadlineMs`: milliseconds since the Unix epoch.
        deadline_epoch_ms: u64,
    },
    /// [`Core::wake_in`] has passed.
    Timeout,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action<P> {
    /// Ask the platform for the next event, which releases the sandbox.
    Next,
    /// Send one request. Answered by [`Event::Exported`].
    Export {
        /// Names this send.
        id: ExportId,
        /// Where to.
        destination: Destination,
        /// What goes in it.
        batch: Batch<P>,
    },
    /// Send an empty request with the headers of this route. Answered by [`Event::Probed`].
    Probe {
        /// Where to. There is never more than one on its way to each.
        destination: Destination,
        /// Whose credential it carries.
        route: Arc<Route>,
    },
    /// Cut an item into parts, because it is too large, or to find what of it is refused. Answered by [`Event::Cut`].
    Cut {
        /// Which item.
        id: ItemId,
        /// Its body.
        payload: P,
        /// How large a part may be before compression, unless it is a single unit.
        part_bytes: usize,
    },
    /// Stop waiting for the answer to a send; its [`Event::Exported`] still comes, at once.
    Abort {
        /// Which one.
        id: ExportId,
    },
    /// Stop waiting for the answer to the probe; its [`Event::Probed`] still comes, at once.
    AbortProbe {
        /// Whom it asks.
        destination: Destination,
    },
    /// Put an item on disk, before it is acknowledged, with the number of its ambiguous sends.
    Store {
        /// Where it goes.
        route: Arc<Route>,
        /// The item.
        item: Item<P>,
        /// It is a part of this item, which is forgotten once all its parts are stored. Where a later process finds
        /// both, the whole is what counts.
        replaces: Option<ItemId>,
    },
    /// Read this record back from disk, where it stays. Answered by exactly one [`Event::Recovered`] or
    /// [`Event::NotRecovered`].
    Recover {
        /// Which one.
        id: ItemId,
    },
    /// Count on disk that a send of these is about to begin, before its first byte leaves.
    MarkSent {
        /// Which items.
        ids: Vec<ItemId>,
    },
    /// Take that back for the latest send of these: it surely did not arrive.
    MarkUnsent {
        /// Which items.
        ids: Vec<ItemId>,
    },
    /// Remove these from disk: they are delivered or given up.
    Forget {
        /// Which items.
        ids: Vec<ItemId>,
    },
    /// Something was given up; to be logged.
    Dropped {
        /// Why.
        reason: ledger::DropReason,
        /// Spans, events or scores.
        units: u64,
    },
    /// Drop all pooled connections: none survives a freeze.
    ResetConnections,
    /// Read the configured keys again: Langfuse refused them.
    RereadKeys,
    /// The end: report and exit with status 0.
    Exit,
}

/// Names one send for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExportId(pub u64);
