//! A sandbox with a core in it: moves both clocks, does what the core asks, and answers for Langfuse.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use langfuse_extension_core::buffer::{Batch, ItemId, Payload};
use langfuse_extension_core::delivery::fact::{Answer, Fact, Whose};
use langfuse_extension_core::ledger::DropReason;
use langfuse_extension_core::route::{Credential, Destination, Door, Route};
use langfuse_extension_core::time::Now;
use langfuse_extension_core::traces::{Parent, SpanFact};
use langfuse_extension_core::{Action, Core, Event, ExportId, Settings};

pub(crate) const WELL: Fact = Fact::status(200);
pub(crate) const DOWN: Fact = Fact::NotConnected;
pub(crate) const UNAUTHORIZED: Fact = Fact::Answered(Answer {
    whose: Whose::Langfuse,
    ..Answer::status(401)
});
pub(crate) const REFUSED: Fact = Fact::Answered(Answer {
    whose: Whose::Langfuse,
    ..Answer::status(400)
});
pub(crate) const TOO_LARGE: Fact = Fact::status(413);

/// What a firewall says, or a proxy: nothing in it is Langfuse's.
pub(crate) const FORBIDDEN: Fact = Fact::status(403);

/// What others say in its place.
pub(crate) const UNAUTHORIZED_BY_AN_EDGE: Fact = Fact::status(401);

/// An answer that says when to come back.
pub(crate) fn later(status: u16, retry_after: Option<Duration>) -> Fact {
    Fact::Answered(Answer {
        retry_after,
        ..Answer::status(status)
    })
}

/// When every sandbox begins, since the Unix epoch.
pub(crate) const NOW: Duration = Duration::from_secs(1_700_000_000);

/// A body of so many units and bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Body {
    pub(crate) name: &'static str,
    pub(crate) units: u32,
    pub(crate) bytes: usize,
}

impl Payload for Body {
    fn stored_bytes(&self) -> usize {
        self.bytes
    }
    fn request_bytes(&self) -> usize {
        self.bytes
    }
    fn units(&self) -> u32 {
        self.units
    }
    fn travels_alone(&self) -> bool {
        self.name == "alone"
    }
}

impl Body {
    fn halves(&self) -> [Self; 2] {
        let (units, bytes) = (self.units / 2, self.bytes / 2);
        let part = |name, units, bytes| Self { name, units, bytes };
        // What is bad in it is in the first half.
        let rest = if self.name == "bad" {
            "rest"
        } else {
            self.name
        };
        [
            part(self.name, units, bytes),
            part(rest, self.units - units, self.bytes - bytes),
        ]
    }
}

pub(crate) fn body(name: &'static str) -> Body {
    Body {
        name,
        units: 1,
        bytes: 100,
    }
}

pub(crate) fn sized(units: u32, bytes: usize) -> Body {
    Body {
        name: "sized",
        units,
        bytes,
    }
}

pub(crate) fn traces() -> Arc<Route> {
    route(Door::TracesProtobuf, "a")
}

pub(crate) fn scores() -> Arc<Route> {
    route(Door::Ingestion, "a")
}

/// A route of a client with its own keys.
pub(crate) fn route(door: Door, keys: &str) -> Arc<Route> {
    Arc::new(Route {
        door,
        credential: Credential::Client(keys.into()),
        headers: Vec::new(),
    })
}

/// A route that the configured keys are put in for.
pub(crate) fn configured() -> Arc<Route> {
    Arc::new(Route {
        door: Door::TracesProtobuf,
        credential: Credential::Configured,
        headers: Vec::new(),
    })
}

/// A span of trace `trace`.
pub(crate) fn span(trace: u8, id: u8, parent: Parent) -> SpanFact {
    SpanFact {
        trace_id: [trace; 16],
        span_id: [id; 8],
        parent,
        start_unix_nano: 0,
        end_unix_nano: 0,
    }
}

/// The same, of a span that began at this moment and ended a millisecond later.
pub(crate) fn span_from(began: Now, trace: u8, id: u8, parent: Parent) -> SpanFact {
    let start = u64::try_from(began.wall.as_nanos()).expect("a time");
    SpanFact {
        start_unix_nano: start,
        end_unix_nano: start + 1_000_000,
        ..span(trace, id, parent)
    }
}

/// How Langfuse answers by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Langfuse {
    /// Not before the test says so.
    Waits,
    /// After so many milliseconds.
    Answers(u64, Fact),
}

