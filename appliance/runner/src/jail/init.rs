//! The first process of a jail: forwards SIGTERM, reaps, asks the service for its health, and ends with it.
//!
//! It runs under the jail's own ids, without capabilities, under the jail's own filter, and cannot be read or
//! traced by the service (`dumpable` is off). When it ends, the kernel kills whatever else runs in the jail.
//! It ends when the service ends, and when the spawner does: the lifeline then reads end of file.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use runner::protocol::Exit;
use runner::wire::{self, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Lines;
use crate::kernel;
use crate::orders::Word;

mod health;

pub(super) use health::HealthCheck;

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
pub(super) fn run(service: rustix::process::Pid, lines: &Lines, health: Option<HealthCheck>) -> ! {
    // The service's copy closes itself on exec; with ours gone the spawner sees end of file, which is its sign
    // that the service has been executed.
    let exit = kernel::close_all_but(&[lines.lifeline.as_fd()]).and_then(|()| watch(service, lines, health));
    let exit = exit.unwrap_or(Exit::Code(EXIT_INIT_FAILED));
    let _ = wire::send(&lines.lifeline, &Word::Exit(exit), &[]);
    kernel::exit_now(match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
    })
}

/// What the service seems to have returned when its watcher could not watch.
const EXIT_INIT_FAILED: i32 = 125;

/// How long nothing happens at most between two looks; everything that matters wakes the poll anyway.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

fn watch(
    service: rustix::process::Pid,
    lines: &Lines,
    mut health: Option<HealthCheck>,
) -> Result<Exit, std::io::Error> {
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let service_pid = Pid::from_raw(service.as_raw_pid());
    // It may have ended before the signals were awaited.
    if let Some(exit) = reap_all(service_pid, health.as_mut())? {
        return Ok(exit);
    }
    loop {
        let news = health.as_mut().map(|check| check.go_on(Instant::now())).transpose()?;
        if let Some(word) = news.flatten() {
            wire::send(&lines.lifeline, &Word::Health(word), &[]).map_err(lost)?;
        }
        let wait = health.as_ref().map_or(LOOK_EVERY, |check| check.wakes_in(Instant::now()));
        let wait = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let mut ready = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&lines.lifeline, PollFlags::IN)];
        match poll(&mut ready, Some(&wait)) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if !ready[1].revents().is_empty() {
            return Ok(Exit::Signal(Signal::SIGKILL as i32));
        }
        while let Some(signal) = signals.read_signal()? {
            if i32::try_from(signal.ssi_signo) == Ok(Signal::SIGTERM as i32) {
                // It may have ended already; then it is reaped below.
                let _ = rustix::process::kill_process(service, rustix::process::Signal::TERM);
            }
        }
        if let Some(exit) = reap_all(service_pid, health.as_mut())? {
            return Ok(exit);
        }
    }
}

/// Reaps the service, a health test, and whatever they left behind. Every SIGCHLD is pending in the `signalfd`
/// until it has been read, and each read is followed by a look at all children, so none is missed.
fn reap_all(service: Pid, mut health: Option<&mut HealthCheck>) -> nix::Result<Option<Exit>> {
    let mut exit = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == service => exit = Some(Exit::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == service => {
                exit = Some(Exit::Signal(signal as i32));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(exit),
            Ok(status) => {
                if let (Some(check), Some(pid)) = (&mut health, status.pid()) {
                    check.ended(pid, matches!(status, WaitStatus::Exited(_, 0)), Instant::now());
                }
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// The spawner does not listen any more.
fn lost(_: WireError) -> std::io::Error {
    Errno::EPIPE.into()
}

// === impl Signals ===

impl Signals {
    /// Those that a service is born with: none blocked.
    pub(super) fn none() -> Self {
        Self { before: SigSet::empty() }
    }

    /// Undoes what [`block_signals`], the runner's runtime and its parents did to the signals that the service inherits.
    pub(super) fn restore(&self) -> nix::Result<()> {
        kernel::restore_signals();
        self.before.thread_set_mask()
    }
}
