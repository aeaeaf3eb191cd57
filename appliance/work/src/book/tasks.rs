//! Tasks: how a job moves from stage to stage.
//!
//! A reading of the chain may move a job forward or close it; the absence of something in a reading never moves it back,
//! but for one case: a response that the chain has not shown for [`MISSING_GRACE_S`] is submitted again, by a step that
//! asks the chain first.

use std::collections::BTreeSet;

use super::job::{Closing, Job, Stage};
use super::{Book, CLOSED_KEPT};
use crate::fact::Look;
use crate::id::{Digest, ResponseId, RunId, SourceId, TaskId};
use crate::policy::{self, Refusal};
use crate::source::SourceStage;
use crate::step::{Step, StepKey, Trouble, TroubleKind};
use crate::task::{
    Attempt, Bid, Descriptor, Input, Outcome, Receipt, Response, Run, Settlement, TaskReading, TaskStatus,
};

/// Seconds for which a response may be missing from readings before it is submitted again. Longer than a replica lags
/// and than the outbox needs to send the same bytes again after a re-org.
const MISSING_GRACE_S: u64 = 60;

/// Seconds after expiry for which a response whose sending was not answered may still show up on chain: longer than
/// endpoints stay away.
const UNHEARD_GRACE_S: u64 = 3_600;

/// Runs begun for one task before it is given up: a container that dies under a task three times will not like it a
/// fourth time.
const RUNS_MAX: u32 = 3;

/// What a run left.
pub(super) struct Left {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    pub(super) elapsed_ms: u64,
    pub(super) descriptor: Option<Box<Descriptor>>,
}

impl Book {
    pub(super) fn task_read(&mut self, reading: TaskReading, touched: &mut BTreeSet<StepKey>) {
        let id = reading.task.id;
        let now = self.now;
        touched.insert(StepKey::Task { task: id });
        let before = self.jobs.get(&id).cloned();
        let is_another = before.as_ref().is_some_and(|job| job.reading.task != reading.task);
        let job = match before.clone() {
            Some(mut job) if !is_another => {
                job.reading = reading;
                self.compare(&mut job);
                job
            }
            // Its service may still call back, and a result is known by the address alone: the run is let go to its end.
            Some(Job { stage: Stage::Running { .. }, .. }) => return,
            // A re-org can put another task under an address. What was done for the old one is no answer to the new.
            Some(_) | None => {
                let mut job = Job::new(reading, now);
                self.welcome(&mut job);
                job
            }
        };
        self.put(job, before.as_ref(), touched);
    }

    /// A task seen for the first time.
    fn welcome(&self, job: &mut Job) {
        let reading = job.reading.clone();
        if let Some(attempt) = attempt_of(&reading) {
            self.take_on(job, attempt);
        } else {
            self.sift(job);
        }
    }

    /// A task known already: what does the new reading change?
    fn compare(&self, job: &mut Job) {
        let now = self.now;
        let reading = job.reading.clone();
        match job.stage.clone() {
            Stage::Looking
            | Stage::Held { .. }
            | Stage::Bidding { .. }
            | Stage::Closed { closing: Closing::Refused { .. } } => {
                if let Some(attempt) = attempt_of(&reading) {
                    self.take_on(job, attempt);
                } else if reading.status.is_final() && !job.is_closed() {
                    let closing = match job.stage {
                        Stage::Bidding { .. } => Closing::Lost { why: ended_words(&reading) },
                        _ => Closing::Refused { why: Refusal::Closed { status: reading.status } },
                    };
                    job.close(closing, now);
                }
            }
            Stage::Published { receipt } => {
                if let Some(id) = reading.my_response {
                    respond(job, receipt, id, now);
                } else if reading.status.is_final() && !self.is_won(&reading) {
                    job.close(Closing::Lost { why: ended_words(&reading) }, now);
                }
            }
            Stage::Attempted { .. } | Stage::Ready { .. } | Stage::Running { .. } | Stage::Ended { .. } => {
                if reading.status.is_final() || reading.my_response.is_some() {
                    job.close(Closing::Lost { why: ended_words(&reading) }, now);
                }
            }
            Stage::Responded { .. } | Stage::Closed { .. } => {}
        }
        if let Stage::Responded { response, missing_since } = job.stage.clone() {
            self.settle(job, response, missing_since);
        }
    }

