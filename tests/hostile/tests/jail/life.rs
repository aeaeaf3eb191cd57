//! How a source begins, is talked to, and ends, whoever ends it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use runner::protocol::{Ending, Exit, Refusal, SourceName};

use crate::confinement::{opened, probing, with_probe};
use hostile::rig::{MAIN, PATIENCE, Rig, name, refusal, service, spec, wait_for};

const FOR_EVER: [&str; 3] = ["/bin/sh", "-c", "echo ready; while :; do sleep 1000; done"];

/// The pid namespace of a running source. It is held open, so that no other jail gets its number.
fn jail_of(rig: &Rig, source: &SourceName) -> File {
    File::open(format!("/proc/{}/ns/pid", rig.jail_pid(source))).expect("a namespace")
}

/// How many processes are in a pid namespace.
fn inhabitants(jail: &File) -> usize {
    let jail = std::fs::read_link(format!("/proc/self/fd/{}", jail.as_raw_fd())).expect("its number");
    let entries = std::fs::read_dir("/proc").expect("procfs").flatten();
    entries.filter(|entry| std::fs::read_link(entry.path().join("ns/pid")).is_ok_and(|found| found == jail)).count()
}

#[test]
fn a_port_of_the_service_can_be_reached_once_it_listens() {
    let rig = with_probe();
    let source = name("a");
    let manifest = opened(&rig, &source);
    rig.start(&source, &manifest, probing("serve"));
    assert!(matches!(
        refusal(rig.client.connect(&source, &service(MAIN), 5556)),
        Refusal::NotListening { port: 5556, .. }
    ));
    let mut stream = wait_for("port 5555", || rig.client.connect(&source, &service(MAIN), 5555).ok());
    stream.set_nonblocking(false).expect("blocking");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream.write_all(b"hello").expect("write");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("read");
    assert_eq!(&answer, b"hello");
}

#[test]
fn a_callback_waits_for_a_provider_that_was_away() {
    let rig = with_probe();
    let source = name("a");
    let manifest = opened(&rig, &source);
    rig.start(&source, &manifest, probing("facts"));
    // The service sends its callback and ends before anyone has asked for the listener.
    assert_eq!(rig.ended(&source).exit, Exit::Code(0));
    assert!(rig.callback(&source).contains("env RIG_PROBE=facts"));
}

#[test]
fn starting_again_changes_nothing_and_starting_otherwise_is_refused() {
    let rig = Rig::new();
    let source = name("a");
    let manifest = rig.run(&source, spec(&FOR_EVER));
    let again = rig.start(&source, &manifest, spec(&FOR_EVER));
    assert!(again.already);
    match refusal(rig.client.start(&source, &service(MAIN), &manifest, spec(&["/bin/true"]))) {
        Refusal::RunsDifferently { difference, .. } => assert_eq!(difference, "command"),
        other => panic!("{other}"),
    }
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    rig.open(&source);
    let next = rig.start(&source, &manifest, spec(&FOR_EVER));
    assert!(!next.already && next.run > again.run);
}

