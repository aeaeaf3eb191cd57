//! The jail's file system, made of detached mounts and attached by descriptor.
//!
//! Invariants: no path of the image is ever resolved by the kernel outside the image (`RESOLVE_IN_ROOT`, no
//! magic links); what the image must not redirect (`/proc`, `/dev`, `/tmp`) may not be a symbolic link at all, and is
//! attached last; no mount in it is one of the host's file systems; everything is attached before the pivot, and after it
//! the host's tree cannot be named.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use runner::protocol::TmpfsMount;
use rustix::fs::{
    AtFlags, CWD, Dir, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fchmod, fstat, mkdirat, openat, openat2, unlinkat,
};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
};

use super::overlay::overlay;
use super::whole::whole;
use crate::kernel::mount_add_attributes;
use crate::orders::{JailPlan, MountPlan, RootPlan, Step, StepFailed, VolumeBind};

/// Files that the runner makes for each run and the jail cannot change.
pub(super) const ETC_FILES: [&str; 3] = ["hosts", "resolv.conf", "hostname"];

/// Room for the mount points of a jail, in bytes.
const UPPER_BYTES: u64 = 1 << 20;

/// How many files a temporary file system may hold at most.
const TMP_INODES: u64 = 262_144;

/// How many files a temporary file system holds, however small it is.
const TMP_INODES_MIN: u64 = 256;

/// Where an image may lead us: anywhere inside itself, by no link of procfs.
pub(super) const IN_IMAGE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Where an image may not lead us at all.
pub(super) const NO_LINKS: ResolveFlags = IN_IMAGE.union(ResolveFlags::NO_SYMLINKS);

const SAFE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Builds the tree of `plan` and makes it the root. The working directory is the state directory before, and
/// `/` of the jail after.
pub(super) fn mount_and_pivot(plan: &JailPlan) -> Result<(), StepFailed> {
    let everything = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", everything).step("make mounts private")?;

    let image = match whole(plan)? {
        Some(image) => image,
        None => {
            if plan.root.is_sealed {
                own_upper(&plan.root)?;
            }
            overlay(&plan.root)?
        }
    };
    let merged = &plan.root.merged;
    attach_at(&image, merged).step("attach the image")?;
    let root = openat(CWD, merged, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step("open the image")?;

    if !plan.mounts.iter().any(|mount| mount.target() == "/tmp") {
        let tmp = tmpfs(plan.limits.tmp_bytes, "1777", SAFE).step("mount /tmp")?;
        attach(&tmp, &directory(&root, "tmp").step("find /tmp in the image")?).step("attach /tmp")?;
    }
    for mount in &plan.mounts {
        match mount {
            MountPlan::Tmpfs(tmpfs) => self::own_tmpfs(&root, tmpfs)?,
            MountPlan::Volume(volume) => self::volume(&root, volume)?,
        }
    }
    // After what the service mounts: wherever a link of the image or of a volume has led that, these lie above it.
    for name in ETC_FILES {
        runner_file(&root, &plan.root.etc, name).step(&format!("mount /etc/{name}"))?;
    }
    let proc = proc().step("mount /proc")?;
    attach(&proc, &directory(&root, "proc").step("find /proc in the image")?).step("attach /proc")?;
    devices(&directory(&root, "dev").step("find /dev in the image")?, plan)?;
    make_directories(&root, &plan.working_dir).step("make the working directory")?;
    if plan.root.is_sealed {
        let attributes = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
        mount_add_attributes(&image, attributes).step("make the image read-only")?;
    }
    pivot_to(&root)
}

/// Where the mount points of a root that nobody writes to are made: in memory, so that its overlay has nothing of the
/// host's disk.
fn own_upper(root: &RootPlan) -> Result<(), StepFailed> {
    let disk = tmpfs(UPPER_BYTES, "0755", SAFE).step("mount the jail's own upper directory")?;
    for path in [&root.upper, &root.work] {
        let name = path.rsplit('/').next().unwrap_or(path);
        mkdirat(&disk, name, Mode::from_raw_mode(0o755)).step("make the jail's own upper directory")?;
    }
    let place = root.upper.rsplit_once('/').map_or("", |(place, _)| place);
    attach_at(&disk, place).step("attach the jail's own upper directory")
}

/// Makes the directory `path` the root of the calling process, alone in its mount namespace.
pub(crate) fn become_root(path: &str) -> Result<(), StepFailed> {
    let everything = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", everything).step("make mounts private")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags).step("clone the target's mount")?;
    let attributes = SAFE | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount_add_attributes(&tree, u64::from(attributes.bits())).step("restrict the target's mount")?;
    attach_at(&tree, path).step("attach the target")?;
    pivot_to(&tree)
}

pub(crate) fn pivot_to(root: &OwnedFd) -> Result<(), StepFailed> {
    rustix::process::fchdir(root).step("enter the new root")?;
    // With both arguments the same, the old root ends up on top of the new one, and goes with one unmount.
    rustix::process::pivot_root(".", ".").step("pivot the root")?;
    unmount(".", UnmountFlags::DETACH).step("detach the host's tree")?;
    rustix::process::chdir("/").step("enter the jail's root")
}

/// Only processes: no `/proc/sys`, no `/proc/kcore`, nothing of the host.
fn proc() -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "subset", "pid")?;
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, SAFE | MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

