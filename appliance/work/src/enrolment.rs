//! How the rig becomes a provider: gas, both halves of the pairing, base data, stake.
//!
//! The phase is a pure function of the newest [`Standing`] and the rig's settings, so enrolment has no state of its own
//! that could disagree with the chain.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{ProviderId, Wei};
use crate::step::Trouble;

/// What the chain says of this provider at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Coin on the provider's account, for gas, in wei.
    pub gas_wei: Wei,
    /// Free balance in the vault, in wei.
    pub vault_wei: Wei,
    /// Stake locked in the vault, in wei.
    pub lockup_wei: Wei,
    /// `Terminal.masterOf(provider)`: whom we have named as our owner.
    pub master: Option<ProviderId>,
    /// `Terminal.isProvider(provider)`: whether an owner has named us.
    pub is_announced: bool,
    /// `Terminal.baseDataOf(provider)`.
    pub base_data_url: String,
}

/// Where the rig stands on its way to being a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The chain has not answered yet.
    Unread,
    /// Too little gas on the account to send anything.
    Unfunded,
    /// We have to name our owner on chain.
    Announcing,
    /// The owner has to name us: `rig pair`.
    AwaitingOwner,
    /// Paired with somebody who is not the owner in `rig.toml`.
    ForeignOwner,
    /// Our base data has to be published.
    Describing,
    /// Paired and described.
    Paired,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Unread => "the chain has not answered yet",
            Phase::Unfunded => "waiting for gas: send coin to the rig's address, or run `rig pair`",
            Phase::Announcing => "naming the owner on chain",
            Phase::AwaitingOwner => "waiting for the owner: run `rig pair` with this rig's address",
            Phase::ForeignOwner => "paired with another owner: that owner must remove this provider first",
            Phase::Describing => "publishing what this rig is",
            Phase::Paired => "paired",
        })
    }
}

/// Enrolment as the book holds it: the newest reading, and the step in hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The newest reading, `None` before the first.
    pub standing: Option<Standing>,
    /// Whether the step that the phase awaits has been handed out.
    pub is_asked: bool,
    /// How often that step has fallen through in a row.
    pub tries: u32,
    /// Unix seconds before which it is not tried again.
    pub not_before: u64,
    /// The newest trouble, if the last try fell through.
    pub trouble: Option<Trouble>,
}

impl Enrolment {
    /// Where the rig stands. `owner` and `base_data_cid` come from the rig's settings; the CID is the last part of the
    /// link on chain.
    pub fn phase(&self, owner: ProviderId, base_data_cid: &str) -> Phase {
        let Some(now) = &self.standing else { return Phase::Unread };
        match now.master {
            Some(other) if other != owner => Phase::ForeignOwner,
            _ if now.gas_wei.is_zero() => Phase::Unfunded,
            None => Phase::Announcing,
            Some(_) if !now.is_announced => Phase::AwaitingOwner,
            Some(_) if !now.base_data_url.ends_with(base_data_cid) => Phase::Describing,
            Some(_) => Phase::Paired,
        }
    }
}
