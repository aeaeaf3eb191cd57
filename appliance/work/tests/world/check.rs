//! What must be true after every fact.

use std::collections::{BTreeMap, BTreeSet};

use work::book::{CLOSED_KEPT, SOURCES_KEPT, Stage};
use work::enrolment::{Phase, REMOVAL_GRACE_S};
use work::policy::Rig;
use work::{Book, Fact, News, RunId, SourceId, Step, StepKey, TaskId};

/// Seconds after expiry for which an answer stays a receivable.
const RECEIVABLE_S: u64 = 30 * 24 * 3_600;

/// Seconds for which a response may be missing from readings before it is sent again.
const MISSING_S: u64 = 60;

/// What the checks remember from fact to fact.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witness {
    /// The steps that each fact gave.
    kept: Vec<Vec<Step>>,
    /// Steps that facts took the reason from while they were in hand.
    void: BTreeSet<StepKey>,
    /// Runs handed out, and whose they were.
    runs: BTreeMap<RunId, TaskId>,
    /// Tasks that a reading showed as attempted by us.
    attempted: BTreeSet<TaskId>,
    /// When (book's time) a reading last showed our response.
    responded: BTreeMap<TaskId, u64>,
    /// How many responses were sent for a task.
    submitted: BTreeMap<TaskId, u32>,
    /// Tasks that were closed before.
    closed: BTreeSet<TaskId>,
}

impl Witness {
    pub(crate) fn keep(&mut self, steps: Vec<Step>) {
        self.kept.push(steps);
    }

    pub(crate) fn kept(&self) -> &[Vec<Step>] {
        &self.kept
    }

    pub(crate) fn submits(&mut self, task: TaskId) {
        *self.submitted.entry(task).or_default() += 1;
    }

    /// How many responses were sent for a task.
    pub(crate) fn submissions(&self, task: TaskId) -> u32 {
        self.submitted.get(&task).copied().unwrap_or(0)
    }

    /// The steps that `fact` gave, before the performer takes them in hand.
    pub(crate) fn check_steps(&mut self, fact: &Fact, steps: &[Step], hand: &BTreeMap<StepKey, Step>, book: &Book) {
        if let News::TaskRead { reading } = &fact.news {
            if reading.my_attempt.is_some() {
                self.attempted.insert(reading.task.id);
            }
            if reading.my_response.is_some() {
                self.responded.insert(reading.task.id, book.now());
            }
        }
        for (i, step) in steps.iter().enumerate() {
            assert!(steps[..i].iter().all(|other| other.key() != step.key()), "two steps of one name: {steps:#?}");
            let in_hand = hand.get(&step.key());
            let is_void = self.void.remove(&step.key());
            assert!(in_hand != Some(step) || is_void, "handed out twice: {step:?} by {fact:?}");
            self.check_step(fact, step, book);
        }
        if matches!(fact.news, News::Began { .. }) {
            let due = by_key(book.outstanding());
            assert_eq!(due, by_key(steps.to_vec()), "a start hands out what is outstanding");
        }
    }

    fn check_step(&mut self, fact: &Fact, step: &Step, book: &Book) {
        let rig = book.rig().expect("no step goes out before the first start");
        let job = step.key().task().map(|task| &book.jobs()[&task]);
        match step {
            Step::Attempt { bid } => {
                let id = bid.task.id;
                assert!(!book.is_draining(), "{id} is attempted while draining");
                assert!(!book.is_going_home(), "{id} is attempted by a rig that was removed");
                assert!(!self.attempted.contains(&id), "{id} is attempted again");
                let is_decided_now = job.is_some_and(|job| job.tries == 0);
                if let News::Looked { task, look } = &fact.news
                    && *task == id
                    && is_decided_now
                {
                    assert!(rig.attempts_itself, "{id} is left to the agent");
                    assert!(look.function.is_ok(), "{id} has no usable input");
                    assert!(look.gas_wei >= Rig::gas_to_finish_wei(look.gas_price_wei), "{id}: gas was short");
                    let need_wei = book.sources()[&bid.task.source].reading.min_lockup_wei;
                    assert!(look.lockup_wei >= need_wei, "{id}: stake was short");
                    let is_up = book.sources()[&bid.task.source].prepared_from.is_some();
                    assert!(is_up, "{id} is bid for while nothing could run it");
                    let waiting = book.open_jobs().filter(|job| is_waiting(&job.stage)).count();
                    assert!(waiting <= rig.max_waiting, "{waiting} wait, {id} is one too many");
                }
                assert!(matches!(job.map(|job| &job.stage), Some(Stage::Bidding { .. })));
            }
            Step::Run { run } => {
                let id = run.input.attempt.bid.task.id;
                let owner = self.runs.entry(run.id).or_insert(id);
                assert_eq!(*owner, id, "{} was handed out before", run.id);
            }
            Step::Respond { receipt } => {
                let id = receipt.outcome.run.input.attempt.bid.task.id;
                assert!(matches!(job.map(|job| &job.stage), Some(Stage::Published { .. })));
                if let Some(seen_at) = self.responded.get(&id) {
                    assert!(book.now() >= seen_at + MISSING_S, "{id} is answered again while its answer stands");
                }
            }
            Step::StopSource { source, .. } => {
                let needs = |stage: &Stage| is_waiting(stage) || matches!(stage, Stage::Running { .. });
                let needing = book.open_jobs().find(|job| job.task().source == *source && needs(&job.stage));
                assert!(needing.is_none(), "{source} is stopped under {needing:#?}");
            }
            Step::Unbond { .. } | Step::Withdraw { .. } | Step::SendHome { .. } => {
                assert!(book.is_going_home(), "{step:?} by a rig that was not removed");
                assert!(book.is_idle(), "{step:?} while work is under way");
                let since = book.enrolment().removed_since.expect("it was removed");
                assert!(book.now() >= since + REMOVAL_GRACE_S, "{step:?} on the word of one reading");
            }
            Step::Claim { .. } => {
                let is_one_of_both = book.is_going_home() || book.phase() == Phase::Paired;
                assert!(is_one_of_both, "{step:?} by a rig that is neither removed nor paired");
            }
            Step::Announce | Step::Describe | Step::Lock { .. } | Step::Register { .. } => {
                assert!(!book.is_going_home(), "{step:?} by a rig that was removed");
            }
            Step::Prepare { .. } | Step::Look { .. } | Step::Fetch { .. } | Step::Publish { .. } => {}
        }
    }

