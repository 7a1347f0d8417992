//! Records survive, with what became of them, or are noticed to be damaged.

use super::*;

#[test]
fn what_was_stored_comes_back_whole_and_in_order_after_a_kill() {
    let dir = Dir::new();
    let stored = [record("one"), record(""), sized(300_000), record("four")];
    let mut spool = dir.open();
    for (item, record) in (10..).zip(&stored) {
        spool.store(item, record).unwrap();
    }
    drop(spool);
    let mut spool = dir.open();
    assert_eq!(recover(&mut spool), stored);
    assert!(spool.skipped().is_empty(), "{}", spool.skipped());
}

#[test]
fn sends_are_counted_across_kills_and_only_the_latest_is_taken_back() {
    let dir = Dir::new();
    let mut spool = dir.open();
    for item in 0..4 {
        spool.store(item, &record(format!("{item}"))).unwrap();
    }
    spool.mark_sent([1, 2, 3, 99]).unwrap();
    spool.mark_unsent([2, 99]).unwrap();
    spool.mark_sent([3]).unwrap();
    drop(spool);

    let mut spool = dir.open();
    let sends: Vec<_> = heads(&mut spool).iter().map(|head| head.sends).collect();
    assert_eq!(sends, [0, 1, 0, 2]);
    spool.mark_sent([0]).unwrap();
    spool.mark_unsent([1, 2]).unwrap();
    drop(spool);
    let again = recover(&mut dir.open());
    let sends: Vec<_> = again.iter().map(|it| it.unresolved_sends).collect();
    assert_eq!(sends, [1, 0, 0, 2]);
}

#[test]
fn a_record_stored_as_sent_comes_back_as_sent() {
    let dir = Dir::new();
    let sent = Record {
        unresolved_sends: 2,
        ..record("again")
    };
    dir.open().store(1, &sent).unwrap();
    assert_eq!(recover(&mut dir.open()), [sent]);
}

#[test]
fn what_is_forgotten_never_comes_back() {
    let dir = Dir::new();
    let mut spool = dir.open();
    for item in 0..3 {
        spool.store(item, &record(format!("{item}"))).unwrap();
    }
    spool.forget([1, 1, 99]).unwrap();
    drop(spool);
    assert_eq!(bodies(&recover(&mut dir.open())), [b"0", b"2"]);
}

#[test]
fn what_was_left_waits_until_it_is_forgotten_and_is_never_on_disk_twice() {
    let dir = Dir::new();
    let mut spool = dir.open();
    for (item, body) in (0..).zip(["read", "forgotten", "neither"]) {
        spool.store(item, &record(body)).unwrap();
    }
    drop(spool);
    let mut spool = dir.open();
    assert_eq!(names(&mut spool), [0, 1, 2]);
    assert_eq!(spool.read(0).unwrap().body, "read");
    spool.forget([1]).unwrap();
    spool.store(1000, &record("new")).unwrap();
    drop(spool);

    let mut spool = dir.open();
    let left = recover(&mut spool);
    assert_eq!(bodies(&left), [&b"read"[..], b"neither", b"new"]);
    spool.forget(0..3).unwrap();
    drop(spool);
    assert!(recover(&mut dir.open()).is_empty());
    assert_eq!(dir.segments(), Vec::<PathBuf>::new());
}

#[test]
fn a_kill_at_any_byte_of_a_file_that_is_written_anew_brings_nothing_back() {
    let dir = Dir::new();
    let mut spool = dir.open();
    for (item, body) in (0..).zip(["delivered", "this one too", "and this"]) {
        spool.store(item, &record(body)).unwrap();
    }
    let path = dir.segments().remove(0);
    let first = fs::read(&path).unwrap();
    spool.forget(0..3).unwrap();
    let renewed = fs::read(&path).unwrap();
    spool.store(3, &record("a new one")).unwrap();
    let written = fs::read(&path).unwrap();
    drop(spool);
    assert!(first.len() == renewed.len() && renewed.len() == written.len());
    for cut in (32..written.len()).filter(|at| written[*at] != renewed[*at]) {
        let dir = Dir::new();
        drop_in(&dir, &[&written[..cut], &renewed[cut..]].concat());
        assert!(recover(&mut dir.open()).is_empty(), "cut at {cut}");
    }
    let dir = Dir::new();
    drop_in(&dir, &written);
    let mut spool = dir.open();
    assert_eq!(bodies(&recover(&mut spool)), [b"a new one"]);
    assert!(spool.skipped().is_empty(), "{}", spool.skipped());
}

