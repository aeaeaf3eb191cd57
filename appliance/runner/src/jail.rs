//! Becomes the jail: what the child of a `clone3` does until the service is executed.
//!
//! The order is the security argument, and it is the order of the calls in `set_up`, which begins when the
//! spawner has mapped the slot's ids and told the plan: close every foreign descriptor; a mount namespace; mounts; pivot;
//! look the user up; limits; ids; capabilities; no new privileges; Landlock; seccomp; execute. Any step that fails ends the jail and its name
//! reaches whoever asked. There is no best-effort mode. Its cgroup and its network are there before its first
//! instruction, because it was born in them.
//!
//! The first process of the pid namespace stays this code ([`init`]); the service is its child.

mod calls;
mod init;
mod landlock;
mod mounts;
mod overlay;
mod privileges;
mod program;
mod seccomp;
mod user;
mod whole;

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use runner::protocol::Exit;
use runner::wire;
use rustix::fs::{Mode, OFlags};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

pub(crate) use landlock::{Files, NetworkUse, restrict};
pub(crate) use mounts::{become_root, pivot_to};
pub(crate) use privileges::{Kept, become_mapped_root, drop_privileges, limit_common, lower};
pub(crate) use seccomp::Filter;

use crate::kernel::{self, Side};
use crate::orders::{JailPlan, Refused, Step, StepFailed};

use init::HealthCheck;
use program::Program;

/// What the child says to the spawner on its way in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Progress {
    /// Everything is in place; end of file means that the service has been executed.
    Ready,
    /// The jail is given up.
    Refused(Refused),
}

/// The descriptors that the child of the spawner lives on.
#[derive(Debug)]
pub(crate) struct Lines {
    /// To the spawner until the service is executed: [`Progress`], then end of file.
    pub(crate) handshake: OwnedFd,
    /// To the spawner for as long as both live: [`Word`](crate::orders::Word)s, and end of file if the spawner dies.
    pub(crate) lifeline: OwnedFd,
    /// Where the service's output goes.
    pub(crate) output: OwnedFd,
    /// Of a worker, to the runner.
    pub(crate) socket: Option<OwnedFd>,
}

/// Turns the calling process into the jail of `plan`; does not return.
pub(crate) fn enter(plan: &JailPlan, lines: &Lines) -> ! {
    match set_up(plan, lines) {
        Ok((service, health)) => init::run(service, lines, health),
        Err(refused) => {
            // If even this fails the spawner sees the end of file without a `Ready`, and reports that.
            let _ = wire::send(&lines.handshake, &Progress::Refused(refused), &[]);
            kernel::exit_now(1)
        }
    }
}

fn set_up(plan: &JailPlan, lines: &Lines) -> Result<(Pid, Option<HealthCheck>), Refused> {
    standard_streams(&lines.output)?;
    let kept: Vec<_> = [&lines.handshake, &lines.lifeline].into_iter().chain(&lines.socket).map(AsFd::as_fd).collect();
    kernel::close_all_but(&kept).step("close descriptors")?;
    let signals = init::block_signals().step("block signals")?;
    become_mapped_root().step("become the jail's root")?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).step("make a mount namespace")?;
    nix::unistd::sethostname(&plan.hostname).step("set the host name")?;
    mounts::mount_and_pivot(plan)?;
    // The one so far was the host's.
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).step("open the jail's /dev/null")?;
    rustix::stdio::dup2_stdin(null).step("set standard input")?;
    let user = user::look_up(&plan.user)?;
    let mut environment = plan.environment.clone();
    if !environment.iter().any(|pair| pair.starts_with("HOME=")) {
        environment.push(format!("HOME={}", user.home));
    }
    let program = Program::new(&plan.argv, &environment)?;
    let health = plan.health.as_ref().map(|test| HealthCheck::new(test, &environment)).transpose()?;
    rustix::process::chdir(plan.working_dir.as_str()).step("enter the working directory")?;
    privileges::limit(&plan.limits).step("set resource limits")?;
    drop_privileges(user.uid, user.gid, Kept::Nothing)?;
    // The first process and the service are in one domain, so the one may still signal the other.
    match &plan.worker {
        None => {
            restrict(NetworkUse::Tcp, Files::Service { devices: &[] })?;
            Filter::Service.apply().step("attach the seccomp filter")?;
        }
        Some(worker) => {
            let devices: Vec<String> = worker.devices.iter().map(|name| format!("/dev/{name}")).collect();
            let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
            restrict(NetworkUse::None, Files::Service { devices: &devices })?;
            Filter::Worker.apply().step("attach the seccomp filter")?;
        }
    }
    wire::send(&lines.handshake, &Progress::Ready, &[]).map_err(|_| Errno::EPIPE).step("tell the spawner")?;
    match kernel::fork().step("fork the service")? {
        Side::Parent(service) => Ok((service, health)),
        Side::Child => {
            let handed = lines.socket.as_ref().map_or(Ok(()), hand_over).step("hand the socket over");
            let failure = handed.err().unwrap_or_else(|| program.execute(&signals));
            let _ = wire::send(&lines.handshake, &Progress::Refused(failure.into()), &[]);
            kernel::exit_now(127)
        }
    }
}

/// Gives the program that is executed next its socket, at the descriptor where it looks for it.
fn hand_over(socket: &OwnedFd) -> rustix::io::Result<()> {
    let place = cuda::messages::SOCKET_FD;
    if socket.as_raw_fd() == place {
        return fcntl_setfd(socket, FdFlags::empty());
    }
    let copy = fcntl_dupfd_cloexec(socket, place)?;
    if copy.as_raw_fd() != place {
        return Err(rustix::io::Errno::BUSY);
    }
    fcntl_setfd(&copy, FdFlags::empty())?;
    // It is the next program's.
    let _: i32 = copy.into_raw_fd();
    Ok(())
}

fn standard_streams(output: &OwnedFd) -> Result<(), StepFailed> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).step("open /dev/null")?;
    rustix::stdio::dup2_stdin(null).step("set standard input")?;
    rustix::stdio::dup2_stdout(output).step("set standard output")?;
    rustix::stdio::dup2_stderr(output).step("set standard error")
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
