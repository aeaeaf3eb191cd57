//! Which attacks there are, where each is shown to fail, and how a test makes one.
//!
//! The numbers are those of the design's list of hostile jobs. What a bundle tries (57 to 65, 67) is tried here with a
//! driver that is not there, which shows what the rig does about it; what a real GPU does about it is for a machine that
//! has one. The tests are here, and those of what a rig refuses before there is a job in its own package.

use std::fs;
use std::path::PathBuf;

use runner::protocol::{ServiceSpec, ServiceState, SourceName};

use crate::observed::children;
use crate::rig::{MAIN, Rig, Setup, binary, service, spec, wait_for};

/// Where an attack is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Wherever the tests run.
    Host,
    /// Only where the runner has cgroup v2; the test ends early elsewhere.
    Guest,
    /// Wherever the tests run, and with more to see where the runner has cgroup v2.
    Both,
    /// Nowhere: it cannot be stopped, only made harder. Not counted; this says why.
    Residual(&'static str),
    /// Only on a machine with an NVIDIA GPU. Not counted; this says why.
    Gpu(&'static str),
}

use Where::{Both, Gpu, Guest, Host, Residual};

/// Number, what the job does, and where it is tried.
pub const ATTACKS: [(u8, &str, Where); 70] = [
    (1, "a fork bomb", Both),
    (2, "a thread bomb", Both),
    (3, "a memory bomb", Guest),
    (4, "a swap bomb", Guest),
    (5, "fills /tmp and /dev/shm", Both),
    (6, "fills its scratch disk", Both),
    (7, "uses up inodes", Both),
    (8, "uses up descriptors, pipes and memory files", Both),
    (9, "uses up the kernel's own memory", Guest),
    (10, "hogs the processor, asks for real time", Both),
    (11, "floods the disk", Both),
    (12, "traces processes of the host", Host),
    (13, "reads memory and descriptors of other processes", Host),
    (14, "kills the runner and everything else", Host),
    (15, "goes through /proc to the host's files", Host),
    (16, "writes sysctls", Host),
    (17, "replaces the running program, uses descriptors that were left open", Host),
    (18, "takes the machine's fingerprint", Host),
    (19, "mounts, unmounts, remounts, pivots", Host),
    (20, "makes and enters namespaces", Host),
    (21, "makes device nodes", Host),
    (22, "opens graphics cards that it was not given", Host),
    (23, "gains privileges by setuid programs and file capabilities", Host),
    (24, "uses the kernel's key rings", Host),
    (25, "uses io_uring", Host),
    (26, "uses bpf, perf, userfaultfd, fanotify, file handles", Host),
    (27, "opens unusual sockets", Host),
    (28, "scans the owner's network", Host),
    (29, "asks the cloud's metadata service", Host),
    (30, "connects to the machine's own services", Host),
    (31, "tunnels through name resolution", Host),
    (32, "speaks to the host's Unix sockets", Host),
    (33, "smuggles descriptors out", Host),
    (34, "opens devices of the machine", Host),
    (35, "looks for keys, configuration and other jobs' files", Host),
    (36, "reads environments and command lines", Host),
    (37, "sets clocks", Host),
    (38, "reboots, loads modules, uses ports", Host),
    (39, "leaves its cgroup", Both),
    (40, "asks to be spared by the out-of-memory killer and the scheduler", Both),
    (41, "changes personality, uses other call tables", Host),
    (42, "types into a terminal", Host),
    (43, "puts itself between programs and the kernel", Host),
    (44, "dumps core", Host),
    (45, "refuses to end", Both),
    (46, "leaves daemons behind", Host),
    (47, "an image whose layers write outside it", Host),
    (48, "an image with devices, setuid bits, sparse and negative sizes", Host),
    (49, "an image that unpacks to very much", Host),
    (50, "an image that is not what its digest says", Host),
    (51, "an image with a hostile configuration", Host),
    (52, "a plan that asks for the host", Host),
    (53, "an image that replaces /proc, /dev, /etc, /tmp", Host),
    (54, "a service that answers badly", Host),
    (55, "results that are links, pipes, very many or very large", Host),
    (56, "prints without end, and what is no text", Host),
    (57, "reads what an earlier job left in a GPU's memory", Host),
    (58, "launches a kernel that never ends", Host),
    (59, "has a GPU raise every kind of fault", Host),
    (60, "asks for more of a GPU's memory than there is", Host),
    (
        61,
        "prints from a kernel without end, uses up the kernels' heap",
        Gpu("It is the driver that bounds what kernels print and allocate, and no other driver does as NVIDIA's."),
    ),
    (62, "has the PTX compiler work for ever", Host),
    (63, "commands a GPU's driver beyond computing", Host),
    (64, "sets a GPU's clocks, power and modes", Host),
    (65, "makes a GPU as hot as it gets", Gpu("Only a GPU gets hot. What it says of being held back is tested here.")),
    (
        66,
        "listens to caches and timing of its neighbours",
        Residual(
            "Processors share caches, predictors and memory buses between processes; no jail closes that. A rig gives \
             a graphics card to one job at a time, keeps its keys in a process that no job shares memory with, and an \
             owner for whom this is not enough gives the machine to one source.",
        ),
    ),
    (67, "a launch plan that overflows", Host),
    (68, "forges results", Host),
    (69, "crashes ten thousand times", Host),
    (70, "is there when the runner is killed", Host),
];

/// A runner whose images hold `/attack` besides some programs of this host.
#[must_use]
pub fn rig() -> Rig {
    armed(Setup::default())
}

/// The same, of a setup with more to it.
#[must_use]
pub fn armed(setup: Setup) -> Rig {
    setup.program("/attack", program()).start()
}

/// The attacking program, on this host.
///
/// # Panics
/// If the same build has not made it.
#[must_use]
pub fn program() -> PathBuf {
    binary("attack", "RIG_ATTACK")
}

/// A service that makes an attack.
#[must_use]
pub fn attack(words: &[&str]) -> ServiceSpec {
    spec(&[&["/attack"], words].concat())
}

/// Makes an attack as the only service of `source` and waits until it says that it is over, or has ended; answers
/// what it has said. It then holds still, unless it has ended.
///
/// # Panics
/// If it is refused, or never over.
pub fn attacked(rig: &Rig, source: &SourceName, words: &[&str]) -> String {
    attacked_as(rig, source, attack(words))
}

/// The same, of a service that is more than its words.
///
/// # Panics
/// If it is refused, or never over.
pub fn attacked_as(rig: &Rig, source: &SourceName, spec: ServiceSpec) -> String {
    rig.run(source, spec);
    over(rig, source)
}

/// Waits until the attack of `source` says that it is over, or has ended; answers what it has said.
///
/// # Panics
/// If it is never over.
pub fn over(rig: &Rig, source: &SourceName) -> String {
    let said = wait_for("the attack to be over", || {
        let ended = matches!(rig.service_state(source, &service(MAIN)), ServiceState::Exited { .. });
        let log = rig.log(source);
        (ended || log.ends_with("attacked\n") || log.contains("\nattacked\n")).then_some(log)
    });
    println!("{source} said:\n{said}");
    said
}

/// The service's own process, as the host numbers it: the oldest child of the jail's first process.
///
/// # Panics
/// If it does not run.
#[must_use]
pub fn attacker(rig: &Rig, source: &SourceName) -> u32 {
    let first = rig.jail_pid(source);
    *children(first).first().expect("the first process of a jail has the service as its child")
}

/// One line of a file that a machine has once.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn line_of(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read {path}: {error}")).trim().to_owned()
}

