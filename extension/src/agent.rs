//! The one event loop: what happened → the core → what is to be done.
//!
//! Everything else in the process only tells this loop what it saw and does what it is told. A panic in the core is
//! caught here, and from then on the extension is harmless: it acknowledges, ships nothing, and keeps asking for the
//! next event, because an extension that exits fails the customer's invocation.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use langfuse_extension_core::buffer::{Item, ItemId};
use langfuse_extension_core::ledger::HeldBack;
use langfuse_extension_core::route::{Destination, Route};
use langfuse_extension_core::time::Now;
use langfuse_extension_core::{Action, Core, Settings};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::exporter::langfuse::Exporter;
use crate::inputs::{Event, Input, PlatformEvent};
use crate::payload::{Passed, Payload};
use crate::report::Report;
use crate::spool::disk::{Disk, Stored};

/// What the loop does its work with.
#[derive(Debug)]
pub struct Agent {
    core: Core<Payload>,
    clock: Clock,
    inputs: mpsc::UnboundedReceiver<Input>,
    next: mpsc::UnboundedSender<()>,
    exporter: Exporter,
    disk: Option<Disk>,
    /// Not all of what earlier processes left has been looked through.
    looking: bool,
    reread_keys: mpsc::UnboundedSender<()>,
    report: Report,
    /// Items that the spool had no room for, to be told to the core.
    not_stored: Vec<ItemId>,
    /// The item of this step that is being written to disk beside the loop.
    writing: Option<ItemId>,
    /// Clients that wait for such an item.
    acks: BTreeMap<ItemId, oneshot::Sender<()>>,
    broken: bool,
    /// SHUTDOWN has come.
    ending: bool,
}

impl Agent {
    /// Begins before the extension is registered. `next`: told to ask Lambda for its next event. `reread_keys`: told
    /// that Langfuse refused the configured keys.
    pub fn new(
        settings: Settings,
        inputs: mpsc::UnboundedReceiver<Input>,
        next: mpsc::UnboundedSender<()>,
        exporter: Exporter,
        disk: Option<Disk>,
        reread_keys: mpsc::UnboundedSender<()>,
    ) -> Self {
        let clock = Clock::start();
        Self {
            core: Core::new(settings, clock.now()),
            clock,
            inputs,
            next,
            exporter,
            looking: disk.is_some(),
            disk,
            reread_keys,
            report: Report::default(),
            not_stored: Vec::new(),
            writing: None,
            acks: BTreeMap::new(),
            broken: false,
            ending: false,
        }
    }

    /// The log has said already that no telemetry will come.
    pub fn silence_is_known(&mut self) {
        self.report.silence_is_known();
    }

    /// Takes in one event after another until the sandbox ends.
    pub async fn run(mut self) {
        loop {
            let ended = match self.inputs.try_recv() {
                Ok(input) => self.take(input),
                // Whatever happens goes before what earlier processes left, and that before idleness.
                Err(TryRecvError::Empty) if self.looking => self.look().await,
                Err(TryRecvError::Empty) => match self.wait().await {
                    Some(input) => self.take(input),
                    None => self.step(Event::Timeout),
                },
                // All senders are gone: nothing can happen any more, not even a next event.
                Err(TryRecvError::Disconnected) => true,
            };
            if ended {
                return;
            }
        }
    }

    /// The next input, or nothing if the core wants to be woken first.
    async fn wait(&mut self) -> Option<Input> {
        let next = self.inputs.recv();
        match self.core.wake_in(self.clock.now()).filter(|_| !self.broken) {
            Some(wait) => tokio::time::timeout(wait, next).await.ok().flatten(),
            None => next.await,
        }
    }

    /// Lets all other tasks have their turn, and looks through a piece of what earlier processes left.
    async fn look(&mut self) -> bool {
        tokio::task::yield_now().await;
        let seen = self.disk.as_mut().and_then(Disk::look);
        self.looking = seen.is_some();
        seen.is_some_and(|event| self.step(event))
    }

