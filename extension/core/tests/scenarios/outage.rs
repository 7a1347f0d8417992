//! What an outage of Langfuse costs, and what is never lost or doubled in it.

use std::time::Duration;

use langfuse_extension_core::delivery::fact::Fact;
use langfuse_extension_core::delivery::{
    FIRST_BACKOFF, LONGEST_BACKOFF, LONGEST_RETRY_AFTER, PARDON_AFTER,
};
use langfuse_extension_core::ledger::DropReason;
use langfuse_extension_core::pipeline::{MAX_AMBIGUOUS_SENDS, PROBE_TIMEOUT};
use langfuse_extension_core::route::{Destination, Door};
use langfuse_extension_core::{Event, Settings};

use crate::driver::{DOWN, Langfuse, Sandbox, WELL, body, later, route, scores, traces};

/// After one whole trace was posted and its send failed so, within the hold.
fn after(fact: Fact) -> Sandbox {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.answer(fact);
    sandbox
}

#[test]
fn a_hung_langfuse_costs_the_budget_once_and_later_invocations_nothing() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    assert_eq!(sandbox.invocation("first", 10), 2_000);
    for n in 0..20 {
        sandbox.freeze_ms(10_000);
        let held = sandbox.invocation(&n.to_string(), 300);
        assert!(held <= 1, "invocation {n} was held for {held} ms");
    }
    assert_eq!(sandbox.core.held_units(), 21);
}

#[test]
fn a_refusing_langfuse_costs_the_budget_at_most_and_later_invocations_nothing() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.langfuse = Langfuse::Answers(5, DOWN);
    let mut held = 0;
    for n in 0..20 {
        held += sandbox.invocation(&n.to_string(), 10);
        sandbox.freeze_ms(10_000);
    }
    assert!(held <= 2_000 + 20, "{held} ms");
}

#[test]
fn deadlines_too_short_for_the_budget_share_it() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.timeout_ms = 1_000;
    sandbox.settle_in();
    let mut held = Vec::new();
    for n in 0..8 {
        let id = n.to_string();
        sandbox.invoke(&id);
        sandbox.post("a");
        sandbox.runtime_done(&id);
        held.push(sandbox.held_ms().expect("a bounded hold"));
        sandbox.freeze_ms(3_000);
    }
    assert_eq!(held[0], 800);
    assert!(held.iter().sum::<u64>() <= 2_000 + 8, "{held:?}");
}

#[test]
fn the_budget_may_be_spent_again_once_nothing_was_learned_for_long() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.invocation("first", 10);
    sandbox.freeze_ms(1_000);
    assert!(sandbox.invocation("second", 10) <= 1);
    let pardon = u64::try_from(PARDON_AFTER.as_millis()).expect("a time");
    sandbox.freeze_ms(pardon);
    assert_eq!(sandbox.invocation("third", 10), 2_000);
}

#[test]
fn a_slow_langfuse_costs_the_budget_once_and_gets_everything() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.settle_in();
    sandbox.langfuse = Langfuse::Answers(3_000, WELL);
    assert_eq!(sandbox.invocation("first", 10), 2_000);
    for n in 0..10 {
        sandbox.freeze_ms(5_000);
        let held = sandbox.invocation(&n.to_string(), 4_000);
        assert!(held <= 1, "invocation {n} was held for {held} ms");
    }
    assert!(sandbox.core.held_units() <= 2);
}

#[test]
fn no_data_is_sent_before_a_probe_came_back_well() {
    let mut sandbox = after(DOWN);
    sandbox.pass_ms(250);
    assert_eq!(sandbox.count("Export"), 1);
    assert!(sandbox.probing);
    sandbox.answer_probe(DOWN);
    sandbox.pass_ms(500);
    assert!(sandbox.probing);
    sandbox.answer_probe(WELL);
    assert_eq!(sandbox.sending(), ["a"]);
}

#[test]
fn after_a_good_probe_one_request_goes_first() {
    let mut sandbox = after(DOWN);
    sandbox.post_to(&scores(), body("score"));
    sandbox.pass_ms(250);
    sandbox.answer_probe(WELL);
    assert_eq!(sandbox.exports.len(), 1);
    sandbox.answer(WELL);
    assert_eq!(sandbox.exports.len(), 1);
}

