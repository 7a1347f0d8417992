//! The last two seconds.

use langfuse_extension_core::deadline::EXIT_MARGIN;
use langfuse_extension_core::delivery::fact::Fact;
use langfuse_extension_core::ledger::DropReason;
use langfuse_extension_core::{Event, Settings};

use crate::driver::{DOWN, Langfuse, Sandbox, UNAUTHORIZED, WELL};

/// Lets time pass until it exits, and says how long that took.
fn exits_after_ms(sandbox: &mut Sandbox) -> u64 {
    for ms in 0..10_000 {
        if sandbox.exited {
            return ms;
        }
        sandbox.pass_ms(1);
    }
    panic!("it never exits");
}

fn latest_ms(left_ms: u64) -> u64 {
    left_ms - u64::try_from(EXIT_MARGIN.as_millis()).expect("a margin")
}

#[test]
fn shutdown_as_the_very_first_event_exits_at_once() {
    let mut sandbox = Sandbox::unregistered(Settings::default());
    sandbox.shutdown(2_000);
    assert_eq!(sandbox.done, ["Exit"]);
}

#[test]
fn shutdown_with_nothing_left_exits_at_once() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.shutdown(2_000);
    assert_eq!(exits_after_ms(&mut sandbox), 0);
}

#[test]
fn shutdown_sends_what_is_left_and_exits_with_its_answer() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.post("late");
    sandbox.langfuse = Langfuse::Answers(70, WELL);
    sandbox.shutdown(2_000);
    assert_eq!(exits_after_ms(&mut sandbox), 70);
    assert_eq!(sandbox.core.held_units(), 0);
    assert_eq!(sandbox.core.ledger().spooled, 0);
}

#[test]
fn shutdown_ends_before_its_deadline_when_langfuse_hangs() {
    for left_ms in [2_000, 1_300, 200] {
        let mut sandbox = Sandbox::new(Settings::default());
        sandbox.post("a");
        sandbox.shutdown(left_ms);
        assert_eq!(exits_after_ms(&mut sandbox), latest_ms(left_ms));
        assert_eq!(sandbox.core.ledger().spooled, 1);
    }
}

#[test]
fn an_absurd_shutdown_deadline_leaves_what_lambda_leaves_for_sure() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.post("a");
    sandbox.tell(Event::Shutdown {
        deadline_epoch_ms: u64::MAX,
    });
    assert_eq!(exits_after_ms(&mut sandbox), latest_ms(1_400));
}

#[test]
fn a_shutdown_deadline_in_the_past_is_a_clock_ahead() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.post("a");
    sandbox.tell(Event::Shutdown {
        deadline_epoch_ms: 1,
    });
    assert_eq!(exits_after_ms(&mut sandbox), latest_ms(1_400));
}

#[test]
fn without_a_spool_what_is_left_is_counted_as_lost() {
    let mut sandbox = Sandbox::new(Settings {
        spool: false,
        ..Settings::default()
    });
    sandbox.post("a");
    sandbox.post("b");
    sandbox.shutdown(2_000);
    exits_after_ms(&mut sandbox);
    assert_eq!(sandbox.dropped(DropReason::Exit), 2);
    assert_eq!(sandbox.count("Dropped"), 1);
}

#[test]
fn a_langfuse_known_bad_gets_one_more_chance() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.invocation("r1", 10);
    sandbox.answer(DOWN);
    sandbox.shutdown(2_000);
    assert!(sandbox.probing);
    sandbox.answer_probe(WELL);
    sandbox.answer(WELL);
    assert!(sandbox.exited);
    assert_eq!(sandbox.core.ledger().spooled, 0);
}

#[test]
fn keys_refused_a_moment_ago_get_one_more_chance() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.answer(UNAUTHORIZED);
    sandbox.shutdown(2_000);
    sandbox.answer_probe(UNAUTHORIZED);
    assert!(sandbox.exited, "and then nobody waits a minute");
}

#[test]
fn a_request_that_hung_before_is_given_up_for_a_last_try() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.invocation("r1", 10);
    sandbox.shutdown(2_000);
    sandbox.pass_ms(249);
    assert_eq!(sandbox.aborted, []);
    sandbox.pass_ms(1);
    assert_eq!(sandbox.aborted.len(), 1);
    sandbox.answer(Fact::NoAnswer);
    sandbox.pass_ms(250);
    sandbox.answer_probe(WELL);
    sandbox.answer(WELL);
    assert!(sandbox.exited);
}

#[test]
fn a_request_that_is_being_received_is_waited_for_a_moment() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.tell(Event::RequestOpened);
    sandbox.shutdown(2_000);
    assert_eq!(exits_after_ms(&mut sandbox), 300);
}

#[test]
fn nothing_happens_after_the_exit() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.shutdown(2_000);
    sandbox.done.clear();
    sandbox.freeze_ms(100_000);
    sandbox.invoke("r1");
    sandbox.tell(Event::Restored { seed: 3 });
    sandbox.shutdown(2_000);
    assert!(sandbox.done.is_empty());
    assert_eq!(sandbox.core.wake_in(sandbox.now()), None);
}

#[test]
fn neither_a_registration_nor_an_invocation_nor_a_second_shutdown_stops_a_shutdown() {
    let mut sandbox = Sandbox::unregistered(Settings::default());
    sandbox.post("a");
    sandbox.shutdown(2_000);
    sandbox.pass_ms(1_000);
    sandbox.tell(Event::Registered { invoke: true });
    sandbox.invoke("r1");
    sandbox.shutdown(2_000);
    assert_eq!(exits_after_ms(&mut sandbox), latest_ms(2_000) - 1_000);
    assert_eq!(sandbox.count("Next"), 0);
}
