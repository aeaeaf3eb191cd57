//! Many jobs in a row, good and bad, after which the machine holds what it held before.

use std::time::{Duration, Instant};

use hostile::gpu::{GpuRig, Job, gemm, one_launch};
use hostile::observed::{Observed, resident_bytes};

/// How many.
const JOBS: u32 = 200;

/// Of so many jobs, one is of another kind than small and good.
const EVERY: u32 = 10;

/// How much more memory the runner may have after them: 20 KiB a job, of which the allocator keeps what it once had.
const RESIDENT_BYTES_MORE_MAX: u64 = 4 << 20;

fn job(number: u32) -> Job {
    match (number % EVERY, number / EVERY % 3) {
        (0, 0) => one_launch("fault_assert"),
        (0, 1) => gemm(4096, 4096, 1),
        (0, _) => one_launch("fault_illegal_address"),
        _ => gemm(8, 8, 8),
    }
}

/// What the machine holds once everything has come to rest: equal to `wanted`, or the last of many looks.
fn at_rest(rig: &GpuRig, wanted: Option<&Observed>) -> Observed {
    let deadline = Instant::now() + Duration::from_secs(20);
    rig.offered();
    let mut last = rig.rig.observed().own();
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let next = rig.rig.observed().own();
        let is_enough = wanted.map_or(next == last, |wanted| next == *wanted);
        last = next;
        if is_enough || Instant::now() > deadline {
            return last;
        }
    }
}

#[test]
fn two_hundred_jobs_leave_nothing_behind() {
    let rig = GpuRig::healthy();
    // One of each kind first, so that what is made once has been made.
    for number in [0, EVERY, 2 * EVERY, 1] {
        rig.launch(&job(number)).expect("launched");
    }
    let before = at_rest(&rig, None);
    let resident = resident_bytes(rig.rig.runner_pid());
    let (began, mut warm, mut waited_us, mut took_us) = (Instant::now(), 0, 0, 0);
    for number in 0..JOBS {
        let (launched, _) = rig.launch(&job(number)).expect("launched");
        assert_eq!(launched.timings().is_some(), number % EVERY != 0, "{number}: {:?}", launched.end);
        warm += u32::from(launched.was_warm);
        (waited_us, took_us) = (waited_us + launched.waited_us, took_us + launched.took_us);
    }
    let took = began.elapsed();
    println!(
        "{JOBS} jobs in {took:?}, {:?} each, of which waited {} us and ran {} us; {warm} met a warm worker",
        took / JOBS,
        waited_us / u64::from(JOBS),
        took_us / u64::from(JOBS)
    );
    let after = at_rest(&rig, Some(&before));
    println!("before:\n{before}after:\n{after}");
    for ((what, before), (_, after)) in before.counts().into_iter().zip(after.counts()) {
        assert_eq!(before, after, "{what}");
    }
    let now = resident_bytes(rig.rig.runner_pid());
    println!("resident bytes of the runner: {resident} before, {now} after");
    assert!(now <= resident + RESIDENT_BYTES_MORE_MAX, "{resident} bytes became {now}");
    rig.still_works();
}
