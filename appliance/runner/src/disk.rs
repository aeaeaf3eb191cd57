//! Room on disk with an end: a file system of fixed size in a sparse file, mounted where a jail writes.
//!
//! A job that fills its disk, or uses up its inodes, fills its own: the kernel answers `ENOSPC` at the size that
//! the file system was made with, on every kernel, without quota support in the file system below. The file is
//! sparse, so room that is not used takes none; what has been promised and not used yet is counted ([`Disks`]), so
//! that all jobs together cannot take what the rig itself needs.
//!
//! Invariants: a mount lives in the runner's own mount namespace and its loop device clears itself, so when the
//! runner dies, however it dies, no mount and no device is left; a scratch disk is gone from the directory
//! before its job starts, so its bytes go with its last mount; a volume's file is never made anew while it exists.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::kernel;
use crate::slots::Slot;

/// The smallest file system that is made, in bytes; below it ext4 has no room for itself.
const BYTES_MIN: u64 = 16 << 20;

/// What is left free on the disk when a job starts, in bytes: the ledger, logs and an update need it.
const RESERVE_BYTES: u64 = 512 << 20;

/// How often a free loop device is asked for again when somebody else took it first.
const LOOP_TRIES: u32 = 64;

/// How long, and how often, the end of an earlier runner's disks is awaited. It writes back what it holds first.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(60);
const ABANDONED_PAUSE: Duration = Duration::from_millis(20);

/// The directory of a mounted disk that jails see; beside it stands ext4's own `lost+found`.
const ROOM: &str = "room";

/// Those of one runner, all on the same disk below.
#[derive(Debug)]
pub(crate) struct Disks {
    dir: PathBuf,
    promises: Mutex<Vec<Weak<Promise>>>,
}

/// A mounted file system of fixed size; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    mount: PathBuf,
    /// It is a volume's, not one run's.
    is_kept: bool,
    _promise: Arc<Promise>,
}

/// What a disk may grow to.
#[derive(Debug)]
struct Promise {
    image: File,
    bytes: u64,
}

/// A disk that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the disk has {free_bytes} bytes left and {needed_bytes} are spoken for")]
    Full { free_bytes: u64, needed_bytes: u64 },
    #[error("{} is still in use after {ABANDONED_TIMEOUT:?}, though no runner is; is it mounted by hand?", path.display())]
    Busy { path: PathBuf },
    #[error("the volume in {} is damaged: {words}; mend it with e2fsck, or have the source forgotten", path.display())]
    Damaged { path: PathBuf, words: String },
    #[error("make a file system in {}: {words}; the Debian package e2fsprogs has mke2fs", path.display())]
    Format { path: PathBuf, words: String },
}

// === impl Disks ===

impl Disks {
    /// On the disk below `dir`. Waits until the kernel has done with the disks of an earlier runner: its mounts go with
    /// its last process, and a volume must not be mounted twice.
    pub(crate) fn open(dir: &Path) -> Result<Self, DiskError> {
        let deadline = Instant::now() + ABANDONED_TIMEOUT;
        while let Some(path) = abandoned(dir)? {
            if Instant::now() >= deadline {
                return Err(DiskError::Busy { path });
            }
            std::thread::sleep(ABANDONED_PAUSE);
        }
        Ok(Self { dir: dir.to_owned(), promises: Mutex::default() })
    }

    /// A disk for one run, at the directory `mount`: of `bytes`, or of what there is for it. Its file never has a name
    /// that anybody could find.
    pub(crate) fn scratch(&self, file: &Path, bytes: u64, mount: &Path, slot: Slot) -> Result<Disk, DiskError> {
        let mut promises = self.promises();
        let bytes = bytes.min(self.share(&mut promises)?);
        let image = create(file, bytes)?;
        let promise = promise(&mut promises, image, bytes);
        drop(promises);
        format(file, false)?;
        let mounted = Disk::mount(promise, file, mount, false);
        fs::remove_file(file).map_err(failed("remove", file))?;
        mounted?.furnish(slot, &["upper", "work"])
    }