#[test]
fn a_service_that_heeds_sigterm_ends_and_one_that_does_not_is_killed() {
    let rig = Rig::new();
    let heeding = name("heeding");
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    rig.run(&heeding, spec(&["/bin/sh", "-c", script]));
    rig.printed(&heeding, "ready");
    assert_eq!(rig.client.stop(&heeding, PATIENCE).expect("stop"), Ending::Terminated);
    assert!(rig.log(&heeding).contains("bye"));
    let stubborn = name("stubborn");
    rig.run(&stubborn, spec(&["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]));
    rig.printed(&stubborn, "ready");
    assert_eq!(rig.client.stop(&stubborn, Duration::from_millis(50)).expect("stop"), Ending::Killed);
    assert!(matches!(refusal(rig.client.stop(&stubborn, Duration::ZERO)), Refusal::NotOpen { .. }));
}

#[test]
fn how_a_service_ended_and_what_it_last_said_are_kept() {
    let rig = Rig::new();
    for (source, script, expected) in [
        ("code", "echo last; exit 3", Exit::Code(3)),
        ("signal", "echo last; kill -9 $$", Exit::Signal(9)),
        ("orphan", "sleep 1000 & echo last; exit 0", Exit::Code(0)),
    ] {
        let source = name(source);
        rig.run(&source, spec(&["/bin/sh", "-c", script]));
        let ended = rig.ended(&source);
        assert_eq!((ended.exit, ended.log_tail.as_str()), (expected, "last\n"));
        assert_eq!(rig.client.stop(&source, Duration::ZERO).expect("stop"), Ending::AlreadyExited);
    }
}

#[test]
fn nothing_of_a_stopped_source_is_left() {
    let rig = Rig::new();
    let source = name("a");
    let mounts = || {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", rig.runner_pid())).expect("mounts");
        mounts.lines().filter(|line| line.contains(rig.state("").to_str().expect("text"))).count()
    };
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", rig.runner_pid())).expect("procfs").count();
    let manifest = opened(&rig, &source);
    rig.start(&source, &manifest, spec(&FOR_EVER));
    rig.printed(&source, "ready");
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    let before = (mounts(), descriptors());
    for _ in 0..20 {
        rig.open(&source);
        rig.start(&source, &manifest, spec(&FOR_EVER));
        let jail = jail_of(&rig, &source);
        assert!(inhabitants(&jail) >= 2);
        rig.client.stop(&source, Duration::ZERO).expect("stop");
        assert_eq!(inhabitants(&jail), 0);
        assert_eq!(rig.runs(), 0);
    }
    assert_eq!(mounts(), before.0);
    assert_eq!(rig.mounted_layers(), 0);
    // A connection that has just been answered may still be closing.
    wait_for("descriptors to close", || (descriptors() <= before.1).then_some(()));
    assert!(rig.client.list().expect("list").is_empty());
}

#[test]
fn no_jail_outlives_its_runner() {
    let mut rig = Rig::new();
    let source = name("a");
    let manifest = rig.run(&source, spec(&FOR_EVER));
    rig.printed(&source, "ready");
    let jail = jail_of(&rig, &source);
    assert!(inhabitants(&jail) >= 2);
    rig.kill_runner();
    wait_for("the jail to die", || (inhabitants(&jail) == 0).then_some(()));
    // An unpack that was under way is gone as well, when the next runner looks.
    let half = rig.state("layers/.half.erofs");
    let unpack = rig.state("unpack/7");
    std::fs::create_dir_all(unpack.join("tree/a")).expect("mkdir");
    for path in [&half, &unpack.join("layer")] {
        std::fs::write(path, "half a layer").expect("write");
    }
    rig.start_runner();
    assert!(!half.exists() && !unpack.exists());
    assert_eq!(rig.runs(), 0);
    assert!(rig.client.prepare(&source, &manifest).expect("prepare").already);
    rig.open(&source);
    rig.start(&source, &manifest, spec(&FOR_EVER));
}

#[test]
fn without_its_spawner_the_runner_ends_and_so_does_every_jail() {
    let mut rig = Rig::new();
    let source = name("a");
    rig.run(&source, spec(&FOR_EVER));
    rig.printed(&source, "ready");
    let jail = jail_of(&rig, &source);
    let runner = rig.runner_pid();
    let children = std::fs::read_to_string(format!("/proc/{runner}/task/{runner}/children")).expect("procfs");
    let spawner = children.trim().parse().ok().and_then(rustix::process::Pid::from_raw).expect("one child");
    rustix::process::kill_process(spawner, rustix::process::Signal::KILL).expect("kill -9");
    assert_eq!(rig.runner_ended(), Some(3));
    wait_for("the jail to die", || (inhabitants(&jail) == 0).then_some(()));
}

#[test]
fn a_runner_that_is_told_to_stop_stops_its_sources_first() {
    let mut rig = Rig::new();
    let source = name("a");
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    rig.run(&source, spec(&["/bin/sh", "-c", script]));
    rig.printed(&source, "ready");
    let runner = i32::try_from(rig.runner_pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(runner, rustix::process::Signal::TERM).expect("SIGTERM");
    assert_eq!(rig.runner_ended(), Some(0));
    let log = std::fs::read_to_string(rig.state("logs/a/main/current")).expect("a log");
    assert!(log.contains("bye"), "{log}");
    assert_eq!(std::fs::read_dir(rig.state("disks")).expect("list").count(), 0);
}

#[test]
fn a_fork_bomb_stays_within_its_limit() {
    let rig = Rig::new();
    let source = name("a");
    let manifest = opened(&rig, &source);
    let mut spec = spec(&["/bin/sh", "-c", "while :; do sleep 1000 & done"]);
    spec.limits.processes = 20;
    rig.start(&source, &manifest, spec);
    let ended = rig.ended(&source);
    assert_eq!(ended.exit, Exit::Code(2), "{ended:?}");
    assert!(rig.log(&source).contains("fork"));
    assert_eq!(rig.runs(), 0);
}

#[test]
fn a_source_that_prints_without_end_fills_no_disk() {
    let rig = Rig::new();
    let source = name("a");
    rig.run(&source, spec(&["/bin/sh", "-c", "printf '\\033[2Jred\\n'; exec cat /dev/zero"]));
    wait_for("a log that has turned over", || rig.state("logs/a/main/previous").exists().then_some(()));
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    let logs = std::fs::read_dir(rig.state("logs/a/main")).expect("list");
    let bytes: u64 = logs.map(|entry| entry.expect("entry").metadata().expect("stat").len()).sum();
    assert!(bytes < 3 << 20, "{bytes}");
    let shown = rig.log(&source);
    assert!(shown.len() <= 48 * 1024 && shown.ends_with("\\u{0}"), "{}", shown.len());
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let rig = Rig::new();
    let source = name("a");
    let manifest = opened(&rig, &source);
    match refusal(rig.client.start(&source, &service(MAIN), &manifest, spec(&["no-such-program"]))) {
        Refusal::JailFailed { step, errno } => {
            assert!(step.contains("no-such-program"), "{step}");
            assert_eq!(errno, nix::errno::Errno::ENOENT as i32);
        }
        other => panic!("{other}"),
    }
    assert!(rig.client.list().expect("list")[&source].services.is_empty());
    assert_eq!(rig.runs(), 0);
}

#[test]
fn a_source_that_digs_deep_leaves_nothing() {
    let rig = with_probe();
    let source = name("a");
    rig.run(&source, probing("dig"));
    let ended = rig.ended(&source);
    assert_eq!(ended.exit, Exit::Code(0), "{ended:?}");
    assert!(rig.log(&source).contains("dug"));
    assert_eq!(rig.runs(), 0);
}
