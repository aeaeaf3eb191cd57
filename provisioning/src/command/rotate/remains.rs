//! What the old key still has on the chain, and waiting for it to come home.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use alloy::providers::Provider;
use chain::abi::Vault;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::POLL;
use crate::owner::{Owner, OwnerError, unread};
use crate::parse::coin_words;
use crate::screen::Screen;

/// Said wherever a stake is named that may not come home.
pub(super) const WHO_CAN: &str = "Only OLD's own key can bring that home.";

/// Ten plain transfers: a rig keeps up to four back for the price to rise, and the price may have fallen since.
const DUST_GAS: u64 = 210_000;

/// What a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remains {
    pub(super) lockup_wei: U256,
    pub(super) unbonding_wei: U256,
    /// Unix seconds from which it can be claimed.
    pub(super) unbonds_at: U256,
    pub(super) vault_wei: U256,
    pub(super) coins_wei: U256,
}

/// The same for programs: wei in decimal.
#[derive(Debug, Serialize)]
pub(super) struct Left {
    lockup_wei: String,
    unbonding_wei: String,
    unbonds_at: String,
    vault_wei: String,
    coins_wei: String,
}

// === impl Remains ===

impl Remains {
    /// Whether the vault holds nothing for it.
    pub(super) fn is_home(&self) -> bool {
        self.lockup_wei.is_zero() && self.unbonding_wei.is_zero() && self.vault_wei.is_zero()
    }

    pub(super) fn words(&self) -> String {
        let of = |wei: U256, what: &str| (!wei.is_zero()).then(|| format!("{} coin {what}", coin_words(wei)));
        let parts = [
            of(self.lockup_wei, "of locked stake"),
            of(self.unbonding_wei, "unbonding"),
            of(self.vault_wei, "in the vault"),
            of(self.coins_wei, "on its account"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "nothing left".to_owned() } else { parts.join(", ") }
    }

    pub(super) fn left(&self) -> Left {
        Left {
            lockup_wei: self.lockup_wei.to_string(),
            unbonding_wei: self.unbonding_wei.to_string(),
            unbonds_at: self.unbonds_at.to_string(),
            vault_wei: self.vault_wei.to_string(),
            coins_wei: self.coins_wei.to_string(),
        }
    }
}

/// What `key` has now.
pub(super) async fn read(owner: &Owner, key: Address) -> Result<Remains, OwnerError> {
    let vault = Vault::new(owner.contracts().vault, owner.provider());
    let read = unread("the old key's account in the vault");
    let coins = owner.provider().get_balance(key).await;
    Ok(Remains {
        lockup_wei: vault.lockupOf(key).call().await.map_err(read)?,
        unbonding_wei: vault.unbondingOf(key).call().await.map_err(read)?,
        unbonds_at: vault.unbondingTimestamp(key).call().await.map_err(read)?,
        vault_wei: vault.balanceOf(key).call().await.map_err(read)?,
        coins_wei: coins.map_err(|source| OwnerError::Chain { what: "the old key's balance", source })?,
    })
}

/// What `key` has when all is out of the vault and its account has been emptied, or when `span` is over.
pub(super) async fn wait(owner: &Owner, key: Address, span: Duration, screen: Screen) -> Result<Remains, OwnerError> {
    let waiting = screen.wait("waiting for the old rig to bring its stake home");
    let deadline = Instant::now() + span;
    loop {
        let now = read(owner, key).await?;
        let is_over = Instant::now() >= deadline || (now.is_home() && now.coins_wei <= dust_wei(owner).await?);
        if is_over {
            return Ok(now);
        }
        waiting.say(format!("waiting for the old rig, which has {}", now.words()));
        sleep(POLL).await;
    }
}

/// What a rig may leave on its account because a transfer might cost more, at the price of gas now.
async fn dust_wei(owner: &Owner) -> Result<U256, OwnerError> {
    let price_wei = owner.provider().get_gas_price().await;
    let price_wei = price_wei.map_err(|source| OwnerError::Chain { what: "the price of gas", source })?;
    Ok(U256::from(price_wei).saturating_mul(U256::from(DUST_GAS)))
}
