//! The jail's file system, made of detached mounts and attached by descriptor.
//!
//! Invariants: no path of the image is ever resolved by the kernel outside the image (`RESOLVE_IN_ROOT`, no
//! magic links); what the image must not redirect (`/proc`, `/dev`, `/tmp`) may not be a symbolic link at all;
//! device nodes are the host's own, checked by number; everything is attached before the pivot, and after it
//! the host's tree cannot be named.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, makedev, mkdirat, openat, openat2, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};

use crate::kernel::mount_add_attributes;
use crate::orders::{JailPlan, Step, StepFailed};

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

/// Files that the runner makes for each run and the jail cannot change.
const ETC_FILES: [&str; 3] = ["hosts", "resolv.conf", "hostname"];

/// The size of `/dev/shm`, in bytes: what container engines give by default.
const SHM_BYTES: u64 = 64 << 20;

/// How many files `/tmp` and `/dev/shm` may hold.
const TMP_INODES: u64 = 262_144;

/// Where an image may lead us: anywhere inside itself, by no link of procfs.
const IN_IMAGE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Where an image may not lead us at all.
const NO_LINKS: ResolveFlags = IN_IMAGE.union(ResolveFlags::NO_SYMLINKS);

const SAFE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Builds the tree of `plan` and makes it the root. The working directory is the state directory before, and
/// `/` of the jail after.
pub(super) fn mount_and_pivot(plan: &JailPlan) -> Result<(), StepFailed> {
    let everything = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", everything).step("make mounts private")?;

    let image = overlay(plan)?;
    let merged = format!("{}/merged", plan.run_dir);
    attach_at(&image, &merged).step("attach the image")?;
    let root = openat(CWD, &merged, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step("open the image")?;

    let proc = proc().step("mount /proc")?;
    attach(&proc, &directory(&root, "proc").step("find /proc in the image")?).step("attach /proc")?;
    devices(&directory(&root, "dev").step("find /dev in the image")?)?;
    let tmp = tmpfs(plan.limits.tmp_bytes, TMP_INODES, "1777", SAFE).step("mount /tmp")?;
    attach(&tmp, &directory(&root, "tmp").step("find /tmp in the image")?).step("attach /tmp")?;
    for name in ETC_FILES {
        runner_file(&root, &plan.run_dir, name).step(&format!("mount /etc/{name}"))?;
    }
    make_directories(&root, &plan.working_dir).step("make the working directory")?;
    if plan.read_only {
        let attributes = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
        mount_add_attributes(&image, attributes).step("make the image read-only")?;
    }
    pivot_to(&root)
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

fn pivot_to(root: &OwnedFd) -> Result<(), StepFailed> {
    rustix::process::fchdir(root).step("enter the new root")?;
    // With both arguments the same, the old root ends up on top of the new one, and goes with one unmount.
    rustix::process::pivot_root(".", ".").step("pivot the root")?;
    unmount(".", UnmountFlags::DETACH).step("detach the host's tree")?;
    rustix::process::chdir("/").step("enter the jail's root")
}

/// The image below, what the run writes above it on disk. `userxattr` because the mounter is no root of the
/// host, so `trusted.*` attributes are not its to write.
fn overlay(plan: &JailPlan) -> Result<OwnedFd, StepFailed> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step("open overlayfs")?;
    let options = [
        ("lowerdir", plan.root.clone()),
        ("upperdir", format!("{}/upper", plan.run_dir)),
        ("workdir", format!("{}/work", plan.run_dir)),
    ];
    for (key, value) in options {
        fsconfig_set_string(&fs, key, value).step(&format!("set the overlay's {key}"))?;
    }
    fsconfig_set_flag(&fs, "userxattr").step("set the overlay's userxattr")?;
    fsconfig_create(&fs).step("create the overlay")?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, SAFE).step("mount the overlay")
}

/// Only processes: no `/proc/sys`, no `/proc/kcore`, nothing of the host.
fn proc() -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "subset", "pid")?;
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, SAFE | MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

fn tmpfs(bytes: u64, inodes: u64, mode: &str, attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "size", bytes.to_string())?;
    fsconfig_set_string(&fs, "nr_inodes", inodes.to_string())?;
    fsconfig_set_string(&fs, "mode", mode)?;
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A `/dev` of our own at `place`: five nodes, four links, `/dev/shm`; then it is sealed.
fn devices(place: &OwnedFd) -> Result<(), StepFailed> {
    let attributes = SAFE | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = tmpfs(65_536, 64, "0755", attributes).step("mount /dev")?;
    for (name, target) in LINKS {
        symlinkat(target, &dev, name).step(&format!("link /dev/{name}"))?;
    }
    mkdirat(&dev, "shm", Mode::from_raw_mode(0o755)).step("make /dev/shm")?;
    attach(&dev, place).step("attach /dev")?;
    for (name, major, minor) in NODES {
        device(&dev, name, makedev(major, minor)).step(&format!("bind /dev/{name}"))?;
    }
    let shm = tmpfs(SHM_BYTES, TMP_INODES, "1777", attributes).step("mount /dev/shm")?;
    attach(&shm, &directory(&dev, "shm").step("open /dev/shm")?).step("attach /dev/shm")?;
    mount_add_attributes(&dev, u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits())).step("seal /dev")
}

/// Binds the host's node, if it is the node that its name promises.
fn device(dev: &OwnedFd, name: &str, number: u64) -> rustix::io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let node = open_tree(CWD, format!("/dev/{name}"), flags)?;
    let status = rustix::fs::fstat(&node)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::CharacterDevice || status.st_rdev != number {
        return Err(rustix::io::Errno::NODEV);
    }
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(openat(dev, name, create, Mode::from_raw_mode(0o666))?);
    let place = openat(dev, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    attach(&node, &place)
}

/// Lays the run's own file over `/etc/NAME`, wherever in the image that leads.
fn runner_file(root: &OwnedFd, run_dir: &str, name: &str) -> rustix::io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let file = open_tree(CWD, format!("{run_dir}/etc/{name}"), flags)?;
    let attributes = SAFE | MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount_add_attributes(&file, u64::from(attributes.bits())).map_err(errno_of)?;
    let target = format!("etc/{name}");
    let find = OFlags::PATH | OFlags::CLOEXEC;
    let place = match openat2(root, &target, find, Mode::empty(), IN_IMAGE) {
        Err(rustix::io::Errno::NOENT) => {
            make_directories(root, "etc")?;
            let create = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(openat2(root, &target, create, Mode::from_raw_mode(0o644), IN_IMAGE)?);
            openat2(root, &target, find, Mode::empty(), IN_IMAGE)?
        }
        found => found?,
    };
    attach(&file, &place)
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
