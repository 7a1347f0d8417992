//! Until when the sandbox is held, and why, as a function sees it: the platform's word takes 25 ms.

use langfuse_extension_core::hold::Why;
use langfuse_extension_core::late_spans::WHOLE_TRACE_GRACE;
use langfuse_extension_core::strategy::Strategy;
use langfuse_extension_core::traces::Parent;
use langfuse_extension_core::{Event, Settings};

use crate::driver::{DOWN, Langfuse, Sandbox, WELL, body, scores, span_from, traces};

const TELEMETRY_MS: u64 = 25;
const RTT_MS: u64 = 20;

fn sandbox() -> Sandbox {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.langfuse = Langfuse::Answers(RTT_MS, WELL);
    sandbox
}

/// A handler of 100 ms that flushes one whole trace and answers. Says for how long it was held after its end.
fn flushed(sandbox: &mut Sandbox, id: &str) -> u64 {
    flushed_twice_and_more(sandbox, id, 1)
}

fn flushed_twice_and_more(sandbox: &mut Sandbox, id: &str, flushes: u64) -> u64 {
    sandbox.invoke(id);
    for n in 0..flushes {
        let began = sandbox.now();
        sandbox.pass_ms(99 / flushes);
        let trace = u8::try_from(n).expect("few");
        let root = span_from(began, trace, 1, Parent::None);
        sandbox.post_facts(&traces(), body("trace"), vec![root]);
    }
    sandbox.pass_ms(100 - 99 / flushes * flushes);
    ends(sandbox, id)
}

/// The runtime is done, and the platform tells so a moment later.
fn ends(sandbox: &mut Sandbox, id: &str) -> u64 {
    let at = Some(sandbox.now().wall);
    let mut held = 0;
    while held < TELEMETRY_MS {
        sandbox.pass_ms(1);
        held += 1;
    }
    let early = sandbox.released;
    sandbox.tell(Event::RuntimeDone {
        request_id: id.into(),
        at,
    });
    if early {
        return 0;
    }
    held + sandbox.held_ms().expect("a bounded hold")
}

#[test]
fn a_flushed_trace_is_held_for_the_platforms_word_and_at_first_for_a_score_that_may_follow() {
    let mut sandbox = sandbox();
    let grace = u64::try_from(WHOLE_TRACE_GRACE.as_millis()).unwrap();
    assert_eq!(flushed(&mut sandbox, "r1"), grace);
    assert_eq!(sandbox.core.held_units(), 0, "it is gone by then");
    let holds = sandbox.core.holds();
    assert_eq!(holds.held(Why::Telemetry).as_millis(), 25);
    for id in ["r2", "r3", "r4"] {
        sandbox.freeze_ms(60_000);
        assert_eq!(flushed(&mut sandbox, id), TELEMETRY_MS);
    }
}

#[test]
fn a_score_that_follows_its_trace_at_once_is_sent_before_the_freeze() {
    let mut sandbox = sandbox();
    sandbox.invoke("r1");
    let root = span_from(sandbox.now(), 1, 1, Parent::None);
    sandbox.post_facts(&traces(), body("trace"), vec![root]);
    sandbox.pass_ms(2);
    let at = Some(sandbox.now().wall);
    sandbox.pass_ms(15);
    sandbox.tell(Event::RuntimeDone {
        request_id: "r1".into(),
        at,
    });
    sandbox.pass_ms(8);
    assert!(!sandbox.released);
    sandbox.post("score");
    assert!(sandbox.held_ms().is_some_and(|held| held <= 60));
    assert_eq!(sandbox.core.held_units(), 0);
}

#[test]
fn the_first_ten_invocations_of_a_sandbox_are_held_for_less_than_300_ms_together() {
    for (rtt_ms, gap_ms) in [(0, 60_000), (20, 60_000), (25, 60_000), (0, 5), (50, 5)] {
        let mut sandbox = sandbox();
        sandbox.langfuse = Langfuse::Answers(rtt_ms, WELL);
        let mut sum = 0;
        for n in 0..10 {
            sum += flushed(&mut sandbox, &n.to_string());
            sandbox.freeze_ms(gap_ms);
        }
        assert!(sum <= 300, "{sum} ms at {rtt_ms} ms, every {gap_ms} ms");
    }
}

#[test]
fn in_dense_traffic_with_nothing_missing_the_next_event_is_asked_for_beside_the_handler() {
    let mut sandbox = sandbox();
    for n in 0..200 {
        let held = flushed(&mut sandbox, &n.to_string());
        assert!(n < 5 || held == 0, "invocation {n} was held for {held} ms");
        sandbox.freeze_ms(5);
    }
    assert!(sandbox.core.holds().releases(Why::None) >= 195);
    let requests = sandbox.core.ledger().requests;
    assert!(requests <= 5 + 200 * 130 / 5_000 + 1, "{requests}");
}

