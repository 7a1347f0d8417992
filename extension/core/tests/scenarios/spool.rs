//! What the spool is told, and in which order.

use std::time::Duration;

use langfuse_extension_core::buffer::{FIRST_ACCEPTED, ITEM_OVERHEAD_BYTES, ItemId};
use langfuse_extension_core::delivery::fact::Fact;
use langfuse_extension_core::ledger::DropReason;
use langfuse_extension_core::pipeline::MAX_AMBIGUOUS_SENDS;
use langfuse_extension_core::recovery::{Head, Lost, MAX_CRASHES, MAX_SPOOL_AGE};
use langfuse_extension_core::{Event, Settings};

use crate::driver::{
    Body, DOWN, Langfuse, NOW, REFUSED, Sandbox, TOO_LARGE, UNAUTHORIZED, WELL, body, later,
    scores, sized, traces,
};

/// A record of one unit and 100 bytes.
fn head(id: u64, sends: u32) -> Head {
    Head {
        id: ItemId(id),
        accepted_wall: NOW,
        units: 1,
        bytes: 100,
        sends,
        crashes: 0,
    }
}

fn opened(records: Vec<Head>) -> Event<Body> {
    Event::SpoolOpened {
        records,
        lost: Vec::new(),
        unreadable: 0,
    }
}

fn left_behind(sends: u32, settings: Settings) -> Sandbox {
    let mut sandbox = Sandbox::new(settings);
    sandbox.tell(opened(vec![head(0, sends)]));
    sandbox
}

/// Released already when it is read.
fn recovered(sends: u32, settings: Settings) -> Sandbox {
    let mut sandbox = left_behind(sends, settings);
    sandbox.read_back(&traces(), body("left behind"));
    sandbox
}

fn sent_once() -> Sandbox {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox
}

const FIRST: [ItemId; 1] = [FIRST_ACCEPTED];

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
fn of_several_sends_only_the_one_that_surely_did_not_arrive_is_taken_back() {
    for later in [DOWN, UNAUTHORIZED, later(429, None)] {
        let mut sandbox = sent_once();
        sandbox.answer(Fact::NoAnswer);
        sandbox.pass_ms(250);
        sandbox.answer_probe(WELL);
        sandbox.answer(later);
        let count = |name| {
            sandbox
                .marks
                .iter()
                .filter(|(mark, _)| *mark == name)
                .count()
        };
        assert_eq!((count("MarkSent"), count("MarkUnsent")), (2, 1));
    }
}

#[test]
fn what_an_earlier_process_left_is_in_the_books_before_it_is_read() {
    let sandbox = left_behind(0, Settings::default());
    let books = sandbox.core.ledger();
    assert_eq!((books.recovered, books.on_disk), (1, 1));
    assert_eq!(sandbox.core.held_units(), 0);
}

#[test]
fn nothing_is_read_back_before_the_first_next() {
    let mut sandbox = Sandbox::unregistered(Settings::default());
    sandbox.tell(opened(vec![head(0, 0)]));
    assert_eq!(sandbox.reading, None);
    sandbox.tell(Event::Registered { invoke: true });
    assert_eq!(sandbox.done, ["Next", "Recover"]);
}

#[test]
fn what_an_earlier_process_left_is_sent_beside_the_next_handler() {
    let mut sandbox = recovered(0, Settings::default());
    assert_eq!(sandbox.done, ["Recover"]);
    sandbox.invoke("r1");
    assert_eq!(sandbox.done, ["Recover", "MarkSent", "Export"]);
    sandbox.answer(WELL);
    let books = sandbox.core.ledger();
    assert_eq!((books.recovered, books.delivered, books.on_disk), (1, 1, 0));
    assert_eq!(books.maybe_doubled, 0);
    assert_eq!(sandbox.marks.last(), Some(&("Forget", vec![ItemId(0)])));
}

#[test]
fn more_than_the_buffer_holds_is_read_back_as_bytes_settle_until_nothing_is_left() {
    let mut sandbox = Sandbox::new(Settings {
        buffer_bytes: 4 * (100 + ITEM_OVERHEAD_BYTES),
        ..Settings::default()
    });
    sandbox.langfuse = Langfuse::Answers(20, WELL);
    let left = 11;
    sandbox.tell(opened((0..left).map(|id| head(id, 0)).collect()));
    let mut read = Vec::new();
    for n in 0..8 {
        sandbox.invoke(&format!("r{n}"));
        for _ in 0..100 {
            if let Some(id) = sandbox.reading {
                read.push(id.0);
                sandbox.read_back(&traces(), body("left behind"));
                assert!(sandbox.core.held_bytes() <= 2 * (100 + ITEM_OVERHEAD_BYTES));
            }
            sandbox.pass_ms(10);
        }
        sandbox.runtime_done(&format!("r{n}"));
        sandbox.held_ms().expect("a bounded hold");
    }
    assert_eq!(
        read,
        (0..left).collect::<Vec<_>>(),
        "each once, the oldest first"
    );
    let books = sandbox.core.ledger();
    assert_eq!((books.delivered, books.on_disk), (left, 0));
}

