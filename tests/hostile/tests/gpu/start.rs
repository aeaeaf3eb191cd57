//! Machines on which no bundle runs: said once, in words, and everything else works.

use std::path::Path;

use fake_gpu_script::Script;
use hostile::gpu::{GpuRig, one_launch, order, small};
use hostile::rig::{Setup, refusal, wait_for};
use runner::protocol::Refusal;

/// Starts a runner on a machine that is not right, and panics unless it says `words`, once, to the journal and to
/// whoever asks, and serves containers.
fn says_once(change: impl FnOnce(&mut Script), furnish: impl FnOnce(&Path), words: &[&str]) {
    let mut script = small();
    change(&mut script);
    let rig = GpuRig::furnished(script, Setup::default(), furnish);
    let gpus = rig.rig.client.gpus().expect("an answer");
    assert_eq!(gpus.gpus, []);
    let why = gpus.why.expect("a reason");
    for words in words {
        assert!(why.contains(words), "{words} in: {why}");
    }
    let (launch, fds) = order(&one_launch("gemm_f32"), 1);
    match refusal(rig.launch_with(launch, &fds)) {
        Refusal::NoGpu { why: told } => assert_eq!(told, why),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.rig.client.retry_gpus().expect("an answer").why, Some(why));
    rig.rig.still_works();
    let journal = rig.rig.journal();
    let lines: Vec<&str> = journal.lines().filter(|line| line.contains("no bundle runs on this machine")).collect();
    assert_eq!(lines.len(), 1, "{journal}");
    assert!(words.iter().all(|words| lines[0].contains(words)), "{}", lines[0]);
    let loud = journal.lines().filter(|line| line.contains("panicked") || line.contains(" ERROR ")).count();
    assert_eq!(loud, 0, "{journal}");
    assert!(rig.workers().is_empty());
}

#[test]
fn a_driver_of_another_version_than_its_module_is_said_once() {
    let both = |script: &mut Script| (script.cuda.init, script.nvml.init) = (803, 18);
    says_once(both, |_| {}, &["(803)", "reboot after an update"]);
    says_once(|script| script.cuda.init = 803, |_| {}, &["(803)", "reboot after an update"]);
}

#[test]
fn a_driver_without_a_gpu_is_said_once() {
    says_once(|script| script.cuda.init = 100, |_| {}, &["(100)", "no NVIDIA GPU is visible"]);
}

#[test]
fn a_driver_that_cannot_say_what_is_wrong_is_said_once() {
    says_once(|script| script.cuda.init = 999, |_| {}, &["(999)", "device nodes"]);
}

#[test]
fn a_driver_that_lacks_a_call_is_said_once() {
    says_once(|script| script.missing_symbols = vec!["cuMemAlloc_v2".to_owned()], |_| {}, &["cuMemAlloc_v2"]);
}

#[test]
fn a_machine_without_a_driver_is_said_once() {
    says_once(|_| {}, |dir| std::fs::remove_file(dir.join("libcuda.so.1")).expect("remove"), &["libcuda", "install"]);
}

#[test]
fn a_library_that_is_none_is_said_once() {
    says_once(|_| {}, |dir| std::fs::write(dir.join("libcuda.so.1"), "no library").expect("write"), &["libcuda"]);
}

#[test]
fn a_machine_without_nvml_is_said_once() {
    let without = |dir: &Path| {
        for name in ["libnvidia-ml.so.1", "libnvidia-ml.so"] {
            std::fs::remove_file(dir.join(name)).expect("remove");
        }
    };
    says_once(|_| {}, without, &["libnvidia-ml"]);
}

#[test]
fn nvml_that_does_not_begin_is_said_once() {
    says_once(|script| script.nvml.init = 18, |_| {}, &["version"]);
}

#[test]
fn a_program_that_is_no_worker_is_said_once() {
    let rig = Setup::default().options(&["--cuda-worker", "/bin/false"]).start();
    let why = rig.client.gpus().expect("an answer").why.expect("a reason");
    assert!(why.contains("/bin/false probe ended with"), "{why}");
    let rig = Setup::default().options(&["--cuda-worker", "/nowhere/rig-cuda"]).start();
    let why = rig.client.gpus().expect("an answer").why.expect("a reason");
    assert!(why.contains("/nowhere/rig-cuda") && why.contains("--cuda-worker"), "{why}");
    rig.still_works();
}

#[test]
fn a_driver_that_does_not_answer_keeps_nobody_from_his_containers() {
    let mut script = small();
    script.cuda.delay_ms.insert("cuInit".to_owned(), 50_000);
    let rig = GpuRig::new(script);
    let why = rig.rig.client.gpus().expect("an answer").why.expect("a reason");
    assert!(why.contains("has not answered yet"), "{why}");
    rig.rig.still_works();
    wait_for("the driver to answer", || rig.rig.client.gpus().expect("an answer").why.is_none().then_some(()));
    assert_eq!(rig.rig.client.gpus().expect("an answer").gpus.len(), 1);
}
