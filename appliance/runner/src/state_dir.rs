//! The runner's own directory: who may enter which part, and what a restart throws away.
//!
//! ```text
//! lock                        one runner at a time
//! slots/SOURCE                the number of the source's slot
//! roots/SLOT/HEX              an unpacked image, owned by the slot; complete if the name has no leading dot
//! runs/NUMBER/{upper,work,merged,etc}   one run
//! logs/SOURCE/{current,previous}
//! ```
//!
//! The way down to `roots` and `runs` can be walked by anyone who gets that far, because a jail walks it as
//! its own ids; what is below belongs to one slot.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runner::protocol::{CALLBACK_ADDR, CALLBACK_HOST, Digest, SourceName};
use rustix::fs::{FlockOperation, Mode, OFlags};

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
        for (name, mode) in [("slots", 0o700), ("roots", 0o711), ("runs", 0o711), ("logs", 0o700)] {
            make_dir(&path.join(name), mode)?;
        }
        let lock = path.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&lock, flags, Mode::from_raw_mode(0o600));
        let fd = fd.map_err(|errno| failed("open", &lock)(errno.into()))?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::InUse { path }),
            other => other.map_err(|errno| failed("lock", &lock)(errno.into()))?,
        }
        let state = Self { path, _lock: fd };
        for run in list(&state.path.join("runs"))? {
            remove_abandoned(&run)?;
        }
        for slot in list(&state.path.join("roots"))? {
            for root in list(&slot)? {
                if root.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                    remove_abandoned(&root)?;
                }
            }
        }
        Ok(state)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn logs(&self, source: &SourceName) -> PathBuf {
        self.path.join("logs").join(source.as_str())
    }

    /// Whether the image stands unpacked for the slot.
    pub(crate) fn is_unpacked(&self, slot: Slot, manifest: &Digest) -> bool {
        self.path.join(root_of(slot, manifest)).is_dir()
    }

    /// An empty directory to unpack into, relative; takes its place by [`keep_root`](Self::keep_root).
    pub(crate) fn begin_root(&self, slot: Slot, manifest: &Digest) -> Result<String, StateError> {
        self.make_slot_dir(slot, &slot.roots(), 0o700)?;
        let half = format!("{}/.{}", slot.roots(), manifest.hex());
        remove(&self.path.join(&half))?;
        self.make_slot_dir(slot, &half, 0o755)?;
        Ok(half)
    }

    /// Makes the unpacked image visible, once all of it is on the disk.
    pub(crate) fn keep_root(&self, half: &str, slot: Slot, manifest: &Digest) -> Result<(), StateError> {
        let path = self.path.join(half);
        let sync = |path: &Path, whole: bool| {
            let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            if whole { rustix::fs::syncfs(fd) } else { rustix::fs::fsync(fd) }
        };
        sync(&path, true).map_err(|errno| failed("sync", &path)(errno.into()))?;
        fs::rename(&path, self.path.join(root_of(slot, manifest))).map_err(failed("rename", &path))?;
        let parent = self.path.join(slot.roots());
        sync(&parent, false).map_err(|errno| failed("sync", &parent)(errno.into()))
    }

    /// Removes a directory of [`begin_root`](Self::begin_root) or [`begin_run`](Self::begin_run).
    pub(crate) fn discard(&self, relative: &str) -> Result<(), StateError> {
        remove(&self.path.join(relative))
    }

    /// The directory of a new run, relative, with the files that its `/etc` will show.
    pub(crate) fn begin_run(&self, run: Ticket, slot: Slot, source: &SourceName) -> Result<String, StateError> {
        let dir = format!("runs/{}", run.0);
        remove(&self.path.join(&dir))?;
        self.make_slot_dir(slot, &dir, 0o700)?;
        // The jail's root directory is `upper`; `merged` is only where it is put together.
        for (name, mode) in [("upper", 0o755), ("work", 0o700), ("merged", 0o700), ("etc", 0o755)] {
            self.make_slot_dir(slot, &format!("{dir}/{name}"), mode)?;
        }
        let hosts = format!("127.0.0.1 localhost\n127.0.0.1 {source}\n{CALLBACK_ADDR} {CALLBACK_HOST}\n");
        let hostname = format!("{source}\n");
        for (name, text) in [("hosts", hosts.as_str()), ("hostname", &hostname), ("resolv.conf", "")] {
            let path = self.path.join(&dir).join("etc").join(name);
            fs::write(&path, text).map_err(failed("write", &path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(failed("open up", &path))?;
        }
        Ok(dir)
    }

    fn make_slot_dir(&self, slot: Slot, relative: &str, mode: u32) -> Result<(), StateError> {
        let path = self.path.join(relative);
        make_dir(&path, mode)?;
        chown(&path, Some(slot.base_id()), Some(slot.base_id())).map_err(failed("give away", &path))
    }
}

/// Where an image stands unpacked, relative to the state directory.
pub(crate) fn root_of(slot: Slot, manifest: &Digest) -> String {
    format!("{}/{}", slot.roots(), manifest.hex())
}

fn make_dir(path: &Path, mode: u32) -> Result<(), StateError> {
    let made = fs::DirBuilder::new().mode(mode).create(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(failed("make", path))?,
    }
    // The umask may have taken bits away, and an older release may have set others.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, StateError> {
    let entries = fs::read_dir(dir).map_err(failed("list", dir))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed("list", dir))).collect()
}

fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed("remove", path)),
    }
}

/// Removes what an earlier runner's child may still be dying over: it can make a file between our listing of a
/// directory and our removal of it, but not for long.
fn remove_abandoned(path: &Path) -> Result<(), StateError> {
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

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File { operation, path, source }
}
