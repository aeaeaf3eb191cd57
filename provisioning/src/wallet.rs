//! The owner's key, for as long as one command runs.
//!
//! Invariants: a key is read from a file that only its owner can read, and never from the command line, where every
//! process of the machine could see it; it is never printed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use alloy::consensus::{SignableTransaction, TypedTransaction};
use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{Address, B256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use chain::outbox::{Seal, SealError, Sealed};
use clap::Args;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use thiserror::Error;

use crate::exit::{Exit, Failure};

/// A key in hexadecimal with `0x` and a line end needs 67.
const KEY_FILE_BYTES_MAX: u64 = 256;

/// The permission bits of everybody but the owner.
const MODE_OTHERS: u32 = 0o077;

/// The wallet, on the command line.
#[derive(Debug, Args)]
pub(crate) struct WalletArgs {
    /// A file with the wallet's private key in hexadecimal, readable by you alone.
    #[arg(long, value_name = "FILE", env = "RIG_WALLET_KEY_FILE")]
    key_file: PathBuf,
}

/// A wallet that is open.
pub(crate) struct Wallet {
    signer: PrivateKeySigner,
}

/// Why the wallet stays shut.
#[derive(Debug, Error)]
pub(crate) enum WalletError {
    #[error("read the key file {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the key file {} can be read by others (mode {mode:03o})", .path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("the key file {} does not hold a private key: 64 hexadecimal digits", .path.display())]
    NoKey { path: PathBuf },
}

// === impl WalletArgs ===

impl WalletArgs {
    pub(crate) fn open(&self) -> Result<Wallet, WalletError> {
        let path = &self.key_file;
        let text = read_private(path)?;
        let no_key = || WalletError::NoKey { path: path.clone() };
        let key: B256 = text.trim().parse().map_err(|_| no_key())?;
        Ok(Wallet { signer: PrivateKeySigner::from_bytes(&key).map_err(|_| no_key())? })
    }
}

/// Reads a short file after making sure, on the opened file, that nobody else can.
fn read_private(path: &Path) -> Result<String, WalletError> {
    let fault = |source| WalletError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(fault)?;
    let mode = file.metadata().map_err(fault)?.mode() & 0o777;
    if mode & MODE_OTHERS != 0 {
        return Err(WalletError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(fault)?;
    Ok(text)
}

impl From<WalletError> for Failure {
    fn from(error: WalletError) -> Failure {
        let next = match &error {
            WalletError::Read { .. } => "name the file with --key-file or $RIG_WALLET_KEY_FILE".to_owned(),
            WalletError::Open { path, .. } => format!("chmod 600 {}", path.display()),
            WalletError::NoKey { .. } => "export the key of one account from your wallet into the file".to_owned(),
        };
        Failure::new(Exit::Usage, error).next(next)
    }
}

// === impl Wallet ===

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet").field("address", &self.signer.address()).finish_non_exhaustive()
    }
}

impl Seal for Wallet {
    fn address(&self) -> Address {
        self.signer.address()
    }

    fn seal(&self, tx: TypedTransaction) -> BoxFuture<'_, Result<Sealed, SealError>> {
        let sealed = match self.signer.sign_hash_sync(&tx.signature_hash()) {
            Ok(signature) => {
                let signed = tx.into_envelope(signature);
                Ok(Sealed { raw: signed.encoded_2718().into(), hash: *signed.tx_hash() })
            }
            Err(error) => Err(SealError::Refused { rule: "key".to_owned(), why: error.to_string() }),
        };
        ready(sealed).boxed()
    }
}
