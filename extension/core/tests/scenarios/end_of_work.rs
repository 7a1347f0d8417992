//! When is an invocation over?

use std::time::Duration;

use langfuse_extension_core::hold::Why;
use langfuse_extension_core::time::Now;
use langfuse_extension_core::traces::Parent;
use langfuse_extension_core::work::OPEN_REQUEST_PATIENCE;
use langfuse_extension_core::{Event, Settings};

use crate::driver::{Langfuse, Sandbox, WELL, body, span, span_from, traces};

fn sandbox() -> Sandbox {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.langfuse = Langfuse::Answers(10, WELL);
    sandbox
}

#[test]
fn the_end_of_another_invocation_ends_nothing() {
    let mut sandbox = sandbox();
    sandbox.invoke("r2");
    sandbox.runtime_done("r1");
    sandbox.pass_ms(10_000);
    assert!(!sandbox.released);
}

#[test]
fn an_invoke_that_comes_after_its_runtime_done_is_over_at_once() {
    let mut sandbox = sandbox();
    sandbox.settle_in();
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.pass_ms(1);
    sandbox.invoke("r1");
    assert_eq!(sandbox.held_ms(), Some(10));
    assert_eq!(sandbox.core.held_units(), 0);
}

#[test]
fn an_end_told_twice_is_told_once() {
    let mut sandbox = sandbox();
    sandbox.invoke("r1");
    sandbox.runtime_done("r1");
    sandbox.pass_ms(299);
    sandbox.runtime_done("r1");
    assert_eq!(sandbox.held_ms(), Some(1));
}

#[test]
fn an_end_that_comes_before_anybody_asks_when_to_wake_is_due_at_once() {
    let mut sandbox = sandbox();
    sandbox.invoke("r1");
    sandbox.runtime_done("r1");
    let grace = Duration::from_millis(300);
    let asked_late = |sandbox: &Sandbox, late: Duration| {
        let now = sandbox.now();
        sandbox.core.wake_in(Now {
            mono: now.mono + late,
            wall: now.wall + late,
        })
    };
    assert_eq!(asked_late(&sandbox, Duration::ZERO), Some(grace));
    assert_eq!(asked_late(&sandbox, grace / 3), Some(grace - grace / 3));
    assert_eq!(asked_late(&sandbox, grace), Some(Duration::ZERO));
    assert_eq!(asked_late(&sandbox, 3 * grace), Some(Duration::ZERO));
}

#[test]
fn the_ends_of_many_invocations_that_never_came_are_not_kept() {
    let mut sandbox = sandbox();
    for n in 0..1_000 {
        sandbox.runtime_done(&format!("other-{n}"));
    }
    sandbox.invoke("other-0");
    sandbox.pass_ms(10_000);
    assert!(!sandbox.released, "the oldest was let go of");
}

#[test]
fn a_request_under_way_is_waited_for() {
    let mut sandbox = sandbox();
    sandbox.settle_in();
    sandbox.invoke("r1");
    sandbox.tell(Event::RequestOpened);
    sandbox.runtime_done("r1");
    sandbox.pass_ms(500);
    assert!(!sandbox.released);
    sandbox.tell(Event::RequestClosed);
    assert!(sandbox.held_ms().is_some_and(|held| held <= 300));
}

#[test]
fn a_client_that_stalls_keeps_nothing_unsent_and_is_waited_for_once() {
    let mut sandbox = sandbox();
    let patience = u64::try_from(OPEN_REQUEST_PATIENCE.as_millis()).ok();
    sandbox.invoke("r1");
    sandbox.tell(Event::RequestOpened);
    sandbox.post("somebody else's");
    sandbox.runtime_done("r1");
    sandbox.pass_ms(10);
    assert_eq!(sandbox.core.ledger().delivered, 1);
    assert_eq!(
        sandbox.held_ms().map(|held| held + 10),
        patience,
        "the rest of its patience"
    );
    for id in ["r2", "r3"] {
        sandbox.freeze_ms(60_000);
        assert!(sandbox.invocation(id, 100) <= 20);
    }
}

#[test]
fn where_nothing_is_told_a_stalled_client_keeps_nothing_unsent_either() {
    let mut sandbox = sandbox();
    sandbox.invoke("r1");
    sandbox.post("whole");
    sandbox.tell(Event::RequestOpened);
    sandbox.held_ms();
    assert_eq!(sandbox.core.ledger().delivered, 1);
}

#[test]
fn a_client_that_stalls_is_not_waited_for_to_the_deadline_where_nothing_is_told() {
    let mut sandbox = sandbox();
    sandbox.invoke("r1");
    sandbox.tell(Event::RequestOpened);
    let patience = u64::try_from(OPEN_REQUEST_PATIENCE.as_millis()).ok();
    assert_eq!(sandbox.held_ms(), patience);
}

