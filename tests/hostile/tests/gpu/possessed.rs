//! A worker that a bundle has taken over: whatever it says or does, the runner lives, and the GPU is not offered on its
//! word.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use fake_gpu_script::Script;
use hostile::attacks;
use hostile::gpu::{GpuRig, small};
use hostile::observed::descriptors;
use hostile::rig::{Setup, binary};

/// A rig whose worker is the attacker, which does `what`.
fn possessed(what: &str) -> (GpuRig, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("worker");
    std::fs::copy(attacks::program(), &program).expect("copy");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut file = std::fs::File::options().append(true).open(&program).expect("open");
    file.write_all(format!("\n{what}").as_bytes()).expect("write");
    drop(file);
    let script: Script = small();
    let own = binary("rig-cuda", "RIG_CUDA");
    let setup = Setup::default().env("RIG_TRUE_WORKER", own.to_str().expect("UTF-8"));
    (GpuRig::worked_by(script, setup, &program), dir)
}

/// Panics unless the GPU was never offered, and is given up for `words`.
fn assert_given_up(rig: &GpuRig, words: &str) {
    let state = rig.becomes("given up after 3 failed canaries");
    assert!(state.contains(words), "{state}");
    assert!(!rig.rig.journal().contains("state=\"offered\""), "offered on the word of a liar");
    assert!(rig.workers().is_empty());
    assert!(!rig.rig.journal().contains("panicked"));
    rig.rig.still_works();
}

#[test]
fn attack_63_a_worker_commands_nothing_but_what_computing_takes_and_reaches_nothing() {
    let (rig, _dir) = possessed("reach");
    let state = rig.becomes("given up");
    let (_, said) = state.split_once("Code(0); ").unwrap_or_else(|| panic!("{state}"));
    assert!(said.starts_with("reached out 58 times"), "{said}");
    assert_given_up(&rig, "ended before it was warm");
}

#[test]
fn a_worker_that_babbles_is_given_up() {
    let (rig, _dir) = possessed("babble");
    assert_given_up(&rig, "ended before it was warm: Code(0)");
}

#[test]
fn a_worker_that_never_stops_greeting_is_given_up() {
    let (rig, _dir) = possessed("flood");
    assert_given_up(&rig, "the canary's worker ended");
}

#[test]
fn a_worker_that_lies_about_its_job_is_found_out() {
    let (rig, _dir) = possessed("lie");
    assert_given_up(&rig, "wrong bytes");
}

#[test]
fn descriptors_that_a_worker_sends_are_closed() {
    let (rig, _dir) = possessed("smuggle");
    assert_given_up(&rig, "wrong bytes");
    let open = descriptors(rig.rig.runner_pid()).len();
    assert!(open < 100, "the runner has {open} descriptors");
}
