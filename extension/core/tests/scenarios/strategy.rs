//! Hold or overlap.

use langfuse_extension_core::Settings;
use langfuse_extension_core::strategy::Strategy;

use crate::driver::{Langfuse, Sandbox, WELL, body, scores};

fn sandbox(strategy: Strategy) -> Sandbox {
    let mut sandbox = Sandbox::new(Settings {
        strategy,
        ..Settings::default()
    });
    sandbox.langfuse = Langfuse::Answers(80, WELL);
    sandbox
}

/// Invocations with one trace and one score each. Returns what each was held, after the first twelve.
fn traffic(sandbox: &mut Sandbox, count: u64, gap_ms: u64) -> Vec<u64> {
    let mut held = Vec::new();
    for n in 0..count {
        let id = n.to_string();
        sandbox.invoke(&id);
        sandbox.pass_ms(50);
        sandbox.post_to(&scores(), body("score"));
        sandbox.post("trace");
        sandbox.pass_ms(50);
        sandbox.runtime_done(&id);
        held.push(sandbox.held_ms().expect("a bounded hold"));
        sandbox.freeze_ms(gap_ms);
    }
    held.split_off(12)
}

#[test]
fn sparse_traffic_is_held_until_sent_with_one_request_a_route() {
    let mut sandbox = sandbox(Strategy::Adaptive);
    let held = traffic(&mut sandbox, 40, 30_000);
    assert!(held.iter().all(|ms| *ms == 80 - 50), "{held:?}");
    assert_eq!(sandbox.core.held_units(), 0);
    assert_eq!(sandbox.core.ledger().requests, 2 * 40);
}

#[test]
fn dense_traffic_is_never_held_and_its_requests_are_few() {
    let mut sandbox = sandbox(Strategy::Adaptive);
    let held = traffic(&mut sandbox, 1_000, 20);
    assert!(held.iter().all(|ms| *ms == 0), "{held:?}");
    let requests = sandbox.core.ledger().requests;
    assert!(requests <= 2 * (12 + 1_000 * 120 / 5_000 + 1), "{requests}");
}

#[test]
fn dense_traffic_gets_no_older_than_the_maximum_age() {
    let mut sandbox = sandbox(Strategy::Adaptive);
    traffic(&mut sandbox, 12, 20);
    let oldest = sandbox.now();
    sandbox.post("old");
    let before = sandbox.core.ledger().delivered;
    let mut n = 0;
    while sandbox.core.ledger().delivered == before {
        n += 1;
        sandbox.invocation(&format!("next-{n}"), 100);
        sandbox.freeze_ms(20);
        let age = sandbox.now().since(oldest);
        assert!(age <= Settings::default().max_data_age, "{age:?}");
    }
}

#[test]
fn dense_traffic_too_slow_for_the_age_is_held() {
    let mut sandbox = sandbox(Strategy::Adaptive);
    let held = traffic(&mut sandbox, 40, 2_600);
    assert!(held.iter().all(|ms| *ms == 80 - 50), "{held:?}");
}

#[test]
fn traffic_that_becomes_sparse_is_held_again() {
    let mut sandbox = sandbox(Strategy::Adaptive);
    traffic(&mut sandbox, 40, 20);
    sandbox.freeze_ms(60_000);
    let held = sandbox.invocation("after a pause", 100);
    assert!(held >= 80 - 50, "{held}");
}

#[test]
fn end_holds_in_dense_traffic_too() {
    let mut sandbox = sandbox(Strategy::End);
    let held = traffic(&mut sandbox, 40, 20);
    assert!(held.iter().all(|ms| *ms == 80 - 50), "{held:?}");
}

#[test]
fn background_never_holds_and_what_is_left_goes_with_the_next_invocation() {
    let mut sandbox = sandbox(Strategy::Background);
    for n in 0..20 {
        let id = n.to_string();
        sandbox.invoke(&id);
        assert!(sandbox.released, "from its first moment");
        sandbox.pass_ms(90);
        sandbox.post("a");
        sandbox.pass_ms(10);
        sandbox.runtime_done(&id);
        sandbox.pass_ms(5);
        assert!(sandbox.core.held_units() <= 2);
        sandbox.freeze_ms(30_000);
    }
    assert!(sandbox.core.ledger().requests <= 20);
}

#[test]
fn background_sends_beside_a_long_handler() {
    let mut sandbox = sandbox(Strategy::Background);
    sandbox.invoke("r1");
    for _ in 0..50 {
        sandbox.post("step");
        sandbox.pass_ms(100);
    }
    let books = sandbox.core.ledger();
    assert!(books.delivered >= 38, "{books:?}");
    assert!(books.requests <= 5, "{books:?}");
}
