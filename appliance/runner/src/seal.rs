//! Seals one unpacked layer: what the child of a `clone3` does until `mkfs.erofs` is executed in it.
//!
//! The program is the distribution's, and it reads names, attributes and contents that a stranger chose; so it
//! gets what the unpacker gets. Its root is an empty tmpfs with the host's `/usr` to run from, the layer's tree,
//! and the file to write; all but the file is read-only. There is no network, no `/proc`, no `/dev`. Its ids are
//! the slot's, so that the sealed layer speaks of the image's own ids, whichever slot it was made in. Of root's
//! powers one is left: to read what a file's mode would keep from it, within the slot's ids.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use runner::wire;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, readlink, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
};
use rustix::process::Resource;

use crate::jail::{
    Files, Filter, Kept, NetworkUse, Progress, become_mapped_root, drop_privileges, limit_common, pivot_to, restrict,
};
use crate::kernel;
use crate::orders::{SealPlan, Step, StepFailed};

/// Its address space, in bytes: it keeps all inodes of a layer in memory, some hundreds of bytes each, of at
/// most half a million.
const ADDRESS_SPACE_BYTES: u64 = 4 << 30;

/// Its threads: newer releases have one for each processor.
const PROCESSES: u64 = 64;

/// The file-system identifier of every layer: a layer's name is its blob's digest, and equal layers are to be
/// equal files.
const UUID: &str = "00000000-0000-0000-0000-000000000000";

/// The superblock's time, Unix seconds, so that it is always the same. Files with a later time get this one, so
/// it is far off: 2100-01-01.
const BUILT_UNIX: u64 = 4_102_444_800;

/// Where a program of `/usr` and its loader expect things; on most hosts links into `/usr`.
const ALIASES: [&str; 5] = ["bin", "sbin", "lib", "lib32", "lib64"];

const READ_ONLY: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_RDONLY.union(MountAttrFlags::MOUNT_ATTR_NOSUID).union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Becomes the program; does not return.
pub(crate) fn enter(plan: &SealPlan, handshake: &OwnedFd, complaints: &OwnedFd) -> ! {
    match confine(plan, handshake, complaints).and_then(|()| execute(plan)) {
        Ok(never) => match never {},
        Err(failure) => {
            // If even this fails the program seems to have been executed, and to have failed.
            let _ = wire::send(handshake, &Progress::Refused(failure.into()), &[]);
            kernel::exit_now(127)
        }
    }
}

fn confine(plan: &SealPlan, handshake: &OwnedFd, complaints: &OwnedFd) -> Result<(), StepFailed> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).step("open /dev/null")?;
    rustix::stdio::dup2_stdin(null).step("set standard input")?;
    let null = rustix::fs::open("/dev/null", OFlags::WRONLY, Mode::empty()).step("open /dev/null")?;
    rustix::stdio::dup2_stdout(null).step("set standard output")?;
    rustix::stdio::dup2_stderr(complaints).step("set standard error")?;
    kernel::close_all_but(&[handshake.as_fd()]).step("close descriptors")?;
    become_mapped_root().step("become the slot's root")?;
    let root = root(plan)?;
    pivot_to(&root)?;
    limit_common().step("set resource limits")?;
    crate::jail::lower(Resource::Fsize, plan.bytes_max).step("set resource limits")?;
    crate::jail::lower(Resource::As, ADDRESS_SPACE_BYTES).step("set resource limits")?;
    crate::jail::lower(Resource::Nproc, PROCESSES).step("set resource limits")?;
    drop_privileges(0, 0, Kept::Reading)?;
    restrict(NetworkUse::None, Files::Service { devices: &[] })?;
    Filter::Service.apply().step("attach the seccomp filter")?;
    wire::send(handshake, &Progress::Ready, &[]).map_err(|_| Errno::EPIPE).step("tell the spawner")?;
    kernel::restore_signals();
    Ok(())
}