#[test]
fn without_telemetry_the_quiet_after_the_last_request_ends_it() {
    let mut sandbox = sandbox();
    sandbox.invoke("r1");
    sandbox.pass_ms(250);
    sandbox.post_part("a");
    sandbox.pass_ms(250);
    sandbox.post_part("b");
    assert_eq!(sandbox.held_ms(), Some(310));
    assert_eq!(sandbox.core.ledger().requests, 1);
}

#[test]
fn telemetry_that_failed_once_is_not_waited_for_until_it_speaks_again() {
    let mut sandbox = sandbox();
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.invoke_for_ms("r1", 3_000);
    assert_eq!(sandbox.held_ms(), Some(2_800));
    assert!(!sandbox.core.is_told());
    sandbox.invoke("r2");
    assert_eq!(sandbox.held_ms(), Some(300));
    sandbox.runtime_done("r2");
    sandbox.invoke("r3");
    sandbox.pass_ms(5_000);
    assert!(!sandbox.released);
}

#[test]
fn a_torn_trace_is_waited_for_and_sent_whole() {
    let mut sandbox = sandbox();
    sandbox.settle_in();
    sandbox.invoke("r1");
    let child = span(9, 2, Parent::Local([1; 8]));
    sandbox.post_facts(&traces(), body("child"), vec![child]);
    sandbox.runtime_done("r1");
    sandbox.pass_ms(100);
    assert_eq!(sandbox.count("Export"), 0);
    sandbox.langfuse = Langfuse::Waits;
    sandbox.post_facts(&traces(), body("root"), vec![span(9, 1, Parent::None)]);
    assert_eq!(sandbox.sending(), ["child", "root"]);
}

#[test]
fn a_parent_that_a_filter_withholds_is_soon_not_waited_for() {
    let mut sandbox = sandbox();
    let mut held = Vec::new();
    for n in 0..12_u8 {
        sandbox.invoke(&n.to_string());
        let orphan = span(n, 2, Parent::Local([1; 8]));
        sandbox.post_facts(&traces(), body("orphan"), vec![orphan]);
        sandbox.runtime_done(&n.to_string());
        held.push(sandbox.held_ms().expect("a bounded hold"));
        sandbox.freeze_ms(60_000);
    }
    assert_eq!(held[0], 310);
    assert_eq!(held.last(), Some(&10));
}

#[test]
fn a_late_span_is_waited_for_from_then_on() {
    let mut sandbox = sandbox();
    sandbox.settle_in();
    sandbox.invoke("r1");
    let began = sandbox.now();
    sandbox.pass_ms(5);
    sandbox.post_facts(
        &traces(),
        body("a"),
        vec![span_from(began, 7, 1, Parent::None)],
    );
    sandbox.runtime_done("r1");
    sandbox.held_ms();
    sandbox.pass_ms(80);
    let late = span_from(began, 8, 1, Parent::None);
    sandbox.post_facts(&traces(), body("came after the release"), vec![late]);
    sandbox.invoke("r2");
    sandbox.post("b");
    sandbox.runtime_done("r2");
    assert_eq!(
        sandbox.held_ms(),
        Some(2 * (10 + 80)),
        "twice as long as it took"
    );
}

#[test]
fn data_that_comes_before_its_invoke_is_not_late() {
    let mut sandbox = sandbox();
    sandbox.settle_in();
    for n in 0..40 {
        let id = n.to_string();
        sandbox.freeze_ms(20);
        sandbox.pass_ms(1);
        let ours = span_from(sandbox.now(), n, 1, Parent::None);
        sandbox.pass_ms(1);
        sandbox.post_facts(&traces(), body("quick"), vec![ours]);
        sandbox.invoke(&id);
        sandbox.pass_ms(1);
        sandbox.runtime_done(&id);
        let held = sandbox.held_ms().expect("a bounded hold");
        assert!(held <= 10, "invocation {n} was held for {held} ms");
        sandbox.pass_ms(1);
    }
}

#[test]
fn a_thread_that_sends_now_and_then_is_not_waited_for() {
    let mut sandbox = sandbox();
    sandbox.settle_in();
    let mut waiting = Vec::new();
    for n in 0..60 {
        let id = n.to_string();
        sandbox.invoke(&id);
        waiting.push(span_from(sandbox.now(), n, 1, Parent::None));
        if n % 5 == 4 {
            let spans = std::mem::take(&mut waiting);
            sandbox.post_facts(&traces(), body("five invocations' worth"), spans);
        }
        sandbox.pass_ms(20);
        sandbox.runtime_done(&id);
        let held = sandbox.held_ms().expect("a bounded hold");
        assert!(
            n < 20 || held <= 10,
            "invocation {n} was held for {held} ms"
        );
        sandbox.freeze_ms(60_000);
    }
}

