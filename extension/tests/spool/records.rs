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
    let seen = spool.look().unwrap();
    let sends: Vec<_> = seen.records.iter().map(|head| head.sends).collect();
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
    let end = (0..written.len()).rfind(|at| written[*at] != renewed[*at]);
    for cut in 16..=end.unwrap() {
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
    let mut ends = vec![16];
    let mut spool = dir.open();
    for (item, body) in (0..).zip(["first", "", "a longer third one", "4"]) {
        spool.store(item, &record(body)).unwrap();
        ends.push(fs::metadata(&dir.segments()[0]).unwrap().len());
    }
    drop(spool);
    let whole = fs::read(&dir.segments()[0]).unwrap();
    for length in 0..=whole.len() {
        let dir = Dir::new();
        drop_in(&dir, &whole[..length]);
        let expected = ends[1..].iter().filter(|end| **end <= length as u64);
        let mut spool = dir.open();
        let recovered = recover(&mut spool);
        assert_eq!(recovered.len(), expected.count(), "cut at {length}");
        let torn = length > 16 && !ends.contains(&(length as u64));
        assert_eq!(spool.skipped().torn_files, u64::from(torn));
        // What comes after is not hurt by the torn end.
        spool.store(1, &record("after")).unwrap();
        drop(spool);
        let mut spool = dir.open();
        assert!(spool.skipped().is_empty(), "the torn end is gone");
        assert_eq!(recover(&mut spool).len(), recovered.len() + 1);
    }
}

#[test]
fn no_flipped_bit_makes_another_record_of_one() {
    let dir = Dir::new();
    let stored = [record("first"), record("second"), record("third")];
    let mut starts = Vec::new();
    let mut spool = dir.open();
    for (item, record) in (0..).zip(&stored) {
        starts.push(fs::metadata(dir.path().join("00000000.segment")).map_or(16, |it| it.len()));
        spool.store(item, record).unwrap();
    }
    drop(spool);
    let whole = fs::read(&dir.segments()[0]).unwrap();
    for position in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[position / 8] ^= 1 << (position % 8);
        let read = read_segment(&bytes);
        for found in &read {
            // A state that makes no sense counts as sent once; everything else is as it was stored.
            assert!(found.unresolved_sends <= 1);
            let unsent = Record {
                unresolved_sends: 0,
                ..found.clone()
            };
            assert!(stored.contains(&unsent), "bit {position}");
        }
        let byte = position as u64 / 8;
        let hit = starts.iter().rposition(|start| *start <= byte);
        let in_state = |record: usize| (4..8).contains(&(byte - starts[record]));
        match hit {
            Some(record) if in_state(record) => assert_eq!(read.len(), 3, "bit {position}"),
            Some(record) => assert!((record..3).contains(&read.len()), "bit {position}"),
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
                bytes.extend_from_within(16..);
            }
        }
        assert!(read_segment(&bytes).len() <= 8);
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
fn what_is_too_old_is_left_behind() {
    let dir = Dir::new();
    let mut spool = dir.open();
    let old = Record {
        accepted_wall_ms: u64::try_from(NOW.saturating_sub(MAX_AGE).as_millis()).unwrap() - 1,
        ..record("old")
    };
    let from_the_future = Record {
        accepted_wall_ms: u64::MAX,
        ..record("future")
    };
    spool.store(1, &old).unwrap();
    spool.store(2, &from_the_future).unwrap();
    drop(spool);
    let mut spool = dir.open();
    assert_eq!(bodies(&recover(&mut spool)), [b"future"]);
    assert_eq!(spool.skipped().to_string(), "too old: 1");
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
