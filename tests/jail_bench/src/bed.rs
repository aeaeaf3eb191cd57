//! What all parts measure on: one runner, its images, and a directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hostile::oci::{self, Layer, Pack};
use hostile::rig::{MAIN, Rig, Setup, binary, name, service};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use runner::client::Client;
use runner::protocol::{
    Confinement, Digest, Exit, Limits, NetworkPolicy, ServiceSpec, ServiceState, SourceName, SourcePlan,
};

/// Where cgroup v2 is on a machine that has both versions.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// The controllers of version 1 that real-time processes cannot be put under.
const SCHEDULING: [&str; 3] = ["cpu", "cpuacct", "cpuset"];

/// Bytes of the file that is read inside and outside.
pub(crate) const DATA_BYTES: usize = 4 << 20;

/// How long one run of anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A runner and what it runs.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) rig: Rig,
    /// For everything that lies beside the runner's own directories.
    pub(crate) dir: tempfile::TempDir,
    /// `inside` of this package, as a program of this host.
    pub(crate) inside: PathBuf,
    /// `/bin/true`, 132 bytes.
    pub(crate) image_true: Digest,
    /// `/inside` and `/data`.
    pub(crate) image_inside: Digest,
}

// === impl Bed ===

impl Bed {
    pub(crate) fn new(setup: Setup) -> Result<Self> {
        let rig = setup.start();
        let place = std::env::var_os("RIG_STATE_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::tempdir_in(place)?;
        let inside = binary("inside", "RIG_BENCH_INSIDE");
        let truth = skeleton().dir("bin").file("bin/true", 0o755, &oci::program_that_exits(0)).finish();
        let image_true = oci::image(&rig.content(), &[(truth, Pack::Plain)], "{}");
        let image_inside = oci::image(&rig.content(), &[(layer_inside(&inside)?, Pack::Plain)], "{}");
        Ok(Self { rig, dir, inside, image_true, image_inside })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.rig.client
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// How the runner limits its jails.
    pub(crate) fn confinement(&self) -> Result<&'static str> {
        Ok(match self.client().overview()?.0 {
            Confinement::Cgroups => "a cgroup of version 2 for each jail",
            Confinement::RlimitsOnly => "--rlimits-only, no cgroups; set RIG_CGROUP where there is cgroup v2",
        })
    }

    /// Prepares `image` for a source of that name and opens it with one service.
    pub(crate) fn open(&self, source: &str, image: &Digest, network: NetworkPolicy) -> Result<SourceName> {
        let source = name(source);
        self.client().prepare(&source, image)?;
        self.client().open(&source, plan(network))?;
        Ok(source)
    }

    /// Runs a jail from its start until it has been reaped; answers what it printed.
    pub(crate) fn run(&self, source: &SourceName, image: &Digest, spec: ServiceSpec) -> Result<String> {
        let main = service(MAIN);
        self.client().start(source, &main, image, spec)?;
        match self.client().wait(source, &main, PATIENCE)? {
            ServiceState::Exited { exit: Exit::Code(0), log_tail, .. } => Ok(log_tail),
            other => bail!("a jail did not end well: {other:?}"),
        }
    }
}

/// What every image has, and every jail is mounted on.
fn skeleton() -> Layer {
    let layer = ["proc", "dev", "sys", "tmp", "etc"].into_iter().fold(Layer::new(), Layer::dir);
    let files = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];
    files.into_iter().fold(layer, |layer, path| layer.file(path, 0o644, b""))
}

/// A layer with `inside` and the file that it reads.
pub(crate) fn layer_inside(inside: &Path) -> Result<Vec<u8>> {
    let program = std::fs::read(inside).with_context(|| format!("read {}", inside.display()))?;
    ensure!(is_static(&program), "{} is not static; tests/bench.sh builds it so", inside.display());
    let truth = oci::program_that_exits(0);
    Ok(skeleton().file("true", 0o755, &truth).file("inside", 0o755, &program).file("data", 0o644, &data()).finish())
}

