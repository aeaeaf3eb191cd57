//! PTX becomes machine code in a jail of its own, by NVIDIA's real linker, whatever the PTX is.

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bundle::{Arch, pack};
use hostile::gpu::{GpuRig, Job, gemm, order, small};
use hostile::rig::{Setup, refusal, wait_for};
use runner::client::{Client, ClientError};
use runner::memory;
use runner::protocol::Refusal;

use crate::assert_ran;

/// NVIDIA's compiler and linker as Python packages unpack, which `tests/setup.sh` puts below `target`.
const TOOLKIT_DIR: &str = "RIG_CUDA_TOOLKIT";

/// The name by which a worker asks for the linker.
const LINKER: &str = "libnvJitLink.so.12";

/// How many instructions a bomb has, each of which needs the one before: the linker's time grows with their square.
const BOMB_INSTRUCTIONS: u32 = 1_000_000;

const ARCH: Arch = Arch::new(8, 9);

fn linker() -> PathBuf {
    let dir = std::env::var_os(TOOLKIT_DIR).map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| panic!("{TOOLKIT_DIR} is not set; tests/setup.sh makes target/cuda-toolkit"));
    dir.join("nvidia/nvjitlink/lib").join(LINKER)
}

/// A runner with a GPU and the linker.
pub(crate) fn with_linker() -> GpuRig {
    let put = |dir: &Path| std::os::unix::fs::symlink(linker(), dir.join(LINKER)).expect("a link");
    let rig = GpuRig::furnished(small(), Setup::default(), put);
    rig.offered();
    let compiler = rig.rig.client.gpus().expect("GPUs").compiler.expect("a compiler");
    println!("the compiler is of CUDA {compiler}");
    rig
}

/// A kernel with the parameters of `gemm_f32` that does what `body` says.
pub(crate) fn ptx(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_75\n.address_size 64\n\n.visible .entry gemm_f32(\n    .param .u64 a, .param .u64 b, \
         .param .u64 c, .param .u32 m, .param .u32 n, .param .u32 k\n)\n{{\n.reg .u32 %r<9>;\n.reg .u64 %rd<9>;\n\
         .reg .pred %p<9>;\n{body}\nret;\n}}\n"
    )
}

/// PTX whose compiling takes more than all the time that there is.
pub(crate) fn bomb() -> String {
    let mut body = String::from("ld.param.u64 %rd1, [c];\nld.global.u32 %r1, [%rd1];\nmov.u32 %r2, %r1;\n");
    for number in 0..BOMB_INSTRUCTIONS {
        writeln!(body, "mad.lo.u32 %r2, %r2, %r1, {number};").expect("text");
    }
    body.push_str("st.global.u32 [%rd1], %r2;");
    ptx(&body)
}

/// A switch of so many arms.
fn switch(arms: u32) -> String {
    let mut body = String::from("ld.param.u64 %rd1, [c];\nld.global.u32 %r1, [%rd1];\n");
    for arm in 0..arms {
        writeln!(body, "setp.eq.u32 %p1, %r1, {arm};\n@%p1 bra L{arm};").expect("text");
    }
    body.push_str("ret;\n");
    for arm in 0..arms {
        writeln!(body, "L{arm}: add.u32 %r1, %r1, {arm};\nst.global.u32 [%rd1], %r1;").expect("text");
    }
    ptx(&body)
}

pub(crate) fn compile(client: &Client, ptx: &[u8]) -> Result<(OwnedFd, u64), ClientError> {
    client.compile(ARCH, memory::sealed("PTX", ptx).expect("memory").as_fd())
}

/// The process of the compiler, once there is one.
pub(crate) fn compiler(rig: &GpuRig) -> u32 {
    let compiles =
        |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"compile\0"));
    wait_for("the compiler", || rig.workers().into_iter().find(compiles))
}

/// How long a process and its threads have run on processors, in hundredths of a second.
fn processor_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    // Behind the name, proc(5)'s field 14 is the twelfth.
    fields.split(' ').nth(11).and_then(|user| user.parse().ok()).expect("a number")
}

fn log_of(answer: Result<(OwnedFd, u64), ClientError>) -> String {
    match refusal(answer.map(drop)) {
        Refusal::BadPtx { log } => log,
        other => panic!("{other:?}"),
    }
}

/// The job of [`gemm`], with PTX instead of machine code.
fn of_ptx(ptx: &str) -> Job {
    let job = gemm(8, 8, 8);
    let bundle = bundle::Bundle::parse(&job.archive).expect("valid");
    assert_eq!(bundle.modules().len(), 1);
    let archive = String::from_utf8_lossy(&job.archive).into_owned();
    let (from, until) = (archive.find("format = 1").expect("a manifest"), archive.find("\0\0\0\0\0\0\0\0code.cubin"));
    let end = archive[from..].find('\0').expect("its end") + from;
    assert!(until.is_none_or(|until| until >= end));
    let manifest = archive[from..end]
        .replace("file = \"code.cubin\"", "file = \"code.ptx\"")
        .replace("kind = \"cubin\"", "kind = \"ptx\"\nptx_isa = \"8.0\"")
        .replace("sm_89", "sm_75");
    let archive = pack(&[("bundle.toml", manifest.as_bytes()), ("code.ptx", ptx.as_bytes())]);
    Job { archive: archive.unwrap_or_else(|error| panic!("{error:?}: {manifest}")), ..job }
}

