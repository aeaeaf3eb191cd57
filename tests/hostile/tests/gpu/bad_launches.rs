//! Launches that nobody should send: refused by the runner where it can see it, by the worker where only that can, and
//! never the end of anything.

use std::os::fd::OwnedFd;

use bundle::{Bundle, Parameters, Scalar};
use cuda::class::Class;
use hostile::gpu::{GpuRig, gemm, one_launch, order};
use hostile::rig::refusal;
use runner::memory;
use runner::protocol::{CUBINS_MAX, GPU_WAIT_MS_MAX, JOB_BYTES_MAX, JOB_SECONDS_MAX, Launch, Refusal};

use crate::{failure, small_job};

type Spoil = fn(&mut Launch, &mut Vec<OwnedFd>);

fn sealed(bytes: &[u8]) -> OwnedFd {
    memory::sealed("a test", bytes).expect("memory")
}

/// Sealed memory of this length that takes none.
fn long(bytes: u64) -> OwnedFd {
    let fd = memory::blank("a test", bytes).expect("memory");
    memory::seal("a test", &fd).expect("sealed");
    fd
}

#[test]
fn what_the_runner_can_see_is_refused_before_a_gpu_is_taken() {
    let rig = GpuRig::healthy();
    let table: [(&str, Spoil); 17] = [
        ("the archive is not sealed", |_, fds| fds[0] = memory::blank("a test", 8).expect("memory")),
        ("the inputs are not sealed", |_, fds| fds[1] = memory::blank("a test", 8).expect("memory")),
        ("machine code is not sealed", |_, fds| fds.push(memory::blank("a test", 8).expect("memory"))),
        ("a file", |_, fds| fds[1] = std::fs::File::open("/proc/self/exe").expect("open").into()),
        ("a directory", |_, fds| fds[0] = std::fs::File::open("/").expect("open").into()),
        ("a pipe", |_, fds| fds[1] = rustix::pipe::pipe().expect("a pipe").0),
        ("inputs of more than a GiB", |_, fds| fds[1] = long(JOB_BYTES_MAX + 1)),
        ("outputs of more than a GiB", |launch, _| launch.output_bytes = JOB_BYTES_MAX + 1),
        ("no inputs", |_, fds| drop(fds.pop())),
        ("no descriptor", |_, fds| fds.clear()),
        ("too many descriptors", |_, fds| fds.extend((0..=CUBINS_MAX).map(|_| sealed(b"")))),
        ("no name", |launch, _| launch.job.clear()),
        ("a long name", |launch, _| launch.job = "x".repeat(65)),
        ("a name of two lines", |launch, _| launch.job = "a\nb".to_owned()),
        ("no time", |launch, _| launch.seconds = 0),
        ("much time", |launch, _| launch.seconds = JOB_SECONDS_MAX + 1),
        ("a long wait", |launch, _| launch.wait_ms = GPU_WAIT_MS_MAX + 1),
    ];
    let before = rig.worker();
    for (what, spoil) in table {
        let (mut launch, mut fds) = order(&small_job(), 20);
        spoil(&mut launch, &mut fds);
        match rig.launch_with(launch, &fds) {
            Err(runner::client::ClientError::Refused(Refusal::BadLaunch { detail })) => println!("{what}: {detail}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    let (mut launch, fds) = order(&small_job(), 20);
    launch.gpu = Some("GPU-ffffffff-0000-4000-8000-000000000000".parse().expect("a UUID"));
    assert_eq!(refusal(rig.launch_with(launch, &fds)), Refusal::NoGpu { why: "there is no such GPU".to_owned() });
    assert_eq!(rig.worker(), before, "a worker was used up");
    rig.still_works();
}

fn set(launch: &mut Launch, name: &str, value: Scalar) {
    let pairs = ["m", "n", "k"].map(|known| (known, if known == name { value } else { Scalar::U32(8) }));
    launch.parameters = pairs.into_iter().collect();
}

/// What only the worker can see is the bundle's fault, after which the GPU need not prove itself.
#[test]
fn attack_67_a_plan_that_does_not_hold_is_refused_by_the_worker() {
    let rig = GpuRig::healthy();
    let table: [(&str, Spoil); 11] = [
        ("another digest", |launch, _| {
            launch.bundle = Bundle::parse(&one_launch("another").archive).expect("valid").digest();
        }),
        ("another archive", |_, fds| fds[0] = sealed(&one_launch("another").archive)),
        ("no archive", |_, fds| fds[0] = sealed(b"")),
        ("an archive of another kind", |_, fds| fds[0] = sealed(&[0x1f; 4096])),
        ("no such function", |launch, _| launch.function = "quotient".to_owned()),
        ("no parameters", |launch, _| launch.parameters = Parameters::default()),
        ("one more parameter", |launch, _| {
            let pairs = ["m", "n", "k", "l"].map(|name| (name, Scalar::U32(8)));
            launch.parameters = pairs.into_iter().collect();
        }),
        ("a parameter of another type", |launch, _| set(launch, "m", Scalar::I64(8))),
        ("a number with a fraction", |launch, _| set(launch, "m", Scalar::F32(8.0))),
        ("a parameter beyond its bounds", |launch, _| set(launch, "k", Scalar::U32(4097))),
        ("a parameter below its bounds", |launch, _| set(launch, "n", Scalar::U32(0))),
    ];
    for (what, spoil) in table {
        let (mut launch, mut fds) = order(&small_job(), 20);
        spoil(&mut launch, &mut fds);
        let (launched, outputs) = rig.launch_with(launch, &fds).expect("launched");
        let failure = failure(&launched.end);
        println!("{what}: {}: {}", failure.during, failure.detail);
        assert_eq!((failure.class, failure.code, outputs), (Class::BadBundle, 0, Vec::new()), "{what}");
    }
    assert!(!rig.rig.journal().contains("suspect"), "the GPU had no part in it");
    rig.still_works();
}

/// Sizes that do not fit each other are the starter's fault, so the worker trusts nobody, and the GPU proves itself.
#[test]
fn sizes_that_do_not_fit_the_plan_are_refused_by_the_worker() {
    let rig = GpuRig::healthy();
    let table: [(&str, Spoil); 6] = [
        ("more outputs", |launch, _| launch.output_bytes += 1),
        ("fewer outputs", |launch, _| launch.output_bytes -= 4),
        ("no outputs", |launch, _| launch.output_bytes = 0),
        ("more inputs", |_, fds| fds[1] = long(4096)),
        ("no inputs", |_, fds| fds[1] = sealed(b"")),
        ("machine code for a bundle without PTX", |_, fds| fds.push(sealed(b"code"))),
    ];
    for (what, spoil) in table {
        let (mut launch, mut fds) = order(&gemm(8, 8, 8), 20);
        spoil(&mut launch, &mut fds);
        let (launched, outputs) = rig.launch_with(launch, &fds).expect("launched");
        let failure = failure(&launched.end);
        assert_eq!((failure.code, outputs), (0, Vec::new()), "{what}: {failure:?}");
        assert_eq!(failure.during, "take the descriptors of the job", "{what}: {failure:?}");
        rig.still_works();
    }
}