#[test]
fn a_kill_at_any_byte_costs_only_the_record_being_written() {
    let dir = Dir::new();
    let table = 4096;
    let mut ends = vec![table];
    let mut spool = dir.open();
    for (item, body) in (0..).zip(["first", "", "a longer third one", "4"]) {
        spool.store(item, &record(body)).unwrap();
        ends.push(fs::metadata(&dir.segments()[0]).unwrap().len());
    }
    drop(spool);
    let whole = fs::read(&dir.segments()[0]).unwrap();
    for length in (0..40).chain(4000..=whole.len()) {
        let dir = Dir::new();
        drop_in(&dir, &whole[..length]);
        let expected = ends[1..].iter().filter(|end| **end <= length as u64);
        let mut spool = dir.open();
        let recovered = recover(&mut spool);
        assert_eq!(recovered.len(), expected.count(), "cut at {length}");
        let torn = length as u64 > table && !ends.contains(&(length as u64));
        assert_eq!(spool.skipped().torn_files, u64::from(torn));
        // What comes after is not hurt by the torn end.
        spool.store(1000, &record("after")).unwrap();
        drop(spool);
        let mut spool = dir.open();
        let again = recover(&mut spool);
        assert!(spool.skipped().is_empty(), "the torn end is gone");
        assert_eq!(again[..recovered.len()], recovered, "cut at {length}");
        assert_eq!(bodies(&again[recovered.len()..]), [b"after"]);
    }
}

#[test]
fn no_flipped_bit_makes_another_record_of_one() {
    let dir = Dir::new();
    let stored = [record("first"), record("second"), record("third")];
    let mut starts = Vec::new();
    let mut spool = dir.open();
    for (item, record) in (0..).zip(&stored) {
        starts.push(fs::metadata(dir.path().join("00000000.segment")).map_or(4096, |it| it.len()));
        spool.store(item, record).unwrap();
    }
    drop(spool);
    let whole = fs::read(&dir.segments()[0]).unwrap();
    // The head of the file, the slots of the three records and one more, and the records.
    let bits = (0..5 * 32 * 8).chain(4096 * 8..whole.len() * 8);
    for position in bits {
        let mut bytes = whole.clone();
        bytes[position / 8] ^= 1 << (position % 8);
        let read = read_segment(&bytes);
        for found in &read {
            // A slot that makes no sense counts as one more send; everything else is as it was stored.
            assert!(found.unresolved_sends <= 1);
            let unsent = Record {
                unresolved_sends: 0,
                ..found.clone()
            };
            assert!(stored.contains(&unsent), "bit {position}");
        }
        let byte = position as u64 / 8;
        match starts.iter().rposition(|start| *start <= byte) {
            Some(record) => assert!((record..3).contains(&read.len()), "bit {position}"),
            None if byte >= 32 => assert_eq!(read.len(), 3, "bit {position}"),
            None => assert!(read.is_empty() || byte >= 12, "bit {position}"),
        }
    }
}

#[test]
fn arbitrary_bytes_are_read_without_harm() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let dir = Dir::new();
    dir.open().store(1, &sized(200)).unwrap();
    let whole = fs::read(&dir.segments()[0]).unwrap();
    for round in 0..5000_usize {
        let mut bytes = whole.clone();
        for _ in 0..round % 5 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let position = usize::try_from(random % bytes.len() as u64).unwrap();
            bytes[position] = random.to_le_bytes()[7];
            bytes.truncate(bytes.len() - usize::from(random.is_multiple_of(3)));
            if random.is_multiple_of(7) {
                bytes.extend_from_within(4096.min(bytes.len())..);
            }
        }
        assert!(read_segment(&bytes).len() <= 32);
    }
}

#[test]
fn a_damaged_body_costs_one_record_and_is_counted() {
    let dir = Dir::new();
    let mut spool = dir.open();
    for (item, body) in (0..).zip(["first", "second", "third"]) {
        spool.store(item, &record(body)).unwrap();
    }
    drop(spool);
    let path = &dir.segments()[0];
    let mut bytes = fs::read(path).unwrap();
    let second = bytes.windows(6).position(|it| it == b"second").unwrap();
    bytes[second] ^= 1;
    fs::write(path, bytes).unwrap();
    let mut spool = dir.open();
    assert_eq!(bodies(&recover(&mut spool)), [&b"first"[..], &b"third"[..]]);
    assert_eq!(spool.skipped().to_string(), "damaged records: 1");
}