/// What is read inside and outside: bytes that no file system stores as a hole.
pub(crate) fn data() -> Vec<u8> {
    (0..DATA_BYTES).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect()
}

/// One service, nothing published, nothing kept.
pub(crate) fn plan(network: NetworkPolicy) -> SourcePlan {
    SourcePlan {
        network,
        services: vec![service(MAIN)],
        aliases: Vec::new(),
        published: Vec::new(),
        volumes: Vec::new(),
    }
}

/// `command` on a root that cannot be written.
pub(crate) fn sealed(command: &[&str]) -> ServiceSpec {
    ServiceSpec { read_only: true, ..writable(command) }
}

/// `command` with a disk of its own to write on, of the default size.
pub(crate) fn writable(command: &[&str]) -> ServiceSpec {
    let command = Some(command.iter().map(ToString::to_string).collect());
    ServiceSpec { command, limits: Limits::default(), ..ServiceSpec::default() }
}

/// Whether an ELF program names no interpreter: no program header of type 3.
fn is_static(program: &[u8]) -> bool {
    let word = |at: usize, bytes: usize| {
        let bytes = program.get(at..at + bytes)?;
        Some(bytes.iter().rev().fold(0_usize, |value, byte| value << 8 | usize::from(*byte)))
    };
    let headers = || Some((word(32, 8)?, word(54, 2)?, word(56, 2)?));
    let Some((start, size, count)) = headers() else { return false };
    (0..count).all(|number| word(start + number * size, 4).is_some_and(|kind| kind != 3))
}

/// Gives this process a mount namespace of its own, in which it and all that it starts see the cgroups that the other jails can work with: crun refuses a
/// machine that has both versions, and runc cannot put a real-time process into a group of version 1 that schedules.
/// Answers what to tell the reader. It comes before any thread.
pub(crate) fn hide_cgroups() -> Result<Vec<String>> {
    let is_realtime = is_realtime()?;
    let mut said = vec![if is_realtime {
        "scheduled: real-time (SCHED_FIFO or SCHED_RR), before everything else on the machine".to_owned()
    } else {
        "scheduled: like everything else on the machine".to_owned()
    }];
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)?;
    if !Path::new(UNIFIED).join("cgroup.controllers").exists() {
        return Ok(said);
    }
    umount2(UNIFIED, MntFlags::MNT_DETACH)?;
    said.push(format!("cgroups: version 1; {UNIFIED} is unmounted for all that runs here, because crun refuses both"));
    if is_realtime {
        for name in SCHEDULING {
            // A machine that has them in one directory, or not at all, has the others' names as links.
            let _ = umount2(&PathBuf::from(format!("/sys/fs/cgroup/{name}")), MntFlags::MNT_DETACH);
        }
        said.push(format!("and so are {}, which take no real-time process", SCHEDULING.join(", ")));
    }
    Ok(said)
}

/// Whether the scheduler's policy of this process, field 41 of proc_pid_stat(5), is `SCHED_FIFO` or `SCHED_RR`.
fn is_realtime() -> Result<bool> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().context("stat has a name")?;
    // The state, field 3, is the first behind the name.
    Ok(matches!(after_name.split_whitespace().nth(38), Some("1" | "2")))
}

/// The machine and how busy it is.
pub(crate) fn conditions() -> Result<Vec<String>> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("read {path}"));
    let cpus = read("/proc/cpuinfo")?;
    let mut models = cpus.lines().filter_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let (model, more) = (models.next().unwrap_or("unknown").to_owned(), models.count());
    let load = read("/proc/loadavg")?;
    let load = load.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    Ok(vec![
        format!("machine: {} x {model}, Linux {}", more + 1, read("/proc/sys/kernel/osrelease")?.trim()),
        format!("load when it began (1, 5, 15 minutes): {load}"),
    ])
}
