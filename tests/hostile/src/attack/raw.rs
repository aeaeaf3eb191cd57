//! System calls that no safe wrapper offers, because nobody but an attacker makes them like this.
#![expect(unsafe_code, reason = "most of what a jail must refuse has no safe wrapper, for good reason")]

use std::ffi::CStr;

use nix::errno::Errno;
use nix::libc;

/// One argument of a system call.
pub(crate) enum Arg<'a> {
    /// A number, a flag, a descriptor, or with 0 a null pointer.
    Int(i64),
    /// Text that the kernel reads.
    Text(&'a CStr),
    /// Memory that the kernel reads or writes, no further than it reaches.
    Bytes(&'a mut [u8]),
}

/// Makes a call and says what the kernel said. For calls that touch no memory but what `arguments` lend them.
pub(crate) fn attempt(call: i64, arguments: &mut [Arg<'_>]) -> Result<i64, Errno> {
    let mut words = [0_i64; 6];
    for (word, argument) in words.iter_mut().zip(arguments) {
        *word = match argument {
            Arg::Int(value) => *value,
            Arg::Text(text) => text.as_ptr() as i64,
            Arg::Bytes(bytes) => bytes.as_mut_ptr() as i64,
        };
    }
    let [a, b, c, d, e, f] = words;
    // SAFETY: every pointer is null or points into memory that `arguments` borrow until this returns, and text is
    // terminated. The callers in this program pass buffers as large as the structures that the call knows, or their
    // length; none of them maps, unmaps or forks.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

/// A descriptor that this process was started with, and keeps open.
pub(crate) fn inherited(fd: i32) -> rustix::fd::BorrowedFd<'static> {
    // SAFETY: whoever asks was started with it, and nothing here closes it.
    unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) }
}

/// Forks; `None` is the child. This program has one thread wherever it forks.
pub(crate) fn fork() -> Result<Option<nix::unistd::Pid>, Errno> {
    // SAFETY: the process has one thread, so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// Calls `getpid` through the gate for 32-bit programs, whose numbers mean other calls than those of 64 bits.
#[cfg(target_arch = "x86_64")]
pub(crate) fn getpid_of_32_bits() -> Result<i64, Errno> {
    let mut result: i64 = 20;
    // SAFETY: call 20 of the 32-bit table takes no argument and writes nothing but its result; the gate may clobber
    // r8 to r11, which are named.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    if result < 0 { Err(Errno::from_raw(i32::try_from(-result).unwrap_or(i32::MAX))) } else { Ok(result) }
}

/// Another architecture has no such gate.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn getpid_of_32_bits() -> Result<i64, Errno> {
    Err(Errno::ENOSYS)
}
