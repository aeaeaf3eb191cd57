//! What one job may take of the machine, and its certain end: one cgroup (version 2) per jail.
//!
//! ```text
//! DIR            delegated to the runner; holds no process, because its children have controllers
//! DIR/self       the runner, if it was started in DIR
//! DIR/jail-N     one run: every limit is set, and read back, before the first process is inside
//! ```
//!
//! Invariants: there is one owner of DIR at a time; no jail runs without all of memory, pids, cpu and io under
//! control; a jail cannot make cgroups of its own; whatever an earlier runner left is killed and removed before the
//! first jail is made. The job never sees any of this: its mount namespace has no cgroup file system.

mod directory;

mod jail;

mod limits;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use directory::Directory;
pub(crate) use jail::Cgroup;
pub(crate) use limits::{CgroupLimits, IoMax};

/// Without one of these a jail would have no bound in that direction.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];

/// Where the runner itself goes, if it stands in the way.
const SELF: &str = "self";

const JAIL_PREFIX: &str = "jail-";

/// How long what an earlier runner left may take to die. A kill takes milliseconds, but giving back the memory of a
/// large process takes seconds, and a process in the middle of a disk operation finishes it.
const STALE_TIMEOUT: Duration = Duration::from_secs(30);

/// The directory that was delegated to this runner. Locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct Cgroups {
    dir: Directory,
    _lock: rustix::fd::OwnedFd,
}

/// Something about cgroups that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is not in a cgroup version 2 file system; name a directory below where cgroup2 is mounted, \
         usually /sys/fs/cgroup", path.display()
    )]
    NotVersion2 { path: PathBuf },
    #[error(
        "{} has no cgroup controller {}; a systemd service gets it by Delegate=memory pids cpu io, any other directory \
         by writing +NAME into cgroup.subtree_control of each directory above it, and a controller that version 1 holds \
         becomes free by the kernel parameter cgroup_no_v1=all", path.display(), missing.join(" ")
    )]
    MissingControllers { path: PathBuf, missing: Vec<&'static str> },
    #[error(
        "{} holds other processes ({pids}), so its children cannot have controllers; give the runner a cgroup of its \
         own", path.display()
    )]
    Occupied { path: PathBuf, pids: String },
    #[error("another runner uses {}", path.display())]
    InUse { path: PathBuf },
    #[error("{what} of {value} is no limit: {rule}")]
    BadLimit { what: &'static str, value: u64, rule: &'static str },
    #[error("{} took {written:?} but says {read:?}", path.display())]
    NotTaken { path: PathBuf, written: String, read: String },
    #[error("{} says {text:?}, in which there is no {what}", path.display())]
    Unreadable { path: PathBuf, what: &'static str, text: String },
    #[error(
        "the kernel does not account for swap in {}, and there is swap: a job could leave its memory limit by it; turn \
         swap off or boot without swapaccount=0", path.display()
    )]
    Swap { path: PathBuf },
    #[error("{} still has processes {waited:?} after they were killed", path.display())]
    StillPopulated { path: PathBuf, waited: Duration },
}

// === impl Cgroups ===

impl Cgroups {
    /// Takes possession of `dir`, a cgroup that was delegated to the runner: moves the runner itself out of the way,
    /// turns the controllers on for its children, and kills and removes what an earlier runner left.
    ///
    /// To be called before the runner starts any process.
    pub(crate) fn open(dir: &Path) -> Result<Self, CgroupError> {
        let dir = Directory::open(dir)?;
        let has = dir.read("cgroup.controllers")?;
        let missing: Vec<_> =
            CONTROLLERS.into_iter().filter(|name| !has.split_whitespace().any(|has| has == *name)).collect();
        if !missing.is_empty() {
            return Err(CgroupError::MissingControllers { path: dir.path().to_owned(), missing });
        }
        let lock = dir.open_listing()?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(CgroupError::InUse { path: dir.path().to_owned() }),
            other => other.map_err(|errno| dir.failed("lock", "")(errno.into()))?,
        }
        for stale in dir.children()?.into_iter().filter(|name| name.starts_with(JAIL_PREFIX)) {
            dir.child(&stale)?.clear_and_remove(STALE_TIMEOUT)?;
            tracing::warn!(cgroup = stale, "removed what an earlier runner left");
        }
        step_aside(&dir)?;
        dir.write("cgroup.subtree_control", &CONTROLLERS.map(|name| format!("+{name}")).join(" "))?;
        let on = dir.read("cgroup.subtree_control")?;
        if !CONTROLLERS.iter().all(|name| on.split_whitespace().any(|on| on == *name)) {
            let path = dir.path().join("cgroup.subtree_control");
            return Err(CgroupError::NotTaken { path, written: CONTROLLERS.join(" "), read: on });
        }
        Ok(Self { dir, _lock: lock })
    }

    /// Makes the cgroup of run `number`, empty and without limits. A number is good once while the runner lives and
    /// its cgroup exists.
    pub(crate) fn begin(&self, number: u64) -> Result<Cgroup, CgroupError> {
        Cgroup::begin(&self.dir, &format!("{JAIL_PREFIX}{number}"))
    }
}

/// A directory whose children have controllers may hold no process; the only one that is ours to move is our own.
fn step_aside(dir: &Directory) -> Result<(), CgroupError> {
    let own = std::process::id().to_string();
    let inside = dir.read("cgroup.procs")?;
    let (mine, others): (Vec<_>, Vec<_>) = inside.split_whitespace().partition(|pid| *pid == own);
    if !others.is_empty() {
        return Err(CgroupError::Occupied { path: dir.path().to_owned(), pids: others.join(" ") });
    }
    if mine.is_empty() {
        return Ok(());
    }
    let aside = if dir.children()?.iter().any(|name| name == SELF) { dir.child(SELF)? } else { dir.make(SELF)? };
    aside.write("cgroup.procs", &own)
}
