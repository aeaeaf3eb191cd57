//! A Ledger as the owner's wallet. The key never leaves it; every transaction is shown on it and agreed to there.

use std::path::Path;

use alloy::consensus::TypedTransaction;
use alloy::network::TxSigner;
use alloy::primitives::{Address, Signature};
use alloy::signers::Signer;
use alloy::signers::ledger::{HDPath, LedgerError, LedgerSigner};
use chain::outbox::SealError;
use thiserror::Error;

/// Where Linux shows its USB devices. The crate under alloy's stops with a panic where libusb finds none of it.
const USB: &str = "/dev/bus/usb";

/// A device that answers.
pub(super) struct Ledger {
    signer: LedgerSigner,
}

/// Why a device is not used.
#[derive(Debug, Error)]
pub(crate) enum DeviceError {
    #[error("this machine shows no USB at {USB}")]
    NoUsb,
    #[error("the device does not answer")]
    Device(#[source] LedgerError),
}

// === impl Ledger ===

impl Ledger {
    /// Asks the device that is plugged in for the account at `path`.
    pub(super) async fn open(path: &str, chain_id: u64) -> Result<Ledger, DeviceError> {
        if !Path::new(USB).is_dir() {
            return Err(DeviceError::NoUsb);
        }
        let signer = LedgerSigner::new(HDPath::Other(path.to_owned()), Some(chain_id)).await;
        signer.map(|signer| Ledger { signer }).map_err(DeviceError::Device)
    }

    pub(super) fn address(&self) -> Address {
        Signer::address(&self.signer)
    }

    /// Waits until the person has agreed on the device.
    pub(super) async fn sign(&self, mut tx: TypedTransaction) -> Result<(TypedTransaction, Signature), SealError> {
        match self.signer.sign_transaction(&mut tx).await {
            Ok(signature) => Ok((tx, signature)),
            Err(error) => Err(SealError::Refused { rule: "device".to_owned(), why: error.to_string() }),
        }
    }
}
