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
//!
//! The contract of whoever performs steps: a step replaces an older one of the same [`StepKey`] that is still in hand,
//! and of a replaced step no [`News::Fell`] is reported, because a trouble names only the key.
//!
//! The smallest complete life of a task: an agent attempts it in our name, and the contract confirms the response.
//!
//! ```
//! # use alloy_primitives::{Address, B256};
//! # use work::book::{Book, Closing, Stage};
//! # use work::enrolment::Standing;
//! # use work::policy::{Rig, Sources};
//! # use work::source::{Environments, SourceReading};
//! # use work::task::{Delivery, Task, TaskReading, TaskStatus};
//! # use work::{Digest, Fact, News, ProviderId, ResponseId, RunId, SourceId, TaskId, Wei};
//! # let me = ProviderId(Address::repeat_byte(1));
//! # let owner = ProviderId(Address::repeat_byte(2));
//! # let (source, id) = (SourceId(Address::repeat_byte(3)), TaskId(Address::repeat_byte(4)));
//! # let (pay_wei, digest) = (Wei::from(1_000_u64), Digest(B256::repeat_byte(5)));
//! # let rig = Box::new(Rig {
//! #     provider: me, owner, base_data_cid: "base".into(), environments: Environments(1), sources: Sources::Any,
//! #     attempts_itself: false, max_runs: 1, max_runs_per_source: 1, max_waiting: 1, min_payment_wei: Wei::ZERO,
//! #     min_profit_wei: Wei::ZERO, ask_percent: 100, max_rivals: 0, expected_run_s: 10, respond_margin_s: 5,
//! # });
//! # let standing = Standing {
//! #     gas_wei: pay_wei, vault_wei: Wei::ZERO, lockup_wei: Wei::ZERO, master: Some(owner), is_announced: true,
//! #     base_data_url: "ipfs://base".into(), unbonding_wei: Wei::ZERO, unbonds_at: 0, is_newest: true,
//! # };
//! # let source_reading = Box::new(SourceReading {
//! #     id: source, client: owner, is_active: true, metadata_url: "ipfs://metadata".into(),
//! #     environments: Environments(1), min_payment_wei: Wei::ZERO, min_lockup_wei: Wei::ZERO, max_expiry_s: 600,
//! #     delivery: Delivery::FirstResponse, updated_at: 7, is_registered: true,
//! # });
//! # let task = Task {
//! #     id, source, config_url: "ipfs://config".into(), expires_at: 500, payment_wei: pay_wei,
//! #     delivery: Delivery::FirstResponse,
//! # };
//! # let attempted = Box::new(TaskReading {
//! #     task, status: TaskStatus::Attempted, attempts: 1, my_attempt: Some((pay_wei, 104)), my_response: None,
//! #     winner: None,
//! # });
//! # let mut finalized = attempted.clone();
//! # finalized.status = TaskStatus::Finalized;
//! # finalized.my_response = Some(ResponseId(Address::repeat_byte(6)));
//! # finalized.winner = Some(me);
//! let mut book = Book::default();
//! let mut tell = |at, news| -> Vec<&str> { book.enter(Fact { at, news }).iter().map(|step| step.name()).collect() };
//!
//! assert!(tell(100, News::Began { rig }).is_empty());
//! assert!(tell(101, News::Stood { standing }).is_empty());
//! assert_eq!(tell(102, News::SourceRead { reading: source_reading }), ["prepare"]);
//! let up = News::SourceUp { source, prepared_from: 7, functions: None, conditions: None, notes: Vec::new() };
//! assert!(tell(103, up).is_empty());
//! assert_eq!(tell(104, News::TaskRead { reading: attempted }), ["fetch"]);
//! assert_eq!(tell(105, News::Fetched { task: id, function: "answer".into(), digest }), ["run"]);
//! let run = RunId(0);
//! assert_eq!(tell(106, News::Finished { task: id, run, digest, bytes: 3, elapsed_ms: 900, descriptor: None }), ["publish"]);
//! assert_eq!(tell(107, News::Pinned { task: id, link: "ipfs://result".into() }), ["respond"]);
//! assert!(tell(120, News::TaskRead { reading: finalized }).is_empty());
//!
//! let Stage::Closed { closing: Closing::Settled { settlement } } = &book.jobs()[&id].stage else { panic!() };
//! assert_eq!(settlement.paid_wei, pay_wei);
//! ```

