//! Whose fault a refusal or a silence is: the keys', the host's, or that of one item among many.

use std::collections::BTreeSet;

use langfuse_extension_core::delivery::fact::{Answer, Fact, Whose};
use langfuse_extension_core::delivery::{
    CREDENTIAL_WAIT, FIRST_REQUEST_BYTES, FIRST_REQUEST_ITEMS, LIMIT_HOLDS_FOR,
    MAX_REFUSED_IN_A_ROW, MAX_REFUSED_PARTS,
};
use langfuse_extension_core::ledger::DropReason;
use langfuse_extension_core::route::Door;
use langfuse_extension_core::{Event, Settings};

use crate::driver::{
    Body, DOWN, FORBIDDEN, REFUSED, Sandbox, TOO_LARGE, UNAUTHORIZED, UNAUTHORIZED_BY_AN_EDGE,
    WELL, body, route, scores, sized, traces,
};

/// Telemetry speaks and the invocation has a quarter of an hour, so that time alone decides what is sent.
fn invoked() -> Sandbox {
    let mut sandbox = Sandbox::new(Settings {
        flush_budget: std::time::Duration::from_mins(14),
        request_timeout: std::time::Duration::from_mins(14),
        ..Settings::default()
    });
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.invoke_for_ms("r1", 900_000);
    sandbox
}

/// It ends with parts of traces only, so that all that came is sent at once, after a grace.
fn work_ends(sandbox: &mut Sandbox) {
    sandbox.runtime_done("r1");
    sandbox.pass_ms(300);
}

/// How somebody before Langfuse refuses what it does not like.
const BY_AN_EDGE: [Fact; 2] = [FORBIDDEN, UNAUTHORIZED_BY_AN_EDGE];

fn name(n: usize) -> &'static str {
    n.to_string().leak()
}

/// Posts so many single items, one of them bad, and ends the work.
fn with_one_bad(items: usize, bad: &'static str) -> Sandbox {
    let mut sandbox = invoked();
    for n in 0..items {
        sandbox.post_part(if n == items / 3 { bad } else { name(n) });
    }
    work_ends(&mut sandbox);
    sandbox
}

/// What Langfuse took, by name, until nothing is held or `turns` are over. A request that holds a bad item ends so.
fn deliver(sandbox: &mut Sandbox, bad: Fact, turns: u32) -> BTreeSet<&'static str> {
    deliver_if(sandbox, bad, turns, |item| item.name == "bad")
}

fn deliver_if(
    sandbox: &mut Sandbox,
    end: Fact,
    turns: u32,
    is_bad: impl Fn(&Body) -> bool,
) -> BTreeSet<&'static str> {
    let mut taken = BTreeSet::new();
    for _ in 0..turns {
        if sandbox.core.held_units() == 0 {
            break;
        }
        if sandbox.probing {
            sandbox.answer_probe(WELL);
        } else if let Some((_, batch)) = sandbox.exports.front() {
            let items: Vec<_> = batch
                .items
                .iter()
                .map(|item| item.payload.clone())
                .collect();
            if items.iter().any(&is_bad) {
                sandbox.answer(end);
            } else {
                taken.extend(items.iter().map(|item| item.name));
                sandbox.answer(WELL);
            }
        } else {
            sandbox.pass_ms(50);
        }
    }
    taken
}

fn all_but_the_bad(items: usize) -> BTreeSet<&'static str> {
    (0..items).filter(|n| *n != items / 3).map(name).collect()
}

#[test]
fn one_span_that_a_firewall_refuses_is_found_and_blocks_nobody() {
    for refusal in BY_AN_EDGE {
        let mut sandbox = with_one_bad(51, "bad");
        let taken = deliver(&mut sandbox, refusal, 2_000);
        assert_eq!(taken, all_but_the_bad(51));
        assert_eq!(sandbox.dropped(DropReason::Refused), 1);
        assert_eq!(sandbox.core.held_units(), 0);
        let books = sandbox.core.ledger();
        assert!(books.requests <= 30, "found by halving: {books:?}");
    }
}

