//! The transitions. Each event has a function; [`Health::suspect`], [`Health::need_reset`] and [`Health::withdraw`] are
//! the three kinds of fault, each defined in every state.

use super::strikes::{Strikes, doubled};
use super::{
    CANARIES_MAX, CANARY_BACKOFF_MAX_MS, CANARY_BACKOFF_MS, CANARY_DEADLINE_MS, CanaryId, Event, FREE_DEADLINE_MS,
    GRACE_MS, JobId, LATE_XID_MS, Proof, RESET_DEADLINE_MS, Remedy, Reset, State, Step, Then,
};
use crate::recovery::RecoveryAction;
use crate::xid::{self, Action, Blame};

/// One GPU's state machine.
#[derive(Debug, Clone)]
pub struct Health {
    state: State,
    failed_canaries: u32,
    next_canary: CanaryId,
    strikes: Strikes,
    last_job: Option<(JobId, u64)>,
}

// === impl Health ===

impl Health {
    /// A GPU of which nothing is known; the first [`Event::Tick`] asks for its canary. `now_ms` is of any clock that
    /// does not go back, here and in [`Self::handle`].
    pub fn new(now_ms: u64) -> Self {
        Self {
            state: State::Unproven { proof: Proof::Waiting { until_ms: now_ms } },
            failed_canaries: 0,
            next_canary: CanaryId(1),
            strikes: Strikes::default(),
            last_job: None,
        }
    }

    /// Where the GPU stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes an event and says what to do, in order.
    pub fn handle(&mut self, now_ms: u64, event: Event) -> Vec<Step> {
        match event {
            Event::CanaryPassed { canary, dirty_bytes: 0 } => self.canary_answered(now_ms, canary, None),
            Event::CanaryPassed { canary, dirty_bytes } => {
                let why = format!("{dirty_bytes} bytes of its memory were not cleared");
                self.canary_answered(now_ms, canary, Some(why))
            }
            Event::CanaryFailed { canary, why } => self.canary_answered(now_ms, canary, Some(why)),
            Event::JobStarted(job) => self.job_started(now_ms, job),
            Event::JobEnded { job, class, is_sticky } => self.job_ended(now_ms, &job, &class, is_sticky),
            Event::DeadlineKill(job) => self.deadline(now_ms, job),
            Event::GpuFree => self.drained(now_ms, true),
            Event::GpuNotFree => self.drained(now_ms, false),
            Event::Xid(number) => self.xid(now_ms, number),
            Event::EccUncorrected => self.need_reset(now_ms, "its memory lost bits".to_owned()),
            Event::FallenOffTheBus => self.withdraw(now_ms, "it fell off the bus".to_owned(), Remedy::PowerCycle),
            Event::Recovery(action) => self.recovery(now_ms, action),
            Event::ResetDone => self.reset_done(now_ms),
            Event::ResetFailed { why } => self.reset_failed(&why),
            Event::Doubt { why } => self.suspect(now_ms, why, None),
            Event::DriverMissing => self.withdraw(now_ms, "its driver is missing".to_owned(), Remedy::Operator),
            Event::Retry => self.retry(now_ms),
            Event::Tick => self.tick(now_ms),
        }
    }

    // Jobs.

    fn job_started(&mut self, now_ms: u64, job: JobId) -> Vec<Step> {
        match &self.state {
            State::Offered => {
                self.state = State::Busy { job, then: Then::Offer };
                Vec::new()
            }
            State::Busy { job: running, .. } if *running == job => Vec::new(),
            State::Busy { .. }
            | State::Unproven { .. }
            | State::Suspect { .. }
            | State::NeedsReset { .. }
            | State::Withdrawn { .. }
            | State::GaveUp { .. } => {
                let mut steps = vec![Step::Kill(job)];
                steps.extend(self.suspect(now_ms, "a job was started that was not due".to_owned(), None));
                steps
            }
        }
    }

