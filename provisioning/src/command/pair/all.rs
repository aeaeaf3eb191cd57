//! `rig pair --all`: every rig on the local network that asks for this wallet.
//!
//! Invariants: nothing is sent before the list was shown and agreed to; a rig that something speaks against is shown and
//! left alone; one that fails does not stop the others; a list that was cut pairs nobody, because a flood that hides rigs
//! is not one to send coins into.

use alloy::primitives::{Address, U256};
use serde::Serialize;
use signer::KeyState;
use signer::identity::pairing_code;
use tokio::time::{Instant, sleep};

use super::halves::{Given, Pairing};
use super::one::POLL;
use super::{Pair, declined};
use crate::exit::{Exit, Failure};
use crate::lan::{self, List, Row};
use crate::owner::{Done, Owner};
use crate::parse::coin_words;
use crate::person;
use crate::screen::{Screen, Table};

/// What comes of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// It asks for this wallet, and may be paired.
    Asks,
    /// Something speaks against it.
    Skipped,
    /// The owner's half is on the chain.
    Announced,
    /// Both halves are on the chain.
    Paired,
    /// The owner's half did not come about.
    Failed,
}

/// One rig of the list, and what became of it.
#[derive(Debug, Serialize)]
struct Rig {
    name: String,
    host: String,
    #[serde(serialize_with = "as_text")]
    address: Address,
    code: String,
    tier: String,
    state: &'static str,
    owner: Option<String>,
    outcome: Outcome,
    why: Option<String>,
    announced: Option<Done>,
    funded: Option<Done>,
}

#[derive(Debug, Serialize)]
struct Answer {
    owner: String,
    rigs: Vec<Rig>,
    /// Rigs for which the list had no room.
    left_out: usize,
    /// Answers that are no rig's.
    unreadable: usize,
}

// === impl Pair ===

impl Pair {
    pub(super) async fn all(&self, screen: Screen) -> Result<(), Failure> {
        let owner = self.owner.open(screen).await?;
        let list = self.listen(screen).await?;
        let mut answer = Answer::new(&list, owner.address);
        warn(&list, screen);
        let count = answer.count(Outcome::Asks);
        if count == 0 || (screen.json && !self.yes) {
            screen.answer(&answer, || answer.describe(screen));
            return Ok(());
        }
        if answer.left_out > 0 {
            screen.answer(&answer, || answer.describe(screen));
            let words = format!("more than {} rigs answer, so somebody floods this network", lan::ROWS_MAX);
            return Err(Failure::new(Exit::Failed, words).next("pair each rig by its address, from its own screen"));
        }
        screen.note(&answer.describe(screen));
        if !self.yes {
            self.ask(count, &owner)?;
        }
        for rig in answer.rigs.iter_mut().filter(|rig| rig.outcome == Outcome::Asks) {
            self.give(rig, &owner, screen).await;
        }
        self.wait_for_all(&mut answer, &owner, screen).await;
        owner.close().await?;
        screen.answer(&answer, || answer.describe(screen));
        self.verdict(&answer)
    }

    async fn listen(&self, screen: Screen) -> Result<List, Failure> {
        let _waiting = screen.wait("listening for rigs on the local network");
        let (interface, span) = (self.interface.clone(), self.listen);
        let heard = tokio::task::spawn_blocking(move || lan::browse(interface.as_ref(), span)).await;
        Ok(heard.map_err(|error| Failure::new(Exit::Failed, error))??)
    }

    fn ask(&self, count: usize, owner: &Owner) -> Result<(), Failure> {
        if !person::is_there() {
            let words = "nobody is there to compare the codes and to agree";
            return Err(Failure::new(Exit::Usage, words).next("run it in a terminal, or add --yes"));
        }
        let each = coin_words(self.terms.gas.saturating_add(self.terms.stake));
        let most = U256::from(count).saturating_mul(self.terms.gas.saturating_add(self.terms.stake));
        let question = format!(
            "Compare each code with the rig's own screen: anybody on this network can claim to be a rig.\nPair {count} \
             rig(s) with {}, for at most {each} coin each and {} coin in all?",
            owner.address,
            coin_words(most)
        );
        match person::agrees(&question).map_err(|error| Failure::new(Exit::Failed, error))? {
            true => Ok(()),
            false => Err(declined()),
        }
    }

    /// The owner's half for one rig. What goes wrong is written down and stops no other.
    async fn give(&self, rig: &mut Rig, owner: &Owner, screen: Screen) {
        let pairing = Pairing { owner, provider: rig.address, terms: &self.terms };
        screen.note(&format!("Announcing {} ({}).", rig.code, rig.address));
        match pairing.give(screen).await {
            Ok(Given { announced, funded }) => {
                (rig.announced, rig.funded, rig.outcome) = (announced, funded, Outcome::Announced);
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
                (rig.outcome, rig.why) = (Outcome::Failed, Some(format!("{error}{cause}")));
            }
        }
    }

