//! A journal that is cut off anywhere, and one that is damaged.

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const NOON: Duration = Duration::from_secs(12 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn state() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn response(task: u8, answer: u8) -> Response {
    Response { task: Address::repeat_byte(task), digest: B256::repeat_byte(answer) }
}

fn open(state: &TempDir) -> Responses {
    Responses::open(state.path(), BOUNDS).expect("a sound journal")
}

fn rule(entered: Result<(), Refusal>) -> Result<(), Rule> {
    entered.map_err(|refusal| refusal.rule)
}

/// A journal with the answers 0, 1 and 2 to the tasks of the same number, as bytes.
fn three() -> (TempDir, Vec<u8>) {
    let state = state();
    let mut journal = open(&state);
    for number in 0..3 {
        journal.enter(response(number, number), NOON).expect("the first answer");
    }
    let bytes = fs::read(state.path().join(FILE_NAME)).expect("the journal");
    (state, bytes)
}

#[test]
fn a_record_on_disk_is_as_the_module_doc_says() {
    let (_state, bytes) = three();
    assert_eq!(bytes.len(), 4 * RECORD_BYTES);
    assert!(bytes.starts_with(b"RIGRESP\x01") && bytes[8..56] == [0; 48]);
    let second = &bytes[2 * RECORD_BYTES..3 * RECORD_BYTES];
    assert_eq!(second[..20], [1; 20]);
    assert_eq!(second[20..52], [1; 32]);
    assert_eq!(second[52..56], 720_u32.to_le_bytes());
    assert_eq!(second[56..], keccak256(&second[..56])[..8]);
}

#[test]
fn a_second_response_to_a_task_is_refused_and_the_first_again_is_not() {
    let (state, bytes) = three();
    let mut journal = open(&state);
    for number in 0..3 {
        assert_eq!(rule(journal.enter(response(number, 9), NOON)), Err(Rule::SecondResponse));
        assert_eq!(rule(journal.enter(response(number, number), NOON + DAY)), Ok(()));
    }
    let after = fs::read(state.path().join(FILE_NAME)).expect("the journal");
    assert_eq!(after, bytes, "what is known is not written again");
}

#[test]
fn damage_is_named_with_its_offset_and_only_responses_are_refused() {
    let check = |at: usize, offset: u64| {
        let (state, mut bytes) = three();
        bytes[at] ^= 1;
        fs::write(state.path().join(FILE_NAME), &bytes).expect("write");
        let error = Responses::open(state.path(), BOUNDS).expect_err("damage");
        assert!(matches!(error, JournalError::Damaged { offset: found, .. } if found == offset), "{error}");
        assert!(error.to_string().contains(&format!("byte {offset} ")), "{error}");
        assert!(matches!(Journal::open(state.path()), Journal::Unreadable(_)));
        assert_eq!(fs::read(state.path().join(FILE_NAME)).expect("still there"), bytes, "it is left as it is");
    };
    for at in [0, 8, 63] {
        check(at, 0);
    }
    check(64, 64);
    check(64 + 19, 64);
    check(64 + 63, 64);
    check(128 + 40, 128);
    // A sound length and a wrong checksum at the very end is no power cut: the sector was written.
    check(192 + 1, 192);
}

#[test]
fn a_journal_of_another_kind_is_refused() {
    let check = |bytes: &[u8]| {
        let state = state();
        files::replace(state.path(), FILE_NAME, bytes).expect("write");
        assert!(matches!(Responses::open(state.path(), BOUNDS), Err(JournalError::Damaged { .. })), "{bytes:?}");
    };
    check(&[]);
    check(&[0; RECORD_BYTES]);
    check(&[0; 3 * RECORD_BYTES]);
    check(&checked(b"RIGRESP\x02"));
    let first = record_of(Address::ZERO, Answer { digest: B256::ZERO, minute: 0 });
    let second = record_of(Address::ZERO, Answer { digest: B256::repeat_byte(1), minute: 0 });
    check(&[checked(&MAGIC), first, second].concat());
    check(&[checked(&MAGIC), [0; RECORD_BYTES], first].concat());
}

#[test]
fn a_journal_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (state, _bytes) = three();
    let path = state.path().join(FILE_NAME);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
    assert!(matches!(Responses::open(state.path(), BOUNDS), Err(JournalError::File { step: "open", .. })));
}

#[test]
fn a_last_record_that_never_reached_the_disk_is_dropped() {
    let (state, bytes) = three();
    let path = state.path().join(FILE_NAME);
    fs::write(&path, [&bytes[..], &[0; RECORD_BYTES]].concat()).expect("write");
    let mut journal = open(&state);
    assert_eq!(fs::read(&path).expect("the journal"), bytes);
    journal.enter(response(7, 7), NOON).expect("it goes on");
    assert_eq!(rule(open(&state).enter(response(7, 8), NOON)), Err(Rule::SecondResponse));
}