    fn job_ended(&mut self, now_ms: u64, ended: &JobId, class: &str, is_sticky: bool) -> Vec<Step> {
        let State::Busy { job, then } = &self.state else { return Vec::new() };
        if job != ended {
            return Vec::new();
        }
        let then = then.clone();
        self.last_job = Some((ended.clone(), now_ms));
        match then {
            Then::Offer if !is_sticky => {
                self.state = State::Offered;
                vec![Step::Offer]
            }
            Then::Offer => self.drain_then_prove(now_ms, format!("a job ended with {class}")),
            Then::Prove { why, .. } => self.drain_then_prove(now_ms, why),
            Then::Reset { why } => self.drain_then_reset(now_ms, why),
        }
    }

    fn deadline(&mut self, now_ms: u64, late: JobId) -> Vec<Step> {
        match &self.state {
            State::Busy { job, .. } if *job == late => {
                self.kill_then_prove(now_ms, "a job had to be killed".to_owned())
            }
            State::Busy { .. }
            | State::Offered
            | State::Unproven { .. }
            | State::Suspect { .. }
            | State::NeedsReset { .. }
            | State::Withdrawn { .. }
            | State::GaveUp { .. } => vec![Step::Kill(late)],
        }
    }

    /// Kills the job that runs, if one does; the caller changes the state.
    fn kill_running(&mut self, now_ms: u64) -> Vec<Step> {
        let Some(job) = self.state.job().cloned() else { return Vec::new() };
        self.last_job = Some((job.clone(), now_ms));
        vec![Step::Kill(job)]
    }

    fn kill_then_prove(&mut self, now_ms: u64, why: String) -> Vec<Step> {
        let mut steps = self.kill_running(now_ms);
        let next = match &self.state {
            State::Busy { then: Then::Reset { why }, .. } => self.drain_then_reset(now_ms, why.clone()),
            State::Busy { then: Then::Prove { why, .. }, .. } => self.drain_then_prove(now_ms, why.clone()),
            State::Busy { then: Then::Offer, .. }
            | State::Offered
            | State::Unproven { .. }
            | State::Suspect { .. }
            | State::NeedsReset { .. }
            | State::Withdrawn { .. }
            | State::GaveUp { .. } => self.drain_then_prove(now_ms, why),
        };
        steps.extend(next);
        steps
    }

    // Proof.

    fn drain_then_prove(&mut self, now_ms: u64, why: String) -> Vec<Step> {
        let steps = vec![Step::Withdraw(why.clone()), Step::WaitFree];
        self.state = State::Suspect { why, proof: Proof::Draining { since_ms: now_ms } };
        steps
    }

    fn proof_mut(&mut self) -> Option<&mut Proof> {
        match &mut self.state {
            State::Unproven { proof } | State::Suspect { proof, .. } => Some(proof),
            State::Offered
            | State::Busy { .. }
            | State::NeedsReset { .. }
            | State::Withdrawn { .. }
            | State::GaveUp { .. } => None,
        }
    }

    /// Starts a canary, in the states that have one.
    fn run_canary(&mut self, now_ms: u64) -> Vec<Step> {
        let canary = self.next_canary;
        let Some(proof) = self.proof_mut() else { return Vec::new() };
        *proof = Proof::Running { canary, since_ms: now_ms, is_spoiled: false };
        self.next_canary = CanaryId(canary.0.saturating_add(1));
        vec![Step::RunCanary(canary)]
    }

    fn canary_answered(&mut self, now_ms: u64, answered: CanaryId, failure: Option<String>) -> Vec<Step> {
        let Some(&mut Proof::Running { canary, is_spoiled, .. }) = self.proof_mut() else { return Vec::new() };
        if canary != answered {
            return Vec::new();
        }
        match failure {
            Some(why) => self.canary_failed(now_ms, format!("its canary failed: {why}")),
            None if is_spoiled => self.canary_failed(now_ms, "something went wrong during its canary".to_owned()),
            None => {
                self.failed_canaries = 0;
                self.state = State::Offered;
                vec![Step::Offer]
            }
        }
    }

    fn canary_failed(&mut self, now_ms: u64, why: String) -> Vec<Step> {
        let wait_ms = doubled(CANARY_BACKOFF_MS, self.failed_canaries, CANARY_BACKOFF_MAX_MS);
        self.failed_canaries = self.failed_canaries.saturating_add(1);
        if self.failed_canaries >= CANARIES_MAX {
            return self.give_up(why);
        }
        let proof = Proof::Waiting { until_ms: now_ms.saturating_add(wait_ms) };
        self.state = State::Suspect { why: why.clone(), proof };
        vec![Step::Withdraw(why)]
    }

