//! A small world around one book: a chain, containers, a performer that may fail, and a ledger to start again from.
//!
//! The contract that the performer keeps, and the book may count on: a step handed out replaces an older one of the
//! same name; of a replaced step, or one from before a start, no `Fell` is reported; every step in hand ends at last.

pub(crate) mod chain;
mod check;
pub(crate) mod dice;
mod mishaps;
mod performer;

use std::collections::{BTreeMap, BTreeSet};

use work::book::{Closing, Stage};
use work::enrolment::{Phase, Standing};
use work::policy::{Rig, Sources};
use work::source::{Environment, Environments, SourceReading};
use work::task::{Delivery, Task};
use work::{Book, Fact, News, SourceId, Step, StepKey, TaskId, Wei};

use self::chain::{Chain, ME, OWNER, address, cents};
use self::check::Witness;
use self::dice::Dice;
pub(crate) use self::performer::Luck;

/// Unix seconds at which every world begins.
pub(crate) const BEGAN_AT: u64 = 1_800_000_000;

/// Rounds after which a world that does not come to rest is called stuck.
const ROUNDS_MAX: usize = 2_000;

/// Seconds between two polls of the tasks that the book watches.
const POLL_S: u64 = 15;

/// One rig and all that it can meet.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) rig: Rig,
    pub(crate) book: Book,
    pub(crate) ledger: Vec<Fact>,
    pub(crate) chain: Chain,
    /// True Unix seconds.
    pub(crate) now: u64,
    /// How far the rig's clock is ahead, in seconds.
    pub(crate) ahead_s: u64,
    /// Containers that are up, and the `updated_at` that each was made from. They outlive the provider.
    pub(crate) up: BTreeMap<SourceId, u64>,
    /// Sources that keep something here. It outlives their containers and the machine's power.
    pub(crate) volumes: BTreeSet<SourceId>,
    /// Steps that the performer has in hand.
    pub(crate) hand: BTreeMap<StepKey, Step>,
    /// The provider dies after so many facts.
    pub(crate) crash_after: Option<usize>,
    /// Whether a start reads a snapshot back instead of folding the ledger.
    pub(crate) keeps_snapshots: bool,
    /// Whether the machine dies with the provider, and all containers with it.
    pub(crate) loses_power: bool,
    /// Whether its owner removed it for good.
    pub(crate) stays_away: bool,
    /// How often a source was laid to rest.
    pub(crate) rests: u64,
    witness: Witness,
}

/// Settings that take any task.
pub(crate) fn willing_rig() -> Rig {
    Rig {
        provider: ME,
        owner: OWNER,
        base_data_cid: "base-data".into(),
        environments: [Environment::Cpu, Environment::Nvidia].into_iter().collect(),
        sources: Sources::Any,
        attempts_itself: true,
        max_runs: 2,
        max_runs_per_source: 1,
        max_waiting: 2,
        min_payment_wei: Wei::ZERO,
        min_profit_wei: Wei::ZERO,
        ask_percent: 80,
        max_rivals: 1,
        expected_run_s: 20,
        respond_margin_s: 10,
    }
}

/// A provider that lacks nothing.
pub(crate) fn good_standing() -> Standing {
    Standing {
        gas_wei: cents(100),
        vault_wei: Wei::ZERO,
        lockup_wei: cents(100),
        master: Some(OWNER),
        is_announced: true,
        base_data_url: "https://gateway.invalid/ipfs/base-data".into(),
        unbonding_wei: Wei::ZERO,
        unbonds_at: 0,
        is_newest: false,
    }
}

/// A provider that nobody has paid for yet.
pub(crate) fn empty_standing() -> Standing {
    Standing {
        gas_wei: Wei::ZERO,
        vault_wei: Wei::ZERO,
        lockup_wei: Wei::ZERO,
        master: None,
        is_announced: false,
        base_data_url: String::new(),
        unbonding_wei: Wei::ZERO,
        unbonds_at: 0,
        is_newest: false,
    }
}

pub(crate) fn source_id(number: u64) -> SourceId {
    SourceId(address(0x55, number))
}

pub(crate) fn task_id(number: u64) -> TaskId {
    TaskId(address(0x66, number))
}

