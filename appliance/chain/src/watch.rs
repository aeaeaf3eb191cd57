//! Hints of what changed on chain: a cursor scan of the contracts' logs.
//!
//! Invariants:
//! * Nothing is missed: a block's logs only count together with proof that the endpoint which gave them knows the last
//!   block of the range and the cursor's block. All three travel in one JSON-RPC batch, which one replica answers; the
//!   last block is asked for on both sides of the logs, so a node that switches chains in between shows it.
//! * Things may be told twice: each pass begins [`OVERLAP`] blocks below the cursor, and [`REORG_DEPTH`] when the
//!   cursor's block has left the chain. [`crate::read`] says what is true.
//! * A WebSocket only ends a wait early. Losing it costs at most one poll interval.

mod course;
mod event;

use std::sync::Arc;
use std::time::Duration;

use alloy::providers::{Provider, ProviderBuilder, WsConnect};
use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::{BlockNumberOrTag, Filter, Log};
use alloy::transports::{RpcError, TransportError};
use alloy_primitives::{B256, U64};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;

use self::course::{Course, Plan, Range, Verdict, Witness};
pub use self::course::{Cursor, OVERLAP, REORG_DEPTH};
pub use self::event::Event;
use crate::rpc::Rpc;

/// Longest wait between two tries while the chain does not answer.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Wait before a lost WebSocket is dialled again.
const REDIAL: Duration = Duration::from_secs(10);

/// How the chain is scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchLimits {
    /// How often the head is asked for, in milliseconds.
    pub poll_ms: u64,
    /// Longest range of one question, in blocks.
    pub span_max_blocks: u64,
}

/// One scanned range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// First block, inclusive.
    pub from: u64,
    /// Last block, inclusive.
    pub to: u64,
    /// The newest block that was known when the range was chosen.
    pub head: u64,
    /// That block's time, in Unix seconds.
    pub head_time_s: u64,
    /// Whether the range ends at that head.
    pub caught_up: bool,
    /// To be stored once the events are, and given back to [`Watch::new`] after a restart.
    pub cursor: Cursor,
    /// What happened, in the order of the chain.
    pub events: Vec<Event>,
}

/// Why there is no scan yet. Nothing is lost: call [`Watch::next`] again, it paces itself.
#[derive(Debug, Error)]
pub enum WatchError {
    /// No endpoint told its newest block.
    #[error("read the newest block")]
    Head(#[source] TransportError),
    /// A range was not answered; the next try asks for half of it.
    #[error("scan blocks {from} to {to}")]
    Range {
        /// First block.
        from: u64,
        /// Last block.
        to: u64,
        /// Why not.
        #[source]
        source: TransportError,
    },
    /// The endpoint is behind what was scanned already.
    #[error("endpoint is at block {head}, and block {wanted} is wanted")]
    Behind {
        /// Its newest block.
        head: u64,
        /// What it should know.
        wanted: u64,
    },
}

/// The scan. One task owns it.
#[derive(Debug)]
pub struct Watch {
    rpc: Rpc,
    limits: WatchLimits,
    course: Course,
    /// The head of the pass under way.
    head: Option<Head>,
    wait: Wait,
    heads: Arc<Notify>,
    /// Listens for new heads; ends with the watch.
    _listener: JoinSet<()>,
}

/// Until when nothing is asked.
#[derive(Debug)]
enum Wait {
    No,
    /// All is scanned: until the next poll or a new head.
    ForHead(Instant),
    /// The last of `failures` tries failed: until then, come what may.
    Backoff {
        until: Instant,
        failures: u32,
    },
}

/// The part of a block that a scan needs; chains differ in the rest.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Head {
    number: U64,
    hash: B256,
    timestamp: U64,
}

// === impl WatchLimits ===

impl Default for WatchLimits {
    /// A poll per second: the network claims a block time below one second (protocol.md §1). 2,000 blocks: public nodes
    /// commonly allow 1,000 to 10,000, and a refusal halves the range.
    fn default() -> WatchLimits {
        WatchLimits { poll_ms: 1_000, span_max_blocks: 2_000 }
    }
}

// === impl Watch ===

impl Watch {
    /// Goes on after `start`, or begins at `from_block`. Must be called within a tokio runtime.
    pub fn new(rpc: Rpc, start: Option<Cursor>, from_block: u64, limits: WatchLimits) -> Watch {
        let heads = Arc::new(Notify::new());
        let mut listener = JoinSet::new();
        if let Some(url) = rpc.network().ws_url.clone() {
            listener.spawn(listen(url, heads.clone()));
        }
        let course = Course::new(from_block, start, limits.span_max_blocks);
        Watch { rpc, limits, course, head: None, wait: Wait::No, heads, _listener: listener }
    }

    /// Waits for blocks that were not scanned yet and scans a range of them. May be dropped at any await.
    ///
    /// Errors: weather, see [`WatchError`]; the next call waits before it tries again.
    pub async fn next(&mut self) -> Result<Scan, WatchError> {
        loop {
            self.pause().await;
            let scan = self.step().await;
            match &scan {
                Ok(Some(scan)) if scan.caught_up => self.wait = Wait::ForHead(Instant::now() + self.poll()),
                Ok(Some(_)) => self.wait = Wait::No,
                Ok(None) => {}
                Err(_) => {
                    self.head = None;
                    self.back_off();
                }
            }
            if let Some(scan) = scan.transpose() {
                return scan;
            }
        }
    }

