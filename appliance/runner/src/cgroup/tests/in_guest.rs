//! What needs a machine whose controllers are all of version 2, with root: `tests/guest.sh` provides one.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::libc;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::*;
use crate::kernel::{Cloned, Side, clone_into, exit_now};

fn open(place: &Place) -> Cgroups {
    Cgroups::open(&place.0).expect("a machine with cgroup v2 and all controllers; tests/guest.sh boots one")
}

fn said(shell: &mut Held) -> String {
    let mut text = String::new();
    shell.0.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    text
}

fn reap(child: &Cloned) {
    waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).expect("reap");
}

#[test]
fn every_limit_is_in_the_kernel_before_a_process_is() {
    let place = Place::new();
    let disk = std::fs::read_to_string("/sys/block/nvme0n1/dev").expect("the guest's disk");
    let (major, minor) = disk.trim().split_once(':').expect("a number");
    let number = |text: &str| text.parse().expect("a number");
    let read_bytes = Some(1 << 20);
    let io_max =
        IoMax { major: number(major), minor: number(minor), read_bytes, write_bytes: None, reads: None, writes: None };
    let limits = CgroupLimits {
        memory_high_bytes: Some(32 << 20),
        cpu_millis: Some(500),
        cpu_weight: Some(10),
        io_weight: Some(10),
        io_max: vec![io_max],
        ..limits()
    };
    let jail = open(&place).make(3, &limits).expect("make");
    let path = place.0.join("jail-3");
    let table = [
        ("memory.max", "67108864"),
        ("memory.high", "33554432"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("pids.max", "64"),
        ("cpu.max", "50000 100000"),
        ("cpu.weight", "10"),
        ("io.weight", "default 10"),
        ("io.max", &format!("{} rbps=1048576 wbps=max riops=max wiops=max", disk.trim())),
        ("cgroup.max.descendants", "0"),
        ("cgroup.max.depth", "0"),
        ("cgroup.procs", ""),
    ];
    for (file, reads) in table {
        assert_eq!(std::fs::read_to_string(path.join(file)).expect(file).trim(), reads, "{file}");
    }
    jail.remove().expect("remove");
}

#[test]
fn a_disk_that_is_not_there_makes_no_jail_without_its_limit() {
    let place = Place::new();
    let cgroups = open(&place);
    let io_max = IoMax { major: 4000, minor: 9, read_bytes: Some(1), write_bytes: None, reads: None, writes: None };
    cgroups.make(1, &CgroupLimits { io_max: vec![io_max], ..limits() }).expect_err("no such disk");
    assert!(!place.0.join("jail-1").exists(), "half a jail is left");
}

#[test]
fn a_clone_is_inside_before_its_first_instruction() {
    let place = Place::new();
    let jail = open(&place).make(1, &limits()).expect("make");
    let path = place.0.join("jail-1");
    // Whoever is born in a frozen cgroup stops before it can execute anything.
    std::fs::write(path.join("cgroup.freeze"), "1").expect("freeze");
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let child = match clone_into(0, Some(jail.fd())).expect("clone") {
        // Only system calls from here: the other threads of this process are not in the copy.
        Side::Child => {
            let _ = rustix::io::write(&writer, b"ran");
            exit_now(0)
        }
        Side::Parent(child) => child,
    };
    drop(writer);
    let pid = child.pid.as_raw_nonzero().to_string();
    assert_eq!(std::fs::read_to_string(path.join("cgroup.procs")).expect("procs").trim(), pid);
    wait_for("it is frozen", || {
        let events = std::fs::read_to_string(path.join("cgroup.events")).expect("events");
        keyed(&events, "frozen") == Some(1)
    });
    assert_eq!(jail.usage().expect("usage").pids, 1);
    jail.kill().expect("kill");
    reap(&child);
    let mut text = String::new();
    std::fs::File::from(reader).read_to_string(&mut text).expect("text");
    assert_eq!(text, "", "it ran before it was inside");
    jail.remove().expect("remove");
}

#[test]
fn the_first_process_of_a_full_jail_is_not_made() {
    let place = Place::new();
    let jail = open(&place).make(1, &CgroupLimits { processes: 1, ..limits() }).expect("make");
    let _one = Held::new("sleep 1000").inside(&place.0.join("jail-1"));
    match clone_into(0, Some(jail.fd())) {
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EAGAIN)),
        Ok(Side::Child) => exit_now(0),
        Ok(Side::Parent(child)) => {
            reap(&child);
            panic!("a second process was made");
        }
    }
    assert_eq!(jail.usage().expect("usage").pids_refused, 1);
    jail.remove().expect("remove");
}

