//! Kernels that end badly: the job fails with its class, the GPU proves itself, and the next job works.

use std::time::Instant;

use cuda::class::Class;
use hostile::gpu::{GpuRig, gemm, one_launch};
use runner::protocol::End;

use crate::{assert_ran, failure};

/// Every kernel that ends badly, the driver's code for it and its class.
const FAULTS: [(&str, i32, Class); 11] = [
    ("fault_lost", 46, Class::DeviceLost),
    ("fault_ecc", 214, Class::HardwareError),
    ("fault_illegal_address", 700, Class::IllegalAddress),
    ("fault_launch_timeout", 702, Class::LaunchTimeout),
    ("fault_assert", 710, Class::Assert),
    ("fault_hardware_stack", 714, Class::LaunchFailure),
    ("fault_illegal_instruction", 715, Class::IllegalInstruction),
    ("fault_misaligned", 716, Class::MisalignedAddress),
    ("fault_invalid_address_space", 717, Class::MisalignedAddress),
    ("fault_invalid_pc", 718, Class::IllegalInstruction),
    ("fault_launch_failure", 719, Class::LaunchFailure),
];

/// How often the GPU was said to be offered.
fn times_offered(rig: &GpuRig) -> usize {
    rig.rig.journal().matches("state=\"offered\"").count()
}

#[test]
fn attack_59_every_fault_of_a_kernel_has_its_class_and_the_next_job_works() {
    let rig = GpuRig::healthy();
    for (at, (kernel, code, class)) in FAULTS.into_iter().enumerate() {
        let before = rig.worker();
        let end = rig.end(&one_launch(kernel));
        let failure = failure(&end);
        assert_eq!((failure.class, failure.code), (class, code), "{kernel}: {failure:?}");
        rig.still_works();
        assert_ne!(rig.worker(), before, "{kernel}: the same worker");
        // It was suspect, and it proved itself.
        let journal = rig.rig.journal();
        assert!(journal.contains(&format!("suspect: a job ended with {class:?}")), "{kernel}");
        assert_eq!(times_offered(&rig), 1 + 2 * (at + 1), "{kernel}: offered after its proof, and after the next job");
    }
}

#[test]
fn attack_58_a_kernel_that_never_ends_is_killed_at_its_deadline() {
    let rig = GpuRig::healthy();
    let began = Instant::now();
    let (launched, _) = rig.launch_within(&one_launch("fault_hang"), 1).expect("launched");
    let answered = began.elapsed();
    assert_eq!(launched.end, End::Deadline { seconds: 1 });
    assert!(rig.rig.journal().contains("suspect: a job had to be killed"));
    let (next, _) = rig.launch(&gemm(8, 8, 8)).expect("launched");
    assert_ran(&next);
    let all = began.elapsed();
    println!(
        "deadline of 1 s: the answer came after {answered:?}, the next job's after {all:?}: {:?} more",
        all - answered
    );
    rig.still_works();
}

#[test]
fn a_job_for_which_there_is_no_memory_fails_with_its_class_and_the_gpu_stays_offered() {
    let rig = GpuRig::offering(|script| script.cuda.out_of_memory_at_bytes = Some(8 << 20));
    let offered = times_offered(&rig);
    // Once more than the script gives, once more than the GPU has.
    for size in [2048, 4096] {
        let end = rig.end(&gemm(size, size, 1));
        let failure = failure(&end);
        assert_eq!((failure.class, failure.code), (Class::OutOfMemory, 2), "{failure:?}");
        assert!(failure.during.contains("allocate buffer c"), "{failure:?}");
    }
    assert!(!rig.rig.journal().contains("suspect"), "a job that asks for much speaks not against the GPU");
    rig.offered();
    assert_eq!(times_offered(&rig), offered + 2);
    rig.still_works();
}

#[test]
fn attack_60_what_the_whole_gpu_has_not_got_fails_and_takes_nothing_with_it() {
    let rig = GpuRig::healthy();
    for _ in 0..3 {
        assert_eq!(failure(&rig.end(&gemm(4096, 4096, 1))).class, Class::OutOfMemory);
    }
    rig.still_works();
}

#[test]
fn a_driver_that_refuses_a_step_of_a_job_is_told_by_the_step_and_is_no_fault_of_the_job() {
    // Not a canary's: it has no module.
    let rig = GpuRig::offering(|script| {
        script.cuda.fail.insert("cuModuleLoadData".to_owned(), 999);
    });
    let end = rig.end(&gemm(8, 8, 8));
    let failure = failure(&end);
    assert_eq!((failure.class, failure.code, failure.class.is_jobs_own()), (Class::Driver, 999, false));
    assert!(failure.during.contains("load module code"), "{failure:?}");
    rig.still_works();
}

#[test]
fn a_bundle_for_another_gpu_has_no_kernel_image() {
    let rig = GpuRig::offering(|script| script.gpus[0].compute_capability = [9, 0]);
    let end = rig.end(&gemm(8, 8, 8));
    assert_eq!(failure(&end).class, Class::NoKernelImage, "{end:?}");
    assert!(!rig.rig.journal().contains("suspect"), "the bundle's fault is not the GPU's");
    rig.offered();
}

#[test]
fn no_worker_does_two_jobs() {
    let rig = GpuRig::healthy();
    let mut workers = Vec::new();
    for job in [gemm(8, 8, 8), one_launch("fault_assert"), gemm(4096, 4096, 1), gemm(8, 8, 8)] {
        rig.offered();
        workers.push(rig.worker());
        let _ = rig.end(&job);
    }
    rig.offered();
    workers.push(rig.worker());
    let mut distinct = workers.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), workers.len(), "{workers:?}");
}