#[test]
fn what_is_remembered_is_bounded_and_only_old_answers_are_forgotten() {
    let bounds = Bounds { records_max: 4, keep: DAY, forget_min: 2 };
    let state = state();
    let mut journal = Responses::open(state.path(), bounds).expect("a new journal");
    for (task, now) in [(0, NOON), (1, NOON + DAY / 2), (2, NOON + DAY / 2), (3, NOON + DAY / 2)] {
        journal.enter(response(task, task), now).expect("room");
    }
    // One old answer is not worth a rewrite; then there are enough.
    assert_eq!(rule(journal.enter(response(4, 4), NOON + DAY * 5 / 4)), Err(Rule::Journal));
    assert_eq!(rule(journal.enter(response(3, 9), NOON + DAY * 5 / 4)), Err(Rule::SecondResponse), "all are known");
    assert_eq!(rule(journal.enter(response(4, 4), NOON + DAY * 2)), Ok(()));
    assert_eq!(fs::metadata(state.path().join(FILE_NAME)).expect("the journal").len(), 2 * 64);
    journal.enter(response(5, 5), NOON + DAY * 2).expect("the new file is written to");
    let mut again = Responses::open(state.path(), bounds).expect("a sound journal");
    for task in [4, 5] {
        assert_eq!(rule(again.enter(response(task, 9), NOON + DAY * 2)), Err(Rule::SecondResponse));
    }
}

#[derive(Debug, Clone)]
enum Event {
    /// A response to one of a few tasks.
    Respond { task: u8, answer: u8 },
    /// The process ends, and the file has only so much of its bytes past those that were synced; what a rewrite left
    /// beside it has any length.
    Crash { beyond: usize, newborn: usize },
    /// Hours pass.
    Wait { hours: u32 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..6_u8, 0..3_u8).prop_map(|(task, answer)| Event::Respond { task, answer }),
        2 => (0..RECORD_BYTES, 0..200_usize).prop_map(|(beyond, newborn)| Event::Crash { beyond, newborn }),
        1 => (0..20_u32).prop_map(|hours| Event::Wait { hours }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// What was permitted first is all that is permitted again, for as long as it must be remembered.
    #[test]
    fn no_history_and_no_crash_permits_a_second_response(events in prop::collection::vec(event(), 1..40)) {
        let bounds = Bounds { records_max: 5, keep: DAY, forget_min: 1 };
        let state = state();
        let path = state.path().join(FILE_NAME);
        let mut journal = Responses::open(state.path(), bounds).expect("a new journal");
        let mut now = NOON;
        let mut permitted: HashMap<u8, (u8, Duration)> = HashMap::new();
        for event in events {
            match event {
                Event::Respond { task, answer } => match rule(journal.enter(response(task, answer), now)) {
                    Ok(()) => {
                        let (first, _) = *permitted.entry(task).and_modify(|(first, at)| {
                            if *first != answer && now - *at > DAY {
                                (*first, *at) = (answer, now);
                            }
                        }).or_insert((answer, now));
                        prop_assert_eq!(first, answer, "a second response to task {}", task);
                    }
                    Err(Rule::SecondResponse) => prop_assert_ne!(permitted[&task].0, answer),
                    Err(other) => prop_assert_eq!((other, permitted.len() >= 5), (Rule::Journal, true)),
                },
                Event::Crash { beyond, newborn } => {
                    drop(journal);
                    // An append that was under way: some bytes of a record, which nobody was told of.
                    let torn = record_of(Address::repeat_byte(9), Answer { digest: B256::ZERO, minute: 0 });
                    let mut bytes = fs::read(&path).expect("the journal");
                    bytes.extend_from_slice(&torn[..beyond]);
                    fs::write(&path, &bytes).expect("write");
                    fs::write(state.path().join("responses.journal.new"), vec![7; newborn]).expect("write");
                    journal = Responses::open(state.path(), bounds).expect("a sound journal");
                }
                Event::Wait { hours } => now += Duration::from_secs(u64::from(hours) * 3600),
            }
        }
    }

    /// A file that ends after any byte permits nothing but what its whole records say.
    #[test]
    fn every_prefix_of_a_journal_keeps_its_whole_records(
        answers in prop::collection::vec(0..3_u8, 1..8),
        cut in 64..600_usize,
    ) {
        let state = state();
        let path = state.path().join(FILE_NAME);
        let mut journal = Responses::open(state.path(), BOUNDS).expect("a new journal");
        for (task, answer) in (0..).zip(&answers) {
            journal.enter(response(task, *answer), NOON).expect("the first answer");
        }
        drop(journal);
        let bytes = fs::read(&path).expect("the journal");
        let cut = cut.min(bytes.len());
        fs::write(&path, &bytes[..cut]).expect("write");
        let mut journal = Responses::open(state.path(), BOUNDS).expect("a prefix is sound");
        for (task, answer) in (0..cut / RECORD_BYTES - 1).zip(&answers) {
            let task = u8::try_from(task).expect("few tasks");
            prop_assert_eq!(rule(journal.enter(response(task, answer + 1), NOON)), Err(Rule::SecondResponse));
            prop_assert_eq!(rule(journal.enter(response(task, *answer), NOON)), Ok(()));
        }
    }
}