    fn take(&mut self, input: Input) -> bool {
        match input {
            Input::Event(event) => self.step(event),
            Input::Accept {
                route,
                payload,
                facts,
                ack,
            } => {
                self.report.accepted(&payload);
                self.writing = None;
                let ended = self.step(Event::Accepted {
                    route,
                    payload,
                    facts,
                });
                match self.writing.take() {
                    Some(id) => drop(self.acks.insert(id, ack)),
                    None => drop(ack.send(())),
                }
                ended
            }
            Input::Passed(passed, ack) => {
                let ended = self.let_pass(passed);
                let _ = ack.send(());
                ended
            }
            Input::Written { id, whole } => self.written(id, whole),
            Input::Platform(event) => self.take_platform_event(event),
            Input::Status(reply) => {
                let _ = reply.send(self.report.status(&self.core, self.clock.now()));
                false
            }
            Input::IsLangfuseBad(reply) => {
                let _ = reply.send(self.core.langfuse_is_bad(self.clock.now()));
                false
            }
        }
    }

    /// What leaves of these payloads holds from here on, for their books as well.
    fn let_pass(&mut self, passed: Vec<Passed>) -> bool {
        let mut all = HeldBack::default();
        for (counts, held_back) in passed.into_iter().filter_map(Passed::settle) {
            self.report.passed(&counts);
            all.filtered += held_back.filtered;
            all.sampled_out += held_back.sampled_out;
            all.not_masked += held_back.not_masked;
        }
        all != HeldBack::default() && self.step(Event::HeldBack(all))
    }

    fn take_platform_event(&mut self, event: PlatformEvent) -> bool {
        let event = match event {
            PlatformEvent::Invoke {
                request_id,
                deadline_epoch_ms,
            } => {
                self.report.invoked(self.core.is_told());
                self.exporter
                    .invocation_began(&request_id, deadline_epoch_ms);
                Event::Invoke {
                    request_id,
                    deadline_epoch_ms,
                }
            }
            PlatformEvent::Shutdown {
                reason,
                deadline_epoch_ms,
            } => {
                self.ending = true;
                self.report.shutting_down(reason);
                Event::Shutdown { deadline_epoch_ms }
            }
        };
        self.step(event)
    }

    /// Returns whether this was the end.
    fn step(&mut self, event: Event) -> bool {
        if self.broken {
            return self.step_harmlessly(&event);
        }
        let now = self.clock.now();
        self.act(|core| core.handle(event, now))
    }

    /// Does what the core says. If it panics instead, it is not asked again.
    fn act(&mut self, step: impl FnOnce(&mut Core<Payload>) -> Vec<Action<Payload>>) -> bool {
        let Ok(actions) = catch_unwind(AssertUnwindSafe(|| step(&mut self.core))) else {
            tracing::error!(
                "a fault in the extension: from here on it ships nothing, and does no harm"
            );
            self.broken = true;
            // Whether the sandbox was held is not known any more, so it is let go.
            let _ = self.next.send(());
            return self.ending;
        };
        let mut ended = false;
        for action in actions {
            ended |= self.perform(action);
        }
        while let Some(id) = self.not_stored.pop() {
            ended |= self.step(Event::NotStored { id });
        }
        ended
    }

    fn step_harmlessly(&mut self, event: &Event) -> bool {
        match event {
            Event::Invoke { .. } => {
                let _ = self.next.send(());
                false
            }
            Event::Shutdown { .. } => true,
            _ => false,
        }
    }

