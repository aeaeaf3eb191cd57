//! Jobs that reach for other processes, and jobs that do not end.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hostile::attacks::{attack, attacked, attacked_as, attacker, line_of, program, rig};
use hostile::observed::{descendants, descriptors, jail_cgroups, jailed, status};
use hostile::rig::{Rig, name, wait_for};
use runner::protocol::{Ending, Exit, HealthTest, ServiceSpec};
use sha2::{Digest as _, Sha256};

/// A process of the host that a job must not touch; its environment is a secret in its memory.
struct Victim(Child);

impl Victim {
    const SECRET: &str = "canary-in-memory-5e884898";

    fn new() -> Self {
        let mut sleep = Command::new("/bin/sleep");
        sleep.arg("1000").env("SECRET", Self::SECRET).stdout(Stdio::null());
        let victim = Self(sleep.spawn().expect("start a victim"));
        // It has its parent's memory first, for a moment none, and then its own.
        let environment = format!("/proc/{}/environ", victim.0.id());
        let is_furnished =
            || String::from_utf8_lossy(&fs::read(&environment).unwrap_or_default()).contains(Self::SECRET);
        wait_for("a victim", || is_furnished().then_some(()));
        victim
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// Where its environment lies in its memory: field 50 of `/proc/PID/stat`.
    fn address(&self) -> String {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("a process");
        let field = stat.rsplit(") ").next().and_then(|rest| rest.split_whitespace().nth(47));
        field.expect("the start of the environment").to_owned()
    }

    #[track_caller]
    fn is_untouched(&mut self) {
        assert_eq!(self.0.try_wait().expect("look"), None, "it lives");
        assert_eq!(status(self.0.id(), "TracerPid").as_deref(), Some("0"));
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Stops a source at once, and sees that nothing of it is left.
fn stopped(rig: &Rig, source: &str, within: Duration) {
    let began = Instant::now();
    rig.client.stop(&name(source), Duration::ZERO).expect("stop");
    assert!(began.elapsed() < within, "{:?}", began.elapsed());
    assert_eq!(jailed(rig.spawner_pid()), NOBODY);
}

const NOBODY: [u32; 0] = [];

const SOON: Duration = Duration::from_secs(2);

#[test]
fn attack_12_no_process_of_the_host_can_be_traced() {
    let (rig, mut victim) = (rig(), Victim::new());
    let source = name("a");
    let pids = [victim.pid(), rig.runner_pid().to_string(), rig.spawner_pid().to_string(), "1".to_owned()];
    let words: Vec<&str> = std::iter::once("trace").chain(pids.iter().map(String::as_str)).collect();
    let said = attacked(&rig, &source, &words);
    assert!(said.lines().filter(|line| *line != "attacked").all(|line| line.ends_with("ENOSYS")), "{said}");
    victim.is_untouched();
    for pid in [rig.runner_pid(), rig.spawner_pid(), rig.jail_pid(&source), attacker(&rig, &source)] {
        assert_eq!(status(pid, "TracerPid").as_deref(), Some("0"), "{pid}");
    }
    stopped(&rig, "a", SOON);
    rig.still_works();
}

#[test]
fn attack_13_memory_and_descriptors_of_others_stay_theirs() {
    let (rig, mut victim) = (rig(), Victim::new());
    let source = name("a");
    let before = fs::read(format!("/proc/{}/environ", victim.pid())).expect("its memory");
    let said = attacked(&rig, &source, &["steal-memory", &victim.pid(), &victim.address()]);
    assert!(!said.contains(Victim::SECRET) && !said.contains(": OK"), "{said}");
    assert_eq!(fs::read(format!("/proc/{}/environ", victim.pid())).expect("its memory"), before);
    victim.is_untouched();
    assert_eq!(descriptors(attacker(&rig, &source)).len(), 3, "it took no descriptor");
    stopped(&rig, "a", SOON);
    rig.still_works();
}

#[test]
fn attack_14_nobody_outside_dies_when_a_job_kills_everything() {
    let (rig, mut victim) = (rig(), Victim::new());
    let neighbour = name("neighbour");
    rig.run(&neighbour, attack(&["serve"]));
    let (runner, spawner, other) = (rig.runner_pid(), rig.spawner_pid(), rig.jail_pid(&neighbour));
    let pids = [victim.pid(), runner.to_string(), spawner.to_string(), other.to_string()];
    let words: Vec<&str> = std::iter::once("kill").chain(pids.iter().map(String::as_str)).collect();
    let said = attacked(&rig, &name("a"), &words);
    assert!(said.contains("hit 0"), "{said}");
    victim.is_untouched();
    assert_eq!((rig.spawner_pid(), rig.jail_pid(&neighbour)), (spawner, other));
    rig.client.stop(&name("a"), Duration::ZERO).expect("stop");
    rig.still_works();
}

#[test]
fn attack_15_no_way_through_proc_leads_to_the_hosts_files() {
    let (rig, victim) = (rig(), Victim::new());
    let canary = rig.path("canary-file");
    fs::write(&canary, "canary-of-the-host").expect("write");
    let runner = rig.runner_pid().to_string();
    let path = canary.to_str().expect("text");
    let said = attacked(&rig, &name("a"), &["outside-paths", path, &victim.pid(), &runner, "1"]);
    assert!(!said.contains("canary-of-the-host") && !said.contains(Victim::SECRET), "{said}");
    assert_eq!(line_of(path), "canary-of-the-host");
    // And there are no processes to be seen but its own: the first of its jail, itself.
    let source = name("a");
    let first = rig.jail_pid(&source);
    let seen = fs::read_dir(format!("/proc/{first}/root/proc")).expect("its procfs").flatten();
    let seen: Vec<_> = seen.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let others: Vec<_> = seen.iter().filter(|name| name.parse::<u32>().is_err()).collect();
    assert!(others.iter().all(|name| ["self", "thread-self", "mounts", "net"].contains(&name.as_str())), "{seen:?}");
    stopped(&rig, "a", SOON);
    rig.still_works();
}

#[test]
fn attack_16_no_sysctl_can_be_written() {
    const WATCHED: [&str; 9] = [
        "kernel/core_pattern",
        "kernel/modprobe",
        "kernel/hostname",
        "kernel/panic_on_oops",
        "vm/swappiness",
        "vm/overcommit_memory",
        "fs/file-max",
        "net/ipv4/ip_forward",
        "user/max_user_namespaces",
    ];
    let rig = rig();
    let values = || WATCHED.map(|name| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default());
    let before = values();
    let source = name("a");
    let said = attacked(&rig, &source, &["write-sysctls"]);
    assert_eq!(values(), before);
    let root = format!("/proc/{}/root", rig.jail_pid(&source));
    assert!(!fs::exists(format!("{root}/proc/sys")).expect("look"), "there is none to be seen");
    assert!(!fs::exists(format!("{root}/proc/sysrq-trigger")).expect("look"));
    assert!(!said.contains("/proc/sys/kernel/core_pattern: OK") && !said.contains("uid_map: OK"), "{said}");
    // What it may write about itself it may only make worse.
    let score: i32 = line_of(&format!("/proc/{}/oom_score_adj", attacker(&rig, &source))).parse().expect("a number");
    assert!(score >= 0, "{score}");
    stopped(&rig, "a", SOON);
    rig.still_works();
}

#[test]
fn attack_17_the_running_program_stays_and_nothing_was_left_open() {
    let rig = rig();
    let digest = |path: &std::path::Path| Sha256::digest(fs::read(path).expect("a program"));
    let runner = fs::read_link(format!("/proc/{}/exe", rig.runner_pid())).expect("the runner's program");
    let before = (digest(&program()), digest(&runner));
    let source = name("a");
    let manifest = rig.prepared(&source);
    rig.open(&source);
    rig.start(&source, &manifest, attack(&["self-replace"]));
    let said = hostile::attacks::over(&rig, &source);
    assert!(!said.contains("left open") && !said.contains("/proc/1/exe: OK"), "{said}");
    // Exactly its three streams: nothing, and the pipe to its log.
    let mut open = descriptors(attacker(&rig, &source));
    open.sort();
    open.dedup();
    assert!(open.len() == 2 && open[0] == std::path::Path::new("/dev/null"), "{open:?}");
    assert!(open[1].to_string_lossy().starts_with("pipe:["), "{open:?}");
    for other in descriptors(rig.jail_pid(&source)) {
        let other = other.to_string_lossy();
        let known = ["/dev/null", "pipe:[", "socket:[", "anon_inode:[pidfd]", "pidfd", "anon_inode:[signalfd]"];
        let known = known.iter().any(|known| other.starts_with(known)) || other.starts_with("anon_inode:");
        assert!(known, "the first process of the jail holds {other}");
    }
    stopped(&rig, "a", SOON);
    assert_eq!((digest(&program()), digest(&runner)), before);
    // What it wrote over, if anything, was its own copy, which is gone.
    rig.open(&source);
    rig.start(&source, &manifest, attack(&["exit", "9"]));
    assert_eq!(rig.ended(&source).exit, Exit::Code(9));
    rig.still_works();
}

#[test]
fn attack_45_what_refuses_to_end_is_killed_at_once() {
    let rig = rig();
    let source = name("a");
    attacked(&rig, &source, &["stubborn"]);
    let began = Instant::now();
    let how = rig.client.stop(&source, Duration::from_millis(200)).expect("stop");
    assert_eq!(how, Ending::Killed);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(jailed(rig.spawner_pid()), NOBODY);
    let mut spec = attack(&["zombies", "300"]);
    spec.limits.processes = 400;
    attacked_as(&rig, &source, spec);
    stopped(&rig, "a", SOON);
    rig.still_works();
}

#[test]
fn attack_46_nothing_outlives_the_service_that_started_it() {
    let rig = rig();
    let source = name("a");
    rig.run(&source, attack(&["daemon"]));
    assert_eq!(rig.ended(&source).exit, Exit::Code(0));
    // The jail is reported as ended only when it is empty.
    assert_eq!(jailed(rig.spawner_pid()), NOBODY);
    if let Some(cgroup) = rig.cgroup() {
        let populated = |dir: &std::path::PathBuf| {
            fs::read_to_string(dir.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
        };
        let jails = jail_cgroups(cgroup);
        assert!(!jails.iter().any(populated), "{jails:?}");
    }
    stopped(&rig, "a", SOON);
    wait_for("the runner to be at rest", || (rig.observed().processes == 0).then_some(()));
    rig.still_works();
}

#[test]
fn attack_46_health_tests_that_leave_daemons_stay_within_the_jail() {
    let rig = rig();
    let source = name("a");
    let command = ["/bin/sh", "-c", "sleep 1000 & cat /dev/zero & exit 0"].map(str::to_owned).to_vec();
    let health = HealthTest { command, interval_ms: 1, timeout_ms: 1000, retries: 3, start_period_ms: 0 };
    let mut spec = ServiceSpec { health: Some(health), ..attack(&["serve"]) };
    // Each daemon that is left takes the processor from the tests that would leave more: a low limit is met soon.
    spec.limits.processes = 24;
    rig.run(&source, spec);
    let first = rig.jail_pid(&source);
    wait_for("the limit to be met", || (descendants(first).len() > 18).then_some(()));
    for _ in 0..50 {
        // The first process of the jail is not below itself.
        assert!(descendants(first).len() <= 24, "{}", descendants(first).len());
    }
    let (_, bytes) = hostile::observed::tree(&rig.state("logs"));
    assert!(bytes < 4 << 20, "{bytes} bytes of log");
    stopped(&rig, "a", SOON);
    rig.still_works();
}
