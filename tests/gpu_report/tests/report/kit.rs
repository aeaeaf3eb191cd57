//! A kit for a GPU that is not there: the programs of this build, and bundles whose machine code has names and no
//! instructions.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fake_gpu_script::{Gpu, Script, built, cubin, install};
use serde_json::Value;

/// Of the GPU that is not there.
const ARCH: u32 = 89;

/// Kernels of the bundles of faults, and by which name the driver that is not there knows what they do.
const FAULTS: [(&str, &str); 6] = [
    ("illegal_address", "fault_illegal_address"),
    ("misaligned", "fault_misaligned"),
    ("assertion", "fault_assert"),
    ("trap", "fault_launch_failure"),
    ("stack_overflow", "fault_hardware_stack"),
    ("endless", "fault_hang"),
];

/// A kit, a driver, and where the report is written.
pub(crate) struct World {
    dir: tempfile::TempDir,
}

// === impl World ===

impl World {
    pub(crate) fn new(script: &Script) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for below in ["bin", "bundles", "driver", "out"] {
            std::fs::create_dir(dir.path().join(below)).expect("a directory");
        }
        let report = Path::new(env!("CARGO_BIN_EXE_gpu-report"));
        for program in ["gpu-report", "rig-cuda", "rig-runner"] {
            let built = report.with_file_name(program);
            assert!(built.exists(), "there is no {}; build all programs first", built.display());
            symlink(built, dir.path().join("bin").join(program)).expect("a link");
        }
        let library = |name| built(name).expect("the libraries of the driver that is not there");
        let driver = dir.path().join("driver");
        install(&driver, &library("fake_cuda"), &library("fake_nvml"), script).expect("install the driver");
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for name in ["gemm", "path-tracer", "n-body", "mlp"] {
            bundle(&tests.join("bundles").join(name), &dir.path().join(format!("bundles/{name}.bundle")));
        }
        for name in ["faults", "calls"] {
            let source = tests.join("gpu_report/kernels").join(name);
            bundle(&source, &dir.path().join(format!("bundles/{name}.bundle")));
        }
        std::fs::write(dir.path().join("nested.txt"), "nested.cu does not compile").expect("write");
        Self { dir }
    }

    /// One GPU with little memory, because all of it is scanned.
    pub(crate) fn small() -> Script {
        let gpu = Gpu { vram_bytes: 64 << 20, vram_used_bytes: 0, ..Gpu::numbered(0) };
        Script { gpus: vec![gpu], ..Script::default() }
    }

    /// `gpu-report run` at small sizes.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-report"));
        command.args(["run", "--small", "--kit"]).arg(self.dir.path()).arg("--out").arg(self.out(""));
        command.args(arguments).env("LD_LIBRARY_PATH", self.dir.path().join("driver"));
        command.output().expect("start the report")
    }

    pub(crate) fn report(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.out("gpu-report.json")).expect("a report")).expect("JSON")
    }

    pub(crate) fn out(&self, file: &str) -> PathBuf {
        self.dir.path().join("out").join(file)
    }
}

/// The row of this name.
pub(crate) fn row<'a>(report: &'a Value, what: &str) -> &'a Value {
    let sections = report["sections"].as_array().expect("sections");
    let mut rows = sections.iter().flat_map(|section| section["rows"].as_array().expect("rows"));
    rows.find(|row| row["what"] == what).unwrap_or_else(|| panic!("no row {what:?} in {report:#}"))
}

/// Packs a source directory with machine code that has its kernels' names.
fn bundle(source: &Path, to: &Path) {
    let mut manifest = std::fs::read_to_string(source.join("bundle.toml")).expect("a manifest");
    for (kernel, known) in FAULTS {
        manifest = manifest.replace(&format!("launch = \"{kernel}\""), &format!("launch = \"{known}\""));
    }
    let machine = format!("kind = \"cubin\"\nmin_driver = \"12.0\"\ntarget = \"sm_{ARCH}\"");
    manifest = manifest.replace("kind = \"ptx\"\ntarget = \"sm_75\"", &machine).replace("source = ", "file = ");
    manifest = manifest.replace(".cu\"", ".cubin\"");
    let mut codes = Vec::new();
    for file in std::fs::read_dir(source).expect("a source directory").flatten() {
        let name = file.file_name().into_string().expect("UTF-8");
        if let Some(stem) = name.strip_suffix(".cu") {
            let text = std::fs::read_to_string(file.path()).expect("text");
            codes.push((format!("{stem}.cubin"), code(&text)));
        }
    }
    codes.sort();
    let mut files: Vec<(&str, &[u8])> = vec![("bundle.toml", manifest.as_bytes())];
    files.extend(codes.iter().map(|(name, code)| (name.as_str(), code.as_slice())));
    let archive = bundle::pack(&files).unwrap_or_else(|error| panic!("{:#}", anyhow::Error::new(error)));
    std::fs::write(to, archive).expect("write a bundle");
}

/// Machine code with the kernels that a source declares.
fn code(source: &str) -> Vec<u8> {
    let declared = |name: &str| source.contains(&format!("\n{name}(")) || source.contains(&format!(" {name}("));
    let examples = kernels::names().iter().filter(|name| declared(name));
    let mut found: Vec<(&str, Vec<u32>)> = examples.map(|name| (*name, sizes(name))).collect();
    for (line, _) in source.lines().filter_map(|line| line.strip_prefix("KERNEL ")?.split_once('(')) {
        let known = FAULTS.iter().find(|(kernel, _)| *kernel == line).map_or(line, |(_, known)| known);
        let takes = match line {
            "nothing" => vec![],
            "printing" | "virus" | "shared_write" | "shared_read" => vec![8, 4],
            _ => vec![8],
        };
        found.push((known, takes));
    }
    let kernels: Vec<(&str, &[u32])> = found.iter().map(|(name, sizes)| (*name, sizes.as_slice())).collect();
    cubin(ARCH, &kernels)
}

fn sizes(kernel: &str) -> Vec<u32> {
    let bytes = |parameter: &kernels::Parameter| match parameter.kind {
        kernels::Kind::Pointer { .. } => 8,
        kernels::Kind::Scalar { bytes } => bytes,
    };
    kernels::parameters(kernel).expect("a known kernel").iter().map(bytes).collect()
}
