//! `rig rotate`: from a rig's old key to its new one, by the owner's wallet alone.
//!
//! Invariants:
//! * Each step reads the chain before it sends anything, so a command that was interrupted anywhere is repeated with the
//!   same words, and goes on where the chain is.
//! * The old key leaves a source's list only after the new one is on it: until then the list itself is the memory of
//!   what is still to be moved.
//! * Nothing is promised of the old key's stake. Only that key can unbond it; a rig that holds the key does so by itself
//!   once it is removed, and a lost key leaves it in the vault for good.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use clap::Args;

use crate::exit::{Exit, Failure};
use crate::owner::OwnerArgs;
use crate::parse;
use crate::person;
use crate::screen::Screen;

mod answer;
mod moves;
mod remains;
mod state;

use self::answer::Answer;
use self::moves::Rotation;
use self::state::Plan;
use super::pair::code::Code;

/// Between two looks at the chain.
const POLL: Duration = Duration::from_millis(500);

/// Move a rig to a new key: the pairing, the registrations, and the stake as far as it can move.
///
/// With OLD and NEW: announces NEW with stake and gas, waits until the rig has named this wallet, registers NEW wherever
/// OLD is registered, takes OLD off those lists, and ends the pairing with OLD. It shows the plan and asks first.
///
/// The stake of OLD is unbonded by OLD's own key and by nothing else. A rig that still has the key brings it home by
/// itself, to this wallet, once it is removed: stake after the network's cooldown, then what it holds in the vault, then
/// its coins less the gas. The stake of a key that is lost stays in the vault; NEW needs new stake either way.
///
/// With OLD alone: ends the pairing, so that its rig brings its stake home before the key is changed. Then raise the key's
/// `generation` in the rig's settings, and run it again with the address that the rig shows.
///
/// It may be interrupted and repeated at any point: it goes on where the chain is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig rotate 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc 0x976EA74026E726554dB657fA54763abd0C3a0aa9 --key-file owner.key
  rig rotate 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc 0x976EA74026E726554dB657fA54763abd0C3a0aa9 --stake 2 --wait-home 2d
  rig rotate 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc --wait-home 2d --keystore owner.json

After a lost key, leave --wait-home out: nothing comes home.")]
pub(crate) struct Rotate {
    /// The address of the key that goes.
    #[arg(value_name = "OLD", value_parser = parse::address)]
    old: Address,
    /// The address of the key that comes, as the rig shows it.
    #[arg(value_name = "NEW", value_parser = parse::address)]
    new: Option<Address>,
    /// The pairing code that the rig shows for NEW; refused if it does not belong to the address.
    #[arg(long, value_name = "CODE", value_parser = Code::parse, requires = "new")]
    code: Option<Code>,
    /// Stake to give NEW; as much as OLD has, if it is left out.
    #[arg(long, value_name = "COIN", value_parser = parse::coin, requires = "new")]
    stake: Option<U256>,
    /// Coins that NEW should have for gas; what it lacks of them is sent.
    #[arg(long, value_name = "COIN", default_value = "0.1", value_parser = parse::coin)]
    gas: U256,
    /// How long to wait for the new key's half of the pairing, such as 10m.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse::span)]
    wait: Duration,
    /// How long to wait until OLD's stake and coins came home; 0s: do not wait.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse::span)]
    wait_home: Duration,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    owner: OwnerArgs,
}

// === impl Rotate ===

impl Rotate {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        self.check()?;
        let owner = self.owner.open(screen).await?;
        let plan = Plan::read(&owner, self.old, self.new, self.stake).await?;
        plan.check(&owner)?;
        if plan.is_done() {
            screen.note("All of it is on the chain already.");
        } else {
            self.ask(&plan, screen)?;
        }
        let rotation = Rotation { owner: &owner, old: self.old, screen };
        let mut answer = Answer::new(owner.address, &plan);
        if let Some(new) = &plan.new {
            let terms = moves::Terms { stake_wei: new.stake_wei, gas_wei: self.gas, wait: self.wait };
            let paired = rotation.pair(new.address, &terms).await?;
            (answer.announced, answer.funded) = (paired.announced, paired.funded);
            answer.sources = rotation.move_sources(new.address, &plan.sources).await?;
        }
        answer.removed = rotation.remove().await?;
        let remains = remains::wait(&owner, self.old, self.wait_home, screen).await?;
        answer.conclude(remains, self.wait_home);
        owner.close().await?;
        if !answer.is_home && !self.wait_home.is_zero() {
            let words = format!("OLD has {} after {} s", answer.left_words, self.wait_home.as_secs());
            return Err(Failure::new(Exit::TimedOut, words).next(answer.next));
        }
        screen.answer(&answer, || answer.describe());
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        let Some(new) = self.new else { return Ok(()) };
        if new == self.old {
            let failure = Failure::new(Exit::Usage, "OLD and NEW are the same address");
            return Err(failure.next("name the address that the rig shows as its new one"));
        }
        if self.code.as_ref().is_some_and(|code| !code.belongs_to(new)) {
            let words = format!("--code does not belong to {new}");
            return Err(Failure::new(Exit::Usage, words).next("compare the address with the rig's screen"));
        }
        Ok(())
    }

    fn ask(&self, plan: &Plan, screen: Screen) -> Result<(), Failure> {
        screen.note(&plan.words(self.gas));
        if self.yes || screen.json || !person::is_there() {
            return Ok(());
        }
        let agrees = person::agrees("Go on?").map_err(|error| Failure::new(Exit::Failed, error))?;
        match agrees {
            true => Ok(()),
            false => Err(Failure::new(Exit::Failed, "nothing was changed")),
        }
    }
}
