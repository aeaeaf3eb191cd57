//! What the outbox asks of the chain. Each question is one batch, so that its parts come from one node at one moment.
//!
//! Blocks and receipts are read by the few fields that matter, since chains of other lineages leave out the rest.

use std::collections::HashMap;

use alloy::{
    primitives::{Address, B256, U64, U128, U256},
    providers::Provider,
    rpc::{
        client::{BatchRequest, Waiter},
        json_rpc::ErrorPayload,
    },
    transports::{TransportError, TransportResult},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    bid::Market,
    row::{Inclusion, Intent},
    verdict,
};
use crate::rpc::Rpc;

/// Receipts in one batch; with head and count below the hundred calls that public endpoints allow.
pub(super) const HASHES_MAX: usize = 90;
/// Blocks whose tips are looked at.
const FEE_BLOCKS: &str = "0xa";
/// Of each block, the tip that half of the gas paid less than.
const FEE_PERCENTILE: u64 = 50;

/// The newest block and what it holds of ours.
#[derive(Debug)]
pub(super) struct View {
    pub(super) head: u64,
    pub(super) count: u64,
    pub(super) inclusions: HashMap<B256, Inclusion>,
}

/// What one intent would cost and do, on top of the block `head`.
#[derive(Debug)]
pub(super) struct Quote {
    pub(super) head: u64,
    pub(super) count: u64,
    pub(super) balance_wei: U256,
    /// Gas, or what the node objects to.
    pub(super) gas: Result<u64, ErrorPayload>,
    pub(super) market: Market,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    number: U64,
    base_fee_per_gas: Option<U128>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    transaction_hash: B256,
    block_number: U64,
    block_hash: B256,
    status: Option<U64>,
    gas_used: U64,
    effective_gas_price: Option<U128>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FeeHistory {
    #[serde(default)]
    base_fee_per_gas: Vec<U128>,
    #[serde(default)]
    reward: Option<Vec<Vec<U128>>>,
}

/// Head, count and the receipts of `hashes` (at most [`HASHES_MAX`]). A receipt that is not there is not in the map.
pub(super) async fn look(rpc: &Rpc, me: Address, hashes: &[B256]) -> TransportResult<View> {
    let provider = rpc.provider();
    let mut batch = BatchRequest::new(provider.client());
    let head: Waiter<Head> = batch.add_call("eth_getBlockByNumber", &json!(["latest", false]))?;
    let count: Waiter<U64> = batch.add_call("eth_getTransactionCount", &json!([me, "latest"]))?;
    let receipts = hashes
        .iter()
        .map(|hash| batch.add_call("eth_getTransactionReceipt", &json!([hash])))
        .collect::<TransportResult<Vec<Waiter<Option<Receipt>>>>>()?;
    batch.send().await?;
    let mut inclusions = HashMap::new();
    for receipt in receipts {
        if let Some(receipt) = receipt.await? {
            inclusions.insert(receipt.transaction_hash, Inclusion::from(receipt));
        }
    }
    let head = head.await?.number.to();
    rpc.note_head(head);
    Ok(View { head, count: count.await?.to(), inclusions })
}

/// Estimate, balance, count and fees. With `is_legacy` the market is asked for a gas price only.
pub(super) async fn quote(rpc: &Rpc, me: Address, intent: &Intent, is_legacy: bool) -> TransportResult<Quote> {
    let provider = rpc.provider();
    let mut batch = BatchRequest::new(provider.client());
    let head: Waiter<Head> = batch.add_call("eth_getBlockByNumber", &json!(["latest", false]))?;
    let count: Waiter<U64> = batch.add_call("eth_getTransactionCount", &json!([me, "latest"]))?;
    let balance: Waiter<U256> = batch.add_call("eth_getBalance", &json!([me, "latest"]))?;
    let gas: Waiter<U64> = batch.add_call("eth_estimateGas", &json!([call(me, intent), "latest"]))?;
    let gas_price: Waiter<U128> = batch.add_call("eth_gasPrice", &json!([]))?;
    let history: Waiter<FeeHistory> =
        batch.add_call("eth_feeHistory", &json!([FEE_BLOCKS, "latest", [FEE_PERCENTILE]]))?;
    batch.send().await?;
    let gas = match gas.await {
        Ok(gas) => Ok(gas.to()),
        Err(TransportError::ErrorResp(error)) => Err(error),
        Err(weather) => return Err(weather),
    };
    let head = head.await?;
    let market = market(&head, gas_price.await?.to(), history.await.ok(), is_legacy);
    rpc.note_head(head.number.to());
    Ok(Quote { head: head.number.to(), count: count.await?.to(), balance_wei: balance.await?, gas, market })
}

/// Fees alone, for a replacement.
pub(super) async fn fees(rpc: &Rpc, is_legacy: bool) -> TransportResult<Market> {
    let provider = rpc.provider();
    let mut batch = BatchRequest::new(provider.client());
    let head: Waiter<Head> = batch.add_call("eth_getBlockByNumber", &json!(["latest", false]))?;
    let gas_price: Waiter<U128> = batch.add_call("eth_gasPrice", &json!([]))?;
    let history: Waiter<FeeHistory> =
        batch.add_call("eth_feeHistory", &json!([FEE_BLOCKS, "latest", [FEE_PERCENTILE]]))?;
    batch.send().await?;
    Ok(market(&head.await?, gas_price.await?.to(), history.await.ok(), is_legacy))
}

/// Why a mined transaction failed, found by calling it again: after its block (a lost race shows there), then before it.
pub(super) async fn why_reverted(rpc: &Rpc, me: Address, intent: &Intent, block: u64) -> String {
    for at in [block, block.saturating_sub(1)] {
        let answer: TransportResult<Value> =
            rpc.provider().raw_request("eth_call".into(), json!([call(me, intent), U64::from(at)])).await;
        if let Err(TransportError::ErrorResp(error)) = answer
            && let Some(reason) = verdict::revert_reason(&error)
        {
            return reason;
        }
    }
    "reverted, and calling it again does not tell why".to_owned()
}

/// Rows together with their hashes, in groups that fit one batch.
pub(super) fn chunks(due: Vec<(i64, Vec<B256>)>) -> Vec<Vec<(i64, Vec<B256>)>> {
    let mut chunks: Vec<Vec<(i64, Vec<B256>)>> = Vec::new();
    let mut room = 0;
    for (id, hashes) in due {
        if hashes.len() > room || chunks.is_empty() {
            chunks.push(Vec::new());
            room = HASHES_MAX;
        }
        room = room.saturating_sub(hashes.len());
        if let Some(chunk) = chunks.last_mut() {
            chunk.push((id, hashes));
        }
    }
    chunks
}

fn call(me: Address, intent: &Intent) -> Value {
    json!({ "from": me, "to": intent.to, "data": intent.data, "value": intent.value_wei })
}

fn market(head: &Head, gas_price_wei: u128, history: Option<FeeHistory>, is_legacy: bool) -> Market {
    let Some(base_fee) = head.base_fee_per_gas.filter(|_| !is_legacy) else {
        return Market::Legacy { gas_price_wei };
    };
    let (next, tips) = match history {
        Some(history) => (history.base_fee_per_gas.last().copied(), history.reward.unwrap_or_default()),
        None => (None, Vec::new()),
    };
    let base_fee_wei: u128 = next.unwrap_or(base_fee).max(base_fee).to();
    let mut tips: Vec<u128> = tips.iter().filter_map(|block| block.first().map(|tip| tip.to())).collect();
    tips.sort_unstable();
    let median = tips.get(tips.len() / 2).copied().unwrap_or(0);
    // An idle chain pays no tips; then the node's own suggestion counts. A pool may refuse a tip of nothing.
    let tip_wei = median.max(gas_price_wei.saturating_sub(base_fee_wei)).max(1);
    Market::Dynamic { base_fee_wei, tip_wei }
}

// === impl Inclusion ===

impl From<Receipt> for Inclusion {
    fn from(receipt: Receipt) -> Self {
        let price = receipt.effective_gas_price.map_or(U256::ZERO, |price| U256::from(price));
        Self {
            hash: receipt.transaction_hash,
            block: receipt.block_number.to(),
            block_hash: receipt.block_hash,
            // Only chains older than Byzantium leave it out; what cannot be shown to have worked has not.
            is_success: receipt.status == Some(U64::from(1)),
            fee_wei: price.saturating_mul(U256::from(receipt.gas_used)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(base_fee: Option<u64>) -> Head {
        Head { number: U64::from(1), base_fee_per_gas: base_fee.map(U128::from) }
    }

    #[test]
    fn a_block_without_a_base_fee_means_legacy() {
        assert_eq!(market(&head(None), 30, None, false), Market::Legacy { gas_price_wei: 30 });
        assert_eq!(market(&head(Some(7)), 30, None, true), Market::Legacy { gas_price_wei: 30 });
    }

    #[test]
    fn a_node_without_a_fee_history_is_asked_for_its_price() {
        assert_eq!(market(&head(Some(7)), 30, None, false), Market::Dynamic { base_fee_wei: 7, tip_wei: 23 });
    }

    #[test]
    fn the_median_tip_counts_when_others_pay_more_than_the_node_suggests() {
        let rewards = [9, 1, 50].map(|tip| vec![U128::from(tip)]).to_vec();
        let history = FeeHistory { base_fee_per_gas: vec![U128::from(7), U128::from(8)], reward: Some(rewards) };
        assert_eq!(market(&head(Some(7)), 10, Some(history), false), Market::Dynamic { base_fee_wei: 8, tip_wei: 9 });
    }
}