pub(crate) struct Sandbox {
    pub(crate) core: Core<Body>,
    pub(crate) langfuse: Langfuse,
    mono: Duration,
    wall: Duration,
    /// The function's timeout.
    pub(crate) timeout_ms: u64,
    /// Whether the next event is asked for.
    pub(crate) released: bool,
    pub(crate) exited: bool,
    pub(crate) exports: VecDeque<(ExportId, Batch<Body>)>,
    pub(crate) probing: bool,
    pub(crate) aborted: Vec<ExportId>,
    pub(crate) probe_aborted: bool,
    /// Everything that was asked for, by its name, in order.
    pub(crate) done: Vec<&'static str>,
    pub(crate) marks: Vec<(&'static str, Vec<ItemId>)>,
    /// The record that is being read back.
    pub(crate) reading: Option<ItemId>,
    cuts: Vec<(ItemId, Body)>,
    answers: Vec<(Duration, Option<ExportId>, Fact)>,
}

impl Sandbox {
    /// Registered, with keys, and asking for its first invocation.
    pub(crate) fn new(settings: Settings) -> Self {
        let mut sandbox = Self::unregistered(settings);
        sandbox.tell(Event::Registered { invoke: true });
        sandbox.tell(Event::KeysReady);
        sandbox.done.clear();
        sandbox
    }

    pub(crate) fn unregistered(settings: Settings) -> Self {
        let wall = NOW;
        let mono = Duration::ZERO;
        Self {
            core: Core::new(settings, Now { mono, wall }),
            langfuse: Langfuse::Waits,
            mono,
            wall,
            timeout_ms: 60_000,
            released: false,
            exited: false,
            exports: VecDeque::new(),
            probing: false,
            aborted: Vec::new(),
            probe_aborted: false,
            done: Vec::new(),
            marks: Vec::new(),
            reading: None,
            cuts: Vec::new(),
            answers: Vec::new(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: self.mono,
            wall: self.wall,
        }
    }

    pub(crate) fn tell(&mut self, event: Event<Body>) {
        for action in self.core.handle(event, self.now()) {
            self.perform(action);
        }
        while let Some((id, payload)) = self.cuts.pop() {
            let parts = (payload.units > 1).then(|| payload.halves());
            let parts = parts.map_or(Vec::new(), Vec::from);
            self.tell(Event::Cut { id, parts });
        }
        let books = self.core.ledger();
        assert_eq!(books.outstanding(), self.core.held_units(), "{books:?}");
    }

    fn perform(&mut self, action: Action<Body>) {
        let name = match action {
            Action::Next => {
                assert!(!self.released, "Next was asked for twice");
                self.released = true;
                "Next"
            }
            Action::Export { id, batch, .. } => {
                self.answer_later(Some(id));
                self.exports.push_back((id, batch));
                "Export"
            }
            Action::Probe { .. } => {
                self.probing = true;
                self.answer_later(None);
                "Probe"
            }
            Action::Abort { id } => {
                self.aborted.push(id);
                "Abort"
            }
            Action::AbortProbe { .. } => {
                self.probe_aborted = true;
                "AbortProbe"
            }
            Action::Store { item, replaces, .. } => {
                let ids = [Some(item.id), replaces].into_iter().flatten();
                self.marks.push(("Store", ids.collect()));
                "Store"
            }
            Action::Cut { id, payload, .. } => {
                self.cuts.push((id, payload));
                "Cut"
            }
            Action::MarkSent { ids } => {
                self.marks.push(("MarkSent", ids));
                "MarkSent"
            }
            Action::MarkUnsent { ids } => {
                self.marks.push(("MarkUnsent", ids));
                "MarkUnsent"
            }
            Action::Forget { ids } => {
                self.marks.push(("Forget", ids));
                "Forget"
            }
            Action::Recover { id } => {
                self.reading = Some(id);
                "Recover"
            }
            Action::Dropped { .. } => "Dropped",
            Action::ResetConnections => "ResetConnections",
            Action::RereadKeys => "RereadKeys",
            Action::Exit => {
                self.exited = true;
                "Exit"
            }
        };
        self.done.push(name);
    }

    fn answer_later(&mut self, id: Option<ExportId>) {
        if let Langfuse::Answers(after_ms, fact) = self.langfuse {
            let at = self.mono + Duration::from_millis(after_ms);
            self.answers.push((at, id, fact));
        }
    }

    /// Both clocks go on; whatever is due meanwhile happens at its time.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        let end = self.mono + Duration::from_millis(ms);
        loop {
            let wake = self.core.wake_in(self.now()).map(|wait| self.mono + wait);
            let answer = self.answers.iter().map(|(at, ..)| *at).min();
            let next = [wake, answer].into_iter().flatten().min();
            let Some(next) = next.filter(|at| *at <= end && !self.exited) else {
                break;
            };
            self.advance(next - self.mono);
            if answer == Some(next) {
                self.give_due_answer(next);
            } else {
                self.tell(Event::Timeout);
            }
        }
        self.advance(end - self.mono);
    }

    fn give_due_answer(&mut self, at: Duration) {
        let due = self.answers.iter().position(|(due, ..)| *due == at);
        let (_, id, fact) = self.answers.swap_remove(due.expect("an answer"));
        match id {
            Some(id) => {
                let at = self.exports.iter().position(|(export, _)| *export == id);
                at.and_then(|at| self.exports.remove(at));
                self.tell(Event::Exported { id, fact });
            }
            None => self.answer_probe(fact),
        }
    }

