//! Bytes, records and files are bounded, and room is given back.

use super::*;

#[test]
fn a_healthy_process_writes_one_file_over_and_over() {
    let dir = Dir::new();
    let mut spool = dir.open();
    for item in 0..200 {
        spool.store(item, &sized(50_000)).unwrap();
        spool.mark_sent([item]).unwrap();
        spool.forget([item]).unwrap();
    }
    assert_eq!(dir.segments().len(), 1);
    assert!(fs::metadata(&dir.segments()[0]).unwrap().len() < 55_000);
    assert!(spool.stored_bytes() < 55_000 + 3 * DISK_BLOCK_BYTES);
    drop(spool);
    assert!(recover(&mut dir.open()).is_empty());
    assert!(dir.segments().is_empty());
}

#[test]
fn a_file_that_grew_beyond_a_segment_is_not_kept_so() {
    let dir = Dir::new();
    let mut spool = dir.open();
    spool
        .store(1, &sized(usize::try_from(LIMIT_BYTES / 4).unwrap()))
        .unwrap();
    spool.forget([1]).unwrap();
    assert_eq!(
        spool.stored_bytes(),
        3 * DISK_BLOCK_BYTES,
        "the directory, its lock, and a table of one block"
    );
}

#[test]
fn segments_rotate_and_all_but_a_spare_go_when_their_last_record_is_forgotten() {
    let dir = Dir::new();
    let mut spool = dir.open();
    for item in 0..40 {
        spool.store(item, &sized(250_000)).unwrap();
    }
    assert_eq!(dir.segments().len(), 40_usize.div_ceil(4));
    assert!(
        dir.segments()
            .iter()
            .all(|path| fs::metadata(path).unwrap().len() <= LIMIT_BYTES / 16)
    );
    spool.forget(0..8).unwrap();
    assert_eq!(dir.segments().len(), 10 - 2 + 1);
    spool.forget(0..40).unwrap();
    assert_eq!(dir.segments().len(), 2, "the active one and the spare stay");
    for item in 40..48 {
        spool.store(item, &sized(250_000)).unwrap();
    }
    assert_eq!(dir.segments().len(), 2, "the spare is used again");
    drop(spool);
    assert_eq!(recover(&mut dir.open()).len(), 8);
}

#[test]
fn whatever_is_stored_and_forgotten_the_disk_holds_the_rest_and_no_more_than_its_limit() {
    let limit = 1 << 20;
    for seed in 1..=20_u64 {
        let dir = Dir::new();
        let mut spool = dir.open_limited(limit);
        let (mut random, mut waiting) = (seed, Vec::new());
        let mut next = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % below
        };
        for item in 0..400 {
            let body = format!("{item} ").repeat(usize::try_from(1 + next(4000)).unwrap());
            match spool.store(item, &record(body)) {
                Ok(()) => waiting.push(item),
                Err(StoreError::Full) => {}
                Err(error) => panic!("{error}"),
            }
            // Mostly in order and sometimes all of it, as deliveries go.
            let delivered = match next(8) {
                0 => waiting.len(),
                _ => usize::try_from(next(4)).unwrap().min(waiting.len()),
            };
            spool.forget(waiting.drain(..delivered)).unwrap();
            assert!(dir.disk_bytes() <= limit, "seed {seed}");
            assert!(dir.disk_bytes() <= spool.stored_bytes(), "seed {seed}");
        }
        drop(spool);
        let mut spool = dir.open_limited(limit);
        let found = recover(&mut spool).into_iter().map(|record| {
            let text = String::from_utf8(record.body.to_vec()).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        });
        assert_eq!(found.collect::<Vec<_>>(), waiting, "seed {seed}");
        assert!(spool.skipped().is_empty(), "{}", spool.skipped());
    }
}