/// An inode takes kernel memory that the size does not count, so there is one for each page.
fn tmpfs(bytes: u64, mode: &str, attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let inodes = (bytes / 4096).clamp(TMP_INODES_MIN, TMP_INODES);
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "size", bytes.to_string())?;
    fsconfig_set_string(&fs, "nr_inodes", inodes.to_string())?;
    fsconfig_set_string(&fs, "mode", mode)?;
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// The run's own `/dev` at `place`, and `/dev/shm` in it.
fn devices(place: &OwnedFd, plan: &JailPlan) -> Result<(), StepFailed> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let dev = open_tree(CWD, plan.root.dev.as_str(), flags).step("clone /dev")?;
    attach(&dev, place).step("attach /dev")?;
    let shm = tmpfs(plan.limits.shm_bytes, "1777", SAFE | MountAttrFlags::MOUNT_ATTR_NOEXEC).step("mount /dev/shm")?;
    attach(&shm, &directory(&dev, "shm").step("open /dev/shm")?).step("attach /dev/shm")
}

fn own_tmpfs(root: &OwnedFd, TmpfsMount { target, bytes, mode }: &TmpfsMount) -> Result<(), StepFailed> {
    let mount = tmpfs(*bytes, &format!("{:04o}", mode & 0o1777), SAFE).step(&format!("mount a tmpfs for {target}"))?;
    attach(&mount, &place(root, target)?).step(&format!("attach the tmpfs at {target}"))
}

/// Lays the run's own file over `/etc/NAME`, wherever in the image that leads.
fn runner_file(root: &OwnedFd, etc: &str, name: &str) -> rustix::io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let file = open_tree(CWD, format!("{etc}/{name}"), flags)?;
    let attributes = SAFE | MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount_add_attributes(&file, u64::from(attributes.bits())).map_err(errno_of)?;
    let target = format!("etc/{name}");
    let find = OFlags::PATH | OFlags::CLOEXEC;
    let place = match openat2(root, &target, find, Mode::empty(), IN_IMAGE) {
        Err(rustix::io::Errno::NOENT) => {
            make_directories(root, "etc")?;
            let etc = openat2(root, "etc", find | OFlags::DIRECTORY, Mode::empty(), IN_IMAGE)?;
            // A link that leads nowhere, as to the resolver's file of a machine with systemd, makes way.
            match unlinkat(&etc, name, AtFlags::empty()) {
                Err(rustix::io::Errno::NOENT) => {}
                unlinked => unlinked?,
            }
            let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            drop(openat(&etc, name, create, Mode::from_raw_mode(0o644))?);
            openat(&etc, name, find | OFlags::NOFOLLOW, Mode::empty())?
        }
        found => found?,
    };
    attach(&file, &place)
}

/// Attaches a volume where the service wants it. An empty one takes the owner and mode of the directory that it
/// covers, as container engines do: an image prepares that directory for its own user.
fn volume(root: &OwnedFd, VolumeBind { from, target, read_only }: &VolumeBind) -> Result<(), StepFailed> {
    let place = place(root, target)?;
    let step = |what: &str| format!("{what} the volume of {target}");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let volume = open_tree(CWD, from.as_str(), flags).step(&step("clone"))?;
    let entries = openat(&volume, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let entries = entries.and_then(Dir::new).step(&step("read"))?;
    let is_empty = !entries.flatten().any(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."));
    if is_empty {
        let covered = fstat(&place).step(&step("look below"))?;
        let (uid, gid) = (Uid::from_raw(covered.st_uid), Gid::from_raw(covered.st_gid));
        chownat(&volume, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).step(&step("give away"))?;
        let directory = openat(&volume, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let mode = Mode::from_raw_mode(covered.st_mode & 0o1777);
        directory.and_then(|directory| fchmod(&directory, mode)).step(&step("set the mode of"))?;
    }
    let attributes = if *read_only { SAFE | MountAttrFlags::MOUNT_ATTR_RDONLY } else { SAFE };
    mount_add_attributes(&volume, u64::from(attributes.bits())).step(&step("restrict"))?;
    attach(&volume, &place).step(&step("attach"))
}

/// The directory at an absolute path inside the jail, made if absent. The image's own links may lead to it, but
/// not out of the image.
fn place(root: &OwnedFd, target: &str) -> Result<OwnedFd, StepFailed> {
    let step = format!("find {target} in the image");
    make_directories(root, target).step(&step)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, target, flags, Mode::empty(), IN_IMAGE).step(&step)
}

/// The directory `name` directly below `root`, made if absent; `ELOOP` if the image made it a link.
fn directory(root: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(root, name, flags, Mode::empty(), NO_LINKS) {
        Err(rustix::io::Errno::NOENT) => {
            mkdirat(root, name, Mode::from_raw_mode(0o755))?;
            openat2(root, name, flags, Mode::empty(), NO_LINKS)
        }
        found => found,
    }
}

/// Makes every missing directory of `path` inside the image.
fn make_directories(root: &OwnedFd, path: &str) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut parent = openat2(root, ".", flags, Mode::empty(), IN_IMAGE)?;
    let mut so_far = String::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        so_far.push('/');
        so_far.push_str(name);
        // Each prefix is resolved from the root again, so that `..` behind a link cannot leave the image.
        parent = match openat2(root, &so_far, flags, Mode::empty(), IN_IMAGE) {
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                openat2(root, &so_far, flags, Mode::empty(), IN_IMAGE)?
            }
            found => found?,
        };
    }
    Ok(())
}

fn attach(mount: &OwnedFd, place: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount.as_fd(), "", place.as_fd(), "", flags)
}

/// Attaches to a path of the runner's own, relative to the state directory.
fn attach_at(mount: &OwnedFd, path: &str) -> rustix::io::Result<()> {
    move_mount(mount.as_fd(), "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn errno_of(error: std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(error.raw_os_error().unwrap_or(Errno::EIO as i32))
}