    fn advance(&mut self, by: Duration) {
        self.mono += by;
        self.wall += by;
    }

    /// Only the wall clock goes on, as in a freeze.
    pub(crate) fn freeze_ms(&mut self, ms: u64) {
        self.wall += Duration::from_millis(ms);
    }

    pub(crate) fn set_wall_back_ms(&mut self, ms: u64) {
        self.wall -= Duration::from_millis(ms);
    }

    /// An invocation with all of its timeout to go.
    pub(crate) fn invoke(&mut self, id: &str) {
        self.invoke_for_ms(id, self.timeout_ms);
    }

    pub(crate) fn invoke_for_ms(&mut self, id: &str, timeout_ms: u64) {
        let deadline = self.epoch_ms() + timeout_ms;
        self.invoke_with_deadline(id, deadline);
    }

    pub(crate) fn invoke_with_deadline(&mut self, id: &str, deadline_epoch_ms: u64) {
        self.released = false;
        self.tell(Event::Invoke {
            request_id: id.into(),
            deadline_epoch_ms,
        });
    }

    pub(crate) fn runtime_done(&mut self, id: &str) {
        self.tell(Event::RuntimeDone {
            request_id: id.into(),
            at: Some(self.wall),
        });
    }

    pub(crate) fn shutdown(&mut self, left_ms: u64) {
        let deadline_epoch_ms = self.epoch_ms() + left_ms;
        self.tell(Event::Shutdown { deadline_epoch_ms });
    }

    fn epoch_ms(&self) -> u64 {
        u64::try_from(self.wall.as_millis()).expect("a time")
    }

    /// A client posts a whole trace.
    pub(crate) fn post(&mut self, name: &'static str) {
        self.post_to(&traces(), body(name));
    }

    pub(crate) fn post_to(&mut self, route: &Arc<Route>, payload: Body) {
        self.post_facts(route, payload, vec![span(1, 1, Parent::None)]);
    }

    /// A client posts something that says nothing of traces, so that nobody knows whether it is all.
    pub(crate) fn post_part(&mut self, name: &'static str) {
        self.post_part_to(&traces(), body(name));
    }

    pub(crate) fn post_part_to(&mut self, route: &Arc<Route>, payload: Body) {
        self.post_facts(route, payload, Vec::new());
    }

    pub(crate) fn post_facts(&mut self, route: &Arc<Route>, payload: Body, facts: Vec<SpanFact>) {
        self.tell(Event::RequestOpened);
        self.tell(Event::Accepted {
            route: Arc::clone(route),
            payload,
            facts,
        });
        self.tell(Event::RequestClosed);
    }

    /// Langfuse answers the oldest request under way.
    pub(crate) fn answer(&mut self, fact: Fact) {
        let (id, _) = self.exports.pop_front().expect("a request under way");
        self.tell(Event::Exported { id, fact });
    }

    pub(crate) fn answer_probe(&mut self, fact: Fact) {
        assert!(self.probing, "no probe is under way");
        self.probing = false;
        self.probe_aborted = false;
        let destination = Destination::Langfuse;
        self.tell(Event::Probed { destination, fact });
    }

    /// The record that is asked for has been read.
    pub(crate) fn read_back(&mut self, route: &Arc<Route>, payload: Body) {
        let id = self.reading.take().expect("a record is asked for");
        let route = Arc::clone(route);
        self.tell(Event::Recovered { id, route, payload });
    }

    /// What the oldest request under way carries.
    pub(crate) fn sending(&self) -> Vec<&'static str> {
        let batch = self.exports.front().map(|(_, batch)| batch);
        let items = batch.into_iter().flat_map(|batch| &batch.items);
        items.map(|item| item.payload.name).collect()
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.done.iter().filter(|done| **done == name).count()
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.core.ledger().dropped.of(reason)
    }

    /// Lets time pass until the sandbox is released, and says how long that took. `None`: longer than a minute.
    pub(crate) fn held_ms(&mut self) -> Option<u64> {
        for ms in 0..60_000 {
            if self.released {
                return Some(ms);
            }
            self.pass_ms(1);
        }
        None
    }

    /// One whole invocation with one posted trace; says how long the sandbox was held after its end was told.
    pub(crate) fn invocation(&mut self, id: &str, handler_ms: u64) -> u64 {
        self.invoke(id);
        self.pass_ms(handler_ms / 2);
        self.post("trace");
        self.pass_ms(handler_ms - handler_ms / 2);
        self.runtime_done(id);
        self.held_ms().expect("a bounded hold")
    }

    /// As many invocations as teach it that nothing comes late once a trace is whole.
    pub(crate) fn settle_in(&mut self) {
        let langfuse = std::mem::replace(&mut self.langfuse, Langfuse::Answers(20, WELL));
        for n in 0..12 {
            self.invocation(&format!("settle-{n}"), 10);
            self.freeze_ms(60_000);
        }
        self.langfuse = langfuse;
        self.done.clear();
        self.marks.clear();
    }
}