    fn give_up(&mut self, why: String) -> Vec<Step> {
        self.state = State::GaveUp { why };
        vec![Step::Withdraw(self.state.to_string())]
    }

    fn begin_anew(&mut self, now_ms: u64) -> Vec<Step> {
        self.state = State::Unproven { proof: Proof::Waiting { until_ms: now_ms } };
        self.run_canary(now_ms)
    }

    fn retry(&mut self, now_ms: u64) -> Vec<Step> {
        match &self.state {
            State::Withdrawn { .. } | State::GaveUp { .. } => {
                self.failed_canaries = 0;
                self.begin_anew(now_ms)
            }
            State::Unproven { .. }
            | State::Offered
            | State::Busy { .. }
            | State::Suspect { .. }
            | State::NeedsReset { .. } => Vec::new(),
        }
    }

    // Faults.

    /// The GPU has to prove itself. A job whose context is lost (`kill_at_ms`) may still say so itself.
    fn suspect(&mut self, now_ms: u64, why: String, kill_at_ms: Option<u64>) -> Vec<Step> {
        match &mut self.state {
            State::Offered => self.drain_then_prove(now_ms, why),
            State::Busy { then, .. } => {
                match then {
                    Then::Offer => *then = Then::Prove { why, kill_at_ms },
                    Then::Prove { kill_at_ms: earlier, .. } => *earlier = earlier.or(kill_at_ms),
                    // A reset proves more than a canary, and one follows it anyway.
                    Then::Reset { .. } => {}
                }
                Vec::new()
            }
            State::Unproven { proof } | State::Suspect { proof, .. } => {
                if let Proof::Running { is_spoiled, .. } = proof {
                    *is_spoiled = true;
                }
                Vec::new()
            }
            State::NeedsReset { .. } | State::Withdrawn { .. } | State::GaveUp { .. } => Vec::new(),
        }
    }

    /// The GPU must be reset now, whatever runs on it.
    fn need_reset(&mut self, now_ms: u64, why: String) -> Vec<Step> {
        match &self.state {
            State::NeedsReset { .. } | State::Withdrawn { .. } | State::GaveUp { .. } => Vec::new(),
            State::Offered | State::Busy { .. } | State::Unproven { .. } | State::Suspect { .. } => {
                if let Some(Proof::Running { .. }) = self.proof_mut() {
                    // A canary that always ends in a reset must lead to giving up.
                    self.failed_canaries = self.failed_canaries.saturating_add(1);
                }
                let mut steps = self.kill_running(now_ms);
                steps.extend(self.drain_then_reset(now_ms, why));
                steps
            }
        }
    }

    /// The GPU must be reset, after its job.
    fn reset_when_idle(&mut self, now_ms: u64, why: String) -> Vec<Step> {
        match &mut self.state {
            State::Busy { then: then @ Then::Offer, .. } => {
                *then = Then::Reset { why };
                Vec::new()
            }
            State::Busy { then: Then::Reset { .. }, .. } => Vec::new(),
            State::Busy { then: Then::Prove { .. }, .. }
            | State::Offered
            | State::Unproven { .. }
            | State::Suspect { .. }
            | State::NeedsReset { .. }
            | State::Withdrawn { .. }
            | State::GaveUp { .. } => self.need_reset(now_ms, why),
        }
    }

    /// Nothing that the rig can do helps.
    fn withdraw(&mut self, now_ms: u64, why: String, remedy: Remedy) -> Vec<Step> {
        if let State::Withdrawn { remedy: known, .. } = &self.state
            && *known >= remedy
        {
            return Vec::new();
        }
        let mut steps = self.kill_running(now_ms);
        self.state = State::Withdrawn { why, remedy };
        steps.push(Step::Withdraw(self.state.to_string()));
        steps
    }

