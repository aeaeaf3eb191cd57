//! Jobs that come again and again, and a runner that dies under them.
//!
//! `$RIG_STORM` sets how often a job crashes; see also `leaks.rs` for ten thousand jobs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hostile::attacks::{attack, rig};
use hostile::observed::{awaits_its_plan, children, descendants, jail_cgroups, loops, tree};
use hostile::oci::{self, Layer};
use hostile::rig::{MAIN, Rig, name, plan, service, spec, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runner::client::ClientError;
use runner::protocol::{ServiceSpec, ServiceState, SourcePlan, VolumeMount, VolumePlan};

/// Waits until a runner that was asked to do nothing more holds no more than it held before.
#[track_caller]
fn holds_no_more(rig: &Rig, before: &hostile::observed::Observed) {
    let before = before.clone().own();
    let grown = || {
        let now = rig.observed().own();
        let pairs = before.counts().into_iter().zip(now.counts());
        pairs.filter(|((_, before), (_, now))| now > before).collect::<Vec<_>>()
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !grown().is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(grown().is_empty(), "more than before: {:?}", grown());
}

#[test]
fn attack_69_a_job_that_crashes_again_and_again_leaves_nothing() {
    let times: u32 = std::env::var("RIG_STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(64);
    let rig = rig();
    let source = name("a");
    // Programs that are no programs, besides one that ends at once and one that kills itself.
    let layer = Layer::new()
        .file("one", 0o755, &oci::program_that_exits(1))
        .file("empty", 0o755, b"")
        .file("elf", 0o755, b"\x7fELF\x02\x01\x01\0garbage")
        .file("script", 0o755, b"#!/no-such-interpreter\n")
        .file("loop", 0o755, b"#!/loop\n")
        .file("data", 0o644, b"data")
        .finish();
    let manifest = rig.prepared_with(&source, &[layer]);
    let spawner = rig.spawner_pid();
    let once = |number: u32| {
        let program = ["/one", "/empty", "/elf", "/script", "/loop", "/data", "/none", "/tmp"][number as usize % 8];
        rig.open(&source);
        // Most without a disk of their own, which takes longer to make than all the rest.
        let spec = ServiceSpec { read_only: number % 16 < 14, ..spec(&[program]) };
        match rig.client.start(&source, &service(MAIN), &manifest, spec) {
            Ok(_) => drop(rig.ended(&source)),
            Err(ClientError::Refused(refusal)) => println!("{program}: {refusal}"),
            Err(error) => panic!("{program}: {error:?}"),
        }
        rig.client.stop(&source, Duration::ZERO).expect("stop");
    };
    // One of each, so that whatever is made once has been made.
    (8..16).for_each(once);
    let before = rig.observed();
    (0..times).for_each(once);
    assert_eq!(rig.spawner_pid(), spawner, "it is the same spawner");
    holds_no_more(&rig, &before);
    rig.still_works();
}

#[test]
fn attack_70_nothing_is_left_of_a_killed_runner() {
    let mut rig = rig();
    let source = name("a");
    let manifest = rig.prepared(&source);
    let volume: runner::protocol::VolumeName = "kept".parse().expect("a name");
    let volumes = vec![VolumePlan { name: volume.clone(), bytes: 16 << 20 }];
    let plan = SourcePlan { volumes, ..plan(&[MAIN, "second"]) };
    let mount = VolumeMount { volume, target: "/kept".to_owned(), read_only: false };
    let stubborn = ServiceSpec { volumes: vec![mount], ..attack(&["stubborn"]) };
    // Of this rig: what others mount meanwhile is not this test's business.
    let own = rig.state("").parent().and_then(|dir| dir.file_name()).expect("a name").to_string_lossy().into_owned();
    let mounts_of = |pid: u32| {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts");
        mounts.lines().filter(|line| line.contains(&own)).map(str::to_owned).collect::<Vec<_>>()
    };
    let host_mounts = || mounts_of(std::process::id());
    let idle = (rig.observed().processes, mounts_of(rig.spawner_pid()));
    let (mounts, files) = (host_mounts(), tree(&rig.state("")).0);
    for round in 0..3 {
        rig.client.open(&source, plan.clone()).expect("open");
        rig.start(&source, &manifest, stubborn.clone());
        rig.client.start(&source, &service("second"), &manifest, attack(&["daemon"])).expect("start");
        rig.printed(&source, "attacked");
        let held = loops(&rig.state("")).len();
        assert!(held > 0, "the check is worth something: they write on disks of their own");
        let pids: Vec<u32> = descendants(rig.runner_pid());
        assert!(pids.len() >= 4, "{pids:?}");
        let netns = fs::read_link(format!("/proc/{}/ns/net", rig.jail_pid(&source))).expect("a namespace");
        rig.kill_runner();
        wait_for("every process to die", || {
            let gone = |pid: &u32| !fs::exists(format!("/proc/{pid}")).unwrap_or(false);
            pids.iter().all(gone).then_some(())
        });
        // Those that the daemons made since; and the number of a namespace that is gone may be another's by now.
        wait_for("everybody in its network to die", || {
            let inside = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|at| at == netns);
            (!hostile::observed::pids().into_iter().any(inside)).then_some(())
        });
        wait_for("loop devices to clear", || loops(&rig.state("")).is_empty().then_some(()));
        assert_eq!(host_mounts(), mounts, "round {round}");
        println!("round {round}: {} processes and {held} loop devices went with the runner", pids.len());
        rig.start_runner();
        assert!(rig.client.list().expect("list").is_empty(), "what was running is not remembered as running");
        let runs = fs::read_dir(rig.state("disks")).into_iter().flatten().count();
        assert_eq!(runs, 0, "round {round}: runs of the last runner");
        if let Some(cgroup) = rig.cgroup() {
            rig.settle();
            assert_eq!(jail_cgroups(cgroup), Vec::<PathBuf>::new(), "round {round}");
        }
    }
    // It comes up again with what it is to keep, and nothing else.
    assert!(rig.client.prepare(&source, &manifest).expect("prepare").already);
    rig.client.forget(&source).expect("forget");
    assert_eq!(rig.observed().processes, idle.0);
    // Without the numbers that each mount has for itself.
    let places = |mounts: &[String]| -> Vec<String> {
        mounts.iter().filter_map(|mount| Some(mount.splitn(4, ' ').nth(3)?.to_owned())).collect()
    };
    assert_eq!(places(&mounts_of(rig.spawner_pid())), places(&idle.1));
    assert!(tree(&rig.state("")).0 <= files + 4, "files before and after: {files}, {}", tree(&rig.state("")).0);
    rig.open(&source);
    rig.start(&source, &manifest, attack(&["serve"]));
    rig.printed(&source, "serving");
    assert!(matches!(rig.service_state(&source, &service(MAIN)), ServiceState::Running { .. }));
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    rig.still_works();
}

#[test]
fn a_child_made_in_advance_that_dies_costs_nobody_a_start() {
    let rig = rig();
    for _ in 0..3 {
        rig.settle();
        let waiting = children(rig.spawner_pid()).into_iter().find(|pid| awaits_its_plan(*pid)).expect("a child waits");
        kill(Pid::from_raw(waiting.cast_signed()), Signal::SIGKILL).expect("kill it");
        rig.still_works();
    }
}