/// A client's request of 64 spans, one of them bad.
fn with_a_bad_span() -> Sandbox {
    let mut sandbox = invoked();
    let payload = Body {
        name: "bad",
        ..sized(64, 6_400)
    };
    sandbox.post_part_to(&traces(), payload);
    work_ends(&mut sandbox);
    sandbox
}

#[test]
fn one_bad_span_of_a_clients_request_is_cut_out_of_it() {
    for end in [REFUSED, FORBIDDEN, UNAUTHORIZED_BY_AN_EDGE] {
        let mut sandbox = with_a_bad_span();
        deliver(&mut sandbox, end, 1_000);
        assert_eq!(sandbox.dropped(DropReason::Refused), 1);
        assert_eq!(sandbox.core.ledger().delivered, 63);
    }
}

#[test]
fn a_refusal_that_a_probe_confirms_is_the_keys_fault_and_drops_nothing() {
    for refusal in BY_AN_EDGE {
        let mut sandbox = with_one_bad(10, "bad");
        sandbox.answer(refusal);
        sandbox.pass_ms(250);
        sandbox.answer_probe(refusal);
        let wait = u64::try_from(CREDENTIAL_WAIT.as_millis()).expect("a time");
        sandbox.pass_ms(wait - 1);
        assert_eq!(sandbox.count("Probe"), 1);
        assert_eq!(sandbox.core.held_units(), 10);
        assert_eq!(sandbox.core.ledger().dropped.total(), 0);
    }
}

#[test]
fn keys_that_langfuse_itself_refuses_are_at_fault_however_good_their_probes_are() {
    let mut sandbox = with_one_bad(10, "bad");
    deliver_if(&mut sandbox, UNAUTHORIZED, 4_000, |_| true);
    assert_eq!(sandbox.core.held_units(), 10);
}

#[test]
fn a_suspended_organisation_is_held_however_good_its_probes_are() {
    let suspended = Fact::Answered(Answer {
        suspended: true,
        whose: Whose::Langfuse,
        ..Answer::status(403)
    });
    let mut sandbox = with_one_bad(10, "bad");
    deliver_if(&mut sandbox, suspended, 4_000, |_| true);
    assert_eq!(sandbox.core.held_units(), 10);
}

#[test]
fn a_firewall_that_refuses_whatever_it_is_sent_loses_a_few_and_no_more() {
    for whose in [FORBIDDEN, Fact::status(400)] {
        let mut sandbox = with_one_bad(40, "bad");
        deliver_if(&mut sandbox, whose, 4_000, |_| true);
        let lost = u64::try_from(MAX_REFUSED_IN_A_ROW).expect("a count");
        assert_eq!(sandbox.dropped(DropReason::Refused), lost);
        assert_eq!(sandbox.core.held_units(), 40 - lost);
        // When it lets go, nothing was lost to it but those few.
        sandbox.freeze_ms(120_000);
        deliver_if(&mut sandbox, FORBIDDEN, 4_000, |_| false);
        assert_eq!(sandbox.core.ledger().delivered, 40 - lost);
    }
}

#[test]
fn while_all_of_an_endpoint_is_refused_it_is_asked_less_and_less_and_others_go_on() {
    let mut sandbox = invoked();
    for n in 0..10 {
        sandbox.post_part(name(n));
    }
    work_ends(&mut sandbox);
    deliver_if(&mut sandbox, Fact::status(400), 300, |_| true);
    let before = sandbox.core.ledger().requests;
    sandbox.post_part_to(&scores(), body("score"));
    deliver_if(&mut sandbox, Fact::status(400), 10, |item| {
        item.name != "score"
    });
    assert_eq!(sandbox.core.ledger().delivered, 1);
    for _ in 0..60 {
        deliver_if(&mut sandbox, Fact::status(400), 20, |_| true);
    }
    let asked = sandbox.core.ledger().requests - before;
    assert!(asked <= 16, "{asked} requests in a minute");
}

#[test]
fn several_spans_that_langfuse_itself_refuses_are_all_given_up() {
    let mut sandbox = invoked();
    for n in 0..40 {
        sandbox.post_part(if n % 4 == 0 { "bad" } else { name(n) });
    }
    work_ends(&mut sandbox);
    let taken = deliver(&mut sandbox, REFUSED, 2_000);
    assert_eq!(taken.len(), 30);
    assert_eq!(sandbox.dropped(DropReason::Refused), 10);
}