#[test]
fn a_cgroup_namespace_of_the_clone_has_the_jail_as_its_root() {
    let place = Place::new();
    let jail = open(&place).make(1, &limits()).expect("make");
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let namespace = u64::from(libc::CLONE_NEWCGROUP.cast_unsigned());
    let child = match clone_into(namespace, Some(jail.fd())).expect("clone") {
        Side::Child => {
            let mut text = [0; 256];
            let file = rustix::fs::open(c"/proc/self/cgroup", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
            let length = file.and_then(|file| rustix::io::read(&file, &mut text)).unwrap_or(0);
            let _ = rustix::io::write(&writer, &text[..length]);
            exit_now(0)
        }
        Side::Parent(child) => child,
    };
    drop(writer);
    reap(&child);
    let mut text = String::new();
    std::fs::File::from(reader).read_to_string(&mut text).expect("text");
    assert_eq!(text, "0::/\n", "a job learns where it is");
    jail.remove().expect("remove");
}

#[test]
fn a_fork_bomb_stays_within_its_number_of_processes() {
    let place = Place::new();
    let jail = open(&place).make(1, &limits()).expect("make");
    let mut bomb = Held::new("bomb() { bomb | bomb & wait; }; bomb; sleep 1000").inside(&place.0.join("jail-1"));
    bomb.go();
    let mut most = 0;
    wait_for("it was refused a hundred times", || {
        // Not the controller's count: it holds a process that is being refused for a moment.
        let processes = std::fs::read_to_string(place.0.join("jail-1/cgroup.procs")).expect("processes");
        most = most.max(processes.lines().count());
        jail.usage().expect("usage").pids_refused > 100
    });
    assert!(most <= 64, "{most} processes");
    assert!(Command::new("/bin/true").status().expect("others can still fork").success());
    let began = Instant::now();
    jail.kill().expect("kill");
    assert!(jail.wait_empty(PATIENCE).expect("wait"));
    println!("figure: a bomb of {most} processes was gone {:?} after the kill", began.elapsed());
    assert_eq!(bomb.signal(), Some(9));
    jail.remove().expect("remove");
}

#[test]
fn out_of_memory_kills_the_whole_jail_and_only_it() {
    let place = Place::new();
    let cgroups = open(&place);
    let jail = cgroups.make(1, &limits()).expect("make");
    let other = cgroups.make(2, &limits()).expect("make");
    let mut quiet = Held::new("sleep 1000").inside(&place.0.join("jail-1"));
    let mut neighbour = Held::new("echo alive").inside(&place.0.join("jail-2"));
    // Every byte that `tail` cannot end a line with it has to keep.
    let mut bomb = Held::new("tail /dev/zero").inside(&place.0.join("jail-1"));
    bomb.go();
    assert_eq!(bomb.signal(), Some(9));
    assert_eq!(quiet.signal(), Some(9), "oom.group takes all");
    assert!(jail.wait_empty(PATIENCE).expect("wait"));
    let usage = jail.usage().expect("usage");
    assert!(usage.oom_kills >= 3, "{usage:?}");
    assert!(usage.memory_peak_bytes <= 64 << 20, "{usage:?}");
    assert_eq!(other.usage().expect("usage").oom_kills, 0);
    neighbour.go();
    assert_eq!(said(&mut neighbour), "alive\n");
    jail.remove().expect("remove");
    other.remove().expect("remove");
}

#[test]
fn files_in_memory_count_as_memory() {
    let place = Place::new();
    let jail = open(&place).make(1, &limits()).expect("make");
    let file = format!("/dev/shm/rig-test-{}", std::process::id());
    let mut bomb = Held::new(&format!("cat /dev/zero >{file}")).inside(&place.0.join("jail-1"));
    bomb.go();
    assert_eq!(bomb.signal(), Some(9));
    assert!(std::fs::metadata(&file).expect("the file").len() <= 64 << 20);
    std::fs::remove_file(&file).expect("remove");
    jail.remove().expect("remove");
}

#[test]
fn no_memory_of_a_jail_goes_to_swap() {
    let place = Place::new();
    let jail = open(&place).make(1, &limits()).expect("make");
    let file = std::env::temp_dir().join(format!("rig-test-swap-{}", std::process::id()));
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).arg(&file).stdout(Stdio::null()).status();
        assert!(status.expect(program).success(), "{program}");
    };
    run("fallocate", &["-l", "256M"]);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("chmod");
    run("mkswap", &["-q"]);
    run("swapon", &[]);
    let mut bomb = Held::new("tail /dev/zero").inside(&place.0.join("jail-1"));
    bomb.go();
    let signal = bomb.signal();
    let swaps = std::fs::read_to_string("/proc/swaps").expect("swaps");
    let peak = std::fs::read_to_string(place.0.join("jail-1/memory.swap.peak")).expect("peak");
    run("swapoff", &[]);
    std::fs::remove_file(&file).expect("remove");
    assert_eq!(signal, Some(9));
    assert_eq!(swaps.lines().count(), 2, "there was swap: {swaps}");
    assert_eq!(peak.trim(), "0");
    jail.remove().expect("remove");
}