#[test]
fn parts_are_no_records_as_long_as_their_whole_is_there() {
    for (stored, forgotten, expected) in [
        (1, false, vec!["whole"]),
        (2, false, vec!["whole"]),
        (2, true, vec!["part 0", "part 1"]),
    ] {
        let dir = Dir::new();
        let mut spool = dir.open();
        spool.store(7, &record("whole")).unwrap();
        for part in 0..stored {
            let body = record(format!("part {part}"));
            assert!(spool.begin(8 + part, Some(7), &body).unwrap().is_none());
        }
        if forgotten {
            spool.forget([7]).unwrap();
        }
        drop(spool);
        let expected: Vec<_> = expected.iter().map(|body| body.as_bytes()).collect();
        assert_eq!(bodies(&recover(&mut dir.open())), expected);
        assert_eq!(
            bodies(&recover(&mut dir.open())),
            expected,
            "and they are gone"
        );
    }
}

#[test]
fn a_whole_stays_until_its_large_parts_are_written_and_counts_their_sends() {
    let dir = Dir::new();
    let mut spool = dir.open();
    let part = || sized(LARGE_BYTES + 1);
    spool.store(7, &record("whole")).unwrap();
    let first = spool.begin(8, Some(7), &part()).unwrap().unwrap();
    let second = spool.begin(9, Some(7), &part()).unwrap().unwrap();
    spool.forget([7]).unwrap();
    first.run().unwrap();
    spool.written(8, true).unwrap();
    spool.mark_sent([9]).unwrap();
    let killed = fs::read(&dir.segments()[0]).unwrap();
    second.run().unwrap();
    spool.written(9, true).unwrap();
    drop(spool);
    assert_eq!(
        recover(&mut dir.open()),
        [
            part(),
            Record {
                unresolved_sends: 1,
                ..part()
            }
        ]
    );
    let dir = Dir::new();
    drop_in(&dir, &killed);
    let left = recover(&mut dir.open());
    assert_eq!(bodies(&left), [b"whole"]);
    assert_eq!(left[0].unresolved_sends, 1);
}

#[test]
fn a_kill_while_a_large_body_is_written_costs_nothing_that_came_after_it() {
    let dir = Dir::new();
    let mut spool = dir.open();
    spool.store(1, &record("before")).unwrap();
    let write = spool.begin(2, None, &sized(LARGE_BYTES + 1)).unwrap();
    spool.store(3, &record("after")).unwrap();
    let killed = fs::read(&dir.segments()[0]).unwrap();
    write.unwrap().run().unwrap();
    let unnoted = fs::read(&dir.segments()[0]).unwrap();
    spool.written(2, true).unwrap();
    drop(spool);
    assert_eq!(recover(&mut dir.open()).len(), 3);
    for left in [killed, unnoted] {
        let dir = Dir::new();
        drop_in(&dir, &left);
        let mut spool = dir.open();
        assert_eq!(bodies(&recover(&mut spool)), [&b"before"[..], b"after"]);
        assert!(spool.skipped().is_empty(), "{}", spool.skipped());
    }
}

#[test]
fn crashes_are_counted_for_what_was_in_memory_and_an_end_in_order_is_none() {
    let dir = Dir::new();
    let mut spool = dir.open();
    for item in 0..2 {
        spool.store(item, &record(format!("{item}"))).unwrap();
    }
    drop(spool);
    let crashes = |spool: &mut Spool| {
        let heads = heads(spool);
        heads.iter().map(|head| head.crashes).collect::<Vec<_>>()
    };
    let mut spool = dir.open();
    assert_eq!(crashes(&mut spool), [1, 1], "both were in memory");
    spool.read(0).unwrap();
    drop(spool);
    let mut spool = dir.open();
    assert_eq!(crashes(&mut spool), [2, 1], "one of them was read");
    spool.read(0).unwrap();
    spool.read(1).unwrap();
    spool.close().unwrap();
    drop(spool);
    assert_eq!(crashes(&mut dir.open()), [2, 1]);
}

#[test]
fn what_was_left_is_looked_through_in_pieces() {
    let dir = Dir::new();
    let mut spool = dir.open();
    let records = 2 * LOOK_RECORDS as u64 + 1;
    for item in 0..records {
        spool.store(item, &record("")).unwrap();
    }
    drop(spool);
    let mut spool = dir.open();
    let mut seen = Vec::new();
    while let Some(piece) = spool.look() {
        assert!(piece.records.len() <= LOOK_RECORDS);
        seen.extend(piece.records.iter().map(|head| head.id.0));
    }
    assert_eq!(seen, (0..records).collect::<Vec<_>>());
}

#[test]
fn an_item_stored_again_replaces_itself() {
    let dir = Dir::new();
    let mut spool = dir.open();
    spool.store(1, &record("first")).unwrap();
    spool.store(1, &record("second")).unwrap();
    drop(spool);
    assert_eq!(bodies(&recover(&mut dir.open())), [b"second"]);
}
