//! Faults of the device and of the driver: each ends in its class, said in words, without a panic.

use std::time::Duration;

use cuda::class::Class;
use fake_gpu_script::{Fault, Script};

use crate::bundles;
use crate::world::{Files, World, failed, job};

/// The class that each fault must end in; nothing for one that never ends.
fn class(fault: Fault) -> Option<Class> {
    match fault {
        Fault::Lost => Some(Class::DeviceLost),
        Fault::Ecc => Some(Class::HardwareError),
        Fault::IllegalAddress => Some(Class::IllegalAddress),
        Fault::LaunchTimeout => Some(Class::LaunchTimeout),
        Fault::Assert => Some(Class::Assert),
        Fault::HardwareStack | Fault::LaunchFailure => Some(Class::LaunchFailure),
        Fault::IllegalInstruction | Fault::InvalidPc => Some(Class::IllegalInstruction),
        Fault::Misaligned | Fault::InvalidAddressSpace => Some(Class::MisalignedAddress),
        Fault::Hang => None,
    }
}

#[test]
fn every_fault_of_a_kernel_ends_the_job_in_its_class() {
    let world = World::healthy();
    for fault in Fault::ALL {
        let Some(expected) = class(fault) else { continue };
        let archive = bundles::one_launch(fault.kernel());
        let files = Files::new(&archive, &[], 64);
        let (done, code) = world.perform(&job(&archive, "launch", &[]), &files);
        let failure = failed(done);
        assert_eq!((failure.class, Some(failure.code)), (expected, fault.code()), "{failure:?}");
        assert!(failure.name.starts_with("CUDA_ERROR_"), "{failure:?}");
        assert_eq!((files.output(), code), (vec![0xee; 64], 4), "{fault:?}");
    }
}

#[test]
fn a_kernel_that_never_ends_is_waited_for_until_the_worker_is_killed() {
    let archive = bundles::one_launch("fault_hang");
    let files = Files::new(&archive, &[], 64);
    let (worker, _) = World::healthy().warm();
    files.send(&worker, &job(&archive, "launch", &[]));
    assert!(worker.is_quiet_for(Duration::from_millis(500)));
    worker.kill();
    assert_eq!(files.output(), [0xee; 64]);
}

#[test]
fn too_little_memory_names_the_buffer() {
    let mut script = Script::default();
    script.cuda.out_of_memory_at_bytes = Some(2 << 20);
    let archive = bundles::fills();
    let files = Files::new(&archive, &vec![0; 8 << 20], 8 << 20);
    let (done, _) = World::new(&script).perform(&job(&archive, "fills", &[("n", 1 << 20), ("steps", 1)]), &files);
    let failure = failed(done);
    assert_eq!((failure.class, failure.code, failure.during.as_str()), (Class::OutOfMemory, 2, "allocate buffer b"));
}

#[test]
fn a_call_that_fails_in_the_middle_of_a_job_names_the_step() {
    let check = |call: &str, code, class, during: &str| {
        let mut script = Script::default();
        script.cuda.fail.insert(call.to_owned(), code);
        let archive = bundles::gemm();
        let files = Files::new(&archive, &[0; 8], 4);
        let job = job(&archive, "gemm_f32", &[("m", 1), ("n", 1), ("k", 1)]);
        let failure = failed(World::new(&script).perform(&job, &files).0);
        assert_eq!((failure.class, failure.code), (class, code), "{failure:?}");
        assert!(failure.during.contains(during) && failure.detail.contains("ended with"), "{failure:?}");
    };
    check("cuModuleLoadData", 209, Class::NoKernelImage, "load module gemm");
    check("cuModuleLoadData", 222, Class::UnsupportedPtx, "load module gemm");
    check("cuModuleGetFunction", 500, Class::BadBundle, "find kernel gemm_f32");
    check("cuLaunchKernel", 701, Class::BadBundle, "launch gemm_f32");
    check("cuMemcpyHtoDAsync_v2", 214, Class::HardwareError, "upload buffer a");
    check("cuMemcpyDtoHAsync_v2", 700, Class::IllegalAddress, "download buffer c");
    // A code that no header has yet.
    check("cuLaunchKernel", 12_345, Class::Driver, "launch gemm_f32");
}

#[test]
fn a_driver_that_does_not_begin_says_what_to_do() {
    let check = |code, class, word: &str| {
        let mut script = Script::default();
        script.cuda.init = code;
        let (failure, exit) = World::new(&script).cold();
        assert_eq!((failure.class, failure.code, exit), (class, code, 3), "{failure:?}");
        assert!(failure.detail.contains(word), "{failure:?}");
    };
    check(100, Class::DeviceLost, "no NVIDIA GPU is visible");
    check(803, Class::Driver, "different versions");
    check(999, Class::Driver, "cannot say why");
}

#[test]
fn a_device_that_is_gone_from_the_start_is_lost() {
    let mut script = Script::default();
    script.cuda.lost_after_launches = Some(0);
    let (failure, exit) = World::new(&script).cold();
    assert_eq!((failure.class, failure.code, exit), (Class::DeviceLost, 46, 3), "{failure:?}");
}

#[test]
fn a_machine_without_a_driver_says_so() {
    let (failure, exit) = World::without_driver().cold();
    assert_eq!((failure.class, failure.code, exit), (Class::Driver, 0, 3), "{failure:?}");
    assert!(failure.detail.contains("libcuda.so.1 cannot be loaded: install the driver"), "{failure:?}");
}

#[test]
fn a_driver_that_lacks_any_call_names_it() {
    for symbol in ["cuInit", "cuGetErrorName", "cuEventElapsedTime", "cuMemcpyDtoDAsync_v2"] {
        let script = Script { missing_symbols: vec![symbol.to_owned()], ..Script::default() };
        let (failure, exit) = World::new(&script).cold();
        assert_eq!((failure.class, exit), (Class::Driver, 3), "{failure:?}");
        assert!(failure.detail.contains(&format!("has no call {symbol}:")), "{failure:?}");
    }
}
