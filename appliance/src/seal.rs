//! The outbox's way to the signer: transactions go over, signed bytes come back.
//!
//! Invariant: what comes back is signed by the address that the outbox keeps its counts for. A signer that came to sign
//! for another one while we run gives nothing that could be sent; the provider ends soon after (see [`crate::identity`]).

use std::sync::Arc;

use alloy::consensus::transaction::SignerRecoverable;
use alloy::consensus::{TxEnvelope, TypedTransaction};
use alloy::eips::Decodable2718;
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

    fn is_ours(&self, mut raw: &[u8]) -> bool {
        let signed = TxEnvelope::decode_2718(&mut raw);
        signed.is_ok_and(|signed| signed.recover_signer().is_ok_and(|signer| signer == self.address))
    }
}

impl Seal for SignerSeal {
    fn address(&self) -> Address {
        self.address
    }

    fn seal(&self, tx: TypedTransaction) -> BoxFuture<'_, Result<Sealed, SealError>> {
        async move {
            match self.client.sign(tx).await {
                Ok(signed) if self.is_ours(&signed.raw) => Ok(Sealed { raw: signed.raw, hash: signed.hash }),
                // Not final: the key of this address may come back, and the next start is another address's.
                Ok(_) => {
                    Err(SealError::Unreachable { why: format!("the signer does not sign for {} now", self.address) })
                }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use alloy::consensus::TxEip1559;
    use alloy_primitives::{B256, Bytes, Signature, U256, keccak256};
    use signer::protocol::{Answer, read_length, read_message, write_message};

    use super::*;

    /// A signer that answers one request with one signature, whatever it is asked.
    async fn seal_by(address: Address) -> Result<Sealed, SealError> {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).expect("is ours");
        let path = dir.path().join("signer.sock");
        let listener = tokio::net::UnixListener::bind(&path).expect("binds");
        let client = Client::connect(&path).await.expect("connects");
        let tx = transaction();
        let envelope: TxEnvelope = tx.clone().into_envelope(signature());
        let raw: Bytes = alloy::eips::Encodable2718::encoded_2718(&envelope).into();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("is asked");
            let bytes = read_length(&mut stream).await.expect("a frame").expect("a length");
            let _: signer::protocol::Request = read_message(&mut stream, bytes).await.expect("a request");
            let answer = Answer::Signed(signer::Signed { hash: keccak256(&raw), raw });
            write_message(&mut stream, &answer).await.expect("answers");
        });
        let sealed = SignerSeal::new(client, address).seal(tx).await;
        served.await.expect("the signer does not panic");
        sealed
    }

    fn transaction() -> TypedTransaction {
        TxEip1559 { chain_id: 1071, gas_limit: 21_000, ..TxEip1559::default() }.into()
    }

    /// A signature by some key that nobody knows: every pair of small numbers on the curve is one of somebody.
    fn signature() -> Signature {
        Signature::new(U256::from(1), U256::from(1), false)
    }

    #[tokio::test]
    async fn a_signature_of_another_address_is_not_sent_and_not_the_end_of_the_transaction() {
        let envelope: TxEnvelope = transaction().into_envelope(signature());
        let signs = envelope.recover_signer().expect("somebody");
        assert_ne!(envelope.signature_hash(), B256::ZERO);
        assert!(seal_by(signs).await.is_ok());
        let refused = seal_by(Address::repeat_byte(1)).await.expect_err("it is another's");
        assert!(matches!(&refused, SealError::Unreachable { why } if why.contains("does not sign for")), "{refused}");
    }
}