    /// Waits until every rig has done its half, or `--wait` is over.
    async fn wait_for_all(&self, answer: &mut Answer, owner: &Owner, screen: Screen) {
        let waiting = screen.wait("waiting for the rigs to name this wallet as their owner");
        let deadline = Instant::now() + self.terms.wait;
        loop {
            for rig in answer.rigs.iter_mut().filter(|rig| rig.outcome == Outcome::Announced) {
                let pairing = Pairing { owner, provider: rig.address, terms: &self.terms };
                match pairing.halves().await {
                    Ok(halves) if halves.is_paired => (rig.outcome, rig.why) = (Outcome::Paired, None),
                    Ok(_) => rig.why = Some("it has not named this wallet as its owner yet".to_owned()),
                    Err(error) => rig.why = Some(error.to_string()),
                }
            }
            let open = answer.count(Outcome::Announced);
            if open == 0 || Instant::now() >= deadline {
                return;
            }
            waiting.say(format!("waiting for {open} rig(s) to name this wallet as their owner"));
            sleep(POLL).await;
        }
    }

    /// How the command ends, after its answer.
    fn verdict(&self, answer: &Answer) -> Result<(), Failure> {
        let (failed, waiting) = (answer.count(Outcome::Failed), answer.count(Outcome::Announced));
        let step = "see the list for the reasons, and repeat: what is done stays done";
        match (failed, waiting) {
            (0, 0) => Ok(()),
            (0, _) if self.terms.wait.is_zero() => Ok(()),
            (0, late) => Err(Failure::new(Exit::TimedOut, format!("{late} rig(s) did not do their half")).next(step)),
            (failed, _) => Err(Failure::new(Exit::Failed, format!("{failed} rig(s) could not be paired")).next(step)),
        }
    }
}

fn warn(list: &List, screen: Screen) {
    if let (count @ 1.., Some(first)) = list.unreadable() {
        screen.note(&format!("{count} answer(s) are not a rig's; the first: {first}."));
    }
}

// === impl Rig ===

impl Rig {
    fn new(row: Row, wallet: Address) -> Rig {
        let why = objection(&row, wallet);
        let Row { host, record, .. } = row;
        Rig {
            host,
            code: pairing_code(record.address),
            address: record.address,
            tier: record.tier.to_string(),
            state: record.state.code(),
            owner: record.owner.map(|owner| owner.to_string()),
            outcome: if why.is_none() { Outcome::Asks } else { Outcome::Skipped },
            why,
            name: record.name,
            announced: None,
            funded: None,
        }
    }
}

/// Why the rig is not to be paired with `wallet`.
fn objection(row: &Row, wallet: Address) -> Option<String> {
    let record = &row.record;
    if let Some(doubt) = row.doubt {
        return Some(format!("{}: pair it by its address, from its screen", doubt.words()));
    }
    if record.is_paired {
        return Some("it is paired".to_owned());
    }
    if record.state != KeyState::Open {
        return Some(format!("its key is not open: {}", record.state.what()));
    }
    match record.owner {
        None => Some("its rig.toml names no owner".to_owned()),
        Some(other) if other != wallet => Some("it asks for another owner".to_owned()),
        Some(_) => None,
    }
}

// === impl Answer ===

impl Answer {
    fn new(list: &List, wallet: Address) -> Answer {
        Answer {
            owner: wallet.to_string(),
            rigs: list.rows().into_iter().map(|row| Rig::new(row, wallet)).collect(),
            left_out: list.left_out(),
            unreadable: list.unreadable().0,
        }
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.rigs.iter().filter(|rig| rig.outcome == outcome).count()
    }

    fn describe(&self, screen: Screen) -> String {
        if self.rigs.is_empty() {
            return "No rig answers on the local network.".to_owned();
        }
        let mut table = Table::with_header(["code", "name", "host", "address", "tier", "state", "owner", "outcome"]);
        for rig in &self.rigs {
            let outcome = match rig.outcome {
                Outcome::Asks => "asks to be paired",
                Outcome::Skipped => "left alone",
                Outcome::Announced => "announced",
                Outcome::Paired => "paired",
                Outcome::Failed => "failed",
            };
            let outcome = rig.why.as_ref().map_or(outcome.to_owned(), |why| format!("{outcome}: {why}"));
            let owner = match &rig.owner {
                Some(owner) if *owner == self.owner => "this wallet".to_owned(),
                Some(other) => other.clone(),
                None => "-".to_owned(),
            };
            let (code, name, host) = (rig.code.clone(), rig.name.clone(), rig.host.clone());
            let (address, tier, state) = (rig.address.to_string(), rig.tier.clone(), rig.state.to_owned());
            table.push([code, name, host, address, tier, state, owner, outcome]);
        }
        screen.table(&table)
    }
}

fn as_text<S: serde::Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}
