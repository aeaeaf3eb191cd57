//! What can go wrong, with which calls, and how often.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::lock;

/// No test waits longer for a fault to strike.
const PATIENCE: Duration = Duration::from_secs(60);

/// One way to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A raw transaction is thrown away, and its hash is answered as if it had been taken.
    Swallow,
    /// It is done, and reported as failed.
    SayFailed,
    /// It is not done, and refused with this JSON-RPC error.
    Refuse {
        /// The error's code.
        code: i64,
        /// The error's text.
        message: &'static str,
    },
    /// `null` for an answer.
    Null,
    /// `eth_chainId` says this.
    ChainId(u64),
    /// It is delivered twice; the answer is that to the second.
    Twice,
    /// The answers are those of a replica that is so many blocks behind.
    Lag(u64),
    /// It is done, and the answer never comes.
    DoneInSilence,
    /// It is not done, and no answer comes.
    Silence,
    /// It is not done; this HTTP status with a page of HTML.
    Status(u16),
    /// It is not done; half a JSON document.
    Garbage,
    /// It is not done; the connection breaks within the answer.
    BreakOff,
}

/// What a fault spoils: one call of a batch, or the answer as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Packet,
}

/// Which calls a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// All of them.
    Any,
    /// Those of one method.
    Of(&'static str),
}

/// How often a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The next so many matching calls.
    Next(u64),
    /// All of them until it is lifted.
    UntilLifted,
}

/// A fault in the plan.
#[derive(Debug)]
pub struct Injected {
    id: u64,
    hits: watch::Receiver<u64>,
    entries: Arc<Mutex<Entries>>,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    entries: Arc<Mutex<Entries>>,
}

#[derive(Debug, Default)]
struct Entries {
    next_id: u64,
    all: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    calls: Calls,
    fault: Fault,
    left: Option<u64>,
    hits: watch::Sender<u64>,
}

// === impl Fault ===

impl Fault {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Fault::Swallow
            | Fault::SayFailed
            | Fault::Refuse { .. }
            | Fault::Null
            | Fault::ChainId(_)
            | Fault::Twice
            | Fault::Lag(_) => Kind::Call,
            Fault::DoneInSilence | Fault::Silence | Fault::Status(_) | Fault::Garbage | Fault::BreakOff => Kind::Packet,
        }
    }
}

// === impl Injected ===

impl Injected {
    /// Waits until the fault has struck `times` times.
    pub async fn hit(&self, times: u64) {
        let mut hits = self.hits.clone();
        let reached = tokio::time::timeout(PATIENCE, hits.wait_for(|hits| *hits >= times)).await;
        // A fault that was spent keeps its last count; the sender is gone then.
        let hits = *self.hits.borrow();
        assert!(reached.is_ok() && hits >= times, "the fault struck {hits} times, {times} were awaited");
    }

    /// How often it has struck.
    pub fn hits(&self) -> u64 {
        *self.hits.borrow()
    }

    /// Ends it.
    pub fn lift(&self) {
        lock(&self.entries).all.retain(|entry| entry.id != self.id);
    }
}

// === impl Plan ===

impl Plan {
    pub(super) fn inject(&self, calls: Calls, fault: Fault, times: Times) -> Injected {
        let (sender, hits) = watch::channel(0);
        let left = match times {
            Times::Next(times) => Some(times),
            Times::UntilLifted => None,
        };
        let mut entries = lock(&self.entries);
        let id = entries.next_id;
        entries.next_id += 1;
        entries.all.push(Entry { id, calls, fault, left, hits: sender });
        Injected { id, hits, entries: self.entries.clone() }
    }

    pub(super) fn lift_all(&self) {
        lock(&self.entries).all.clear();
    }

    /// The fault that strikes a call of `method`, counted.
    pub(super) fn strike(&self, method: &str) -> Option<Fault> {
        let mut entries = lock(&self.entries);
        let entry = entries.all.iter_mut().find(|entry| match entry.calls {
            Calls::Any => true,
            Calls::Of(wanted) => wanted == method,
        })?;
        let fault = entry.fault.clone();
        entry.hits.send_modify(|hits| *hits += 1);
        if let Some(left) = &mut entry.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                let id = entry.id;
                entries.all.retain(|entry| entry.id != id);
            }
        }
        Some(fault)
    }
}
