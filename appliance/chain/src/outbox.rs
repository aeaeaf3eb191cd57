//! The one writer per key: everything that the rig says on the chain leaves from this file.
//!
//! | step | stored | after a crash here |
//! |---|---|---|
//! | intent accepted | row `queued` | the row is taken up again |
//! | nonce, estimate, balance, fees | – | done anew; nothing was promised |
//! | signed | version, row `in_flight` with its nonce | the same bytes are offered |
//! | offered to every endpoint | – | offered again; `already known` is success |
//! | receipt of any version | row `mined` | looked at again |
//! | receipt [`Network::confirmations`] deep | row answered | a joining caller gets the same answer |
//! | receipt 64 deep | row closed | – |
//!
//! Invariants:
//! * Signed bytes are on disk before any node sees them, and stay looked for until the row is closed.
//! * An intent never has versions under two nonces that can both be mined (see `outbox/row.rs`). A replacement raises both fees.
//! * A refusal that closes a row (`WouldRevert`, `Unfunded`, `Refused`) happens before anything is signed, and only on the
//!   word of a head that is not known to be stale.
//! * Weather is waited out; it shows in [`Standing`], not as an error.
//! * Rows get their nonces in the order in which they came; [`OutboxLimits::in_flight`] may be under way at once.
//!
//! [`Network::confirmations`]: crate::rpc::Network::confirmations

mod answer;
mod bid;
mod handle;
mod row;
mod seal;
mod store;
mod survey;
mod verdict;
mod weigh;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use alloy::{
    consensus::TypedTransaction,
    primitives::{Address, B256, U256, keccak256},
    transports::TransportResult,
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    bid::Bid,
    handle::{Command, Reply},
    row::{Inclusion, Row, Rules, Seen, State, Timers, Turn, Version},
    store::Store,
    survey::Quote,
    verdict::Verdict,
    weigh::Weighed,
};
use crate::rpc::Rpc;

pub use answer::{SendError, Sent, Standing, Trouble};
pub use handle::{Outbox, OutboxLimits};
pub use row::Intent;
pub use seal::{Seal, SealError, Sealed};
pub use store::StoreError;
pub use verdict::revert_reason;

/// Callers that wait for one row.
const WAITERS_MAX: usize = 16;
/// After something new, the chain is asked again this soon, then each time after twice as long, up to
/// [`OutboxLimits::poll_ms`]: on this network a block takes well below a second.
const POLL_FIRST_MS: u64 = 25;
/// With nothing under way, mined rows are looked at this often (milliseconds).
const IDLE_MS: u64 = 5_000;
/// A refusal by a head that may be stale is believed when it stands this long (milliseconds).
const DOUBT_MS: u64 = 3_000;
/// State changes of one row in one turn: included, answered, settled.
const TURNS_MAX: usize = 4;

/// The task that owns the rows. Nothing is sent unless [`OutboxTask::run`] runs.
#[expect(missing_debug_implementations, reason = "a signer has nothing to show")]
pub struct OutboxTask {
    commands: mpsc::Receiver<Command>,
    standing: watch::Sender<Standing>,
    store: Store,
    rpc: Rpc,
    seal: Arc<dyn Seal>,
    me: Address,
    limits: OutboxLimits,
    /// Every row that is not closed, oldest first.
    rows: BTreeMap<i64, Row>,
    replies: HashMap<i64, Vec<Reply>>,
    troubles: Vec<Trouble>,
    /// A node refused type 2; it is not tried again before the next start.
    is_legacy: bool,
    began: Instant,
}

// === impl OutboxTask ===

impl OutboxTask {
    fn new(
        commands: mpsc::Receiver<Command>,
        standing: watch::Sender<Standing>,
        store: Store,
        rows: Vec<Row>,
        rpc: Rpc,
        seal: Arc<dyn Seal>,
        limits: OutboxLimits,
    ) -> Self {
        Self {
            commands,
            standing,
            store,
            me: seal.address(),
            rpc,
            seal,
            limits,
            rows: rows.into_iter().map(|row| (row.id, row)).collect(),
            replies: HashMap::new(),
            troubles: Vec::new(),
            is_legacy: false,
            began: Instant::now(),
        }
    }

