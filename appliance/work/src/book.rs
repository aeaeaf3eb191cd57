//! The fold: facts in, steps out.
//!
//! Invariants:
//! - The same facts in the same order give the same book and the same steps. Nothing else goes in.
//! - [`Book::enter`] hands a step out at most once; it hands it out again only after a [`News::Fell`] or a
//!   [`News::Began`], because only then is it in nobody's hand.
//! - [`Book::outstanding`] is all that is due, whoever may have it in hand: what a fresh process must do.
//! - A task is attempted, run and answered at most once unless the chain itself shows the answer gone; a closed task
//!   stays closed, but for one case: an agent attempts in our name what we had refused, which makes it ours.
//! - Everything kept is bounded: [`CLOSED_KEPT`] closed tasks, [`SOURCES_KEPT`] sources; open tasks by the policy's
//!   `max_waiting` and by their expiry.

mod job;
mod sources;
mod tasks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

pub use self::job::{Closing, Job, Stage};
use crate::enrolment::{Enrolment, Phase, Standing};
use crate::fact::{Fact, News};
use crate::id::{RunId, SourceId, TaskId};
use crate::policy::{Load, Rig};
use crate::source::Served;
use crate::step::{Step, StepKey, Trouble};

/// Closed tasks that the book remembers, newest first out of the ledger. Older ones stay in the ledger's archive.
pub const CLOSED_KEPT: usize = 20_000;

/// Sources that the book remembers, served or refused.
pub const SOURCES_KEPT: usize = 4_096;

/// All that the rig knows, folded from facts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    now: u64,
    rig: Option<Rig>,
    is_draining: bool,
    enrolment: Enrolment,
    sources: BTreeMap<SourceId, Served>,
    jobs: BTreeMap<TaskId, Job>,
    /// Closed tasks, oldest first.
    closed: VecDeque<TaskId>,
    next_run: RunId,
    #[serde(skip)]
    index: Index,
}

/// What can be derived from the rest, kept so that a fact costs the same with ten tasks and with ten thousand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Index {
    /// When time alone changes something, and for whom.
    wakes: BTreeSet<(u64, StepKey)>,
    /// The entry of each key in `wakes`.
    wake_of: BTreeMap<StepKey, u64>,
    /// Tasks that are not closed.
    open: BTreeSet<TaskId>,
    /// Tasks that await a place, soonest expiry first.
    ready: BTreeSet<(u64, TaskId)>,
    /// Open tasks that need a source's container.
    needing: BTreeMap<SourceId, BTreeSet<TaskId>>,
    /// Runs under way, by source.
    running: BTreeMap<SourceId, usize>,
    /// Tasks bid for or attempted that no run has taken.
    waiting: usize,
}

// === impl Book ===

impl Book {
    /// Takes in one fact and returns the steps that became due by it.
    pub fn enter(&mut self, fact: Fact) -> Vec<Step> {
        self.now = self.now.max(fact.at);
        let mut touched = BTreeSet::new();
        match fact.news {
            News::Began { rig } => return self.begin(*rig),
            News::Ticked => {}
            News::DrainAsked => self.is_draining = true,
            News::Stood { standing } => self.stand(standing, &mut touched),
            News::SourceRead { reading } => self.source_read(*reading, &mut touched),
            News::SourceUp { source, prepared_from, functions } => {
                self.source_up(source, prepared_from, functions, &mut touched);
            }
            News::SourceDown { source, why } => self.source_down(source, why, &mut touched),
            News::SourceStopped { source } => self.source_stopped(source, &mut touched),
            News::SourceRemoved { source } => self.source_removed(source, &mut touched),
            News::TaskRead { reading } => self.task_read(*reading, &mut touched),
            News::Looked { task, look } => self.looked(task, &look, &mut touched),
            News::Fetched { task, function, digest } => self.fetched(task, function, digest, &mut touched),
            News::Finished { task, run, digest, bytes, elapsed_ms } => {
                self.finished(task, run, digest, bytes, elapsed_ms, &mut touched);
            }
            News::Pinned { task, link } => self.pinned(task, link, &mut touched),
            News::Fell { step, trouble } => self.fell(step, trouble, &mut touched),
        }
        self.hand_out(touched)
    }

    /// Every step that is due now, in hand or not: what a process that has just replayed the ledger must perform.
    pub fn outstanding(&self) -> Vec<Step> {
        let mut all: Vec<Step> = self.enrolment_step().into_iter().collect();
        all.extend(self.sources.iter().filter_map(|(id, s)| self.source_step(*id, s)));
        all.extend(self.jobs.values().filter(|job| job.is_asked || job.not_before <= self.now).filter_map(Job::step));
        all
    }

    /// The next moment (Unix seconds) at which [`News::Ticked`] would change something.
    pub fn wakes_at(&self) -> Option<u64> {
        self.index.wakes.first().map(|(at, _)| *at)
    }

    /// The time of the newest fact, Unix seconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The settings of the newest start.
    pub fn rig(&self) -> Option<&Rig> {
        self.rig.as_ref()
    }

    /// Enrolment: the newest standing and the step in hand.
    pub fn enrolment(&self) -> &Enrolment {
        &self.enrolment
    }

    /// Where the rig stands on its way to being a provider.
    pub fn phase(&self) -> Phase {
        self.rig.as_ref().map_or(Phase::Unread, |rig| self.enrolment.phase(rig.owner, &rig.base_data_cid))
    }

    /// The sources that the rig knows.
    pub fn sources(&self) -> &BTreeMap<SourceId, Served> {
        &self.sources
    }

    /// The tasks that the rig knows.
    pub fn jobs(&self) -> &BTreeMap<TaskId, Job> {
        &self.jobs
    }

