//! What the chain says before a rotation, and what therefore is to be done.

use alloy::primitives::{Address, U256};
use chain::abi::{Source, Terminal};
use chain::read::{self, ReadError};
use signer::identity::pairing_code;

use super::remains::{self, Remains};
use crate::exit::{Exit, Failure};
use crate::owner::{Owner, OwnerError, unread};
use crate::parse::coin_words;

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) old: Address,
    pub(super) link: Link,
    pub(super) remains: Remains,
    pub(super) new: Option<New>,
    pub(super) sources: Vec<Listed>,
    /// The old key is, or was, a provider.
    has_trace: bool,
}

/// The key that comes.
#[derive(Debug)]
pub(super) struct New {
    pub(super) address: Address,
    pub(super) link: Link,
    /// What it is announced with, unless it is announced already.
    pub(super) stake_wei: U256,
    is_as_old: bool,
}

/// How a key is tied to this wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// By nothing.
    None,
    /// The wallet has named it, and waits.
    Announced,
    /// Both have named each other.
    Paired,
    /// Somebody else is its owner.
    Foreign(Address),
}

/// A source whose list holds the old key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) source: Address,
    /// The bit of one environment.
    pub(super) environment: u8,
    pub(super) is_active: bool,
    /// Stake that it asks for, in wei.
    pub(super) min_lockup_wei: U256,
    /// The new key is on its list too.
    pub(super) has_new: bool,
}

// === impl Plan ===

impl Plan {
    /// Reads what there is. `stake` is what the person wants for the new key.
    pub(super) async fn read(
        owner: &Owner,
        old: Address,
        new: Option<Address>,
        stake: Option<U256>,
    ) -> Result<Plan, Failure> {
        let remains = remains::read(owner, old).await?;
        let link = link(owner, old).await?;
        // Of nobody's list the new key can be, when there is none.
        let sources = listed(owner, old, new.unwrap_or(Address::ZERO)).await?;
        let terminal = Terminal::new(owner.contracts().terminal, owner.provider());
        let described = terminal.baseDataOf(old).call().await.map_err(unread("what the old key said of itself"))?;
        let new = match new {
            None => None,
            Some(address) => Some(New {
                address,
                link: self::link(owner, address).await?,
                stake_wei: stake.unwrap_or(remains.lockup_wei.saturating_add(remains.unbonding_wei)),
                is_as_old: stake.is_none(),
            }),
        };
        let has_trace = link != Link::None || !remains.is_home() || !sources.is_empty() || !described.is_empty();
        Ok(Plan { old, link, remains, new, sources, has_trace })
    }

