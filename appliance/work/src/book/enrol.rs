//! Enrolment in the book: what a standing changes, and the step that follows from it.
//!
//! A rig whose owner removed it takes no more work, finishes what it has begun, and then brings home what is its own:
//! unbond, claim, withdraw, send. Each of these steps changes the reading that the next depends on, so a crash between
//! any two of them changes nothing. One reading does not send it home: see [`REMOVAL_GRACE_S`].
//!
//! [`REMOVAL_GRACE_S`]: crate::enrolment::REMOVAL_GRACE_S

use std::collections::BTreeSet;

use super::{Book, Stage, job};
use crate::enrolment::{Phase, Standing};
use crate::id::SourceId;
use crate::policy::Refusal;
use crate::step::{Step, StepKey, Trouble};

// === impl Book ===

impl Book {
    /// Whether the owner has removed this rig and it brings home what it has.
    pub fn is_going_home(&self) -> bool {
        match self.phase() {
            Phase::GoingHome | Phase::Home => true,
            Phase::Unread
            | Phase::Unfunded
            | Phase::Announcing
            | Phase::AwaitingOwner
            | Phase::ForeignOwner
            | Phase::Describing
            | Phase::Paired => false,
        }
    }

    /// Whether no more work is begun.
    pub(super) fn takes_no_more(&self) -> bool {
        self.is_draining || self.is_going_home()
    }

    pub(super) fn stand(&mut self, standing: Standing, touched: &mut BTreeSet<StepKey>) {
        if self.enrolment.standing.as_ref() != Some(&standing) {
            let (before, was_leaving) = (self.enrolment_step(), self.is_going_home());
            let owner = self.rig.as_ref().map(|rig| rig.owner);
            // A ledger of a release that did not keep it: the newest reading before this one knows.
            self.enrolment.note_owner(owner, self.now);
            self.enrolment.standing = Some(standing);
            self.enrolment.note_owner(owner, self.now);
            if before != self.enrolment_step() {
                self.renew_enrolment();
            }
            if was_leaving != self.is_going_home() {
                self.turn(touched);
            }
        }
        self.index_enrolment();
        touched.insert(StepKey::Enrol);
        touched.extend(self.sources.keys().map(|source| StepKey::Source { source: *source }));
    }

    /// The coins were sent to the owner; what the account still holds would not pay for another transfer.
    pub(super) fn sent_home(&mut self, standing: Standing, touched: &mut BTreeSet<StepKey>) {
        if matches!(self.enrolment_step(), Some(Step::SendHome { .. })) {
            self.renew_enrolment();
        }
        self.enrolment.dust_wei = standing.gas_wei;
        self.stand(standing, touched);
    }

    pub(super) fn enrolment_fell(&mut self, trouble: Trouble) {
        self.enrolment.is_asked = false;
        self.enrolment.tries = self.enrolment.tries.saturating_add(1);
        self.enrolment.not_before = self.now.saturating_add(job::backoff_s(self.enrolment.tries));
        self.enrolment.trouble = Some(trouble);
        self.index_enrolment();
    }

    /// The step that enrolment awaits: one at a time, because each changes the reading that the next depends on.
    pub(super) fn enrolment_step(&self) -> Option<Step> {
        let standing = self.enrolment.standing.as_ref()?;
        match self.phase() {
            Phase::Announcing => Some(Step::Announce),
            Phase::Describing => Some(Step::Describe),
            Phase::Paired if !standing.vault_wei.is_zero() => Some(Step::Lock { amount_wei: standing.vault_wei }),
            // Taken back on its way home: what was unbonded by then becomes stake again.
            Phase::Paired => self.claim(standing),
            Phase::GoingHome => self.step_home(standing),
            Phase::Home | Phase::Unread | Phase::Unfunded | Phase::AwaitingOwner | Phase::ForeignOwner => None,
        }
    }

    /// What is unbonding is claimed before more is unbonded: some vaults keep one unbonding at a time, others begin the
    /// cooldown of all of it anew.
    fn step_home(&self, standing: &Standing) -> Option<Step> {
        if !standing.unbonding_wei.is_zero() {
            self.claim(standing)
        } else if !standing.lockup_wei.is_zero() {
            Some(Step::Unbond { amount_wei: standing.lockup_wei })
        } else if !standing.vault_wei.is_zero() {
            Some(Step::Withdraw { amount_wei: standing.vault_wei })
        } else {
            Some(Step::SendHome { dust_wei: self.enrolment.dust_wei })
        }
    }

    fn claim(&self, standing: &Standing) -> Option<Step> {
        let is_free = !standing.unbonding_wei.is_zero() && self.now >= standing.unbonds_at;
        is_free.then_some(Step::Claim { amount_wei: standing.unbonding_wei })
    }

    /// Whether the step that enrolment awaits may go out now. Work that was begun is finished before anything goes home:
    /// its responses need gas, and its pay comes home too.
    pub(super) fn may_enrol(&self) -> bool {
        let is_free = !self.is_going_home() || (self.is_idle() && self.enrolment.goes_home_at() <= self.now);
        self.enrolment.is_asked || (self.enrolment.not_before <= self.now && is_free)
    }

    pub(super) fn ask_enrolment(&mut self) -> Option<Step> {
        if self.enrolment.is_asked || !self.may_enrol() {
            return None;
        }
        let step = self.enrolment_step()?;
        self.enrolment.is_asked = true;
        self.index_enrolment();
        Some(step)
    }

    pub(super) fn index_enrolment(&mut self) {
        let waits_for_cooldown = |standing: &&Standing| {
            let may_claim = matches!(self.phase(), Phase::GoingHome | Phase::Paired);
            may_claim && !standing.unbonding_wei.is_zero() && self.enrolment_step().is_none()
        };
        let free_at = self.enrolment.standing.as_ref().filter(waits_for_cooldown).map_or(0, |now| now.unbonds_at);
        let home_at = if self.phase() == Phase::GoingHome { self.enrolment.goes_home_at() } else { 0 };
        let due_at = self.enrolment.not_before.max(free_at).max(home_at);
        self.set_wake(StepKey::Enrol, (!self.enrolment.is_asked).then_some(due_at));
    }

    fn renew_enrolment(&mut self) {
        self.enrolment.is_asked = false;
        self.enrolment.tries = 0;
        self.enrolment.not_before = 0;
        self.enrolment.trouble = None;
    }

    /// The rig was removed, or was taken back: its sources are weighed anew, and bids that nobody is sending are
    /// withdrawn.
    fn turn(&mut self, touched: &mut BTreeSet<StepKey>) {
        let sources: Vec<SourceId> = self.sources.keys().copied().collect();
        for source in sources {
            self.judge_source(source);
            self.index_source(source);
        }
        if self.is_going_home() {
            self.withdraw_bids(touched);
        }
    }

    /// Bids that nobody is sending now are withdrawn. One in hand may be on chain already.
    pub(super) fn withdraw_bids(&mut self, touched: &mut BTreeSet<StepKey>) {
        let open: Vec<_> = self.index.open.iter().copied().collect();
        for task in open {
            self.change(task, touched, |book, job| {
                if matches!(job.stage, Stage::Bidding { .. }) && !job.is_asked {
                    book.refuse(job, Refusal::Draining);
                }
            });
        }
    }
}