    /// Whether the rig takes no more work.
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// True when nothing begun is unfinished on our side: a drain may end.
    pub fn is_idle(&self) -> bool {
        self.index.waiting == 0
            && self
                .open_jobs()
                .all(|job| matches!(job.stage, Stage::Looking | Stage::Held { .. } | Stage::Responded { .. }))
    }

    /// Tasks whose state must be polled, because what happens to them may happen silently.
    pub fn watched(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.open_jobs()
            .filter(|job| !matches!(job.stage, Stage::Looking | Stage::Held { .. }))
            .map(|job| job.task().id)
    }

    /// Tasks that are not closed.
    pub fn open_jobs(&self) -> impl Iterator<Item = &Job> {
        self.index.open.iter().filter_map(|task| self.jobs.get(task))
    }

    /// Restores what is derived, after the book was read back from a snapshot.
    pub fn reindex(&mut self) {
        self.index = Index::default();
        let tasks: Vec<TaskId> = self.jobs.keys().copied().collect();
        for task in tasks {
            self.index_task(task, None);
        }
        let sources: Vec<SourceId> = self.sources.keys().copied().collect();
        for source in sources {
            self.index_source(source);
        }
        self.index_enrolment();
    }

    /// A start: whatever was in hand is in nobody's hand, and containers have to show themselves again.
    fn begin(&mut self, rig: Rig) -> Vec<Step> {
        self.rig = Some(rig);
        self.is_draining = false;
        self.enrolment.is_asked = false;
        for job in self.jobs.values_mut() {
            job.is_asked = false;
        }
        self.begin_sources();
        self.reindex();
        let mut all: BTreeSet<StepKey> = self.jobs.keys().map(|task| StepKey::Task { task: *task }).collect();
        all.extend(self.sources.keys().map(|source| StepKey::Source { source: *source }));
        all.insert(StepKey::Enrol);
        self.hand_out(all)
    }

    fn stand(&mut self, standing: Standing, touched: &mut BTreeSet<StepKey>) {
        if self.enrolment.standing.as_ref() != Some(&standing) {
            let before = self.enrolment_step();
            self.enrolment.standing = Some(standing);
            if before != self.enrolment_step() {
                self.enrolment.is_asked = false;
                self.enrolment.tries = 0;
                self.enrolment.not_before = 0;
                self.enrolment.trouble = None;
            }
        }
        self.index_enrolment();
        touched.insert(StepKey::Enrol);
        touched.extend(self.sources.keys().map(|source| StepKey::Source { source: *source }));
    }

    fn fell(&mut self, step: StepKey, trouble: Trouble, touched: &mut BTreeSet<StepKey>) {
        match step {
            StepKey::Enrol => {
                self.enrolment.is_asked = false;
                self.enrolment.tries = self.enrolment.tries.saturating_add(1);
                self.enrolment.not_before = self.now.saturating_add(job::backoff_s(self.enrolment.tries));
                self.enrolment.trouble = Some(trouble);
                self.index_enrolment();
            }
            StepKey::Source { source } => self.source_fell(source, trouble, touched),
            StepKey::Task { task } => self.task_fell(task, trouble, touched),
        }
        touched.insert(step);
    }

    /// The step that enrolment awaits: one at a time, because each changes the reading that the next depends on.
    fn enrolment_step(&self) -> Option<Step> {
        let standing = self.enrolment.standing.as_ref()?;
        match self.phase() {
            Phase::Announcing => Some(Step::Announce),
            Phase::Describing => Some(Step::Describe),
            Phase::Paired if !standing.vault_wei.is_zero() => Some(Step::Lock { amount_wei: standing.vault_wei }),
            Phase::Paired | Phase::Unread | Phase::Unfunded | Phase::AwaitingOwner | Phase::ForeignOwner => None,
        }
    }

    fn load(&self) -> Load {
        Load { is_draining: self.is_draining, waiting: self.index.waiting }
    }

    /// Lets time change what time alone changes, hands out the due steps of what was touched, and gives free places to
    /// tasks that are ready.
    fn hand_out(&mut self, mut touched: BTreeSet<StepKey>) -> Vec<Step> {
        while let Some((at, key)) = self.index.wakes.first().copied() {
            if at > self.now {
                break;
            }
            self.set_wake(key, None);
            touched.insert(key);
        }
        let tasks: Vec<TaskId> = touched.iter().filter_map(|key| key.task()).collect();
        for task in tasks {
            self.time_passed(task, &mut touched);
        }
        let mut steps = Vec::new();
        for key in touched {
            let step = match key {
                StepKey::Enrol => self.ask_enrolment(),
                StepKey::Source { source } => self.ask_source(source),
                StepKey::Task { task } => self.ask_task(task),
            };
            steps.extend(step);
        }
        steps.extend(self.fill_places());
        steps
    }

    fn ask_enrolment(&mut self) -> Option<Step> {
        if self.enrolment.is_asked || self.enrolment.not_before > self.now {
            return None;
        }
        let step = self.enrolment_step()?;
        self.enrolment.is_asked = true;
        self.index_enrolment();
        Some(step)
    }

    fn index_enrolment(&mut self) {
        let retry = (!self.enrolment.is_asked).then_some(self.enrolment.not_before);
        self.set_wake(StepKey::Enrol, retry);
    }

    /// Notes when time alone changes something for `key`. What is due already needs no timer.
    fn set_wake(&mut self, key: StepKey, at: Option<u64>) {
        if let Some(old) = self.index.wake_of.remove(&key) {
            self.index.wakes.remove(&(old, key));
        }
        if let Some(at) = at.filter(|at| *at > self.now) {
            self.index.wake_of.insert(key, at);
            self.index.wakes.insert((at, key));
        }
    }
}