    /// One question. `None`: there is nothing new, or the cursor went back.
    async fn step(&mut self) -> Result<Option<Scan>, WatchError> {
        let head = match self.head {
            Some(head) => head,
            None => read_head(&self.rpc).await.map_err(WatchError::Head)?,
        };
        self.head = Some(head);
        let range = match self.course.plan(head.cursor()) {
            Plan::Ask(range) => range,
            Plan::Rest => {
                self.head = None;
                self.wait = Wait::ForHead(Instant::now() + self.poll());
                return Ok(None);
            }
            Plan::Behind => {
                let wanted = self.course.cursor().map_or(0, |cursor| cursor.block);
                return Err(WatchError::Behind { head: head.number.to(), wanted });
            }
        };
        let (witness, logs) = match self.ask(range).await {
            Ok(answer) => answer,
            Err(source) => {
                self.course.enter_failure();
                return Err(WatchError::Range { from: range.from, to: range.to, source });
            }
        };
        self.take(head, range, witness, &logs)
    }

    fn take(&mut self, head: Head, range: Range, witness: Witness, logs: &[Log]) -> Result<Option<Scan>, WatchError> {
        let cursor = match self.course.enter(range, witness) {
            Verdict::Scanned(cursor) => cursor,
            Verdict::Behind => {
                let wanted = range.known.map_or(range.to, |known| known.block.max(range.to));
                return Err(WatchError::Behind { head: head.number.to(), wanted });
            }
            Verdict::Reorganised => {
                tracing::warn!(block = range.known.map(|known| known.block), "block has left the chain");
                self.head = None;
                self.wait = Wait::No;
                return Ok(None);
            }
        };
        let caught_up = range.to == head.number.to::<u64>();
        if caught_up {
            self.course.end_pass();
            self.head = None;
        }
        let contracts = &self.rpc.network().contracts;
        Ok(Some(Scan {
            from: range.from,
            to: range.to,
            head: head.number.to(),
            head_time_s: head.timestamp.to(),
            caught_up,
            cursor,
            events: logs.iter().filter_map(|log| event::read(contracts, log)).collect(),
        }))
    }

    /// Asks for a range and for the blocks that prove the answer, in one batch.
    async fn ask(&self, range: Range) -> Result<(Witness, Vec<Log>), TransportError> {
        let filter = Filter::new()
            .address(event::addresses(&self.rpc.network().contracts))
            .event_signature(event::signatures())
            .from_block(range.from)
            .to_block(range.to);
        let provider = self.rpc.provider();
        let mut batch = BatchRequest::new(provider.client());
        let block = |number: u64| (BlockNumberOrTag::Number(number), false);
        let known = match range.known {
            Some(known) => Some(batch.add_call::<_, Option<Head>>("eth_getBlockByNumber", &block(known.block))?),
            None => None,
        };
        let before = batch.add_call::<_, Option<Head>>("eth_getBlockByNumber", &block(range.to))?;
        let logs = batch.add_call::<_, Vec<Log>>("eth_getLogs", &(filter,))?;
        let after = batch.add_call::<_, Option<Head>>("eth_getBlockByNumber", &block(range.to))?;
        batch.send().await?;
        let known = match known {
            Some(known) => known.await?.map(|head| head.hash),
            None => None,
        };
        let (before, after) = (before.await?.map(|head| head.hash), after.await?.map(|head| head.hash));
        let logs = logs.await?;
        Ok((Witness { to: before.filter(|_| before == after), known }, logs))
    }

    async fn pause(&mut self) {
        match self.wait {
            Wait::No => {}
            Wait::ForHead(until) => {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = self.heads.notified() => {}
                }
            }
            Wait::Backoff { until, .. } => tokio::time::sleep_until(until).await,
        }
    }

    fn back_off(&mut self) {
        let failures = match self.wait {
            Wait::Backoff { failures, .. } => failures.saturating_add(1),
            Wait::No | Wait::ForHead(_) => 1,
        };
        let pause = self.poll().saturating_mul(2u32.saturating_pow(failures - 1)).min(RETRY_MAX);
        self.wait = Wait::Backoff { until: Instant::now() + pause, failures };
    }

    fn poll(&self) -> Duration {
        Duration::from_millis(self.limits.poll_ms.max(1))
    }
}

async fn read_head(rpc: &Rpc) -> Result<Head, TransportError> {
    let newest = (BlockNumberOrTag::Latest, false);
    let head = rpc.provider().client().request::<_, Option<Head>>("eth_getBlockByNumber", newest).await?;
    let head = head.ok_or(RpcError::NullResp)?;
    rpc.note_head(head.number.to());
    Ok(head)
}

/// Tells of every new head that a WebSocket announces, for ever.
async fn listen(url: Url, heads: Arc<Notify>) {
    loop {
        match ProviderBuilder::new().disable_recommended_fillers().connect_ws(WsConnect::new(url.as_str())).await {
            Ok(provider) => {
                if let Ok(mut announced) = provider.subscribe_blocks().await {
                    while announced.recv().await.is_ok() {
                        heads.notify_one();
                    }
                }
                tracing::debug!("websocket ended");
            }
            Err(error) => tracing::debug!(%error, "websocket not reached"),
        }
        tokio::time::sleep(REDIAL).await;
    }
}

// === impl Head ===

impl Head {
    fn cursor(&self) -> Cursor {
        Cursor { block: self.number.to(), hash: self.hash }
    }
}
