//! Jobs that use up what the machine has: each meets its own limit, and others do not notice.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hostile::attacks::{
    armed, attack, attacked, attacked_as, attacker, cgroup_number, cgroup_of, has_cgroups, line_of, rig,
};
use hostile::observed::{descendants, descriptors, jailed, status};
use hostile::rig::{MAIN, Rig, Setup, name, plan, service, wait_for};
use runner::protocol::{Ending, Exit, SERVICES_MAX, SOURCES_MAX, ServiceSpec, SourceName};
use rustix::fs::{StatVfs, statvfs};

const MIB: u64 = 1 << 20;

const NOBODY: [u32; 0] = [];

/// The file system that a running job sees at `path`.
fn seen_at(rig: &Rig, source: &SourceName, path: &str) -> StatVfs {
    statvfs(format!("/proc/{}/root{path}", rig.jail_pid(source))).expect("the job's file system")
}

fn size_bytes(system: &StatVfs) -> u64 {
    system.f_blocks * system.f_frsize
}

fn free_bytes(system: &StatVfs) -> u64 {
    system.f_bavail * system.f_frsize
}

/// Threads of a jail, its first process counted.
fn threads(first: u32) -> usize {
    let processes = std::iter::once(first).chain(descendants(first));
    processes.map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().count()).sum()
}

/// Stops a source at once; answers how long that took.
fn stop(rig: &Rig, source: &SourceName) -> Duration {
    let began = Instant::now();
    let how = rig.client.stop(source, Duration::ZERO).expect("stop");
    assert_ne!(how, Ending::Terminated, "it had no time for that");
    began.elapsed()
}

fn with_processes(processes: u64, words: &[&str]) -> ServiceSpec {
    let mut spec = attack(words);
    spec.limits.processes = processes;
    spec
}

#[test]
fn attack_01_a_fork_bomb_meets_its_limit_and_ends_within_a_second() {
    let rig = rig();
    let source = name("a");
    rig.run(&source, with_processes(64, &["fork-bomb"]));
    rig.printed(&source, "EAGAIN");
    let first = rig.jail_pid(&source);
    for _ in 0..20 {
        assert!(threads(first) <= 65, "{} processes", threads(first));
    }
    if rig.cgroup().is_some() {
        let cgroup = cgroup_of(&rig, first);
        // The job's limit, and at most the jail's own first process and a health test beside it.
        assert!(cgroup_number(&cgroup, "pids.max", None) <= 64 + 8);
        assert!(cgroup_number(&cgroup, "pids.current", None) <= 64 + 8);
    }
    assert!(stop(&rig, &source) < Duration::from_secs(1));
    assert_eq!(jailed(rig.spawner_pid()), NOBODY);
    rig.still_works();
}

#[test]
fn attack_02_a_thread_bomb_meets_the_same_limit() {
    let rig = rig();
    let source = name("a");
    let said = attacked_as(&rig, &source, with_processes(64, &["thread-bomb"]));
    assert!(said.contains("EAGAIN"), "{said}");
    assert!(threads(rig.jail_pid(&source)) <= 65);
    assert!(stop(&rig, &source) < Duration::from_secs(1));
    rig.still_works();
}

/// Runs what must be killed for its memory.
fn out_of_memory(rig: &Rig, words: &[&str]) {
    let source = name("a");
    let others = jailed(rig.spawner_pid());
    let mut spec = attack(words);
    spec.limits.memory_bytes = 64 * MIB;
    rig.run(&source, spec);
    let ended = rig.ended(&source);
    assert!(ended.out_of_memory, "{words:?}: {ended:?}");
    assert_eq!(ended.exit, Exit::Signal(9), "{words:?}");
    assert_eq!(jailed(rig.spawner_pid()), others, "{words:?}: the whole jail is killed, and nobody else");
    rig.client.stop(&source, Duration::ZERO).expect("stop");
}

#[test]
fn attack_03_a_memory_bomb_kills_its_own_jail_only() {
    let rig = rig();
    if !has_cgroups(&rig, "a memory bomb") {
        return;
    }
    let bystander = name("neighbour");
    rig.run(&bystander, attack(&["serve"]));
    rig.printed(&bystander, "serving");
    let before = rig.jail_pid(&bystander);
    for words in [["memory-bomb"], ["memfd-bomb"]] {
        out_of_memory(&rig, &words);
    }
    assert_eq!(rig.jail_pid(&bystander), before);
    rig.still_works();
}