#[test]
fn processor_time_is_measured_out() {
    let place = Place::new();
    let jail = open(&place).make(1, &CgroupLimits { cpu_millis: Some(200), ..limits() }).expect("make");
    let mut hogs = Held::new("while :; do :; done & while :; do :; done").inside(&place.0.join("jail-1"));
    let began = Instant::now();
    hogs.go();
    wait_for("a second of processor time is used", || jail.usage().expect("usage").cpu_us >= 1_000_000);
    let wall = began.elapsed();
    // A fifth of a processor: a second of it takes five, less what one period may overdraw.
    assert!(wall >= Duration::from_secs(4), "{wall:?}");
    jail.kill().expect("kill");
    hogs.signal();
    jail.remove().expect("remove");
}

#[test]
fn a_disk_gives_no_more_than_its_limit() {
    let place = Place::new();
    let folder = tempfile::tempdir().expect("a directory on the guest's disk for state");
    let device = std::fs::metadata(folder.path()).expect("it exists").dev();
    let number = |part: u64| u32::try_from(part).expect("a device number");
    let (major, minor) = (number(libc::major(device).into()), number(libc::minor(device).into()));
    let rate = Some(2 << 20);
    let io_max = IoMax { major, minor, read_bytes: rate, write_bytes: rate, reads: None, writes: None };
    let jail = open(&place).make(1, &CgroupLimits { io_max: vec![io_max], ..limits() }).expect("make");
    let file = folder.path().join("flood");
    // Past the cache, and into it with the wait at the end: both are the jail's own requests to the disk.
    for how in ["oflag=direct", "conv=fsync"] {
        let script = format!("dd if=/dev/zero of={} bs=64k count=128 {how}", file.display());
        let mut flood = Held::new(&script).inside(&place.0.join("jail-1"));
        let began = Instant::now();
        flood.go();
        assert!(flood.0.wait().expect("reap").success());
        // 8 MiB at 2 MiB in a second, less what the kernel lets through at the beginning.
        assert!(began.elapsed() >= Duration::from_secs(3), "{how} took {:?}", began.elapsed());
    }
    jail.remove().expect("remove");
}

