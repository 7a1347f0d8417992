//! Next, Exit, and how long the sandbox is ours.

use std::time::Duration;

use langfuse_extension_core::lifecycle::CONNECTION_IDLE_LIMIT;
use langfuse_extension_core::{Event, Settings};

use crate::driver::{DOWN, Langfuse, Sandbox, WELL, traces};

#[test]
fn registering_asks_for_the_first_event_once() {
    let mut sandbox = Sandbox::unregistered(Settings::default());
    sandbox.pass_ms(1_000);
    assert!(!sandbox.released);
    sandbox.tell(Event::Registered { invoke: true });
    sandbox.tell(Event::Registered { invoke: true });
    assert_eq!(sandbox.count("Next"), 1);
}

#[test]
fn an_invocation_without_data_is_held_for_the_grace_alone() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.runtime_done("r1");
    assert_eq!(sandbox.held_ms(), Some(300));
}

#[test]
fn a_whole_trace_is_held_for_one_round_trip_once_nothing_comes_late() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.langfuse = Langfuse::Answers(90, WELL);
    assert_eq!(sandbox.invocation("r1", 100), 40);
}

#[test]
fn the_flush_budget_counts_from_the_end_of_work() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    assert_eq!(sandbox.held_ms(), Some(2_000));
}

#[test]
fn the_sandbox_is_released_before_the_deadline_whatever_hangs() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke_for_ms("r1", 3_000);
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.tell(Event::RequestOpened);
    assert_eq!(sandbox.held_ms(), Some(2_800));
}

#[test]
fn the_deadline_cuts_the_flush_budget_short() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke_for_ms("r1", 1_000);
    sandbox.post("a");
    sandbox.pass_ms(300);
    sandbox.runtime_done("r1");
    assert_eq!(sandbox.held_ms(), Some(500));
}

#[test]
fn a_deadline_in_the_past_is_taken_for_the_shortest_timeout() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.invoke_with_deadline("r1", 5);
    assert_eq!(sandbox.held_ms(), Some(1_000 - 200));
}

#[test]
fn a_deadline_of_another_century_changes_nothing_about_the_budget() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke_with_deadline("r1", u64::MAX);
    sandbox.post("a");
    sandbox.runtime_done("r1");
    assert_eq!(sandbox.held_ms(), Some(2_000));
}

#[test]
fn a_wall_clock_jump_of_hours_in_a_hold_ends_it_and_loses_nothing() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.freeze_ms(4 * 3_600_000);
    sandbox.tell(Event::Timeout);
    assert!(sandbox.released);
    assert_eq!(sandbox.core.held_units(), 1);
}

#[test]
fn a_wall_clock_set_back_lengthens_no_hold() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.pass_ms(1_000);
    sandbox.set_wall_back_ms(3_600_000);
    assert_eq!(sandbox.held_ms(), Some(1_000));
}

#[test]
fn releasing_does_not_abort_what_is_under_way() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.held_ms();
    assert_eq!(sandbox.aborted, []);
    sandbox.freeze_ms(30_000);
    sandbox.answer(WELL);
    assert_eq!(sandbox.core.ledger().delivered, 1);
}

#[test]
fn nothing_is_sent_where_the_sandbox_may_freeze() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.runtime_done("r1");
    sandbox.held_ms();
    sandbox.post("late");
    sandbox.pass_ms(60_000);
    assert_eq!(sandbox.count("Export"), 0);
    sandbox.invoke("r2");
    assert_eq!(sandbox.sending(), ["late"]);
}

#[test]
fn data_beside_a_handler_that_was_let_go_is_sent_beside_it() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.held_ms();
    sandbox.post("from a handler that still runs");
    sandbox.pass_ms(1_000);
    assert_eq!(sandbox.count("Export"), 1);
}

#[test]
fn managed_instances_send_without_any_invocation() {
    let mut sandbox = Sandbox::unregistered(Settings::default());
    sandbox.tell(Event::Registered { invoke: false });
    sandbox.post("a");
    sandbox.pass_ms(999);
    assert_eq!(sandbox.count("Export"), 0);
    sandbox.post("b");
    sandbox.pass_ms(1);
    assert_eq!(sandbox.sending(), ["a", "b"]);
}

#[test]
fn a_restored_snapshot_drops_its_connections_and_reads_its_keys_again() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.tell(Event::Restored { seed: 7 });
    assert_eq!(sandbox.done, ["ResetConnections", "RereadKeys"]);
}

#[test]
fn connections_are_dropped_after_an_idle_time_and_not_before() {
    let mut sandbox = Sandbox::new(Settings::default());
    let limit_ms = u64::try_from(CONNECTION_IDLE_LIMIT.as_millis()).expect("a limit");
    sandbox.freeze_ms(limit_ms - 1);
    sandbox.invoke("r1");
    assert_eq!(sandbox.count("ResetConnections"), 0);
    sandbox.runtime_done("r1");
    sandbox.held_ms();
    sandbox.freeze_ms(limit_ms);
    sandbox.invoke("r2");
    assert_eq!(sandbox.count("ResetConnections"), 1);
}

#[test]
fn a_request_never_answered_is_given_up_after_its_timeout() {
    let settings = Settings {
        request_timeout: Duration::from_secs(3),
        ..Settings::default()
    };
    let mut sandbox = Sandbox::new(settings);
    sandbox.invoke("r1");
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.post_part("a");
    sandbox.pass_ms(9_999);
    assert_eq!(sandbox.count("Export"), 0);
    sandbox.pass_ms(1);
    assert_eq!(sandbox.count("Export"), 1);
    sandbox.pass_ms(2_999);
    assert_eq!(sandbox.aborted, []);
    sandbox.pass_ms(1);
    assert_eq!(sandbox.aborted.len(), 1);
    sandbox.pass_ms(20_000);
    assert_eq!(sandbox.aborted.len(), 1);
}

#[test]
fn a_known_bad_langfuse_is_known_to_the_pass_through() {
    let mut sandbox = Sandbox::new(Settings::default());
    assert!(!sandbox.core.langfuse_is_bad(sandbox.now()));
    sandbox.invoke("r1");
    sandbox.post_to(&traces(), crate::driver::body("a"));
    sandbox.runtime_done("r1");
    sandbox.pass_ms(100);
    sandbox.answer(DOWN);
    assert!(sandbox.core.langfuse_is_bad(sandbox.now()));
}
