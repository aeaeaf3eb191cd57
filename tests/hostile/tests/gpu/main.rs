//! Bundles on GPUs through the real runner and real workers; only the driver is not there.

mod bad_launches;
mod compiles;
mod confinement;
mod events;
mod faults;
mod killed;
mod many;
mod pairs;
mod possessed;
mod proof;
mod start;

use cuda::messages::{Done, Failure};
use hostile::gpu::{GpuRig, Job, gemm};
use runner::protocol::{End, Launched};

/// What a worker said that a job failed with.
fn failure(end: &End) -> &Failure {
    match end {
        End::Answered { done: Done::Failed(failure) } => failure,
        other => panic!("not failed: {other:?}"),
    }
}

/// Panics unless the job ran.
fn assert_ran(launched: &Launched) {
    assert!(launched.timings().is_some(), "{:?}", launched.end);
}

/// A small job that launches a kernel, so that it loads a module.
fn small_job() -> Job {
    gemm(8, 8, 8)
}

#[test]
fn a_product_of_matrices_comes_back_as_it_should_be() {
    let rig = GpuRig::healthy();
    let (m, n, k) = (70, 33, 20);
    let job = gemm(m, n, k);
    let (launched, outputs) = rig.launch(&job).expect("launched");
    let End::Answered { done: Done::Ran(ran) } = &launched.end else { panic!("{launched:?}") };
    assert!(launched.was_warm);
    println!("{ran:?}");
    let numbers: Vec<f32> =
        job.inputs.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four"))).collect();
    let (a, b) = numbers.split_at((m * k) as usize);
    let found: Vec<f32> =
        outputs.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four"))).collect();
    assert_eq!(found.len(), (m * n) as usize);
    for row in 0..m as usize {
        for column in 0..n as usize {
            let expected: f32 = (0..k as usize).map(|at| a[row * k as usize + at] * b[at * n as usize + column]).sum();
            assert!((found[row * n as usize + column] - expected).abs() <= expected.abs() * 1e-5, "{row} {column}");
        }
    }
    rig.offered();
}
