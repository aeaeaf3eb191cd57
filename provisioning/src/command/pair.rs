//! `rig pair`: the owner's half of a pairing, and gas money for the rig.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use clap::Args;

use crate::exit::{Exit, Failure};
use crate::lan::Interface;
use crate::owner::OwnerArgs;
use crate::parse;
use crate::screen::Screen;

mod all;
pub(super) mod code;
mod halves;
mod one;

use self::code::Code;

/// Nobody listens longer; rigs answer within two seconds.
const FOR_MAX: Duration = Duration::from_secs(10 * 60);

/// Pair a rig with the wallet that owns it.
///
/// Announces the rig's address on the chain, sends it coins for gas, and waits until the rig has named this wallet as
/// its owner. Both halves may come in either order, and the command may be repeated.
///
/// The rig shows its pairing code beside its address: compare it, or give it with --code. The code stands for the
/// address, so that a wrong digit or a false rig shows before any coin is sent.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig pair 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc --key-file owner.key --network testnet
  rig pair 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc --code K7F2-QD9M-3XTA --keystore owner.json
  rig pair 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc --unsigned 0x70997970C51812dc3A010C7d01b50e0d17dc79C8
  rig pair --all --keystore owner.json")]
pub(crate) struct Pair {
    /// The rig's address, as its screen or `rig status` shows it.
    #[arg(value_name = "PROVIDER", value_parser = parse::address, required_unless_present = "all")]
    provider: Option<Address>,
    /// The pairing code that the rig shows; refused if it does not belong to the address.
    #[arg(long, value_name = "CODE", value_parser = Code::parse)]
    code: Option<Code>,
    /// Pair every rig on the local network that asks for this wallet, after showing the list.
    ///
    /// Anybody on the network can claim to be a rig: compare the codes of the list with those on the rigs' screens. With
    /// --json and without --yes, the list is all that happens.
    #[arg(long, conflicts_with_all = ["provider", "code"])]
    all: bool,
    /// How long to listen for rigs.
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = listening, requires = "all")]
    listen: Duration,
    /// Listen on this network interface only; `loopback` for rigs on this machine.
    #[arg(long, value_name = "NAME", value_parser = Interface::parse, requires = "all")]
    interface: Option<Interface>,
    /// Do not ask. With --all it trusts everybody on the local network: the coins may go to a stranger's address.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    terms: Terms,
    #[command(flatten)]
    owner: OwnerArgs,
}

/// What every rig that is paired gets.
#[derive(Debug, Args)]
struct Terms {
    /// Stake to give the rig at once.
    #[arg(long, value_name = "COIN", default_value = "0", value_parser = parse::coin)]
    stake: U256,
    /// Coins that the rig should have for gas; what it lacks of them is sent.
    #[arg(long, value_name = "COIN", default_value = "0.1", value_parser = parse::coin)]
    gas: U256,
    /// How long to wait for the rig's half, such as 10m; 0s: do not wait.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse::span)]
    wait: Duration,
}

// === impl Pair ===

impl Pair {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        match self.provider {
            Some(provider) => self.one(provider, screen).await,
            None => self.all(screen).await,
        }
    }
}

/// Reads a span of time that somebody may want to wait for answers.
fn listening(text: &str) -> Result<Duration, String> {
    let span = parse::span(text)?;
    let is_fine = !span.is_zero() && span <= FOR_MAX;
    is_fine.then_some(span).ok_or_else(|| format!("between 1s and {} min", FOR_MAX.as_secs() / 60))
}

/// Nobody said yes.
fn declined() -> Failure {
    Failure::new(Exit::Failed, "nothing was paired and nothing sent").next("find out which rig shows another code")
}