    /// Works until `cancel` or until every handle is dropped. It may be dropped at any await: what matters is stored.
    ///
    /// Errors: the rows cannot be stored, so nothing more can be sent.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), StoreError> {
        let mut poll_ms = POLL_FIRST_MS;
        loop {
            match cancel.run_until_cancelled(self.turn()).await {
                Some(result) => result?,
                None => return Ok(()),
            }
            let is_busy = self.rows.values().any(|row| !matches!(row.state, State::Mined { is_answered: true, .. }));
            poll_ms = poll_ms.min(self.limits.poll_ms);
            let pause = Duration::from_millis(if is_busy { poll_ms } else { IDLE_MS });
            poll_ms = poll_ms.saturating_mul(2);
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
                command = self.commands.recv() => match command {
                    Some(command) => {
                        self.accept_all(command).await?;
                        poll_ms = POLL_FIRST_MS;
                    }
                    None => return Ok(()),
                },
            }
        }
    }

    async fn turn(&mut self) -> Result<(), StoreError> {
        self.troubles.clear();
        self.observe().await?;
        self.admit().await?;
        self.publish_standing();
        Ok(())
    }

    async fn accept_all(&mut self, first: Command) -> Result<(), StoreError> {
        let mut next = Some(first);
        while let Some(command) = next {
            self.accept(command).await?;
            next = self.commands.try_recv().ok();
        }
        Ok(())
    }

    async fn accept(&mut self, Command { intent, reply }: Command) -> Result<(), StoreError> {
        let joined = self.rows.values().find(|row| row.intent.key == intent.key && row.state.is_joinable());
        if let Some(row) = joined {
            let id = row.id;
            if row.intent != intent {
                let why = format!("another call is under way as {}", intent.key);
                answer(reply, Err(SendError::Refused { rule: "one call per key".to_owned(), why }));
            } else if let State::Mined { inclusion, is_answered: true, .. } = row.state {
                answer(reply, Ok(mined(&inclusion)));
            } else if self.replies.get(&id).is_some_and(|replies| replies.len() >= WAITERS_MAX) {
                answer(reply, Err(SendError::Full));
            } else {
                self.replies.entry(id).or_default().push(reply);
            }
            return Ok(());
        }
        if self.rows.values().filter(|row| row.state == State::Queued).count() >= self.limits.queued {
            answer(reply, Err(SendError::Full));
            return Ok(());
        }
        match self.store.insert(intent).await {
            Ok(row) => {
                self.replies.insert(row.id, vec![reply]);
                self.rows.insert(row.id, row);
            }
            // Nothing was promised, so there is no need to stop; the caller may come again.
            Err(error) => answer(reply, Err(SendError::Storage(Arc::new(error)))),
        }
        Ok(())
    }

    // --- rows that are under way or watched ---

    async fn observe(&mut self) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        let is_due = |row: &&Row| match row.state {
            State::Queued => !row.versions.is_empty(),
            State::InFlight { .. } | State::Mined { is_answered: false, .. } => true,
            State::Mined { is_answered: true, .. } => row.timers.seen_at_ms.is_none_or(|at| now_ms >= at + IDLE_MS),
        };
        let due: Vec<(i64, Vec<B256>)> = self
            .rows
            .values()
            .filter(is_due)
            .map(|row| (row.id, row.versions.iter().map(|version| version.hash).collect()))
            .collect();
        for chunk in survey::chunks(due) {
            let hashes: Vec<B256> = chunk.iter().flat_map(|(_, hashes)| hashes.iter().copied()).collect();
            let view = survey::look(&self.rpc, self.me, &hashes).await;
            let Some(view) = self.unless_weather(view) else { return Ok(()) };
            self.note_gap(view.count);
            for (id, hashes) in chunk {
                let inclusion = hashes.iter().find_map(|hash| view.inclusions.get(hash)).copied();
                let seen = Seen { head: view.head, count: view.count, inclusion, now_ms };
                self.advance(id, seen).await?;
            }
        }
        Ok(())
    }

    /// Takes the turns that follow from what was seen.
    async fn advance(&mut self, id: i64, seen: Seen) -> Result<(), StoreError> {
        let rules = Rules {
            confirmations: self.rpc.network().confirmations,
            rebroadcast_after_ms: self.limits.rebroadcast_after_ms,
            replace_after_ms: self.limits.replace_after_ms,
        };
        for _ in 0..TURNS_MAX {
            let Some(row) = self.rows.get_mut(&id) else { return Ok(()) };
            row.timers.seen_at_ms = Some(seen.now_ms);
            match row.next(&seen, &rules) {
                Turn::Stay => break,
                Turn::Become(state) => {
                    row.announce(&state);
                    self.store.set(id, state).await?;
                    row.state = state;
                    row.timers = Timers { seen_at_ms: row.timers.seen_at_ms, ..Timers::default() };
                }
                Turn::Broadcast => return self.offer(id).await,
                Turn::Replace => return self.replace(id).await,
                Turn::Answer(inclusion) => self.conclude(id, inclusion).await?,
                Turn::Settle => {
                    self.store.close(id, "mined and final".to_owned()).await?;
                    self.rows.remove(&id);
                }
                Turn::Renew => {
                    tracing::error!(step = row.intent.key, "nonce was used by someone else; intent is queued again");
                    self.store.set(id, State::Queued).await?;
                    row.state = State::Queued;
                }
            }
        }
        if let Some(Row { state: State::InFlight { nonce, overtaken_at: Some(_) }, .. }) = self.rows.get(&id) {
            let nonce = *nonce;
            self.note(Trouble::NonceTaken { nonce });
        }
        Ok(())
    }

    async fn conclude(&mut self, id: i64, inclusion: Inclusion) -> Result<(), StoreError> {
        let Some(row) = self.rows.get_mut(&id) else { return Ok(()) };
        let Some(nonce) = row.nonce() else { return Ok(()) };
        let sent = if inclusion.is_success {
            mined(&inclusion)
        } else {
            let reason = survey::why_reverted(&self.rpc, self.me, &row.intent, inclusion.block).await;
            Sent::Reverted { tx: inclusion.hash, reason }
        };
        tracing::info!(step = row.intent.key, tx = %inclusion.hash, block = inclusion.block, ?sent, "transaction concluded");
        let state = State::Mined { nonce, inclusion, is_answered: true };
        self.store.set(id, state).await?;
        row.state = state;
        self.reply(id, &Ok(sent));
        Ok(())
    }

    async fn replace(&mut self, id: i64) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        let market = survey::fees(&self.rpc, self.is_legacy).await;
        let Some(market) = self.unless_weather(market) else { return Ok(()) };
        let Some(row) = self.rows.get_mut(&id) else { return Ok(()) };
        let Some(last) = row.versions.last() else { return Ok(()) };
        let (nonce, gas, tx) = (last.nonce, last.gas, last.hash);
        let Some(bid) = last.bid.raise(market, self.limits.fee_ceiling_wei) else {
            row.timers.bid_at_ms = Some(now_ms);
            row.timers.is_bid_refused = false;
            self.note(Trouble::AtCeiling { tx });
            return self.offer(id).await;
        };
        let transaction = weigh::typed(self.rpc.network().chain_id, nonce, gas, bid, &row.intent);
        match self.sealed(transaction).await {
            Ok(sealed) => {
                self.keep_and_offer(id, Version { hash: sealed.hash, nonce, gas, bid, raw: sealed.raw }).await
            }
            Err(error) => {
                // The version that is out stays as it is: it may still be mined.
                tracing::warn!(%tx, error = %error, "higher bid was not signed");
                if let Some(row) = self.rows.get_mut(&id) {
                    row.timers.bid_at_ms = Some(now_ms);
                }
                self.note(Trouble::NoSigner { why: error.to_string() });
                self.offer(id).await
            }
        }
    }

    // --- rows without a nonce ---

    async fn admit(&mut self) -> Result<(), StoreError> {
        let queued: Vec<i64> = self.rows.values().filter(|row| row.state == State::Queued).map(|row| row.id).collect();
        for id in queued {
            let in_flight = self.rows.values().filter(|row| matches!(row.state, State::InFlight { .. })).count();
            if in_flight >= self.limits.in_flight {
                break;
            }
            let Some(intent) = self.rows.get(&id).map(|row| row.intent.clone()) else { continue };
            let quote = survey::quote(&self.rpc, self.me, &intent, self.is_legacy).await;
            let Some(quote) = self.unless_weather(quote) else { return Ok(()) };
            // A count this old may leave out transactions of rows that are closed already.
            if quote.head + row::FINAL_DEPTH <= self.rpc.freshest_head() {
                let why = format!("the head is {}, {} was seen", quote.head, self.rpc.freshest_head());
                self.note(Trouble::NoEndpoint { why });
                return Ok(());
            }
            let promised_wei = self.rows.values().map(weigh::promised_wei).fold(U256::ZERO, U256::saturating_add);
            match weigh::weigh(&intent, &quote, promised_wei, &self.limits) {
                Weighed::Go { gas, bid } => self.sign_first(id, &quote, gas, bid).await?,
                Weighed::Wait => {}
                Weighed::Puzzle { why } => {
                    self.note(Trouble::NotEstimated { key: intent.key, why });
                }
                Weighed::Doubt(error) if !self.is_believed(id, quote.head) => {
                    tracing::debug!(error = %error, block = quote.head, "refusal by a head that may be stale");
                }
                Weighed::Doubt(error) | Weighed::Refuse(error) => self.refuse(id, error).await?,
            }
        }
        Ok(())
    }

    /// Whether a refusal on top of block `head` closes the row: the head is the newest known, or it has insisted.
    fn is_believed(&mut self, id: i64, head: u64) -> bool {
        let now_ms = self.now_ms();
        let is_fresh = head >= self.rpc.freshest_head();
        let Some(row) = self.rows.get_mut(&id) else { return false };
        let since = *row.timers.doubted_at_ms.get_or_insert(now_ms);
        is_fresh || now_ms >= since + DOUBT_MS
    }

    async fn sign_first(&mut self, id: i64, quote: &Quote, gas: u64, bid: Bid) -> Result<(), StoreError> {
        let nonce = row::choose_nonce(quote.count, self.rows.values().filter_map(Row::nonce));
        let Some(row) = self.rows.get(&id) else { return Ok(()) };
        let transaction = weigh::typed(self.rpc.network().chain_id, nonce, gas, bid, &row.intent);
        match self.sealed(transaction).await {
            Ok(sealed) => {
                self.keep_and_offer(id, Version { hash: sealed.hash, nonce, gas, bid, raw: sealed.raw }).await
            }
            Err(SealError::Refused { rule, why }) => self.refuse(id, SendError::Refused { rule, why }).await,
            Err(SealError::Unreachable { why }) => {
                self.note(Trouble::NoSigner { why });
                Ok(())
            }
        }
    }

    async fn refuse(&mut self, id: i64, error: SendError) -> Result<(), StoreError> {
        let Some(row) = self.rows.remove(&id) else { return Ok(()) };
        tracing::info!(step = row.intent.key, error = %error, "intent refused");
        self.store.close(id, error.to_string()).await?;
        self.reply(id, &Err(error));
        Ok(())
    }

    // --- signing and sending ---

    async fn sealed(&self, transaction: TypedTransaction) -> Result<Sealed, SealError> {
        let sealed = self.seal.seal(transaction).await?;
        if keccak256(&sealed.raw) == sealed.hash {
            Ok(sealed)
        } else {
            Err(SealError::Unreachable { why: "the signer's hash is not that of its bytes".to_owned() })
        }
    }

    /// On disk first, then on the wire.
    async fn keep_and_offer(&mut self, id: i64, version: Version) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        let Some(row) = self.rows.get_mut(&id) else { return Ok(()) };
        let state = State::InFlight { nonce: version.nonce, overtaken_at: None };
        self.store.sign(id, version.clone(), state).await?;
        tracing::info!(step = row.intent.key, tx = %version.hash, nonce = version.nonce, "transaction signed");
        row.state = state;
        row.versions.push(version);
        row.timers = Timers { bid_at_ms: Some(now_ms), ..Timers::default() };
        self.offer(id).await
    }

    /// Gives the newest version's bytes to every endpoint.
    async fn offer(&mut self, id: i64) -> Result<(), StoreError> {
        let Some(version) = self.rows.get(&id).and_then(|row| row.versions.last()) else { return Ok(()) };
        let tx = version.hash;
        let answers = self.rpc.ask_everyone::<B256>("eth_sendRawTransaction", &[json!(version.raw)]).await;
        let now_ms = self.now_ms();
        let Some(row) = self.rows.get_mut(&id) else { return Ok(()) };
        row.timers.sent_at_ms = Some(now_ms);
        row.timers.bid_at_ms.get_or_insert(now_ms);
        match weigh::judge(&answers) {
            Verdict::Known => row.timers.is_bid_refused = false,
            Verdict::NonceTooLow | Verdict::NonceTooHigh => {}
            Verdict::TypeUnknown => {
                self.is_legacy = true;
                row.timers.is_bid_refused = true;
            }
            Verdict::Underpriced => row.timers.is_bid_refused = true,
            Verdict::Unfunded | Verdict::PoolFull | Verdict::Reverts | Verdict::Unclear => {
                let why = answers.into_iter().find_map(Result::err).map(|error| error.to_string());
                let why = why.unwrap_or_else(|| "no endpoint is on the right chain".to_owned());
                tracing::warn!(%tx, error = why, "transaction was not taken");
                self.note(Trouble::NotTaken { tx, why });
            }
        }
        Ok(())
    }

    // --- telling ---

    fn reply(&mut self, id: i64, result: &Result<Sent, SendError>) {
        for reply in self.replies.remove(&id).unwrap_or_default() {
            answer(reply, result.clone());
        }
    }

    /// The answer, or `None` and a trouble noted: a turn that meets bad weather ends, and the next one tries again.
    fn unless_weather<T>(&mut self, answer: TransportResult<T>) -> Option<T> {
        let error = match answer {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        tracing::debug!(error = %error, "no answer from the chain");
        self.note(Trouble::NoEndpoint { why: error.to_string() });
        None
    }

    fn note_gap(&mut self, count: u64) {
        let lowest = self.rows.values().filter_map(Row::nonce).min();
        if lowest.is_some_and(|lowest| lowest > count) {
            self.note(Trouble::NonceMissing { nonce: count });
        }
    }

    fn note(&mut self, trouble: Trouble) {
        if !self.troubles.contains(&trouble) {
            self.troubles.push(trouble);
        }
    }

    fn publish_standing(&mut self) {
        let mut standing = Standing { troubles: self.troubles.clone(), ..Standing::default() };
        for row in self.rows.values() {
            match row.state {
                State::Queued => standing.queued += 1,
                State::InFlight { .. } => standing.in_flight += 1,
                State::Mined { .. } => standing.watched += 1,
            }
        }
        self.standing.send_if_modified(|old| {
            let is_changed = *old != standing;
            *old = standing;
            is_changed
        });
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn mined(inclusion: &Inclusion) -> Sent {
    Sent::Mined { tx: inclusion.hash, block: inclusion.block, fee_wei: inclusion.fee_wei }
}

/// A caller that no longer waits has its reasons.
fn answer(reply: Reply, result: Result<Sent, SendError>) {
    drop(reply.send(result));
}
