//! The owner's key, for as long as one command runs.
//!
//! Invariants: a key is read from a file that only its owner can read, or stays in the device that holds it. Neither a key
//! nor a password is ever taken from the command line or the environment, where other processes could see it; neither is
//! ever printed, and nothing of them is ever written.

use std::fmt;
use std::io;
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
use zeroize::Zeroizing;

use self::keystore::{Keystore, KeystoreError};
use self::private::PrivateError;
use crate::exit::{Exit, Failure};
use crate::parse;
use crate::person;
use crate::screen::Screen;

mod keystore;
#[cfg(feature = "ledger")]
mod ledger;
mod path;
mod private;

/// A key in hexadecimal with `0x` and a line end needs 67.
const KEY_FILE_BYTES_MAX: usize = 256;

/// Far longer than anybody types.
const PASSWORD_FILE_BYTES_MAX: usize = 1024;

/// Passwords that a person may try.
const TRIES_MAX: u32 = 3;

/// Names the key file where the command line names no wallet.
const ENV_KEY_FILE: &str = "RIG_WALLET_KEY_FILE";

/// The wallet, on the command line: one of four.
#[derive(Debug, Args)]
#[command(next_help_heading = "The owner's wallet (one of)")]
pub(crate) struct WalletArgs {
    /// A file with the wallet's private key in hexadecimal, readable by you alone [env: RIG_WALLET_KEY_FILE].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["keystore", "ledger", "unsigned"])]
    key_file: Option<PathBuf>,
    /// An encrypted wallet file (Web3 Secret Storage, version 3), readable by you alone. Its password is asked for.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ledger", "unsigned"])]
    keystore: Option<PathBuf>,
    /// A file with the password of --keystore, readable by you alone, for where nobody can be asked.
    #[arg(long, value_name = "FILE", requires = "keystore")]
    password_file: Option<PathBuf>,
    /// A Ledger with its Ethereum app open; PATH is the account's derivation path.
    ///
    /// Only in a `rig` that was built for it (cargo build --features ledger): it links libusb (LGPL 2.1) statically.
    #[arg(
        long,
        value_name = "PATH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = path::USUAL,
        value_parser = path::parse,
        conflicts_with = "unsigned"
    )]
    ledger: Option<String>,
    /// No key here: show each transaction of the account FROM to be signed elsewhere, and wait until it is on the chain.
    #[arg(long, value_name = "FROM", value_parser = parse::address)]
    unsigned: Option<Address>,
}

/// What a command line comes to.
#[derive(Debug)]
pub(crate) enum Opened {
    /// Something here signs.
    Here(Wallet),
    /// The account's transactions are signed elsewhere.
    Elsewhere(Address),
}

/// A wallet that is open.
pub(crate) struct Wallet {
    key: Key,
}

enum Key {
    Here(PrivateKeySigner),
    #[cfg(feature = "ledger")]
    Ledger(ledger::Ledger),
}

