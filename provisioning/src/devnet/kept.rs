//! What a local network keeps in its state folder between two runs.
//!
//! ```text
//! STATE/lock             held while the network runs: two chains must not write one file
//! STATE/network.json     this module: version, contracts, accounts, the content service's port
//! STATE/chain.json       anvil's own dump, written when it stops
//! STATE/content/         the content service's files
//! ```
//!
//! Invariants: `network.json` is replaced whole, by a rename; a chain that was deployed from other contracts is
//! refused, because its addresses would answer differently from what the code expects. The content service keeps its
//! port, because links with that port are on the chain.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use alloy::primitives::B256;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::accounts::Account;
use super::deploy::DevnetContracts;

/// Of `network.json`.
const VERSION: u32 = 1;

/// Why a state folder cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// A file operation went wrong.
    #[error("{what} {}", .path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another network runs on the folder.
    #[error("{} is in use by another local network", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder was written by another version.
    #[error("{} was made by another version of the contracts: name another folder, or remove it", .path.display())]
    OtherVersion {
        /// The folder.
        path: PathBuf,
    },
}

/// `network.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    version: u32,
    /// Of the contracts' creation code.
    fingerprint: B256,
    pub(super) contracts: DevnetContracts,
    pub(super) accounts: Vec<Account>,
    pub(super) content_port: u16,
}

/// A state folder that nobody else uses.
#[derive(Debug)]
pub(super) struct StateFolder {
    path: PathBuf,
    _lock: File,
}

// === impl Kept ===

impl Kept {
    pub(super) fn new(
        fingerprint: B256,
        contracts: DevnetContracts,
        accounts: Vec<Account>,
        content_port: u16,
    ) -> Kept {
        Kept { version: VERSION, fingerprint, contracts, accounts, content_port }
    }
}

// === impl StateFolder ===

impl StateFolder {
    /// Makes the folder if need be and takes its lock, which ends with this value, or with the process.
    pub(super) fn open(path: &Path) -> Result<StateFolder, StateError> {
        fs::create_dir_all(path).map_err(file("make", path))?;
        let path = path.canonicalize().map_err(file("find", path))?;
        let at = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&at).map_err(file("open", &at))?;
        match lock.try_lock() {
            Ok(()) => Ok(StateFolder { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { path }),
            Err(TryLockError::Error(source)) => Err(StateError::File { what: "lock", path: at, source }),
        }
    }

    pub(super) fn chain_file(&self) -> PathBuf {
        self.path.join("chain.json")
    }

    pub(super) fn content_folder(&self) -> PathBuf {
        self.path.join("content")
    }

    /// What an earlier run left, or `None` when there is no chain to go with it: anvil writes its file when it stops,
    /// so a machine that lost power during the first run starts again from nothing.
    pub(super) fn load(&self, fingerprint: B256) -> Result<Option<Kept>, StateError> {
        let at = self.path.join("network.json");
        if !at.exists() || !self.chain_file().exists() {
            return Ok(None);
        }
        let text = fs::read(&at).map_err(file("read", &at))?;
        let kept: Kept = serde_json::from_slice(&text).map_err(|error| StateError::File {
            what: "understand",
            path: at,
            source: error.into(),
        })?;
        if kept.version != VERSION || kept.fingerprint != fingerprint {
            return Err(StateError::OtherVersion { path: self.path.clone() });
        }
        Ok(Some(kept))
    }

    pub(super) fn save(&self, kept: &Kept) -> Result<(), StateError> {
        let (at, new) = (self.path.join("network.json"), self.path.join("network.json.new"));
        let text = serde_json::to_vec_pretty(kept).expect("plain data becomes JSON");
        let write = || -> io::Result<()> {
            // Keys, although worthless ones.
            let mut out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            out.write_all(&text)?;
            out.sync_all()?;
            fs::rename(&new, &at)
        };
        write().map_err(file("write", &at))
    }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File { what, path, source }
}
