//! `rig pair 0x…`: one rig, whose address the person has.

use std::time::Duration;

use alloy::primitives::Address;
use serde::Serialize;
use signer::identity::pairing_code;
use tokio::time::{Instant, sleep};

use super::halves::{Given, Pairing};
use super::{Pair, declined};
use crate::exit::{Exit, Failure};
use crate::owner::{Done, OwnerError};
use crate::parse::coin_words;
use crate::person;
use crate::screen::Screen;

/// Between two looks at the chain.
pub(super) const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
struct Answer {
    provider: String,
    code: String,
    owner: String,
    paired: bool,
    announced: Option<Done>,
    funded: Option<Done>,
}

// === impl Pair ===

impl Pair {
    pub(super) async fn one(&self, provider: Address, screen: Screen) -> Result<(), Failure> {
        self.compare(provider, screen)?;
        let owner = self.owner.open(screen).await?;
        let pairing = Pairing { owner: &owner, provider, terms: &self.terms };
        let Given { announced, funded } = pairing.give(screen).await?;
        let paired = wait_for_both(&pairing, screen).await?;
        let (owner_address, code) = (owner.address.to_string(), pairing_code(provider));
        let answer = Answer { provider: provider.to_string(), code, owner: owner_address, paired, announced, funded };
        owner.close().await?;
        let wait = self.terms.wait;
        if !paired && !wait.is_zero() {
            let words = format!("the rig has not named {} as its owner within {} s", answer.owner, wait.as_secs());
            let step = format!("set owner.address = \"{}\" in its rig.toml, start it, and repeat", answer.owner);
            return Err(Failure::new(Exit::TimedOut, words).next(step));
        }
        screen.answer(&answer, || self.describe(&answer));
        Ok(())
    }

    /// Makes sure that the address is the rig's, as far as a person can tell.
    fn compare(&self, provider: Address, screen: Screen) -> Result<(), Failure> {
        let code = pairing_code(provider);
        match &self.code {
            Some(given) if given.belongs_to(provider) => return Ok(()),
            Some(_) => {
                let words = format!("--code does not belong to {provider}, whose code is {code}");
                let step = "compare the address with the rig's screen: one of the two is another rig's, or mistyped";
                return Err(Failure::new(Exit::Usage, words).next(step));
            }
            None => {}
        }
        screen.note(&format!("{provider} has the pairing code {}.", screen.bold(&code)));
        if self.yes || screen.json || !person::is_there() {
            return Ok(());
        }
        let agrees = person::agrees("Does the rig's screen show the same code?");
        match agrees.map_err(|error| Failure::new(Exit::Failed, error))? {
            true => Ok(()),
            false => Err(declined()),
        }
    }

    fn describe(&self, answer: &Answer) -> String {
        let half = if answer.paired { "is paired with" } else { "is announced by" };
        let gas = match answer.funded {
            Some(_) => format!("It has {} coin for gas.", coin_words(self.terms.gas)),
            None => "It has coins for gas.".to_owned(),
        };
        format!("{} {half} {}. {gas}", answer.provider, answer.owner)
    }
}

/// Whether both halves are on the chain before `--wait` is over.
async fn wait_for_both(pairing: &Pairing<'_>, screen: Screen) -> Result<bool, OwnerError> {
    let _waiting = screen.wait("waiting for the rig to name this wallet as its owner");
    let deadline = Instant::now() + pairing.terms.wait;
    loop {
        if pairing.halves().await?.is_paired {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(POLL).await;
    }
}
