//! Before a GPU is offered it must prove itself: right bytes, and none of an earlier job's.

use std::time::{Duration, Instant};

use cuda::messages::Done;
use hostile::gpu::{GpuRig, gemm, one_launch, order, small};
use hostile::rig::refusal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runner::protocol::{End, Refusal};

use crate::small_job;

const GIVEN_UP: &str = "given up after 3 failed canaries";

fn assert_given_up(rig: &GpuRig, words: &str) {
    let state = rig.becomes(GIVEN_UP);
    assert!(state.contains(words), "{state}");
    assert!(rig.workers().is_empty());
    let (launch, fds) = order(&small_job(), 5);
    let asked = Instant::now();
    match refusal(rig.launch_with(launch, &fds)) {
        Refusal::NoGpu { why } => assert!(why.contains(words), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(asked.elapsed() < Duration::from_secs(5), "nobody waits for what will not come");
}

#[test]
fn attack_57_a_gpu_with_bytes_of_an_earlier_job_is_not_offered_until_it_is_repaired() {
    let mut script = small();
    script.cuda.scrub = false;
    let mut rig = GpuRig::new(script);
    assert_given_up(&rig, "bytes of its memory were not cleared");
    assert!(!rig.rig.journal().contains("state=\"offered\""), "never, not for a moment");
    rig.rig.client.retry_gpus().expect("retry");
    rig.becomes("not proven yet");
    assert_given_up(&rig, "bytes of its memory were not cleared");
    rig.rig.kill_runner();
    rig.change(|script| script.cuda.scrub = true);
    rig.rig.start_runner();
    rig.still_works();
}

#[test]
fn a_gpu_whose_canaries_die_is_given_up_and_offered_once_it_is_tried_again() {
    let rig = GpuRig::new(small());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !rig.gpu().state.to_string().contains(GIVEN_UP) {
        assert!(Instant::now() < deadline, "{}", rig.gpu().state);
        for worker in rig.workers() {
            let _ = kill(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_given_up(&rig, "its canary failed");
    assert!(!rig.rig.journal().contains("state=\"offered\""));
    rig.rig.client.retry_gpus().expect("retry");
    rig.still_works();
}

#[test]
fn a_driver_that_cannot_do_what_the_canary_asks_is_not_offered() {
    let mut script = small();
    script.cuda.fail.insert("cuMemcpyDtoDAsync_v2".to_owned(), 1);
    let rig = GpuRig::new(script);
    assert_given_up(&rig, "CUDA_ERROR_INVALID_VALUE");
    assert!(!rig.rig.journal().contains("state=\"offered\""));
}

#[test]
fn a_program_of_the_owner_s_on_a_gpu_does_not_cost_it() {
    let owners = fake_gpu_script::Process { pid: 1, vram_bytes: 1 << 20 };
    let rig = GpuRig::offering(|script| script.gpus[0].processes.push(owners));
    let end = rig.end(&one_launch("fault_illegal_address"));
    assert!(matches!(end, End::Answered { done: Done::Failed(_) }), "{end:?}");
    rig.offered();
    let (launched, _) = rig.launch(&gemm(8, 8, 8)).expect("launched");
    assert!(matches!(launched.end, End::Answered { done: Done::Ran(_) }), "{launched:?}");
}
