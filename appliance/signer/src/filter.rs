//! What the signer may still do once it serves: very little, and for good.
//!
//! Invariants, from [`lock`] on, for this process and everything that it could become:
//! * No new socket, so no network. The one exception is a TPM behind a Unix socket (a virtual machine's, a test's),
//!   which may have to be called again: then `socket` makes Unix sockets and nothing else.
//! * No other program, no other process, no thread, no executable memory, no look into another process.
//! * Files are opened in the few places that [`Reach`] names. No TCP at all, no signal to anybody outside.
//! * A call that is not on the list kills the process. That is meant: a signer that does what it never does is not
//!   to be trusted with a key, and whatever started it starts it again.
//!
//! What is needed later and cannot be opened then is open already: the socket, the journal's and the log's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// The first Landlock with scopes, which the runner's jail needs as well: Linux 6.12.
const ABI_NEEDED: ABI = ABI::V6;

/// What the state directory is for. Files move between it and `retired/`, hence `Refer`.
const STATE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | Refer
});
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
const DEVICE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile});
/// The socket is removed at the end.
const SOCKET: BitFlags<AccessFs> = make_bitflags!(AccessFs::{RemoveFile});

/// The places that stay in reach.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// The state directory.
    pub(crate) state: PathBuf,
    /// The directory of the signer's socket.
    pub(crate) sockets: PathBuf,
    /// The TPM's device, where it is one.
    pub(crate) device: Option<PathBuf>,
    /// Whether the TPM is behind a Unix socket.
    pub(crate) is_tpm_behind_socket: bool,
    /// What is read again when a closed key is tried again.
    pub(crate) read: Vec<PathBuf>,
}

/// A process that cannot be locked. It must not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("restrict files with Landlock, interface 6 (Linux 6.12)")]
    Landlock(#[from] RulesetError),
    #[error("open {path} for Landlock")]
    Place {
        path: PathBuf,
        #[source]
        source: landlock::PathFdError,
    },
    #[error("compile the filter of system calls")]
    Compile(#[from] seccompiler::BackendError),
    #[error("install the filter of system calls")]
    Install(#[from] seccompiler::Error),
}

/// Locks the process, which must have one thread. Errors: every variant of [`FilterError`].
pub(crate) fn lock(reach: &Reach) -> Result<(), FilterError> {
    restrict_files(reach)?;
    seccompiler::apply_filter_all_threads(&program(reach)?)?;
    Ok(())
}

fn restrict_files(reach: &Reach) -> Result<(), FilterError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI_NEEDED))?
        .handle_access(AccessNet::from_all(ABI_NEEDED))?
        .scope(Scope::from_all(ABI_NEEDED))?
        .create()?;
    let always = [(reach.state.as_path(), STATE), (reach.sockets.as_path(), SOCKET)];
    let device = reach.device.iter().map(|path| (path.as_path(), DEVICE));
    let read = reach.read.iter().map(|path| (path.as_path(), READ));
    for (path, access) in always.into_iter().chain(device).chain(read) {
        let place = PathFd::new(path).map_err(|source| FilterError::Place { path: path.to_owned(), source })?;
        rules = rules.add_rule(PathBeneath::new(place, access & fitting(path)))?;
    }
    rules.restrict_self()?;
    Ok(())
}

/// What Landlock lets a rule say about this kind of place: a file takes no rights of directories.
fn fitting(path: &Path) -> BitFlags<AccessFs> {
    match path.is_dir() {
        true => AccessFs::from_all(ABI_NEEDED),
        false => AccessFs::from_file(ABI_NEEDED),
    }
}

fn program(reach: &Reach) -> Result<BpfProgram, FilterError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    let not_executable = only(2, SeccompCmpOp::MaskedEq(bits(libc::PROT_EXEC)), 0)?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![not_executable.clone()]);
    }
    if reach.is_tpm_behind_socket {
        rules.insert(libc::SYS_socket, vec![only(0, SeccompCmpOp::Eq, bits(libc::AF_UNIX))?]);
        for call in [libc::SYS_connect, libc::SYS_setsockopt] {
            rules.insert(call, Vec::new());
        }
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?;
    Ok(filter.try_into()?)
}

