//! Where signatures come from: another process, or a test.

use alloy::{
    consensus::TypedTransaction,
    primitives::{Address, B256, Bytes},
};
use futures::future::BoxFuture;

/// Turns a transaction into signed bytes. The rig's signer does this behind a socket and a policy.
pub trait Seal: Send + Sync {
    /// The account that signs.
    fn address(&self) -> Address;
    /// Signs `tx` as it is.
    fn seal(&self, tx: TypedTransaction) -> BoxFuture<'_, Result<Sealed, SealError>>;
}

/// Signed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The signed envelope (EIP-2718) as a node takes it.
    pub raw: Bytes,
    /// The transaction's hash, Keccak-256 of `raw`.
    pub hash: B256,
}

/// Nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The policy forbids it. Asking again will not help.
    #[error("signing is refused by rule {rule}: {why}")]
    Refused {
        /// The rule's name.
        rule: String,
        /// What about this transaction breaks it.
        why: String,
    },
    /// The signer did not answer. Asked again later.
    #[error("signer is not reachable: {why}")]
    Unreachable {
        /// What went wrong.
        why: String,
    },
}
