//! The cgroup of one jail, from before its first process until after its last.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::CgroupError;
use super::directory::Directory;
use super::limits::{CgroupLimits, Setting, swap_is_off};

/// How long an end that nobody waited for may hold up the thread that dropped the jail.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long [`Cgroup::remove`] waits for killed processes: see the same bound for what an earlier runner left.
const REMOVE_TIMEOUT: Duration = super::STALE_TIMEOUT;

/// One jail's share of the machine. Killed and removed when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dir: Directory,
    removed: bool,
}

/// What a jail has used; whatever its processes did, also the ones that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Memory charged now, in bytes: of processes, of files that they cached or put in a tmpfs, of the kernel for them.
    pub(crate) memory_bytes: u64,
    /// The most that was ever charged, in bytes.
    pub(crate) memory_peak_bytes: u64,
    /// Processor time of all processes, in microseconds.
    pub(crate) cpu_us: u64,
    /// Processes killed because memory had reached its limit.
    pub(crate) oom_kills: u64,
    /// Processes and threads now.
    pub(crate) pids: u64,
    /// Processes and threads that were not made because there were too many.
    pub(crate) pids_refused: u64,
}

// === impl Cgroup ===

impl Cgroup {
    /// An empty cgroup `name` below `parent`, without limits yet, in which no other can be made.
    pub(super) fn begin(parent: &Directory, name: &str) -> Result<Self, CgroupError> {
        let jail = Self { dir: parent.make(name)?, removed: false };
        jail.dir.set("cgroup.max.descendants", "0", "0")?;
        jail.dir.set("cgroup.max.depth", "0", "0")?;
        Ok(jail)
    }

    /// Puts every limit in force. Errors: a limit that makes no sense, before any is set.
    pub(crate) fn limit(&self, limits: &CgroupLimits) -> Result<(), CgroupError> {
        let dir = &self.dir;
        for Setting { file, value, reads } in limits.settings()? {
            dir.set(file, &value, &reads)?;
        }
        // Absent if swap is not accounted for; without swap there is nothing to account for.
        if dir.exists("memory.swap.max")? {
            dir.set("memory.swap.max", "0", "0")
        } else if swap_is_off().map_err(dir.failed("look for swap besides", ""))? {
            Ok(())
        } else {
            Err(CgroupError::Swap { path: dir.path().to_owned() })
        }
    }

    /// The directory, for `clone3` to put a child in.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Kills every process inside, also those that are being made at this moment. Does not wait.
    pub(crate) fn kill(&self) -> Result<(), CgroupError> {
        self.dir.kill()
    }

    /// Waits until no process is inside; answers whether that came true in time. A process that has ended counts no
    /// more, even if nobody has reaped it.
    pub(crate) fn wait_empty(&self, timeout: Duration) -> Result<bool, CgroupError> {
        self.dir.wait_empty(timeout)
    }

    /// What was used so far; to be asked before [`remove`](Self::remove).
    pub(crate) fn usage(&self) -> Result<Usage, CgroupError> {
        let dir = &self.dir;
        Ok(Usage {
            memory_bytes: dir.number("memory.current")?,
            memory_peak_bytes: dir.number("memory.peak")?,
            cpu_us: dir.keyed("cpu.stat", "usage_usec")?,
            oom_kills: dir.keyed("memory.events", "oom_kill")?,
            pids: dir.number("pids.current")?,
            pids_refused: dir.keyed("pids.events", "max")?,
        })
    }

    /// Kills what is inside, waits for its end, and removes the cgroup.
    pub(crate) fn remove(mut self) -> Result<(), CgroupError> {
        // Whatever comes of it, a second try by the destructor would come to the same.
        self.removed = true;
        self.dir.clear_and_remove(REMOVE_TIMEOUT)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        if let Err(error) = self.dir.clear_and_remove(DROP_TIMEOUT) {
            tracing::error!(error = &error as &dyn std::error::Error, "a jail's cgroup is left");
        }
    }
}