#[test]
fn attack_04_a_job_cannot_use_swap() {
    let rig = rig();
    if !has_cgroups(&rig, "a swap bomb") {
        return;
    }
    let source = name("a");
    let mut spec = attack(&["serve"]);
    spec.limits.memory_bytes = 64 * MIB;
    rig.run(&source, spec);
    let cgroup = cgroup_of(&rig, rig.jail_pid(&source));
    assert_eq!(cgroup_number(&cgroup, "memory.max", None), 64 * MIB);
    // A kernel without swap has no such file.
    let swap = cgroup.join("memory.swap.max");
    assert!(!swap.exists() || line_of(swap.to_str().expect("text")) == "0");
    stop(&rig, &source);
    out_of_memory(&rig, &["memory-bomb"]);
    rig.still_works();
}

#[test]
fn attack_05_memory_file_systems_have_an_end() {
    let rig = rig();
    let source = name("a");
    let mut spec = attack(&["fill", "/tmp", "/dev/shm"]);
    (spec.limits.tmp_bytes, spec.limits.shm_bytes) = (8 * MIB, 4 * MIB);
    let said = attacked_as(&rig, &source, spec);
    for (path, bytes) in [("/tmp", 8 * MIB), ("/dev/shm", 4 * MIB)] {
        let system = seen_at(&rig, &source, path);
        assert_eq!((size_bytes(&system), free_bytes(&system)), (bytes, 0), "{path}");
        assert!(said.contains(&format!("{path}: ENOSPC")), "{said}");
    }
    if rig.cgroup().is_some() {
        let cgroup = cgroup_of(&rig, rig.jail_pid(&source));
        assert!(cgroup_number(&cgroup, "memory.current", None) >= 12 * MIB, "it is charged to the job");
    }
    stop(&rig, &source);
    rig.still_works();
}

#[test]
fn attack_06_a_full_scratch_disk_is_full_for_one_job_only() {
    let rig = rig();
    let neighbour = name("neighbour");
    rig.run(&neighbour, attack(&["serve"]));
    let source = name("a");
    let mut spec = attack(&["fill", "/", "/var"]);
    spec.limits.scratch_bytes = 32 * MIB;
    let said = attacked_as(&rig, &source, spec);
    assert!(said.contains("/: ENOSPC"), "{said}");
    let system = seen_at(&rig, &source, "/");
    assert!(size_bytes(&system) <= 32 * MIB && free_bytes(&system) < MIB, "{}", size_bytes(&system));
    assert!(free_bytes(&seen_at(&rig, &neighbour, "/")) > 32 * MIB, "the neighbour has a disk of its own");
    let (_, bytes) = hostile::observed::tree(&rig.state(""));
    stop(&rig, &source);
    stop(&rig, &neighbour);
    println!("{bytes} bytes in the state directory while the disk was full");
    rig.still_works();
}

#[test]
fn attack_06_jobs_that_fill_the_disk_together_leave_the_rig_its_part() {
    // A disk of the rig's own, mounted where only this thread and what it starts can see it.
    let whole = std::thread::spawn(|| {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("private");
        let dir = tempfile::tempdir().expect("a directory");
        let (image, disk) = (dir.path().join("image"), dir.path().join("disk"));
        fs::create_dir(&disk).expect("mkdir");
        fs::File::create(&image).and_then(|file| file.set_len(600 * MIB)).expect("an image");
        for (program, words) in [("mke2fs", &["-q", "-F", "-t", "ext4", "-m", "0"][..]), ("mount", &["-o", "loop"])] {
            let mut command = Command::new(program);
            command.args(words).arg(&image);
            if program == "mount" {
                command.arg(&disk);
            }
            assert!(command.status().expect("a program of the system").success(), "{program}");
        }
        let rig = hostile::attacks::armed(Setup::default().state_in(&disk));
        let source = name("a");
        let manifest = rig.prepared(&source);
        let services = ["a", "b", "c", "d", "e", "f", "g", "h"];
        rig.client.open(&source, plan(&services)).expect("open");
        // All are promised their disks while there is room, and each is promised all that there is.
        let started = services.map(|name| {
            let mut spec = attack(&["fill-when-told", "/"]);
            spec.limits.scratch_bytes = 4 << 30;
            rig.client.start(&source, &service(name), &manifest, spec).is_ok()
        });
        let started = services.iter().zip(started).filter(|(_, started)| *started);
        let started: Vec<_> = started.map(|(name, _)| service(name)).collect();
        println!("{} of {} started", started.len(), services.len());
        for name in &started {
            let told = wait_for("somebody to tell", || rig.client.connect(&source, name, 5555).ok());
            wait_for("a full disk", || {
                let log = rig.client.logs(&source, name).expect("logs");
                log.contains("attacked").then_some(())
            });
            drop(told);
        }
        let free = free_bytes(&statvfs(&disk).expect("the rig's disk"));
        rig.client.stop(&source, Duration::ZERO).expect("stop");
        drop(rig);
        assert!(Command::new("umount").arg(&disk).status().expect("umount").success());
        free
    });
    let free = whole.join().expect("no panic");
    println!("{free} bytes are left to the rig");
    // The runner promises to leave 512 MiB; its own images and logs come out of them.
    assert!(free > 448 * MIB, "only {free} bytes are left to the rig");
}

