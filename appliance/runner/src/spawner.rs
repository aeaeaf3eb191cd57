//! The resident process that makes every jail: small, single-threaded, and with no decisions to take.
//!
//! It is this binary again, started as `rig-runner spawner` with the runner's socket as standard input and the
//! state directory as working directory. A child is made from here rather than from the runner because copying
//! a small process is fast, and because only a single-threaded process may run arbitrary code after a fork.
//!
//! It lives in the runner's mount namespace, so what the runner mounted for a jail is there for the jail's first
//! process, and for nobody else on the machine.
//!
//! Invariants: when the runner dies, so does the spawner (end of file on the socket, and the parent-death
//! signal), and when the spawner dies, so does every jail (end of file on each lifeline, and the same signal).
//! Children are reaped through their pidfds; no signal handler exists.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use runner::protocol::Exit;
use runner::wire::{self, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitId, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::jail::{self, Lines, Progress, reap};
use crate::kernel::{self, Cloned, Side};
use crate::orders::{JailPlan, Order, Refused, Report, SealPlan, Step, StepFailed, Ticket, UnpackPlan, Word};
use crate::seal;
use crate::slots::{IDS_PER_SLOT, Slot};
use crate::unpack;

/// How long a child may take from its birth to the execution of its service. It takes milliseconds.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(20);

/// What a child that panicked returns (`EX_SOFTWARE` of sysexits).
const EXIT_PANICKED: i32 = 70;

/// Namespaces that a jail is born in: all that there are but two. The network's is made by the runner, so that no
/// process in it has any power over it. The mounts' the child makes for itself when it has its plan, so that what was
/// mounted for it meanwhile is in it.
const EARLY_NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWTIME;

/// Namespaces of an unpacker: its network has nothing but a loopback that is down.
const UNPACKER_NAMESPACES: i32 = EARLY_NAMESPACES | libc::CLONE_NEWNS | libc::CLONE_NEWNET;

/// Why the spawner gives up; the runner ends with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnerError {
    #[error("prepare the spawner")]
    Setup(#[source] StepFailed),
    #[error("wait for orders and for children")]
    Poll(#[source] rustix::io::Errno),
    #[error("hear from the runner")]
    Wire(#[from] WireError),
    #[error("return from a jail's network")]
    Strayed(#[source] StepFailed),
}

/// A process that the spawner made and has not reaped.
#[derive(Debug)]
struct Child {
    ticket: Ticket,
    pid: Pid,
    pidfd: OwnedFd,
    /// Only of a jail: an unpacker speaks to the runner itself.
    lifeline: Option<OwnedFd>,
    /// What the jail's first process said that the service returned.
    exit: Option<Exit>,
}

/// Carries out orders until the runner is gone.
pub(crate) fn run() -> Result<(), SpawnerError> {
    let runner = take_standard_input().map_err(SpawnerError::Setup)?;
    let home = rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let home = home.step("open the own network").map_err(SpawnerError::Setup)?;
    let mut children: Vec<Child> = Vec::new();
    let mut spare: Option<Spare> = None;
    loop {
        let mut ready = vec![PollFd::new(&runner, PollFlags::IN)];
        ready.extend(children.iter().map(|child| PollFd::new(&child.pidfd, PollFlags::IN)));
        ready.extend(children.iter().filter_map(|child| Some(PollFd::new(child.lifeline.as_ref()?, PollFlags::IN))));
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(SpawnerError::Poll)?,
        };
        let ordered = !ready[0].revents().is_empty();
        drop(ready);
        let mut reports = Vec::new();
        children.retain_mut(|child| match reap(WaitId::PidFd(child.pidfd.as_fd())) {
            Ok(None) => {
                reports.extend(child.hear());
                true
            }
            Ok(Some(exit)) => {
                let exit = child.last_words().unwrap_or(exit);
                reports.push(Report::Exited { ticket: child.ticket, exit });
                false
            }
            // ECHILD: not ours any more. It cannot be, but waiting for it forever would be worse.
            Err(_) => false,
        });
        for report in reports {
            wire::send(&runner, &report, &[])?;
        }
        if ordered {
            match wire::receive(&runner) {
                Err(WireError::Closed) => return Ok(()),
                received => {
                    let (order, fds) = received?;
                    children.extend(carry_out(order, fds, &mut spare, &Tools { runner: &runner, home: &home })?);
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

/// What every order is carried out with.
struct Tools<'a> {
    runner: &'a OwnedFd,
    /// The spawner's own network namespace.
    home: &'a OwnedFd,
}

fn carry_out(
    order: Order,
    fds: Vec<OwnedFd>,
    spare: &mut Option<Spare>,
    tools: &Tools<'_>,
) -> Result<Option<Child>, SpawnerError> {
    let (ticket, started) = match order {
        Order::Prepare { ticket } => {
            prepare(ticket, &fds, spare, tools)?;
            return Ok(None);
        }
        Order::Start(plan) => {
            let made = spare.take_if(|spare| spare.ticket == plan.ticket);
            (plan.ticket, start(&plan, fds, made.map(|spare| spare.begun), tools)?)
        }
        Order::Unpack(plan) => (plan.ticket, start_unpack(&plan, fds)),
        Order::Seal(plan) => (plan.ticket, start_seal(&plan, fds)),
        Order::MapIds { ticket, slot } => {
            let report = match user_namespace(slot) {
                Ok((pid, namespace)) => {
                    wire::send(tools.runner, &Report::Started { ticket, pid }, &[namespace.as_fd()])?;
                    Report::Exited { ticket, exit: Exit::Code(0) }
                }
                Err(failure) => Report::Failed { ticket, refused: failure.into() },
            };
            wire::send(tools.runner, &report, &[])?;
            return Ok(None);
        }
    };
    match started {
        Ok(child) => {
            let report = Report::Started { ticket, pid: child.pid.as_raw_nonzero().get() };
            wire::send(tools.runner, &report, &[child.pidfd.as_fd()])?;
            Ok(Some(child))
        }
        Err(refused) => {
            wire::send(tools.runner, &Report::Failed { ticket, refused }, &[])?;
            Ok(None)
        }
    }
}

/// A child that was made before anybody asked for it.
struct Spare {
    ticket: Ticket,
    begun: Begun,
}

/// A child that waits for its plan.
struct Begun {
    cloned: Cloned,
    handshake: OwnedFd,
    lifeline: OwnedFd,
}

/// Makes a child in advance, in place of one that nobody asked for.
fn prepare(ticket: Ticket, fds: &[OwnedFd], spare: &mut Option<Spare>, tools: &Tools<'_>) -> Result<(), SpawnerError> {
    if let Some(unused) = spare.take() {
        end(&unused.begun.cloned);
    }
    let [netns, cgroup @ ..] = fds else { return Ok(()) };
    // Whoever asks for it has it made then, and hears why that does not work.
    *spare = begin(netns, cgroup.first(), tools)?.ok().map(|begun| Spare { ticket, begun });
    Ok(())
}

/// Makes a jail and waits until its service has been executed. The outer error is the spawner's own end.
fn start(
    plan: &JailPlan,
    fds: Vec<OwnedFd>,
    made: Option<Begun>,
    tools: &Tools<'_>,
) -> Result<Result<Child, Refused>, SpawnerError> {
    let mut fds = fds;
    let socket = plan.worker.as_ref().and_then(|_| fds.pop());
    let mut fds = fds.into_iter();
    let (Some(output), Some(netns), cgroup) = (fds.next(), fds.next(), fds.next()) else {
        return Ok(Err(StepFailed { step: "read the order".to_owned(), errno: Errno::EBADMSG as i32 }.into()));
    };
    let handed: Vec<BorrowedFd<'_>> = std::iter::once(&output).chain(&socket).map(AsFd::as_fd).collect();
    let begun = match made {
        Some(begun) if tell(&begun, plan, &handed).is_ok() => begun,
        other => {
            // One that was made in advance and has died since is no reason not to start.
            if let Some(dead) = other {
                end(&dead.cloned);
            }
            let begun = match begin(&netns, cgroup.as_ref(), tools)? {
                Ok(begun) => begun,
                Err(failure) => return Ok(Err(failure.into())),
            };
            if let Err(failure) = tell(&begun, plan, &handed) {
                end(&begun.cloned);
                return Ok(Err(failure.into()));
            }
            begun
        }
    };
    let Begun { cloned, handshake, lifeline } = begun;
    Ok(match follow_entry(&handshake) {
        Ok(()) => {
            let Cloned { pid, pidfd } = cloned;
            Ok(Child { ticket: plan.ticket, pid, pidfd, lifeline: Some(lifeline), exit: None })
        }
        Err(refused) => {
            end(&cloned);
            Err(refused)
        }
    })
}

/// Gives a child its ids and its plan.
fn tell(begun: &Begun, plan: &JailPlan, fds: &[BorrowedFd<'_>]) -> Result<(), StepFailed> {
    map_ids(begun.cloned.pid.as_raw_nonzero().get(), plan.slot)?;
    wire::send(&begun.handshake, plan, fds).map_err(|_| Errno::EPIPE).step("tell the child its plan")
}

/// Makes a child in `netns` and `cgroup` that waits for its plan.
fn begin(
    netns: &OwnedFd,
    cgroup: Option<&OwnedFd>,
    tools: &Tools<'_>,
) -> Result<Result<Begun, StepFailed>, SpawnerError> {
    if let Err(failure) = enter_network(netns).step("enter the jail's network") {
        return Ok(Err(failure));
    }
    let begun = await_plan(cgroup.map(AsFd::as_fd));
    // A spawner that stayed there would put the next jail into this one's network.
    enter_network(tools.home).step("enter the own network").map_err(SpawnerError::Strayed)?;
    Ok(begun)
}

fn await_plan(cgroup: Option<BorrowedFd<'_>>) -> Result<Begun, StepFailed> {
    let (handshake, far) = pair().step("make the handshake")?;
    let (lifeline, far_lifeline) = pair().step("make the lifeline")?;
    let cloned = duplicate(EARLY_NAMESPACES, cgroup, || {
        // With its own copy of our ends open, the child would wait for ever if we died. Its own go out of the way of
        // the descriptor at which a worker finds its socket.
        let (Ok(far), Ok(far_lifeline)) = (moved_up(&far), moved_up(&far_lifeline)) else { return };
        if kernel::close_all_but(&[far.as_fd(), far_lifeline.as_fd()]).is_err() {
            return;
        }
        let Ok((plan, fds)) = wire::receive::<JailPlan>(&far) else { return };
        let mut fds = fds.into_iter();
        let (Some(output), socket) = (fds.next(), fds.next()) else { return };
        jail::enter(&plan, &Lines { handshake: far, lifeline: far_lifeline, output, socket })
    })?;
    Ok(Begun { cloned, handshake, lifeline })
}

fn enter_network(netns: &OwnedFd) -> rustix::io::Result<()> {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
}

/// Listens to a child on its way into the jail, until the service is executed.
fn follow_entry(handshake: &OwnedFd) -> Result<(), Refused> {
    await_end_of_words(handshake).step("wait for the service's execution")?;
    let mut ready = false;
    loop {
        match wire::receive(handshake) {
            Ok((Progress::Ready, _)) => ready = true,
            Ok((Progress::Refused(refused), _)) => return Err(refused),
            Err(WireError::Closed) if ready => return Ok(()),
            Err(WireError::Closed) => return Err(Errno::ECHILD).step("enter the jail").map_err(Refused::from),
            Err(WireError::Socket { source, .. }) => {
                return Err(source).step("wait for the service's execution").map_err(Refused::from);
            }
            Err(_) => return Err(Errno::EBADMSG).step("understand the child").map_err(Refused::from),
        }
    }
}

/// Until the other end is closed, and so everything has been said: a word at a time would be a wake-up each.
fn await_end_of_words(handshake: &OwnedFd) -> rustix::io::Result<()> {
    let within = Timespec { tv_sec: ENTRY_TIMEOUT.as_secs().cast_signed(), tv_nsec: 0 };
    match poll(&mut [PollFd::new(handshake, PollFlags::empty())], Some(&within)) {
        // The clock begins again, and signals come to those that are about to end.
        Err(rustix::io::Errno::INTR) => await_end_of_words(handshake),
        Ok(0) => Err(rustix::io::Errno::TIMEDOUT),
        other => other.map(drop),
    }
}

fn start_unpack(plan: &UnpackPlan, fds: Vec<OwnedFd>) -> Result<Child, Refused> {
    let [result, blob] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| Errno::EBADMSG).step("read the order")?;
    let (near, far) = pair().step("make the handshake")?;
    let place = Place { namespaces: UNPACKER_NAMESPACES, slot: plan.slot };
    let (Cloned { pid, pidfd }, _) = spawn(&place, near, &far, || unpack::enter(plan, &result, blob))?;
    Ok(Child { ticket: plan.ticket, pid, pidfd, lifeline: None, exit: None })
}

/// Starts the program that seals a layer, and waits until it has been executed.
fn start_seal(plan: &SealPlan, fds: Vec<OwnedFd>) -> Result<Child, Refused> {
    let [complaints] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| Errno::EBADMSG).step("read the order")?;
    let (near, far) = pair().step("make the handshake")?;
    let place = Place { namespaces: UNPACKER_NAMESPACES, slot: plan.slot };
    let (cloned, handshake) = spawn(&place, near, &far, || seal::enter(plan, &far, &complaints))?;
    drop(far);
    if let Err(refused) = follow_entry(&handshake) {
        end(&cloned);
        return Err(refused);
    }
    let Cloned { pid, pidfd } = cloned;
    Ok(Child { ticket: plan.ticket, pid, pidfd, lifeline: None, exit: None })
}

/// A user namespace with the slot's ids and nobody in it, and the pid of the child that it was made for.
fn user_namespace(slot: Slot) -> Result<(i32, OwnedFd), StepFailed> {
    let (near, far) = pair().step("make the handshake")?;
    // The child waits for a word that never comes.
    let wait = || drop(wire::receive::<Go>(&far));
    let place = Place { namespaces: libc::CLONE_NEWUSER, slot };
    let (cloned, _near) = spawn(&place, near, &far, wait)?;
    let pid = cloned.pid.as_raw_nonzero().get();
    let namespace = format!("/proc/{pid}/ns/user");
    let namespace = rustix::fs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    end(&cloned);
    Ok((pid, namespace.step("open the user namespace")?))
}

/// Where a child is born that works for a slot.
struct Place {
    namespaces: i32,
    slot: Slot,
}

/// Duplicates this process into new namespaces, maps the slot's ids into it, and lets it run `body`.
/// `near` and `far` are its handshake; the parent gets `near` back.
fn spawn(place: &Place, near: OwnedFd, far: &OwnedFd, body: impl FnOnce()) -> Result<(Cloned, OwnedFd), StepFailed> {
    let mut near = Some(near);
    let cloned = duplicate(place.namespaces, None, || {
        // With its own copy of our end open, the child would wait for ever if we died now.
        drop(near.take());
        if wire::receive::<Go>(far).is_ok() {
            body();
        }
    })?;
    let pid = cloned.pid.as_raw_nonzero().get();
    let released = map_ids(pid, place.slot).and_then(|()| {
        let near = near.ok_or(Errno::EBADF).step("keep the handshake")?;
        wire::send(&near, &Go {}, &[]).map_err(|_| Errno::EPIPE).step("release the child")?;
        Ok(near)
    });
    match released {
        Ok(near) => Ok((cloned, near)),
        Err(failure) => {
            end(&cloned);
            Err(failure)
        }
    }
}

/// Duplicates this process into new namespaces, where it does `body` and ends.
fn duplicate(namespaces: i32, cgroup: Option<BorrowedFd<'_>>, body: impl FnOnce()) -> Result<Cloned, StepFailed> {
    let namespaces = u64::from(namespaces.cast_unsigned());
    match kernel::clone_into(namespaces, cgroup).step("clone into namespaces")? {
        Side::Child => {
            // Nothing may return or unwind from here into the spawner's loop.
            let done = catch_unwind(AssertUnwindSafe(body));
            kernel::exit_now(if done.is_ok() { 1 } else { EXIT_PANICKED })
        }
        Side::Parent(cloned) => Ok(cloned),
    }
}

// === impl Child ===

impl Child {
    /// What the jail's first process said about the service's health since the last time.
    fn hear(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        while let Some(lifeline) = self.lifeline.as_ref().filter(|lifeline| is_readable(lifeline)) {
            match wire::receive(lifeline) {
                Ok((Word::Health(health), _)) => reports.push(Report::Health { ticket: self.ticket, health }),
                // Told when it has been reaped, not before. Whether it said so or just ended, there is no more to hear.
                Ok((Word::Exit(exit), _)) => (self.exit, self.lifeline) = (Some(exit), None),
                Err(_) => self.lifeline = None,
            }
        }
        reports
    }

    /// How the service ended, as the jail's first process said before it ended itself.
    fn last_words(&mut self) -> Option<Exit> {
        self.hear();
        self.exit
    }
}

fn is_readable(socket: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(socket, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ready, Some(&now)).is_ok_and(|count| count > 0)
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

/// A copy beyond all descriptors that anybody looks for by number.
fn moved_up(fd: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 64)
}

fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&near, Timeout::Recv, Some(ENTRY_TIMEOUT))?;
    Ok((near, far))
}