#[test]
fn in_dense_traffic_a_torn_trace_is_held_for() {
    let mut sandbox = sandbox();
    for n in 0..8 {
        flushed(&mut sandbox, &n.to_string());
        sandbox.freeze_ms(5);
    }
    sandbox.invoke("torn");
    let began = sandbox.now();
    let child = span_from(began, 50, 2, Parent::Local([1; 8]));
    sandbox.post_facts(&traces(), body("child"), vec![child]);
    assert!(!sandbox.released);
    sandbox.runtime_done("torn");
    sandbox.pass_ms(60);
    assert!(!sandbox.released);
    let root = span_from(began, 50, 1, Parent::None);
    sandbox.post_facts(&traces(), body("root"), vec![root]);
    assert!(sandbox.held_ms().is_some_and(|held| held <= 40));
}

#[test]
fn a_handler_that_was_let_go_of_early_and_goes_on_has_its_data_sent_beside_it() {
    let mut sandbox = sandbox();
    for n in 0..8 {
        flushed(&mut sandbox, &n.to_string());
        sandbox.freeze_ms(5);
    }
    sandbox.invoke("long");
    sandbox.post("flushed");
    assert!(sandbox.released);
    let posted = sandbox.now();
    sandbox.post("and more");
    while sandbox.core.held_units() > 0 {
        sandbox.pass_ms(10);
        let age = sandbox.now().since(posted);
        assert!(age <= Settings::default().max_data_age, "{age:?}");
    }
    // What comes when the runtime is done goes with the next invocation, or with the last event of all.
    sandbox.runtime_done("long");
    sandbox.post("late");
    sandbox.pass_ms(2);
    let requests = sandbox.core.ledger().requests;
    sandbox.freeze_ms(600_000);
    sandbox.shutdown(2_000);
    sandbox.pass_ms(RTT_MS);
    assert_eq!(sandbox.core.ledger().requests, requests + 1);
    assert_eq!(sandbox.core.held_units(), 0);
    assert!(sandbox.exited);
}

#[test]
fn traffic_that_turns_sparse_is_held_for_again_from_its_first_invocation_on() {
    let mut sandbox = sandbox();
    for n in 0..20 {
        flushed(&mut sandbox, &n.to_string());
        sandbox.freeze_ms(5);
    }
    sandbox.freeze_ms(60_000);
    for n in 20..24 {
        flushed(&mut sandbox, &n.to_string());
        assert_eq!(sandbox.core.held_units(), 0, "after invocation {n}");
        sandbox.freeze_ms(60_000);
    }
}

#[test]
fn a_hung_langfuse_costs_its_budget_once_and_then_the_platforms_word() {
    let mut sandbox = sandbox();
    sandbox.settle_in();
    sandbox.langfuse = Langfuse::Waits;
    let budget = Settings::default().flush_budget.as_millis();
    assert_eq!(u128::from(flushed(&mut sandbox, "first")), budget);
    for n in 0..20 {
        sandbox.freeze_ms(10_000);
        assert_eq!(flushed(&mut sandbox, &n.to_string()), TELEMETRY_MS);
    }
    // Not even for a torn trace, or for a client in the middle of a request.
    sandbox.freeze_ms(10_000);
    sandbox.invoke("torn");
    let child = span_from(sandbox.now(), 50, 2, Parent::Local([1; 8]));
    sandbox.post_facts(&traces(), body("child"), vec![child]);
    sandbox.tell(Event::RequestOpened);
    assert_eq!(ends(&mut sandbox, "torn"), TELEMETRY_MS);
}

#[test]
fn a_known_outage_is_not_waited_for_where_nothing_is_unsent_either() {
    let mut sandbox = sandbox();
    sandbox.settle_in();
    sandbox.langfuse = Langfuse::Answers(5, DOWN);
    for n in 0..10 {
        flushed(&mut sandbox, &n.to_string());
        sandbox.freeze_ms(1_000);
    }
    assert!(sandbox.core.langfuse_is_bad(sandbox.now()));
    sandbox.invoke("nothing comes");
    sandbox.pass_ms(1);
    assert_eq!(ends(&mut sandbox, "nothing comes"), TELEMETRY_MS);
}