/// Without compression. Measured on Debian with Python (73 MB) and on its packages (60 MB): lz4 takes 0.56 and
/// 0.64 of the bytes and twice the time to seal, and Python starts no slower from it. But a read of what is not
/// cached costs the job a decompression, and the kernel's code for it is the larger part of erofs; none of it is
/// for a stranger's bytes to reach.
fn execute(plan: &SealPlan) -> Result<std::convert::Infallible, StepFailed> {
    // Attributes stay with the inode; there are none but overlayfs's.
    let arguments = [plan.program.as_str(), "--quiet", "-x2", "-U", UUID, "/layer", "/tree"];
    let arguments = arguments.map(CString::new).into_iter().collect::<Result<Vec<_>, _>>().step("read the order")?;
    let program = CString::new(plan.program.as_str()).step("read the order")?;
    let environment = [CString::new(format!("SOURCE_DATE_EPOCH={BUILT_UNIX}")).step("read the order")?];
    nix::unistd::execve(&program, &arguments, &environment).step("execute mkfs.erofs")
}

/// Assembles the root, attached somewhere below the state directory; the mount namespace goes with the process.
fn root(plan: &SealPlan) -> Result<OwnedFd, StepFailed> {
    let everything = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", everything).step("make mounts private")?;
    let usr = clone("/usr", OpenTreeFlags::AT_RECURSIVE).step("clone /usr")?;
    let tree = clone(&plan.tree, OpenTreeFlags::empty()).step("clone the unpacked layer")?;
    let output = clone(&plan.output, OpenTreeFlags::empty()).step("clone the output")?;

    let root = tmpfs().step("mount the root")?;
    // Anywhere will do: the place is hidden only in this namespace.
    move_mount(root.as_fd(), "", CWD, plan.tree.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .step("attach the root")?;
    let everything_below = u64::from(READ_ONLY.bits());
    place(&root, &usr, "usr", true)?;
    kernel::mount_add_attributes_below(&usr, everything_below).step("restrict /usr")?;
    place(&root, &tree, "tree", true)?;
    kernel::mount_add_attributes(&tree, everything_below | u64::from(MountAttrFlags::MOUNT_ATTR_NOEXEC.bits()))
        .step("restrict the unpacked layer")?;
    place(&root, &output, "layer", false)?;
    for name in ALIASES {
        alias(&root, name)?;
    }
    kernel::mount_add_attributes(&root, everything_below).step("restrict the root")?;
    Ok(root)
}

/// A link where the host has a link, the directory itself where it has one, nothing where it has nothing.
fn alias(root: &OwnedFd, name: &str) -> Result<(), StepFailed> {
    let path = format!("/{name}");
    match readlink(&path, Vec::new()) {
        Ok(target) => symlinkat(target, root, name).step(&format!("link {path}")),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::INVAL) => {
            let directory = clone(&path, OpenTreeFlags::AT_RECURSIVE).step(&format!("clone {path}"))?;
            place(root, &directory, name, true)?;
            kernel::mount_add_attributes_below(&directory, u64::from(READ_ONLY.bits()))
                .step(&format!("restrict {path}"))
        }
        Err(errno) => Err(errno).step(&format!("look at {path}")),
    }
}

fn clone(path: &str, more: OpenTreeFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(CWD, path, flags | more)
}

/// Room for a few names; nothing is ever written to it.
fn tmpfs() -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("size", "65536"), ("nr_inodes", "32"), ("mode", "0755")] {
        fsconfig_set_string(&fs, key, value)?;
    }
    fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Attaches `mount` as `name`, directly below `root`.
fn place(root: &OwnedFd, mount: &OwnedFd, name: &str, directory: bool) -> Result<(), StepFailed> {
    let made = if directory {
        mkdirat(root, name, Mode::from_raw_mode(0o755))
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(root, name, flags, Mode::from_raw_mode(0o600)).map(drop)
    };
    made.step(&format!("make /{name}"))?;
    let place = openat(root, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let place = place.step(&format!("open /{name}"))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount.as_fd(), "", place.as_fd(), "", flags).step(&format!("attach /{name}"))
}
