//! `rig cuda`: with NVIDIA's own compiler, which needs no GPU; `tests/setup.sh` puts it under `target/`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::stage::{Ended, Stage, utf8};

/// What the compiler wants to see on line 5 instead.
const SAXPY: &str = "#include \"scale.cuh\"\n\
    extern \"C\" __global__ void saxpy(const float* x, float* y, unsigned n, float a) {\n\
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;\n\
    if (i < n)\n\
    y[i] = scale(a, x[i]) + y[i];\n\
    }\n";

const SCALE: &str = "static __device__ float scale(float a, float x) { return a * x; }\n";

const MANIFEST: &str = "\
format = 1
name = \"saxpy\"

[[module]]
name = \"saxpy\"
source = \"saxpy.cu\"

[function.saxpy]
determinism = \"bitwise-any\"
seconds = 5

[function.saxpy.parameters]
n = { type = \"u32\", min = 1, max = 1024, default = 256 }
a = { type = \"f32\", default = 2.0 }

[function.saxpy.buffers.x]
type = \"f32\"
elements = \"n\"
input = { from = \"/x\", as = \"json\" }

[function.saxpy.buffers.y]
type = \"f32\"
elements = \"n\"
input = { from = \"/y\", as = \"json\" }
output = { to = \"/y\", as = \"json\" }

[[function.saxpy.steps]]
launch = \"saxpy\"
grid = [\"ceil_div(n, 128)\"]
block = [\"128\"]
arguments = [
    { buffer = \"x\", access = \"read\" },
    { buffer = \"y\", access = \"read-write\" },
    { value = \"n\", type = \"u32\" },
    { value = \"a\", type = \"f32\" },
]
";

/// The toolkit that tests compile with.
fn toolkit() -> String {
    let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cuda-toolkit");
    let toolkit = env::var_os("RIG_CUDA_TOOLKIT").map_or(pinned, PathBuf::from);
    assert!(toolkit.is_dir(), "there is no {}; tests/setup.sh makes it", toolkit.display());
    utf8(&toolkit.canonicalize().unwrap()).to_owned()
}

/// A source directory in the stage's home.
fn source(stage: &Stage, name: &str, files: &[(&str, &str)]) -> String {
    let dir = stage.path(name);
    fs::create_dir_all(&dir).unwrap();
    for (file, text) in files {
        fs::write(dir.join(file), text).unwrap();
    }
    utf8(&dir).to_owned()
}

pub(crate) fn saxpy(stage: &Stage) -> String {
    source(stage, "saxpy", &[("bundle.toml", MANIFEST), ("saxpy.cu", SAXPY), ("scale.cuh", SCALE)])
}

/// `rig cuda build` with the pinned compiler.
pub(crate) fn build(stage: &Stage, dir: &str, out: &Path, arguments: &[&str]) -> Ended {
    let toolkit = toolkit();
    stage.rig(&[&["cuda", "build", dir, "--toolkit", &toolkit, "--out", utf8(out)], arguments].concat())
}

#[test]
fn the_example_bundles_build_and_twice_alike() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles");
    let stage = Stage::new();
    for name in ["gemm", "path-tracer", "n-body", "mlp"] {
        let dir = examples.join(name);
        let (one, other) = (stage.path("one.bundle"), stage.path("other.bundle"));
        let built = build(&stage, utf8(&dir), &one, &["--json"]).json();
        // Elsewhere, so that a path that went into it would show.
        let copy = stage.path(name);
        fs::create_dir_all(&copy).unwrap();
        for file in fs::read_dir(&dir).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
        let again = build(&stage, utf8(&copy), &other, &["--json"]).json();
        assert_eq!(built["digest"], again["digest"], "{name}");
        assert_eq!(fs::read(&one).unwrap(), fs::read(&other).unwrap(), "{name}");
        assert_eq!(built["warnings"], json!([]), "{name}");
        let kernels =
            built["modules"].as_array().unwrap().iter().flat_map(|module| module["kernels"].as_array().unwrap());
        for kernel in kernels {
            assert!(kernel["parameter_bytes"].is_array(), "{name}: {kernel}");
        }
        let checked = stage.rig(&["cuda", "check", utf8(&one), "--json"]).json();
        for field in ["name", "digest", "bytes", "modules", "functions"] {
            assert!(!checked[field].is_null(), "{name}: {field}");
            assert_eq!(checked[field], built[field], "{name}: {field}");
        }
    }
}

#[test]
fn a_bundle_is_shown_with_what_it_needs() {
    let stage = Stage::new();
    let out = stage.path("saxpy.bundle");
    let built = build(&stage, &saxpy(&stage), &out, &["--json"]).json();
    let module = &built["modules"][0];
    assert_eq!(
        (&module["kind"], &module["file"], &module["targets"]),
        (&json!("ptx"), &json!("saxpy.ptx"), &json!(["sm_75"]))
    );
    assert_eq!(module["kernels"], json!([{ "name": "saxpy", "parameter_bytes": [8, 8, 4, 4] }]));
    let function = &built["functions"][0];
    assert_eq!(function["name"], json!("saxpy"));
    assert_eq!(function["at_defaults"]["vram_bytes"], json!(2048));
    let ended = stage.rig(&["cuda", "check", utf8(&out)]);
    for words in ["saxpy.ptx", "sm_75", "4 (24 bytes: 8 8 4 4)", "1 to 1024", built["digest"].as_str().unwrap()] {
        assert!(ended.stdout.contains(words), "{words:?} is not in {}", ended.stdout);
    }
}

#[test]
fn a_bundle_without_a_name_for_it_is_written_where_one_stands() {
    let stage = Stage::new();
    let dir = saxpy(&stage);
    let mut command = stage.command(&["cuda", "build", &dir, "--json"]);
    let output = command.current_dir(stage.path("")).env("RIG_CUDA_TOOLKIT", toolkit()).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["file"], json!("saxpy.bundle"));
    assert_eq!(fs::metadata(stage.path("saxpy.bundle")).unwrap().len(), answer["bytes"].as_u64().unwrap());
}

#[test]
fn a_source_that_does_not_compile_is_shown_with_its_line() {
    let stage = Stage::new();
    let dir = saxpy(&stage);
    let out = stage.path("saxpy.bundle");
    let broken = SAXPY.replace("y[i] = scale(a, x[i])", "y[i] = scale(b, x[i])");
    fs::write(stage.path("saxpy/saxpy.cu"), broken).unwrap();
    let ended = build(&stage, &dir, &out, &[]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
    assert!(ended.stderr.contains("saxpy.cu(5): error: identifier \"b\" is undefined"), "{ended:?}");
    assert!(!out.exists());
    fs::write(stage.path("saxpy/saxpy.cu"), SAXPY).unwrap();
    fs::write(stage.path("saxpy/scale.cuh"), "\nfloat scale(float a, float x) { return a }\n").unwrap();
    let ended = build(&stage, &dir, &out, &["--json"]);
    let answer: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert!(answer["error"].as_str().unwrap().contains("scale.cuh(2): error:"), "{answer}");
}

#[test]
fn a_manifest_that_does_not_fit_its_kernels_is_refused_in_words() {
    let stage = Stage::new();
    let check = |from: &str, to: &str, words: &[&str]| {
        let dir = saxpy(&stage);
        fs::write(stage.path("saxpy/bundle.toml"), MANIFEST.replacen(from, to, 1)).unwrap();
        let ended = build(&stage, &dir, &stage.path("out.bundle"), &[]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        for words in words {
            assert!(ended.stderr.contains(words), "{words:?} is not in {ended:?}");
        }
    };
    check("seconds = 5", "second = 5", &["second", "`seconds`", "4 lines further up"]);
    check("launch = \"saxpy\"", "launch = \"axpy\"", &["axpy"]);
    check("{ value = \"a\", type = \"f32\" },", "{ value = \"n\", type = \"u64\" },", &["saxpy"]);
    let same = "source = \"saxpy.cu\"\n[[module]]\nname = \"given\"\nkind = \"ptx\"\nfile = \"saxpy.ptx\"";
    fs::create_dir_all(stage.path("saxpy")).unwrap();
    fs::write(stage.path("saxpy/saxpy.ptx"), ".version 8.7\n.target sm_75\n").unwrap();
    check("source = \"saxpy.cu\"", same, &["saxpy.ptx"]);
    check("source = \"saxpy.cu\"", "source = \"../saxpy.cu\"", &["without a folder"]);
    check("source = \"saxpy.cu\"", "source = \"axpy.cu\"", &["read ", "axpy.cu"]);
    check("[[module]]", "[[modules]]", &["no [[module]]"]);
    check("format = 1", "format = ", &["bundle.toml is not TOML", "line 1"]);
}

#[test]
fn a_target_makes_a_cubin_and_two_are_refused() {
    let stage = Stage::new();
    let dir = saxpy(&stage);
    let out = stage.path("saxpy.bundle");
    let built = build(&stage, &dir, &out, &["--target", "sm_90", "--json"]).json();
    let module = &built["modules"][0];
    assert_eq!(
        (&module["kind"], &module["file"], &module["targets"]),
        (&json!("cubin"), &json!("saxpy.cubin"), &json!(["sm_90"]))
    );
    assert_eq!(module["kernels"], json!([{ "name": "saxpy", "parameter_bytes": [8, 8, 4, 4] }]));
    let ended = build(&stage, &dir, &out, &["--target", "sm_90", "--target", "sm_80"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("next: build one bundle per target, or ship PTX"), "{ended:?}");
    let ended = build(&stage, &dir, &out, &["--target", "sm_90a"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let ended = build(&stage, &dir, &out, &["--target", "sm_999"]);
    assert!(ended.code == Some(2) && ended.stderr.contains("NVRTC_ERROR_INVALID_OPTION"), "{ended:?}");
}

#[test]
fn a_missing_compiler_and_a_file_that_is_no_bundle_get_a_next_step() {
    let stage = Stage::new();
    let dir = saxpy(&stage);
    let ended = stage.rig(&["cuda", "build", &dir, "--toolkit", &dir]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("there is no libnvrtc.so below"), "{ended:?}");
    assert!(ended.stderr.contains("next: pip install --target DIR nvidia-cuda-nvrtc-cu12"), "{ended:?}");
    let ended = stage.rig(&["cuda", "check", utf8(&stage.path("saxpy/saxpy.cu"))]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("is no bundle") && ended.stderr.contains("next: "), "{ended:?}");
    let ended = stage.rig(&["cuda", "check", "/nowhere.bundle"]);
    assert!(ended.code == Some(2) && ended.stderr.contains("read /nowhere.bundle"), "{ended:?}");
}
