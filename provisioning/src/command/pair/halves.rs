//! A pairing on the chain: what is there of it, and the owner's part.

use alloy::primitives::{Address, U256};
use alloy::providers::Provider;
use chain::abi::Terminal;

use super::Terms;
use crate::owner::{Done, Owner, OwnerError, unread};
use crate::screen::Screen;

/// One rig that is being paired.
#[derive(Debug)]
pub(super) struct Pairing<'a> {
    pub(super) owner: &'a Owner,
    pub(super) provider: Address,
    pub(super) terms: &'a Terms,
}

/// How far a pairing has come, as the chain says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Halves {
    /// The provider is announced, and this owner's newest is this provider.
    pub(super) is_announced: bool,
    pub(super) is_paired: bool,
}

/// What the owner did.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) announced: Option<Done>,
    pub(super) funded: Option<Done>,
}

// === impl Pairing ===

impl Pairing<'_> {
    /// Announces the rig if it is not, and sends what it lacks of gas.
    pub(super) async fn give(&self, screen: Screen) -> Result<Given, OwnerError> {
        let halves = self.halves().await?;
        if halves.is_announced && !self.terms.stake.is_zero() {
            screen.note("The rig was announced before, so --stake is left out; `rig stake` adds to it.");
        }
        let announced = match halves.is_announced {
            true => None,
            false => Some(self.announce().await?),
        };
        Ok(Given { announced, funded: self.fund().await? })
    }

    pub(super) async fn halves(&self) -> Result<Halves, OwnerError> {
        let (owner, provider) = (self.owner, self.provider);
        let terminal = Terminal::new(owner.contracts().terminal, owner.provider());
        let read = unread("the pairing");
        let is_provider = terminal.isProvider(provider).call().await.map_err(read)?;
        let master = terminal.masterOf(provider).call().await.map_err(read)?;
        let newest = terminal.providerOf(owner.address).call().await.map_err(read)?;
        let is_paired = is_provider && master == owner.address;
        Ok(Halves { is_announced: is_paired || (is_provider && newest == provider), is_paired })
    }

    async fn announce(&self) -> Result<Done, OwnerError> {
        // Exactly the amount, as the SDK does it: what the real contract does with more is not known.
        let amount = self.terms.stake;
        let call = Terminal::announceProviderCall { provider: self.provider, amount };
        self.owner.send("announcing the rig", self.owner.contracts().terminal, &call, amount).await
    }

    /// Sends what the provider lacks of `--gas`.
    async fn fund(&self) -> Result<Option<Done>, OwnerError> {
        let balance = self.owner.provider().get_balance(self.provider).await;
        let has = balance.map_err(|source| OwnerError::Chain { what: "the rig's balance", source })?;
        match self.terms.gas.saturating_sub(has) {
            U256::ZERO => Ok(None),
            lacks => Ok(Some(self.owner.transfer("sending gas money", self.provider, lacks).await?)),
        }
    }
}
