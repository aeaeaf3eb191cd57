//! The first process of a jail: forwards SIGTERM, reaps, and ends with the service.
//!
//! It runs under the jail's own ids, without capabilities, under the jail's own filter, and cannot be read or
//! traced by the service (`dumpable` is off). When it ends, the kernel kills whatever else runs in the jail.
//! It ends when the service ends, and when the spawner does: the lifeline then reads end of file.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use runner::protocol::Exit;
use runner::wire;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Lines;
use crate::kernel;

/// The signal mask that the service gets back.
#[derive(Debug)]
pub(super) struct Signals {
    before: SigSet,
}

/// Blocks every signal; a blocked signal waits for the `signalfd` even in the first process of a namespace,
/// which would otherwise never see it.
pub(super) fn block_signals() -> nix::Result<Signals> {
    SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    Ok(Signals { before: SigSet::empty() })
}

/// Watches over `service` until it has ended; does not return.
pub(super) fn run(service: Pid, lines: &Lines) -> ! {
    // The service's copy closes itself on exec; with ours gone the spawner sees end of file, which is its sign
    // that the service has been executed.
    let exit = kernel::close_all_but(&[lines.lifeline.as_fd()]).and_then(|()| watch(service, lines));
    let exit = exit.unwrap_or(Exit::Code(EXIT_INIT_FAILED));
    let _ = wire::send(&lines.lifeline, &exit, &[]);
    kernel::exit_now(match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
    })
}

/// What the service seems to have returned when its watcher could not watch.
const EXIT_INIT_FAILED: i32 = 125;

fn watch(service: Pid, lines: &Lines) -> Result<Exit, std::io::Error> {
    let pidfd = pidfd_open(service, PidfdFlags::empty())?;
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    loop {
        let mut ready = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(&lines.lifeline, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if !ready[2].revents().is_empty() {
            return Ok(Exit::Signal(Signal::SIGKILL as i32));
        }
        while let Some(signal) = signals.read_signal()? {
            if i32::try_from(signal.ssi_signo) == Ok(Signal::SIGTERM as i32) {
                // It may have ended already; then its pidfd says so below.
                let _ = rustix::process::kill_process(service, rustix::process::Signal::TERM);
            }
        }
        if let Some(exit) = reap_all(nix::unistd::Pid::from_raw(service.as_raw_pid()))? {
            return Ok(exit);
        }
    }
}

/// Reaps the service and whatever it left behind. SIGCHLD is only a hint to look: a lost one costs a zombie
/// until the next, and never the service's own end, of which its pidfd tells.
fn reap_all(service: nix::unistd::Pid) -> nix::Result<Option<Exit>> {
    let mut exit = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == service => exit = Some(Exit::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == service => {
                exit = Some(Exit::Signal(signal as i32));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(exit),
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
    }
}

// === impl Signals ===

impl Signals {
    /// Undoes what the runner's runtime and [`block_signals`] did to the signals that the service inherits.
    pub(super) fn restore(&self) -> nix::Result<()> {
        kernel::restore_sigpipe().map_err(|_| nix::errno::Errno::EINVAL)?;
        self.before.thread_set_mask()
    }
}
