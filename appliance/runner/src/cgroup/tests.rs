mod in_guest;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::directory::{Directory, keyed};
use super::limits::{IoMax, Setting};
use super::*;

/// How long anything here may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// A cgroup of a test's own, without controllers if this machine has none for version 2.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let root = mounts.into_iter().find(|mount| Directory::open(mount).is_ok()).expect("cgroup2 is mounted");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("rig-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("make a cgroup, which takes root");
        Self(path)
    }

    fn dir(&self) -> Directory {
        Directory::open(&self.0).expect("open")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.dir().clear_and_remove(PATIENCE).expect("nothing of a test is left");
    }
}

/// A shell that does nothing until it is told to go on, so that it can be put into a cgroup first.
struct Held(Child);

impl Held {
    fn new(script: &str) -> Self {
        let script = format!("read -r _; {script}");
        let mut command = Command::new("/bin/sh");
        let child = command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(child.spawn().expect("a shell"))
    }

    fn inside(self, dir: &Path) -> Self {
        std::fs::write(dir.join("cgroup.procs"), self.0.id().to_string()).expect("move into the cgroup");
        self
    }

    fn go(&mut self) {
        self.0.stdin.as_mut().expect("piped").write_all(b"go\n").expect("tell the shell");
    }

    /// Waits until it has ended; answers what killed it.
    fn signal(&mut self) -> Option<i32> {
        wait_for("a shell has ended", || self.0.try_wait().expect("reap").is_some());
        self.0.wait().expect("reap").signal()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Both can only say that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Cgroups {
    /// As a start does it: empty, then limited.
    fn make(&self, number: u64, limits: &CgroupLimits) -> Result<Cgroup, CgroupError> {
        let jail = self.begin(number)?;
        jail.limit(limits)?;
        Ok(jail)
    }
}

fn wait_for(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn number_of_processes(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("cgroup.procs")).expect("cgroup.procs").lines().count()
}

fn limits() -> CgroupLimits {
    CgroupLimits {
        memory_bytes: 64 << 20,
        memory_high_bytes: None,
        processes: 64,
        cpu_millis: None,
        cpu_weight: None,
        io_weight: None,
        io_max: Vec::new(),
    }
}

#[test]
fn a_killed_cgroup_is_empty_and_can_be_removed() {
    let place = Place::new();
    let jail = Cgroup::begin(&place.dir(), "jail-1").expect("begin");
    let path = place.0.join("jail-1");
    let mut shell =
        Held::new("sleep 1000 & sleep 1000 & setsid sh -c 'trap \"\" TERM; sleep 1000' & wait").inside(&path);
    shell.go();
    // The shell, its two sleeps, and the second shell with its own: four is only passed through.
    wait_for("five processes are inside", || number_of_processes(&path) == 5);
    assert!(!jail.wait_empty(Duration::from_millis(20)).expect("wait"), "it is empty with processes inside");
    jail.kill().expect("kill");
    // Nobody has reaped the shell: a zombie does not count.
    assert!(jail.wait_empty(PATIENCE).expect("wait"));
    assert_eq!(shell.signal(), Some(9));
    jail.remove().expect("remove");
    assert!(!path.exists());
}

#[test]
fn a_dropped_cgroup_takes_its_processes_along() {
    let place = Place::new();
    let jail = Cgroup::begin(&place.dir(), "jail-1").expect("begin");
    let mut shell = Held::new("sleep 1000").inside(&place.0.join("jail-1"));
    drop(jail);
    assert_eq!(shell.signal(), Some(9));
    assert!(!place.0.join("jail-1").exists());
}

#[test]
fn no_cgroup_can_be_made_inside_a_jail() {
    let place = Place::new();
    let jail = Cgroup::begin(&place.dir(), "jail-1").expect("begin");
    let error = std::fs::create_dir(place.0.join("jail-1/below")).expect_err("max.descendants is 0");
    assert_eq!(error.raw_os_error(), Some(nix::libc::EAGAIN));
    jail.remove().expect("remove");
}

#[test]
fn what_is_left_is_removed_from_the_deepest_up() {
    let place = Place::new();
    std::fs::create_dir_all(place.0.join("jail-7/a/b")).expect("mkdir");
    std::fs::create_dir(place.0.join("jail-7/c")).expect("mkdir");
    let mut deep = Held::new("sleep 1000").inside(&place.0.join("jail-7/a/b"));
    place.dir().child("jail-7").expect("open").clear_and_remove(PATIENCE).expect("remove");
    assert_eq!(deep.signal(), Some(9));
    assert!(!place.0.join("jail-7").exists());
}

#[test]
fn a_jail_number_that_exists_is_refused() {
    let place = Place::new();
    let _jail = Cgroup::begin(&place.dir(), "jail-1").expect("begin");
    let error = Cgroup::begin(&place.dir(), "jail-1").expect_err("exists");
    assert!(matches!(error, CgroupError::File { operation: "make", .. }), "{error}");
}

#[test]
fn an_ordinary_directory_is_refused() {
    let error = Cgroups::open(Path::new("/tmp")).expect_err("not cgroup2");
    assert!(matches!(error, CgroupError::NotVersion2 { .. }), "{error}");
    let error = Cgroups::open(Path::new("/sys/fs/cgroup/none-such")).expect_err("not there");
    assert!(matches!(error, CgroupError::File { operation: "resolve", .. }), "{error}");
}

#[test]
fn missing_controllers_are_named_with_what_to_do() {
    // A cgroup below one without controllers has none, on any machine.
    let place = Place::new();
    let bare = place.0.join("bare");
    std::fs::create_dir(&bare).expect("mkdir");
    let error = Cgroups::open(&bare).expect_err("no controllers");
    let said = error.to_string();
    assert!(matches!(error, CgroupError::MissingControllers { missing, .. } if missing == CONTROLLERS), "{said}");
    for word in ["bare has no cgroup controller memory pids cpu io;", "Delegate=", "cgroup.subtree_control"] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn limits_become_what_the_kernel_reads_back() {
    let full = CgroupLimits {
        memory_bytes: (1 << 30) + 12345,
        memory_high_bytes: Some(1 << 29),
        processes: 7,
        cpu_millis: Some(1500),
        cpu_weight: Some(50),
        io_weight: Some(20),
        io_max: vec![IoMax {
            major: 8,
            minor: 16,
            read_bytes: None,
            write_bytes: Some(1000),
            reads: None,
            writes: Some(9),
        }],
    };
    let settings: Vec<_> = full.settings().expect("legal").into_iter().map(|s| (s.file, s.value)).collect();
    let disk = "8:16 rbps=max wbps=1000 riops=max wiops=9";
    let wanted = [
        ("memory.max", "1073741824"),
        ("memory.high", "536870912"),
        ("memory.oom.group", "1"),
        ("pids.max", "7"),
        ("cpu.max", "150000 100000"),
        ("cpu.weight", "50"),
        ("io.weight", "default 20"),
        ("io.max", disk),
    ];
    assert_eq!(settings, wanted.map(|(file, value)| (file, value.to_owned())));
    let settings = limits().settings().expect("legal");
    let cpu = Setting { file: "cpu.max", value: "max 100000".to_owned(), reads: "max 100000".to_owned() };
    assert!(settings.contains(&cpu), "{settings:?}");
}

#[test]
fn limits_that_make_no_sense_are_refused_by_name() {
    let none = IoMax { major: 8, minor: 0, read_bytes: None, write_bytes: None, reads: None, writes: None };
    let zero = IoMax { reads: Some(0), ..none };
    let some = IoMax { reads: Some(1), ..none };
    let table = [
        ("memory_bytes", CgroupLimits { memory_bytes: 0, ..limits() }),
        ("memory_bytes", CgroupLimits { memory_bytes: u64::MAX, ..limits() }),
        ("memory_high_bytes", CgroupLimits { memory_high_bytes: Some(65 << 20), ..limits() }),
        ("memory_high_bytes", CgroupLimits { memory_high_bytes: Some(1), ..limits() }),
        ("processes", CgroupLimits { processes: 0, ..limits() }),
        ("processes", CgroupLimits { processes: u64::MAX, ..limits() }),
        ("cpu_millis", CgroupLimits { cpu_millis: Some(9), ..limits() }),
        ("cpu_millis", CgroupLimits { cpu_millis: Some(u32::MAX), ..limits() }),
        ("cpu_weight", CgroupLimits { cpu_weight: Some(0), ..limits() }),
        ("io_weight", CgroupLimits { io_weight: Some(10_001), ..limits() }),
        ("io_max", CgroupLimits { io_max: vec![none], ..limits() }),
        ("io_max", CgroupLimits { io_max: vec![zero], ..limits() }),
        ("io_max", CgroupLimits { io_max: vec![some; 17], ..limits() }),
    ];
    for (name, limits) in table {
        match limits.settings() {
            Err(CgroupError::BadLimit { what, .. }) => assert_eq!(what, name, "{limits:?}"),
            other => panic!("{limits:?}: {other:?}"),
        }
    }
}

#[test]
fn a_keyed_figure_is_found_by_its_whole_name() {
    let text = "oom 3\noom_kill 12\noom_group_kill 1\nbad x";
    assert_eq!(keyed(text, "oom_kill"), Some(12));
    assert_eq!(keyed(text, "oom"), Some(3));
    for key in ["kill", "bad", "", "oom_"] {
        assert_eq!(keyed(text, key), None, "{key}");
    }
}