#[test]
fn a_request_of_which_every_part_is_refused_is_not_cut_to_the_last_span() {
    let mut sandbox = invoked();
    sandbox.post_part_to(&traces(), sized(512, 51_200));
    work_ends(&mut sandbox);
    deliver_if(&mut sandbox, REFUSED, 4_000, |_| true);
    assert_eq!(sandbox.dropped(DropReason::Refused), 512);
    let most = 2 * u64::from(MAX_REFUSED_PARTS);
    assert!(sandbox.core.ledger().requests <= most);
}

#[test]
fn what_langfuse_names_as_not_taken_is_booked_as_refused() {
    let some = Fact::Answered(Answer {
        refused_units: 7,
        ..Answer::status(207)
    });
    let mut sandbox = invoked();
    sandbox.post_part_to(&scores(), sized(1_000, 60_000));
    work_ends(&mut sandbox);
    sandbox.answer(some);
    let books = sandbox.core.ledger();
    assert_eq!(
        (books.delivered, sandbox.dropped(DropReason::Refused)),
        (993, 7)
    );
    assert_eq!(sandbox.marks.last().map(|(mark, _)| *mark), Some("Forget"));
}

#[test]
fn an_answer_cannot_refuse_more_than_it_was_sent() {
    let absurd = Fact::Answered(Answer {
        refused_units: u64::MAX,
        ..Answer::status(207)
    });
    let mut sandbox = invoked();
    sandbox.post_part("a");
    work_ends(&mut sandbox);
    sandbox.answer(absurd);
    assert_eq!(sandbox.core.ledger().delivered, 0);
    assert_eq!(sandbox.dropped(DropReason::Refused), 1);
}

#[test]
fn what_an_ingress_answers_during_a_roll_out_drops_nothing() {
    for status in [404, 405, 302, 308, 421] {
        let mut sandbox = with_one_bad(5, "bad");
        sandbox.answer(Fact::status(status));
        for _ in 0..6 {
            sandbox.pass_ms(60_000);
            assert!(sandbox.probing, "{status}");
            assert_eq!(sandbox.exports.len(), 0, "{status}");
            sandbox.answer_probe(Fact::status(status));
        }
        sandbox.pass_ms(60_000);
        let taken = deliver_if(&mut sandbox, DOWN, 100, |_| false);
        assert_eq!(taken.len(), 5, "{status}");
    }
}

#[test]
fn an_outage_behind_a_load_balancer_costs_one_send_and_then_probes() {
    let mut sandbox = with_one_bad(5, "bad");
    sandbox.answer(Fact::status(503));
    for _ in 0..10 {
        sandbox.pass_ms(60_000);
        sandbox.answer_probe(Fact::status(503));
    }
    assert_eq!(sandbox.count("Export"), 1);
    assert_eq!(sandbox.core.held_units(), 5);
    sandbox.pass_ms(60_000);
    deliver_if(&mut sandbox, DOWN, 100, |_| false);
    assert_eq!(sandbox.core.ledger().delivered, 5);
    assert_eq!(sandbox.core.ledger().maybe_doubled, 5);
}

#[test]
fn a_span_that_langfuse_does_not_bear_takes_no_neighbour_along() {
    let mut sandbox = with_one_bad(100, "bad");
    let taken = deliver(&mut sandbox, Fact::NoAnswer, 4_000);
    assert_eq!(taken, all_but_the_bad(100));
    assert_eq!(sandbox.dropped(DropReason::Ambiguous), 1);
    assert_eq!(sandbox.core.held_units(), 0);
}

#[test]
fn a_span_that_langfuse_does_not_bear_is_cut_out_of_its_clients_request() {
    let mut sandbox = with_a_bad_span();
    deliver(&mut sandbox, Fact::NoAnswer, 4_000);
    assert_eq!(sandbox.dropped(DropReason::Ambiguous), 1);
    assert_eq!(sandbox.core.ledger().delivered, 63);
    // 64 and then 8 spans were sent again.
    assert_eq!(sandbox.core.ledger().maybe_doubled, 64 + 8);
}

