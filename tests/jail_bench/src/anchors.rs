//! The other jails, with the same content in each: every namespace, a read-only root, `/proc`, a small `/dev`, a tmpfs,
//! no capability, no new privileges, few descriptors, no core dumps, and podman's filter ([`crate::filter`]).

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use hostile::oci::program_that_exits;
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::filter::AllowList;

/// What the other jails run on.
#[derive(Debug)]
pub(crate) struct Anchors {
    root: PathBuf,
    program: PathBuf,
    dir: PathBuf,
    /// Instructions of bubblewrap's filter, and names on crun's and runc's.
    pub(crate) instructions: usize,
    pub(crate) names: usize,
}

// === impl Anchors ===

impl Anchors {
    pub(crate) fn make(bed: &Bed) -> Result<Self> {
        let dir = bed.path("anchors");
        let root = dir.join("root");
        for name in ["bin", "proc", "dev", "sys", "tmp"] {
            std::fs::create_dir_all(root.join(name))?;
        }
        let truth = root.join("bin/true");
        std::fs::write(&truth, program_that_exits(0))?;
        std::fs::set_permissions(&truth, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let list = AllowList::read()?;
        let program = dir.join("filter.bpf");
        let instructions = list.write_program(&program)?;
        for (name, has_user_namespace) in [("bundle", false), ("bundle-user", true)] {
            let bundle = dir.join(name);
            std::fs::create_dir(&bundle)?;
            let config = configuration(&root, &list, has_user_namespace);
            std::fs::write(bundle.join("config.json"), config.to_string())?;
        }
        Ok(Self { root, program, dir, instructions, names: list.names.len() })
    }

    /// The same program, in no jail.
    pub(crate) fn bare(&self) -> Result<()> {
        let mut command = Command::new(self.root.join("bin/true"));
        run(command.env_clear())
    }

    pub(crate) fn bubblewrap(&self, has_filter: bool) -> Result<()> {
        let mut command = Command::new("bwrap");
        command.args([
            "--die-with-parent",
            "--new-session",
            "--cap-drop",
            "ALL",
            "--clearenv",
            "--setenv",
            "PATH",
            "/bin",
        ]);
        command.args(["--hostname", "jail", "--unshare-all", "--ro-bind"]).arg(&self.root);
        command.args(["/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/"]);
        // Open across the execution, and read to its end by it: a new one each time.
        let filter = has_filter.then(|| self.open_filter()).transpose()?;
        if let Some(filter) = &filter {
            command.args(["--seccomp", &filter.as_raw_fd().to_string()]);
        }
        run(command.arg("/bin/true"))
    }

    pub(crate) fn crun(&self, round: u64) -> Result<()> {
        let mut command = Command::new("crun");
        command.arg("--root").arg(self.dir.join("crun")).args(["--cgroup-manager=disabled", "run", "-b"]);
        run(command.arg(self.dir.join("bundle-user")).arg(format!("bench-{}-{round}", std::process::id())))
    }

    pub(crate) fn runc(&self, round: u64) -> Result<()> {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.dir.join("runc")).args(["run", "-b"]);
        run(command.arg(self.dir.join("bundle-user")).arg(format!("bench-{}-{round}", std::process::id())))
    }

    fn open_filter(&self) -> Result<OwnedFd> {
        // Without CLOEXEC: it is for the program.
        rustix::fs::open(&self.program, OFlags::RDONLY, Mode::empty()).context("open the filter")
    }
}

/// Runs to the end; an end that is not well is an error with what the tool said.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}; is its Debian package installed?"))?;
    // What it says fits a pipe; waiting first leaves reading out of what is measured.
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    let said = child.stderr.take().map(std::io::read_to_string).transpose()?.unwrap_or_default();
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    bail!("{program}: {status}: {said}")
}

fn configuration(root: &Path, list: &AllowList, has_user_namespace: bool) -> Value {
    let mut kinds = vec!["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let mut linux = json!({
        "seccomp": list.oci(),
        "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
        "readonlyPaths": ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    if has_user_namespace {
        kinds.push("user");
        let ids = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        linux["uidMappings"] = ids.clone();
        linux["gidMappings"] = ids;
    }
    linux["namespaces"] = kinds.into_iter().map(|kind| json!({ "type": kind })).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": ["/bin/true"], "env": ["PATH=/bin"], "cwd": "/",
            "capabilities": { "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": [] },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 },
                { "type": "RLIMIT_CORE", "hard": 0, "soft": 0 }],
            "noNewPrivileges": true,
        },
        "root": { "path": root, "readonly": true },
        "hostname": "jail",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"] },
        ],
        "linux": linux,
    })
}
