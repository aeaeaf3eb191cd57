//! The system calls that no safe wrapper offers. Every `unsafe` of the runner stands in this file.
//!
//! They are unsafe for two reasons only: the call duplicates the process (`clone3`, `fork`), or it has no
//! wrapper at all (`mount_setattr`, `close_range`, loop devices, the version of Landlock). The duplicating calls are
//! legal here because the spawner is single-threaded by construction: it starts no thread, and its dependencies
//! start none.
#![expect(unsafe_code, reason = "clone3, fork, mount_setattr, close_range and loop devices have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::unistd::ForkResult;
use rustix::process::Pid;

/// Which side of a `clone3` or `fork` this is.
#[derive(Debug)]
pub(crate) enum Side<P> {
    /// The process that called.
    Parent(P),
    /// The new process. It must end in [`exit_now`], never by returning into the parent's code.
    Child,
}

/// A new process, as its parent sees it.
#[derive(Debug)]
pub(crate) struct Cloned {
    /// Its number in the parent's pid namespace.
    pub(crate) pid: Pid,
    /// Readable when it has ended.
    pub(crate) pidfd: OwnedFd,
}

/// Of `linux/sched.h`; too wide for the type that the C library's header gives to its sisters.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Duplicates the calling process into new namespaces (`CLONE_NEW*` in `namespaces`).
///
/// `clone3` rather than `unshare` and `fork`: only `clone3` can name the time namespace and hand out the pidfd
/// without a moment in which the pid could be another's.
///
/// With a `cgroup` (of version 2) the new process is born in it, so that no instruction of it runs outside.
pub(crate) fn clone_into(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side<Cloned>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: `clone_args` is plain integers, for which all zeroes is a value (and means "not used").
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    arguments.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: the arguments outlive the call and their size is given. Without CLONE_VM the child has a copy of
    // this memory, and since the spawner has one thread no lock in that copy is held by a thread that is gone.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match i32::try_from(result).ok().filter(|pid| *pid >= 0) {
        None => Err(io::Error::last_os_error()),
        Some(0) => Ok(Side::Child),
        Some(pid) => {
            let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
            // SAFETY: CLONE_PIDFD made the kernel store a new descriptor there that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent(Cloned { pid, pidfd }))
        }
    }
}

/// Duplicates the calling process.
pub(crate) fn fork() -> io::Result<Side<Pid>> {
    // SAFETY: only called by the first process of a jail, which is a copy of the single-threaded spawner.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Side::Child),
        ForkResult::Parent { child } => {
            let pid = Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Side::Parent(pid))
        }
    }
}

/// Ends the process at once: no destructors, no exit handlers, which belong to the process it was copied from.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from 3 upwards except those in `keep`.
///
/// Descriptors are closed behind the back of any `OwnedFd` in the copied memory; the child ends in
/// [`exit_now`], so no destructor will close a number that has been given to something else.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closing descriptors touches no memory; see `close_all_but` for why no owner is surprised.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Adds `MOUNT_ATTR_*` bits to a mount.
pub(crate) fn mount_add_attributes(mount: impl AsFd, attributes: u64) -> io::Result<()> {
    let request = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    mount_setattr(mount.as_fd(), 0, request)
}

/// Adds `MOUNT_ATTR_*` bits to a mount and to every mount below it.
pub(crate) fn mount_add_attributes_below(mount: impl AsFd, attributes: u64) -> io::Result<()> {
    let request = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    mount_setattr(mount.as_fd(), libc::AT_RECURSIVE, request)
}

/// Shows a detached mount's ids as what the user namespace maps them to.
pub(crate) fn mount_map_ids(mount: impl AsFd, namespace: impl AsFd) -> io::Result<()> {
    let userns_fd = u64::from(namespace.as_fd().as_raw_fd().cast_unsigned());
    let request = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    mount_setattr(mount.as_fd(), 0, request)
}

fn mount_setattr(mount: BorrowedFd<'_>, more: i32, request: libc::mount_attr) -> io::Result<()> {
    // SAFETY: the path is an empty C string, the struct outlives the call, and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | more,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Which version of Landlock's interface this kernel has; 0 if it has none, or it was not enabled at boot.
pub(crate) fn landlock_abi() -> i32 {
    /// `LANDLOCK_CREATE_RULESET_VERSION`.
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call takes a null pointer and a zero length, and only answers a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    i32::try_from(version).unwrap_or(0).max(0)
}

/// The number of a loop device that nobody uses yet.
pub(crate) fn free_loop(control: impl AsFd) -> io::Result<i64> {
    /// `LOOP_CTL_GET_FREE` of `linux/loop.h`.
    const GET_FREE: libc::c_ulong = 0x4C82;
    // SAFETY: this request takes no argument and touches no memory of the caller.
    let number = unsafe { libc::ioctl(control.as_fd().as_raw_fd(), GET_FREE as _) };
    if number < 0 { Err(io::Error::last_os_error()) } else { Ok(i64::from(number)) }
}

/// `struct loop_config` of `linux/loop.h`, of which only the descriptor and the flags are used.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// `struct loop_info64` up to its flags: five numbers of 64 bits, three of 32.
    unused: [u32; 13],
    flags: u32,
    /// Names, key and `init`.
    names: [u8; 64 + 64 + 32 + 16],
    reserved: [u64; 8],
}

/// Puts `file` behind the loop device `device`, until its last user has gone (`LO_FLAGS_AUTOCLEAR`).
/// `EBUSY` if somebody else was faster.
pub(crate) fn configure_loop(device: impl AsFd, file: impl AsFd) -> io::Result<()> {
    /// `LOOP_CONFIGURE`.
    const CONFIGURE: libc::c_ulong = 0x4C0A;
    const AUTOCLEAR: u32 = 4;
    let config = LoopConfig {
        fd: file.as_fd().as_raw_fd().cast_unsigned(),
        block_size: 0,
        unused: [0; 13],
        flags: AUTOCLEAR,
        names: [0; 176],
        reserved: [0; 8],
    };
    // SAFETY: the request reads a `loop_config`, which is what it is given and which outlives the call.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), CONFIGURE as _, &raw const config) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// Ends an ext4 without writing anything more to it (`EXT4_GOING_FLAGS_NOLOGFLUSH`); only unmounting is left to do.
pub(crate) fn shut_down_ext4(directory: impl AsFd) -> io::Result<()> {
    /// `EXT4_IOC_SHUTDOWN` of `linux/ext4.h`.
    const SHUTDOWN: libc::c_ulong = 0x8004_587D;
    const WITHOUT_FLUSH: u32 = 2;
    // SAFETY: the request reads one `__u32`, which is what it is given and which outlives the call.
    let result =
        unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), SHUTDOWN as _, std::ptr::from_ref(&WITHOUT_FLUSH)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives every signal its default meaning back. Rust's runtime ignores SIGPIPE, and whoever started the runner may ignore
/// more, as a shell does SIGQUIT for what it starts in the background; `execve` would pass that on.
pub(crate) fn restore_signals() {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no handler, so nothing can run in signal context.
        unsafe { libc::signal(number, libc::SIG_DFL) };
        // SIGKILL, SIGSTOP and those of the C library are refused. Nobody can ignore the first two.
    }
}
