//! The system calls that no safe wrapper offers. Every `unsafe` of the runner stands in this file.
//!
//! They are unsafe for two reasons only: the call duplicates the process (`clone3`, `fork`), or it has no
//! wrapper at all (`mount_setattr`, `close_range`). The duplicating calls are legal here because the spawner is
//! single-threaded by construction: it starts no thread, and its dependencies start none.
#![expect(unsafe_code, reason = "clone3, fork, mount_setattr, close_range and signal have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::signal::{SigHandler, Signal};
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

/// Duplicates the calling process into new namespaces (`CLONE_NEW*` in `namespaces`).
///
/// `clone3` rather than `unshare` and `fork`: only `clone3` can name the time namespace and hand out the pidfd
/// without a moment in which the pid could be another's.
pub(crate) fn clone_into(namespaces: u64) -> io::Result<Side<Cloned>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: `clone_args` is plain integers, for which all zeroes is a value (and means "not used").
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    arguments.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
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
    // SAFETY: the path is an empty C string, the struct outlives the call, and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives SIGPIPE its default meaning back; Rust's runtime ignores it, and `execve` would pass that on.
pub(crate) fn restore_sigpipe() -> io::Result<()> {
    // SAFETY: SIG_DFL installs no handler, so nothing can run in signal context.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}
