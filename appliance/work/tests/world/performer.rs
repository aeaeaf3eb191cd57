//! Does what a step says to this world, well or badly, and reports it.

use work::fact::Look;
use work::step::{StepKey, Trouble};
use work::{Digest, News, SourceId, Step, TaskId, Wei};

use super::World;
use super::chain::{OWNER, Revert, cents};

/// How a step fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Luck {
    /// Done, and its outcome is reported.
    Good,
    /// Done, and reported as failed: the answer was lost on its way.
    Unheard,
    /// Not done: weather.
    Weather,
    /// Not done, and never will be.
    Hopeless,
}

impl World {
    /// Performs the step that is in hand under `key`.
    pub(crate) fn perform(&mut self, key: StepKey, luck: Luck) {
        let Some(step) = self.hand.get(&key).cloned() else { return };
        if luck == Luck::Weather {
            return self.fall(key, Trouble::passing("the weather is bad"));
        }
        if luck == Luck::Hopeless && !matches!(step, Step::Attempt { .. } | Step::Respond { .. }) {
            return self.fall(key, Trouble::lasting("this cannot be done"));
        }
        match self.act(&step, luck) {
            Ok(_) if luck == Luck::Unheard => self.fall(key, Trouble::passing("no answer came")),
            Ok(news) => {
                self.hand.remove(&key);
                self.tell(news);
            }
            Err(trouble) => self.fall(key, trouble),
        }
    }

    fn fall(&mut self, step: StepKey, trouble: Trouble) {
        self.tell(News::Fell { step, trouble });
    }

    /// Changes the world and returns what there is to report.
    fn act(&mut self, step: &Step, luck: Luck) -> Result<News, Trouble> {
        Ok(match step {
            Step::Announce => {
                self.chain.standing.master = Some(OWNER);
                News::Stood { standing: self.chain.standing.clone() }
            }
            Step::Describe => {
                self.chain.standing.base_data_url = "ipfs://base-data".into();
                News::Stood { standing: self.chain.standing.clone() }
            }
            Step::Lock { amount_wei } => {
                let standing = &mut self.chain.standing;
                let locked_wei = standing.vault_wei.min(*amount_wei);
                standing.vault_wei -= locked_wei;
                standing.lockup_wei += locked_wei;
                News::Stood { standing: standing.clone() }
            }
            Step::Unbond { amount_wei } => {
                if !self.chain.standing.lockup_wei.is_zero() {
                    self.chain.unbond(*amount_wei, self.now).map_err(|_| Trouble::passing("it is less by now"))?;
                }
                News::Stood { standing: self.chain.standing.clone() }
            }
            Step::Claim { .. } => {
                if !self.chain.standing.unbonding_wei.is_zero() {
                    self.chain.claim(self.now).map_err(|_| Trouble::passing("it is not free yet"))?;
                }
                News::Stood { standing: self.chain.standing.clone() }
            }
            Step::Withdraw { amount_wei } => {
                if self.chain.standing.vault_wei >= *amount_wei {
                    self.chain.withdraw(*amount_wei).expect("there is as much");
                }
                News::Stood { standing: self.chain.standing.clone() }
            }
            Step::SendHome { .. } => {
                self.chain.send_home();
                News::SentHome { standing: self.chain.standing.clone() }
            }
            Step::Prepare { source, updated_at, .. } => {
                self.up.insert(*source, *updated_at);
                self.volumes.insert(*source);
                News::SourceUp {
                    source: *source,
                    prepared_from: *updated_at,
                    functions: None,
                    conditions: None,
                    notes: Vec::new(),
                }
            }
            Step::Register { source, .. } => self.register(*source)?,
            Step::StopSource { source, forgets } => {
                self.up.remove(source);
                if *forgets {
                    self.volumes.remove(source);
                }
                News::SourceStopped { source: *source, is_forgotten: *forgets }
            }
            Step::Look { task } => News::Looked { task: task.id, look: self.look(luck) },
            Step::Attempt { bid } => self.attempt(bid.task.id, bid.payment_wei)?,
            Step::Fetch { attempt } => News::Fetched {
                task: attempt.bid.task.id,
                function: "answer".into(),
                digest: Digest(attempt.bid.task.id.0.into_word()),
            },
            Step::Run { run } => {
                let task = &run.input.attempt.bid.task;
                if !self.up.contains_key(&task.source) {
                    return Err(Trouble::passing("its container is not up"));
                }
                let digest = Digest(task.id.0.into_word());
                News::Finished { task: task.id, run: run.id, digest, bytes: 3, elapsed_ms: 1_500, descriptor: None }
            }
            Step::Publish { outcome } => {
                let task = outcome.run.input.attempt.bid.task.id;
                News::Pinned { task, link: format!("ipfs://{task}") }
            }
            Step::Respond { receipt } => self.respond(receipt.outcome.run.input.attempt.bid.task.id)?,
        })
    }

    fn register(&mut self, source: SourceId) -> Result<News, Trouble> {
        let reading = self.chain.sources.get_mut(&source).expect("only known sources are named");
        if !reading.is_active {
            return Err(Trouble::lasting("the source is inactive"));
        }
        reading.is_registered = true;
        Ok(News::SourceRead { reading: Box::new(reading.clone()) })
    }

    fn look(&mut self, luck: Luck) -> Look {
        let standing = &self.chain.standing;
        let mut look = Look {
            function: Ok("answer".into()),
            gas_wei: standing.gas_wei,
            gas_price_wei: Wei::from(1_000_000_000_u64),
            lockup_wei: standing.lockup_wei,
        };
        if luck == Luck::Unheard {
            match self.dice.below(4) {
                0 => look.function = Err("it is not JSON".into()),
                1 => look.gas_wei = Wei::from(7),
                2 => look.lockup_wei = Wei::from(7),
                _ => look.gas_price_wei = cents(1),
            }
        }
        look
    }

    /// The outbox: a transaction that the chain already holds is a success.
    fn attempt(&mut self, task: TaskId, payment_wei: Wei) -> Result<News, Trouble> {
        match self.chain.attempt(task, payment_wei, self.now) {
            Ok(()) | Err(Revert::Twice) => {}
            Err(Revert::Ended | Revert::NoAttempt | Revert::Short) => return Err(Trouble::lost("the task has ended")),
        }
        Ok(News::TaskRead { reading: Box::new(self.chain.reading(task, self.now)) })
    }

    /// The outbox asks the chain first; an attempt of ours that a re-org took is sent again before the response.
    fn respond(&mut self, task: TaskId) -> Result<News, Trouble> {
        let payment_wei = self.book.jobs()[&task].reading.my_attempt.map(|(wei, _)| wei);
        if self.chain.task(task).response.is_none() {
            if self.chain.task(task).mine.is_none() {
                let payment_wei = payment_wei.or_else(|| self.bid_of(task)).expect("a response follows an attempt");
                self.attempt(task, payment_wei)?;
            }
            if self.chain.respond(task, self.now).is_err() {
                return Err(Trouble::lost("somebody else was first"));
            }
            self.witness.submits(task);
        }
        Ok(News::TaskRead { reading: Box::new(self.chain.reading(task, self.now)) })
    }

    fn bid_of(&self, task: TaskId) -> Option<Wei> {
        match &self.hand.get(&StepKey::Task { task })? {
            Step::Respond { receipt } => Some(receipt.outcome.run.input.attempt.bid.payment_wei),
            _ => None,
        }
    }
}
