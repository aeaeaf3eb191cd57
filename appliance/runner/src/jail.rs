//! Becomes the jail: what the child of a `clone3` does until the service is executed.
//!
//! The order is the security argument, and it is the order of the calls in `set_up`, which begins when the
//! spawner has mapped the slot's ids: close every foreign descriptor; loopback and the callback listener; mounts;
//! pivot; limits; ids; capabilities; no new privileges; seccomp; execute. Any step that fails ends the jail and
//! its name reaches whoever asked. There is no best-effort mode.
//!
//! The first process of the pid namespace stays this code ([`init`]); the service is its child.

mod calls;
mod init;
mod mounts;
mod network;
mod privileges;
mod seccomp;

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use runner::protocol::Exit;
use runner::wire;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

pub(crate) use mounts::become_root;
pub(crate) use privileges::{Kept, become_mapped_root, drop_privileges, limit_common, lower};
pub(crate) use seccomp::{Filter, FilterError};

use crate::kernel::{self, Side};
use crate::orders::{JailPlan, Step, StepFailed};

/// What the child says to the spawner on its way in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Progress {
    /// The callback listener is beside this message.
    Listening,
    /// The jail is given up.
    Failed(StepFailed),
}

/// The descriptors that the child of the spawner lives on.
#[derive(Debug)]
pub(crate) struct Lines {
    /// To the spawner until the service is executed: [`Progress`], then end of file.
    pub(crate) handshake: OwnedFd,
    /// To the spawner for as long as both live: the [`Exit`], and end of file if the spawner dies.
    pub(crate) lifeline: OwnedFd,
    /// Where the service's output goes.
    pub(crate) output: OwnedFd,
}

/// Turns the calling process into the jail of `plan`; does not return.
pub(crate) fn enter(plan: &JailPlan, lines: &Lines, filter: &Filter) -> ! {
    match set_up(plan, lines, filter) {
        Ok(service) => init::run(service, lines),
        Err(failure) => {
            // If even this fails the spawner sees the end of file without a listener, and reports that.
            let _ = wire::send(&lines.handshake, &Progress::Failed(failure), &[]);
            kernel::exit_now(1)
        }
    }
}

fn set_up(plan: &JailPlan, lines: &Lines, filter: &Filter) -> Result<Pid, StepFailed> {
    standard_streams(&lines.output)?;
    kernel::close_all_but(&[lines.handshake.as_fd(), lines.lifeline.as_fd()]).step("close descriptors")?;
    let signals = init::block_signals().step("block signals")?;
    become_mapped_root().step("become the jail's root")?;
    nix::unistd::sethostname(&plan.hostname).step("set the host name")?;
    let listener = network::bring_up()?;
    wire::send(&lines.handshake, &Progress::Listening, &[listener.as_fd()])
        .map_err(|_| Errno::EPIPE)
        .step("hand over the callback listener")?;
    drop(listener);
    mounts::mount_and_pivot(plan)?;
    let program = Program::of(plan)?;
    rustix::process::chdir(plan.working_dir.as_str()).step("enter the working directory")?;
    privileges::limit(&plan.limits).step("set resource limits")?;
    drop_privileges(plan.uid, plan.gid, Kept::Nothing)?;
    filter.apply().step("attach the seccomp filter")?;
    match kernel::fork().step("fork the service")? {
        Side::Parent(service) => Ok(service),
        Side::Child => {
            let failure = program.execute(&signals);
            let _ = wire::send(&lines.handshake, &Progress::Failed(failure), &[]);
            kernel::exit_now(127)
        }
    }
}

fn standard_streams(output: &OwnedFd) -> Result<(), StepFailed> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).step("open /dev/null")?;
    rustix::stdio::dup2_stdin(null).step("set standard input")?;
    rustix::stdio::dup2_stdout(output).step("set standard output")?;
    rustix::stdio::dup2_stderr(output).step("set standard error")
}

/// What is to be executed, in the form that `execve` takes.
#[derive(Debug)]
struct Program {
    candidates: Vec<CString>,
    argv: Vec<CString>,
    environment: Vec<CString>,
}

// === impl Program ===

impl Program {
    /// Where the search path of an image that names none leads.
    const DEFAULT_PATH: &'static str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

    fn of(plan: &JailPlan) -> Result<Self, StepFailed> {
        let c_strings = |texts: &[String]| {
            let texts = texts.iter().map(|text| CString::new(text.as_str()));
            texts.collect::<Result<Vec<_>, _>>().step("read the command and environment")
        };
        let name = plan.argv.first().ok_or(Errno::EINVAL).step("read the command")?;
        let candidates = if name.contains('/') {
            vec![name.clone()]
        } else {
            let path = plan.environment.iter().find_map(|pair| pair.strip_prefix("PATH="));
            let dirs = path.unwrap_or(Self::DEFAULT_PATH).split(':').filter(|dir| !dir.is_empty());
            dirs.map(|dir| format!("{dir}/{name}")).collect()
        };
        Ok(Self {
            candidates: c_strings(&candidates)?,
            argv: c_strings(&plan.argv)?,
            environment: c_strings(&plan.environment)?,
        })
    }

    /// Executes the service; returns only if that failed.
    fn execute(&self, signals: &init::Signals) -> StepFailed {
        let name = self.argv.first().map(|name| name.to_string_lossy()).unwrap_or_default();
        let failed = |errno: Errno| StepFailed { step: format!("execute {name:?}"), errno: errno as i32 };
        if let Err(errno) = nix::unistd::setsid().and_then(|_| signals.restore()) {
            return failed(errno);
        }
        let mut worst = Errno::ENOENT;
        for candidate in &self.candidates {
            match nix::unistd::execve(candidate, &self.argv, &self.environment) {
                Ok(never) => match never {},
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => worst = errno,
            }
        }
        failed(worst)
    }
}

/// Reaps the child that `who` names, if it has ended.
pub(crate) fn reap(who: WaitId<'_>) -> rustix::io::Result<Option<Exit>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let Some(status) = rustix::process::waitid(who, options)? else {
        return Ok(None);
    };
    Ok(Some(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => return Ok(None),
    }))
}
