//! Freezes, and what survives them.

use langfuse_extension_core::buffer::ItemId;
use langfuse_extension_core::delivery::fact::Fact;
use langfuse_extension_core::ledger::DropReason;
use langfuse_extension_core::pipeline::THAW_GRACE;
use langfuse_extension_core::recovery::Head;
use langfuse_extension_core::{Event, Settings};

use crate::driver::{NOW, Sandbox, WELL, body, traces};

fn thaw_grace_ms() -> u64 {
    u64::try_from(THAW_GRACE.as_millis()).expect("a time")
}

/// Released with one request unanswered, and frozen for an hour.
fn frozen_in_a_request() -> Sandbox {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.invocation("r1", 10);
    assert_eq!(sandbox.exports.len(), 1);
    sandbox.freeze_ms(3_600_000);
    sandbox
}

#[test]
fn an_answer_that_came_in_the_freeze_is_read_before_it_is_given_up() {
    let mut sandbox = frozen_in_a_request();
    sandbox.invoke("r2");
    sandbox.pass_ms(thaw_grace_ms() - 1);
    assert_eq!(sandbox.aborted, []);
    sandbox.answer(WELL);
    assert_eq!(sandbox.core.ledger().maybe_doubled, 0);
    assert_eq!(sandbox.core.held_units(), 0);
}

#[test]
fn an_answer_that_did_not_come_is_given_up_soon_after_the_thaw() {
    let mut sandbox = frozen_in_a_request();
    sandbox.invoke("r2");
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.pass_ms(thaw_grace_ms());
    assert_eq!(sandbox.aborted.len(), 1);
}

#[test]
fn a_timer_that_fires_before_the_invoke_gives_nothing_up_either() {
    let mut sandbox = frozen_in_a_request();
    sandbox.tell(Event::Timeout);
    assert_eq!(sandbox.aborted, []);
}

#[test]
fn invocations_in_quick_succession_do_not_keep_a_hung_request_alive() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.invocation("r1", 10);
    for n in 0..200 {
        sandbox.invoke(&n.to_string());
        sandbox.pass_ms(60);
        sandbox.runtime_done(&n.to_string());
        sandbox.pass_ms(60);
        sandbox.freeze_ms(20);
    }
    assert_eq!(sandbox.aborted.len(), 1);
}

#[test]
fn a_connection_that_the_freeze_broke_is_no_fault_of_langfuse() {
    let mut sandbox = frozen_in_a_request();
    sandbox.invoke("r2");
    sandbox.answer(Fact::NoAnswer);
    assert!(sandbox.probing, "it is asked at once");
    sandbox.answer_probe(WELL);
    assert_eq!(sandbox.sending().len(), 1);
    assert_eq!(sandbox.core.ledger().maybe_doubled, 1);
}

#[test]
fn a_probe_that_a_freeze_cut_is_asked_again_at_once() {
    let mut sandbox = frozen_in_a_request();
    for n in 2..10 {
        sandbox.invoke(&n.to_string());
        if sandbox.probing {
            sandbox.answer_probe(Fact::NoAnswer);
        } else {
            sandbox.answer(Fact::NoAnswer);
        }
        assert!(sandbox.probing);
        sandbox.runtime_done(&n.to_string());
        sandbox.held_ms();
        sandbox.freeze_ms(100_000);
    }
    assert_eq!(sandbox.core.held_units(), 1);
}

#[test]
fn the_restored_and_the_thawed_go_on_as_if_nothing_had_been() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.freeze_ms(7 * 24 * 3_600_000);
    sandbox.tell(Event::Restored { seed: 5 });
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.answer(WELL);
    assert_eq!(sandbox.held_ms(), Some(0));
}

#[test]
fn invocations_shorter_than_the_thaw_grace_give_a_dead_request_up_all_the_same() {
    let mut sandbox = frozen_in_a_request();
    sandbox.invoke("r2");
    sandbox.pass_ms(20);
    assert_eq!(sandbox.aborted, [], "its answer may lie in the socket");
    sandbox.runtime_done("r2");
    sandbox.pass_ms(20);
    sandbox.freeze_ms(3_600_000);
    sandbox.invoke("r3");
    assert_eq!(sandbox.aborted.len(), 1);
}

#[test]
fn telemetry_that_comes_before_the_invoke_does_not_hide_a_freeze() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.invocation("r1", 10);
    sandbox.answer(WELL);
    // Where the monotonic clock goes on in a freeze, only the time since the release tells of it.
    sandbox.pass_ms(5_000);
    sandbox.done.clear();
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.invoke("r2");
    assert!(sandbox.done.contains(&"ResetConnections"));
}

fn to_be_copied() -> Sandbox {
    Sandbox::new(Settings {
        snapshot: true,
        ..Settings::default()
    })
}

#[test]
fn what_was_accepted_before_a_snapshot_is_sent_by_no_copy_and_counted_by_each() {
    for told_of_the_restore in [true, false] {
        let mut sandbox = to_be_copied();
        sandbox.post("before");
        sandbox.pass_ms(30_000);
        assert!(
            sandbox.done.is_empty(),
            "neither sent nor stored: {:?}",
            sandbox.done
        );
        sandbox.freeze_ms(3_600_000);
        if told_of_the_restore {
            sandbox.tell(Event::Restored { seed: 7 });
        }
        sandbox.invoke("r1");
        assert_eq!(sandbox.dropped(DropReason::Snapshot), 1);
        assert_eq!(sandbox.core.held_bytes(), 0);
        sandbox.post("after");
        sandbox.runtime_done("r1");
        assert_eq!(sandbox.sending(), ["after"]);
        assert_eq!(sandbox.count("Store"), 1);
    }
}

#[test]
fn what_a_copy_accepts_before_anybody_tells_it_of_its_invocation_is_kept() {
    let mut sandbox = to_be_copied();
    sandbox.post("before");
    sandbox.freeze_ms(3_600_000);
    sandbox.post("after");
    sandbox.tell(Event::Restored { seed: 7 });
    sandbox.invoke("r1");
    sandbox.runtime_done("r1");
    assert_eq!(sandbox.dropped(DropReason::Snapshot), 1);
    assert_eq!(sandbox.sending(), ["after"]);
}

#[test]
fn what_a_later_process_of_a_copy_finds_on_disk_is_sent() {
    let mut sandbox = to_be_copied();
    sandbox.tell(Event::SpoolOpened {
        records: vec![Head {
            id: ItemId(0),
            accepted_wall: NOW,
            units: 1,
            bytes: 100,
            sends: 0,
            crashes: 0,
        }],
        lost: Vec::new(),
        unreadable: 0,
    });
    sandbox.read_back(&traces(), body("left behind"));
    sandbox.invoke("r1");
    assert_eq!(sandbox.sending(), ["left behind"]);
}
