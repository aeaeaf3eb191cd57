//! Which system calls a service may make: a list of what is allowed; everything else does not exist.
//!
//! Invariants: no call makes a namespace, a mount, a key, a BPF program, an io_uring or a trace; sockets are
//! Unix, TCP or UDP over IPv4 and IPv6, or rtnetlink; no call takes huge pages or a realtime policy; a call of
//! another architecture, or of x86-64's x32 table, kills. The answer to everything else is `ENOSYS`, which programs
//! take as "an older kernel" and fall back from: that is how glibc gets from `clone3`, whose flags no filter can
//! see, to `clone`, whose flags this one checks.
//!
//! The program is made by the compiler: [`super::calls`] and [`checks`] are the lists, [`tree`] turns them into a
//! search, [`tape`] writes it down. At run time there is only a constant to attach.

mod checks;

mod tree;

mod tape;

#[cfg(test)]
mod tests;

use seccompiler::sock_filter;

use super::calls::{ALWAYS, OPAQUE};
use checks::{CHECKED, GPU_IOCTL, IOCTL, WHITEOUTS};
use tape::Tape;
use tree::Machine;

/// A filter; attached in each child.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Filter {
    /// Of every jail, and of the program that seals layers.
    Service,
    /// Of the unpacker, which also writes down what a layer hides.
    Unpacker,
    /// Of the runner's own program, which may also command a GPU that it was given.
    Worker,
}

#[cfg(target_arch = "x86_64")]
const HERE: Machine = Machine { arch: 0xC000_003E, has_x32: true };

#[cfg(target_arch = "aarch64")]
const HERE: Machine = Machine { arch: 0xC000_00B7, has_x32: false };

static TAPE: Tape = tree::compile(HERE, &ALWAYS, &[CHECKED, IOCTL]);

static PROGRAM: &[sock_filter] = TAPE.program();

static UNPACKER_TAPE: Tape = tree::compile(HERE, &[ALWAYS[0], ALWAYS[1], OPAQUE], &[CHECKED, IOCTL, WHITEOUTS]);

static UNPACKER_PROGRAM: &[sock_filter] = UNPACKER_TAPE.program();

static WORKER_TAPE: Tape = tree::compile(HERE, &ALWAYS, &[CHECKED, GPU_IOCTL]);

static WORKER_PROGRAM: &[sock_filter] = WORKER_TAPE.program();

// === impl Filter ===

impl Filter {
    /// Attaches the filter to the calling thread, which must already have given up new privileges.
    pub(crate) fn apply(self) -> std::io::Result<()> {
        let program = match self {
            Self::Service => PROGRAM,
            Self::Unpacker => UNPACKER_PROGRAM,
            Self::Worker => WORKER_PROGRAM,
        };
        seccompiler::apply_filter(program).map_err(|error| match error {
            seccompiler::Error::Prctl(source) | seccompiler::Error::Seccomp(source) => source,
            _ => std::io::ErrorKind::InvalidInput.into(),
        })
    }
}
