//! Rest: what gives way when memory is short, and what brings it back.
//!
//! A source that serves and has no job in hand is stopped, and stays on the contract's list and on the rig's: `Serving →
//! Resting → Preparing`. Its tasks are looked at as ever; one that is worth a bid has it prepared first. The one that
//! earned least in a day goes first, and of equals the one that was of use longest ago. One goes at a time, because what
//! a container gives back shows only after it has ended.

use std::collections::BTreeSet;

use super::Book;
use super::job::{Closing, Job, Stage};
use crate::id::{SourceId, Wei};
use crate::source::SourceStage;
use crate::step::StepKey;

/// Seconds between two sources that are laid to rest, and for which one that came up is left in peace.
const PEACE_S: u64 = 60;

/// Seconds over which earnings are compared.
const EARNINGS_S: u64 = 24 * 3_600;

/// What a source was worth lately: less gives way first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Worth {
    earned_wei: Wei,
    used_at: u64,
}

impl Book {
    /// The source that would give way if memory were short now.
    pub fn next_to_rest(&self) -> Option<SourceId> {
        if self.now < self.rested_at.saturating_add(PEACE_S) && self.rested_at > 0 {
            return None;
        }
        let can_rest = self.sources.iter().filter(|(source, served)| {
            served.stage == SourceStage::Serving
                && served.prepared_from.is_some()
                && self.now >= served.up_at.saturating_add(PEACE_S)
                && self.index.needing.get(source).is_none_or(BTreeSet::is_empty)
        });
        can_rest.map(|(source, _)| (self.worth(*source), *source)).min().map(|(_, source)| source)
    }

    pub(super) fn memory_short(&mut self, touched: &mut BTreeSet<StepKey>) {
        let Some(source) = self.next_to_rest() else { return };
        let Some(served) = self.sources.get_mut(&source) else { return };
        served.move_to(SourceStage::Resting);
        self.rested_at = self.now;
        self.index_source(source);
        touched.insert(StepKey::Source { source });
    }

    /// A resting source is wanted: it is prepared again, as soon as it has been stopped.
    pub(super) fn wake(&mut self, source: SourceId, touched: &mut BTreeSet<StepKey>) {
        let Some(served) = self.sources.get_mut(&source) else { return };
        if served.stage == SourceStage::Resting && !served.is_asked {
            served.move_to(SourceStage::Preparing);
            self.judge_source(source);
            self.index_source(source);
            touched.insert(StepKey::Source { source });
        }
    }

    pub(super) fn is_resting(&self, source: SourceId) -> bool {
        self.sources.get(&source).is_some_and(|served| served.stage == SourceStage::Resting)
    }

    /// Costs a look at every task that is remembered, which a short memory may once a minute.
    fn worth(&self, source: SourceId) -> Worth {
        let since = self.now.saturating_sub(EARNINGS_S);
        let mut worth = Worth::default();
        for job in self.jobs.values().filter(|job| job.task().source == source && was_run(job)) {
            worth.used_at = worth.used_at.max(job.moved_at);
            if let Stage::Closed { closing: Closing::Settled { settlement } } = &job.stage
                && settlement.ended_at >= since
            {
                worth.earned_wei = worth.earned_wei.saturating_add(settlement.paid_wei);
            }
        }
        worth
    }
}

/// Whether its source has run it.
fn was_run(job: &Job) -> bool {
    match &job.stage {
        Stage::Running { .. } | Stage::Ended { .. } | Stage::Published { .. } | Stage::Responded { .. } => true,
        Stage::Closed { closing: Closing::Refused { .. } } => false,
        Stage::Closed { .. } => job.runs > 0,
        Stage::Looking | Stage::Held { .. } | Stage::Bidding { .. } | Stage::Attempted { .. } | Stage::Ready { .. } => {
            job.runs > 0
        }
    }
}