/// A source that any rig of these tests can serve.
pub(crate) fn source_reading(number: u64, delivery: Delivery) -> SourceReading {
    SourceReading {
        id: source_id(number),
        client: chain::RIVAL,
        is_active: true,
        metadata_url: format!("ipfs://metadata-{number}"),
        environments: Environments(1),
        min_payment_wei: cents(1),
        min_lockup_wei: cents(10),
        max_expiry_s: 3_600,
        delivery,
        updated_at: BEGAN_AT - 1_000,
        is_registered: false,
    }
}

// === impl World ===

impl World {
    pub(crate) fn new(seed: u64, rig: Rig, standing: Standing) -> World {
        World {
            dice: Dice::new(seed),
            rig,
            book: Book::default(),
            ledger: Vec::new(),
            chain: Chain::new(standing),
            now: BEGAN_AT,
            ahead_s: 0,
            up: BTreeMap::new(),
            volumes: BTreeSet::new(),
            hand: BTreeMap::new(),
            crash_after: None,
            keeps_snapshots: false,
            loses_power: false,
            stays_away: false,
            rests: 0,
            witness: Witness::default(),
        }
    }

    pub(crate) fn add_source(&mut self, number: u64, delivery: Delivery) {
        self.chain.sources.insert(source_id(number), source_reading(number, delivery));
    }

    /// The terms of task `number`, published now and good for `life_s` seconds.
    pub(crate) fn terms(&self, number: u64, source: u64, life_s: u64) -> Task {
        let source = source_id(source);
        Task {
            id: task_id(number),
            source,
            config_url: format!("ipfs://config-{number}"),
            expires_at: self.now + life_s,
            payment_wei: cents(50),
            delivery: self.chain.sources[&source].delivery,
        }
    }

    /// A client publishes, and the rig hears of it.
    pub(crate) fn publish(&mut self, task: Task) {
        let id = task.id;
        self.chain.publish(task);
        self.read_task(id);
    }

    /// The provider starts for the first time and reads what there is.
    pub(crate) fn begin(&mut self) {
        self.tell(News::Began { rig: Box::new(self.rig.clone()) });
        self.read_standing();
        let sources: Vec<SourceId> = self.chain.sources.keys().copied().collect();
        for source in sources {
            self.read_source(source);
        }
    }

    /// One fact: into the ledger, into the book, and every claim is checked.
    pub(crate) fn tell(&mut self, news: News) {
        let fact = Fact { at: self.now + self.ahead_s, news };
        self.ledger.push(fact.clone());
        match &fact.news {
            News::Began { .. } => self.hand.clear(),
            News::Fell { step, .. } => {
                self.hand.remove(step);
            }
            _ => {}
        }
        let will_rest = matches!(fact.news, News::MemoryShort) && self.book.next_to_rest().is_some();
        self.rests += u64::from(will_rest);
        let steps = self.book.enter(fact.clone());
        self.witness.check_steps(&fact, &steps, &self.hand, &self.book);
        for step in &steps {
            self.hand.insert(step.key(), step.clone());
        }
        self.witness.check_book(&self.hand, &self.book);
        self.witness.keep(steps);
        if self.crash_after == Some(self.ledger.len()) {
            self.crash_after = None;
            self.crash();
        }
    }

    /// The provider dies with all that it had in hand, and starts again from what is on disk.
    pub(crate) fn crash(&mut self) {
        let folded = self.check_replay();
        if self.loses_power {
            self.up.clear();
        }
        self.book = if self.keeps_snapshots {
            let bytes = serde_json::to_vec(&self.book).expect("a book can be written");
            let mut back: Book = serde_json::from_slice(&bytes).expect("a book can be read back");
            back.reindex();
            assert_eq!(back, folded, "a snapshot read back is not the book");
            back
        } else {
            folded
        };
        self.tell(News::Began { rig: Box::new(self.rig.clone()) });
    }

    /// Folds the ledger from its first fact and compares: book and steps.
    pub(crate) fn check_replay(&self) -> Book {
        let mut folded = Book::default();
        for (fact, steps) in self.ledger.iter().zip(self.witness.kept()) {
            assert_eq!(&folded.enter(fact.clone()), steps, "a replay hands out other steps after {fact:?}");
        }
        assert_eq!(folded, self.book, "a replay gives another book");
        folded
    }

    /// How many responses were sent for a task.
    pub(crate) fn submissions(&self, task: TaskId) -> u32 {
        self.witness.submissions(task)
    }

    pub(crate) fn read_task(&mut self, id: TaskId) {
        let reading = Box::new(self.chain.reading(id, self.now));
        self.tell(News::TaskRead { reading });
    }

