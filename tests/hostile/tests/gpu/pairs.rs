//! Two GPUs: each has its own job, its own health and its own worker.

use std::time::Instant;

use fake_gpu_script::{Event, EventKind, Gpu, Script};
use hostile::gpu::{Begun, GpuRig, order, small};
use hostile::rig::{refusal, wait_for};
use runner::protocol::{Launched, Refusal};

use crate::{assert_ran, small_job};

/// How long a job here takes at least, in milliseconds.
const SLOW_MS: u64 = 1500;

fn two() -> GpuRig {
    let mut script: Script = small();
    script.gpus.push(Gpu { vram_bytes: script.gpus[0].vram_bytes, ..Gpu::numbered(1) });
    script.cuda.delay_ms.insert("cuModuleLoadData".to_owned(), SLOW_MS);
    let rig = GpuRig::new(script);
    rig.offered();
    assert_eq!((rig.gpus().len(), rig.workers().len()), (2, 2));
    rig
}

/// Launches a job that waits at most `wait_ms`, on the GPU with this index or on any.
fn begin(rig: &GpuRig, gpu: Option<usize>, wait_ms: u64) -> Begun {
    let (mut launch, fds) = order(&small_job(), 20);
    launch.wait_ms = wait_ms;
    launch.gpu = gpu.map(|index| rig.gpus()[index].gpu.uuid.clone());
    rig.begin(launch, fds)
}

fn ended(begun: Begun) -> Launched {
    let (launched, _) = begun.join().expect("no panic").expect("launched");
    assert_ran(&launched);
    launched
}

fn busy(rig: &GpuRig) -> usize {
    rig.gpus().iter().filter(|report| report.state.job().is_some()).count()
}

#[test]
fn two_jobs_run_at_the_same_time_and_a_third_waits() {
    let rig = two();
    let began = Instant::now();
    let first = [begin(&rig, None, 20_000), begin(&rig, None, 20_000)];
    wait_for("both to be busy", || (busy(&rig) == 2).then_some(()));
    let third = begin(&rig, None, 20_000);
    let [a, b] = first.map(ended);
    assert_ne!(a.gpu, b.gpu);
    let third = ended(third);
    println!("two at once and a third: {:?}; the third waited {} us", began.elapsed(), third.waited_us);
    assert!(third.waited_us > 500_000 && third.took_us >= SLOW_MS * 1000, "{third:?}");
    rig.still_works();
}

#[test]
fn who_asks_for_a_gpu_gets_that_one_or_waits_for_it() {
    let rig = two();
    let uuids: Vec<_> = rig.gpus().into_iter().map(|report| report.gpu.uuid).collect();
    for index in [1, 0, 1] {
        assert_eq!(ended(begin(&rig, Some(index), 20_000)).gpu, uuids[index]);
    }
    rig.offered();
    let first = begin(&rig, Some(1), 20_000);
    wait_for("it to be busy", || (busy(&rig) == 1).then_some(()));
    let second = begin(&rig, Some(1), 20_000);
    assert_eq!((ended(first).gpu, ended(second).gpu), (uuids[1].clone(), uuids[1].clone()));
    rig.still_works();
}

#[test]
fn who_has_waited_long_enough_is_told_so() {
    let rig = two();
    let first = [begin(&rig, Some(0), 0), begin(&rig, Some(1), 0)];
    wait_for("both to be busy", || (busy(&rig) == 2).then_some(()));
    for wait_ms in [0, 200] {
        let answer = begin(&rig, None, wait_ms).join().expect("no panic");
        assert_eq!(refusal(answer), Refusal::GpuBusy { waited_ms: wait_ms });
    }
    first.into_iter().for_each(|begun| drop(ended(begun)));
    rig.still_works();
}

#[test]
fn a_gpu_that_is_withdrawn_does_not_stop_the_other() {
    let rig = two();
    let running = begin(&rig, Some(1), 0);
    wait_for("it to be busy", || (busy(&rig) == 1).then_some(()));
    rig.change(|script| script.events.push(Event { gpu: 0, kind: EventKind::Xid, data: 79 }));
    rig.becomes("withdrawn: Xid 79");
    let launched = ended(running);
    let [lost, sound] = &rig.gpus()[..] else { panic!("two GPUs") };
    assert_eq!(launched.gpu, sound.gpu.uuid);
    assert!(
        matches!(refusal(begin(&rig, Some(0), 20_000).join().expect("no panic")), Refusal::NoGpu { .. }),
        "{lost:?}"
    );
    for _ in 0..2 {
        assert_eq!(ended(begin(&rig, None, 20_000)).gpu, sound.gpu.uuid);
    }
    rig.rig.client.retry_gpus().expect("retry");
    rig.still_works();
}
