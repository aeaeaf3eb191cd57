//! What a node meant by the text of its error. Pure.
//!
//! JSON-RPC gives all of these code -32000 or -32003, so the text decides. The table in the tests holds the phrases of
//! geth, erigon, go-opera (the network's lineage), nethermind, besu, reth and anvil.

use alloy::{
    primitives::U256,
    rpc::json_rpc::ErrorPayload,
    sol_types::{Panic, Revert, SolError},
};

/// Longest reason that is kept, in characters: it goes into ledgers and onto screens.
const REASON_CHARS_MAX: usize = 300;

/// Why a node did not take signed bytes, or could not estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has these very bytes: as good as taken.
    Known,
    /// The nonce is used; one of our own versions may have used it.
    NonceTooLow,
    /// An earlier nonce is missing there; it will come.
    NonceTooHigh,
    /// The bid is too low, alone or as a replacement.
    Underpriced,
    /// The account cannot pay for value and gas.
    Unfunded,
    /// It does not take type 2.
    TypeUnknown,
    /// Its pool has no room.
    PoolFull,
    /// The call reverts.
    Reverts,
    /// Anything else: weather.
    Unclear,
}

/// Phrases in lower case, the first that is contained decides.
const PHRASES: &[(&str, Verdict)] = &[
    ("already known", Verdict::Known),
    ("alreadyknown", Verdict::Known),
    ("already imported", Verdict::Known),
    ("known transaction", Verdict::Known),
    ("already in mempool", Verdict::Known),
    ("already exists in the pool", Verdict::Known),
    ("nonce too low", Verdict::NonceTooLow),
    ("nonce is too low", Verdict::NonceTooLow),
    ("oldnonce", Verdict::NonceTooLow),
    ("nonce too high", Verdict::NonceTooHigh),
    ("nonce is too high", Verdict::NonceTooHigh),
    ("nonce gap", Verdict::NonceTooHigh),
    ("nonce too distant", Verdict::NonceTooHigh),
    ("underpriced", Verdict::Underpriced),
    ("feetoolow", Verdict::Underpriced),
    ("fee too low", Verdict::Underpriced),
    ("gas price too low", Verdict::Underpriced),
    ("could not replace existing tx", Verdict::Underpriced),
    ("replacementnotallowed", Verdict::Underpriced),
    ("less than block base fee", Verdict::Underpriced),
    ("less than the block base fee", Verdict::Underpriced),
    ("below the minimum", Verdict::Underpriced),
    ("insufficient funds", Verdict::Unfunded),
    ("insufficientfunds", Verdict::Unfunded),
    ("upfront cost exceeds account balance", Verdict::Unfunded),
    ("transaction type not supported", Verdict::TypeUnknown),
    ("unsupported transaction type", Verdict::TypeUnknown),
    ("tx type not supported", Verdict::TypeUnknown),
    ("invalid transaction type", Verdict::TypeUnknown),
    ("eip-1559 transactions are not", Verdict::TypeUnknown),
    ("eip1559 is not", Verdict::TypeUnknown),
    ("pool is full", Verdict::PoolFull),
    ("exceeds the configured cap for pending", Verdict::PoolFull),
    ("execution reverted", Verdict::Reverts),
    ("vm exception while processing transaction: revert", Verdict::Reverts),
    ("transaction reverted", Verdict::Reverts),
    ("invalid opcode", Verdict::Reverts),
    ("gas required exceeds allowance", Verdict::Reverts),
    ("out of gas", Verdict::Reverts),
];

/// Reads the text of an error.
pub(super) fn of(message: &str) -> Verdict {
    let message = message.to_lowercase();
    PHRASES.iter().find(|(phrase, _)| message.contains(phrase)).map_or(Verdict::Unclear, |(_, verdict)| *verdict)
}

/// The reason of a revert for people and for matching: the `require` string, `panic 0x11`, the selector of a custom error
/// with its arguments as hex, or `reverted without a reason`. `None` if the error is not a revert.
pub fn revert_reason(error: &ErrorPayload) -> Option<String> {
    let is_revert = of(&error.message) == Verdict::Reverts || error.code == 3;
    let data = error.as_revert_data();
    if !is_revert && data.is_none() {
        return None;
    }
    let reason = match data.filter(|data| data.len() >= 4) {
        Some(data) => decode(&data),
        None => from_text(&error.message),
    };
    Some(reason.chars().take(REASON_CHARS_MAX).collect())
}

fn decode(data: &[u8]) -> String {
    if let Ok(revert) = Revert::abi_decode(data) {
        return revert.reason;
    }
    match Panic::abi_decode(data) {
        Ok(panic) if panic.code <= U256::from(u8::MAX) => format!("panic 0x{:02x}", panic.code),
        Ok(_) | Err(_) => format!("0x{}", alloy::hex::encode(data)),
    }
}

