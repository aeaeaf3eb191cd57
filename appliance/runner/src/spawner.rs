//! The resident process that makes every jail: small, single-threaded, and with no decisions to take.
//!
//! It is this binary again, started as `rig-runner spawner` with the runner's socket as standard input and the
//! state directory as working directory. A child is made from here rather than from the runner because copying
//! a small process is fast, and because only a single-threaded process may run arbitrary code after a fork.
//!
//! Invariants: when the runner dies, so does the spawner (end of file on the socket, and the parent-death
//! signal), and when the spawner dies, so does every jail (end of file on each lifeline, and the same signal).
//! Children are reaped through their pidfds; no signal handler exists.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use runner::protocol::Exit;
use runner::wire::{self, WireError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitId, pidfd_send_signal};

use crate::jail::{self, Filter, FilterError, Lines, Progress, reap};
use crate::kernel::{self, Cloned, Side};
use crate::orders::{JailPlan, Order, Report, Step, StepFailed, Ticket, UnpackPlan};
use crate::slots::{IDS_PER_SLOT, Slot};
use crate::unpack;

/// How long a child may take from its birth to the execution of its service. It takes milliseconds.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(20);

/// What a child that panicked returns (`EX_SOFTWARE` of sysexits).
const EXIT_PANICKED: i32 = 70;

/// Namespaces of a jail: all that there are.
const JAIL_NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWTIME;

/// Why the spawner gives up; the runner ends with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnerError {
    #[error("prepare the spawner")]
    Setup(#[source] StepFailed),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("wait for orders and for children")]
    Poll(#[source] rustix::io::Errno),
    #[error("hear from the runner")]
    Wire(#[from] WireError),
}

/// A process that the spawner made and has not reaped.
#[derive(Debug)]
struct Child {
    ticket: Ticket,
    pid: Pid,
    pidfd: OwnedFd,
    /// Only of a jail: an unpacker speaks to the runner itself.
    lifeline: Option<OwnedFd>,
}

/// Carries out orders until the runner is gone.
pub(crate) fn run() -> Result<(), SpawnerError> {
    let runner = take_standard_input().map_err(SpawnerError::Setup)?;
    let filter = Filter::compile()?;
    let mut children: Vec<Child> = Vec::new();
    loop {
        let mut ready = vec![PollFd::new(&runner, PollFlags::IN)];
        ready.extend(children.iter().map(|child| PollFd::new(&child.pidfd, PollFlags::IN)));
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(SpawnerError::Poll)?,
        };
        let ordered = !ready[0].revents().is_empty();
        let mut ended = Vec::new();
        children.retain_mut(|child| match reap(WaitId::PidFd(child.pidfd.as_fd())) {
            Ok(None) => true,
            Ok(Some(exit)) => {
                ended.push(Report::Exited { ticket: child.ticket, exit: child.last_words().unwrap_or(exit) });
                false
            }
            // ECHILD: not ours any more. It cannot be, but waiting for it forever would be worse.
            Err(_) => false,
        });
        for report in ended {
            wire::send(&runner, &report, &[])?;
        }
        if ordered {
            match wire::receive(&runner) {
                Err(WireError::Closed) => return Ok(()),
                received => {
                    let (order, fds) = received?;
                    children.extend(carry_out(order, fds, &runner, &filter)?);
                }
            }
        }
    }
}

fn take_standard_input() -> Result<OwnedFd, StepFailed> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("tie life to the runner")?;
    rustix::thread::set_name(c"rig-spawner").step("take a name")?;
    let runner = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).step("take the runner's socket")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).step("open /dev/null")?;
    rustix::stdio::dup2_stdin(null).step("set standard input")?;
    Ok(runner)
}

fn carry_out(
    order: Order,
    fds: Vec<OwnedFd>,
    runner: &OwnedFd,
    filter: &Filter,
) -> Result<Option<Child>, SpawnerError> {
    let (ticket, started) = match order {
        Order::Start(plan) => (plan.ticket, start(&plan, fds, filter).map(|(jail, fds)| (jail, Vec::from(fds)))),
        Order::Unpack(plan) => (plan.ticket, start_unpack(&plan, fds, filter).map(|child| (child, Vec::new()))),
    };
    match started {
        Ok((child, fds)) => {
            let report = Report::Started { ticket, pid: child.pid.as_raw_nonzero().get() };
            let fds: Vec<_> = [&child.pidfd].into_iter().chain(&fds).map(AsFd::as_fd).collect();
            wire::send(runner, &report, &fds)?;
            Ok(Some(child))
        }
        Err(failure) => {
            wire::send(runner, &Report::Failed { ticket, failure }, &[])?;
            Ok(None)
        }
    }
}