    /// The chain holds an attempt in our name: the task is ours to do, whoever sent the attempt.
    fn take_on(&self, job: &mut Job, attempt: Attempt) {
        if job.reading.my_response.is_some() {
            let why = "it was answered in this rig's name before this ledger began".to_owned();
            job.close(Closing::Lost { why }, self.now);
        } else if job.reading.status.is_final() {
            job.close(Closing::Lost { why: ended_words(&job.reading) }, self.now);
        } else {
            job.move_to(Stage::Attempted { attempt }, self.now);
        }
    }

    /// Whether the task deserves a look.
    fn sift(&self, job: &mut Job) {
        let Some(rig) = &self.rig else { return };
        let source = self.sources.get(&job.task().source);
        match policy::sift(rig, &job.reading, source, self.load(), self.now) {
            Ok(()) => job.move_to(Stage::Looking, self.now),
            Err(why) => self.refuse(job, why),
        }
    }

    pub(super) fn refuse(&self, job: &mut Job, why: Refusal) {
        let now = self.now;
        match why.again_in_s() {
            Some(wait_s) => job.move_to(Stage::Held { why, until: now.saturating_add(wait_s) }, now),
            None => job.close(Closing::Refused { why }, now),
        }
    }

    /// A response stands on chain: has it been confirmed, lost, or lost sight of?
    fn settle(&self, job: &mut Job, response: Response, missing_since: Option<u64>) {
        let now = self.now;
        let reading = &job.reading;
        if self.is_won(reading) {
            // The contract's word over ours: after a re-org the attempt on chain may be an agent's, at another price.
            let bid_wei = response.receipt.outcome.run.input.attempt.bid.payment_wei;
            let paid_wei = reading.my_attempt.map_or(bid_wei, |(wei, _)| wei);
            let settlement = Settlement { response, paid_wei, ended_at: now };
            job.close(Closing::Settled { settlement }, now);
        } else if reading.status.is_final() && reading.my_response.is_some() {
            let why = ended_words(reading);
            job.close(Closing::Unpaid { response, why }, now);
        } else if reading.my_response.is_some() {
            job.stage = Stage::Responded { response, missing_since: None };
        } else if missing_since.is_some_and(|since| now.saturating_sub(since) >= MISSING_GRACE_S) {
            job.move_to(Stage::Published { receipt: response.receipt }, now);
        } else {
            job.stage = Stage::Responded { response, missing_since: missing_since.or(Some(now)) };
        }
    }

    /// Whether the contract paid this rig for the task.
    fn is_won(&self, reading: &TaskReading) -> bool {
        let me = self.rig.as_ref().map(|rig| rig.provider);
        reading.status == TaskStatus::Finalized && reading.winner.is_some() && reading.winner == me
    }

    /// No more work is taken.
    pub(super) fn drain(&mut self, touched: &mut BTreeSet<StepKey>) {
        self.is_draining = true;
        self.withdraw_bids(touched);
    }

    pub(super) fn looked(&mut self, task: TaskId, look: &Look, touched: &mut BTreeSet<StepKey>) {
        let mut wanted = None;
        self.change(task, touched, |book, job| {
            if job.stage != Stage::Looking {
                return;
            }
            let Some(rig) = &book.rig else { return };
            let source = book.sources.get(&job.task().source);
            match policy::weigh(rig, &job.reading, source, look, book.load(), book.now) {
                Ok(bid) if book.is_resting(bid.task.source) => {
                    wanted = Some(bid.task.source);
                    let why = "it rested while memory was short, and is started again for this task".to_owned();
                    book.refuse(job, Refusal::SourceNotReady { why });
                }
                Ok(bid) => job.move_to(Stage::Bidding { bid }, book.now),
                Err(why) => book.refuse(job, why),
            }
        });
        if let Some(source) = wanted {
            self.wake(source, touched);
        }
    }