    /// The book, and what the performer has in hand, after a fact.
    pub(crate) fn check_book(&mut self, hand: &BTreeMap<StepKey, Step>, book: &Book) {
        let due = book.outstanding();
        for step in &due {
            let in_hand = hand.get(&step.key());
            let is_in_hand = in_hand.is_some_and(|held| held == step || is_older(held, step));
            assert!(is_in_hand, "it is due and in nobody's hand: {step:#?}, but {in_hand:#?}");
        }
        self.void = hand.iter().filter(|(_, held)| !due.contains(held)).map(|(key, _)| *key).collect();
        self.check_bounds(book);
        if book.rig().is_some() {
            check_wakes(book);
        }
    }

    fn check_bounds(&mut self, book: &Book) {
        let Some(rig) = book.rig() else { return };
        let mut running: BTreeMap<SourceId, usize> = BTreeMap::new();
        for job in book.open_jobs() {
            if matches!(job.stage, Stage::Running { .. }) {
                *running.entry(job.task().source).or_default() += 1;
            }
        }
        assert!(running.values().sum::<usize>() <= rig.max_runs, "too many runs");
        assert!(running.values().all(|runs| *runs <= rig.max_runs_per_source), "too many runs on one source");
        assert!(book.sources().len() <= SOURCES_KEPT && book.jobs().len() - book.open_jobs().count() <= CLOSED_KEPT);
        for (id, job) in book.jobs().iter().filter(|(_, job)| job.moved_at == book.now()) {
            if job.is_closed() {
                self.closed.insert(*id);
            } else if self.closed.remove(id) {
                assert!(self.attempted.contains(id), "{id} was closed and is open again, and no agent attempted it");
            }
        }
    }
}

/// Whatever waits for time has an alarm no later than that.
fn check_wakes(book: &Book) {
    let wakes_at = book.wakes_at().unwrap_or(u64::MAX);
    for job in book.open_jobs() {
        let expires_at = job.task().expires_at;
        let due_at = match &job.stage {
            Stage::Held { until, .. } => (*until).min(expires_at),
            Stage::Responded { .. } => expires_at.saturating_add(RECEIVABLE_S),
            Stage::Published { .. } if job.is_asked => u64::MAX,
            Stage::Published { .. } => job.not_before,
            _ if !job.is_asked && job.not_before > book.now() => job.not_before.min(expires_at),
            _ => expires_at,
        };
        assert!(due_at > book.now(), "its time has come and nothing happened: {job:#?}");
        assert!(wakes_at <= due_at, "no alarm wakes it: {job:#?}");
    }
    for served in book.sources().values().filter(|served| !served.is_asked && served.not_before > book.now()) {
        assert!(wakes_at <= served.not_before, "no alarm wakes it: {served:#?}");
    }
    let enrolment = book.enrolment();
    let is_leaving = book.phase() == Phase::GoingHome;
    let home_at = enrolment.removed_since.filter(|_| is_leaving).map_or(0, |since| since + REMOVAL_GRACE_S);
    let due_at = enrolment.not_before.max(free_at(book)).max(home_at);
    if !enrolment.is_asked && (is_leaving || enrolment.not_before > book.now()) && due_at > book.now() {
        assert!(wakes_at <= due_at, "no alarm wakes enrolment");
    }
}

/// When unbonded stake can be claimed, in Unix seconds; 0 where nothing waits for that.
fn free_at(book: &Book) -> u64 {
    let standing = book.enrolment().standing.as_ref();
    let waiting = standing.filter(|now| !now.unbonding_wei.is_zero());
    waiting.map_or(0, |standing| standing.unbonds_at)
}

/// A source that is updated while it is being prepared is prepared once more after that; one that is taken down while it
/// is being stopped is stopped once more to be forgotten.
fn is_older(held: &Step, due: &Step) -> bool {
    match (held, due) {
        (Step::Prepare { source: held, .. }, Step::Prepare { source: due, .. })
        | (Step::StopSource { source: held, .. }, Step::StopSource { source: due, .. }) => held == due,
        _ => false,
    }
}

fn is_waiting(stage: &Stage) -> bool {
    matches!(stage, Stage::Bidding { .. } | Stage::Attempted { .. } | Stage::Ready { .. })
}

fn by_key(steps: Vec<Step>) -> BTreeMap<StepKey, Step> {
    steps.into_iter().map(|step| (step.key(), step)).collect()
}
