//! Which tasks a source was given and has not answered.
//!
//! Invariants:
//! - One callback has one task at a time. A claim ends in a delivery, or it is given back, or the container is gone.
//! - What is kept is bounded: tasks that are waited for, by the runs that wait; answered ones, by [`ANSWERED_KEPT`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use work::{Digest, TaskId};

/// Answered tasks that are remembered, so that a second callback is told apart from one that nobody asked for.
const ANSWERED_KEPT: usize = 1024;

/// How long a callback may be ahead of its dispatch: after a restart the queue holds results of the time before.
const AHEAD_MAX: Duration = Duration::from_secs(10);

/// A result that came back, already in the content store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Why a task that was waited for has no result.
#[derive(Clone, Debug)]
pub(super) enum Failing {
    /// What came cannot be used.
    BadResult(String),
    /// The container is gone.
    Gone(String),
}

/// The one place to which a result is delivered.
#[derive(Debug)]
pub(super) struct Reply {
    /// Which waiting it belongs to: a task that is run again is waited for anew.
    waiting: u64,
    send: oneshot::Sender<Result<Returned, Failing>>,
}

/// The tasks of one container that are waited for.
#[derive(Debug)]
pub(super) struct Awaited {
    inner: Mutex<Inner>,
    changed: Notify,
    ahead_max: Duration,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: HashMap<TaskId, Reply>,
    answered: VecDeque<TaskId>,
    gone: Option<String>,
    next_waiting: u64,
}

/// What a callback may do.
#[derive(Debug)]
pub(super) enum Claim {
    /// Deliver.
    Open(Reply),
    /// Nothing: the task was answered.
    Answered,
    /// Nothing: the task was never dispatched.
    Unknown,
}

/// A task that is waited for. Dropping it ends the waiting.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    awaited: &'a Awaited,
    task: TaskId,
    number: u64,
    reply: oneshot::Receiver<Result<Returned, Failing>>,
}

// === impl Awaited ===

impl Default for Awaited {
    fn default() -> Awaited {
        Awaited::with_ahead(AHEAD_MAX)
    }
}

impl Awaited {
    /// Nobody is waited for. A callback may be `ahead_max` ahead of its dispatch.
    pub(super) fn with_ahead(ahead_max: Duration) -> Awaited {
        Awaited { inner: Mutex::default(), changed: Notify::new(), ahead_max }
    }

    /// Waits for a task from now on.
    pub(super) fn expect(&self, task: TaskId) -> Waiting<'_> {
        let (send, reply) = oneshot::channel();
        let mut inner = self.lock();
        inner.answered.retain(|answered| *answered != task);
        let number = inner.next_waiting;
        inner.next_waiting += 1;
        let given = Reply { waiting: number, send };
        match &inner.gone {
            Some(why) => given.deliver(Err(Failing::Gone(why.clone()))),
            None => drop(inner.waiting.insert(task, given)),
        }
        drop(inner);
        self.changed.notify_waiters();
        Waiting { awaited: self, task, number, reply }
    }

    /// Claims a task for one callback, waiting a moment for a dispatch that is on its way.
    pub(super) async fn claim(&self, task: TaskId) -> Claim {
        let claim = async {
            loop {
                // Made before the look, so that no change between the two is missed.
                let changed = self.changed.notified();
                match self.try_claim(task) {
                    Claim::Unknown => changed.await,
                    claim => return claim,
                }
            }
        };
        tokio::time::timeout(self.ahead_max, claim).await.unwrap_or(Claim::Unknown)
    }

    fn try_claim(&self, task: TaskId) -> Claim {
        let mut inner = self.lock();
        if inner.answered.contains(&task) {
            return Claim::Answered;
        }
        let Some(reply) = inner.waiting.remove(&task) else { return Claim::Unknown };
        inner.answered.push_back(task);
        if inner.answered.len() > ANSWERED_KEPT {
            inner.answered.pop_front();
        }
        Claim::Open(reply)
    }

    /// Gives a claim back: its body broke off, so the service may call again.
    pub(super) fn give_back(&self, task: TaskId, reply: Reply) {
        let mut inner = self.lock();
        inner.answered.retain(|answered| *answered != task);
        if let Some(why) = &inner.gone {
            reply.deliver(Err(Failing::Gone(why.clone())));
        } else if !reply.send.is_closed() {
            inner.waiting.entry(task).or_insert(reply);
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Tells everyone that the container is gone.
    pub(super) fn give_up(&self, why: &str) {
        let mut inner = self.lock();
        inner.gone = Some(why.to_owned());
        for (_, reply) in inner.waiting.drain() {
            reply.deliver(Err(Failing::Gone(why.to_owned())));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

// === impl Reply ===

impl Reply {
    /// Delivers. Whoever waited may have stopped waiting; then nobody needs it.
    pub(super) fn deliver(self, result: Result<Returned, Failing>) {
        drop(self.send.send(result));
    }
}

// === impl Waiting ===

impl Waiting<'_> {
    /// The result, when it is there.
    pub(super) async fn returned(&mut self) -> Result<Returned, Failing> {
        let reply = &mut self.reply;
        reply.await.unwrap_or_else(|_| Err(Failing::Gone("the callback broke off".into())))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut inner = self.awaited.lock();
        // The task may be waited for anew already, by a run that replaces this one.
        if inner.waiting.get(&self.task).is_some_and(|reply| reply.waiting == self.number) {
            inner.waiting.remove(&self.task);
        }
    }
}

#[cfg(test)]
mod tests;