#[test]
fn probes_are_further_and_further_apart() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.langfuse = Langfuse::Answers(0, DOWN);
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.invoke_for_ms("r1", 900_000);
    sandbox.pass_ms(1);
    sandbox.post_part("a");
    sandbox.pass_ms(10_000);
    let mut last = sandbox.now().mono;
    let mut gaps = Vec::new();
    for _ in 0..14 {
        let before = sandbox.count("Probe");
        while sandbox.count("Probe") == before {
            sandbox.pass_ms(10);
        }
        gaps.push(sandbox.now().mono - last);
        last = sandbox.now().mono;
    }
    let slack = Duration::from_millis(10);
    assert!(gaps[0] <= FIRST_BACKOFF + slack, "{gaps:?}");
    let rising = gaps[..8].windows(2).filter(|two| two[1] > two[0]).count();
    assert!(rising >= 6, "{gaps:?}");
    for gap in &gaps[9..] {
        let bounds = LONGEST_BACKOFF / 2 - slack..=LONGEST_BACKOFF + slack;
        assert!(bounds.contains(gap), "{gaps:?}");
    }
}

#[test]
fn a_probe_that_is_not_answered_is_given_up() {
    let mut sandbox = after(DOWN);
    sandbox.pass_ms(250);
    assert!(sandbox.probing);
    let timeout = u64::try_from(PROBE_TIMEOUT.as_millis()).expect("a time");
    sandbox.pass_ms(timeout);
    assert!(sandbox.probe_aborted);
}

#[test]
fn spans_that_may_have_arrived_are_sent_again_so_often_and_no_more() {
    let mut sandbox = after(Fact::NoAnswer);
    for n in 1..MAX_AMBIGUOUS_SENDS {
        assert_eq!(sandbox.core.ledger().maybe_doubled, u64::from(n) - 1);
        sandbox.pass_ms(60_000);
        sandbox.freeze_ms(400_000);
        sandbox.invoke(&format!("again-{n}"));
        sandbox.pass_ms(500);
        if sandbox.probing {
            sandbox.answer_probe(WELL);
        }
        assert_eq!(sandbox.sending(), ["a"]);
        sandbox.answer(Fact::NoAnswer);
    }
    assert_eq!(sandbox.dropped(DropReason::Ambiguous), 1);
    assert_eq!(sandbox.core.held_units(), 0);
}

#[test]
fn spans_that_may_have_arrived_are_given_up_where_the_setting_says_so() {
    let settings = Settings {
        resend_ambiguous: false,
        ..Settings::default()
    };
    let mut sandbox = Sandbox::new(settings);
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.post_to(&scores(), body("score"));
    sandbox.runtime_done("r1");
    sandbox.answer(Fact::NoAnswer);
    sandbox.answer(Fact::NoAnswer);
    assert_eq!(sandbox.dropped(DropReason::Ambiguous), 1);
    assert_eq!(
        sandbox.core.held_units(),
        1,
        "scores are safe to send again"
    );
    assert_eq!(sandbox.core.ledger().maybe_doubled, 0);
}

#[test]
fn a_throttling_langfuse_is_left_alone_as_long_as_it_asks() {
    let retry_after = Some(Duration::from_secs(30));
    let mut sandbox = after(later(429, retry_after));
    assert_eq!(sandbox.held_ms(), Some(0));
    assert!(sandbox.released, "no hold for what may not be sent in it");
    sandbox.invoke("r2");
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.pass_ms(29_999);
    assert_eq!(sandbox.count("Export") + sandbox.count("Probe"), 1);
    sandbox.pass_ms(1);
    assert_eq!(sandbox.sending(), ["a"]);
}

#[test]
fn no_retry_after_is_longer_than_its_limit() {
    let retry_after = Some(Duration::from_hours(24));
    let mut sandbox = after(later(429, retry_after));
    let limit = u64::try_from(LONGEST_RETRY_AFTER.as_millis()).expect("a time");
    sandbox.freeze_ms(limit);
    sandbox.invoke("r2");
    assert_eq!(sandbox.sending(), ["a"]);
}

#[test]
fn a_failure_that_says_when_to_come_back_is_believed() {
    let retry_after = Some(Duration::from_secs(40));
    let mut sandbox = after(later(503, retry_after));
    sandbox.freeze_ms(39_000);
    sandbox.invoke("r2");
    assert!(!sandbox.probing);
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.pass_ms(1_000);
    assert!(sandbox.probing);
}

