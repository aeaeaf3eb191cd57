//! The chain as the rig could find it: contracts, rivals, clients, and re-orgs of what is not yet deep.

use std::collections::BTreeMap;

use alloy_primitives::{Address, U256};
use work::enrolment::Standing;
use work::source::SourceReading;
use work::task::{Delivery, Task, TaskReading, TaskStatus};
use work::{ProviderId, ResponseId, SourceId, TaskId, Wei};

/// Seconds for which what was mined can be taken back by a re-org; an end is shown only after them.
pub(crate) const SHALLOW_S: u64 = 12;

/// Seconds from an unbonding to its claim.
pub(crate) const COOLDOWN_S: u64 = 200;

/// What a transfer of everything leaves behind, in wei.
pub(crate) const DUST_WEI: Wei = U256::from_limbs([30_000_000_000_000, 0, 0, 0]);

/// The rig's own account.
pub(crate) const ME: ProviderId = ProviderId(Address::repeat_byte(0x11));
/// The owner's account.
pub(crate) const OWNER: ProviderId = ProviderId(Address::repeat_byte(0x22));
/// Another provider.
pub(crate) const RIVAL: ProviderId = ProviderId(Address::repeat_byte(0x33));

/// An address that is a number.
pub(crate) fn address(kind: u8, number: u64) -> Address {
    let mut bytes = [0; 20];
    bytes[0] = kind;
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    Address::from(bytes)
}

/// What the contracts hold.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) tasks: BTreeMap<TaskId, OnChain>,
    pub(crate) sources: BTreeMap<SourceId, SourceReading>,
    pub(crate) standing: Standing,
    /// What the owner has received from this rig, in wei.
    pub(crate) home_wei: Wei,
    responses: u64,
}

/// One task's contract.
#[derive(Clone, Debug)]
pub(crate) struct OnChain {
    pub(crate) task: Task,
    pub(crate) rivals: u64,
    is_answered_by_rival: bool,
    pub(crate) mine: Option<(Wei, u64)>,
    pub(crate) response: Option<(ResponseId, u64)>,
    pub(crate) ending: Option<(TaskStatus, Option<ProviderId>, u64)>,
}

/// Why a contract reverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revert {
    /// The task has ended.
    Ended,
    /// There is no attempt to respond to.
    NoAttempt,
    /// The same was recorded before.
    Twice,
    /// There is less than that, or not yet.
    Short,
}

impl Chain {
    pub(crate) fn new(standing: Standing) -> Chain {
        Chain { tasks: BTreeMap::new(), sources: BTreeMap::new(), standing, home_wei: Wei::ZERO, responses: 0 }
    }

    /// The owner ends the pairing.
    pub(crate) fn remove_provider(&mut self) {
        self.standing.master = None;
        self.standing.is_announced = false;
        self.standing.is_newest = false;
    }

    /// The owner names this rig, and no other after it.
    pub(crate) fn announce_provider(&mut self) {
        self.standing.is_announced = true;
        self.standing.is_newest = true;
    }

    pub(crate) fn unbond(&mut self, amount_wei: Wei, now: u64) -> Result<(), Revert> {
        let standing = &mut self.standing;
        standing.lockup_wei = standing.lockup_wei.checked_sub(amount_wei).ok_or(Revert::Short)?;
        standing.unbonding_wei += amount_wei;
        standing.unbonds_at = now + COOLDOWN_S;
        Ok(())
    }

    pub(crate) fn claim(&mut self, now: u64) -> Result<(), Revert> {
        let standing = &mut self.standing;
        if now < standing.unbonds_at || standing.unbonding_wei.is_zero() {
            return Err(Revert::Short);
        }
        standing.vault_wei += std::mem::take(&mut standing.unbonding_wei);
        standing.unbonds_at = 0;
        Ok(())
    }

    pub(crate) fn withdraw(&mut self, amount_wei: Wei) -> Result<(), Revert> {
        let standing = &mut self.standing;
        standing.vault_wei = standing.vault_wei.checked_sub(amount_wei).ok_or(Revert::Short)?;
        standing.gas_wei += amount_wei;
        Ok(())
    }

    /// A transfer of all coins to the owner; its gas stays here.
    pub(crate) fn send_home(&mut self) {
        let sent_wei = self.standing.gas_wei.saturating_sub(DUST_WEI);
        self.standing.gas_wei -= sent_wei;
        self.home_wei += sent_wei;
    }

    pub(crate) fn publish(&mut self, task: Task) {
        let on_chain = OnChain {
            task: task.clone(),
            rivals: 0,
            is_answered_by_rival: false,
            mine: None,
            response: None,
            ending: None,
        };
        self.tasks.insert(task.id, on_chain);
    }