#[test]
fn the_report_of_an_invocation_ends_it_where_runtime_done_never_comes() {
    let mut sandbox = sandbox();
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.pass_ms(500);
    assert!(!sandbox.released);
    let at = Some(sandbox.now().wall);
    sandbox.tell(Event::Reported {
        request_id: "another".into(),
        at,
    });
    assert!(!sandbox.released);
    sandbox.tell(Event::Reported {
        request_id: "r1".into(),
        at,
    });
    assert!(sandbox.held_ms().is_some_and(|held| held <= 40));
}

#[test]
fn words_that_come_when_nobody_waits_any_more_do_not_make_the_next_invocation_wait_for_them() {
    for late in [
        |request_id: String| Event::Reported {
            request_id,
            at: None,
        },
        |request_id: String| Event::RuntimeDone {
            request_id,
            at: None,
        },
    ] {
        let mut sandbox = sandbox();
        sandbox.tell(Event::TelemetrySpeaks);
        sandbox.invoke("r1");
        sandbox.post("a");
        let held = sandbox.held_ms().expect("it ends by its deadline");
        assert!(held + 1_000 > sandbox.timeout_ms, "{held}");
        sandbox.tell(late("r1".into()));
        sandbox.freeze_ms(60_000);
        sandbox.invoke("r2");
        sandbox.post("b");
        sandbox.pass_ms(1_000);
        assert!(sandbox.released, "it is guessed now");
    }
}

#[test]
fn a_grace_counts_from_when_the_end_was_and_not_from_when_it_was_told() {
    let mut sandbox = sandbox();
    sandbox.invoke("r1");
    sandbox.pass_ms(100);
    let at = Some(sandbox.now().wall);
    sandbox.pass_ms(25);
    sandbox.tell(Event::RuntimeDone {
        request_id: "r1".into(),
        at,
    });
    assert_eq!(sandbox.held_ms(), Some(300 - 25));
    assert_eq!(sandbox.core.holds().held(Why::Telemetry).as_millis(), 25);
    assert_eq!(sandbox.core.holds().held(Why::TornTrace).as_millis(), 275);
}

#[test]
fn a_clock_ahead_or_behind_makes_no_grace_longer_or_none() {
    for off_ms in [-60_000_i64, -1_001, 1, 60_000] {
        let mut sandbox = sandbox();
        sandbox.invoke("r1");
        sandbox.pass_ms(100);
        let wall = sandbox.now().wall.as_millis();
        let at = u64::try_from(wall)
            .expect("a time")
            .checked_add_signed(off_ms);
        sandbox.tell(Event::RuntimeDone {
            request_id: "r1".into(),
            at: at.map(Duration::from_millis),
        });
        assert_eq!(sandbox.held_ms(), Some(300), "{off_ms}");
    }
}

#[test]
fn the_grace_has_a_limit_that_no_late_span_moves() {
    let mut sandbox = sandbox();
    for n in 0..6 {
        sandbox.invoke(&n.to_string());
        sandbox.runtime_done(&n.to_string());
        sandbox.pass_ms(290);
        sandbox.post("late");
        assert!(sandbox.held_ms().is_some_and(|held| held <= 310));
        sandbox.freeze_ms(60_000);
    }
}

#[test]
fn spans_that_trickle_are_waited_for_within_the_budget() {
    let mut sandbox = sandbox();
    sandbox.invoke("r1");
    sandbox.runtime_done("r1");
    let (mut held, mut n) = (0, 1);
    while !sandbox.released {
        n += 1;
        let child = span(9, n, Parent::Local([1; 8]));
        sandbox.post_facts(&traces(), body("and another"), vec![child]);
        sandbox.pass_ms(40);
        held += 40;
    }
    assert_eq!(held, 2_000);
}

#[test]
fn a_late_span_makes_the_grace_twice_as_long_as_it_was_quiet_before() {
    let mut sandbox = sandbox();
    sandbox.invoke("nothing comes, so that the next grace is 150 ms");
    sandbox.runtime_done("nothing comes, so that the next grace is 150 ms");
    assert!(sandbox.core.is_told());
    assert_eq!(sandbox.held_ms(), Some(300));
    sandbox.invoke("r2");
    sandbox.runtime_done("r2");
    sandbox.pass_ms(100);
    sandbox.post("late");
    sandbox.held_ms();
    sandbox.invoke("r3");
    sandbox.runtime_done("r3");
    assert_eq!(sandbox.held_ms(), Some(200));
}

#[test]
fn the_ends_of_several_invocations_may_come_before_their_invoke() {
    let mut sandbox = sandbox();
    sandbox.runtime_done("r1");
    sandbox.runtime_done("r2");
    sandbox.invoke("r1");
    assert_eq!(sandbox.held_ms(), Some(300));
}