#[test]
fn attack_07_an_inode_bomb_ends_at_its_own_file_system() {
    let rig = rig();
    let source = name("a");
    let mut spec = attack(&["inode-bomb", "/", "/tmp", "/dev/shm"]);
    (spec.limits.scratch_bytes, spec.limits.tmp_bytes, spec.limits.shm_bytes) = (16 * MIB, 16 * MIB, 4 * MIB);
    let said = attacked_as(&rig, &source, spec);
    for path in ["/", "/tmp", "/dev/shm"] {
        assert!(said.contains(&format!("{path}: ENOSPC")), "{said}");
        let system = seen_at(&rig, &source, path);
        // An inode takes the kernel about a KiB whatever it holds, so bytes must bound them.
        assert!(system.f_files <= size_bytes(&system) / 1024, "{path}: {} inodes", system.f_files);
    }
    stop(&rig, &source);
    rig.still_works();
}

#[test]
fn attack_08_descriptors_pipes_and_memory_files_have_an_end() {
    let rig = rig();
    let file_max = line_of("/proc/sys/fs/file-max");
    let source = name("a");
    let mut spec = attack(&["fd-bomb"]);
    spec.limits.open_files = 256;
    let said = attacked_as(&rig, &source, spec);
    assert!(said.contains("EMFILE"), "{said}");
    assert_eq!(descriptors(attacker(&rig, &source)).len(), 256);
    stop(&rig, &source);
    let mut spec = attack(&["pipe-bomb"]);
    spec.limits.open_files = 1024;
    attacked_as(&rig, &source, spec);
    let pages = pipe_bytes(attacker(&rig, &source)) / 4096;
    // Beyond the soft limit a pipe gets two pages.
    let soft: usize = line_of("/proc/sys/fs/pipe-user-pages-soft").parse().expect("a number");
    assert!(pages <= soft + 2 * 1024 + 256, "{pages} pages in pipes, of {soft}");
    stop(&rig, &source);
    assert_eq!(line_of("/proc/sys/fs/file-max"), file_max);
    rig.still_works();
}

/// The room in all pipes of a process, found by opening each.
fn pipe_bytes(pid: u32) -> usize {
    use rustix::fs::{Mode, OFlags};
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
    let sizes = entries.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.starts_with("pipe:").then_some(())?;
        let pipe = rustix::fs::open(entry.path(), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).ok()?;
        Some((target, rustix::pipe::fcntl_getpipe_size(pipe).ok()?))
    });
    // Both ends of a pipe are one pipe.
    sizes.collect::<std::collections::BTreeMap<_, _>>().values().sum()
}

#[test]
fn attack_08_the_runner_has_descriptors_for_all_that_it_may_hold() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // As a service manager starts it: few for now, and more for whoever asks.
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), ..limits }).expect("fewer");
    let rig = rig();
    let source = name("a");
    let manifest = rig.prepared(&source);
    let held = || [rig.runner_pid(), rig.spawner_pid()].map(|pid| descriptors(pid).len());
    let idle = held();
    let services: Vec<String> = (0..SERVICES_MAX).map(|number| format!("s{number}")).collect();
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    rig.client.open(&source, plan(&services)).expect("open");
    for name in &services {
        let spec = ServiceSpec { read_only: true, ..hostile::rig::spec(&["/bin/sleep", "1000"]) };
        rig.client.start(&source, &service(name), &manifest, spec).expect("start");
    }
    let busy = held();
    for (pid, (idle, busy)) in [rig.runner_pid(), rig.spawner_pid()].into_iter().zip(idle.into_iter().zip(busy)) {
        let most = idle + (busy - idle) * SOURCES_MAX;
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
        let limit: usize = line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number");
        println!("{idle} descriptors when idle, {busy} with a full source: {most} at most, of {limit}");
        assert!(most < limit, "{most} descriptors, of {limit}");
    }
    stop(&rig, &source);
    rig.still_works();
}

