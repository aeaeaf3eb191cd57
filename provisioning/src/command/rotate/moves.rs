//! The owner's transactions of a rotation. Each reads the chain first, and reads it again when a contract refuses: what
//! is wanted may have come about meanwhile, through the rig itself or through a command that was interrupted.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use alloy::providers::Provider;
use chain::abi::{Nexus, Source, Terminal, Vault};
use tokio::time::{Instant, sleep};

use super::POLL;
use super::answer::{Moved, OldKey};
use super::state::{self, Link, Listed};
use crate::exit::{Exit, Failure};
use crate::owner::{Done, Owner, OwnerError, unread};
use crate::parse::coin_words;
use crate::screen::Screen;

/// How often the lists are read again, because a rig that has not heard of its end registers itself again.
const ROUNDS: u32 = 3;

/// One rotation.
#[derive(Debug)]
pub(super) struct Rotation<'a> {
    pub(super) owner: &'a Owner,
    pub(super) old: Address,
    pub(super) screen: Screen,
}

/// What the new key gets.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) stake_wei: U256,
    pub(super) gas_wei: U256,
    pub(super) wait: Duration,
}

/// What was done for the new key.
#[derive(Debug)]
pub(super) struct Paired {
    pub(super) announced: Option<Done>,
    pub(super) funded: Option<Done>,
}

// === impl Rotation ===

impl Rotation<'_> {
    /// Announces the new key, sends it gas, and waits until it is paired.
    pub(super) async fn pair(&self, new: Address, terms: &Terms) -> Result<Paired, Failure> {
        let terminal = self.owner.contracts().terminal;
        let announced = match state::link(self.owner, new).await? {
            Link::Paired | Link::Announced => None,
            Link::None | Link::Foreign(_) => {
                let call = Terminal::announceProviderCall { provider: new, amount: terms.stake_wei };
                Some(self.owner.send("announcing the new key", terminal, &call, terms.stake_wei).await?)
            }
        };
        let balance = self.owner.provider().get_balance(new).await;
        let has_wei = balance.map_err(|source| OwnerError::Chain { what: "the new key's balance", source })?;
        let funded = match terms.gas_wei.saturating_sub(has_wei) {
            // A rig that has just paired has spent a little of it: that is no reason to send dust after it.
            lacks if lacks <= terms.gas_wei / U256::from(2) => None,
            lacks => Some(self.owner.transfer("sending gas money", new, lacks).await?),
        };
        self.wait_for_both(new, terms.wait).await?;
        Ok(Paired { announced, funded })
    }

    async fn wait_for_both(&self, new: Address, wait: Duration) -> Result<(), Failure> {
        let _waiting = self.screen.wait("waiting for the rig to name this wallet as its owner");
        let deadline = Instant::now() + wait;
        while state::link(self.owner, new).await? != Link::Paired {
            if Instant::now() >= deadline {
                let words =
                    format!("{new} has not named {} as its owner within {} s", self.owner.address, wait.as_secs());
                let step = "start the rig with its new key, and repeat the command: it goes on here. OLD is as it was";
                return Err(Failure::new(Exit::TimedOut, words).next(step));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Registers the new key wherever the old one is, and takes the old one off those lists.
    pub(super) async fn move_sources(&self, new: Address, listed: &[Listed]) -> Result<Vec<Moved>, Failure> {
        let mut all = Vec::new();
        for one in listed {
            all.push(self.register(new, one).await?);
        }
        for _ in 0..ROUNDS {
            if state::link(self.owner, self.old).await? != Link::Paired {
                break;
            }
            let mut is_clean = true;
            for moved in all.iter_mut().filter(|moved| moved.may_leave()) {
                if self.is_registered(moved.source, self.old).await? {
                    is_clean = false;
                    self.unregister(moved.source).await?;
                }
            }
            if is_clean {
                break;
            }
        }
        for moved in &mut all {
            moved.old = match self.is_registered(moved.source, self.old).await? {
                true => OldKey::Listed,
                false => OldKey::Gone,
            };
        }
        Ok(all)
    }

    async fn register(&self, new: Address, listed: &Listed) -> Result<Moved, Failure> {
        let moved = |is_registered, why| Moved::new(listed, is_registered, why);
        if self.is_registered(listed.source, new).await? {
            return Ok(moved(true, None));
        }
        if !listed.is_active {
            return Ok(moved(false, Some("its client has closed it".to_owned())));
        }
        let vault = Vault::new(self.owner.contracts().vault, self.owner.provider());
        let has_wei = vault.lockupOf(new).call().await.map_err(unread("the new key's stake"))?;
        if has_wei < listed.min_lockup_wei {
            let (asks, has) = (coin_words(listed.min_lockup_wei), coin_words(has_wei));
            let why = format!("it asks for a stake of {asks} coin, NEW has {has}: run `rig stake`, then repeat this");
            return Ok(moved(false, Some(why)));
        }
        let nexus = self.owner.contracts().nexus;
        let call =
            Nexus::registerCall { source: listed.source, provider: new, preferredEnvironment: listed.environment };
        match self.owner.send("registering the new key", nexus, &call, U256::ZERO).await {
            Ok(_) => Ok(moved(true, None)),
            Err(OwnerError::Refused { reason, .. }) => match self.is_registered(listed.source, new).await? {
                true => Ok(moved(true, None)),
                false => Ok(moved(false, Some(format!("the contract refuses: {reason}")))),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// The order to stop comes first: a rig that is struck out and does not know why registers itself again.
    async fn unregister(&self, source: Address) -> Result<(), Failure> {
        let (terminal, nexus) = (self.owner.contracts().terminal, self.owner.contracts().nexus);
        let stop = Terminal::removeContainerCall { provider: self.old, source };
        self.owner.send("telling the old rig to stop a source", terminal, &stop, U256::ZERO).await?;
        let call = Nexus::unregisterCall { source, provider: self.old };
        match self.owner.send("taking the old key off a list", nexus, &call, U256::ZERO).await {
            Err(OwnerError::Refused { .. }) if !self.is_registered(source, self.old).await? => Ok(()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the pairing with the old key, if there is one.
    pub(super) async fn remove(&self) -> Result<Option<Done>, Failure> {
        match state::link(self.owner, self.old).await? {
            Link::None | Link::Foreign(_) => return Ok(None),
            Link::Paired | Link::Announced => {}
        }
        let call = Terminal::removeProviderCall { provider: self.old };
        let at = self.owner.contracts().terminal;
        match self.owner.send("ending the pairing with the old key", at, &call, U256::ZERO).await {
            Ok(done) => Ok(Some(done)),
            Err(OwnerError::Refused { .. }) if state::link(self.owner, self.old).await? == Link::None => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn is_registered(&self, source: Address, key: Address) -> Result<bool, OwnerError> {
        let source = Source::new(source, self.owner.provider());
        let id = source.getRegistrantId(key).call().await.map_err(unread("a source's list"))?;
        Ok(!id.is_zero())
    }
}
