//! `rig pair`: the owner's half of a pairing, and gas money for the rig.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use alloy::providers::Provider;
use chain::abi::Terminal;
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::exit::{Exit, Failure};
use crate::owner::{Done, Owner, OwnerArgs, OwnerError, unread};
use crate::parse::{self, coin_words};
use crate::screen::Screen;

/// Between two looks at the chain.
const POLL: Duration = Duration::from_millis(500);

/// Pair a rig with the wallet that owns it.
///
/// Announces the rig's address on the chain, sends it coins for gas, and waits until the rig has named this wallet as
/// its owner. Both halves may come in either order, and the command may be repeated.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  rig pair 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc --key-file owner.key --network testnet")]
pub(crate) struct Pair {
    /// The rig's address, as its screen or `rig status` shows it.
    #[arg(value_name = "PROVIDER", value_parser = parse::address)]
    provider: Address,
    /// Stake to give the rig at once.
    #[arg(long, value_name = "COIN", default_value = "0", value_parser = parse::coin)]
    stake: U256,
    /// Coins that the rig should have for gas; what it lacks of them is sent.
    #[arg(long, value_name = "COIN", default_value = "0.1", value_parser = parse::coin)]
    gas: U256,
    /// How long to wait for the rig's half, such as 10m; 0s: do not wait.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse::span)]
    wait: Duration,
    #[command(flatten)]
    owner: OwnerArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    provider: String,
    owner: String,
    paired: bool,
    announced: Option<Done>,
    funded: Option<Done>,
}

/// How far a pairing has come, as the chain says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halves {
    /// The provider is announced, and this owner's newest is this provider.
    is_announced: bool,
    is_paired: bool,
}

// === impl Pair ===

impl Pair {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        let owner = self.owner.open(screen).await?;
        let halves = self.halves(&owner).await?;
        if halves.is_announced && !self.stake.is_zero() {
            screen.note("The rig was announced before, so --stake is left out; `rig stake` adds to it.");
        }
        let announced = match halves.is_announced {
            true => None,
            false => Some(self.announce(&owner).await?),
        };
        let funded = self.fund(&owner).await?;
        let paired = self.wait_for_both(&owner, screen).await?;
        let answer =
            Answer { provider: self.provider.to_string(), owner: owner.address.to_string(), paired, announced, funded };
        owner.close().await?;
        if !paired && !self.wait.is_zero() {
            let words = format!("the rig has not named {} as its owner within {} s", answer.owner, self.wait.as_secs());
            let step = format!("set owner.address = \"{}\" in its rig.toml, start it, and repeat", answer.owner);
            return Err(Failure::new(Exit::TimedOut, words).next(step));
        }
        screen.answer(&answer, || self.describe(&answer));
        Ok(())
    }

    async fn halves(&self, owner: &Owner) -> Result<Halves, OwnerError> {
        let terminal = Terminal::new(owner.contracts().terminal, owner.provider());
        let read = unread("the pairing");
        let is_provider = terminal.isProvider(self.provider).call().await.map_err(read)?;
        let master = terminal.masterOf(self.provider).call().await.map_err(read)?;
        let newest = terminal.providerOf(owner.address).call().await.map_err(read)?;
        let is_paired = is_provider && master == owner.address;
        Ok(Halves { is_announced: is_paired || (is_provider && newest == self.provider), is_paired })
    }

    async fn announce(&self, owner: &Owner) -> Result<Done, OwnerError> {
        // Exactly the amount, as the SDK does it: what the real contract does with more is not known.
        let call = Terminal::announceProviderCall { provider: self.provider, amount: self.stake };
        owner.send("announcing the rig", owner.contracts().terminal, &call, self.stake).await
    }

    /// Sends what the provider lacks of `--gas`.
    async fn fund(&self, owner: &Owner) -> Result<Option<Done>, OwnerError> {
        let balance = owner.provider().get_balance(self.provider).await;
        let has = balance.map_err(|source| OwnerError::Chain { what: "the rig's balance", source })?;
        match self.gas.saturating_sub(has) {
            U256::ZERO => Ok(None),
            lacks => Ok(Some(owner.transfer("sending gas money", self.provider, lacks).await?)),
        }
    }

    /// Whether both halves are on the chain before `--wait` is over.
    async fn wait_for_both(&self, owner: &Owner, screen: Screen) -> Result<bool, OwnerError> {
        let _waiting = screen.wait("waiting for the rig to name this wallet as its owner");
        let deadline = Instant::now() + self.wait;
        loop {
            if self.halves(owner).await?.is_paired {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            sleep(POLL).await;
        }
    }

    fn describe(&self, answer: &Answer) -> String {
        let half = if answer.paired { "is paired with" } else { "is announced by" };
        let gas = match answer.funded {
            Some(_) => format!("It has {} coin for gas.", coin_words(self.gas)),
            None => "It has coins for gas.".to_owned(),
        };
        format!("{} {half} {}. {gas}", answer.provider, answer.owner)
    }
}