#[test]
fn attack_09_the_kernels_own_memory_is_charged_to_the_job() {
    let rig = rig();
    if !has_cgroups(&rig, "a bomb of kernel memory") {
        return;
    }
    let source = name("a");
    let mut spec = attack(&["kmem-bomb"]);
    spec.limits.memory_bytes = 64 * MIB;
    rig.run(&source, spec);
    wait_for("the limit to be met", || {
        let ended = rig.client.list().expect("list")[&source].services[&service(MAIN)].clone();
        match ended {
            runner::protocol::ServiceState::Exited { out_of_memory, .. } => {
                assert!(out_of_memory, "{ended:?}");
                Some(())
            }
            runner::protocol::ServiceState::Running { pid, .. } => {
                let cgroup = cgroup_of(&rig, u32::try_from(pid).expect("a pid"));
                let events = fs::read_to_string(cgroup.join("memory.events")).ok()?;
                let met = events.lines().any(|line| line.strip_prefix("max ").is_some_and(|count| count != "0"));
                met.then_some(())
            }
        }
    });
    stop(&rig, &source);
    rig.still_works();
}

#[test]
fn attack_10_a_job_gets_its_share_of_the_processor_and_no_priority() {
    live_without_limits();
    let rig = rig();
    let source = name("a");
    let said = attacked(&rig, &source, &["real-time"]);
    assert!(!said.contains("OK"), "{said}");
    let class = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
        let fields: Vec<i64> =
            stat.rsplit(") ").next().expect("fields").split(' ').filter_map(|field| field.parse().ok()).collect();
        // Of proc(5): nice is field 19, the real-time priority 40, the policy 41; the parent, field 4, is the first here.
        (fields[15], fields[36], fields[37])
    };
    let (nice, priority, policy) = class(attacker(&rig, &source));
    assert!(nice >= class(rig.runner_pid()).0, "nice is {nice}");
    assert_eq!((priority, policy), (0, 0));
    stop(&rig, &source);
    if !has_cgroups(&rig, "a share of the processor") {
        return;
    }
    let mut spec = attack(&["cpu-hog"]);
    spec.limits.cpu_millis = 200;
    rig.run(&source, spec);
    rig.printed(&source, "hogging");
    let cgroup = cgroup_of(&rig, rig.jail_pid(&source));
    let used = || cgroup_number(&cgroup, "cpu.stat", Some("usage_usec"));
    let (began, before) = (Instant::now(), used());
    wait_for("two seconds of hogging", || (began.elapsed() > Duration::from_secs(2)).then_some(()));
    let (took, used) = (began.elapsed(), used() - before);
    assert!(u128::from(used) < took.as_micros() * 3 / 10, "{used} us of {took:?} at a fifth of a processor");
    stop(&rig, &source);
}

#[test]
fn attack_11_the_runner_answers_while_a_job_floods_the_disk() {
    let rig = rig();
    let source = name("a");
    rig.run(&source, attack(&["io-flood"]));
    rig.printed(&source, "flooding");
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let asked = Instant::now();
        rig.client.list().expect("list");
        slowest = slowest.max(asked.elapsed());
    }
    println!("the slowest of 50 answers took {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    if rig.cgroup().is_some() {
        let cgroup = cgroup_of(&rig, rig.jail_pid(&source));
        assert!(cgroup.join("io.stat").exists(), "the disk is shared by cgroup");
    }
    stop(&rig, &source);
    rig.still_works();
}

/// Gives this process, and with it the runners that it starts from here on, as few limits as this machine lets it
/// have: a jail has its own.
fn live_without_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    for resource in [Resource::Core, Resource::Memlock, Resource::Nice, Resource::Rtprio, Resource::Msgqueue] {
        let highest = getrlimit(resource).maximum;
        // Some machines keep the right to raise limits even from root.
        setrlimit(resource, Rlimit { current: None, maximum: None })
            .or_else(|_| setrlimit(resource, Rlimit { current: highest, maximum: highest }))
            .expect("up to its maximum, a process may");
    }
}