#[test]
fn the_pass_through_opens_the_breaker_and_only_a_probe_closes_it() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.tell(Event::PassedThrough {
        fact: Fact::NoAnswer,
    });
    assert!(sandbox.core.langfuse_is_bad(sandbox.now()));
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    for status in [504, 502, 500, 404, 302] {
        let fact = Fact::status(status);
        sandbox.tell(Event::PassedThrough { fact });
        assert!(!sandbox.probing && sandbox.exports.is_empty());
    }
    sandbox.tell(Event::PassedThrough { fact: WELL });
    assert!(sandbox.probing && sandbox.exports.is_empty());
    sandbox.answer_probe(WELL);
    assert_eq!(sandbox.sending(), ["a"]);
}

#[test]
fn a_failing_pass_through_begins_no_outage_unless_nothing_answers() {
    let mut sandbox = Sandbox::new(Settings::default());
    for status in [504, 500, 404, 401, 429] {
        let fact = Fact::status(status);
        sandbox.tell(Event::PassedThrough { fact });
        assert!(!sandbox.core.langfuse_is_bad(sandbox.now()), "{status}");
    }
    let fact = Fact::NotConnected;
    sandbox.tell(Event::PassedThrough { fact });
    assert!(sandbox.core.langfuse_is_bad(sandbox.now()));
    sandbox.pass_ms(250);
    assert!(!sandbox.core.langfuse_is_bad(sandbox.now()), "it may ask");
}

#[test]
fn where_only_the_pass_through_is_used_nothing_is_probed() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.tell(Event::PassedThrough {
        fact: Fact::NoAnswer,
    });
    sandbox.pass_ms(60_000);
    assert_eq!(sandbox.count("Probe"), 0);
}

#[test]
fn an_answer_to_nobodys_question_changes_nothing() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.tell(Event::Probed {
        destination: Destination::Langfuse,
        fact: DOWN,
    });
    assert!(!sandbox.core.langfuse_is_bad(sandbox.now()));
    sandbox.invoke("r1");
    sandbox.post_to(&traces(), body("a"));
    sandbox.runtime_done("r1");
    let (id, _) = sandbox.exports[0];
    sandbox.answer(WELL);
    sandbox.tell(Event::Exported { id, fact: WELL });
    assert_eq!(sandbox.core.ledger().delivered, 1);
}

#[test]
fn no_answer_within_the_budget_counts_as_a_failure_and_less_than_it_does_not() {
    for (timeout_ms, bad) in [(60_000, true), (1_000, false)] {
        let mut sandbox = Sandbox::new(Settings::default());
        sandbox.invoke_for_ms("r1", timeout_ms);
        sandbox.post("a");
        sandbox.runtime_done("r1");
        sandbox.held_ms();
        assert_eq!(sandbox.core.langfuse_is_bad(sandbox.now()), bad);
    }
}

#[test]
fn sandboxes_restored_from_one_snapshot_do_not_retry_in_step() {
    let probes_at = |seed| {
        let mut sandbox = Sandbox::new(Settings::default());
        sandbox.tell(Event::Restored { seed });
        sandbox.invoke("r1");
        sandbox.post("a");
        sandbox.runtime_done("r1");
        sandbox.answer(DOWN);
        while !sandbox.probing {
            sandbox.pass_ms(1);
        }
        sandbox.now().mono
    };
    assert_ne!(probes_at(0x1234_5678_9abc), probes_at(0xfeed_5678_0f0f));
}

#[test]
fn what_is_passed_through_need_not_wait_for_the_end_of_a_trial() {
    let mut sandbox = after(DOWN);
    sandbox.pass_ms(250);
    assert!(sandbox.core.langfuse_is_bad(sandbox.now()));
    sandbox.answer_probe(WELL);
    assert_eq!(sandbox.sending(), ["a"]);
    assert!(!sandbox.core.langfuse_is_bad(sandbox.now()));
}

/// Langfuse gives a score that came alone an identifier of its own, each time.
#[test]
fn a_single_score_that_may_have_arrived_is_like_a_span_and_one_in_a_batch_is_not() {
    for (door, lost) in [(Door::Scores, 1), (Door::Ingestion, 0)] {
        let mut sandbox = Sandbox::new(Settings {
            resend_ambiguous: false,
            ..Settings::default()
        });
        sandbox.invoke("r1");
        sandbox.post_to(&route(door, "a"), body("score"));
        sandbox.runtime_done("r1");
        sandbox.answer(Fact::NoAnswer);
        assert_eq!(sandbox.dropped(DropReason::Ambiguous), lost, "{door:?}");
        assert_eq!(sandbox.core.held_units(), 1 - lost, "{door:?}");
    }
}