    pub(super) fn fetched(&mut self, task: TaskId, function: String, digest: Digest, touched: &mut BTreeSet<StepKey>) {
        self.change(task, touched, |book, job| {
            if let Stage::Attempted { attempt } = job.stage.clone() {
                job.move_to(Stage::Ready { input: Input { attempt, function, digest } }, book.now);
            }
        });
    }

    pub(super) fn finished(&mut self, task: TaskId, run_id: RunId, left: Left, touched: &mut BTreeSet<StepKey>) {
        let Left { digest, bytes, elapsed_ms, descriptor } = left;
        let mut source = None;
        self.change(task, touched, |book, job| {
            if let Stage::Running { run } = job.stage.clone()
                && run.id == run_id
            {
                source = Some(job.task().source);
                let outcome = Outcome { run, digest, bytes, elapsed_ms, descriptor };
                job.move_to(Stage::Ended { outcome }, book.now);
            }
        });
        if let Some(served) = source.and_then(|id| self.sources.get_mut(&id)) {
            served.note_run(elapsed_ms);
        }
    }

    pub(super) fn pinned(&mut self, task: TaskId, link: String, touched: &mut BTreeSet<StepKey>) {
        self.change(task, touched, |book, job| {
            if let Stage::Ended { outcome } = job.stage.clone() {
                job.move_to(Stage::Published { receipt: Receipt { outcome, link } }, book.now);
            }
        });
    }

    pub(super) fn task_fell(&mut self, task: TaskId, trouble: Trouble, touched: &mut BTreeSet<StepKey>) {
        self.change(task, touched, |book, job| {
            let now = book.now;
            match (trouble.kind, job.stage.clone()) {
                (_, Stage::Held { .. } | Stage::Ready { .. } | Stage::Responded { .. } | Stage::Closed { .. }) => {}
                (TroubleKind::Final | TroubleKind::Lost, Stage::Looking) => {
                    let why = Refusal::BadInput { why: trouble.why.clone() };
                    job.close(Closing::Refused { why }, now);
                }
                (TroubleKind::Passing, Stage::Running { run }) if job.runs < RUNS_MAX => {
                    job.move_to(Stage::Ready { input: run.input }, now);
                    job.retry_later(trouble, now);
                }
                (TroubleKind::Passing, Stage::Running { .. }) => {
                    let why = format!("given up after {RUNS_MAX} runs: {trouble}");
                    job.close(Closing::Failed { why }, now);
                }
                (TroubleKind::Passing, Stage::Bidding { .. }) if book.takes_no_more() => {
                    book.refuse(job, Refusal::Draining);
                }
                (TroubleKind::Passing, Stage::Published { .. })
                    if now >= job.task().expires_at.saturating_add(UNHEARD_GRACE_S) =>
                {
                    let why = format!("expired before the response was on chain: {trouble}");
                    job.close(Closing::Failed { why }, now);
                }
                (TroubleKind::Passing, _) => job.retry_later(trouble, now),
                (TroubleKind::Final, _) => job.close(Closing::Failed { why: trouble.why }, now),
                (TroubleKind::Lost, _) => job.close(Closing::Lost { why: trouble.why }, now),
            }
        });
    }