/// Whether the runner has cgroups; if not, says that `what` is not seen here.
#[must_use]
pub fn has_cgroups(rig: &Rig, what: &str) -> bool {
    if rig.cgroup().is_none() {
        println!("{what} needs cgroup v2: it is seen in the guest");
    }
    rig.cgroup().is_some()
}

/// The cgroup of a process, as a directory of the unified hierarchy.
///
/// # Panics
/// If it has none.
#[must_use]
pub fn cgroup_of(rig: &Rig, pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process");
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).expect("cgroup v2");
    // The hierarchy's root is an ancestor of the directory that the tests were given.
    let given = rig.cgroup().expect("a directory for cgroups");
    let roots = given.ancestors().map(|root| root.join(path.trim_start_matches('/')));
    { roots }.find(|dir| dir.starts_with(given) && dir.is_dir()).expect("the cgroup lies below the given directory")
}

/// A number in a file of a cgroup: the only one, or the one after `key`.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn cgroup_number(dir: &std::path::Path, file: &str, key: Option<&str>) -> u64 {
    let text = fs::read_to_string(dir.join(file)).expect("a file of a cgroup");
    let word = match key {
        Some(key) => text.lines().find_map(|line| line.strip_prefix(key)).expect("a key"),
        None => text.as_str(),
    };
    word.trim().parse().unwrap_or_else(|_| panic!("{file}: {text}"))
}
