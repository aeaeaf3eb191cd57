//! Which tasks a source was given and has not answered.

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

type Reply = oneshot::Sender<Result<Returned, Failing>>;

#[derive(Debug, Default)]
pub(super) struct Awaited {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: HashMap<TaskId, Reply>,
    answered: VecDeque<TaskId>,
    gone: Option<String>,
}

/// What a callback may do.
pub(super) enum Claim {
    /// Deliver.
    Open(Reply),
    /// Nothing: the task was answered.
    Answered,
    /// Nothing: the task was never dispatched.
    Unknown,
}

/// A task that is waited for. Dropping it ends the waiting.
pub(super) struct Waiting<'a> {
    awaited: &'a Awaited,
    task: TaskId,
    reply: oneshot::Receiver<Result<Returned, Failing>>,
}

// === impl Awaited ===

impl Awaited {
    /// Waits for a task from now on.
    pub(super) fn expect(&self, task: TaskId) -> Waiting<'_> {
        let (send, reply) = oneshot::channel();
        let mut inner = self.lock();
        inner.answered.retain(|answered| *answered != task);
        match &inner.gone {
            Some(why) => drop(send.send(Err(Failing::Gone(why.clone())))),
            None => drop(inner.waiting.insert(task, send)),
        }
        drop(inner);
        self.changed.notify_waiters();
        Waiting { awaited: self, task, reply }
    }

    /// Claims a task for one callback, waiting a moment for a dispatch that is on its way.
    pub(super) async fn claim(&self, task: TaskId) -> Claim {
        let claim = async {
            loop {
                let changed = self.changed.notified();
                match self.try_claim(task) {
                    Claim::Unknown => changed.await,
                    claim => return claim,
                }
            }
        };
        tokio::time::timeout(AHEAD_MAX, claim).await.unwrap_or(Claim::Unknown)
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
        inner.waiting.insert(task, reply);
    }

    /// Tells everyone that the container is gone.
    pub(super) fn give_up(&self, why: &str) {
        let mut inner = self.lock();
        inner.gone = Some(why.to_owned());
        for (_, reply) in inner.waiting.drain() {
            let _ = reply.send(Err(Failing::Gone(why.to_owned())));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

// === impl Waiting ===

impl Waiting<'_> {
    /// The result, when it is there.
    pub(super) async fn returned(mut self) -> Result<Returned, Failing> {
        let reply = &mut self.reply;
        reply.await.unwrap_or_else(|_| Err(Failing::Gone("the callback broke off".into())))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.awaited.lock().waiting.remove(&self.task);
    }
}
