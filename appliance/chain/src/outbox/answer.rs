//! What a caller of the outbox is told.

use std::sync::Arc;

use alloy::primitives::{B256, U256};

use super::store::StoreError;

/// What became of an intent whose transaction was mined, at the network's depth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// Receipt with status 1.
    Mined {
        /// The version that was included.
        tx: B256,
        /// In which block.
        block: u64,
        /// What it cost: gas used times the effective price.
        fee_wei: U256,
    },
    /// Receipt with status 0: a race was lost between the estimate and the block. An outcome, not to be repeated.
    Reverted {
        /// The version that was included.
        tx: B256,
        /// Found by calling again; for people and for matching.
        reason: String,
    },
}

/// Why an intent will not be sent. Bad weather (no endpoint, no signer, low fees) is never among these: it is waited out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SendError {
    /// The chain says that the call reverts. Nothing was signed, no nonce was used.
    #[error("the call would revert: {reason}")]
    WouldRevert {
        /// The contract's word.
        reason: String,
    },
    /// The account cannot pay for value and gas. Nothing was signed.
    #[error("the account has {have_wei} wei and needs {need_wei} wei")]
    Unfunded {
        /// Balance at the newest block.
        have_wei: U256,
        /// Value plus the most that the gas may cost.
        need_wei: U256,
    },
    /// The signer's policy, or the outbox's own rules, forbid it.
    #[error("refused by rule {rule}: {why}")]
    Refused {
        /// The rule's name.
        rule: String,
        /// What about this intent breaks it.
        why: String,
    },
    /// Too many intents are waiting already.
    #[error("the outbox is full")]
    Full,
    /// The outbox stopped before the outcome was known. The row is stored; sending the same key again joins it.
    #[error("the outbox has stopped")]
    Stopped,
    /// The intent could not be stored, so it was not sent.
    #[error("store the intent")]
    Storage(#[source] Arc<StoreError>),
}

/// What keeps the outbox from making progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No endpoint answers.
    NoEndpoint {
        /// The last one's words.
        why: String,
    },
    /// The signer does not answer.
    NoSigner {
        /// Its words, or the socket's.
        why: String,
    },
    /// Somebody else used this key: a nonce of ours is spent without a receipt of ours. Someone must find out who.
    NonceTaken {
        /// The nonce.
        nonce: u64,
    },
    /// The chain waits for a nonce below all of ours, and no row holds it.
    NonceMissing {
        /// The nonce that the chain waits for.
        nonce: u64,
    },
    /// The fee ceiling forbids the bid that the market asks.
    AtCeiling {
        /// The transaction that waits.
        tx: B256,
    },
    /// The node cannot say what the call would cost, and not because the call reverts.
    NotEstimated {
        /// The intent's key.
        key: String,
        /// The node's words.
        why: String,
    },
    /// No node takes a signed transaction.
    NotTaken {
        /// The transaction that waits.
        tx: B256,
        /// The first node's words.
        why: String,
    },
}

/// How the outbox is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Intents without a nonce.
    pub queued: usize,
    /// Transactions that are signed and not mined.
    pub in_flight: usize,
    /// Mined ones that are still looked at.
    pub watched: usize,
    /// What is wrong now; empty when all is well.
    pub troubles: Vec<Trouble>,
}
