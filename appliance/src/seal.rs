//! The outbox's way to the signer: transactions go over, signed bytes come back.

use std::sync::Arc;

use alloy::consensus::TypedTransaction;
use alloy_primitives::Address;
use chain::outbox::{Seal, SealError, Sealed};
use futures::FutureExt;
use futures::future::BoxFuture;
use signer::{Client, Error};

use crate::chain_of;

/// The signer's client, and the address that it signs for.
#[derive(Clone, Debug)]
pub struct SignerSeal {
    client: Arc<Client>,
    address: Address,
}

// === impl SignerSeal ===

impl SignerSeal {
    /// A seal by the signer behind `client`, whose identity is `address`.
    pub fn new(client: Client, address: Address) -> SignerSeal {
        SignerSeal { client: Arc::new(client), address }
    }
}

impl Seal for SignerSeal {
    fn address(&self) -> Address {
        self.address
    }

    fn seal(&self, tx: TypedTransaction) -> BoxFuture<'_, Result<Sealed, SealError>> {
        async move {
            match self.client.sign(tx).await {
                Ok(signed) => Ok(Sealed { raw: signed.raw, hash: signed.hash }),
                Err(Error::Refused { rule, why }) if !rule.passes_with_time() => {
                    Err(SealError::Refused { rule: rule.to_string(), why })
                }
                Err(error) if error.is_final() => {
                    Err(SealError::Refused { rule: "protocol".into(), why: error.to_string() })
                }
                Err(error) => Err(SealError::Unreachable { why: chain_of(&error) }),
            }
        }
        .boxed()
    }
}
