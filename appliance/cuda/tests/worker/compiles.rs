//! The compile worker, with NVIDIA's own linker, which needs neither a GPU nor a driver.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use bundle::Arch;
use cuda::messages::{Compile, Compiled, LOG_BYTES_MAX, Probe};
use runner::wire::send;

use crate::bundles::{self, GEMM_PTX};
use crate::world::{Files, World, content, file, job, ran, start};

/// The directory with the linker's library, if it is not the toolkit's.
const LINKER_DIR: &str = "RIG_TEST_NVJITLINK_DIR";

/// NVIDIA's compiler and linker as Python packages unpack, which `tests/setup.sh` puts below `target`.
const TOOLKIT_DIR: &str = "RIG_CUDA_TOOLKIT";

fn linker_dir() -> PathBuf {
    let of_toolkit = || std::env::var_os(TOOLKIT_DIR).map(|dir| PathBuf::from(dir).join("nvidia/nvjitlink/lib"));
    let dir = std::env::var_os(LINKER_DIR).map(PathBuf::from).or_else(of_toolkit);
    dir.unwrap_or_else(|| {
        panic!(
            "neither {LINKER_DIR} nor {TOOLKIT_DIR} is set: the first names the directory with libnvJitLink.so.12 or \
             .13, the second one with nvidia/nvjitlink/lib in it; tests/setup.sh makes target/cuda-toolkit"
        )
    })
}

fn compile(libraries: PathBuf, arch: Arch, ptx: &[u8]) -> (Compiled, File, i32) {
    let (ptx, cubin) = (file(ptx), file(b""));
    let worker = start("compile", &libraries);
    send(&worker.socket, &Compile { arch }, &[ptx.as_fd(), cubin.as_fd()]).expect("send");
    (worker.receive(), cubin, worker.end())
}

/// What a bundle says about the machine code of [`GEMM_PTX`].
fn bundle_of(arch: Arch) -> String {
    format!(
        r#"
format = 1
name = "compiled"

[[module]]
name = "m"
file = "m.cubin"
kind = "cubin"
target = "{arch}"
min_driver = "12.0"

[function.f]
determinism = "none"
seconds = 1
buffers.a = {{ type = "f32", elements = "1" }}
buffers.c = {{ type = "f32", elements = "1", output = {{ to = "/c", as = "base64" }} }}

[[function.f.steps]]
launch = "gemm_f32"
grid = ["1"]
block = ["1"]
arguments = [
    {{ buffer = "a", access = "read" }},
    {{ buffer = "a", access = "read" }},
    {{ buffer = "c", access = "write" }},
    {{ value = "1", type = "u32" }},
    {{ value = "1", type = "u32" }},
    {{ value = "1", type = "u32" }},
]
"#
    )
}

#[test]
fn ptx_becomes_machine_code_that_a_bundle_may_hold() {
    for arch in [Arch::new(7, 5), Arch::new(8, 9), Arch::new(9, 0)] {
        let (compiled, cubin, code) = compile(linker_dir(), arch, GEMM_PTX.as_bytes());
        let cubin = content(&cubin);
        let Compiled::Compiled { bytes, us } = compiled else { panic!("{compiled:?}") };
        assert_eq!((usize::try_from(bytes).ok(), code), (Some(cubin.len()), 0));
        assert!(us > 0);
        let text = bundle_of(arch);
        let archive = bundle::pack(&[("bundle.toml", text.as_bytes()), ("m.cubin", &cubin)]);
        let archive = archive.unwrap_or_else(|error| panic!("{:#}", anyhow::Error::new(error)));
        let bundle = bundle::Bundle::parse(&archive).expect("a bundle");
        let kernels = bundle.modules()[0].kernels();
        assert_eq!((kernels.len(), kernels[0].name.as_str()), (1, "gemm_f32"), "{arch}");
    }
}

#[test]
fn ptx_that_was_compiled_without_a_driver_runs_as_a_job() {
    let world = World::healthy();
    let archive = bundles::gemm_ptx();
    let job = job(&archive, "gemm_f32", &[("m", 1), ("n", 1), ("k", 1)]);
    // Sections of every kind: some that take no room in the file, some that several headers point into.
    let memory = ".shared .align 4 .b8 tile[1024];\n.global .align 4 .f32 kept[64];\n.const .align 4 .u32 one = 1;\n\n";
    for ptx in [GEMM_PTX.to_owned(), GEMM_PTX.replace(".visible", &format!("{memory}.visible"))] {
        let (compiled, cubin, _) = compile(linker_dir(), Arch::new(8, 9), ptx.as_bytes());
        assert!(matches!(compiled, Compiled::Compiled { .. }), "{compiled:?}");
        let inputs = [3_f32, 5.0].map(f32::to_le_bytes).concat();
        let mut files = Files::new(&archive, &inputs, 4);
        files.cubins.push(cubin);
        ran(world.perform(&job, &files).0);
        assert_eq!(files.output(), 15_f32.to_le_bytes());
    }
}

#[test]
fn ptx_that_is_none_is_refused_with_the_linker_s_words() {
    let check = |ptx: &str| {
        let (compiled, cubin, code) = compile(linker_dir(), Arch::new(9, 0), ptx.as_bytes());
        let Compiled::Refused { log } = compiled else { panic!("{compiled:?}") };
        assert!(!log.is_empty() && log.len() <= LOG_BYTES_MAX, "{log}");
        assert_eq!((content(&cubin).len(), code), (0, 4));
        log
    };
    let log = check(&GEMM_PTX.replace("ret;", "no_such_instruction.f32 %f1;"));
    assert!(log.contains("no_such_instruction"), "{log}");
    check("");
    check("not ptx at all");
    check(&GEMM_PTX.replace("sm_75", "sm_100"));
    let log = check(&GEMM_PTX.replace("ret;", &"no_such_instruction;\n".repeat(1_000)));
    assert!(log.len() > LOG_BYTES_MAX / 2, "only {} bytes", log.len());
}

#[test]
fn a_machine_without_a_linker_says_what_to_install() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["libnvJitLink.so.12", "libnvJitLink.so.13"] {
        std::fs::write(dir.path().join(name), "no library").expect("write");
    }
    let (compiled, _, code) = compile(dir.path().to_owned(), Arch::new(9, 0), GEMM_PTX.as_bytes());
    let Compiled::Failed { why } = compiled else { panic!("{compiled:?}") };
    assert!(why.contains("nvidia-nvjitlink"), "{why}");
    assert_eq!(code, 4);
}

#[test]
fn a_request_with_other_descriptors_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let worker = start("compile", dir.path());
    send(&worker.socket, &Compile { arch: Arch::new(9, 0) }, &[file(b"").as_fd()]).expect("send");
    let Compiled::Failed { why } = worker.receive() else { panic!("it was done") };
    assert!(why.contains("1 descriptors, but a request has 2"), "{why}");
    assert_eq!(worker.end(), 4);
}

#[test]
fn a_probe_finds_the_linker() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rig-cuda"))
        .arg("probe")
        .env("LD_LIBRARY_PATH", linker_dir())
        .output()
        .expect("start the binary");
    let probe: Probe = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(probe.linker.is_some_and(|path| path.starts_with(linker_dir())), "{:?}", probe.mapped);
    assert!(probe.linker_version.is_some());
}