    /// A disk that is kept in `file`; made with `bytes`, or with what there is for it, if it is not there yet.
    pub(crate) fn volume(&self, file: &Path, bytes: u64, mount: &Path, slot: Slot) -> Result<Disk, DiskError> {
        let mut promises = self.promises();
        if !file.exists() {
            let bytes = bytes.min(self.share(&mut promises)?);
            let half = file.with_extension("half");
            match fs::remove_file(&half) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &half)(error)),
                _ => {}
            }
            let image = create(&half, bytes)?;
            format(&half, true)?;
            image.sync_all().map_err(failed("sync", &half))?;
            fs::rename(&half, file).map_err(failed("rename", &half))?;
        }
        check(file)?;
        let image = OpenOptions::new().read(true).write(true).open(file).map_err(failed("open", file))?;
        let bytes = image.metadata().map_err(failed("look at", file))?.len();
        let promise = promise(&mut promises, image, bytes);
        drop(promises);
        Disk::mount(promise, file, mount, true)?.furnish(slot, &["data"])
    }

    /// What one more disk may be promised: half of what is free beyond all that is promised already and what the rig
    /// needs for itself, so that there is some left for the next.
    fn share(&self, promises: &mut Vec<Weak<Promise>>) -> Result<u64, DiskError> {
        let found = rustix::fs::statvfs(&self.dir).map_err(|errno| failed("look at", &self.dir)(errno.into()))?;
        let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
        let mut open_bytes = 0_u64;
        promises.retain(|promise| match promise.upgrade() {
            Some(promise) => {
                open_bytes = open_bytes.saturating_add(promise.open_bytes());
                true
            }
            None => false,
        });
        let share = free_bytes.saturating_sub(open_bytes).saturating_sub(RESERVE_BYTES) / 2;
        let needed_bytes = open_bytes.saturating_add(RESERVE_BYTES + 2 * BYTES_MIN);
        if share < BYTES_MIN { Err(DiskError::Full { free_bytes, needed_bytes }) } else { Ok(share) }
    }

    fn promises(&self) -> MutexGuard<'_, Vec<Weak<Promise>>> {
        self.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Promise ===

impl Promise {
    /// What it may still take of the disk below.
    fn open_bytes(&self) -> u64 {
        let taken = rustix::fs::fstat(&self.image).map_or(0, |found| found.st_blocks.cast_unsigned() * 512);
        self.bytes.saturating_sub(taken)
    }
}

fn promise(promises: &mut Vec<Weak<Promise>>, image: File, bytes: u64) -> Arc<Promise> {
    let promise = Arc::new(Promise { image, bytes });
    promises.push(Arc::downgrade(&promise));
    promise
}

// === impl Disk ===

impl Disk {
    /// Where [`Disks::scratch`] and [`Disks::volume`] have their directories.
    pub(crate) fn room(mount: &str, name: &str) -> String {
        format!("{mount}/{ROOM}/{name}")
    }

    fn mount(promise: Arc<Promise>, file: &Path, mount: &Path, is_kept: bool) -> Result<Self, DiskError> {
        let (_open, device) = attach_loop(&promise.image).map_err(failed("attach a loop device to", file))?;
        let mounted = mount_ext4(&device).map_err(|errno| failed("mount", file)(errno.into()))?;
        move_mount(&mounted, "", CWD, mount, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|errno| failed("attach a mount at", mount)(errno.into()))?;
        Ok(Self { mount: mount.to_owned(), is_kept, _promise: promise })
    }

    /// Makes the directories that belong to the slot, unless they are there.
    fn furnish(self, slot: Slot, names: &[&str]) -> Result<Self, DiskError> {
        let room = self.mount.join(ROOM);
        for path in std::iter::once(room.clone()).chain(names.iter().map(|name| room.join(name))) {
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(failed("make", &path))?,
            }
            let id = Some(slot.base_id());
            std::os::unix::fs::chown(&path, id, id).map_err(failed("give away", &path))?;
        }
        Ok(self)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.is_kept {
            // What is still on its way to the disk is about to be forgotten; a stick wears from every byte of it.
            let directory =
                rustix::fs::open(&self.mount, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
            let shut = directory.map_err(io::Error::from).and_then(kernel::shut_down_ext4);
            if let Err(error) = shut {
                tracing::debug!(mount = %self.mount.display(), %error, "a scratch disk is written back before it goes");
            }
        }
        // Detached: a jail's last breath may still hold it; with that it goes, and the loop device with it.
        if let Err(error) = unmount(&self.mount, UnmountFlags::DETACH) {
            tracing::warn!(mount = %self.mount.display(), %error, "a disk stays mounted");
        }
    }
}