    /// Lets time alone move a job: an expiry, the end of a refusal, a receivable grown old.
    pub(super) fn time_passed(&mut self, task: TaskId, touched: &mut BTreeSet<StepKey>) {
        let is_past = self.jobs.get(&task).is_some_and(|job| job.task().expires_at <= self.now);
        self.change(task, touched, |book, job| {
            let now = book.now;
            match job.stage.clone() {
                Stage::Closed { .. } | Stage::Published { .. } => {}
                Stage::Responded { response, .. } => {
                    if job.wakes_at(now).is_some_and(|at| at <= now) {
                        let why = "the client never confirmed it".to_owned();
                        job.close(Closing::Unpaid { response, why }, now);
                    }
                }
                Stage::Looking | Stage::Held { .. } if is_past => {
                    let why = last_refusal(job);
                    job.close(Closing::Refused { why }, now);
                }
                Stage::Held { until, .. } if until <= now => book.sift(job),
                Stage::Looking | Stage::Held { .. } => {}
                Stage::Bidding { .. }
                | Stage::Attempted { .. }
                | Stage::Ready { .. }
                | Stage::Running { .. }
                | Stage::Ended { .. } => {
                    if is_past {
                        let why = job.trouble.as_ref().map_or("it took too long".to_owned(), |t| t.why.clone());
                        job.close(Closing::Failed { why: format!("expired: {why}") }, now);
                    }
                }
            }
        });
    }

    pub(super) fn ask_task(&mut self, task: TaskId) -> Option<Step> {
        let job = self.jobs.get_mut(&task)?;
        if job.is_asked || job.not_before > self.now {
            return None;
        }
        let step = job.step()?;
        job.is_asked = true;
        let wakes_at = job.wakes_at(self.now);
        self.set_wake(StepKey::Task { task }, wakes_at);
        Some(step)
    }

    /// Gives free places to ready tasks, soonest expiry first.
    pub(super) fn fill_places(&mut self) -> Vec<Step> {
        let Some(rig) = &self.rig else { return Vec::new() };
        let (max_runs, max_per_source) = (rig.max_runs, rig.max_runs_per_source);
        let margin_s = rig.respond_margin_s;
        let mut steps = Vec::new();
        let candidates: Vec<TaskId> = self.index.ready.iter().map(|(_, task)| *task).collect();
        for task in candidates {
            if self.index.running.values().sum::<usize>() >= max_runs {
                break;
            }
            let Some(job) = self.jobs.get(&task) else { continue };
            let source = job.task().source;
            let has_place = self.index.running.get(&source).copied().unwrap_or(0) < max_per_source;
            if job.not_before > self.now || !has_place || !self.runs_now(source) {
                continue;
            }
            let served = self.sources.get(&source);
            let max_expiry_s = served.map_or(u64::MAX, |s| s.reading.max_expiry_s);
            let conditions = served.and_then(|s| s.conditions.clone());
            let id = self.next_run;
            let mut begun = false;
            self.change(task, &mut BTreeSet::new(), |book, job| {
                let Stage::Ready { input } = job.stage.clone() else { return };
                let deadline = run_deadline(&input, max_expiry_s, margin_s);
                job.move_to(Stage::Running { run: Run { input, id, deadline, conditions } }, book.now);
                job.runs += 1;
                begun = true;
            });
            if begun {
                self.next_run = RunId(id.0 + 1);
                steps.extend(self.ask_task(task));
            }
        }
        steps
    }

    /// Whether a source's container is up, as far as the book knows.
    fn runs_now(&self, source: SourceId) -> bool {
        self.sources.get(&source).is_some_and(|served| {
            served.prepared_from.is_some()
                && matches!(served.stage, SourceStage::Registering | SourceStage::Serving | SourceStage::Stopping)
        })
    }

    /// Changes one job and keeps what is derived from it true.
    pub(super) fn change(&mut self, task: TaskId, touched: &mut BTreeSet<StepKey>, edit: impl FnOnce(&Book, &mut Job)) {
        let Some(before) = self.jobs.get(&task).cloned() else { return };
        let mut job = before.clone();
        edit(self, &mut job);
        touched.insert(StepKey::Task { task });
        self.put(job, Some(&before), touched);
    }

