//! Anvil as a test holds it: when blocks come, what waits, what is lost.
//!
//! A re-org here is anvil's own: the newest blocks are replaced by as many others, and what was in them is gone from the
//! chain and from the pool, unless it is given back ([`Node::reorg_shuffled`]).

use std::time::Duration;

use alloy::consensus::Transaction as _;
use alloy::eips::Encodable2718;
use alloy::network::TransactionResponse;
use alloy::providers::{Provider, RootProvider};
use alloy_primitives::{Address, B256, Bytes, U64, U256, hex};
use serde_json::{Value, json};
use url::Url;

/// Between two looks at what has no event.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Nothing that tests wait for takes a third of this.
const PATIENCE: Duration = Duration::from_secs(60);

/// The chain, asked directly.
#[derive(Clone, Debug)]
pub struct Node {
    /// Alloy's view of it.
    pub provider: RootProvider,
}

/// A transaction that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooled {
    /// Its hash.
    pub hash: B256,
    /// Who sent it.
    pub from: Address,
    /// Its nonce.
    pub nonce: u64,
    /// The most that it pays, wei per gas.
    pub max_fee_wei: u128,
}

// === impl Node ===

impl Node {
    /// The node at `url`.
    pub fn new(url: &Url) -> Node {
        Node { provider: RootProvider::new_http(url.clone()) }
    }

    /// Any call.
    pub async fn ask(&self, method: &'static str, params: Value) -> Value {
        self.provider.raw_request(method.into(), params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Adds blocks, with what waits in the first.
    pub async fn mine(&self, blocks: u64) {
        self.ask("anvil_mine", json!([U64::from(blocks)])).await;
    }

    /// Whether a transaction is mined as soon as it comes.
    pub async fn automine(&self, is_on: bool) {
        self.ask("evm_setAutomine", json!([is_on])).await;
    }

    /// A block each so many seconds; 0 for none by time.
    pub async fn mine_every(&self, seconds: u64) {
        self.ask("evm_setIntervalMining", json!([seconds])).await;
    }

    /// The newest block.
    pub async fn head(&self) -> u64 {
        self.provider.get_block_number().await.expect("anvil answers")
    }

    /// Replaces the newest `depth` blocks by empty ones. What was in them is gone.
    pub async fn reorg(&self, depth: u64) {
        self.ask("anvil_reorg", json!([depth, []])).await;
    }

    /// Replaces the newest `depth` blocks by others; what was in them comes back in the last of them.
    pub async fn reorg_shuffled(&self, depth: u64) {
        let back = self.transactions_of_last(depth).await.into_iter();
        let back: Vec<Value> =
            back.map(|tx| json!([hex::encode_prefixed(tx.inner.encoded_2718()), depth - 1])).collect();
        self.ask("anvil_reorg", json!([depth, back])).await;
    }

    /// Replaces the newest `depth` blocks by others, which hold what these accounts sent in the opposite order; what
    /// others sent is gone.
    pub async fn reorg_reversed(&self, depth: u64, of: &[Address]) {
        let mut back = self.transactions_of_last(depth).await;
        back.retain(|tx| of.contains(&tx.from()));
        let back = back.iter().rev().zip(0_u64..);
        let back: Vec<Value> =
            back.map(|(tx, at)| json!([hex::encode_prefixed(tx.inner.encoded_2718()), at])).collect();
        self.ask("anvil_reorg", json!([depth, back])).await;
    }

    /// The transactions of an account that were mined and failed.
    pub async fn reverted_of(&self, from: Address) -> Vec<B256> {
        let mut failed = Vec::new();
        for number in 1..=self.head().await {
            let receipts = self.provider.get_block_receipts(number.into()).await.expect("anvil answers");
            let receipts = receipts.into_iter().flatten().filter(|receipt| receipt.from == from && !receipt.status());
            failed.extend(receipts.map(|receipt| receipt.transaction_hash));
        }
        failed
    }

    /// The most gas that one transaction of an account used that left a log of this kind.
    pub async fn most_gas_of(&self, from: Address, kind: B256) -> u64 {
        let mut most = 0;
        for number in 1..=self.head().await {
            let receipts = self.provider.get_block_receipts(number.into()).await.expect("anvil answers");
            let own = receipts.into_iter().flatten().filter(|receipt| receipt.from == from);
            let of_kind = own.filter(|receipt| receipt.logs().iter().any(|log| log.topic0() == Some(&kind)));
            most = of_kind.map(|receipt| receipt.gas_used).fold(most, u64::max);
        }
        most
    }

    async fn transactions_of_last(&self, blocks: u64) -> Vec<alloy::rpc::types::Transaction> {
        let head = self.head().await;
        let mut all = Vec::new();
        for number in head.saturating_sub(blocks) + 1..=head {
            let block = self.provider.get_block_by_number(number.into()).full().await.expect("anvil answers");
            let block = block.expect("a block below the head is there");
            all.extend(block.transactions.into_transactions());
        }
        all
    }

    /// What waits, by nonce.
    pub async fn pool(&self) -> Vec<Pooled> {
        let content = self.ask("txpool_content", json!([])).await;
        let mut all: Vec<Pooled> = Vec::new();
        for part in ["pending", "queued"] {
            let senders = content[part].as_object().into_iter().flat_map(|senders| senders.values());
            all.extend(senders.flat_map(|nonces| nonces.as_object().into_iter().flat_map(|n| n.values())).map(|tx| {
                let tx: alloy::rpc::types::Transaction = serde_json::from_value(tx.clone()).expect("a transaction");
                Pooled {
                    hash: tx.tx_hash(),
                    from: tx.from(),
                    nonce: tx.nonce(),
                    max_fee_wei: tx.inner.max_fee_per_gas(),
                }
            }));
        }
        all.sort_by_key(|pooled| (pooled.nonce, pooled.hash));
        all
    }

    /// What waits of one account, as soon as there is something.
    pub async fn pooled_of(&self, from: Address) -> Pooled {
        eventually("a pooled transaction", || async { self.pool().await.into_iter().find(|tx| tx.from == from) }).await
    }

    /// Takes a transaction out of the pool.
    pub async fn drop_from_pool(&self, hash: B256) {
        self.ask("anvil_dropTransaction", json!([hash])).await;
    }

    /// Transactions of `of`: mined, and mined or waiting.
    pub async fn counts(&self, of: Address) -> (u64, u64) {
        let mined = self.provider.get_transaction_count(of).await.expect("anvil answers");
        let all = self.provider.get_transaction_count(of).pending().await.expect("anvil answers");
        (mined, all)
    }

    /// Coins of `of`, in wei.
    pub async fn balance(&self, of: Address) -> U256 {
        self.provider.get_balance(of).await.expect("anvil answers")
    }

    /// Gives `of` exactly so many coins, in wei.
    pub async fn set_balance(&self, of: Address, wei: U256) {
        self.ask("anvil_setBalance", json!([of, wei])).await;
    }

    /// Puts code at an address.
    pub async fn set_code(&self, at: Address, code: Bytes) {
        self.ask("anvil_setCode", json!([at, code])).await;
    }
}

/// Asks until the answer is there: a node has no event for most of what it does.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{what} did not happen in {PATIENCE:?}"))
}