#[test]
fn a_record_larger_than_half_the_buffer_waits_for_room_and_one_larger_than_all_is_given_up() {
    let mut sandbox = Sandbox::new(Settings {
        buffer_bytes: 1_000,
        ..Settings::default()
    });
    let large = |id, bytes| Head {
        bytes,
        ..head(id, 0)
    };
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.tell(opened(vec![large(0, 700), large(1, 1_000)]));
    assert_eq!(sandbox.reading, None);
    sandbox.runtime_done("r1");
    sandbox.answer(WELL);
    assert_eq!(sandbox.reading, Some(ItemId(0)));
    sandbox.read_back(&traces(), sized(1, 700));
    assert_eq!(sandbox.dropped(DropReason::BufferFull), 1);
    assert_eq!(sandbox.core.ledger().on_disk, 0);
}

#[test]
fn what_is_read_back_pushes_nothing_out() {
    let mut sandbox = Sandbox::new(Settings {
        buffer_bytes: 4 * (100 + ITEM_OVERHEAD_BYTES),
        ..Settings::default()
    });
    sandbox.tell(opened(vec![head(0, 0)]));
    for name in ["a", "b", "c", "d"] {
        sandbox.post(name);
    }
    sandbox.read_back(&traces(), body("left behind"));
    assert_eq!(sandbox.dropped(DropReason::BufferFull), 0);
    assert_eq!(sandbox.core.ledger().on_disk, 1);
}

fn with_room_for(items: usize) -> Sandbox {
    let mut sandbox = Sandbox::new(Settings {
        buffer_bytes: items * (100 + ITEM_OVERHEAD_BYTES),
        ..Settings::default()
    });
    sandbox.invoke("r1");
    sandbox
}

#[test]
fn what_makes_room_in_memory_waits_on_disk_and_loses_nothing() {
    let mut sandbox = with_room_for(4);
    for _ in 0..7 {
        sandbox.post_part("a");
    }
    assert_eq!(sandbox.core.ledger().on_disk, 3);
    assert_eq!(sandbox.core.held_units(), 4);
    assert_eq!(sandbox.count("Store"), 7);
    assert_eq!(sandbox.count("Forget"), 0);
    sandbox.langfuse = Langfuse::Answers(20, WELL);
    let mut read = Vec::new();
    for n in 2..8 {
        sandbox.runtime_done(&format!("r{}", n - 1));
        sandbox.held_ms().expect("a bounded hold");
        sandbox.invoke(&format!("r{n}"));
        for _ in 0..100 {
            if let Some(id) = sandbox.reading {
                read.push(id.0 - FIRST_ACCEPTED.0);
                sandbox.read_back(&traces(), body("a"));
            }
            sandbox.pass_ms(10);
        }
    }
    assert_eq!(read, [0, 1, 2], "the oldest made room, and each once");
    let books = sandbox.core.ledger();
    assert_eq!((books.delivered, books.on_disk), (7, 0));
    assert_eq!(books.dropped.total(), 0);
}

#[test]
fn what_finds_no_room_beside_what_is_under_way_waits_on_disk_too() {
    let mut sandbox = with_room_for(1);
    sandbox.post("a");
    sandbox.runtime_done("r1");
    assert_eq!(sandbox.exports.len(), 1);
    sandbox.post("b");
    assert_eq!(sandbox.core.ledger().on_disk, 1);
    assert_eq!(sandbox.count("Store"), 2);
    sandbox.answer(WELL);
    sandbox.pass_ms(300);
    assert_eq!(sandbox.reading, Some(ItemId(FIRST_ACCEPTED.0 + 1)));
}

#[test]
fn what_made_room_and_may_have_been_sent_is_counted_when_it_is_sent_again() {
    let mut sandbox = with_room_for(1);
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.answer(Fact::NoAnswer);
    sandbox.post("b");
    sandbox.pass_ms(250);
    sandbox.answer_probe(WELL);
    assert_eq!(sandbox.sending(), ["b"]);
    sandbox.answer(WELL);
    sandbox.pass_ms(300);
    sandbox.read_back(&traces(), body("a"));
    sandbox.freeze_ms(1_000);
    sandbox.invoke("r2");
    assert_eq!(sandbox.sending(), ["a"]);
    assert_eq!(sandbox.core.ledger().maybe_doubled, 1);
}

#[test]
fn what_is_neither_in_memory_nor_on_disk_is_lost() {
    for is_told_first in [true, false] {
        let mut sandbox = with_room_for(1);
        sandbox.post_part("a");
        let not_stored = Event::NotStored { id: FIRST_ACCEPTED };
        if is_told_first {
            sandbox.tell(not_stored);
            sandbox.post_part("b");
        } else {
            sandbox.post_part("b");
            sandbox.tell(not_stored);
        }
        assert_eq!(sandbox.dropped(DropReason::BufferFull), 1);
        assert_eq!(sandbox.core.ledger().on_disk, 0);
        assert_eq!(sandbox.core.held_units(), 1);
    }
}

