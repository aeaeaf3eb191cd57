//! Who has coins on a fresh local network.
//!
//! Invariant: the order of [`Role::ALL`] is the order in which anvil derives its keys, so on every machine the same role
//! has the same address. Those keys are known to the whole world: they are for a chain that is thrown away.

use std::fmt;

use alloy::primitives::{Address, B256};
use alloy::signers::local::PrivateKeySigner;
use serde::{Deserialize, Serialize};

/// The phrase that every Ethereum tool uses for throw-away chains.
pub(super) const PUBLIC_PHRASE: &str = "test test test test test test test test test test test junk";

/// What each account owns at first, in whole coins.
pub(super) const BALANCE_COINS: u64 = 1_000_000;

/// What an account is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Deploys and administers the contracts. Not told to those who only use the network.
    Deployer,
    /// Publishes sources and tasks.
    Client,
    /// Owns rigs.
    Master,
    /// Acts for a master.
    Agent,
    /// May sanction: holds the role JUDGE.
    Judge,
    /// For whatever a test needs.
    Spare1,
    /// See [`Role::Spare1`].
    Spare2,
    /// See [`Role::Spare1`].
    Spare3,
}

/// One funded account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What it is for.
    pub role: Role,
    /// Written with its checksum, which web3 insists on.
    #[serde(with = "super::checksummed")]
    pub address: Address,
    /// The private key. Guards nothing of value.
    pub key: B256,
}

// === impl Role ===

impl Role {
    /// Every role, in the order of key derivation.
    pub const ALL: [Role; 8] = [
        Role::Deployer,
        Role::Client,
        Role::Master,
        Role::Agent,
        Role::Judge,
        Role::Spare1,
        Role::Spare2,
        Role::Spare3,
    ];

    /// The word for it in the ready line.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Deployer => "deployer",
            Role::Client => "client",
            Role::Master => "master",
            Role::Agent => "agent",
            Role::Judge => "judge",
            Role::Spare1 => "spare1",
            Role::Spare2 => "spare2",
            Role::Spare3 => "spare3",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// === impl Account ===

impl Account {
    /// A signer with this account's key.
    pub fn signer(&self) -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&self.key).expect("the key was a key when anvil made it")
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("role", &self.role).field("address", &self.address).finish_non_exhaustive()
    }
}

/// Gives `keys`, in anvil's order, their roles. `None` when there are fewer keys than roles or one is no key.
pub(super) fn assign(keys: &[B256]) -> Option<Vec<Account>> {
    let account = |(role, key): (Role, &B256)| {
        let address = PrivateKeySigner::from_bytes(key).ok()?.address();
        Some(Account { role, address, key: *key })
    };
    if keys.len() < Role::ALL.len() {
        return None;
    }
    Role::ALL.into_iter().zip(keys).map(account).collect()
}
