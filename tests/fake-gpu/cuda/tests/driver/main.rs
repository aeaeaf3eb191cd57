//! The library as a worker meets it: found by name in `LD_LIBRARY_PATH`, called through cudarc.
//!
//! A process maps a driver once, and its script is in the file, so every case runs in a process of its own: this program
//! again, with the case's name in [`CASE`]. `parent` below installs and starts, `case.rs` is the other side, `gpu.rs`
//! calls cudarc.

mod case;
mod gpu;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fake_gpu_script::{Fault, Gpu, Script, ScriptedFault, built, install};
use tempfile::TempDir;

/// Names the case that a started process runs.
const CASE: &str = "FAKE_CUDA_CASE";
/// No case takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(dir: &Path, case: &str, environment: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", "in_a_process_of_its_own", "--nocapture"])
        .env("LD_LIBRARY_PATH", dir)
        .env(CASE, case)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program can be started")
}

fn installed(script: &Script) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let cuda = built("fake_cuda").expect("cargo builds the library before its tests");
    let nvml = dir.path().join("unused");
    std::fs::write(&nvml, "").expect("written");
    install(dir.path(), &cuda, &nvml, script).expect("installed");
    dir
}

/// Runs `case` under `script` and gives what it said: the lines that begin with `: `.
fn said(case: &str, script: &Script, environment: &[(&str, &str)]) -> Vec<String> {
    let dir = installed(script);
    let ended = start(dir.path(), case, environment).wait_with_output().expect("it ends");
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{case}: {out}{err}");
    out.lines()
        .filter_map(|line| line.split_once(": ").filter(|(start, _)| start.is_empty()))
        .map(|(_, rest)| rest.to_owned())
        .collect()
}

fn check(case: &str, script: &Script, expected: &[&str]) {
    assert_eq!(said(case, script, &[]), expected, "{case}");
}

#[test]
fn in_a_process_of_its_own() {
    if let Ok(case) = std::env::var(CASE) {
        println!();
        case::run(&case);
    }
}

#[test]
fn a_gemm_gives_what_its_reference_gives_and_takes_time() {
    check("gemm", &Script::default(), &["correct", "timed"]);
}

#[test]
fn every_fault_kernel_ends_as_on_a_gpu_and_breaks_the_context() {
    for fault in Fault::ALL {
        let Some(code) = fault.code() else { continue };
        let said = said(fault.kernel(), &Script::default(), &[]);
        let code = code.to_string();
        let after = [code.clone(), code.clone(), code.clone(), code.clone()].join(" ");
        assert_eq!(said, ["launched".to_owned(), format!("synchronise {code}"), format!("then {after}")], "{fault:?}");
    }
}

#[test]
fn a_kernel_that_hangs_never_returns_to_who_waits() {
    let dir = installed(&Script::default());
    let mut child = start(dir.path(), Fault::Hang.kernel(), &[]);
    let out = child.stdout.take().expect("piped");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(out)).map_while(Result::ok);
    assert!(lines.any(|line| line == ": query 600"), "the launch returns, and a query says that it is not ready");
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        assert_eq!(child.try_wait().expect("a child"), None, "it came back from a kernel that never ends");
        std::thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("reaped");
}

#[test]
fn a_scripted_launch_ends_badly_whatever_its_kernel() {
    let mut script = Script::default();
    script.cuda.faults.push(ScriptedFault { launch: Some(0), kernel: None, fault: Fault::Assert });
    check("gemm", &script, &["error 710"]);
    script.cuda.faults = vec![ScriptedFault { launch: None, kernel: Some("trace".to_owned()), fault: Fault::Assert }];
    check("gemm", &script, &["correct", "timed"]);
    script.cuda.lost_after_launches = Some(1);
    check("gemm", &script, &["error 46"]);
}

#[test]
fn a_wild_pointer_is_an_illegal_address_in_a_kernel_and_refused_in_a_copy() {
    check("wild", &Script::default(), &["copy 1", "launch 0", "synchronise 700", "allocate 700"]);
}

