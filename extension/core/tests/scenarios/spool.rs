//! What the spool is told, and in which order.

use langfuse_extension_core::buffer::ItemId;
use langfuse_extension_core::delivery::fact::Fact;
use langfuse_extension_core::ledger::DropReason;
use langfuse_extension_core::{Event, Settings};

use crate::driver::{
    DOWN, REFUSED, Sandbox, TOO_LARGE, UNAUTHORIZED, WELL, body, later, scores, sized, traces,
};

fn recovered(sent: bool, settings: Settings) -> Sandbox {
    let mut sandbox = Sandbox::new(settings);
    sandbox.tell(Event::Recovered {
        route: traces(),
        payload: body("left behind"),
        sent,
    });
    sandbox
}

fn sent_once() -> Sandbox {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox
}

const FIRST: [ItemId; 1] = [ItemId(0)];

#[test]
fn an_item_is_stored_before_it_is_acknowledged_and_marked_before_it_is_sent() {
    let mut sandbox = sent_once();
    assert_eq!(sandbox.done, ["Store", "MarkSent", "Export"]);
    sandbox.answer(WELL);
    assert_eq!(sandbox.marks.last(), Some(&("Forget", FIRST.to_vec())));
}

#[test]
fn without_a_spool_nothing_is_written() {
    let mut sandbox = Sandbox::new(Settings {
        spool: false,
        ..Settings::default()
    });
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.answer(DOWN);
    sandbox.shutdown(1);
    assert!(sandbox.marks.is_empty());
}

#[test]
fn what_surely_did_not_arrive_is_marked_so() {
    let mut sandbox = sent_once();
    sandbox.answer(DOWN);
    assert_eq!(sandbox.marks.last(), Some(&("MarkUnsent", FIRST.to_vec())));
}

#[test]
fn what_may_have_arrived_once_stays_marked_whatever_comes_after() {
    for later in [DOWN, UNAUTHORIZED, later(429, None)] {
        let mut sandbox = sent_once();
        sandbox.answer(Fact::NoAnswer);
        sandbox.pass_ms(250);
        sandbox.answer_probe(WELL);
        sandbox.answer(later);
        assert!(sandbox.marks.iter().all(|(mark, _)| *mark != "MarkUnsent"));
    }
}

#[test]
fn what_an_earlier_process_left_is_kept_and_sent() {
    let mut sandbox = recovered(false, Settings::default());
    sandbox.invoke("r1");
    assert_eq!(sandbox.done, ["Store", "MarkSent", "Export"]);
    sandbox.answer(WELL);
    let books = sandbox.core.ledger();
    assert_eq!((books.recovered, books.delivered), (1, 1));
    assert_eq!(books.maybe_doubled, 0);
}

#[test]
fn what_an_earlier_process_may_have_sent_stays_marked_and_is_counted() {
    let mut sandbox = recovered(true, Settings::default());
    assert_eq!(sandbox.done, ["Store", "MarkSent"]);
    sandbox.invoke("r1");
    assert_eq!(sandbox.core.ledger().maybe_doubled, 1);
}

#[test]
fn what_an_earlier_process_may_have_sent_is_given_up_where_the_setting_says_so() {
    let sandbox = recovered(
        true,
        Settings {
            resend_ambiguous: false,
            ..Settings::default()
        },
    );
    assert_eq!(sandbox.dropped(DropReason::Ambiguous), 1);
    assert!(sandbox.marks.is_empty());
}

#[test]
fn scores_of_an_earlier_process_are_sent_again_without_a_count() {
    let mut sandbox = Sandbox::new(Settings {
        resend_ambiguous: false,
        ..Settings::default()
    });
    sandbox.tell(Event::Recovered {
        route: scores(),
        payload: body("score"),
        sent: true,
    });
    sandbox.invoke("r1");
    assert_eq!(sandbox.sending(), ["score"]);
    assert_eq!(sandbox.core.ledger().maybe_doubled, 0);
}

#[test]
fn what_found_no_room_on_disk_is_not_claimed_to_be_there() {
    for under_way in [false, true] {
        let mut sandbox = Sandbox::new(Settings::default());
        sandbox.invoke("r1");
        sandbox.post("a");
        if under_way {
            sandbox.runtime_done("r1");
        }
        assert_eq!(sandbox.exports.len(), usize::from(under_way));
        sandbox.tell(Event::NotStored { id: ItemId(0) });
        sandbox.shutdown(1);
        assert_eq!(sandbox.core.ledger().spooled, 0);
        assert_eq!(sandbox.dropped(DropReason::Exit), 1);
    }
}

#[test]
fn parts_are_stored_before_the_whole_is_forgotten() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post_to(&traces(), sized(2, 1_000));
    sandbox.runtime_done("r1");
    sandbox.marks.clear();
    sandbox.answer(TOO_LARGE);
    let marks: Vec<_> = sandbox.marks.iter().map(|(mark, _)| *mark).collect();
    assert_eq!(marks[..3], ["Store", "Store", "Forget"]);
}

#[test]
fn what_is_given_up_is_forgotten() {
    let mut sandbox = sent_once();
    sandbox.answer(REFUSED);
    assert_eq!(sandbox.marks.last(), Some(&("Forget", FIRST.to_vec())));
}

#[test]
fn parts_of_what_found_no_room_are_not_stored_either() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post_to(&traces(), sized(2, 1_000));
    sandbox.tell(Event::NotStored { id: ItemId(0) });
    sandbox.runtime_done("r1");
    sandbox.marks.clear();
    sandbox.answer(TOO_LARGE);
    assert!(sandbox.marks.is_empty());
}