    fn xid(&mut self, now_ms: u64, number: u32) -> Vec<Step> {
        let explanation = xid::explain(number);
        let mut why = format!("Xid {number}: {}", explanation.meaning);
        let mut steps = Vec::new();
        let mut is_repeated = false;
        // The removal of a killed process's channels follows every deadline; it is nobody's doing but ours.
        if explanation.blame == Blame::Job && number != xid::PREEMPTIVE_REMOVAL {
            let counted = self.count(now_ms, number);
            is_repeated = matches!(counted, Some(Step::RepeatOffender { .. }));
            steps.extend(counted);
        }
        if is_repeated {
            why = format!("{why}, in several jobs");
        }
        let kill_at_ms = Some(now_ms.saturating_add(GRACE_MS));
        steps.extend(match explanation.action {
            Action::Ignore if number == xid::ROW_REMAPPED => self.reset_when_idle(now_ms, why),
            Action::Ignore if is_repeated => self.suspect(now_ms, why, None),
            Action::Ignore => Vec::new(),
            Action::RestartApp => self.suspect(now_ms, why, kill_at_ms),
            // What it changed to follows as a recovery action; until then the GPU is in doubt.
            Action::Workflow if number == xid::RECOVERY_CHANGED => self.suspect(now_ms, why, None),
            Action::ResetGpu | Action::Workflow => self.need_reset(now_ms, why),
            Action::Operator | Action::UpdateSoftware => self.withdraw(now_ms, why, Remedy::Operator),
            Action::Reboot => self.withdraw(now_ms, why, Remedy::PowerCycle),
            Action::RestartVm => self.withdraw(now_ms, why, Remedy::Reboot),
        });
        steps
    }

    /// Counts an Xid against the job that runs or ran just now.
    fn count(&mut self, now_ms: u64, number: u32) -> Option<Step> {
        let late =
            |(job, ended_ms): &(JobId, u64)| (now_ms.saturating_sub(*ended_ms) <= LATE_XID_MS).then(|| job.clone());
        let job = self.state.job().cloned().or_else(|| self.last_job.as_ref().and_then(late))?;
        if !self.strikes.add(now_ms, number, &job) {
            return None;
        }
        match self.strikes.take_repeated(number) {
            Some(jobs) => Some(Step::RepeatOffender { xid: number, jobs }),
            None => Some(Step::CountAgainst(job, number)),
        }
    }

    fn recovery(&mut self, now_ms: u64, action: RecoveryAction) -> Vec<Step> {
        let why = format!("its driver says that it needs {action}");
        match action {
            RecoveryAction::None => Vec::new(),
            RecoveryAction::GpuReset => self.need_reset(now_ms, why),
            RecoveryAction::DrainP2p | RecoveryAction::DrainAndReset => self.reset_when_idle(now_ms, why),
            RecoveryAction::NodeReboot | RecoveryAction::SystemReboot => self.withdraw(now_ms, why, Remedy::Reboot),
            RecoveryAction::BusReset => self.withdraw(now_ms, why, Remedy::Reset),
            RecoveryAction::Imex | RecoveryAction::Unknown(_) => self.withdraw(now_ms, why, Remedy::Operator),
        }
    }

    // Resets.

    fn drain_then_reset(&mut self, now_ms: u64, why: String) -> Vec<Step> {
        let steps = vec![Step::Withdraw(why.clone()), Step::WaitFree];
        self.state = State::NeedsReset { why, reset: Reset::Draining { since_ms: now_ms } };
        steps
    }

    fn drained(&mut self, now_ms: u64, is_free: bool) -> Vec<Step> {
        match &self.state {
            State::Unproven { proof: Proof::Draining { .. } }
            | State::Suspect { proof: Proof::Draining { .. }, .. }
                if is_free =>
            {
                self.run_canary(now_ms)
            }
            State::Unproven { proof: Proof::Draining { .. } }
            | State::Suspect { proof: Proof::Draining { .. }, .. } => {
                let why = "killed processes did not leave it".to_owned();
                let mut steps = vec![Step::Withdraw(why.clone())];
                steps.extend(self.start_reset(now_ms, why));
                steps
            }
            // A process that does not leave is the more reason to reset.
            State::NeedsReset { why, reset: Reset::Draining { .. } } => self.start_reset(now_ms, why.clone()),
            State::Unproven { .. }
            | State::Suspect { .. }
            | State::Offered
            | State::Busy { .. }
            | State::NeedsReset { .. }
            | State::Withdrawn { .. }
            | State::GaveUp { .. } => Vec::new(),
        }
    }

