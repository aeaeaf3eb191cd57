//! What the driver reports of a GPU, while a job runs on it and while none does: the table of Xids, memory errors, the
//! bus, and what the driver says it needs.

use fake_gpu_script::{Event, EventKind, Script};
use hostile::gpu::{GpuRig, one_launch, order};
use hostile::rig::{refusal, wait_for};
use runner::protocol::{End, Refusal};

use crate::{assert_ran, small_job};

const REBOOT: &str = "it needs a reboot of the machine";
const POWER: &str = "it needs the machine's power switched off and on";
const PERSON: &str = "it needs a person to look at it";

/// A rig on which a job takes so long that something can happen meanwhile.
fn slow() -> GpuRig {
    GpuRig::offering(|script| {
        script.cuda.delay_ms.insert("cuModuleLoadData".to_owned(), 1500);
    })
}

fn xid(number: u64) -> impl FnOnce(&mut Script) {
    move |script| script.events.push(Event { gpu: 0, kind: EventKind::Xid, data: number })
}

/// Panics unless the GPU takes no job, and says `words`.
fn assert_withdrawn(rig: &GpuRig, words: &[&str]) {
    let state = rig.becomes("withdrawn: ");
    assert!(words.iter().all(|words| state.contains(words)), "{words:?} in: {state}");
    wait_for("the worker to end", || rig.workers().is_empty().then_some(()));
    let (launch, fds) = order(&small_job(), 5);
    match refusal(rig.launch_with(launch, &fds)) {
        Refusal::NoGpu { why } => assert!(words.iter().all(|words| why.contains(words)), "{why}"),
        other => panic!("{other:?}"),
    }
    rig.rig.still_works();
}

/// Panics unless the GPU is offered again once its owner has it tried again.
fn assert_comes_back(rig: &GpuRig) {
    rig.rig.client.retry_gpus().expect("retry");
    rig.still_works();
}

#[test]
fn an_xid_that_is_the_trace_of_something_else_changes_nothing() {
    let rig = slow();
    for number in [43, 45] {
        let running = rig.running(&small_job(), 20);
        rig.change(xid(number));
        wait_for("the report", || rig.rig.journal().contains(&format!("Xid({number})")).then_some(()));
        assert_ran(&running.join().expect("no panic").expect("launched").0);
        assert!(!rig.rig.journal().contains("suspect"), "Xid {number}");
        rig.still_works();
    }
}

#[test]
fn after_an_xid_of_a_program_the_job_may_end_and_the_gpu_proves_itself() {
    let rig = slow();
    for (number, counted) in [(13, true), (31, true), (94, false), (999, false)] {
        let running = rig.running(&small_job(), 20);
        rig.change(xid(number));
        assert_ran(&running.join().expect("no panic").expect("launched").0);
        rig.still_works();
        let journal = rig.rig.journal();
        assert!(journal.contains(&format!("suspect: Xid {number}: ")), "Xid {number}");
        let blamed =
            journal.lines().any(|line| line.contains("a job caused an Xid") && line.contains(&format!("xid={number}")));
        assert_eq!(blamed, counted, "Xid {number}");
    }
}

#[test]
fn an_xid_of_several_jobs_speaks_against_the_gpu() {
    let rig = slow();
    for name in ["one", "another", "a-third"] {
        let (mut launch, fds) = order(&small_job(), 20);
        launch.job = name.to_owned();
        let running = rig.begin(launch, fds);
        rig.becomes("busy with");
        rig.change(xid(31));
        assert_ran(&running.join().expect("no panic").expect("launched").0);
        rig.offered();
    }
    let journal = rig.rig.journal();
    assert!(journal.contains("several jobs had the same Xid"), "{journal}");
    rig.still_works();
}

#[test]
fn an_xid_that_needs_more_than_the_rig_can_do_ends_the_job_and_withdraws_the_gpu() {
    for (number, remedy) in [(48, REBOOT), (95, REBOOT), (119, REBOOT), (79, POWER), (54, PERSON), (151, REBOOT)] {
        let rig = GpuRig::healthy();
        let running = rig.running(&one_launch("fault_hang"), 60);
        rig.change(xid(number));
        let (launched, outputs) = running.join().expect("no panic").expect("launched");
        let End::GpuLost { why } = launched.end else { panic!("Xid {number}: {:?}", launched.end) };
        assert!(why.contains(&format!("Xid {number}: ")), "{why}");
        assert!(outputs.is_empty());
        assert_withdrawn(&rig, &[&format!("Xid {number}: "), remedy]);
        assert_comes_back(&rig);
    }
}

