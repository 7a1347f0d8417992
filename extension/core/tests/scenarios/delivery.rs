//! What an answer means for the data that it is about.

use langfuse_extension_core::Settings;
use langfuse_extension_core::delivery::fact::Fact;
use langfuse_extension_core::ledger::DropReason;
use langfuse_extension_core::pipeline::{
    MAX_FAILURES, MAX_IN_FLIGHT, SMALLEST_REQUEST_LIMIT_BYTES,
};
use langfuse_extension_core::route::Door;

use crate::driver::{DOWN, REFUSED, Sandbox, TOO_LARGE, WELL, body, route, scores, sized, traces};

/// Holding, with everything due.
fn flushing(names: &[&'static str]) -> Sandbox {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke_for_ms("r1", 900_000);
    for name in names {
        sandbox.post(name);
    }
    sandbox.runtime_done("r1");
    sandbox
}

/// Answers until the sandbox is released: well, but to what contains the bad one. Returns how often that was sent.
fn answer_all(sandbox: &mut Sandbox, bad: &str, fact: Fact) -> u32 {
    let mut sends = 0;
    while !sandbox.released {
        if sandbox.probing {
            sandbox.answer_probe(WELL);
        } else if sandbox.sending().contains(&bad) {
            sends += 1;
            sandbox.answer(fact);
        } else if !sandbox.exports.is_empty() {
            sandbox.answer(WELL);
        } else {
            sandbox.pass_ms(10);
        }
    }
    sends
}

/// An invocation long after the last one, with another body.
fn next_invocation(sandbox: &mut Sandbox, id: &str) {
    sandbox.freeze_ms(400_000);
    sandbox.invoke_for_ms(id, 900_000);
    sandbox.post(id.to_owned().leak());
    sandbox.runtime_done(id);
}

#[test]
fn what_langfuse_refuses_is_given_up_and_poisons_nobody() {
    let mut names = vec!["good"; 511];
    names.insert(300, "bad");
    let mut sandbox = flushing(&names);
    answer_all(&mut sandbox, "bad", REFUSED);
    assert_eq!(sandbox.core.ledger().delivered, 511);
    assert_eq!(sandbox.dropped(DropReason::Refused), 1);
    let requests = sandbox.core.ledger().requests;
    assert!(requests <= 24, "found by halving: {requests} requests");
}

#[test]
fn what_langfuse_fails_on_again_and_again_is_found_out_and_given_up() {
    let mut sandbox = flushing(&["bad", "good", "good"]);
    let mut sends = answer_all(&mut sandbox, "bad", DOWN);
    for n in 0..10 {
        next_invocation(&mut sandbox, &n.to_string());
        sends += answer_all(&mut sandbox, "bad", DOWN);
    }
    assert_eq!(sandbox.dropped(DropReason::Failed), 1);
    assert_eq!(sandbox.core.held_units(), 0);
    assert!(sends <= 10, "{sends}");
}

#[test]
fn an_outage_alone_gives_nothing_up_however_often_it_is_tried() {
    let mut sandbox = flushing(&["bad"]);
    let mut sends = 0;
    while sends < 2 * MAX_FAILURES {
        sends += answer_all(&mut sandbox, "bad", DOWN);
        sandbox.freeze_ms(400_000);
        sandbox.invoke_for_ms("again", 900_000);
        sandbox.runtime_done("again");
    }
    assert_eq!(sandbox.core.held_units(), 1);
    assert_eq!(sandbox.core.ledger().dropped.total(), 0);
}

#[test]
fn what_fails_alone_at_its_endpoint_is_given_up_after_so_many_failures() {
    let mut sandbox = flushing(&["a trace"]);
    sandbox.post_to(&scores(), body("bad"));
    let mut sends = answer_all(&mut sandbox, "bad", DOWN);
    for n in 0..MAX_FAILURES {
        next_invocation(&mut sandbox, &n.to_string());
        sends += answer_all(&mut sandbox, "bad", DOWN);
    }
    assert!((MAX_FAILURES..MAX_FAILURES + 5).contains(&sends), "{sends}");
    assert_eq!(sandbox.dropped(DropReason::Failed), 1);
}

#[test]
fn a_route_that_always_fails_does_not_starve_the_others() {
    let mut sandbox = flushing(&["bad"]);
    sandbox.post_to(&route(Door::TracesJson, "a"), body("good"));
    assert_eq!(sandbox.exports.len(), 2);
    sandbox.answer(DOWN);
    sandbox.answer(DOWN);
    answer_all(&mut sandbox, "bad", DOWN);
    assert_eq!(sandbox.core.ledger().delivered, 1);
}

#[test]
fn a_request_too_large_is_made_smaller_and_stays_so() {
    let mut sandbox = flushing(&[]);
    sandbox.pass_ms(300);
    sandbox.invoke_for_ms("r2", 900_000);
    sandbox.post_to(&traces(), sized(8, 2_000_000));
    sandbox.runtime_done("r2");
    sandbox.answer(TOO_LARGE);
    assert_eq!(sandbox.exports[0].1.request_bytes(), 1_000_000);
    sandbox.answer(WELL);
    sandbox.answer(WELL);
    assert_eq!(sandbox.core.ledger().delivered, 8);
    sandbox.pass_ms(300);
    sandbox.invoke_for_ms("r3", 900_000);
    sandbox.post_to(&traces(), sized(1, 600_000));
    sandbox.post_to(&traces(), sized(1, 600_000));
    sandbox.runtime_done("r3");
    sandbox.pass_ms(300);
    assert_eq!(sandbox.exports[0].1.items.len(), 1);
}

#[test]
fn a_single_span_too_large_is_given_up() {
    let mut sandbox = flushing(&["a"]);
    sandbox.answer(TOO_LARGE);
    assert_eq!(sandbox.dropped(DropReason::TooLarge), 1);
}

#[test]
fn requests_are_not_made_smaller_than_the_smallest_limit() {
    let mut sandbox = flushing(&[]);
    sandbox.post_to(&traces(), sized(1, 100));
    sandbox.answer(TOO_LARGE);
    sandbox.pass_ms(1_000);
    sandbox.invoke_for_ms("r2", 900_000);
    let third = SMALLEST_REQUEST_LIMIT_BYTES / 3;
    for _ in 0..4 {
        sandbox.post_part_to(&traces(), sized(1, third));
    }
    sandbox.runtime_done("r2");
    sandbox.pass_ms(300);
    assert_eq!(sandbox.exports[0].1.items.len(), 3);
}

#[test]
fn so_many_requests_are_under_way_at_most_and_one_for_each_route() {
    let mut sandbox = flushing(&[]);
    for n in 0..MAX_IN_FLIGHT + 2 {
        let route = route(Door::TracesJson, &n.to_string());
        sandbox.post_to(&route, body("a"));
        sandbox.post_to(&route, body("b"));
    }
    sandbox.pass_ms(400);
    assert_eq!(sandbox.exports.len(), MAX_IN_FLIGHT);
    sandbox.answer(WELL);
    assert_eq!(sandbox.exports.len(), MAX_IN_FLIGHT);
}

#[test]
fn requests_stay_within_bytes_and_units_and_single_scores_alone() {
    for (door, limits) in [
        (Door::TracesProtobuf, (4_000_000, 512)),
        (Door::Ingestion, (3_500_000, 512)),
    ] {
        let mut sandbox = flushing(&[]);
        sandbox.pass_ms(300);
        sandbox.invoke_for_ms("r2", 900_000);
        let route = route(door, "a");
        sandbox.post_part_to(&route, sized(500, limits.0 - 20));
        sandbox.post_part_to(&route, sized(1, 10));
        sandbox.post_part_to(&route, sized(11, 10));
        sandbox.post_part_to(&route, sized(1, 1));
        sandbox.runtime_done("r2");
        sandbox.pass_ms(300);
        let batch = &sandbox.exports[0].1;
        assert_eq!((batch.request_bytes(), batch.units()), limits);
    }
    let mut sandbox = flushing(&[]);
    sandbox.pass_ms(300);
    sandbox.invoke_for_ms("r2", 900_000);
    let route = route(Door::Scores, "a");
    sandbox.post_part_to(&route, body("a"));
    sandbox.post_part_to(&route, body("b"));
    sandbox.runtime_done("r2");
    sandbox.pass_ms(300);
    assert_eq!(sandbox.sending(), ["a"]);
}

#[test]
fn a_full_request_is_sent_without_waiting_for_the_end_of_work() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post_part_to(&traces(), sized(511, 1));
    assert_eq!(sandbox.exports.len(), 0);
    sandbox.post_part_to(&traces(), sized(1, 1));
    assert_eq!(sandbox.exports.len(), 1);
}