#[test]
fn as_much_as_last_time_is_sent_beside_the_handler_in_one_request() {
    let mut sandbox = sandbox();
    let mut requests = Vec::new();
    for n in 0..6 {
        let before = sandbox.core.ledger().requests;
        flushed_twice_and_more(&mut sandbox, &n.to_string(), 3);
        requests.push(sandbox.core.ledger().requests - before);
        assert_eq!(sandbox.core.held_units(), 0);
        sandbox.freeze_ms(60_000);
    }
    assert!(requests[0] <= 3, "{requests:?}");
    assert!(requests[1..].iter().all(|n| *n == 1), "{requests:?}");
}

#[test]
fn a_trace_and_its_scores_share_a_send_and_a_hold() {
    let mut sandbox = sandbox();
    for n in 0..4 {
        let id = n.to_string();
        sandbox.invoke(&id);
        let root = span_from(sandbox.now(), n, 1, Parent::None);
        sandbox.pass_ms(50);
        sandbox.post_facts(&traces(), body("trace"), vec![root]);
        sandbox.post_facts(&scores(), body("score"), Vec::new());
        let held = ends(&mut sandbox, &id);
        assert!(held <= TELEMETRY_MS + RTT_MS, "{held}");
        assert_eq!(sandbox.core.held_units(), 0);
        sandbox.freeze_ms(60_000);
    }
    assert_eq!(sandbox.core.ledger().requests, 8);
}

#[test]
fn background_sends_beside_the_handler_and_never_holds() {
    let mut sandbox = Sandbox::new(Settings {
        strategy: Strategy::Background,
        ..Settings::default()
    });
    sandbox.langfuse = Langfuse::Answers(RTT_MS, WELL);
    for n in 0..5 {
        assert_eq!(flushed(&mut sandbox, &n.to_string()), 0);
        sandbox.freeze_ms(60_000);
    }
    assert_eq!(sandbox.core.holds().releases(Why::None), 5);
}

/// INVOKE of a function of three seconds, by a clock that is so far off the platform's.
fn invoke_by_a_clock_off_by(sandbox: &mut Sandbox, id: &str, off_ms: i64) {
    let wall = u64::try_from(sandbox.now().wall.as_millis()).expect("a time");
    let deadline = wall.checked_add_signed(3_000 - off_ms).expect("a time");
    sandbox.invoke_with_deadline(id, deadline);
}

#[test]
fn a_clock_that_is_minutes_off_moves_no_deadline() {
    for off_ms in [-60_000, -2_000, 2_000, 60_000, 600_000] {
        let mut sandbox = sandbox();
        sandbox.timeout_ms = 3_000;
        sandbox.settle_in();
        for n in 0..4 {
            sandbox.freeze_ms(60_000);
            invoke_by_a_clock_off_by(&mut sandbox, &n.to_string(), off_ms);
            let held = sandbox.held_ms().expect("a bounded hold");
            assert_eq!(held, if n == 0 { 2_800 } else { 300 }, "off by {off_ms} ms");
        }
    }
}

#[test]
fn a_clock_that_was_wrong_from_the_start_is_found_out() {
    for off_ms in [-60_000, 60_000] {
        let mut sandbox = sandbox();
        for n in 0..2 {
            sandbox.freeze_ms(60_000);
            invoke_by_a_clock_off_by(&mut sandbox, &n.to_string(), off_ms);
            sandbox.runtime_done(&n.to_string());
            sandbox.held_ms();
        }
        for n in 2..4 {
            sandbox.freeze_ms(60_000);
            invoke_by_a_clock_off_by(&mut sandbox, &n.to_string(), 0);
            sandbox.runtime_done(&n.to_string());
            sandbox.held_ms();
        }
        invoke_by_a_clock_off_by(&mut sandbox, "last", 0);
        assert_eq!(sandbox.held_ms(), Some(2_800), "off by {off_ms} ms");
    }
}

#[test]
fn a_restored_snapshot_takes_neither_clocks_nor_traces_over() {
    let mut sandbox = sandbox();
    for n in 0..8 {
        flushed(&mut sandbox, &n.to_string());
        sandbox.freeze_ms(5);
    }
    let began = sandbox.now();
    let child = span_from(began, 50, 2, Parent::Local([1; 8]));
    sandbox.post_facts(&traces(), body("of the snapshot"), vec![child]);
    sandbox.freeze_ms(86_400_000);
    sandbox.tell(Event::Restored { seed: 7 });
    let held = flushed(&mut sandbox, "restored");
    assert_eq!(held, TELEMETRY_MS, "neither dense, nor torn");
    assert_eq!(sandbox.core.held_units(), 0);
}