mod enrol;
mod job;
mod rest;
mod sources;
mod tasks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

pub use self::job::{Closing, Job, Stage};
use crate::enrolment::{Enrolment, Phase};
use crate::fact::{Fact, News};
use crate::id::{RunId, SourceId, TaskId};
use crate::policy::{Load, Rig};
use crate::source::Served;
use crate::step::{Step, StepKey, Trouble};

/// Closed tasks that the book remembers; of more, the oldest are forgotten. What was paid for them stands on chain.
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
    /// When (Unix seconds) a source was laid to rest last; 0 if never.
    #[serde(default)]
    rested_at: u64,
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
            News::DrainAsked => self.drain(&mut touched),
            News::MemoryShort => self.memory_short(&mut touched),
            News::Stood { standing } => self.stand(standing, &mut touched),
            News::SentHome { standing } => self.sent_home(standing, &mut touched),
            News::SourceRead { reading } => self.source_read(*reading, &mut touched),
            News::SourceUp { source, prepared_from, functions, conditions, notes } => {
                let given = sources::Given { functions, conditions: conditions.map(|boxed| *boxed), notes };
                self.source_up(source, prepared_from, given, &mut touched);
            }
            News::SourceDown { source, why } => self.source_down(source, why, &mut touched),
            News::SourceStopped { source, is_forgotten } => self.source_stopped(source, is_forgotten, &mut touched),
            News::SourceRemoved { source } => self.source_removed(source, true, &mut touched),
            News::SourceListed { source } => self.source_removed(source, false, &mut touched),
            News::TaskRead { reading } => self.task_read(*reading, &mut touched),
            News::Looked { task, look } => self.looked(task, &look, &mut touched),
            News::Fetched { task, function, digest } => self.fetched(task, function, digest, &mut touched),
            News::Finished { task, run, digest, bytes, elapsed_ms, descriptor } => {
                self.finished(task, run, tasks::Left { digest, bytes, elapsed_ms, descriptor }, &mut touched);
            }
            News::Pinned { task, link } => self.pinned(task, link, &mut touched),
            News::Fell { step, trouble } => self.fell(step, trouble, &mut touched),
        }
        self.hand_out(touched)
    }

    /// Every step that is due now, in hand or not: what a process that has just replayed the ledger must perform.
    pub fn outstanding(&self) -> Vec<Step> {
        let is_due = |is_asked: bool, not_before: u64| is_asked || not_before <= self.now;
        let mut all = Vec::new();
        if self.may_enrol() {
            all.extend(self.enrolment_step());
        }
        let sources = self.sources.iter().filter(|(_, served)| is_due(served.is_asked, served.not_before));
        all.extend(sources.filter_map(|(id, served)| self.source_step(*id, served)));
        all.extend(self.open_jobs().filter(|job| is_due(job.is_asked, job.not_before)).filter_map(Job::step));
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

    /// Where the rig stands on its way to being a provider, and back.
    pub fn phase(&self) -> Phase {
        self.rig.as_ref().map_or(Phase::Unread, |rig| self.enrolment.phase(rig.owner, &rig.base_data_cid))
    }

    /// The same in words for people: with what is on its way home, and when the rest is free.
    pub fn phase_text(&self) -> String {
        self.enrolment.words(self.phase())
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
            job.lose_run();
        }
        self.enrolment.note_owner(self.rig.as_ref().map(|rig| rig.owner), self.now);
        self.reindex();
        self.begin_sources();
        if self.is_going_home() {
            self.withdraw_bids(&mut BTreeSet::new());
        }
        let mut all: BTreeSet<StepKey> = self.index.open.iter().map(|task| StepKey::Task { task: *task }).collect();
        all.extend(self.sources.keys().map(|source| StepKey::Source { source: *source }));
        all.insert(StepKey::Enrol);
        self.hand_out(all)
    }

    fn fell(&mut self, step: StepKey, trouble: Trouble, touched: &mut BTreeSet<StepKey>) {
        match step {
            StepKey::Enrol => self.enrolment_fell(trouble),
            StepKey::Source { source } => self.source_fell(source, trouble, touched),
            StepKey::Task { task } => self.task_fell(task, trouble, touched),
        }
        touched.insert(step);
    }

    fn load(&self) -> Load {
        Load { is_draining: self.takes_no_more(), waiting: self.index.waiting }
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
        if self.is_going_home() {
            // The end of a task may be what it waited for.
            touched.insert(StepKey::Enrol);
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