    pub(crate) fn task(&mut self, id: TaskId) -> &mut OnChain {
        self.tasks.get_mut(&id).expect("only published tasks are named")
    }

    /// `Nexus.attempt` for this rig, by itself or by an agent.
    pub(crate) fn attempt(&mut self, id: TaskId, payment_wei: Wei, now: u64) -> Result<(), Revert> {
        let task = self.task(id);
        if task.ending.is_none() && task.response.is_none() && now > task.task.expires_at {
            task.ending = Some((TaskStatus::Expired, None, now));
        }
        if task.ending.is_some() {
            return Err(Revert::Ended);
        }
        if task.mine.is_some() {
            return Err(Revert::Twice);
        }
        task.mine = Some((payment_wei, now));
        Ok(())
    }

    /// `Nexus.submitResponse` for this rig.
    pub(crate) fn respond(&mut self, id: TaskId, now: u64) -> Result<(), Revert> {
        self.responses += 1;
        let response = ResponseId(address(0x44, self.responses));
        let task = self.task(id);
        if task.ending.is_some() || now > task.task.expires_at {
            return Err(Revert::Ended);
        }
        if task.mine.is_none() {
            return Err(Revert::NoAttempt);
        }
        if task.response.is_some() {
            return Err(Revert::Twice);
        }
        task.response = Some((response, now));
        if task.task.delivery == Delivery::FirstResponse {
            task.ending = Some((TaskStatus::Finalized, Some(ME), now));
        }
        Ok(())
    }

    /// Another provider attempts, or answers what it attempted.
    pub(crate) fn rival_acts(&mut self, id: TaskId, is_answer: bool, now: u64) {
        let task = self.task(id);
        if task.ending.is_some() || now > task.task.expires_at {
            return;
        }
        task.rivals += u64::from(task.rivals == 0 || !is_answer);
        if is_answer {
            task.is_answered_by_rival = true;
            if task.task.delivery == Delivery::FirstResponse {
                task.ending = Some((TaskStatus::Finalized, Some(RIVAL), now));
            }
        }
    }

    /// The client confirms an answer: ours if it has the choice and `prefers_ours`.
    pub(crate) fn confirm(&mut self, id: TaskId, prefers_ours: bool, now: u64) {
        let task = self.task(id);
        let winner = match (task.response, task.is_answered_by_rival) {
            (Some(_), false) => ME,
            (Some(_), true) if prefers_ours => ME,
            (_, true) => RIVAL,
            (None, false) => return,
        };
        if task.ending.is_none() {
            task.ending = Some((TaskStatus::Finalized, Some(winner), now));
        }
    }

    /// The client takes back a task that nobody has attempted.
    pub(crate) fn cancel(&mut self, id: TaskId, now: u64) {
        let task = self.task(id);
        if task.rivals == 0 && task.mine.is_none() && task.ending.is_none() {
            task.ending = Some((TaskStatus::Canceled, None, now));
        }
    }

    /// A re-org takes back what we mined in the last seconds: our response, or else our attempt.
    pub(crate) fn reorg(&mut self, id: TaskId, now: u64) {
        let task = self.task(id);
        let is_shallow = |at: u64| at + SHALLOW_S > now;
        match (task.response, task.ending) {
            (Some((_, at)), ending) if is_shallow(at) && ending.is_none_or(|(.., ended)| ended == at) => {
                task.response = None;
                task.ending = None;
            }
            (None, None) if task.mine.is_some_and(|(_, at)| is_shallow(at)) => task.mine = None,
            _ => {}
        }
    }

    /// What a careful reader sees at `now`: the newest block, but an end only when it is deep.
    pub(crate) fn reading(&self, id: TaskId, now: u64) -> TaskReading {
        let task = &self.tasks[&id];
        let ending = task.ending.filter(|(.., at)| at + SHALLOW_S <= now);
        let attempts = task.rivals + u64::from(task.mine.is_some());
        let status = match ending {
            Some((status, ..)) => status,
            None if task.response.is_some() || task.is_answered_by_rival => TaskStatus::Responded,
            None if attempts > 0 => TaskStatus::Attempted,
            None => TaskStatus::New,
        };
        TaskReading {
            task: task.task.clone(),
            status,
            attempts,
            my_attempt: task.mine,
            my_response: task.response.map(|(id, _)| id),
            winner: ending.and_then(|(_, winner, _)| winner),
        }
    }
}

/// So many hundredths of a coin, in wei.
pub(crate) fn cents(n: u64) -> Wei {
    U256::from(n) * U256::from(10_000_000_000_000_000_u64)
}
