//! `--gpu-settings`: in effect while the runner runs, and nothing of it afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;

use fake_gpu_script::State;
use hostile::gpu::{GpuRig, small};
use hostile::rig::{Setup, binary, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ALL: &str = r#"
[all]
power_limit_mw = 200_000
locked_clocks_mhz = { min = 210, max = 1800 }
locked_memory_clocks_mhz = { min = 405, max = 10_501 }
fan_curve = [{ temperature_c = 40, percent = 30 }, { temperature_c = 80, percent = 100 }]
"#;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("gpu.toml");
    std::fs::write(&path, text).expect("write");
    (dir, path)
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What is set on the GPUs, as the driver has it.
fn state(rig: &GpuRig) -> State {
    State::read(&State::path_of(&rig.driver().join("libnvidia-ml.so.1"))).expect("a state")
}

fn set(text: &str) -> (GpuRig, tempfile::TempDir, PathBuf) {
    let (dir, path) = file(text);
    let rig = GpuRig::with(small(), Setup::default().options(&["--gpu-settings", utf8(&path)]));
    (rig, dir, path)
}

fn terminate(rig: &mut GpuRig) {
    kill(Pid::from_raw(rig.rig.runner_pid().cast_signed()), Signal::SIGTERM).expect("it lives");
    assert_eq!(rig.rig.runner_ended(), Some(0));
}

#[test]
fn settings_are_in_effect_when_the_runner_listens_and_gone_when_it_has_stopped() {
    let (mut rig, _dir, _) = set(ALL);
    let uuid = rig.gpu().gpu.uuid.to_string();
    let now = state(&rig).settings(&uuid);
    assert_eq!(now.power_limit_mw, Some(200_000));
    assert_eq!(now.gpu_clocks_mhz, Some([210, 1800]));
    assert_eq!(now.memory_clocks_mhz, Some([405, 10_501]));
    assert!(rig.rig.state("gpu-settings.json").exists());
    rig.offered();
    rig.still_works();
    terminate(&mut rig);
    assert!(state(&rig).is_default(), "{:?}", state(&rig));
    assert!(!rig.rig.state("gpu-settings.json").exists());
}

#[test]
fn fans_follow_the_temperature() {
    let (mut rig, _dir, _) = set(ALL);
    let uuid = rig.gpu().gpu.uuid.to_string();
    let fans = |rig: &GpuRig| state(rig).settings(&uuid).fans_percent.into_values().collect::<Vec<_>>();
    let turn = |rig: &GpuRig, percent| wait_for("the fans", || (fans(rig) == [percent, percent]).then_some(()));
    // 30 % at 40 °C and 100 % at 80 °C, so 31.75 % at 41 °C.
    turn(&rig, 32);
    rig.change(|script| script.gpus[0].temperature_c = 60);
    turn(&rig, 65);
    rig.change(|script| script.gpus[0].temperature_c = 20);
    turn(&rig, 30);
    terminate(&mut rig);
    assert!(state(&rig).is_default(), "{:?}", state(&rig));
}

#[test]
fn what_a_killed_runner_had_set_is_put_back_by_the_next_one() {
    let (mut rig, _dir, path) = set(ALL);
    let uuid = rig.gpu().gpu.uuid.to_string();
    wait_for("the fans", || (!state(&rig).settings(&uuid).fans_percent.is_empty()).then_some(()));
    rig.rig.kill_runner();
    assert!(!state(&rig).is_default());
    // The same file once more: what it finds set is not what was there before it.
    rig.rig.start_runner();
    assert_eq!(state(&rig).settings(&uuid).power_limit_mw, Some(200_000));
    rig.rig.kill_runner();
    std::fs::write(&path, "").expect("write");
    rig.rig.start_runner();
    assert!(state(&rig).is_default(), "{:?}", state(&rig));
    assert!(!rig.rig.state("gpu-settings.json").exists());
}

#[test]
fn a_gpu_s_own_settings_go_before_those_of_all() {
    let uuid = small().gpus[0].uuid.clone();
    let (rig, _dir, _) = set(&format!("[all]\npower_limit_mw = 200000\n[\"{uuid}\"]\npower_limit_mw = 150000\n"));
    assert_eq!(state(&rig).settings(&uuid).power_limit_mw, Some(150_000));
}

#[test]
fn a_file_that_cannot_be_followed_stops_the_runner_which_says_why() {
    let rig = GpuRig::healthy();
    let check = |text: &str, words: &[&str]| {
        let (dir, path) = file(text);
        let output = Command::new(binary("rig-runner", "RIG_RUNNER"))
            .arg("run")
            .args(["--socket", utf8(&dir.path().join("runner.sock"))])
            .args(["--content", utf8(&rig.rig.content())])
            .args(["--state", utf8(&dir.path().join("state"))])
            .args(["--cuda-worker", utf8(&binary("rig-cuda", "RIG_CUDA"))])
            .args(["--rlimits-only", "--gpu-settings", utf8(&path)])
            .env("LD_LIBRARY_PATH", rig.driver())
            .env("RIG_LOG", "off")
            .env_remove("JOURNAL_STREAM")
            .output()
            .expect("start the runner");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
        println!("{said}");
    };
    check("[all]\npower_limit = 1\n", &["gpu.toml line 2", "`power_limit`", "did you mean `power_limit_mw`?"]);
    check("[all\n", &["gpu.toml line 1"]);
    check("[gpu]\n", &["gpu.toml line 1", "`gpu`", "[all]"]);
    check("[all]\n\npower_limit_mw = 99_999\n", &["gpu.toml line 3", "power_limit_mw = 99999", "100000 to 350000"]);
    check(
        "[all]\nfan_curve = [{ temperature_c = 40, percent = 10 }]\n",
        &["gpu.toml line 2", "fan_curve", "20 to 100"],
    );
    assert!(state(&rig).calls.is_empty(), "{:?}", state(&rig));
}

#[test]
fn a_runner_that_is_told_to_stop_while_a_gpu_is_measured_puts_everything_back() {
    let (_dir, path) = file(ALL);
    let mut script = small();
    script.cuda.delay_ms.insert("cuStreamSynchronize".to_owned(), 200);
    let mut rig = GpuRig::with(script, Setup::default().options(&["--gpu-settings", utf8(&path)]));
    rig.offered();
    let client = rig.rig.client.clone();
    let measuring = std::thread::spawn(move || client.measure(None));
    rig.becomes("busy with the benchmark");
    terminate(&mut rig);
    measuring.join().expect("no panic").expect_err("the runner stopped");
    assert!(state(&rig).is_default(), "{:?}", state(&rig));
}

#[test]
fn settings_for_a_gpu_that_is_not_there_stop_nothing() {
    let (rig, _dir, _) = set("[GPU-elsewhere]\npower_limit_mw = 1\n");
    assert!(state(&rig).calls.is_empty());
    assert!(rig.rig.journal().contains("settings for a GPU that is not there"), "{}", rig.rig.journal());
}

#[test]
fn a_gpu_that_refuses_its_settings_is_told_and_the_rest_goes_on() {
    let (_dir, path) = file("[all]\nlocked_clocks_mhz = { min = 210, max = 1800 }\n");
    let mut script = small();
    script.missing_symbols.push("nvmlDeviceSetGpuLockedClocks".to_owned());
    let rig = GpuRig::with(script, Setup::default().options(&["--gpu-settings", utf8(&path)]));
    assert!(rig.rig.journal().contains("a GPU is not set as its owner says"), "{}", rig.rig.journal());
    rig.offered();
    rig.still_works();
}