    pub(crate) fn read_source(&mut self, id: SourceId) {
        let reading = Box::new(self.chain.sources[&id].clone());
        self.tell(News::SourceRead { reading });
    }

    pub(crate) fn read_standing(&mut self) {
        let standing = self.chain.standing.clone();
        self.tell(News::Stood { standing });
    }

    /// From now on nothing fails and time goes on, until nothing is left to do but wait for clients.
    pub(crate) fn calm_down(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let facts_before = self.ledger.len();
            let keys: Vec<StepKey> = self.hand.keys().copied().collect();
            for key in keys {
                self.perform(key, Luck::Good);
            }
            self.read_news();
            if self.ledger.len() > facts_before {
                continue;
            }
            if self.is_at_rest() {
                return;
            }
            self.let_time_pass();
        }
        panic!("the world does not come to rest: {:#?}", self.book);
    }

    /// Reads what the chain shows otherwise than the book holds it.
    fn read_news(&mut self) {
        if self.book.enrolment().standing.as_ref() != Some(&self.chain.standing) {
            self.read_standing();
        }
        let sources: Vec<SourceId> = self.chain.sources.keys().copied().collect();
        for id in sources {
            if self.book.sources().get(&id).map(|served| &served.reading) != Some(&self.chain.sources[&id]) {
                self.read_source(id);
            }
        }
        let tasks: Vec<TaskId> = self.chain.tasks.keys().copied().collect();
        for id in tasks {
            if self.book.jobs().get(&id).map(|job| &job.reading) != Some(&self.chain.reading(id, self.now)) {
                self.read_task(id);
            }
        }
    }

    /// To the next moment that something waits for, or to the next poll.
    fn let_time_pass(&mut self) {
        let poll_at = self.now + POLL_S;
        let due_at = self.book.wakes_at().map_or(poll_at, |at| at.saturating_sub(self.ahead_s));
        self.now = due_at.clamp(self.now + 1, poll_at);
        self.tell(News::Ticked);
        let watched: Vec<TaskId> = self.book.watched().collect();
        for task in watched {
            self.read_task(task);
        }
    }

    /// Whether every task is closed, or answered with only its client to wait for.
    fn is_at_rest(&self) -> bool {
        let is_done =
            |stage: &Stage| matches!(stage, Stage::Closed { .. } | Stage::Responded { missing_since: None, .. });
        self.hand.is_empty()
            && self.book.outstanding().is_empty()
            && self.book.phase() != Phase::GoingHome
            && self.book.sources().values().all(|served| served.not_before <= self.book.now())
            && self
                .book
                .jobs()
                .iter()
                .all(|(id, job)| is_done(&job.stage) && (job.is_closed() || self.chain.tasks[id].ending.is_none()))
    }

    /// What each task came to: who was paid, and what the book says of it.
    pub(crate) fn ends(&self) -> BTreeMap<TaskId, String> {
        self.book
            .jobs()
            .iter()
            .map(|(id, job)| {
                let words = match &job.stage {
                    Stage::Closed { closing: Closing::Settled { settlement } } => {
                        format!("settled for {}", settlement.paid_wei)
                    }
                    Stage::Closed { closing: Closing::Refused { .. } } => "refused".into(),
                    Stage::Closed { closing: Closing::Failed { why } } => format!("failed: {why}"),
                    Stage::Closed { closing: Closing::Lost { why } } => format!("lost: {why}"),
                    Stage::Closed { closing: Closing::Unpaid { why, .. } } => format!("unpaid: {why}"),
                    open => format!("open: {open:?}"),
                };
                (*id, words)
            })
            .collect()
    }

    /// The book and the chain agree on who was paid what.
    pub(crate) fn check_payments(&self) {
        for (id, task) in &self.chain.tasks {
            let job = self.book.jobs().get(id);
            let settled = job.and_then(|job| match &job.stage {
                Stage::Closed { closing: Closing::Settled { settlement } } => Some(settlement.paid_wei),
                _ => None,
            });
            let paid = match (task.ending, task.mine) {
                (Some((_, Some(winner), _)), Some((payment_wei, _))) if winner == ME => Some(payment_wei),
                _ => None,
            };
            assert_eq!(settled, paid, "{id}: the chain paid {paid:?}, the book holds {job:#?}");
        }
    }
}
