//! The ledger under crashes and beside the pins.

use std::path::Path;

use appliance::ledger::{Ledger, TagPins};
use work::{Book, Fact, News};

fn ticks(range: std::ops::Range<u64>) -> Vec<Fact> {
    range.map(|at| Fact { at, news: News::Ticked }).collect()
}

fn folded(facts: &[Fact]) -> Book {
    let mut book = Book::default();
    for fact in facts {
        book.enter(fact.clone());
    }
    book
}

/// What a crash leaves: the files as they are, without a proper end.
fn crash(from: &Path, into: &Path) {
    for file in ["ledger.db", "ledger.db-wal"] {
        if from.join(file).exists() {
            std::fs::copy(from.join(file), into.join(file)).expect("copies");
        }
    }
}

#[test]
fn a_crash_after_any_append_leaves_all_facts_before_it_and_their_cursor() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut ledger = Ledger::open(&dir.path().join("ledger.db")).expect("opens");
    let mut all = Vec::new();
    for round in 1..40_u64 {
        let facts = ticks(round * 10..round * 10 + round % 4);
        ledger.append(&facts, (round % 3 == 0).then_some(&round)).expect("appends");
        all.extend(facts);
        let copy = tempfile::tempdir().expect("a temporary directory");
        crash(dir.path(), copy.path());
        let left = Ledger::open(&copy.path().join("ledger.db")).expect("opens after a crash");
        assert_eq!(left.replay().expect("replays"), folded(&all), "after append {round}");
        assert_eq!(left.cursor::<u64>().expect("reads"), Some(round / 3 * 3).filter(|n| *n > 0));
    }
}

/// Power may fail while the log is being written: whatever is left of it, facts and cursor agree.
#[test]
fn a_log_cut_off_anywhere_replays_to_a_prefix_and_the_cursor_is_never_ahead_of_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut ledger = Ledger::open(&dir.path().join("ledger.db")).expect("opens");
    for round in 1..20_u64 {
        ledger.append(&ticks(round..round + 1), Some(&round)).expect("appends");
    }
    let log = std::fs::read(dir.path().join("ledger.db-wal")).expect("the log is there");
    for cut in (0..log.len()).step_by(997) {
        let copy = tempfile::tempdir().expect("a temporary directory");
        crash(dir.path(), copy.path());
        std::fs::write(copy.path().join("ledger.db-wal"), &log[..cut]).expect("writes");
        let left = Ledger::open(&copy.path().join("ledger.db")).expect("opens after a crash");
        let book = left.replay().expect("replays");
        let cursor = left.cursor::<u64>().expect("reads").unwrap_or(0);
        assert_eq!((book.now(), left.facts().expect("counts")), (cursor, cursor), "cut at {cut}");
    }
}

#[test]
fn pins_are_set_and_read_while_facts_are_appended() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("ledger.db");
    let mut ledger = Ledger::open(&path).expect("opens");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let pins = TagPins::open(&path).expect("opens");
            scope.spawn(move || {
                for number in 0..25 {
                    let source = format!("{thread}-{number}");
                    pins.set(&source, "a:1", "sha256:x").expect("sets");
                    assert_eq!(pins.get(&source, "a:1").expect("gets").as_deref(), Some("sha256:x"));
                    assert_eq!(pins.get(&source, "a:2").expect("gets"), None);
                }
            });
        }
        for at in 1..100 {
            ledger.append(&ticks(at..at + 1), Some(&at)).expect("appends");
        }
    });
    assert_eq!(ledger.facts().expect("counts"), 99);
    assert_eq!(ledger.cursor::<u64>().expect("reads"), Some(99));
}

#[test]
fn a_row_that_does_not_decode_is_named_and_stops_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("ledger.db");
    Ledger::open(&path).expect("opens").append(&ticks(1..2), None::<&u64>).expect("appends");
    let db = rusqlite::Connection::open(&path).expect("opens");
    db.execute("UPDATE fact SET news = '{\"news\":\"of-tomorrow\"}'", []).expect("writes");
    let error = Ledger::open(&path).expect("opens").replay().expect_err("a fact is lost");
    assert!(error.to_string().contains("fact 1"), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_an_error_and_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("ledger.db");
    let bytes = b"this is something else that is long enough to be looked at".repeat(100);
    std::fs::write(&path, &bytes).expect("writes");
    assert!(Ledger::open(&path).is_err());
    assert_eq!(std::fs::read(&path).expect("reads"), bytes);
}