#[test]
fn ptx_becomes_machine_code_with_which_a_job_runs() {
    let rig = with_linker();
    let ptx = ptx("");
    let asked = Instant::now();
    let (cubin, us) = compile(&rig.rig.client, ptx.as_bytes()).expect("compiled");
    println!("compiled in {us} us, of {:?} in all", asked.elapsed());
    let bytes = memory::length("machine code", &cubin, 1 << 20).expect("it is sealed");
    assert!(bytes > 64, "{bytes}");
    let job = of_ptx(&ptx);
    let (launch, mut fds) = order(&job, 20);
    fds.push(cubin);
    let (launched, outputs) = rig.launch_with(launch, &fds).expect("launched");
    assert_ran(&launched);
    assert_eq!(outputs, rig.launch(&gemm(8, 8, 8)).expect("launched").1);
    rig.still_works();
}

#[test]
fn ptx_that_is_none_is_refused_with_the_linkers_words() {
    let rig = with_linker();
    let log = log_of(compile(&rig.rig.client, ptx("no_such_instruction.f32 %r1;").as_bytes()));
    assert!(log.contains("no_such_instruction"), "{log}");
    let bad: [&[u8]; 5] = [b"", b"\0", b"not ptx at all", &[0xFF; 4096], b".version 99.9\n.target sm_75\n"];
    for ptx in bad {
        let log = log_of(compile(&rig.rig.client, ptx));
        assert!(!log.is_empty());
    }
    let unsealed = memory::blank("PTX", 64).expect("memory");
    let client = &rig.rig.client;
    assert!(matches!(refusal(client.compile(ARCH, unsealed.as_fd()).map(drop)), Refusal::BadLaunch { .. }));
    let long = memory::blank("PTX", (64 << 20) + 1).expect("memory");
    memory::seal("PTX", &long).expect("sealed");
    assert!(matches!(refusal(client.compile(ARCH, long.as_fd()).map(drop)), Refusal::BadLaunch { .. }));
    compile(client, ptx("").as_bytes()).expect("compiled");
    rig.still_works();
}

/// The rig gives a compiler one minute; a job runs meanwhile, and the next compiler works.
#[test]
fn attack_62_ptx_that_takes_for_ever_is_ended_and_the_next_compiles() {
    let rig = with_linker();
    let bomb = bomb();
    let (asked, client) = (Instant::now(), rig.rig.client.clone());
    let begun = std::thread::spawn(move || (bomb.len(), compile(&client, bomb.as_bytes()).map(drop)));
    let pid = compiler(&rig);
    assert_ran(&rig.launch(&gemm(8, 8, 8)).expect("launched").0);
    let (bytes, answer) = begun.join().expect("no panic");
    let took = asked.elapsed();
    let Refusal::BadPtx { log } = refusal(answer) else { panic!("not refused for its PTX") };
    println!("{bytes} bytes of PTX were given up after {took:?}: {log}");
    assert!((50..90).contains(&took.as_secs()), "{took:?}");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the compiler lives");
    let asked = Instant::now();
    compile(&rig.rig.client, switch(1000).as_bytes()).expect("compiled");
    println!("the next, a switch of a thousand arms, took {:?}", asked.elapsed());
    rig.still_works();
}

#[test]
fn a_compiler_that_dies_is_no_end() {
    let rig = with_linker();
    let (client, bomb) = (rig.rig.client.clone(), bomb());
    let begun = std::thread::spawn(move || compile(&client, bomb.as_bytes()).map(drop));
    let pid = compiler(&rig);
    // Before that it may not have its PTX yet, and then its end is not the PTX's fault.
    wait_for("it to work", || (processor_ticks(pid) > 50).then_some(()));
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it lives");
    let answer = begun.join().expect("no panic");
    assert_eq!(refusal(answer), Refusal::BadPtx { log: "the compiler ended over it".to_owned() });
    compile(&rig.rig.client, ptx("").as_bytes()).expect("compiled");
    rig.still_works();
}

#[test]
fn a_machine_without_a_linker_says_so_and_runs_what_needs_none() {
    let rig = GpuRig::healthy();
    assert_eq!(rig.rig.client.gpus().expect("GPUs").compiler, None);
    let Refusal::NoCompiler { why } = refusal(compile(&rig.rig.client, ptx("").as_bytes()).map(drop)) else {
        panic!("it was compiled")
    };
    assert!(why.contains("libnvJitLink") && why.contains("install"), "{why}");
    rig.still_works();
}