#[test]
fn memory_ends_where_the_script_or_the_gpu_ends() {
    let mut script = Script::default();
    script.gpus[0].vram_bytes = 10 << 20;
    script.gpus[0].vram_used_bytes = 2 << 20;
    check(
        "memory",
        &script,
        &["free 8388608 of 10485760", "4 MiB 0", "free 4194304 of 10485760", "4 MiB 0", "1 byte 2", "dirty 0"],
    );
    script.cuda.out_of_memory_at_bytes = Some(5 << 20);
    script.cuda.scrub = false;
    check(
        "memory",
        &script,
        &["free 8388608 of 10485760", "4 MiB 0", "free 4194304 of 10485760", "4 MiB 2", "1 byte 0", "dirty 4194304"],
    );
}

#[test]
fn a_driver_that_cannot_start_says_why() {
    for code in [100, 803, 999] {
        let mut script = Script::default();
        script.cuda.init = code;
        check("start", &script, &[&format!("init {code}"), "count 3"]);
    }
    check("start", &Script { gpus: Vec::new(), ..Script::default() }, &["init 100", "count 3"]);
    let mut script = Script::default();
    script.cuda.lost_after_launches = Some(0);
    check("start", &script, &["init 46", "count 46"]);
    script = Script::default();
    script.cuda.fail.insert("cuDeviceGetCount".to_owned(), 999);
    check("start", &script, &["init 0", "count 999"]);
}

#[test]
fn a_call_takes_as_long_as_the_script_says() {
    let mut script = Script::default();
    script.cuda.delay_ms.insert("cuInit".to_owned(), 150);
    let began = Instant::now();
    check("start", &script, &["init 0", "count 0"]);
    assert!((Duration::from_millis(150)..PATIENCE).contains(&began.elapsed()));
}

#[test]
fn a_missing_symbol_cannot_be_looked_up() {
    check("symbols", &Script::default(), &["cuMemAlloc_v2 there", "cuMemFree_v2 there", "no_such_name missing"]);
    let script = Script { missing_symbols: vec!["cuMemAlloc_v2".to_owned()], ..Script::default() };
    check("symbols", &script, &["cuMemAlloc_v2 missing", "cuMemFree_v2 there", "no_such_name missing"]);
}

#[test]
fn an_image_that_does_not_fit_is_refused_with_its_code() {
    let expected = ["cubin 0", "other GPU 209", "PTX 0", "garbage 200", "empty 200", "no kernel 500"];
    check("images", &Script::default(), &expected);
    let disabled = said("images", &Script::default(), &[("CUDA_DISABLE_PTX_JIT", "1")]);
    assert_eq!(disabled, ["cubin 0", "other GPU 209", "PTX 222", "garbage 200", "empty 200", "no kernel 500"]);
}

#[test]
fn shapes_that_no_gpu_takes_are_refused() {
    check(
        "shapes",
        &Script::default(),
        &[
            "1 1 1, 256 1 1, 0: 0",
            "1 1 1, 1024 2 1, 0: 1",
            "0 1 1, 1 1 1, 0: 1",
            "1 65536 1, 1 1 1, 0: 1",
            "1 1 1, 1 1 65, 0: 1",
            "1 1 1, 1 1 1, 49152: 0",
            "1 1 1, 1 1 1, 49153: 1",
            "raised: 0",
            "1 1 1, 1 1 1, 101376: 0",
            "1 1 1, 1 1 1, 101377: 1",
        ],
    );
}

#[test]
fn a_process_sees_the_gpus_that_its_environment_shows() {
    let gpus =
        vec![Gpu::numbered(0), Gpu { name: "Second".to_owned(), compute_capability: [9, 0], ..Gpu::numbered(1) }];
    let script = Script { gpus, ..Script::default() };
    let second = script.gpus[1].uuid.clone();
    let all = said("devices", &script, &[]);
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(all[0], "version 12080");
    assert_eq!(said("devices", &script, &[("CUDA_VISIBLE_DEVICES", &second)]), ["version 12080", all[2].as_str()]);
    assert_eq!(all[2], "Second 9.0 0fa4e000000040008000000000000001 1073741824 bytes");
}
