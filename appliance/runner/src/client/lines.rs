//! Connections to the runner that wait for their next question: opening one costs as much as a question.
//!
//! Invariants: a connection carries one question at a time; one that broke, or that waited for longer than
//! [`IDLE_MAX`], is never used again, so that a question is only ever sent to somebody who listens.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// The most connections that wait. The runner serves 32 at once, those that wait among them.
const WAITING_MAX: usize = 4;

/// How long one may wait: half of what the runner gives it.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// The connections that wait.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<Vec<(Instant, OwnedFd)>>);

// === impl Lines ===

impl Lines {
    /// One that waited, the freshest first.
    pub(super) fn take(&self) -> Option<OwnedFd> {
        let (since, line) = self.waiting().pop()?;
        if since.elapsed() < IDLE_MAX {
            return Some(line);
        }
        // Those below it are older still.
        self.waiting().clear();
        None
    }

    /// Has one wait, if it is not one too many.
    pub(super) fn keep(&self, line: OwnedFd) {
        let mut waiting = self.waiting();
        if waiting.len() < WAITING_MAX {
            waiting.push((Instant::now(), line));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(Instant, OwnedFd)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new connection, which gives up on a question after `timeout`.
pub(super) fn open(socket: &Path, timeout: Duration) -> rustix::io::Result<OwnedFd> {
    let line = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&line, &SocketAddrUnix::new(socket)?)?;
    set_socket_timeout(&line, Timeout::Send, Some(timeout))?;
    Ok(line)
}