/// The number of the disk that `dir` is on: of the whole disk, where it is on a partition of one.
pub(crate) fn whole_disk(dir: &Path) -> io::Result<(u32, u32)> {
    let device = rustix::fs::stat(dir)?.st_dev;
    let block = PathBuf::from(format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device)));
    let block = fs::canonicalize(block)?;
    let whole = if block.join("partition").exists() { block.parent().unwrap_or(&block) } else { &block };
    let text = fs::read_to_string(whole.join("dev"))?;
    let number =
        text.trim().split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no number of a device")))
}

fn create(file: &Path, bytes: u64) -> Result<File, DiskError> {
    let image = OpenOptions::new().read(true).write(true).create_new(true).open(file).map_err(failed("make", file))?;
    image.set_len(bytes.max(BYTES_MIN)).map_err(failed("size", file))?;
    Ok(image)
}

/// Writes an empty ext4.
fn format(file: &Path, is_kept: bool) -> Result<(), DiskError> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-t", "ext4", "-F", "-q", "-m", "0", "-E"]);
    if is_kept {
        mke2fs.arg("lazy_itable_init=1,lazy_journal_init=1,nodiscard");
    } else {
        // It is never grown, repaired or mounted again: without what that takes it is made in a third of the time.
        mke2fs.args(["lazy_itable_init=1,nodiscard,num_backup_sb=0", "-O", "^has_journal,^resize_inode,sparse_super2"]);
    }
    mke2fs.arg(file).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    let done = mke2fs.output().map_err(failed("start mke2fs for", file))?;
    if done.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(DiskError::Format { path: file.to_owned(), words })
}

/// A file below `dir` that is still behind a loop device.
fn abandoned(dir: &Path) -> Result<Option<PathBuf>, DiskError> {
    let devices = Path::new("/sys/block");
    for device in fs::read_dir(devices).map_err(failed("list", devices))? {
        let backing = device.map_err(failed("list", devices))?.path().join("loop/backing_file");
        // Devices come and go, and most are no loop devices.
        let Ok(path) = fs::read_to_string(backing) else { continue };
        let path = Path::new(path.trim_end().trim_end_matches(" (deleted)"));
        if path.starts_with(dir) {
            return Ok(Some(path.to_owned()));
        }
    }
    Ok(None)
}

/// Finishes what a power cut left undone. What that cannot mend is left as it is, for somebody to look at.
fn check(file: &Path) -> Result<(), DiskError> {
    /// `e2fsck` ends with this or less when the file system is whole, mended or not.
    const MENDED: i32 = 1;
    let mut e2fsck = Command::new("e2fsck");
    e2fsck.arg("-p").arg(file).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    let done = e2fsck.output().map_err(failed("start e2fsck for", file))?;
    if done.status.code().is_some_and(|code| code <= MENDED) {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&done.stdout).trim().replace('\n', "; ");
    Err(DiskError::Damaged { path: file.to_owned(), words })
}

/// A loop device over `image` that clears itself when its last user has gone: keep it open until it is mounted.
fn attach_loop(image: &File) -> io::Result<(OwnedFd, PathBuf)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let control = rustix::fs::open("/dev/loop-control", flags, Mode::empty())?;
    for _ in 0..LOOP_TRIES {
        let path = PathBuf::from(format!("/dev/loop{}", kernel::free_loop(&control)?));
        let device = rustix::fs::open(&path, flags, Mode::empty())?;
        match kernel::configure_loop(&device, image) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            configured => return configured.map(|()| (device, path)),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

fn mount_ext4(device: &Path) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", device)?;
    // Blocks that a job frees go back to the disk below.
    fsconfig_set_flag(&fs, "discard")?;
    fsconfig_set_flag(&fs, "noinit_itable")?;
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::File { operation, path, source }
}
