//! What every jail finds besides its image: a `/dev` and three files of `/etc`, on a small file system of their own.
//!
//! The runner makes it for each service of an open source, and the jails of that service bind from it. Nothing of it is the host's: not the device nodes,
//! which two sources could else lock against each other and touch for everybody, and not the file system, whose path,
//! options and `syncfs` would else be the job's to see and use.
//!
//! Invariants: it is read-only once it stands; it lives in the runner's own mount namespace, and goes when its source is stopped.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dev, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, unmount,
};

use crate::kernel::mount_add_attributes;

/// The device nodes of a jail, with their numbers (Linux `admin-guide/devices.txt`).
const NODES: [(&str, u32, u32); 5] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)];

/// What programs expect in `/dev` besides nodes.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Room for the files of `/etc`, the longest of which names every service and alias of a source.
const OPTIONS: [(&str, &str); 3] = [("size", "262144"), ("nr_inodes", "32"), ("mode", "0755")];

/// A device of the machine that a jail is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its name in `/dev`.
    pub(crate) name: String,
    /// As the machine's own node says it.
    pub(crate) number: Dev,
}

/// One service's; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Furniture {
    mount: PathBuf,
}

/// Furniture that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{step} at {}", mount.display())]
pub(crate) struct FurnitureError {
    step: &'static str,
    mount: PathBuf,
    #[source]
    source: io::Error,
}

// === impl Furniture ===

impl Furniture {
    /// Makes it at the directory `mount`, with the files of `/etc` that are given: name and text; and with `devices`
    /// beside those that every jail has: name and number.
    pub(crate) fn make(mount: PathBuf, etc: &[(&str, String)], devices: &[Device]) -> Result<Self, FurnitureError> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let made = tmpfs(attributes).map_err(|errno| ("mount a tmpfs", errno.into()));
        let made = made.and_then(|tree| {
            fill_dev(&tree, devices).map_err(|errno| ("make /dev", errno.into()))?;
            fill_etc(&tree, etc).map_err(|error| ("make /etc", error))?;
            let sealed = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
            mount_add_attributes(&tree, sealed).map_err(|error| ("seal the tmpfs", error))?;
            attach(&tree, &mount).map_err(|errno| ("attach the tmpfs", errno.into()))
        });
        match made {
            Ok(()) => Ok(Self { mount }),
            Err((step, source)) => Err(FurnitureError { step, mount, source }),
        }
    }

    /// Where the jail finds its `/dev`, below the mount.
    pub(crate) const DEV: &'static str = "dev";

    /// Where the jail finds its files of `/etc`, below the mount.
    pub(crate) const ETC: &'static str = "etc";
}

impl Drop for Furniture {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.mount, UnmountFlags::DETACH) {
            tracing::warn!(mount = %self.mount.display(), %error, "a service's furniture stays mounted");
            return;
        }
        // An empty directory; the next opening makes it again.
        let _ = std::fs::remove_dir(&self.mount);
    }
}

fn tmpfs(attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in OPTIONS {
        fsconfig_set_string(&fs, key, value)?;
    }
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Five nodes, four links, and the place of `/dev/shm`.
fn fill_dev(tree: &OwnedFd, devices: &[Device]) -> rustix::io::Result<()> {
    mkdirat(tree, Furniture::DEV, Mode::from_raw_mode(0o755))?;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dev = openat(tree, Furniture::DEV, directory, Mode::empty())?;
    mkdirat(&dev, "shm", Mode::from_raw_mode(0o755))?;
    for (name, target) in LINKS {
        symlinkat(target, &dev, name)?;
    }
    let nodes = NODES.iter().map(|(name, major, minor)| (*name, makedev(*major, *minor)));
    let further = devices.iter().map(|device| (device.name.as_str(), device.number));
    for (name, number) in nodes.chain(further) {
        mknodat(&dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), number)?;
        // The umask took the right to write from others.
        rustix::fs::chmodat(&dev, name, Mode::from_raw_mode(0o666), rustix::fs::AtFlags::empty())?;
    }
    Ok(())
}

fn fill_etc(tree: &OwnedFd, etc: &[(&str, String)]) -> io::Result<()> {
    mkdirat(tree, Furniture::ETC, Mode::from_raw_mode(0o755))?;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(tree, Furniture::ETC, directory, Mode::empty())?;
    for (name, text) in etc {
        let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&dir, *name, create, Mode::from_raw_mode(0o644))?;
        io::Write::write_all(&mut std::fs::File::from(file), text.as_bytes())?;
    }
    Ok(())
}

fn attach(tree: &OwnedFd, mount: &Path) -> rustix::io::Result<()> {
    move_mount(tree, "", CWD, mount, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}