/// Makes a jail and waits until its service has been executed. Answers the jail, its network namespace
/// and its callback listener.
fn start(plan: &JailPlan, fds: Vec<OwnedFd>, filter: &Filter) -> Result<(Child, [OwnedFd; 2]), StepFailed> {
    let [output] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| Errno::EBADMSG).step("read the order")?;
    let (near, far) = pair().step("make the handshake")?;
    let (lifeline, far_lifeline) = pair().step("make the lifeline")?;
    let lines = Lines { handshake: far, lifeline: far_lifeline, output };
    let (cloned, handshake) = spawn(plan.slot, near, &lines.handshake, || jail::enter(plan, &lines, filter))?;
    drop(lines);
    let netns = format!("/proc/{}/ns/net", cloned.pid.as_raw_nonzero());
    let netns = rustix::fs::open(netns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let entered = netns.step("open the network namespace").and_then(|netns| {
        let listener = follow_entry(&handshake)?;
        Ok([netns, listener])
    });
    match entered {
        Ok(fds) => {
            let Cloned { pid, pidfd } = cloned;
            Ok((Child { ticket: plan.ticket, pid, pidfd, lifeline: Some(lifeline) }, fds))
        }
        Err(failure) => {
            end(&cloned);
            Err(failure)
        }
    }
}

/// Listens to a child on its way into the jail; answers its callback listener once the service is executed.
fn follow_entry(handshake: &OwnedFd) -> Result<OwnedFd, StepFailed> {
    let mut listener = None;
    loop {
        match wire::receive(handshake) {
            Ok((Progress::Listening, fds)) => listener = fds.into_iter().next(),
            Ok((Progress::Failed(failure), _)) => return Err(failure),
            Err(WireError::Closed) => return listener.ok_or(Errno::ECHILD).step("enter the jail"),
            Err(WireError::Socket { source, .. }) => return Err(source).step("wait for the service's execution"),
            Err(_) => return Err(Errno::EBADMSG).step("understand the child"),
        }
    }
}

fn start_unpack(plan: &UnpackPlan, fds: Vec<OwnedFd>, filter: &Filter) -> Result<Child, StepFailed> {
    let mut blobs = fds.into_iter();
    let result = blobs.next().ok_or(Errno::EBADMSG).step("read the order")?;
    let blobs: Vec<OwnedFd> = blobs.collect();
    let (near, far) = pair().step("make the handshake")?;
    let (Cloned { pid, pidfd }, _) = spawn(plan.slot, near, &far, || unpack::enter(plan, &result, blobs, filter))?;
    Ok(Child { ticket: plan.ticket, pid, pidfd, lifeline: None })
}

/// Duplicates this process into new namespaces, maps the slot's ids into it, and lets it run `body`.
/// `near` and `far` are its handshake; the parent gets `near` back.
fn spawn(slot: Slot, near: OwnedFd, far: &OwnedFd, body: impl FnOnce()) -> Result<(Cloned, OwnedFd), StepFailed> {
    match kernel::clone_into(u64::from(JAIL_NAMESPACES.cast_unsigned())).step("clone into namespaces")? {
        Side::Child => {
            // With its own copy of our end open, the child would wait for ever if we died now.
            drop(near);
            // Nothing may return or unwind from here into the spawner's loop.
            let done = catch_unwind(AssertUnwindSafe(|| {
                if wire::receive::<Go>(far).is_ok() {
                    body();
                }
            }));
            kernel::exit_now(if done.is_ok() { 1 } else { EXIT_PANICKED })
        }
        Side::Parent(cloned) => {
            let pid = cloned.pid.as_raw_nonzero().get();
            let mapped = map_ids(pid, slot)
                .and_then(|()| wire::send(&near, &Go {}, &[]).map_err(|_| Errno::EPIPE).step("release the child"));
            match mapped {
                Ok(()) => Ok((cloned, near)),
                Err(failure) => {
                    end(&cloned);
                    Err(failure)
                }
            }
        }
    }
}

// === impl Child ===

impl Child {
    /// How the service ended, as the jail's first process said before it ended itself.
    fn last_words(&self) -> Option<Exit> {
        let said = wire::receive::<Exit>(self.lifeline.as_ref()?);
        said.ok().map(|(exit, _)| exit)
    }
}

/// Tells a child that its ids are mapped.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Go {}

/// Maps ids 0 to 65535 of the child to the slot's. Nothing maps to the host's id 0.
fn map_ids(pid: i32, slot: Slot) -> Result<(), StepFailed> {
    let map = format!("0 {} {IDS_PER_SLOT}\n", slot.base_id());
    std::fs::write(format!("/proc/{pid}/uid_map"), &map).step("map user ids")?;
    std::fs::write(format!("/proc/{pid}/gid_map"), &map).step("map group ids")
}

/// Kills and reaps a child whose start failed.
fn end(child: &Cloned) {
    // Both can only say that it has ended already.
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    let _ = rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), rustix::process::WaitIdOptions::EXITED);
}

fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&near, Timeout::Recv, Some(ENTRY_TIMEOUT))?;
    Ok((near, far))
}
