//! Bounded, whatever arrives, where no disk takes what has to make room.

use langfuse_extension_core::Settings;
use langfuse_extension_core::buffer::{ITEM_OVERHEAD_BYTES, MAX_ROUTES};
use langfuse_extension_core::ledger::DropReason;
use langfuse_extension_core::route::Door;

use crate::driver::{DOWN, Langfuse, Sandbox, TOO_LARGE, WELL, body, route, sized, traces};

fn with_room_for(items: usize, bytes: usize) -> Sandbox {
    let mut sandbox = Sandbox::new(Settings {
        buffer_bytes: items * (bytes + ITEM_OVERHEAD_BYTES),
        spool: false,
        ..Settings::default()
    });
    sandbox.invoke("r1");
    sandbox
}

#[test]
fn a_full_buffer_lets_the_oldest_go() {
    let mut sandbox = with_room_for(2, 100);
    sandbox.post_part("first");
    sandbox.post_part("second");
    assert_eq!(sandbox.dropped(DropReason::BufferFull), 0);
    sandbox.post_part("third");
    assert_eq!(sandbox.dropped(DropReason::BufferFull), 1);
    sandbox.runtime_done("r1");
    sandbox.pass_ms(300);
    assert_eq!(sandbox.sending(), ["second", "third"]);
}

#[test]
fn the_oldest_of_all_routes_goes_first() {
    let mut sandbox = with_room_for(2, 100);
    sandbox.post_part("first");
    sandbox.post_part_to(&route(Door::TracesJson, "a"), body("second"));
    sandbox.post_part("third");
    sandbox.post_part("fourth");
    sandbox.runtime_done("r1");
    sandbox.pass_ms(300);
    assert_eq!(sandbox.sending(), ["third", "fourth"]);
}

#[test]
fn what_is_larger_than_the_buffer_costs_nothing_else_its_place() {
    let mut sandbox = with_room_for(2, 100);
    sandbox.post("a");
    sandbox.post_to(&traces(), sized(3, 1_000));
    assert_eq!(sandbox.dropped(DropReason::BufferFull), 3);
    assert_eq!(sandbox.core.held_units(), 1);
}

#[test]
fn what_is_under_way_still_counts() {
    let mut sandbox = with_room_for(1, 100);
    sandbox.post("a");
    sandbox.runtime_done("r1");
    assert_eq!(sandbox.exports.len(), 1);
    sandbox.post("b");
    assert_eq!(sandbox.dropped(DropReason::BufferFull), 1);
    sandbox.answer(WELL);
    sandbox.post("c");
    assert_eq!(sandbox.core.held_units(), 1);
}

#[test]
fn parts_that_need_more_room_than_the_whole_stay_within_the_limit() {
    let mut sandbox = with_room_for(1, 100_000);
    sandbox.post_to(&traces(), sized(4, 100_000));
    sandbox.runtime_done("r1");
    sandbox.answer(TOO_LARGE);
    assert_eq!(sandbox.dropped(DropReason::BufferFull), 2);
    assert!(sandbox.core.held_bytes() <= 100_000 + ITEM_OVERHEAD_BYTES);
}

#[test]
fn routes_are_never_a_reason_to_drop_and_many_of_them_are_due_at_once() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    for n in 0..MAX_ROUTES {
        sandbox.post_part_to(&route(Door::TracesJson, &n.to_string()), body("a"));
    }
    assert_eq!(sandbox.exports.len(), 0);
    for n in MAX_ROUTES..4 * MAX_ROUTES {
        sandbox.post_part_to(&route(Door::TracesJson, &n.to_string()), body("a"));
    }
    assert_eq!(sandbox.exports[0].1.route, route(Door::TracesJson, "0"));
    sandbox.runtime_done("r1");
    while !sandbox.released {
        if sandbox.exports.is_empty() {
            sandbox.pass_ms(1);
        } else {
            sandbox.answer(WELL);
        }
    }
    let books = sandbox.core.ledger();
    let all = u64::try_from(4 * MAX_ROUTES).expect("a count");
    assert_eq!((books.delivered, books.dropped.total()), (all, 0));
}

#[test]
fn of_many_routes_the_oldest_gives_way_when_bytes_run_out() {
    let mut sandbox = with_room_for(2 * MAX_ROUTES, 100);
    for n in 0..=2 * MAX_ROUTES {
        sandbox.post_part_to(&route(Door::TracesJson, &n.to_string()), body("a"));
    }
    // Those of the first routes are on their way.
    assert_eq!(sandbox.exports.len(), 4);
    assert_eq!(sandbox.dropped(DropReason::BufferFull), 1);
}

#[test]
fn a_failed_request_goes_back_before_what_came_later() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post("first");
    sandbox.runtime_done("r1");
    sandbox.post("second");
    sandbox.answer(DOWN);
    sandbox.pass_ms(250);
    sandbox.answer_probe(WELL);
    assert_eq!(sandbox.sending(), ["first", "second"]);
}

#[test]
fn twenty_thousand_tiny_items_go_through_an_outage() {
    let mut sandbox = Sandbox::new(Settings {
        buffer_bytes: 20_000 * (1 + ITEM_OVERHEAD_BYTES),
        spool: false,
        ..Settings::default()
    });
    sandbox.invoke("r1");
    sandbox.langfuse = Langfuse::Answers(1, DOWN);
    for _ in 0..20_001 {
        sandbox.post_to(&traces(), sized(1, 1));
    }
    assert_eq!(sandbox.dropped(DropReason::BufferFull), 1);
    assert_eq!(sandbox.core.held_units(), 20_000);
    assert!(sandbox.core.held_bytes() <= 20_000 * (1 + ITEM_OVERHEAD_BYTES));
    sandbox.langfuse = Langfuse::Answers(1, WELL);
    let ids = ["r2", "r3", "r4"];
    for id in ids {
        sandbox.runtime_done("r1");
        sandbox.held_ms();
        sandbox.freeze_ms(400_000);
        sandbox.invoke(id);
        sandbox.pass_ms(1_000);
    }
    assert_eq!(sandbox.core.held_units(), 0);
}

#[test]
fn every_byte_is_charged_until_its_item_is_done_with() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post_part("a");
    sandbox.post_part("b");
    assert_eq!(sandbox.core.held_bytes(), 2 * (100 + ITEM_OVERHEAD_BYTES));
    sandbox.runtime_done("r1");
    sandbox.pass_ms(300);
    assert_eq!(sandbox.core.held_bytes(), 2 * (100 + ITEM_OVERHEAD_BYTES));
    sandbox.answer(WELL);
    assert_eq!(sandbox.core.held_bytes(), 0);
}

#[test]
fn parts_that_fit_exactly_cost_nothing() {
    let mut sandbox = Sandbox::new(Settings {
        buffer_bytes: 1_000 + 2 * ITEM_OVERHEAD_BYTES,
        ..Settings::default()
    });
    sandbox.invoke("r1");
    sandbox.post_to(&traces(), sized(2, 1_000));
    sandbox.runtime_done("r1");
    sandbox.answer(TOO_LARGE);
    assert_eq!(sandbox.core.held_units(), 2);
}