#[test]
fn an_outage_makes_no_request_smaller_once_it_is_over() {
    let mut sandbox = with_one_bad(100, "bad");
    sandbox.answer(Fact::NoAnswer);
    sandbox.pass_ms(250);
    sandbox.answer_probe(DOWN);
    sandbox.pass_ms(60_000);
    sandbox.answer_probe(WELL);
    assert_eq!(sandbox.sending().len(), FIRST_REQUEST_ITEMS);
}

#[test]
fn after_an_outage_a_little_is_sent_first_and_twice_as_much_each_time() {
    let mut sandbox = invoked();
    sandbox.post_part("first");
    sandbox.pass_ms(10_000);
    sandbox.answer(Fact::status(500));
    for _ in 0..200 {
        sandbox.post_part_to(&traces(), sized(1, 1_000));
    }
    work_ends(&mut sandbox);
    sandbox.pass_ms(250);
    sandbox.answer_probe(WELL);
    let mut sizes = Vec::new();
    while sandbox.core.held_units() > 0 {
        sandbox.pass_ms(1);
        let sent: Vec<_> = sandbox.exports.drain(..).collect();
        if sizes.is_empty() {
            assert!(sent.len() <= 1, "one request goes first");
        }
        for (id, batch) in sent {
            sizes.push(batch.items.len());
            sandbox.tell(Event::Exported { id, fact: WELL });
        }
    }
    let first = FIRST_REQUEST_ITEMS;
    assert_eq!(sizes[..3], [first, 2 * first, 4 * first]);
}

#[test]
fn after_an_outage_the_first_request_is_small_in_bytes_too() {
    let mut sandbox = invoked();
    for _ in 0..4 {
        sandbox.post_part_to(&traces(), sized(1, FIRST_REQUEST_BYTES / 2));
    }
    work_ends(&mut sandbox);
    sandbox.answer(Fact::status(500));
    sandbox.pass_ms(250);
    sandbox.answer_probe(WELL);
    assert_eq!(sandbox.sending().len(), 2);
}

#[test]
fn storage_that_fails_while_probes_are_good_burns_no_sends_but_those_of_a_few() {
    let mut sandbox = with_one_bad(100, "bad");
    for _ in 0..20 {
        deliver_if(&mut sandbox, Fact::status(500), 60, |_| true);
    }
    assert_eq!(sandbox.core.held_units(), 100);
    assert_eq!(sandbox.core.ledger().dropped.total(), 0);
    sandbox.pass_ms(60_000);
    deliver_if(&mut sandbox, DOWN, 2_000, |_| false);
    assert_eq!(sandbox.core.ledger().delivered, 100);
}

#[test]
fn what_travels_alone_shares_no_request() {
    let mut sandbox = invoked();
    for name in ["a", "b", "alone", "alone", "c", "d"] {
        sandbox.post_part(name);
    }
    work_ends(&mut sandbox);
    let mut requests = Vec::new();
    while !sandbox.exports.is_empty() {
        requests.push(sandbox.sending());
        sandbox.answer(WELL);
    }
    let expected = vec![vec!["a", "b"], vec!["alone"], vec!["alone"], vec!["c", "d"]];
    assert_eq!(requests, expected);
}

#[test]
fn a_413_concerns_its_own_endpoint_and_is_forgotten_after_a_while() {
    let mut sandbox = invoked();
    sandbox.post_part_to(&traces(), sized(1, 2_000_000));
    sandbox.pass_ms(10_000);
    sandbox.answer(TOO_LARGE);
    let post_two = |sandbox: &mut Sandbox, door| {
        for _ in 0..2 {
            sandbox.post_part_to(&route(door, "a"), sized(1, 900_000));
        }
        sandbox.pass_ms(10_000);
        let items = sandbox.exports[0].1.items.len();
        while !sandbox.exports.is_empty() {
            sandbox.answer(WELL);
            sandbox.pass_ms(10_000);
        }
        items
    };
    assert_eq!(post_two(&mut sandbox, Door::TracesProtobuf), 1);
    assert_eq!(post_two(&mut sandbox, Door::Ingestion), 2);
    let while_ = u64::try_from(LIMIT_HOLDS_FOR.as_millis()).expect("a time");
    sandbox.freeze_ms(while_);
    sandbox.invoke_for_ms("r2", 900_000);
    assert_eq!(post_two(&mut sandbox, Door::TracesProtobuf), 2);
    assert_eq!(post_two(&mut sandbox, Door::TracesProtobuf), 2);
}

