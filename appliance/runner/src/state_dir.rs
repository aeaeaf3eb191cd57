//! The runner's own directory: who may enter which part, and what a restart throws away.
//!
//! ```text
//! lock                        one runner at a time
//! slots/SOURCE                the number of the source's slot
//! layers/, unpack/, m/        the image layers' own, see `layers`
//! runs/                       in memory, and gone with the runner:
//! runs/NUMBER/{merged,disk}   where one run is put together and writes
//! runs/given-SLOT-SERVICE     what every jail finds besides its image, see `furniture`
//! disks/NUMBER.img            the disk of a run, for a moment: then it has no name
//! volumes/SLOT/NAME.img       a volume's file system
//! v/SLOT/NAME                 where it is mounted while its source is open
//! logs/SOURCE/SERVICE/{current,previous}
//! ```
//!
//! The way down to what jails use can be walked by anyone who gets that far, because a jail walks it as
//! its own ids; what is below belongs to one slot.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runner::protocol::{ServiceName, SourceName, VolumeName};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    move_mount,
};

use crate::clear::remove_tree;
use crate::orders::Ticket;
use crate::slots::Slot;

/// How often, and how far apart, the removal of an earlier runner's directories is tried again.
const ABANDONED_TRIES: u32 = 50;
const ABANDONED_PAUSE: Duration = Duration::from_millis(20);

/// The directory, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: rustix::fd::OwnedFd,
}

/// An operation on the directory that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another runner uses {}", path.display())]
    InUse { path: PathBuf },
}

// === impl StateDir ===

impl StateDir {
    /// Takes possession of `path`, and removes what an earlier runner left half done. Its jails are gone
    /// already: they do not outlive it.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        make_dir(path, 0o711)?;
        let path = fs::canonicalize(path).map_err(failed("resolve", path))?;
        for (name, mode) in [("slots", 0o700), ("runs", 0o711), ("volumes", 0o700), ("v", 0o711), ("logs", 0o700)] {
            make_dir(&path.join(name), mode)?;
        }
        make_dir(&path.join("disks"), 0o700)?;
        let lock = path.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&lock, flags, Mode::from_raw_mode(0o600));
        let fd = fd.map_err(|errno| failed("open", &lock)(errno.into()))?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::InUse { path }),
            other => other.map_err(|errno| failed("lock", &lock)(errno.into()))?,
        }
        let state = Self { path, _lock: fd };
        for disk in list(&state.path.join("disks"))? {
            remove_abandoned(&disk)?;
        }
        // What is made and removed for every run need not survive anything; on a disk it would cost its journal's time.
        let runs = state.path.join("runs");
        mount_tmpfs(&runs).map_err(|errno| failed("mount a tmpfs at", &runs)(errno.into()))?;
        Ok(state)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn logs(&self, source: &SourceName, service: &ServiceName) -> PathBuf {
        self.path.join("logs").join(source.as_str()).join(service.as_str())
    }

    /// The file of a volume, and where it is mounted, relative.
    pub(crate) fn volume(&self, slot: Slot, name: &VolumeName) -> Result<(PathBuf, String), StateError> {
        let files = self.path.join("volumes").join(slot.number().to_string());
        make_dir(&files, 0o700)?;
        let slot_mounts = format!("v/{}", slot.number());
        make_dir(&self.path.join(&slot_mounts), 0o711)?;
        let mount = format!("{slot_mounts}/{name}");
        make_dir(&self.path.join(&mount), 0o711)?;
        Ok((files.join(format!("{name}.img")), mount))
    }

    /// Removes everything that is kept of a source that is not open.
    pub(crate) fn forget(&self, slot: Slot, source: &SourceName) -> Result<(), StateError> {
        remove(&self.path.join("volumes").join(slot.number().to_string()))?;
        remove(&self.path.join("v").join(slot.number().to_string()))?;
        remove(&self.path.join("logs").join(source.as_str()))
    }

    /// Where a run's disk is born; it has no name by the time anybody writes to it.
    pub(crate) fn scratch(&self, run: Ticket) -> PathBuf {
        self.path.join(format!("disks/{}.img", run.0))
    }

    /// Where the furniture of one service is mounted, relative: as long as its source is open.
    pub(crate) fn furniture(slot: Slot, service: u8) -> String {
        format!("runs/given-{}-{service}", slot.number())
    }

    /// Makes a directory to mount something at.
    pub(crate) fn make_place(&self, relative: &str) -> Result<(), StateError> {
        make_dir(&self.path.join(relative), 0o711)
    }

    /// The directory of a new run.
    pub(crate) fn begin_run(&self, run: Ticket, slot: Slot) -> Result<RunDir, StateError> {
        let relative = format!("runs/{}", run.0);
        let dir = RunDir { path: self.path.join(&relative), relative };
        remove(&dir.path)?;
        make_slot_dir(&dir.path, slot, 0o700)?;
        // Where the jail is put together, and where the disk is that it writes to.
        for name in ["merged", "disk"] {
            make_slot_dir(&dir.file(name), slot, 0o700)?;
        }
        Ok(dir)
    }
}

/// The directory of one run; removed when dropped, which is after its jail has gone.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    relative: String,
}

// === impl RunDir ===

impl RunDir {
    /// As jails name it: from the state directory.
    pub(crate) fn relative(&self) -> &str {
        &self.relative
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, "a run's directory is left until the runner starts again");
        }
    }
}

fn make_slot_dir(path: &Path, slot: Slot, mode: u32) -> Result<(), StateError> {
    make_dir(path, mode)?;
    chown(path, Some(slot.base_id()), Some(slot.base_id())).map_err(failed("give away", path))
}

/// Room for directories; nothing else is made there but mounts of their own.
fn mount_tmpfs(place: &Path) -> rustix::io::Result<()> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("size", "4194304"), ("nr_inodes", "8192"), ("mode", "0711")] {
        fsconfig_set_string(&fs, key, value)?;
    }
    fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(&mount, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), StateError> {
    let made = fs::DirBuilder::new().mode(mode).create(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(failed("make", path))?,
    }
    // The umask may have taken bits away, and an older release may have set others.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, StateError> {
    let entries = fs::read_dir(dir).map_err(failed("list", dir))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed("list", dir))).collect()
}

pub(crate) fn remove(path: &Path) -> Result<(), StateError> {
    match remove_tree(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed("remove", path)),
    }
}

/// Removes what an earlier runner's child may still be dying over: it can make a file between our listing of a
/// directory and our removal of it, but not for long.
pub(crate) fn remove_abandoned(path: &Path) -> Result<(), StateError> {
    for _ in 0..ABANDONED_TRIES {
        match remove(path) {
            Err(StateError::File { source, .. }) if source.kind() == io::ErrorKind::DirectoryNotEmpty => {
                std::thread::sleep(ABANDONED_PAUSE);
            }
            other => return other,
        }
    }
    remove(path)
}

pub(crate) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File { operation, path, source }
}
