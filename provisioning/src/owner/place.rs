//! Where a wallet's transactions are kept while they are under way, and the right to send more.
//!
//! Invariants:
//! * One command at a time writes for a wallet on a network; a second waits for the lock. Two writers would give the
//!   same nonce to two transactions.
//! * To tell the repetition of an interrupted command from a second wish for the same thing, commands are numbered, and
//!   the number counts up only when one has succeeded. The number is part of what names an intent.
//! * A local chain begins anew under the same chain id, and a transaction of the last one must not be sent again on the
//!   next: its outbox lives in a temporary folder.
//!
//! ```text
//! $XDG_STATE_HOME/rig/CHAIN-WALLET.lock    held by the command that sends
//! $XDG_STATE_HOME/rig/CHAIN-WALLET.count   commands that succeeded, in decimal; absent: none
//! $XDG_STATE_HOME/rig/CHAIN-WALLET.db      the outbox
//! ```

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use tempfile::TempDir;
use thiserror::Error;

use crate::network::NetworkSettings;
use crate::screen::Screen;

/// Where the outbox's file is, and the right to write it.
#[derive(Debug)]
pub(super) struct Place {
    outbox: PathBuf,
    counter: PathBuf,
    /// Commands that succeeded before this one.
    number: u64,
    _lock: File,
    /// Holds the file of a chain that begins anew.
    _scratch: Option<TempDir>,
}

/// Why nothing can be kept.
#[derive(Debug, Error)]
pub(crate) enum PlaceError {
    #[error("{what} {}", .path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("neither $XDG_STATE_HOME nor $HOME says where to keep transactions that are under way")]
    Homeless,
}

// === impl Place ===

impl Place {
    /// Waits for the lock of `wallet` on the network, in `folder`.
    pub(super) async fn take(
        folder: &Path,
        settings: &NetworkSettings,
        wallet: Address,
        screen: Screen,
    ) -> Result<Place, PlaceError> {
        fs::create_dir_all(folder).map_err(fault("make", folder))?;
        let port = settings.network.rpc_urls.first().and_then(|url| url.port()).filter(|_| settings.is_local());
        let name = format!("{}{}-{wallet}", settings.network.chain_id, port.map_or(String::new(), |n| format!("-{n}")));
        let at = folder.join(format!("{name}.lock"));
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&at).map_err(fault("open", &at))?;
        let waiting = screen.wait("waiting for another command of this wallet to end");
        // Waiting for a lock blocks its thread.
        let locked = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await;
        let lock = locked.map_err(io::Error::other).and_then(|locked| locked).map_err(fault("lock", &at))?;
        drop(waiting);
        let scratch = match settings.is_local() {
            true => Some(tempfile::tempdir().map_err(fault("make a temporary folder for", &at))?),
            false => None,
        };
        let outbox = scratch.as_ref().map_or(folder, TempDir::path).join(format!("{name}.db"));
        let counter = folder.join(format!("{name}.count"));
        let number = match fs::read_to_string(&counter) {
            Ok(text) => text.trim().parse().map_err(io::Error::other).map_err(fault("understand", &counter))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(fault("read", &counter)(error)),
        };
        Ok(Place { outbox, counter, number, _lock: lock, _scratch: scratch })
    }

    /// The outbox's file.
    pub(super) fn outbox(&self) -> &Path {
        &self.outbox
    }

    /// How many commands of this wallet have succeeded on this network.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Notes that one more command has succeeded.
    pub(super) fn count(&self) -> Result<(), PlaceError> {
        let new = self.counter.with_extension("count.new");
        let write = || fs::write(&new, (self.number + 1).to_string()).and_then(|()| fs::rename(&new, &self.counter));
        write().map_err(fault("write", &self.counter))
    }
}

/// Where the outboxes are, by the XDG convention.
pub(super) fn state_folder() -> Result<PathBuf, PlaceError> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    Ok(state.ok_or(PlaceError::Homeless)?.join("rig"))
}

fn fault(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError::File { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::built_in;

    #[tokio::test]
    async fn the_number_counts_commands_that_succeeded_and_each_wallet_has_its_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let take = async |wallet: u8| {
            let settings = built_in("mainnet").expect("mainnet is built in");
            let screen = Screen::new(true);
            Place::take(folder.path(), &settings, Address::repeat_byte(wallet), screen).await.expect("nobody holds it")
        };
        let interrupted = take(1).await;
        assert_eq!(interrupted.number(), 0);
        drop(interrupted);
        let repeated = take(1).await;
        assert_eq!(repeated.number(), 0);
        repeated.count().expect("the folder can be written");
        let other = take(2).await;
        assert_eq!((other.number(), other.outbox() == repeated.outbox()), (0, false));
        drop(repeated);
        assert_eq!(take(1).await.number(), 1);
    }
}
