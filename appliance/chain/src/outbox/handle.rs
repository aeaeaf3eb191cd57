//! The outbox as its callers hold it.

use std::{path::Path, sync::Arc};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    OutboxTask,
    answer::{SendError, Sent, Standing},
    row::Intent,
    seal::Seal,
    store::{Store, StoreError},
};
use crate::rpc::Rpc;

/// Requests that wait for the task to look up from a turn.
const COMMANDS_MAX: usize = 64;

/// Bounds of one outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Signed and not yet mined at once. Nodes keep 16 executable ones per account without question.
    pub in_flight: usize,
    /// Intents that may wait behind them.
    pub queued: usize,
    /// No bid is above this (wei per gas).
    pub fee_ceiling_wei: u128,
    /// No transaction may need more gas than this.
    pub gas_max: u64,
    /// The same bytes are offered again after this time without a receipt.
    pub rebroadcast_after_ms: u64,
    /// The bid is raised after this time without a receipt.
    pub replace_after_ms: u64,
    /// While something is under way the chain is asked this often.
    pub poll_ms: u64,
}

/// A handle; cloning is cheap. When all are dropped, the task ends.
#[derive(Debug, Clone)]
pub struct Outbox {
    commands: mpsc::Sender<Command>,
    standing: watch::Receiver<Standing>,
}

#[derive(Debug)]
pub(super) struct Command {
    pub(super) intent: Intent,
    pub(super) reply: Reply,
}

/// Where the outcome of one request goes.
pub(super) type Reply = oneshot::Sender<Result<Sent, SendError>>;

// === impl OutboxLimits ===

impl Default for OutboxLimits {
    fn default() -> Self {
        Self {
            in_flight: 16,
            queued: 256,
            fee_ceiling_wei: 2_000_000_000_000,
            gas_max: 16_000_000,
            rebroadcast_after_ms: 5_000,
            replace_after_ms: 30_000,
            poll_ms: 400,
        }
    }
}

// === impl Outbox ===

impl Outbox {
    /// Opens the rows stored at `path` for the account of `seal`, and takes the file for this process alone. Blocks for as
    /// long as a disk takes. Nothing is sent before [`OutboxTask::run`] runs.
    ///
    /// Errors: the file cannot be used, or belongs to another key or chain.
    pub fn open(
        path: &Path,
        rpc: Rpc,
        seal: Arc<dyn Seal>,
        limits: OutboxLimits,
    ) -> Result<(Self, OutboxTask), StoreError> {
        let store = Store::open(path, rpc.network().chain_id, seal.address())?;
        let rows = store.unfinished()?;
        let (commands, requests) = mpsc::channel(COMMANDS_MAX);
        let (publish, standing) = watch::channel(Standing::default());
        Ok((Self { commands, standing }, OutboxTask::new(requests, publish, store, rows, rpc, seal, limits)))
    }

    /// Sends `intent` once and waits for what became of it, through restarts of nodes, for as long as it takes.
    ///
    /// A row of the same key that is not closed is joined: one that is under way, or one that was mined with success and
    /// is still looked at. So ask the chain first whether the effect is there, and give each effect its own key.
    /// Dropping the future does not take the intent back.
    pub async fn send(&self, intent: Intent) -> Result<Sent, SendError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command { intent, reply }).await.map_err(|_| SendError::Stopped)?;
        answer.await.map_err(|_| SendError::Stopped)?
    }

    /// How the outbox is doing, now and whenever that changes.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }
}
