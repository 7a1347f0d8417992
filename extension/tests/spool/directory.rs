//! The directory is ours alone, and what others put there does no harm.

use super::*;

fn open_error(path: &Path) -> SpoolError {
    Spool::open(path, LIMIT_BYTES, NOW, MAX_AGE).unwrap_err()
}

#[test]
fn nothing_is_touched_before_there_is_something_to_keep() {
    let dir = Dir::new();
    let mut spool = dir.open();
    spool.forget([1]).unwrap();
    spool.mark_sent([1]).unwrap();
    assert_eq!(spool.stored_bytes(), 0);
    assert!(!dir.path().exists());
}

#[test]
fn others_can_read_neither_the_directory_nor_the_files() {
    let dir = Dir::new();
    let mut spool = dir.open();
    spool.store(1, &record("secret")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path()), 0o700);
    for entry in fs::read_dir(dir.path()).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn a_directory_that_is_not_ours_alone_is_refused() {
    let dir = Dir::new();
    let elsewhere = dir.0.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, dir.path()).unwrap();
    assert!(matches!(open_error(&dir.path()), SpoolError::NotADirectory));
    fs::remove_file(dir.path()).unwrap();
    fs::write(dir.path(), "").unwrap();
    assert!(matches!(open_error(&dir.path()), SpoolError::NotADirectory));

    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(open_error(&elsewhere), SpoolError::NotOurs));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(Spool::open(&elsewhere, LIMIT_BYTES, NOW, MAX_AGE).is_ok());
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_and_no_more() {
    let dir = Dir::new();
    let path = dir.0.path().join("missing").join("spool");
    let mut spool = Spool::open(&path, LIMIT_BYTES, NOW, MAX_AGE).unwrap();
    let stored = spool.store(1, &record(""));
    assert!(matches!(stored, Err(StoreError::Spool(_))), "{stored:?}");
    fs::create_dir(dir.0.path().join("missing")).unwrap();
    spool.store(1, &record("")).unwrap();
}

#[test]
fn two_processes_never_share_it() {
    let dir = Dir::new();
    let mut first = dir.open();
    let mut second = dir.open();
    first.store(1, &record("first")).unwrap();
    let stored = second.store(1, &record("second"));
    let in_use = StoreError::Spool(SpoolError::InUse).to_string();
    assert_eq!(stored.unwrap_err().to_string(), in_use);
    assert!(matches!(open_error(&dir.path()), SpoolError::InUse));
    drop((first, second));
    assert_eq!(bodies(&recover(&mut dir.open())), [b"first"]);
}

#[test]
fn foreign_files_are_let_alone_and_counted() {
    let dir = Dir::new();
    dir.open().store(1, &record("ours")).unwrap();
    let whole = fs::read(&dir.segments()[0]).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    put("notes.txt", b"a customer's");
    put("1.segment", b"too short a name");
    put("00000001.segment", b"no segment, but as long as its head");
    let mut newer = whole.clone();
    newer[8] = 3;
    put("00000002.segment", &newer);
    symlink("notes.txt", dir.path().join("00000003.segment")).unwrap();
    put("compacting", b"half a segment");

    let mut spool = dir.open();
    let ours = recover(&mut spool);
    let expected = Skipped {
        foreign_files: 2,
        unreadable_files: 3,
        ..Skipped::default()
    };
    assert_eq!(*spool.skipped(), expected);
    assert_eq!(bodies(&ours), [b"ours"]);
    assert_eq!(spool.stored_bytes(), 8 * DISK_BLOCK_BYTES);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 7);
    spool.store(1000, &record("new")).unwrap();
    assert!(dir.path().join("00000004.segment").exists());
}

#[test]
fn unreadable_files_go_once_they_are_too_old() {
    let dir = Dir::new();
    drop_in(&dir, b"of some other program, or version");
    let later = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() + MAX_AGE * 2;
    let mut spool = Spool::open(&dir.path(), LIMIT_BYTES, later, MAX_AGE).unwrap();
    assert!(names(&mut spool).is_empty());
    assert_eq!(spool.skipped().to_string(), "too old: 1");
    assert_eq!(dir.segments(), Vec::<PathBuf>::new());
}

#[test]
fn a_function_that_empties_tmp_costs_what_was_there_and_nothing_after() {
    let dir = Dir::new();
    let mut spool = dir.open();
    spool.store(1, &record("removed")).unwrap();
    fs::remove_dir_all(dir.path()).unwrap();
    spool.store(2, &record("kept")).unwrap();
    assert_eq!(spool.skipped().removed_records, 1);
    assert_eq!(spool.take_removed(), [1]);
    spool.mark_sent([1, 2]).unwrap();
    spool.forget([1]).unwrap();
    drop(spool);
    let mut spool = dir.open();
    let recovered = recover(&mut spool);
    assert_eq!(bodies(&recovered), [b"kept"]);
    assert_eq!(recovered[0].unresolved_sends, 1);
}

#[test]
fn a_directory_full_of_other_files_is_refused() {
    let dir = Dir::new();
    fs::create_dir(dir.path()).unwrap();
    for number in 1..ENTRIES_LIMIT {
        fs::write(dir.path().join(format!("{number}")), "").unwrap();
    }
    // With its lock, exactly the limit.
    assert_eq!(dir.open().skipped().foreign_files, ENTRIES_LIMIT as u64 - 1);
    fs::write(dir.path().join("one more"), "").unwrap();
    assert!(matches!(open_error(&dir.path()), SpoolError::Crowded));
}