/// Some nodes give the reason in the text alone: `execution reverted: Expired`.
fn from_text(message: &str) -> String {
    let Some((_, rest)) = message.split_once("revert") else { return message.to_owned() };
    match rest.split_once(": ").map(|(_, reason)| reason.trim()) {
        Some(reason) if !reason.is_empty() && reason != "0x" => reason.trim_matches('"').to_owned(),
        Some(_) | None => "reverted without a reason".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phrases_of_the_nodes_are_understood() {
        for (message, verdict) in [
            ("already known", Verdict::Known),
            ("ALREADY_EXISTS: already known", Verdict::Known),
            ("transaction already imported", Verdict::Known),
            ("known transaction: 9f1c…", Verdict::Known),
            ("AlreadyKnown", Verdict::Known),
            ("Known transaction", Verdict::Known),
            ("nonce too low: next nonce 5, tx nonce 4", Verdict::NonceTooLow),
            ("nonce too low", Verdict::NonceTooLow),
            ("OldNonce", Verdict::NonceTooLow),
            ("Transaction nonce is too low. Try incrementing the nonce.", Verdict::NonceTooLow),
            ("nonce too high", Verdict::NonceTooHigh),
            ("NonceGap, Future nonce. Expected nonce gap", Verdict::NonceTooHigh),
            ("transaction nonce is too high", Verdict::NonceTooHigh),
            ("transaction underpriced", Verdict::Underpriced),
            ("replacement transaction underpriced", Verdict::Underpriced),
            ("FeeTooLow, EffectivePriorityFeePerGas too low 0 < 1", Verdict::Underpriced),
            ("INTERNAL_ERROR: could not replace existing tx", Verdict::Underpriced),
            ("max fee per gas less than block base fee: address 0x1", Verdict::Underpriced),
            ("Gas price below configured minimum gas price; gas price too low", Verdict::Underpriced),
            ("insufficient funds for gas * price + value: balance 0", Verdict::Unfunded),
            ("INSUFFICIENT_FUNDS: insufficient funds for transfer", Verdict::Unfunded),
            ("Insufficient funds for gas * price + value", Verdict::Unfunded),
            ("Upfront cost exceeds account balance", Verdict::Unfunded),
            ("transaction type not supported", Verdict::TypeUnknown),
            ("unsupported transaction type", Verdict::TypeUnknown),
            ("txpool is full", Verdict::PoolFull),
            ("transaction pool is full", Verdict::PoolFull),
            ("execution reverted: AlreadyFinalized", Verdict::Reverts),
            ("execution reverted", Verdict::Reverts),
            ("gas required exceeds allowance (30000000)", Verdict::Reverts),
            ("VM Exception while processing transaction: revert", Verdict::Reverts),
            ("upstream connect error", Verdict::Unclear),
            ("", Verdict::Unclear),
        ] {
            assert_eq!(of(message), verdict, "{message}");
        }
    }

    #[test]
    fn the_reason_of_a_revert_is_found_wherever_a_node_puts_it() {
        let expired = alloy::hex::encode_prefixed(Revert::from("Expired").abi_encode());
        for (error, reason) in [
            (format!(r#"{{"code":3,"message":"execution reverted: Expired","data":"{expired}"}}"#), Some("Expired")),
            (format!(r#"{{"code":-32603,"message":"oops","data":{{"data":"{expired}"}}}}"#), None),
            (r#"{"code":-32000,"message":"execution reverted: Expired"}"#.to_owned(), Some("Expired")),
            (r#"{"code":-32000,"message":"execution reverted"}"#.to_owned(), Some("reverted without a reason")),
            (r#"{"code":3,"message":"execution reverted","data":"0x"}"#.to_owned(), Some("reverted without a reason")),
            (
                r#"{"code":3,"message":"execution reverted: custom error 0x1e4fbdf7","data":"0x1e4fbdf7"}"#.to_owned(),
                Some("0x1e4fbdf7"),
            ),
            (r#"{"code":-32000,"message":"nonce too low"}"#.to_owned(), None),
        ] {
            let payload: ErrorPayload = serde_json::from_str(&error).expect("a valid error");
            assert_eq!(revert_reason(&payload).as_deref(), reason, "{error}");
        }
    }

    #[test]
    fn a_panic_is_named_by_its_code() {
        let data = alloy::hex::encode_prefixed(Panic::from(0x32).abi_encode());
        let error = format!(r#"{{"code":3,"message":"execution reverted","data":"{data}"}}"#);
        let payload: ErrorPayload = serde_json::from_str(&error).expect("a valid error");
        assert_eq!(revert_reason(&payload).as_deref(), Some("panic 0x32"));
    }
}