    fn put(&mut self, job: Job, before: Option<&Job>, touched: &mut BTreeSet<StepKey>) {
        let task = job.task().id;
        let source = before.unwrap_or(&job).task().source;
        let closes = job.is_closed() && !before.is_some_and(Job::is_closed);
        let reopens = !job.is_closed() && before.is_some_and(Job::is_closed);
        let releases = before.is_some_and(Job::needs_source) && !job.needs_source();
        let acquires = job.needs_source() && !before.is_some_and(Job::needs_source);
        self.jobs.insert(task, job);
        self.index_task(task, before);
        if releases {
            self.source_released(source, touched);
        }
        if acquires {
            self.wake(source, touched);
        }
        if reopens {
            self.closed.retain(|id| *id != task);
        }
        if closes {
            self.closed.push_back(task);
            while self.closed.len() > CLOSED_KEPT {
                if let Some(oldest) = self.closed.pop_front() {
                    self.jobs.remove(&oldest);
                    self.set_wake(StepKey::Task { task: oldest }, None);
                }
            }
        }
    }

    /// Keeps the index true for one job that was `before` and is now what the book holds.
    pub(super) fn index_task(&mut self, task: TaskId, before: Option<&Job>) {
        if let Some(old) = before {
            self.count(task, old, false);
        }
        let Some(job) = self.jobs.get(&task).cloned() else { return };
        self.count(task, &job, true);
        self.set_wake(StepKey::Task { task }, job.wakes_at(self.now));
    }

    fn count(&mut self, task: TaskId, job: &Job, is_added: bool) {
        let source = job.task().source;
        let index = &mut self.index;
        let mark = |set: &mut BTreeSet<TaskId>| if is_added { set.insert(task) } else { set.remove(&task) };
        if !job.is_closed() {
            mark(&mut index.open);
        }
        if job.needs_source() {
            mark(index.needing.entry(source).or_default());
        }
        if matches!(job.stage, Stage::Ready { .. }) {
            let entry = (job.task().expires_at, task);
            if is_added {
                index.ready.insert(entry)
            } else {
                index.ready.remove(&entry)
            };
        }
        if job.run_id().is_some() {
            let running = index.running.entry(source).or_default();
            *running = if is_added { *running + 1 } else { running.saturating_sub(1) };
        }
        if index.needing.get(&source).is_some_and(BTreeSet::is_empty) {
            index.needing.remove(&source);
        }
        if index.running.get(&source) == Some(&0) {
            index.running.remove(&source);
        }
        if job.is_waiting() {
            index.waiting = if is_added { index.waiting + 1 } else { index.waiting.saturating_sub(1) };
        }
    }
}

/// The attempt that the chain records in our name.
fn attempt_of(reading: &TaskReading) -> Option<Attempt> {
    let (payment_wei, began_at) = reading.my_attempt?;
    Some(Attempt { bid: Bid { task: reading.task.clone(), payment_wei }, began_at })
}

fn respond(job: &mut Job, receipt: Receipt, id: ResponseId, now: u64) {
    job.move_to(Stage::Responded { response: Response { receipt, id, began_at: now }, missing_since: None }, now);
}

/// Unix seconds at which a run is given up: soon enough to publish and submit before the task expires, and no later
/// than its source allows. Source: protocol, a failing handler never calls back.
fn run_deadline(input: &Input, max_expiry_s: u64, margin_s: u64) -> u64 {
    let attempt = &input.attempt;
    attempt.bid.task.expires_at.min(attempt.began_at.saturating_add(max_expiry_s)).saturating_sub(margin_s)
}

fn ended_words(reading: &TaskReading) -> String {
    match (reading.status, reading.winner) {
        (TaskStatus::Finalized, Some(winner)) => format!("the response of {winner} was confirmed"),
        (status, _) => format!("the task is {status}"),
    }
}

/// What to say of a task that expired while it was refused for now.
fn last_refusal(job: &Job) -> Refusal {
    match (&job.stage, &job.trouble) {
        (Stage::Held { why, .. }, _) => why.clone(),
        (_, Some(trouble)) => Refusal::BadInput { why: trouble.why.clone() },
        (_, None) => Refusal::Closed { status: TaskStatus::Expired },
    }
}