#[test]
fn what_is_damaged_too_old_or_there_at_too_many_crashes_is_given_up_and_counted() {
    let mut sandbox = Sandbox::new(Settings::default());
    let day = MAX_SPOOL_AGE + Duration::from_millis(1);
    sandbox.tell(Event::SpoolOpened {
        records: vec![
            head(0, 0),
            Head {
                accepted_wall: NOW - day,
                ..head(1, 0)
            },
            Head {
                crashes: MAX_CRASHES,
                ..head(2, 0)
            },
            Head {
                crashes: MAX_CRASHES - 1,
                ..head(3, 0)
            },
        ],
        lost: vec![Lost {
            reason: DropReason::OverLimit,
            units: 7,
        }],
        unreadable: 1,
    });
    sandbox.tell(Event::NotRecovered { id: ItemId(0) });
    for (reason, units) in [
        (DropReason::Damaged, 1),
        (DropReason::Expired, 1),
        (DropReason::Crashed, 1),
        (DropReason::OverLimit, 7),
    ] {
        assert_eq!(sandbox.dropped(reason), units, "{reason:?}");
    }
    let books = sandbox.core.ledger();
    assert_eq!(
        (books.recovered, books.on_disk, books.unreadable),
        (11, 1, 1)
    );
    assert_eq!(sandbox.reading, Some(ItemId(3)), "one after the other");
}

#[test]
fn what_is_left_on_disk_at_the_end_is_told_as_spooled() {
    let mut sandbox = left_behind(0, Settings::default());
    sandbox.shutdown(2_000);
    sandbox.pass_ms(3_000);
    assert!(sandbox.exited);
    let books = sandbox.core.ledger();
    assert_eq!((books.spooled, books.on_disk), (1, 0));
}

#[test]
fn at_the_end_what_is_on_disk_has_a_last_chance() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.langfuse = Langfuse::Answers(20, WELL);
    sandbox.tell(opened((0..3).map(|id| head(id, 0)).collect()));
    sandbox.shutdown(2_000);
    for _ in 0..3 {
        assert!(!sandbox.exited);
        sandbox.read_back(&traces(), body("left behind"));
    }
    sandbox.pass_ms(200);
    assert!(sandbox.exited, "and no longer than that");
    assert_eq!(sandbox.core.ledger().delivered, 3);
}

#[test]
fn what_an_earlier_process_may_have_sent_is_counted_and_marked_only_when_it_is_sent_again() {
    let mut sandbox = recovered(1, Settings::default());
    assert!(sandbox.marks.is_empty());
    sandbox.invoke("r1");
    assert_eq!(sandbox.core.ledger().maybe_doubled, 1);
    assert_eq!(sandbox.marks, [("MarkSent", vec![ItemId(0)])]);
}

#[test]
fn ambiguous_sends_of_all_processes_together_are_capped() {
    let last = recovered(MAX_AMBIGUOUS_SENDS - 1, Settings::default());
    assert_eq!(last.core.held_units(), 1);
    let spent = recovered(MAX_AMBIGUOUS_SENDS, Settings::default());
    assert_eq!(spent.dropped(DropReason::Ambiguous), 1);
    assert_eq!(spent.marks, [("Forget", vec![ItemId(0)])]);
}

#[test]
fn what_an_earlier_process_may_have_sent_is_given_up_where_the_setting_says_so() {
    let sandbox = recovered(
        1,
        Settings {
            resend_ambiguous: false,
            ..Settings::default()
        },
    );
    assert_eq!(sandbox.dropped(DropReason::Ambiguous), 1);
    assert_eq!(sandbox.marks, [("Forget", vec![ItemId(0)])]);
}

#[test]
fn scores_of_an_earlier_process_are_sent_again_without_a_count() {
    let mut sandbox = left_behind(
        1,
        Settings {
            resend_ambiguous: false,
            ..Settings::default()
        },
    );
    sandbox.read_back(&scores(), body("score"));
    sandbox.invoke("r1");
    assert_eq!(sandbox.sending(), ["score"]);
    assert_eq!(sandbox.core.ledger().maybe_doubled, 0);
}

#[test]
fn what_found_no_room_on_disk_is_not_claimed_to_be_there() {
    for under_way in [false, true] {
        let mut sandbox = Sandbox::new(Settings::default());
        sandbox.invoke("r1");
        if under_way {
            sandbox.post("a");
        } else {
            sandbox.post_part("a");
        }
        assert_eq!(sandbox.exports.len(), usize::from(under_way));
        sandbox.tell(Event::NotStored { id: FIRST_ACCEPTED });
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
    sandbox.tell(Event::NotStored { id: FIRST_ACCEPTED });
    sandbox.runtime_done("r1");
    sandbox.marks.clear();
    sandbox.answer(TOO_LARGE);
    assert!(sandbox.marks.is_empty());
}

#[test]
fn what_shared_a_refused_request_is_marked_as_not_arrived() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post_part("a");
    sandbox.post_part("b");
    sandbox.runtime_done("r1");
    sandbox.pass_ms(400);
    sandbox.answer(REFUSED);
    let both = vec![FIRST_ACCEPTED, ItemId(FIRST_ACCEPTED.0 + 1)];
    assert!(
        sandbox.marks.contains(&("MarkUnsent", both)),
        "{:?}",
        sandbox.marks
    );
}