    fn perform(&mut self, action: Action<Payload>) -> bool {
        match action {
            Action::Next => {
                let _ = self.next.send(());
            }
            Action::Export {
                id,
                destination: Destination::Langfuse,
                batch,
            } => self.exporter.export(id, batch),
            Action::Probe {
                destination: Destination::Langfuse,
                route,
            } => self.exporter.probe(route),
            Action::Cut {
                id,
                payload,
                part_bytes,
            } => self.exporter.cut(id, payload, part_bytes),
            Action::Abort { id } => self.exporter.abort(id),
            Action::AbortProbe {
                destination: Destination::Langfuse,
            } => self.exporter.abort_probe(),
            Action::Store {
                route,
                item,
                replaces,
            } => self.store(&route, &item, replaces),
            Action::Recover { id } => self.note(|disk| disk.recover(id)),
            Action::MarkSent { ids } => self.note(|disk| disk.mark_sent(&ids)),
            Action::MarkUnsent { ids } => self.note(|disk| disk.mark_unsent(&ids)),
            Action::Forget { ids } => self.note(|disk| disk.forget(&ids)),
            Action::Dropped { reason, units } => self.report.dropped(reason, units),
            Action::ResetConnections => self.exporter.reset_connections(),
            Action::RereadKeys => {
                let _ = self.reread_keys.send(());
            }
            Action::Exit => {
                self.report.log(&self.core, self.clock.now());
                self.note(Disk::close);
                return true;
            }
        }
        false
    }

    fn store(&mut self, route: &Arc<Route>, item: &Item<Payload>, replaces: Option<ItemId>) {
        let Some(disk) = &mut self.disk else {
            return self.not_stored.push(item.id);
        };
        match disk.store(route, item, replaces) {
            Stored::There => {}
            Stored::Writing => self.writing = Some(item.id),
            Stored::NotThere => self.not_stored.push(item.id),
        }
        self.not_stored.extend(disk.take_removed());
    }

    /// A large item is on disk, or will not be. Its client has waited for that.
    fn written(&mut self, id: ItemId, whole: bool) -> bool {
        self.note(|disk| disk.written(id, whole));
        let ended = !whole && self.step(Event::NotStored { id });
        if let Some(ack) = self.acks.remove(&id) {
            let _ = ack.send(());
        }
        ended
    }

    fn note(&mut self, note: impl FnOnce(&mut Disk)) {
        if let Some(disk) = &mut self.disk {
            note(disk);
        }
    }
}

/// A number that differs from sandbox to sandbox, and after each restore of the same snapshot.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    RandomState::new().hash_one((clock, std::process::id()))
}

/// Reads both clocks.
#[derive(Debug)]
struct Clock {
    start: Instant,
}

impl Clock {
    fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: self.start.elapsed(),
            wall: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exporter::upstream::Upstream;
    use crate::inputs::Inputs;
    use crate::memory::Budget;
    use langfuse_extension_core::memory::Memory;

    fn agent() -> (Agent, mpsc::UnboundedReceiver<()>) {
        let (inputs, events) = Inputs::channel();
        let (ask_next, next_asked) = mpsc::unbounded_channel();
        let (reread_keys, _) = mpsc::unbounded_channel();
        let budget = Budget::new(Memory::of_function(usize::MAX));
        let exporter = Exporter::new(Upstream::open(None, None), inputs, budget);
        let settings = Settings::default();
        let agent = Agent::new(settings, events, ask_next, exporter, None, reread_keys);
        (agent, next_asked)
    }

    fn invoke() -> Input {
        Input::Platform(PlatformEvent::Invoke {
            request_id: "r".into(),
            deadline_epoch_ms: 1,
        })
    }

    fn shutdown() -> Input {
        Input::Platform(PlatformEvent::Shutdown {
            reason: "SPINDOWN".into(),
            deadline_epoch_ms: 1,
        })
    }

    #[tokio::test]
    async fn after_a_panic_in_the_core_every_invocation_is_let_go_and_shutdown_ends_it() {
        let (mut agent, mut next_asked) = agent();
        assert!(!agent.act(|_| panic!("a fault in the core")));
        assert!(next_asked.try_recv().is_ok(), "the sandbox is released");
        for _ in 0..3 {
            assert!(!agent.take(invoke()));
            assert!(next_asked.try_recv().is_ok(), "the sandbox is released");
        }
        assert!(agent.take(shutdown()));
    }

    #[tokio::test]
    async fn a_panic_during_shutdown_ends_it() {
        let (mut agent, _next_asked) = agent();
        agent.ending = true;
        assert!(agent.act(|_| panic!("a fault in the core")));
    }
}