/// Why the wallet stays shut.
#[derive(Debug, Error)]
pub(crate) enum WalletError {
    #[error("no wallet is named: --key-file, --keystore, --ledger or --unsigned")]
    None,
    #[error(transparent)]
    Private(#[from] PrivateError),
    #[error("the key file {} does not hold a private key: 64 hexadecimal digits", .path.display())]
    NoKey { path: PathBuf },
    #[error("open the encrypted wallet file {}", .path.display())]
    Keystore {
        path: PathBuf,
        #[source]
        source: KeystoreError,
    },
    #[error("the encrypted wallet file {} holds the key of {has}, and says that it is that of {says}", .path.display())]
    OtherAddress { path: PathBuf, has: Address, says: Address },
    #[error("the encrypted wallet file {} does not hold a private key", .path.display())]
    Hollow { path: PathBuf },
    #[error("ask for the password of {}", .path.display())]
    Ask {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[cfg(not(feature = "ledger"))]
    #[error("this rig cannot speak to a Ledger at {0}")]
    NoLedger(String),
    #[cfg(feature = "ledger")]
    #[error("reach the Ledger at {path}")]
    Ledger {
        path: String,
        #[source]
        source: ledger::DeviceError,
    },
}

// === impl WalletArgs ===

impl WalletArgs {
    /// Whether a wallet is named at all. Opens nothing.
    pub(crate) fn check(&self) -> Result<(), WalletError> {
        match self.keystore.is_some() || self.ledger.is_some() || self.unsigned.is_some() {
            true => Ok(()),
            false => self.key_path().map(drop),
        }
    }

    /// Opens the wallet for the chain `chain_id`, and may ask a person for the password of its file.
    pub(crate) async fn open(&self, chain_id: u64, screen: Screen) -> Result<Opened, WalletError> {
        if let Some(from) = self.unsigned {
            return Ok(Opened::Elsewhere(from));
        }
        let key = match (&self.keystore, &self.ledger) {
            (Some(path), _) => Key::Here(self.unlock(path, screen).await?),
            (None, Some(path)) => ledger_at(path, chain_id).await?,
            (None, None) => Key::Here(read_key(&self.key_path()?)?),
        };
        Ok(Opened::Here(Wallet { key }))
    }

    fn key_path(&self) -> Result<PathBuf, WalletError> {
        let set = || std::env::var_os(ENV_KEY_FILE).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.key_file.clone().or_else(set).ok_or(WalletError::None)
    }

    async fn unlock(&self, path: &Path, screen: Screen) -> Result<PrivateKeySigner, WalletError> {
        let fault = |source| WalletError::Keystore { path: path.to_owned(), source };
        let text = private::read("encrypted wallet file", path, keystore::FILE_BYTES_MAX)?;
        let mut keystore = Keystore::parse(&text).map_err(fault)?;
        let mut tries = 1;
        let secret = loop {
            let password = self.password(path, screen)?;
            let waiting = screen.wait("opening the wallet");
            let work = move || (keystore.open(&password), keystore);
            let (opened, back) = tokio::task::spawn_blocking(work).await.expect("opening a file does not panic");
            drop(waiting);
            keystore = back;
            match opened {
                Ok(secret) => break secret,
                Err(KeystoreError::Password) if self.password_file.is_none() && tries < TRIES_MAX => {
                    screen.note("The password does not open it. Once more:");
                    tries += 1;
                }
                Err(error) => return Err(fault(error)),
            }
        };
        let hollow = |_| WalletError::Hollow { path: path.to_owned() };
        let signer = PrivateKeySigner::from_slice(secret.as_slice()).map_err(hollow)?;
        match keystore.address {
            Some(says) if says != signer.address() => {
                Err(WalletError::OtherAddress { path: path.to_owned(), has: signer.address(), says })
            }
            _ => Ok(signer),
        }
    }

    fn password(&self, path: &Path, screen: Screen) -> Result<Zeroizing<Vec<u8>>, WalletError> {
        if let Some(file) = &self.password_file {
            let mut password = private::read("password file", file, PASSWORD_FILE_BYTES_MAX)?;
            let length = password.strip_suffix(b"\n").map_or(password.len(), <[u8]>::len);
            password.truncate(length);
            return Ok(password);
        }
        let fault = |source| WalletError::Ask { path: path.to_owned(), source };
        if screen.json {
            return Err(fault(io::Error::other("with --json nobody is asked")));
        }
        person::secret(&format!("Password of {}: ", path.display())).map_err(fault)
    }
}

fn read_key(path: &Path) -> Result<PrivateKeySigner, WalletError> {
    let no_key = || WalletError::NoKey { path: path.to_owned() };
    let bytes = private::read("key file", path, KEY_FILE_BYTES_MAX)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| no_key())?;
    let key: B256 = text.trim().parse().map_err(|_| no_key())?;
    let key = Zeroizing::new(key.0);
    PrivateKeySigner::from_slice(key.as_slice()).map_err(|_| no_key())
}

#[cfg(feature = "ledger")]
async fn ledger_at(path: &str, chain_id: u64) -> Result<Key, WalletError> {
    let opened = ledger::Ledger::open(path, chain_id).await;
    opened.map(Key::Ledger).map_err(|source| WalletError::Ledger { path: path.to_owned(), source })
}

#[cfg(not(feature = "ledger"))]
async fn ledger_at(path: &str, _chain_id: u64) -> Result<Key, WalletError> {
    Err(WalletError::NoLedger(path.to_owned()))
}

impl From<WalletError> for Failure {
    fn from(error: WalletError) -> Failure {
        const FOR_PROGRAMS: &str = "run it in a terminal, or name a file with the password: --password-file FILE";
        let next = match &error {
            WalletError::None => format!("name one of them, or set ${ENV_KEY_FILE}"),
            WalletError::Private(error) => error.next(),
            WalletError::NoKey { .. } => "export the key of one account from your wallet into the file".to_owned(),
            WalletError::Keystore { source: KeystoreError::Password, .. } => {
                "try again with the password that this file was made with".to_owned()
            }
            WalletError::Keystore { .. } | WalletError::Hollow { .. } => {
                "export the account from your wallet again, as a keystore or JSON file".to_owned()
            }
            WalletError::OtherAddress { .. } => "use the file as your wallet wrote it".to_owned(),
            WalletError::Ask { .. } => FOR_PROGRAMS.to_owned(),
            #[cfg(not(feature = "ledger"))]
            WalletError::NoLedger(_) => {
                "build it with `cargo build --release -p provisioning --features ledger`, which \
                                         links libusb (LGPL 2.1), or use --unsigned"
                    .to_owned()
            }
            #[cfg(feature = "ledger")]
            WalletError::Ledger { .. } => {
                "unlock the Ledger and open its Ethereum app; close other programs that use it; \
                                           a udev rule must let you open it"
                    .to_owned()
            }
        };
        Failure::new(Exit::Usage, error).next(next)
    }
}

// === impl Wallet ===

impl Wallet {
    fn sign(signer: &PrivateKeySigner, tx: TypedTransaction) -> Result<Sealed, SealError> {
        match signer.sign_hash_sync(&tx.signature_hash()) {
            Ok(signature) => Ok(sealed(tx, signature)),
            Err(error) => Err(SealError::Refused { rule: "key".to_owned(), why: error.to_string() }),
        }
    }
}

fn sealed(tx: TypedTransaction, signature: alloy::primitives::Signature) -> Sealed {
    let signed = tx.into_envelope(signature);
    Sealed { raw: signed.encoded_2718().into(), hash: *signed.tx_hash() }
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wallet").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Seal for Wallet {
    fn address(&self) -> Address {
        match &self.key {
            Key::Here(signer) => signer.address(),
            #[cfg(feature = "ledger")]
            Key::Ledger(ledger) => ledger.address(),
        }
    }

    fn seal(&self, tx: TypedTransaction) -> BoxFuture<'_, Result<Sealed, SealError>> {
        match &self.key {
            Key::Here(signer) => ready(Wallet::sign(signer, tx)).boxed(),
            #[cfg(feature = "ledger")]
            Key::Ledger(ledger) => ledger.sign(tx).map(|signed| signed.map(|(tx, by)| sealed(tx, by))).boxed(),
        }
    }
}
