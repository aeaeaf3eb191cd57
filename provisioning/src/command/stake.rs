//! `rig stake`: coins for a rig's stake.

use alloy::primitives::{Address, U256};
use chain::abi::Vault;
use clap::Args;
use serde::Serialize;

use crate::exit::Failure;
use crate::owner::{Done, OwnerArgs, unread};
use crate::parse::{self, coin_words};
use crate::screen::Screen;

/// Give a rig coins to stake.
///
/// Deposits into the vault in the rig's name. The rig locks as much of it as its sources ask for.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  rig stake 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc --amount 25 --key-file owner.key")]
pub(crate) struct Stake {
    /// The rig's address.
    #[arg(value_name = "PROVIDER", value_parser = parse::address)]
    provider: Address,
    /// How much to add.
    #[arg(long, value_name = "COIN", value_parser = parse::coin)]
    amount: U256,
    #[command(flatten)]
    owner: OwnerArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    provider: String,
    deposited: Done,
    balance_wei: String,
    lockup_wei: String,
}

// === impl Stake ===

impl Stake {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        let owner = self.owner.open(screen).await?;
        let at = owner.contracts().vault;
        let call = Vault::depositCall { account: self.provider };
        let deposited = owner.send("depositing the stake", at, &call, self.amount).await?;
        let vault = Vault::new(at, owner.provider());
        let read = unread("the rig's account in the vault");
        let balance = vault.balanceOf(self.provider).call().await.map_err(read)?;
        let lockup = vault.lockupOf(self.provider).call().await.map_err(read)?;
        owner.close().await?;
        let answer = Answer {
            provider: self.provider.to_string(),
            deposited,
            balance_wei: balance.to_string(),
            lockup_wei: lockup.to_string(),
        };
        screen.answer(&answer, || {
            let (free, locked) = (coin_words(balance), coin_words(lockup));
            format!("{} has {locked} coin locked and {free} coin to lock.", answer.provider)
        });
        Ok(())
    }
}
