//! Whether a queued intent can be sent now, and what nodes say to it. Pure.

use alloy::{
    consensus::{TxEip1559, TxLegacy, TypedTransaction},
    eips::eip2930::AccessList,
    primitives::{B256, TxKind, U256},
    rpc::json_rpc::ErrorPayload,
    transports::{TransportError, TransportResult},
};

use super::{
    OutboxLimits,
    answer::SendError,
    bid::Bid,
    row::{Intent, Row, State},
    survey::Quote,
    verdict::{self, Verdict, revert_reason},
};

/// What the numbers say about a queued intent.
#[derive(Debug)]
pub(super) enum Weighed {
    /// Sign it.
    Go { gas: u64, bid: Bid },
    /// The account can pay when what is under way is done.
    Wait,
    /// The node cannot tell; it may later.
    Puzzle { why: String },
    /// To be believed of a fresh head only.
    Doubt(SendError),
    /// Whatever the head.
    Refuse(SendError),
}

/// Decides by the numbers of `quote`. `promised_wei` is what the transactions under way may still take.
pub(super) fn weigh(intent: &Intent, quote: &Quote, promised_wei: U256, limits: &OutboxLimits) -> Weighed {
    let bid = Bid::open(quote.market, limits.fee_ceiling_wei);
    let gas = match &quote.gas {
        Ok(gas) if *gas > limits.gas_max => {
            let why = format!("it needs {gas} gas, {} is allowed", limits.gas_max);
            return Weighed::Refuse(SendError::Refused { rule: "gas limit".to_owned(), why });
        }
        // A quarter more: state moves between the estimate and the block.
        Ok(gas) => gas.saturating_add(gas / 4).min(limits.gas_max),
        Err(error) => return objection(error, intent, quote, bid),
    };
    let need_wei = intent.value_wei.saturating_add(bid.cost_wei(gas));
    if quote.balance_wei >= need_wei.saturating_add(promised_wei) {
        Weighed::Go { gas, bid }
    } else if quote.balance_wei >= need_wei && promised_wei > U256::ZERO {
        Weighed::Wait
    } else {
        Weighed::Doubt(SendError::Unfunded { have_wei: quote.balance_wei, need_wei })
    }
}

/// What an objection to the estimate means.
fn objection(error: &ErrorPayload, intent: &Intent, quote: &Quote, bid: Bid) -> Weighed {
    /// Gas of the plainest transfer (EIP-2028 and before): the least that is missing.
    const GAS_MIN: u64 = 21_000;
    if let Some(reason) = revert_reason(error) {
        return Weighed::Doubt(SendError::WouldRevert { reason });
    }
    match verdict::of(&error.message) {
        Verdict::Unfunded => {
            let need_wei = intent.value_wei.saturating_add(bid.cost_wei(GAS_MIN));
            Weighed::Doubt(SendError::Unfunded { have_wei: quote.balance_wei, need_wei })
        }
        Verdict::Known
        | Verdict::NonceTooLow
        | Verdict::NonceTooHigh
        | Verdict::Underpriced
        | Verdict::TypeUnknown
        | Verdict::PoolFull
        | Verdict::Reverts
        | Verdict::Unclear => Weighed::Puzzle { why: error.to_string() },
    }
}

/// The most that a transaction under way may still take from the account.
pub(super) fn promised_wei(row: &Row) -> U256 {
    match (row.state, row.versions.last()) {
        (State::InFlight { .. }, Some(last)) => row.intent.value_wei.saturating_add(last.bid.cost_wei(last.gas)),
        _ => U256::ZERO,
    }
}

/// The transaction that carries `intent`.
pub(super) fn typed(chain_id: u64, nonce: u64, gas_limit: u64, bid: Bid, intent: &Intent) -> TypedTransaction {
    let (to, value, input) = (TxKind::Call(intent.to), intent.value_wei, intent.data.clone());
    match bid {
        Bid::Dynamic { max_fee_wei, tip_wei } => TypedTransaction::Eip1559(TxEip1559 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: max_fee_wei,
            max_priority_fee_per_gas: tip_wei,
            to,
            value,
            access_list: AccessList::default(),
            input,
        }),
        Bid::Legacy { gas_price_wei } => TypedTransaction::Legacy(TxLegacy {
            chain_id: Some(chain_id),
            nonce,
            gas_price: gas_price_wei,
            gas_limit,
            to,
            value,
            input,
        }),
    }
}

/// One taker is enough; else the word of the preferred endpoint that said something counts.
pub(super) fn judge(answers: &[TransportResult<B256>]) -> Verdict {
    let verdict = |answer: &TransportResult<B256>| match answer {
        Ok(_) => Verdict::Known,
        Err(TransportError::ErrorResp(error)) => verdict::of(&error.message),
        Err(_) => Verdict::Unclear,
    };
    let verdicts: Vec<Verdict> = answers.iter().map(verdict).collect();
    if verdicts.contains(&Verdict::Known) {
        return Verdict::Known;
    }
    verdicts.into_iter().find(|verdict| *verdict != Verdict::Unclear).unwrap_or(Verdict::Unclear)
}
