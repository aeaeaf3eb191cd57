//! What a runner holds of the machine, counted from outside: what it must not leak.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::rig::Rig;

/// The first id on the host that any jail or unpacker has; nobody else on a test machine has one from here on.
pub const FIRST_UID: u32 = 200_000;

/// Counts, of the whole machine or of one runner; see each field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Processes below the runner, its spawner not counted.
    pub processes: u64,
    /// Processes of the whole machine whose uid is from [`FIRST_UID`] on.
    pub foreign_processes: u64,
    /// Mounts in the mount namespace of whoever asks.
    pub host_mounts: u64,
    /// Mounts in the runner's mount namespace.
    pub runner_mounts: u64,
    /// Mounts in the spawner's mount namespace.
    pub spawner_mounts: u64,
    /// Mounts of runner and spawner below this rig's own directories.
    pub rig_mounts: u64,
    /// Network namespaces that some process or some thread of the whole machine is in.
    pub net_namespaces: u64,
    /// Network devices in the network namespace of whoever asks.
    pub links: u64,
    /// Directories below the runner's cgroup.
    pub cgroups: u64,
    /// Loop devices that have a file of the runner's state directory, removed or not.
    pub loop_devices: u64,
    /// Descriptors of the runner.
    pub runner_descriptors: u64,
    /// Descriptors of the spawner.
    pub spawner_descriptors: u64,
    /// Namespaces of any kind and mounts that descriptors of runner and spawner hold open.
    pub held_namespaces: u64,
    /// Files and directories in the runner's state directory.
    pub state_files: u64,
    /// Bytes of disk that they take.
    pub state_bytes: u64,
}

// === impl Observed ===

impl Observed {
    /// Counts now.
    ///
    /// # Panics
    /// If the runner does not live.
    #[must_use]
    pub fn of(rig: &Rig) -> Self {
        rig.settle();
        let (runner, spawner) = (rig.runner_pid(), rig.spawner_pid());
        let (state_files, state_bytes) = tree(&rig.state(""));
        Self {
            processes: count(jailed(spawner)),
            foreign_processes: count(pids().into_iter().filter(|pid| uid_of(*pid).is_some_and(|uid| uid >= FIRST_UID))),
            host_mounts: mounts("self"),
            runner_mounts: mounts(&runner.to_string()),
            spawner_mounts: mounts(&spawner.to_string()),
            rig_mounts: [runner, spawner].iter().map(|pid| mounts_below(*pid, rig)).sum(),
            net_namespaces: count(net_namespaces()),
            links: count(fs::read_dir("/sys/class/net").into_iter().flatten()),
            cgroups: rig.cgroup().map_or(0, directories_below),
            loop_devices: count(loops(&rig.state(""))),
            runner_descriptors: count(descriptors(runner)),
            spawner_descriptors: count(descriptors(spawner)),
            held_namespaces: count([runner, spawner].into_iter().flat_map(descriptors).filter(|to| {
                let to = to.to_string_lossy();
                ["net:[", "mnt:[", "user:[", "pid:[", "ipc:[", "uts:[", "cgroup:["]
                    .iter()
                    .any(|kind| to.starts_with(kind))
            })),
            state_files,
            state_bytes,
        }
    }

    /// The counts that concern this runner alone: the others are zero. For tests that run side by side.
    #[must_use]
    pub fn own(self) -> Self {
        Self {
            foreign_processes: 0,
            host_mounts: 0,
            runner_mounts: 0,
            spawner_mounts: 0,
            net_namespaces: 0,
            links: 0,
            ..self
        }
    }

    /// Name and count of each.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); 15] {
        [
            ("processes below the runner", self.processes),
            ("processes with a jail's uid", self.foreign_processes),
            ("mounts of the host", self.host_mounts),
            ("mounts of the runner", self.runner_mounts),
            ("mounts of the spawner", self.spawner_mounts),
            ("mounts below the rig's directories", self.rig_mounts),
            ("network namespaces", self.net_namespaces),
            ("network devices of the host", self.links),
            ("cgroups", self.cgroups),
            ("loop devices", self.loop_devices),
            ("descriptors of the runner", self.runner_descriptors),
            ("descriptors of the spawner", self.spawner_descriptors),
            ("namespaces held open", self.held_namespaces),
            ("files in the state directory", self.state_files),
            ("bytes in the state directory", self.state_bytes),
        ]
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().iter().try_for_each(|(what, count)| writeln!(f, "{count:>12} {what}"))
    }
}

fn count(things: impl IntoIterator) -> u64 {
    things.into_iter().count() as u64
}

/// Every process of the machine that procfs shows.
#[must_use]
pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The children of all threads of a process; none if it has ended.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    texts.flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Children, and theirs.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    found
}

/// The processes of all jails of a spawner: its descendants but for the child that it made in advance, which has no ids
/// mapped until it is told whose they are.
#[must_use]
pub fn jailed(spawner: u32) -> Vec<u32> {
    descendants(spawner).into_iter().filter(|pid| !awaits_its_plan(*pid)).collect()
}

/// Whether a process is a child that a spawner made in advance.
#[must_use]
pub fn awaits_its_plan(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/uid_map")).is_ok_and(|map| map.is_empty())
}

/// The cgroups of all jails below the runner's, but for that of the child that was made in advance.
#[must_use]
pub fn jail_cgroups(below: &Path) -> Vec<PathBuf> {
    let dirs = fs::read_dir(below).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_jail = |dir: &PathBuf| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("jail"));
    let waits = |dir: &PathBuf| {
        let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let pids: Vec<u32> = pids.lines().filter_map(|pid| pid.parse().ok()).collect();
        !pids.is_empty() && pids.into_iter().all(awaits_its_plan)
    };
    dirs.filter(is_jail).filter(|dir| !waits(dir)).collect()
}

/// The real uid of a process, if it lives.
#[must_use]
pub fn uid_of(pid: u32) -> Option<u32> {
    status(pid, "Uid")?.split_whitespace().next()?.parse().ok()
}

/// A line of `/proc/PID/status`, without its key.
#[must_use]
pub fn status(pid: u32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

fn mounts(pid: &str) -> u64 {
    count(fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default().lines())
}

fn mounts_below(pid: u32, rig: &Rig) -> u64 {
    // The mount that holds the directory may itself be mounted anywhere, so only its own name is looked for.
    let state = rig.state("");
    let name = state.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    count(mounts.lines().filter(|line| line.contains(name.as_ref())))
}

fn net_namespaces() -> BTreeSet<PathBuf> {
    pids().into_iter().filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok()).collect()
}

/// What a process has open.
#[must_use]
pub fn descriptors(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// The files below `dir` that loop devices have.
#[must_use]
pub fn loops(dir: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| Path::new(file).starts_with(dir)).collect()
}

/// The memory that a process has in use, in bytes; 0 if it has ended.
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    let line = status(pid, "VmRSS").unwrap_or_default();
    1024 * line.trim_end_matches("kB").trim().parse().unwrap_or(0)
}

fn directories_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|dir| 1 + directories_below(&dir.path())).sum()
}

/// Files and directories below `dir`, and the bytes of disk that they take. What vanishes meanwhile is not counted.
#[must_use]
pub fn tree(dir: &Path) -> (u64, u64) {
    let mut counts = (0, 0);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.path().symlink_metadata() else { continue };
        counts.0 += 1;
        counts.1 += metadata.blocks() * 512;
        if metadata.is_dir() {
            let below = tree(&entry.path());
            counts = (counts.0 + below.0, counts.1 + below.1);
        }
    }
    counts
}
