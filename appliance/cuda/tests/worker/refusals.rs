//! Jobs that are not what they say: refused before the device is asked for anything.

use bundle::Digest;
use cuda::class::Class;
use cuda::messages::{Failure, Job};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::bundles;
use crate::world::{Files, World, failed, file, job};

/// A job of a product of two numbers, and its files.
fn product() -> (Job, Files) {
    let archive = bundles::gemm();
    (job(&archive, "gemm_f32", &[("m", 1), ("n", 1), ("k", 1)]), Files::new(&archive, &[0; 8], 4))
}

fn refused(job: &Job, files: &Files) -> Failure {
    let before = files.output();
    let (done, code) = World::healthy().perform(job, files);
    let failure = failed(done);
    assert_eq!((failure.code, failure.name.as_str(), code), (0, "", 4), "{failure:?}");
    assert_eq!(files.output(), before, "something was written: {failure:?}");
    failure
}

#[test]
fn a_job_that_is_not_the_bundle_s_is_the_bundle_s_fault() {
    let check = |change: fn(&mut Job, &mut Files), during: &str| {
        let (mut job, mut files) = product();
        change(&mut job, &mut files);
        let failure = refused(&job, &files);
        assert_eq!(failure.class, Class::BadBundle, "{failure:?}");
        assert!(format!("{}: {}", failure.during, failure.detail).contains(during), "{failure:?}");
    };
    check(|_, files| files.bundle = file(b"no archive"), "parse the bundle");
    check(|job, _| job.bundle = "0".repeat(64).parse::<Digest>().expect("a digest"), "its digest is");
    check(|job, _| job.function = "gemm_f64".to_owned(), "find the function");
    check(|job, _| job.parameters = std::iter::empty::<(&str, bundle::Scalar)>().collect(), "plan the function");
    check(
        |job, _| {
            job.parameters =
                [("m", 0), ("n", 1), ("k", 1)].map(|(n, v)| (n, bundle::Scalar::U32(v))).into_iter().collect()
        },
        "m",
    );
}

#[test]
fn descriptors_that_do_not_fit_are_the_starter_s_fault() {
    let check = |change: fn(&mut Files), why: &str| {
        let (job, mut files) = product();
        change(&mut files);
        let failure = refused(&job, &files);
        assert_eq!(failure.class, Class::Driver, "{failure:?}");
        assert!(failure.detail.contains(why), "{failure:?}");
    };
    check(|files| files.cubins.push(file(b"one too many")), "4 descriptors, but this bundle takes 3");
    check(|files| files.inputs = file(&[0; 7]), "the inputs are 7 bytes, but the plan has 8");
    check(|files| files.inputs = file(&[0; 9]), "the inputs are 9 bytes");
    check(|files| files.outputs = file(&[0xee; 3]), "the outputs are 3 bytes, but the plan has 4");
    check(|files| files.outputs = file(&[0xee; 4096]), "the outputs are 4096 bytes");
}

#[test]
fn outputs_that_cannot_be_written_end_the_job_and_stay_as_they_were() {
    let (job, mut files) = product();
    let sealed = std::fs::File::from(memfd_create("sealed", MemfdFlags::ALLOW_SEALING).expect("a file in memory"));
    sealed.set_len(4).expect("a length");
    fcntl_add_seals(&sealed, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK).expect("seal");
    files.outputs = sealed;
    let failure = refused(&job, &files);
    assert_eq!((failure.class, failure.during.as_str()), (Class::Driver, "download buffer c"), "{failure:?}");
    assert!(failure.detail.contains("outputs"), "{failure:?}");
}

#[test]
fn ptx_is_never_shown_to_the_driver() {
    let archive = bundles::gemm_ptx();
    let job = job(&archive, "gemm_f32", &[("m", 1), ("n", 1), ("k", 1)]);
    let check = |cubins: &[&[u8]], class, why: &str| {
        let mut files = Files::new(&archive, &[0; 8], 4);
        files.cubins = cubins.iter().map(|bytes| file(bytes)).collect();
        let failure = refused(&job, &files);
        assert_eq!(failure.class, class, "{failure:?}");
        assert!(failure.detail.contains(why), "{failure:?}");
    };
    check(&[], Class::Driver, "3 descriptors, but this bundle takes 4");
    check(&[bundles::GEMM_PTX.as_bytes()], Class::UnsupportedPtx, "PTX is compiled elsewhere");
    check(&[b""], Class::UnsupportedPtx, "neither a cubin nor a fat binary");
    let cubin = bundles::gemm_cubin();
    check(&[&cubin[..cubin.len() - 1]], Class::BadBundle, "beyond the end of the file");
}

#[test]
fn machine_code_for_another_device_is_refused_by_name() {
    let mut script = fake_gpu_script::Script::default();
    script.gpus[0].compute_capability = [9, 0];
    let (job, files) = product();
    let failure = failed(World::new(&script).perform(&job, &files).0);
    assert_eq!(failure.class, Class::NoKernelImage, "{failure:?}");
    assert!(failure.during.contains("gemm") && failure.during.contains("sm_90"), "{failure:?}");
}