    fn start_reset(&mut self, now_ms: u64, why: String) -> Vec<Step> {
        match self.strikes.reset_wait_ms(now_ms) {
            0 => self.reset_now(now_ms, why),
            wait_ms => {
                let reset = Reset::Waiting { until_ms: now_ms.saturating_add(wait_ms) };
                self.state = State::NeedsReset { why, reset };
                Vec::new()
            }
        }
    }

    fn reset_now(&mut self, now_ms: u64, why: String) -> Vec<Step> {
        self.strikes.add_reset(now_ms);
        self.state = State::NeedsReset { why, reset: Reset::Running { since_ms: now_ms } };
        vec![Step::Reset]
    }

    fn reset_done(&mut self, now_ms: u64) -> Vec<Step> {
        match &self.state {
            State::NeedsReset { why, .. } if self.failed_canaries >= CANARIES_MAX => self.give_up(why.clone()),
            State::NeedsReset { .. } => self.begin_anew(now_ms),
            State::Withdrawn { .. } | State::GaveUp { .. } => self.retry(now_ms),
            State::Unproven { .. } | State::Offered | State::Busy { .. } | State::Suspect { .. } => {
                let mut steps = self.kill_running(now_ms);
                steps.push(Step::Withdraw("it was reset".to_owned()));
                steps.extend(self.begin_anew(now_ms));
                steps
            }
        }
    }

    fn reset_failed(&mut self, failure: &str) -> Vec<Step> {
        match &self.state {
            State::NeedsReset { why, reset: Reset::Running { .. } } => {
                let why = format!("{why}; its reset failed: {failure}");
                self.state = State::Withdrawn { why, remedy: Remedy::Reboot };
                vec![Step::Withdraw(self.state.to_string())]
            }
            State::NeedsReset { .. }
            | State::Unproven { .. }
            | State::Offered
            | State::Busy { .. }
            | State::Suspect { .. }
            | State::Withdrawn { .. }
            | State::GaveUp { .. } => Vec::new(),
        }
    }

    // Time.

    fn tick(&mut self, now_ms: u64) -> Vec<Step> {
        let is_over = |since_ms: u64, within_ms: u64| now_ms.saturating_sub(since_ms) >= within_ms;
        match &self.state {
            State::Unproven { proof } | State::Suspect { proof, .. } => match *proof {
                Proof::Draining { since_ms } if is_over(since_ms, FREE_DEADLINE_MS) => self.drained(now_ms, false),
                Proof::Waiting { until_ms } if now_ms >= until_ms => self.run_canary(now_ms),
                Proof::Running { since_ms, .. } if is_over(since_ms, CANARY_DEADLINE_MS) => {
                    self.canary_failed(now_ms, "its canary did not answer".to_owned())
                }
                Proof::Draining { .. } | Proof::Waiting { .. } | Proof::Running { .. } => Vec::new(),
            },
            State::NeedsReset { why, reset } => match *reset {
                Reset::Draining { since_ms } if is_over(since_ms, FREE_DEADLINE_MS) => self.drained(now_ms, false),
                Reset::Waiting { until_ms } if now_ms >= until_ms => self.reset_now(now_ms, why.clone()),
                Reset::Running { since_ms } if is_over(since_ms, RESET_DEADLINE_MS) => self.reset_failed("no answer"),
                Reset::Draining { .. } | Reset::Waiting { .. } | Reset::Running { .. } => Vec::new(),
            },
            State::Busy { then: Then::Prove { why, kill_at_ms: Some(kill_at_ms) }, .. } if now_ms >= *kill_at_ms => {
                self.kill_then_prove(now_ms, why.clone())
            }
            State::Busy { .. } | State::Offered | State::Withdrawn { .. } | State::GaveUp { .. } => Vec::new(),
        }
    }
}