    /// Whether this wallet may do it. Errors: it may not, or the old key is no provider.
    pub(super) fn check(&self, owner: &Owner) -> Result<(), Failure> {
        let foreign = |which: &str, key: Address, master: Address| {
            let words = format!("{which} {key} is paired with {master}, not with {}", owner.address);
            Err(Failure::new(Exit::Refused, words).next("use the wallet that owns it, or check the address"))
        };
        match (self.link, &self.new) {
            (Link::Foreign(master), _) => foreign("OLD", self.old, master),
            (_, Some(New { address, link: Link::Foreign(master), .. })) => foreign("NEW", *address, *master),
            _ if !self.has_trace => {
                let words = format!("OLD {} has never been a provider on this network", self.old);
                Err(Failure::new(Exit::Refused, words)
                    .next("check the address and the network; `rig pair` pairs a new rig"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the chain holds all that the wallet can do.
    pub(super) fn is_done(&self) -> bool {
        let is_in = self.new.as_ref().is_none_or(|new| new.link == Link::Paired);
        let is_moved = self.new.is_none() || self.sources.iter().all(|listed| listed.has_new || !listed.is_active);
        self.link == Link::None && is_in && is_moved
    }

    /// The plan for a person. `gas_wei` is what the new key should have for gas.
    pub(super) fn words(&self, gas_wei: U256) -> String {
        let mut lines = Vec::new();
        if let Some(new) = &self.new {
            let (address, code) = (new.address, pairing_code(new.address));
            let as_old = if new.is_as_old { ", as much as OLD has" } else { "" };
            let stake = coin_words(new.stake_wei);
            lines.push(match new.link {
                Link::Paired => format!("NEW {address} (code {code}) is paired already; its stake stays as it is."),
                Link::Announced => {
                    format!("NEW {address} (code {code}) is announced; the rig has to name this wallet.")
                }
                Link::None | Link::Foreign(_) => {
                    format!("Announce NEW {address} (code {code}) with a stake of {stake} coin{as_old}.")
                }
            });
            lines.push(format!("Send it what it lacks of {} coin for gas.", coin_words(gas_wei)));
            lines.extend(self.sources.iter().map(Listed::words));
            if self.sources.is_empty() {
                lines.push("OLD is registered to no source.".to_owned());
            }
        }
        lines.push(match self.link {
            Link::Paired | Link::Announced => format!("End the pairing with OLD {}.", self.old),
            Link::None | Link::Foreign(_) => format!("OLD {} is not paired with this wallet any more.", self.old),
        });
        lines.push(format!("OLD has {}. {}", self.remains.words(), remains::WHO_CAN));
        lines.join("\n")
    }
}

// === impl Listed ===

impl Listed {
    fn words(&self) -> String {
        let source = self.source;
        match (self.has_new, self.is_active) {
            (true, _) => format!("Source {source}: NEW is registered; take OLD off its list."),
            (false, true) => format!("Source {source}: register NEW, then take OLD off its list."),
            (false, false) => format!("Source {source}: its client has closed it; take OLD off its list."),
        }
    }
}

/// The sources whose lists hold `old`, all that there are.
async fn listed(owner: &Owner, old: Address, new: Address) -> Result<Vec<Listed>, Failure> {
    const ACTIVE: u8 = 0;
    let read = unread("a source");
    let mut all = Vec::new();
    for registration in read::registrations(&owner.rpc, old).await.map_err(unreadable)? {
        let source = Source::new(registration.source, owner.provider());
        let params = source.getSourceParams().call().await.map_err(read)?;
        all.push(Listed {
            source: registration.source,
            environment: registration.environment,
            is_active: source.getStatus().call().await.map_err(read)? == ACTIVE,
            min_lockup_wei: params.minAvailableLockup,
            has_new: !source.getRegistrantId(new).call().await.map_err(read)?.is_zero(),
        });
    }
    Ok(all)
}

/// How `key` is tied to the owner's wallet.
pub(super) async fn link(owner: &Owner, key: Address) -> Result<Link, OwnerError> {
    let terminal = Terminal::new(owner.contracts().terminal, owner.provider());
    let read = unread("the pairing");
    let is_announced = terminal.isProvider(key).call().await.map_err(read)?;
    let master = terminal.masterOf(key).call().await.map_err(read)?;
    let newest = terminal.providerOf(owner.address).call().await.map_err(read)?;
    Ok(match (master == owner.address, is_announced) {
        (true, true) => Link::Paired,
        (false, true) if newest == key && master.is_zero() => Link::Announced,
        // The rig has named this wallet already.
        (true, false) => Link::None,
        _ if master.is_zero() => Link::None,
        _ => Link::Foreign(master),
    })
}

/// The chain did not answer about the sources, or not as a chain of this kind does.
fn unreadable(error: ReadError) -> Failure {
    let exit = match &error {
        ReadError::NoAnswer { .. } | ReadError::NoBlock { .. } => Exit::Unreachable,
        ReadError::Nonsense { .. } | ReadError::Unknown { .. } | ReadError::BidMissing { .. } => Exit::Failed,
    };
    Failure::new(exit, error).next("check the connection, or name another endpoint; then repeat the command")
}
