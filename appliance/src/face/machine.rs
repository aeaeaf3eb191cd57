//! The machine itself in four numbers, as its kernel says them: what a leak or a full memory shows first.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::memory::kib;

/// How deep groups lie in each other: slice, service, what a service makes below itself, and some.
const DEPTH_MAX: usize = 8;

/// Groups that are looked at; a rig with twelve sources has some hundred.
const GROUPS_MAX: usize = 4096;

/// A machine at one moment. What its kernel does not say is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Seconds since it started.
    pub uptime_s: Option<u64>,
    /// Memory in use, caches left out, in MiB.
    pub memory_used_mib: Option<u64>,
    /// All its memory, in MiB.
    pub memory_mib: Option<u64>,
    /// Processes, the kernel's own left out: the system's, the rig's and those of jobs.
    pub processes: Option<usize>,
}

impl Machine {
    /// This machine now.
    pub fn now() -> Machine {
        Machine::at(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
    }

    fn at(proc: &Path, cgroups: &Path) -> Machine {
        let uptime = fs::read_to_string(proc.join("uptime")).unwrap_or_default();
        let meminfo = fs::read_to_string(proc.join("meminfo")).unwrap_or_default();
        let mib = |key| Some(kib(&meminfo, key)? / 1024);
        let total = mib("MemTotal");
        Machine {
            uptime_s: uptime.split('.').next().and_then(|seconds| seconds.parse().ok()),
            memory_used_mib: total.zip(mib("MemAvailable")).map(|(total, left)| total.saturating_sub(left)),
            memory_mib: total,
            processes: processes(cgroups),
        }
    }
}

/// Counts by groups and not in `/proc`, where this process sees only its own user's. In the root group are the kernel's
/// own; `None` where groups are of the old kind.
fn processes(root: &Path) -> Option<usize> {
    if !root.join("cgroup.controllers").exists() {
        return None;
    }
    let mut waiting = vec![(root.to_owned(), 0)];
    let (mut groups, mut count) = (0, 0);
    while let Some((group, depth)) = waiting.pop()
        && groups < GROUPS_MAX
    {
        groups += 1;
        if depth > 0 {
            // A group may end while it is looked at.
            count += fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines().count();
        }
        if depth < DEPTH_MAX {
            let entries = fs::read_dir(&group).into_iter().flatten().flatten();
            let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            waiting.extend(inner.map(|entry| (entry.path(), depth + 1)).take(GROUPS_MAX));
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
        fs::write(path, text).expect("it is written");
    }

    #[test]
    fn a_machine_is_what_its_kernel_says() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| write(root.path(), name, text);
        write("proc/uptime", "95.41 12.00\n");
        write("proc/meminfo", "MemTotal:        1009856 kB\nMemFree: 1 kB\nMemAvailable:     897216 kB\n");
        write("group/cgroup.controllers", "cpu memory pids\n");
        write("group/cgroup.procs", "2\n3\n");
        write("group/init.scope/cgroup.procs", "1\n");
        write("group/system.slice/cgroup.procs", "");
        write("group/system.slice/rig-provider.service/cgroup.procs", "210\n");
        write("group/system.slice/rig-runner.service/jobs/7/cgroup.procs", "900\n901\n902\n");
        let machine = Machine::at(&root.path().join("proc"), &root.path().join("group"));
        let expected =
            Machine { uptime_s: Some(95), memory_used_mib: Some(110), memory_mib: Some(986), processes: Some(5) };
        assert_eq!(machine, expected);
    }

    #[test]
    fn what_a_kernel_does_not_say_is_not_guessed() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(Machine::at(root.path(), root.path()), Machine::default());
        write(root.path(), "meminfo", "MemTotal: lots\nMemAvailable:\n");
        write(root.path(), "uptime", "soon");
        assert_eq!(Machine::at(root.path(), root.path()), Machine::default());
    }

    #[test]
    fn groups_without_end_are_looked_at_to_a_bound() {
        let root = tempfile::tempdir().expect("a folder");
        write(root.path(), "cgroup.controllers", "");
        let deep = "a/".repeat(DEPTH_MAX + 4);
        write(root.path(), &format!("{deep}cgroup.procs"), "1\n");
        write(root.path(), &format!("{}cgroup.procs", &deep[..DEPTH_MAX * 2]), "2\n");
        assert_eq!(processes(root.path()), Some(1));
        for group in 0..GROUPS_MAX + 100 {
            write(root.path(), &format!("many/{}/{group}/cgroup.procs", group % 50), "3\n");
        }
        let told = processes(root.path()).expect("groups of the new kind");
        assert!((GROUPS_MAX - 100..=GROUPS_MAX).contains(&told), "{told}");
    }
}