#[test]
fn what_is_known_to_be_too_large_is_cut_without_being_sent() {
    let mut sandbox = invoked();
    sandbox.post_part_to(&traces(), sized(64, 16_000_000));
    work_ends(&mut sandbox);
    let mut too_large = 0;
    while sandbox.core.held_units() > 0 {
        let Some((_, batch)) = sandbox.exports.front() else {
            sandbox.pass_ms(10);
            continue;
        };
        let is_too_large = batch.request_bytes() > 1_000_000;
        too_large += u32::from(is_too_large);
        sandbox.answer(if is_too_large { TOO_LARGE } else { WELL });
    }
    assert_eq!(sandbox.core.ledger().delivered, 64);
    assert_eq!(too_large, 4, "16, 8, 4 and 2 MB");
}

#[test]
fn keys_that_never_come_are_paid_for_once() {
    let mut sandbox = Sandbox::unregistered(Settings::default());
    sandbox.tell(Event::Registered { invoke: true });
    let held = |sandbox: &mut Sandbox, id: &str| {
        sandbox.invoke(id);
        sandbox.post_to(&crate::driver::configured(), body("a"));
        sandbox.runtime_done(id);
        sandbox.held_ms().expect("a bounded hold")
    };
    assert_eq!(held(&mut sandbox, "first"), 2_000);
    for n in 0..6 {
        sandbox.freeze_ms(400_000);
        let ms = held(&mut sandbox, name(n));
        assert!(ms <= 300, "{ms} ms");
    }
}

#[test]
fn refused_keys_are_paid_for_once() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.answer(UNAUTHORIZED);
    for n in 0..5 {
        sandbox.freeze_ms(400_000);
        sandbox.invoke(name(n));
        sandbox.runtime_done(name(n));
        let held = sandbox.held_ms().expect("a bounded hold");
        assert!(n == 0 || held <= 300, "{held} ms");
        sandbox.answer_probe(UNAUTHORIZED);
    }
}

#[test]
fn after_an_outage_the_budget_is_back_as_soon_as_data_was_taken_in_time() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    assert_eq!(sandbox.invocation("first", 10), 2_000);
    sandbox.freeze_ms(1_000);
    // It hangs no more: the answers are there at the next thaw, and after that at once.
    sandbox.invoke("second");
    sandbox.pass_ms(250);
    sandbox.answer(Fact::NoAnswer);
    sandbox.pass_ms(250);
    sandbox.answer_probe(WELL);
    sandbox.runtime_done("second");
    assert!(!sandbox.released, "one small request may show it");
    sandbox.pass_ms(30);
    sandbox.answer(WELL);
    sandbox.pass_ms(300);
    assert!(sandbox.released);
    sandbox.freeze_ms(10_000);
    sandbox.langfuse = crate::driver::Langfuse::Answers(1_900, WELL);
    let held = sandbox.invocation("third", 10);
    assert!((1_880..=1_900).contains(&held), "{held} ms");
}

#[test]
fn a_langfuse_whose_probes_are_good_and_whose_data_hangs_costs_the_budget_and_one_trial() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    let mut held = 0;
    for n in 0..20 {
        sandbox.invoke(name(n));
        sandbox.post("trace");
        sandbox.runtime_done(name(n));
        while !sandbox.released {
            if sandbox.probing {
                sandbox.answer_probe(WELL);
            }
            sandbox.pass_ms(1);
            held += 1;
        }
        sandbox.pass_ms(250);
        while let Some(id) = sandbox.aborted.pop() {
            if sandbox.exports.iter().any(|(export, _)| *export == id) {
                sandbox.answer(Fact::NoAnswer);
            }
        }
        if sandbox.probing {
            sandbox.answer_probe(WELL);
        }
        sandbox.freeze_ms(10_000);
    }
    assert!(held <= 2_500 + 20, "{held} ms");
}