#[test]
fn attack_11_a_job_has_nothing_in_its_hands_of_the_hosts_disk() {
    use std::os::unix::fs::MetadataExt as _;
    let rig = rig();
    let source = name("a");
    rig.run(&source, attack(&["serve"]));
    rig.printed(&source, "serving");
    // Whoever has a file of a file system may sync all of it, again and again, and sees how full it is.
    let host: Vec<u64> = ["/", "/tmp"].map(|path| fs::metadata(path).expect("a directory").dev()).to_vec();
    let host = [host, vec![fs::metadata(rig.state("")).expect("a directory").dev()]].concat();
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", rig.jail_pid(&source))).expect("mounts");
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (major, minor) = fields[2].split_once(':').expect("a device");
        let number = |text: &str| text.parse::<u32>().expect("a number");
        let device = rustix::fs::makedev(number(major), number(minor));
        assert!(!host.contains(&device), "a file system of the host: {line}");
    }
    stop(&rig, &source);
}

#[test]
fn attack_40_nobody_is_spared_and_memory_stays_movable() {
    live_without_limits();
    let rig = rig();
    let source = name("a");
    let said = attacked(&rig, &source, &["favours"]);
    let pid = attacker(&rig, &source);
    let score: i32 = line_of(&format!("/proc/{pid}/oom_score_adj")).parse().expect("a number");
    assert!(score >= 0, "{score}: {said}");
    let locked = status(pid, "VmLck").expect("a line");
    let locked_kib: u64 = locked.trim_end_matches("kB").trim().parse().expect("a number");
    assert!(locked_kib <= 8 << 10, "{locked} locked: {said}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    for line in [
        "Max processes",
        "Max open files",
        "Max file size",
        "Max core file size",
        "Max locked memory",
        "Max msgqueue size",
        "Max realtime priority",
        "Max nice priority",
    ] {
        let found = limits.lines().find(|found| found.starts_with(line)).expect("a limit");
        assert!(!found.contains("unlimited"), "{found}");
    }
    for what in ["a huge page", "a huge file", "nice -20", "lock 64 MiB of shared memory", "mlock 64 MiB"] {
        assert!(!said.contains(&format!("{what}: OK")), "{said}");
    }
    if rig.cgroup().is_some() {
        let cgroup = cgroup_of(&rig, pid);
        assert!(cgroup_number(&cgroup, "memory.current", None) <= cgroup_number(&cgroup, "memory.max", None));
    }
    stop(&rig, &source);
    rig.still_works();
}

#[test]
fn attack_44_a_crash_leaves_no_core_file() {
    live_without_limits();
    // A signal that the runner's parents ignore, as a shell does QUIT for what it starts in the background, ends a service
    // all the same.
    let rig = armed(Setup::default().ignoring("QUIT,PIPE,USR1,SYS"));
    let core_pattern = line_of("/proc/sys/kernel/core_pattern");
    let before = cores();
    let source = name("a");
    let manifest = rig.prepared(&source);
    rig.open(&source);
    for signal in [11, 6, 3, 4, 8, 10, 31] {
        rig.start(&source, &manifest, attack(&["crash", &signal.to_string()]));
        assert_eq!(rig.ended(&source).exit, Exit::Signal(signal));
    }
    // And while it lives, the limit is there, for it and for the first process of its jail.
    rig.start(&source, &manifest, attack(&["serve"]));
    for pid in [rig.jail_pid(&source), attacker(&rig, &source)] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        let words: Vec<&str> = core.split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{core}");
    }
    stop(&rig, &source);
    assert_eq!(cores(), before);
    assert_eq!(line_of("/proc/sys/kernel/core_pattern"), core_pattern);
    rig.still_works();
}

/// Core files where this kernel would put them: where the process, the runner or the tests were.
fn cores() -> Vec<std::path::PathBuf> {
    let here = std::env::current_dir().expect("a directory");
    let dirs = [Path::new("/"), Path::new("/tmp"), Path::new("/var/lib/systemd/coredump"), &here];
    let entries = dirs.into_iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    let cores = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("core"));
    let mut cores: Vec<_> = cores.map(|entry| entry.path()).collect();
    cores.sort();
    cores
}
