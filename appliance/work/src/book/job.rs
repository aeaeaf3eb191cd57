//! One task on this rig: how far it has come, and what it waits for.

use serde::{Deserialize, Serialize};

use crate::id::RunId;
use crate::policy::Refusal;
use crate::step::{Step, Trouble};
use crate::task::{Attempt, Bid, Input, Outcome, Receipt, Response, Run, Settlement, Task, TaskReading};

/// Longest wait between two tries of a step, in seconds.
const BACKOFF_MAX_S: u64 = 60;

/// How long a response that was not confirmed stays open as a receivable, in seconds: thirty days after expiry.
const UNPAID_AFTER_S: u64 = 30 * 24 * 3600;

/// Seconds to wait before try number `tries + 1`: 1, 2, 4 … 60.
pub(super) fn backoff_s(tries: u32) -> u64 {
    1_u64.checked_shl(tries.saturating_sub(1)).unwrap_or(BACKOFF_MAX_S).min(BACKOFF_MAX_S)
}

/// How far a task has come. Each stage but the last names the step that it awaits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Stage {
    /// Worth a look: awaits the evidence for a decision.
    Looking,
    /// Refused for now.
    Held {
        /// Why.
        why: Refusal,
        /// Unix seconds at which it is looked at again.
        until: u64,
    },
    /// Decided on: awaits our attempt on chain.
    Bidding {
        /// The bid.
        bid: Bid,
    },
    /// Ours to do: awaits its input.
    Attempted {
        /// The attempt.
        attempt: Attempt,
    },
    /// Awaits a place to run.
    Ready {
        /// The input.
        input: Input,
    },
    /// Awaits its result.
    Running {
        /// The run.
        run: Run,
    },
    /// Awaits publication.
    Ended {
        /// The outcome.
        outcome: Outcome,
    },
    /// Awaits our response on chain.
    Published {
        /// The receipt.
        receipt: Receipt,
    },
    /// Done on our side: awaits the client, or the contract.
    Responded {
        /// The response.
        response: Response,
        /// Since when (Unix seconds) the chain has not shown the response any more.
        missing_since: Option<u64>,
    },
    /// Nothing more will happen.
    Closed {
        /// How it ended.
        closing: Closing,
    },
}

/// How a task ended for this rig.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "closed", rename_all = "kebab-case")]
pub enum Closing {
    /// Never taken.
    Refused {
        /// Why.
        why: Refusal,
    },
    /// Taken, and given up.
    Failed {
        /// Why, in words.
        why: String,
    },
    /// Somebody else was first, or the client took it back.
    Lost {
        /// What happened, in words.
        why: String,
    },
    /// Answered, and not paid.
    Unpaid {
        /// Our response.
        response: Response,
        /// What happened, in words.
        why: String,
    },
    /// Answered and paid.
    Settled {
        /// The evidence.
        settlement: Settlement,
    },
}

/// One task as the book holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The newest reading.
    pub reading: TaskReading,
    /// Unix seconds of the fact that first showed it.
    pub seen_at: u64,
    /// Unix seconds of the fact that changed its stage last.
    pub moved_at: u64,
    /// How far it has come.
    #[serde(flatten)]
    pub stage: Stage,
    /// Whether the step that the stage awaits has been handed out.
    pub is_asked: bool,
    /// How often that step has fallen through in a row.
    pub tries: u32,
    /// Runs begun for it.
    pub runs: u32,
    /// Unix seconds before which the step is not tried again.
    pub not_before: u64,
    /// The newest trouble, if the last try fell through.
    pub trouble: Option<Trouble>,
}

impl Job {
    pub(super) fn new(reading: TaskReading, now: u64) -> Job {
        Job {
            reading,
            seen_at: now,
            moved_at: now,
            stage: Stage::Looking,
            is_asked: false,
            tries: 0,
            runs: 0,
            not_before: 0,
            trouble: None,
        }
    }

    /// The task's terms.
    pub fn task(&self) -> &Task {
        &self.reading.task
    }

    /// True when nothing more will happen.
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed { .. })
    }

    /// True when the task is bid for or ours and no run has taken it yet: it will need a place.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Bidding { .. } | Stage::Attempted { .. } | Stage::Ready { .. })
    }

    /// True while the task still needs its source's container.
    pub(super) fn needs_source(&self) -> bool {
        self.is_waiting() || matches!(self.stage, Stage::Running { .. })
    }

    /// The step that the stage awaits. `Ready` and `Held` await a place or a time, which the book gives.
    pub(super) fn step(&self) -> Option<Step> {
        match &self.stage {
            Stage::Looking => Some(Step::Look { task: self.reading.task.clone() }),
            Stage::Bidding { bid } => Some(Step::Attempt { bid: bid.clone() }),
            Stage::Attempted { attempt } => Some(Step::Fetch { attempt: attempt.clone() }),
            Stage::Running { run } => Some(Step::Run { run: run.clone() }),
            Stage::Ended { outcome } => Some(Step::Publish { outcome: outcome.clone() }),
            Stage::Published { receipt } => Some(Step::Respond { receipt: receipt.clone() }),
            Stage::Held { .. } | Stage::Ready { .. } | Stage::Responded { .. } | Stage::Closed { .. } => None,
        }
    }

    /// The next moment (Unix seconds) at which time alone changes something; `None` if only news can.
    pub(super) fn wakes_at(&self, now: u64) -> Option<u64> {
        let expiry = self.reading.task.expires_at;
        let retry = (!self.is_asked && self.not_before > now).then_some(self.not_before);
        match &self.stage {
            Stage::Closed { .. } => None,
            Stage::Responded { .. } => Some(expiry.saturating_add(UNPAID_AFTER_S)),
            Stage::Published { .. } => retry,
            Stage::Held { until, .. } => Some(expiry.min(*until)),
            _ => Some(retry.map_or(expiry, |at| at.min(expiry))),
        }
    }

    pub(super) fn move_to(&mut self, stage: Stage, now: u64) {
        self.stage = stage;
        self.moved_at = now;
        self.is_asked = false;
        self.tries = 0;
        self.not_before = 0;
        self.trouble = None;
    }

    pub(super) fn close(&mut self, closing: Closing, now: u64) {
        let trouble = self.trouble.take();
        self.move_to(Stage::Closed { closing }, now);
        self.trouble = trouble;
    }

    /// The step in hand came to nothing for now; it is due again after a back-off.
    pub(super) fn retry_later(&mut self, trouble: Trouble, now: u64) {
        self.is_asked = false;
        self.tries = self.tries.saturating_add(1);
        self.not_before = now.saturating_add(backoff_s(self.tries));
        self.trouble = Some(trouble);
    }

    /// The provider died under a run. That is not the task's fault, so it does not count; the task awaits a place again,
    /// and gets it when its container has shown itself. A result that comes back meanwhile is known by its task.
    pub(super) fn lose_run(&mut self) {
        if let Stage::Running { run } = &self.stage {
            self.stage = Stage::Ready { input: run.input.clone() };
            self.runs = self.runs.saturating_sub(1);
        }
    }

    /// The run that the job is in, if it is in one.
    pub(super) fn run_id(&self) -> Option<RunId> {
        match &self.stage {
            Stage::Running { run } => Some(run.id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::backoff_s;

    #[test]
    fn back_off_doubles_up_to_a_minute() {
        let waits: Vec<u64> = [1, 2, 3, 6, 7, 40, u32::MAX].into_iter().map(backoff_s).collect();
        assert_eq!(waits, [1, 2, 4, 32, 60, 60, 60]);
    }
}
