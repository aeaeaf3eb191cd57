//! Jobs that say too much, or in the wrong places: whoever has to read it outside is not hurt.

use std::fs;
use std::time::{Duration, Instant};

use hostile::attacks::{attack, attacked, over, rig};
use hostile::observed::{descriptors, resident_bytes, tree};
use hostile::rig::{MAIN, name, plan, refusal, wait_for};
use runner::protocol::{LOG_TAIL_BYTES_MAX, Refusal, ServiceSpec, SourcePlan, VolumeMount, VolumeName, VolumePlan};

#[test]
fn attack_55_links_pipes_and_very_many_files_stay_inside() {
    const BYTES: u64 = 32 << 20;
    let rig = rig();
    let canary = rig.path("canary");
    fs::create_dir(&canary).expect("mkdir");
    fs::write(canary.join("file"), "untouched").expect("write");
    let source = name("a");
    let manifest = rig.prepared(&source);
    let volume: VolumeName = "results".parse().expect("a name");
    let volumes = vec![VolumePlan { name: volume.clone(), bytes: BYTES }];
    let plan = SourcePlan { volumes, ..plan(&[MAIN]) };
    rig.client.open(&source, plan.clone()).expect("open");
    let words = ["output-bomb", "/results", canary.to_str().expect("text"), "50000"];
    let mount = VolumeMount { volume, target: "/results".to_owned(), read_only: false };
    let spec = ServiceSpec { volumes: vec![mount], ..attack(&words) };
    rig.start(&source, &manifest, spec.clone());
    let said = over(&rig, &source);
    println!("{said}");
    let (_, bytes) = tree(&rig.state(""));
    assert!(bytes < (64 << 20) + BYTES, "{bytes} bytes in the state directory");
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    // Everything of it is met again: when the volume is opened, mounted, and removed.
    rig.client.open(&source, plan).expect("open");
    rig.start(&source, &manifest, ServiceSpec { command: attack(&["serve"]).command, ..spec });
    rig.printed(&source, "serving");
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    let began = Instant::now();
    rig.client.forget(&source).expect("forget");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(fs::read_to_string(canary.join("file")).expect("read"), "untouched");
    assert_eq!(fs::read_dir(&canary).expect("list").count(), 1);
    rig.still_works();
}

/// What all TCP sockets of the machine hold, in bytes.
fn tcp_bytes() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").expect("counters");
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:")).expect("a line");
    4096 * line.split(' ').skip_while(|word| *word != "mem").nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

#[test]
fn attack_55_a_flood_of_callbacks_is_bounded() {
    let rig = rig();
    let source = name("a");
    let before = (descriptors(rig.runner_pid()).len(), resident_bytes(rig.runner_pid()));
    let mut spec = attack(&["callback-flood", "20000"]);
    spec.limits.open_files = 32_768;
    rig.run(&source, spec);
    let kernel_before = tcp_bytes();
    let said = over(&rig, &source);
    let kernel = tcp_bytes().saturating_sub(kernel_before);
    println!("{kernel} bytes of the kernel's memory wait in TCP");
    let connections = said.lines().find_map(|line| line.strip_suffix(" connections")?.parse::<u64>().ok());
    assert!(connections.is_some_and(|count| count <= 4200), "{said}");
    // Nobody is charged for what waits at the runner's listener, so there must not be much of it.
    assert!(kernel < 64 << 20, "{kernel} bytes wait in TCP");
    let after = (descriptors(rig.runner_pid()).len(), resident_bytes(rig.runner_pid()));
    assert!(after.0 <= before.0 + 32 && after.1 <= before.1 + (16 << 20), "{before:?} became {after:?}");
    // Another source's callback is not behind it.
    let other = name("b");
    rig.run(&other, attack(&["smuggle"]));
    let callback = rig.callback(&other);
    assert!(callback.is_empty() || callback == "result", "{callback}");
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    rig.still_works();
}

#[test]
fn attack_56_a_log_bomb_fills_no_disk_and_controls_no_terminal() {
    let rig = rig();
    let source = name("a");
    let before = resident_bytes(rig.runner_pid());
    attacked(&rig, &source, &["log-bomb", "0"]);
    let shown = rig.log(&source);
    assert!(shown.contains("red") && shown.ends_with("attacked\n"));
    assert!(shown.chars().all(|letter| letter == '\n' || !letter.is_control()), "{shown:?}");
    // Nor what reverses text, or begins an escape in eight bits.
    assert!(!shown.contains(['\u{202e}', '\u{9b}']), "{shown:?}");
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    // One line of 256 MiB.
    attacked(&rig, &source, &["log-bomb", "256"]);
    let (_, bytes) = tree(&rig.state("logs"));
    assert!(bytes < 3 << 20, "{bytes} bytes of log");
    let shown = rig.log(&source);
    assert!(shown.len() <= LOG_TAIL_BYTES_MAX, "{}", shown.len());
    let grown = resident_bytes(rig.runner_pid()).saturating_sub(before);
    assert!(grown < 16 << 20, "the runner has grown by {grown} bytes");
    // While it prints without end, others are served.
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    rig.run(&source, attack(&["log-bomb", "100000"]));
    wait_for("some output", || (rig.log(&source).len() > 1000).then_some(()));
    rig.still_works();
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    assert!(matches!(refusal(rig.client.stop(&source, Duration::ZERO)), Refusal::NotOpen { .. }));
}