#[test]
fn a_row_of_memory_that_was_remapped_waits_for_the_job_and_then_for_a_reboot() {
    let rig = slow();
    let running = rig.running(&small_job(), 20);
    rig.change(xid(63));
    assert_ran(&running.join().expect("no panic").expect("launched").0);
    assert_withdrawn(&rig, &["Xid 63: ", REBOOT]);
}

#[test]
fn a_gpu_that_falls_off_the_bus_is_withdrawn_with_its_job() {
    let rig = GpuRig::healthy();
    let running = rig.running(&one_launch("fault_hang"), 60);
    rig.change(|script| {
        script.gpus[0].lost = true;
        script.events.push(Event { gpu: 0, kind: EventKind::Xid, data: 79 });
    });
    let (launched, _) = running.join().expect("no panic").expect("launched");
    assert!(matches!(launched.end, End::GpuLost { .. }), "{:?}", launched.end);
    assert_withdrawn(&rig, &["fell off the bus", POWER]);
    rig.change(|script| script.gpus[0].lost = false);
    assert_comes_back(&rig);
}

#[test]
fn a_gpu_that_does_not_answer_is_withdrawn_without_any_report() {
    let rig = GpuRig::healthy();
    rig.change(|script| script.gpus[0].lost = true);
    assert_withdrawn(&rig, &["it fell off the bus", POWER]);
    // It is not there, so that it is tried again helps nothing; the runner lives on.
    rig.rig.still_works();
}

#[test]
fn memory_that_lost_bits_withdraws_the_gpu_whoever_counts_them() {
    type Change = fn(&mut Script);
    let reported: Change = |script| script.events.push(Event { gpu: 0, kind: EventKind::DoubleBitEcc, data: 0 });
    let counted: Change = |script| {
        let ecc = script.gpus[0].ecc.as_mut().expect("memory with error correction");
        ecc.volatile[1] += 1;
    };
    for change in [reported, counted] {
        let rig = GpuRig::healthy();
        wait_for("a first sample", || rig.gpu().sample);
        let running = rig.running(&one_launch("fault_hang"), 60);
        rig.change(change);
        let (launched, _) = running.join().expect("no panic").expect("launched");
        assert!(matches!(&launched.end, End::GpuLost { why } if why.contains("lost bits")), "{:?}", launched.end);
        assert_withdrawn(&rig, &["its memory lost bits", REBOOT]);
    }
}

#[test]
fn corrected_errors_are_counted_and_nothing_else() {
    let rig = GpuRig::healthy();
    rig.change(|script| script.gpus[0].ecc.as_mut().expect("error correction").volatile[0] = 5);
    wait_for("the count", || rig.gpu().sample.filter(|sample| sample.ecc.corrected == Some(5)));
    assert!(!rig.rig.journal().contains("suspect"));
    rig.still_works();
}

#[test]
fn what_the_driver_says_a_gpu_needs_is_done_or_asked_for() {
    for (action, words) in [
        (1, ["it needs a reset of the GPU", REBOOT]),
        (2, ["its driver says that it needs a reboot of the machine", REBOOT]),
        (6, ["a reset of its bus", "it needs a reset of its bus, by hand"]),
        (77, ["code 77", PERSON]),
    ] {
        let rig = GpuRig::healthy();
        rig.change(|script| script.gpus[0].recovery_action = action);
        assert_withdrawn(&rig, &words);
    }
}

#[test]
fn a_gpu_that_shall_be_drained_finishes_its_job_first() {
    let rig = slow();
    wait_for("a first sample", || rig.gpu().sample);
    let running = rig.running(&small_job(), 20);
    rig.change(|script| script.gpus[0].recovery_action = 4);
    assert_ran(&running.join().expect("no panic").expect("launched").0);
    assert_withdrawn(&rig, &["an end of its work, then a reset", REBOOT]);
}

#[test]
fn a_gpu_that_is_held_back_shows_it_and_is_offered() {
    let rig = GpuRig::healthy();
    rig.change(|script| {
        script.gpus[0].throttle_reasons = 4 | 64;
        script.gpus[0].temperature_c = 93;
    });
    let sample = wait_for("the reasons", || rig.gpu().sample.filter(|sample| sample.throttle.len() == 2));
    assert_eq!(sample.gpu_c, Some(93), "{sample:?}");
    assert!(!rig.rig.journal().contains("suspect"));
    rig.still_works();
}