/// The rule that an argument of 32 bits is so.
fn only(argument: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule, FilterError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

fn bits(flag: i32) -> u64 {
    flag.unsigned_abs().into()
}

/// What a signer that serves does, whatever is asked of it.
#[rustfmt::skip]
const CALLS: [i64; 74] = [
    // The socket and its peers; the log of systemd is written with sendto, or for a long line with a file in memory.
    libc::SYS_accept4, libc::SYS_epoll_ctl, libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_getsockopt, libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_recvfrom, libc::SYS_recvmsg,
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_shutdown, libc::SYS_memfd_create,
    // Reading and writing what is open, or lies where Landlock lets it be opened.
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64,
    libc::SYS_lseek, libc::SYS_close, libc::SYS_openat, libc::SYS_open, libc::SYS_fstat, libc::SYS_newfstatat,
    libc::SYS_stat, libc::SYS_lstat, libc::SYS_statx, libc::SYS_getdents64, libc::SYS_readlink, libc::SYS_readlinkat,
    libc::SYS_fcntl, libc::SYS_flock, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_ftruncate, libc::SYS_poll,
    libc::SYS_ppoll, libc::SYS_access, libc::SYS_faccessat2,
    // Whole or absent: written beside, renamed; a retired key in a directory of its own.
    libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_unlink, libc::SYS_unlinkat,
    libc::SYS_link, libc::SYS_linkat, libc::SYS_mkdir, libc::SYS_mkdirat, libc::SYS_fchmod, libc::SYS_umask,
    // Memory, which mmap and mprotect give without the right to execute.
    libc::SYS_brk, libc::SYS_mremap, libc::SYS_munmap, libc::SYS_madvise, libc::SYS_getrandom,
    // Time, signals, the end; a panic asks where it is before it speaks.
    libc::SYS_getcwd,
    libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_restart_syscall,
    libc::SYS_futex, libc::SYS_sched_yield, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack, libc::SYS_geteuid, libc::SYS_getpid, libc::SYS_gettid, libc::SYS_tgkill,
    libc::SYS_exit, libc::SYS_exit_group,
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::net::{Ipv4Addr, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use super::*;

    /// Tells the copy of this test binary that is started by [`tried`] what to try.
    const ATTEMPT: &str = "RIG_SIGNER_TEST_ATTEMPT";
    const STATE: &str = "RIG_SIGNER_TEST_STATE";

    /// Runs `attempt` in a process of its own, which locked itself with `state` in reach. Its end tells.
    fn tried(attempt: &str, state: &Path) -> ExitStatus {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "filter::tests::locks_itself_and_tries", "--test-threads=1", "--nocapture"]);
        command.env(ATTEMPT, attempt).env(STATE, state).env("RUST_BACKTRACE", "0");
        command.output().expect("run this test again").status
    }

    #[test]
    fn locks_itself_and_tries() {
        let Ok(attempt) = std::env::var(ATTEMPT) else { return };
        let state = PathBuf::from(std::env::var_os(STATE).expect("a directory"));
        let sockets = state.clone();
        let (log, journald) = (UnixDatagram::unbound().expect("a socket"), state.join("journald"));
        let heard = (attempt == "write to the log").then(|| UnixDatagram::bind(&journald).expect("bind"));
        let is_tpm_behind_socket = attempt.starts_with("tpm: ");
        lock(&Reach { state: state.clone(), sockets, is_tpm_behind_socket, ..Reach::default() }).expect("locked");
        let denied = |result: io::Result<()>| {
            assert_eq!(result.expect_err("it is out of reach").kind(), io::ErrorKind::PermissionDenied);
        };
        match attempt.as_str() {
            "nothing" => {}
            "write in the state" => {
                fs::write(state.join("a.new"), "a").expect("write");
                fs::rename(state.join("a.new"), state.join("a")).expect("rename");
                fs::create_dir(state.join("retired")).expect("a directory");
                fs::hard_link(state.join("a"), state.join("retired/a")).expect("a link");
                fs::remove_file(state.join("a")).expect("remove");
            }
            "write to the log" => {
                log.send_to(b"MESSAGE=a", &journald).expect("send");
                assert_eq!(heard.expect("bound").recv(&mut [0; 64]).expect("heard"), 9);
                nix::sys::memfd::memfd_create("long line", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING)
                    .expect("memory");
            }
            "read elsewhere" => denied(fs::read("/etc/passwd").map(drop)),
            "list elsewhere" => denied(fs::read_dir("/").map(drop)),
            "write elsewhere" => denied(fs::write(state.with_extension("other"), "a")),
            "make an internet socket" => drop(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))),
            "make a Unix socket" => drop(UnixStream::connect("/run/none")),
            "tpm: make a Unix socket" => drop(UnixStream::connect("/run/none")),
            "tpm: make an internet socket" => drop(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))),
            "run a program" => drop(Command::new("/bin/true").status()),
            "start a thread" => drop(std::thread::Builder::new().spawn(|| {}).map(std::thread::JoinHandle::join)),
            "trace a process" => drop(nix::sys::ptrace::traceme()),
            "become dumpable" => drop(nix::sys::prctl::set_dumpable(true)),
            "unlock memory" => drop(nix::sys::mman::munlockall()),
            other => panic!("{other}"),
        }
        println!("the attempt came back");
    }

    #[test]
    fn what_a_signer_does_passes_and_files_elsewhere_are_out_of_reach() {
        let state = tempfile::tempdir().expect("a directory");
        for attempt in [
            "nothing",
            "write in the state",
            "write to the log",
            "read elsewhere",
            "list elsewhere",
            "write elsewhere",
            "tpm: make a Unix socket",
        ] {
            let end = tried(attempt, state.path());
            assert!(end.success(), "{attempt}: {end}");
        }
        assert!(state.path().join("retired/a").exists());
    }

    #[test]
    fn what_a_signer_never_does_kills_it() {
        let state = tempfile::tempdir().expect("a directory");
        for attempt in [
            "make an internet socket",
            "make a Unix socket",
            "tpm: make an internet socket",
            "run a program",
            "start a thread",
            "trace a process",
            "become dumpable",
            "unlock memory",
        ] {
            assert_eq!(tried(attempt, state.path()).signal(), Some(libc::SIGSYS), "{attempt}");
        }
    }
}