#[test]
fn what_a_killed_runner_left_is_gone_once_the_next_has_opened() {
    let place = Place::new();
    let cgroups = open(&place);
    // As a runner that is killed would: no destructor runs.
    std::mem::forget(cgroups.make(1, &limits()).expect("make"));
    std::mem::forget(cgroups.make(2, &limits()).expect("make"));
    let mut left = Held::new("sleep 1000 & wait").inside(&place.0.join("jail-1"));
    left.go();
    std::fs::create_dir(place.0.join("not-ours")).expect("mkdir");
    drop(cgroups);
    let cgroups = open(&place);
    assert_eq!(left.signal(), Some(9));
    assert!(!place.0.join("jail-1").exists() && !place.0.join("jail-2").exists());
    assert!(place.0.join("not-ours").exists());
    cgroups.make(1, &limits()).expect("the number is free again").remove().expect("remove");
}

#[test]
fn one_directory_has_one_runner_and_no_other_processes() {
    let place = Place::new();
    let first = open(&place);
    let error = Cgroups::open(&place.0).expect_err("in use");
    assert!(matches!(error, CgroupError::InUse { .. }), "{error}");
    drop(first);
    let occupied = Place::new();
    let mut other = Held::new("sleep 1000").inside(&occupied.0);
    let error = Cgroups::open(&occupied.0).expect_err("occupied");
    assert!(error.to_string().contains(&other.0.id().to_string()), "{error}");
    other.0.kill().expect("kill");
    other.signal();
}

/// Set in the process that stands in its own directory, to that directory.
const STANDS_IN: &str = "RIG_TEST_STANDS_IN";

#[test]
fn a_runner_that_stands_in_its_own_directory_steps_aside() {
    if let Ok(dir) = std::env::var(STANDS_IN) {
        return stand_in(Path::new(&dir));
    }
    // In a process of its own, because moving this one would move what the other tests start.
    let place = Place::new();
    let name = "cgroup::tests::in_guest::a_runner_that_stands_in_its_own_directory_steps_aside";
    let mut again = Command::new(std::env::current_exe().expect("this test"));
    let ended = again.args(["--exact", name]).env(STANDS_IN, &place.0).output().expect("run it");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && said.contains(" 1 passed"), "{said}");
}

fn stand_in(dir: &Path) {
    let own = std::process::id().to_string();
    std::fs::write(dir.join("cgroup.procs"), &own).expect("move in");
    let cgroups = Cgroups::open(dir).expect("open");
    assert_eq!(std::fs::read_to_string(dir.join("self/cgroup.procs")).expect("self").trim(), own);
    cgroups.make(1, &limits()).expect("make").remove().expect("remove");
    drop(cgroups);
    // A second start finds itself aside already.
    Cgroups::open(dir).expect("open again");
}

#[test]
fn a_kill_empties_a_jail_in_milliseconds() {
    const KILLS: usize = 200;
    let place = Place::new();
    let cgroups = open(&place);
    let mut took: Vec<Duration> = (0..KILLS).map(|number| one_kill(&cgroups, &place, number as u64)).collect();
    took.sort_unstable();
    let (p50, p99) = (took[KILLS / 2], took[KILLS * 99 / 100]);
    println!("figure: from the kill of four processes to an empty cgroup p50 {p50:?}, p99 {p99:?} of {KILLS}");
    assert!(p99 < Duration::from_secs(1), "p99 {p99:?}");
}

fn one_kill(cgroups: &Cgroups, place: &Place, number: u64) -> Duration {
    let jail = cgroups.make(number, &limits()).expect("make");
    let path = place.0.join(format!("jail-{number}"));
    let mut shell = Held::new("sleep 1000 & sleep 1000 & sleep 1000 & wait").inside(&path);
    shell.go();
    wait_for("four processes are inside", || number_of_processes(&path) == 4);
    let began = Instant::now();
    jail.kill().expect("kill");
    assert!(jail.wait_empty(PATIENCE).expect("wait"));
    let took = began.elapsed();
    shell.signal();
    jail.remove().expect("remove");
    took
}