#[test]
fn disk_use_never_passes_the_limit_and_is_known() {
    let dir = Dir::new();
    let limit = 1 << 20;
    let mut spool = dir.open_limited(limit);
    let mut stored = 0;
    for item in 0..2000 {
        match spool.store(item, &sized(1 + usize::try_from(item).unwrap() * 37 % 9000)) {
            Ok(()) => stored += 1,
            Err(StoreError::Full) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(spool.stored_bytes() <= limit - limit / COMPACTION_RESERVE);
        assert!(dir.disk_bytes() <= limit);
    }
    assert!(stored > 150, "most of the limit is used: {stored}");
    drop(spool);
    let smaller = limit / 2;
    let mut spool = dir.open_limited(smaller);
    let seen: Vec<_> = std::iter::from_fn(|| spool.look()).collect();
    assert!(spool.stored_bytes() <= smaller && dir.disk_bytes() <= smaller);
    assert!(spool.skipped().files_over_limit > 0);
    assert!(spool.stored_bytes() > smaller / 2);
    let lost = seen.iter().flat_map(|seen| &seen.lost);
    let lost: u64 = lost.map(|lost| lost.units).sum();
    let left: usize = seen.iter().map(|seen| seen.records.len()).sum();
    assert!(left > 0);
    assert_eq!(lost / 42 + left as u64, stored, "what went is counted");
}

#[test]
fn a_full_spool_makes_room_by_rewriting_what_is_mostly_forgotten() {
    let dir = Dir::new();
    let limit = 1 << 20;
    let mut spool = dir.open_limited(limit);
    let mut item = 0;
    while spool.store(item, &sized(6000)).is_ok() {
        item += 1;
    }
    spool.mark_sent(0..item).unwrap();
    // One of ten stays, so that no segment ever becomes empty.
    spool.forget((0..item).filter(|it| it % 10 != 3)).unwrap();
    let kept = (0..item).filter(|it| it % 10 == 3).count();
    let mut more = 0;
    while spool.store(10_000 + more, &sized(6000)).is_ok() {
        more += 1;
        assert!(dir.disk_bytes() <= limit);
    }
    assert!(more > item * 7 / 10, "{more} after {item}");
    spool.mark_sent([3]).unwrap();
    drop(spool);
    let mut spool = dir.open_limited(limit);
    let records = recover(&mut spool);
    assert!(spool.skipped().is_empty(), "{}", spool.skipped());
    let sends = |sends| {
        records
            .iter()
            .filter(move |it| it.unresolved_sends == sends)
    };
    assert_eq!(sends(2).count(), 1);
    assert_eq!(sends(1).count(), kept - 1);
    assert_eq!(sends(0).count() as u64, more);
}

#[test]
fn a_limit_of_zero_keeps_nothing_and_makes_nothing() {
    let dir = Dir::new();
    let mut spool = dir.open_limited(0);
    assert!(matches!(spool.store(1, &sized(1)), Err(StoreError::Full)));
    assert!(!dir.path().exists());
}

#[test]
fn a_record_beyond_its_limit_is_not_stored() {
    let dir = Dir::new();
    let mut spool = dir.open_limited(1 << 30);
    let limit = usize::try_from(RECORD_LIMIT_BYTES).unwrap();
    let stored = spool.store(1, &sized(limit));
    assert!(matches!(stored, Err(StoreError::TooLarge)));
    assert!(!dir.path().exists());
    spool.store(1, &sized(limit - 200)).unwrap();
}

#[test]
fn no_more_records_wait_than_the_index_may_hold() {
    let dir = Dir::new();
    let mut spool = dir.open_limited(1 << 30);
    let tiny = record("");
    for item in 0..RECORDS_LIMIT as u64 {
        spool.store(item, &tiny).unwrap();
    }
    let item = RECORDS_LIMIT as u64;
    assert!(matches!(spool.store(item, &tiny), Err(StoreError::Full)));
    spool.forget([7]).unwrap();
    spool.store(item, &tiny).unwrap();
    drop(spool);
    let mut spool = dir.open_limited(1 << 30);
    assert_eq!(recover(&mut spool).len(), RECORDS_LIMIT);
}

#[test]
fn no_more_files_are_kept_than_their_limit() {
    let dir = Dir::new();
    let mut spool = dir.open();
    spool.store(1, &record("left")).unwrap();
    drop(spool);
    let left = fs::read(&dir.segments()[0]).unwrap();
    for index in 0..=SEGMENTS_LIMIT {
        fs::write(dir.path().join(format!("{index:08x}.segment")), &left).unwrap();
    }
    let mut spool = dir.open();
    let left = names(&mut spool);
    assert_eq!(spool.skipped().files_over_limit, 1);
    assert_eq!(dir.segments().len(), SEGMENTS_LIMIT);
    assert!(matches!(
        spool.store(1000, &record("")),
        Err(StoreError::Full)
    ));
    assert_eq!(left.len(), SEGMENTS_LIMIT);
}

#[test]
fn a_segment_with_much_left_in_it_is_not_rewritten() {
    let dir = Dir::new();
    let mut spool = dir.open_limited(4 << 20);
    let mut item = 0;
    while spool.store(item, &sized(10_000)).is_ok() {
        item += 1;
    }
    // Segments of 25 records: what is left of 18 forgotten is a little more than the limit.
    assert_eq!(COMPACTION_LIMIT_BYTES, 64 << 10);
    let full = dir.segments().len() as u64 - 1;
    spool
        .forget((0..full * 25).filter(|it| it % 25 < 18))
        .unwrap();
    let stored = spool.store(1000, &sized(200_000));
    assert!(matches!(stored, Err(StoreError::Full)), "{stored:?}");
    spool.forget([18]).unwrap();
    spool.store(1000, &sized(100_000)).unwrap();
}
