//! The books of what the stage before Langfuse lets not leave.

#![expect(
    clippy::expect_used,
    reason = "a test that cannot go on must stop at once"
)]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use langfuse_extension_core::buffer::Payload;
use langfuse_extension_core::delivery::fact::Fact;
use langfuse_extension_core::ledger::{DropReason, HeldBack};
use langfuse_extension_core::route::{Credential, Door, Route};
use langfuse_extension_core::strategy::Strategy;
use langfuse_extension_core::time::Now;
use langfuse_extension_core::{Action, Core, Event, ExportId, Settings};

/// A payload that counts fewer units once the stage has seen it, and so do its copies.
#[derive(Clone, Debug)]
struct Body(Rc<Cell<u32>>);

impl Payload for Body {
    fn stored_bytes(&self) -> usize {
        100
    }

    fn request_bytes(&self) -> usize {
        100
    }

    fn units(&self) -> u32 {
        self.0.get()
    }
}

const NOW: Now = Now {
    mono: Duration::from_secs(1),
    wall: Duration::from_secs(1_000),
};

struct Sandbox {
    core: Core<Body>,
    body: Body,
    export: ExportId,
}

impl Sandbox {
    /// With ten units on their way to Langfuse.
    fn sending() -> Self {
        let settings = Settings {
            spool: false,
            strategy: Strategy::End,
            ..Settings::default()
        };
        let mut core = Core::new(settings, NOW);
        let body = Body(Rc::new(Cell::new(10)));
        let route = Arc::new(Route {
            door: Door::TracesProtobuf,
            credential: Credential::Client("Basic eDp5".into()),
            headers: Vec::new(),
        });
        let accepted = Event::Accepted {
            route,
            payload: body.clone(),
            facts: Vec::new(),
        };
        let later = Now {
            mono: NOW.mono + Duration::from_secs(20),
            wall: NOW.wall + Duration::from_secs(20),
        };
        let mut actions = core.handle(Event::Registered { invoke: true }, NOW);
        let invoke = Event::Invoke {
            request_id: "r".into(),
            deadline_epoch_ms: 1_060_000,
        };
        actions.extend(core.handle(invoke, NOW));
        actions.extend(core.handle(accepted, NOW));
        actions.extend(core.handle(Event::Timeout, later));
        let export = actions.iter().find_map(|action| match action {
            Action::Export { id, .. } => Some(*id),
            _ => None,
        });
        Self {
            core,
            body,
            export: export.expect("it is due"),
        }
    }

    fn hold_back(&mut self, held_back: HeldBack) {
        let all = held_back.filtered + held_back.sampled_out + held_back.not_masked;
        let left = self.body.0.get() - u32::try_from(all).expect("a count");
        self.body.0.set(left);
        let _ = self.core.handle(Event::HeldBack(held_back), NOW);
        self.balances();
    }

    fn end(&mut self, fact: Fact) {
        let id = self.export;
        let _ = self.core.handle(Event::Exported { id, fact }, NOW);
        self.balances();
    }

    fn balances(&self) {
        let books = self.core.ledger();
        assert_eq!(books.outstanding(), self.core.held_units(), "{books:?}");
    }
}

#[test]
fn what_is_held_back_is_counted_once_and_the_rest_is_delivered() {
    let mut sandbox = Sandbox::sending();
    sandbox.hold_back(HeldBack {
        filtered: 5,
        sampled_out: 2,
        not_masked: 1,
    });
    sandbox.end(Fact::status(200));
    let books = sandbox.core.ledger();
    assert_eq!((books.filtered, books.sampled_out), (5, 2));
    assert_eq!(books.dropped.of(DropReason::NotMasked), 1);
    assert_eq!((books.delivered, sandbox.core.held_units()), (2, 0));
}

#[test]
fn where_nothing_may_leave_no_request_is_counted_and_langfuse_is_not_judged() {
    let mut sandbox = Sandbox::sending();
    assert_eq!(sandbox.core.ledger().requests, 1);
    sandbox.hold_back(HeldBack {
        filtered: 10,
        ..HeldBack::default()
    });
    sandbox.end(Fact::NothingToSend);
    let books = sandbox.core.ledger();
    assert_eq!((books.requests, books.delivered), (0, 0));
    assert_eq!(
        (sandbox.core.held_units(), sandbox.core.held_bytes()),
        (0, 0)
    );
    assert!(!sandbox.core.langfuse_is_bad(NOW));
}
