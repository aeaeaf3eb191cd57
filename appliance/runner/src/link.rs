//! The runner's end of its spawner: sends orders, sorts what is reported.
//!
//! One thread reads reports; whoever ordered waits for the report that carries its ticket. An end is recorded
//! in the [`Watch`] that was registered before the order went out, so an end cannot overtake its start.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runner::protocol::{Exit, Health};
use runner::wire::{self, WireError};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::orders::{Order, Refused, Report, StepFailed, Ticket};

/// How long the spawner may take to report on a start. Its own limit for a child is 20 s.
const REPORT_TIMEOUT: Duration = Duration::from_secs(25);

/// The spawner, as the runner sees it.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    next_ticket: AtomicU64,
    waiting: Mutex<BTreeMap<Ticket, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    answer: SyncSender<Answer>,
    watch: Arc<Watch>,
}

type Answer = Result<(i32, Vec<OwnedFd>), Refused>;

/// How what was ordered ended, once it has.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    exit: Mutex<Option<Exit>>,
    ended: Condvar,
    health: Mutex<Option<Health>>,
}

/// An order that was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the spawner could not do it")]
    Failed(#[source] StepFailed),
    #[error("{detail}")]
    Refused { detail: String },
    #[error("tell the spawner")]
    Wire(#[from] WireError),
    #[error("the spawner did not report within {REPORT_TIMEOUT:?}")]
    Silent,
}

// === impl Link ===

impl Link {
    /// Starts the spawner below `state`. The calling thread must live as long as the spawner is to: the kernel
    /// ties the spawner's life to the thread, not to the process.
    ///
    /// `gone` is dropped when the spawner has ended.
    pub(crate) fn start(state: &Path, gone: OwnedFd) -> io::Result<Arc<Self>> {
        let (socket, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("rig-runner").arg("spawner").current_dir(state).env_clear().stdin(Stdio::from(far));
        // A terminal's Ctrl-C is for the runner, which then stops its sources in order.
        command.process_group(0);
        let mut spawner = command.spawn()?;
        drop(command);
        let link = Arc::new(Self { socket, next_ticket: AtomicU64::new(1), waiting: Mutex::new(BTreeMap::new()) });
        let reader = link.clone();
        std::thread::Builder::new().name("spawner-reports".to_owned()).spawn(move || {
            let error = reader.read_reports();
            // Reaped here so that the log says how it ended.
            let status = spawner.wait();
            tracing::error!(%error, ?status, "the spawner is gone");
            reader.waiting().clear();
            drop(gone);
        })?;
        Ok(link)
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives an order and waits until it has begun. Answers its first pid and its descriptors; `watch` will tell
    /// of its end.
    pub(crate) fn order(
        &self,
        ticket: Ticket,
        order: &Order,
        fds: &[BorrowedFd<'_>],
        watch: Arc<Watch>,
    ) -> Result<(i32, Vec<OwnedFd>), LinkError> {
        let (sender, answer) = sync_channel(1);
        self.waiting().insert(ticket, Waiting { answer: sender, watch });
        if let Err(error) = wire::send(&self.socket, order, fds) {
            self.waiting().remove(&ticket);
            return Err(error.into());
        }
        match answer.recv_timeout(REPORT_TIMEOUT) {
            Ok(answer) => answer.map_err(LinkError::from),
            Err(_) => Err(LinkError::Silent),
        }
    }

    /// Gives an order that is not reported on.
    pub(crate) fn tell(&self, order: &Order, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        Ok(wire::send(&self.socket, order, fds)?)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Ticket, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_reports(&self) -> WireError {
        loop {
            let (report, fds) = match wire::receive(self.socket.as_fd()) {
                Ok(received) => received,
                Err(error) => return error,
            };
            let mut waiting = self.waiting();
            // A sent answer that nobody waits for any more is dropped, and with it its descriptors.
            match report {
                Report::Started { ticket, pid } => {
                    if let Some(waiting) = waiting.get(&ticket) {
                        let _ = waiting.answer.try_send(Ok((pid, fds)));
                    }
                }
                Report::Failed { ticket, refused } => {
                    if let Some(waiting) = waiting.remove(&ticket) {
                        let _ = waiting.answer.try_send(Err(refused));
                    }
                }
                Report::Health { ticket, health } => {
                    if let Some(waiting) = waiting.get(&ticket) {
                        *waiting.watch.health.lock().unwrap_or_else(PoisonError::into_inner) = Some(health);
                    }
                }
                Report::Exited { ticket, exit } => {
                    if let Some(waiting) = waiting.remove(&ticket) {
                        waiting.watch.end(exit);
                    }
                }
            }
        }
    }
}

// === impl LinkError ===

impl From<Refused> for LinkError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Step(failure) => Self::Failed(failure),
            Refused::Service { detail } => Self::Refused { detail },
        }
    }
}

// === impl Watch ===

impl Watch {
    fn end(&self, exit: Exit) {
        *self.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
        self.ended.notify_all();
    }

    /// The end, if it comes within `timeout`.
    pub(crate) fn wait_for(&self, timeout: Duration) -> Option<Exit> {
        let exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ended.wait_timeout_while(exit, timeout, |exit| exit.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// What the health test said last; `None` before its first word.
    pub(crate) fn health(&self) -> Option<Health> {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the first process, and with it every other of its namespace, has been reaped.
    pub(crate) fn wait(&self) -> Exit {
        let mut exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *exit {
                Some(exit) => return exit,
                None => exit = self.ended.wait(exit).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}
