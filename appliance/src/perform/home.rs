//! The way home: what a removed rig does with its coins. Nobody but the owner is paid.
//!
//! Invariants:
//! - Each step reads the chain first, and takes nothing from a rig that its owner has taken back. An intent is named by
//!   what the account held before it, so that the same step on a later way home is an effect of its own.
//! - The last transfer leaves what its own gas may cost. What is left is dust, and is said to be; it is tried again only
//!   after more coins came.

use alloy::sol_types::SolCall;
use alloy_primitives::{Bytes, U256};
use chain::abi::Vault;
use chain::outbox::Intent;
use chain::read::{self, Fees};
use work::enrolment::Standing;
use work::step::Trouble;
use work::{News, ProviderId, Wei};

use super::{Performer, READ_BACK_EVERY, READ_BACK_TRIES, weather};

/// Gas of a plain transfer, at the least. Source: EIP-2028 and before.
const TRANSFER_GAS_MIN: u64 = 21_000;

impl Performer {
    /// Begins the cooldown of all of our stake, unless it has begun.
    pub(super) async fn unbond(&self, amount_wei: U256) -> Result<News, Trouble> {
        let before = self.standing().await?;
        let is_done = |now: &Standing| now.lockup_wei < amount_wei;
        let call = Vault::unbondCall { amount: amount_wei };
        self.of_vault("unbond", before, is_done, call.abi_encode()).await
    }

    /// Moves what has cooled down to our vault balance, unless that is done.
    pub(super) async fn claim(&self, amount_wei: U256) -> Result<News, Trouble> {
        let before = self.standing().await?;
        let is_done = |now: &Standing| now.unbonding_wei < amount_wei;
        // A rig that was taken back claims too: it locks that again.
        self.call_vault("claim", before, is_done, Vault::claimCall {}.abi_encode()).await
    }

    /// Pays our vault balance out to our account, unless that is done.
    pub(super) async fn withdraw(&self, amount_wei: U256) -> Result<News, Trouble> {
        let before = self.standing().await?;
        let is_done = |now: &Standing| now.vault_wei < amount_wei;
        let call = Vault::withdrawCall { amount: amount_wei };
        self.of_vault("withdraw", before, is_done, call.abi_encode()).await
    }

    /// Sends the account's coins to the owner, but for what that may cost.
    pub(super) async fn send_home(&self) -> Result<News, Trouble> {
        let before = self.standing().await?;
        if !before.is_let_go_by(ProviderId(self.owner)) {
            return Ok(News::Stood { standing: before });
        }
        let fees = read::fees(&self.rpc).await.map_err(|e| weather(&e))?;
        // An owner may be a contract, which takes coins for more gas than an account does.
        let gas = read::transfer_gas(&self.rpc, self.me, self.owner).await.map_err(|e| weather(&e))?;
        let kept_wei = transfer_wei(&fees, gas);
        let Some(value_wei) = before.gas_wei.checked_sub(kept_wei).filter(|rest| !rest.is_zero()) else {
            return Ok(News::SentHome { standing: before });
        };
        let key = format!("home:{}", before.gas_wei);
        self.send(Intent { key, to: self.owner, data: Bytes::new(), value_wei }).await?;
        for _ in 0..READ_BACK_TRIES {
            let standing = self.standing().await?;
            if standing.gas_wei <= kept_wei {
                return Ok(News::SentHome { standing });
            }
            tokio::time::sleep(READ_BACK_EVERY).await;
        }
        Err(Trouble::passing("the coins were sent, and the account holds more than was left there"))
    }

    /// A call of the vault that only a removed rig makes.
    async fn of_vault(
        &self,
        name: &str,
        before: Standing,
        is_done: impl Fn(&Standing) -> bool,
        data: Vec<u8>,
    ) -> Result<News, Trouble> {
        if !before.is_let_go_by(ProviderId(self.owner)) {
            return Ok(News::Stood { standing: before });
        }
        self.call_vault(name, before, is_done, data).await
    }

    async fn call_vault(
        &self,
        name: &str,
        before: Standing,
        is_done: impl Fn(&Standing) -> bool,
        data: Vec<u8>,
    ) -> Result<News, Trouble> {
        if is_done(&before) {
            return Ok(News::Stood { standing: before });
        }
        // Whatever the account sent or got since the last way home shows in what it holds.
        let key = format!("{name}:{}:{}:{}", before.lockup_wei, before.unbonds_at, before.gas_wei);
        self.submit(key, self.rpc.network().contracts.vault, data).await?;
        self.read_standing_back(is_done).await
    }
}

/// The most that a transfer of so much gas may cost, in wei. A base fee may rise by an eighth until the outbox asks for
/// it, and the outbox offers twice of it and the tip, for a quarter more gas than is estimated.
fn transfer_wei(fees: &Fees, gas: u64) -> Wei {
    let base_wei = fees.base_fee_wei.unwrap_or(fees.gas_price_wei);
    let base_wei = base_wei.saturating_add(base_wei / Wei::from(8)).saturating_add(Wei::ONE);
    let offer_wei = base_wei.saturating_mul(Wei::from(2)).saturating_add(fees.gas_price_wei);
    let gas = gas.max(TRANSFER_GAS_MIN);
    offer_wei.saturating_mul(Wei::from(gas.saturating_add(gas / 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_transfer_may_cost_is_kept_and_is_never_less_than_the_outbox_offers() {
        let check_gas = |gas: u64, gas_price: u64, base_fee: Option<u64>, offered: u64| {
            let fees = Fees { gas_price_wei: Wei::from(gas_price), base_fee_wei: base_fee.map(Wei::from) };
            let offered_wei = Wei::from(offered) * Wei::from(gas + gas / 4);
            assert!(transfer_wei(&fees, gas) >= offered_wei, "{gas} {fees:?}");
        };
        let check = |gas_price, base_fee, offered| {
            // An account, and a wallet that is a contract.
            for gas in [21_000, 48_000] {
                check_gas(gas, gas_price, base_fee, offered);
            }
        };
        check(30, None, 34);
        check(100, Some(90), 2 * 101 + 10);
        check(1, Some(7), 2 * 8 + 1);
        check(1, Some(0), 1);
        let huge = Fees { gas_price_wei: Wei::MAX, base_fee_wei: Some(Wei::MAX) };
        assert_eq!(transfer_wei(&huge, u64::MAX), Wei::MAX);
        assert_eq!(transfer_wei(&huge, 0), Wei::MAX);
    }
}
