//! The benchmark, through real workers.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fake_gpu_script::{Event, EventKind, Gpu, Script};
use hostile::gpu::{GpuRig, one_launch, small};
use hostile::rig::{Setup, wait_for};
use runner::client::ClientError;
use runner::protocol::{Bench, Refusal, Throughput};

/// NVIDIA's linker as Python packages unpack it, which `tests/setup.sh` puts below `target`.
const TOOLKIT_DIR: &str = "RIG_CUDA_TOOLKIT";

/// The linker, found where the loader looks for the driver.
fn with_linker(driver: &Path) {
    let toolkit = std::env::var_os(TOOLKIT_DIR).map(PathBuf::from);
    let toolkit = toolkit.expect("RIG_CUDA_TOOLKIT; tests/setup.sh makes target/cuda-toolkit");
    let libraries = toolkit.join("nvidia/nvjitlink/lib");
    for entry in std::fs::read_dir(libraries).expect("nvidia/nvjitlink/lib in the toolkit").flatten() {
        symlink(entry.path(), driver.join(entry.file_name())).expect("link");
    }
}

fn refusal(error: ClientError) -> Refusal {
    match error {
        ClientError::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn assert_plausible(bench: &Bench) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    assert!((now - 300..=now).contains(&bench.at_unix), "{bench:?}");
    assert!(bench.driver.is_some(), "{bench:?}");
    let rates =
        [bench.bandwidth.device_copy_gb_s, bench.bandwidth.host_to_device_gb_s, bench.bandwidth.device_to_host_gb_s];
    assert!(rates.iter().all(|rate| *rate > 0.0) && bench.bandwidth.copied_bytes > 0, "{bench:?}");
}

#[test]
fn without_a_compiler_bytes_are_measured_and_the_rest_says_why_not() {
    let rig = GpuRig::healthy();
    assert_eq!(rig.gpu().bench, None);
    let measurement = rig.rig.client.measure(None).expect("measured");
    assert_plausible(&measurement.bench);
    for rate in [&measurement.bench.fp32, &measurement.bench.fp16] {
        let Throughput::Unknown(why) = rate else { panic!("a rate without a compiler: {rate:?}") };
        assert!(why.contains("libnvJitLink"), "{why}");
    }
    assert_eq!(rig.gpu().bench.as_ref(), Some(&measurement.bench));
    rig.still_works();
}

#[test]
fn figures_outlive_the_runner_and_newer_ones_take_their_place() {
    let mut rig = GpuRig::healthy();
    let first = rig.rig.client.measure(Some(rig.offered())).expect("measured").bench;
    rig.rig.kill_runner();
    rig.rig.start_runner();
    assert_eq!(rig.gpu().bench, Some(first.clone()));
    rig.offered();
    let second = rig.rig.client.measure(None).expect("measured").bench;
    assert_ne!(first, second);
    assert_eq!(rig.gpu().bench, Some(second));
}

#[test]
fn every_architecture_has_the_figures_that_it_can_have() {
    let architectures = [[7, 5], [8, 0], [8, 6], [8, 9], [9, 0], [10, 0], [12, 0]];
    let gpu = |(index, compute_capability)| Gpu { vram_bytes: 96 << 20, compute_capability, ..Gpu::numbered(index) };
    let mut script = Script { gpus: (0_u8..).zip(architectures).map(gpu).collect(), ..small() };
    // Long enough to be looked at.
    script.cuda.delay_ms.insert("cuLaunchKernel".to_owned(), 20);
    let rig = GpuRig::furnished(script, Setup::default(), with_linker);
    let all_offered = || rig.gpus().iter().all(|gpu| gpu.state.is_offered()).then(|| rig.gpus());
    for report in wait_for("all GPUs to be offered", all_offered) {
        let bench = rig.rig.client.measure(Some(report.gpu.uuid.clone())).expect("measured").bench;
        println!("{}: {bench:?}", report.gpu.uuid);
        assert_plausible(&bench);
        let capability = report.gpu.compute_capability.expect("a compute capability");
        assert_eq!((bench.sm_mhz, bench.memory_mhz), (Some(210), Some(405)), "{bench:?}");
        assert!(matches!(bench.fp32, Throughput::Tflops(rate) if rate > 0.0), "{capability:?}: {:?}", bench.fp32);
        match bench.fp16 {
            Throughput::Tflops(rate) => assert!(capability.major >= 8 && rate > 0.0, "{capability:?}"),
            Throughput::Unknown(why) => {
                assert!(capability.major < 8 && why.contains("sm_80 and later"), "{capability:?}: {why}");
            }
        }
    }
}

#[test]
fn a_gpu_that_has_a_job_or_is_not_there_is_not_measured() {
    let rig = GpuRig::healthy();
    let begun = rig.running(&one_launch("fault_hang"), 6);
    let refused = refusal(rig.rig.client.measure(Some(rig.gpu().gpu.uuid)).expect_err("it has a job"));
    assert!(matches!(refused, Refusal::GpuBusy { .. }), "{refused}");
    begun.join().expect("no panic").expect("launched");
    let other = "GPU-none".parse().expect("a UUID");
    let refused = refusal(rig.rig.client.measure(Some(other)).expect_err("it is not there"));
    assert!(matches!(&refused, Refusal::NoGpu { why } if why.contains("no such GPU")), "{refused}");
}

#[test]
fn a_gpu_is_busy_while_it_is_measured_and_offered_afterwards() {
    let rig = GpuRig::healthy();
    rig.rig.client.measure(None).expect("measured");
    let journal = rig.rig.journal();
    assert!(journal.contains("busy with the benchmark"), "{journal}");
    rig.offered();
    rig.still_works();
}

/// The copies of its benchmark take seconds.
fn slow() -> GpuRig {
    GpuRig::offering(|script| {
        script.cuda.delay_ms.insert("cuStreamSynchronize".to_owned(), 200);
    })
}

#[test]
fn a_fault_of_the_gpu_ends_its_measurement_and_nothing_is_kept_of_it() {
    for (xid, ends_as) in [(79, "withdrawn: Xid 79"), (95, "withdrawn: Xid 95")] {
        let rig = slow();
        let client = rig.rig.client.clone();
        let measuring = std::thread::spawn(move || client.measure(None));
        rig.becomes("busy with the benchmark");
        rig.change(|script| script.events.push(Event { gpu: 0, kind: EventKind::Xid, data: xid }));
        let refused = refusal(measuring.join().expect("no panic").expect_err("its GPU has a fault"));
        assert!(matches!(&refused, Refusal::NoGpu { why } if why.contains("could not be measured")), "{refused}");
        rig.becomes(ends_as);
        assert_eq!((rig.gpu().bench, rig.workers()), (None, Vec::new()));
    }
}
