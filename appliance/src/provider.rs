//! The loop: what comes in is appended to the ledger, folded into the book, and the steps that follow are performed.
//!
//! One task owns the ledger and the book; everyone else sends it parcels. Invariants:
//! - A fact is on disk before its steps begin. Facts that wait together are appended together.
//! - A reading that says nothing new is no fact: the ledger does not grow while nothing happens.
//! - Two steps with one key are never in hand together; a step whose task is closed is dropped.
//! - What a task brought into the store is removed when its result is published, or it closed: after the fact of it is
//!   on disk, and again at a start, for what a crash left.
//! - The ledger is folded into a snapshot while the loop runs, so that it stays small however long that is.
//! - A drain lets what was begun finish, up to a bound; what is unfinished then is taken up by the next start.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chain::rpc::Rpc;
use chain::watch::Cursor;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use work::book::{Job, Stage};
use work::policy::{Rig, Sources};
use work::source::SourceStage;
use work::step::{StepKey, Trouble};
use work::{Book, Fact, News, SourceId, Step, TaskId};

use crate::board::Board;
use crate::ledger::{FACTS_KEPT, Ledger, LedgerError};
use crate::perform::Perform;
use crate::status::{self, Question};
use crate::store::{Store, StoreError};
use crate::{chain_of, unix_now};

/// Parcels that may wait. A full desk makes senders wait, which is right: they all can.
pub const DESK_MAX: usize = 256;

/// Parcels that are appended to the ledger together.
const TOGETHER_MAX: usize = 128;

/// How long a cursor may wait to be written when there is nothing else to write. A stick wears: a write for every block
/// of one second would be a gigabyte a day.
const CURSOR_EVERY: Duration = Duration::from_secs(300);

/// What can be sent to the loop.
#[derive(Debug)]
pub enum Parcel {
    /// What came of something that was begun: always a fact.
    Outcome(News),
    /// Readings of the chain: facts as far as they say something new.
    Seen {
        /// The readings.
        news: Vec<News>,
        /// How far the chain is scanned with them.
        cursor: Option<Cursor>,
        /// Told when all is durable.
        done: oneshot::Sender<()>,
    },
    /// What is worth reading?
    Interests(oneshot::Sender<Interests>),
    /// A question of a person.
    Asked(Question, oneshot::Sender<serde_json::Value>),
}

/// What the rig cares about on chain.
#[derive(Clone, Debug, Default)]
pub struct Interests {
    /// Whether any new source is worth reading.
    pub wants_any: bool,
    /// Sources that the settings name.
    pub wanted: BTreeSet<SourceId>,
    /// Sources that are served, or about to be.
    pub sources: BTreeSet<SourceId>,
    /// Tasks whose state may change silently.
    pub watched: BTreeSet<TaskId>,
}

/// Why the loop ended.
#[derive(Debug, Error)]
pub enum ProviderError {
    /// The ledger cannot be written: nothing may be done any more.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store cannot be cleared of what is over.
    #[error("clear the content store")]
    Store(#[from] StoreError),
}

/// The loop's own state.
#[derive(Debug)]
pub struct Provider<P> {
    ledger: Ledger,
    /// Facts appended since the ledger was last folded.
    unfolded: u64,
    book: Book,
    performer: Arc<P>,
    store: Arc<Store>,
    /// Tasks that may have something in the store.
    stored: BTreeSet<TaskId>,
    board: Arc<Board>,
    rpc: Rpc,
    desk: mpsc::Receiver<Parcel>,
    in_hand: HashMap<StepKey, AbortHandle>,
    keys: HashMap<Id, StepKey>,
    work: JoinSet<News>,
    /// How far the chain is scanned, if that is not on disk yet.
    cursor: Option<Cursor>,
    /// When the ledger was last written.
    cursor_kept: Instant,
}

// === impl Provider ===

impl<P: Perform> Provider<P> {
    /// Replays the ledger, and clears `store` of what no task needs any more. `desk` is where parcels arrive; `board` is
    /// shown to whoever asks.
    /// Errors: the ledger cannot be read, the store cannot be cleared.
    pub fn open(
        mut ledger: Ledger,
        performer: Arc<P>,
        store: Arc<Store>,
        board: Arc<Board>,
        rpc: Rpc,
        desk: mpsc::Receiver<Parcel>,
    ) -> Result<Provider<P>, ProviderError> {
        let book = ledger.replay()?;
        ledger.compact(&book)?;
        let stored: BTreeSet<TaskId> = book.open_jobs().filter(|job| needs_store(job)).map(|j| j.task().id).collect();
        store.keep_only(|task| stored.contains(&task))?;
        info!(tasks = book.jobs().len(), sources = book.sources().len(), "ledger is replayed");
        Ok(Provider {
            unfolded: ledger.facts()?,
            ledger,
            book,
            performer,
            store,
            stored,
            board,
            rpc,
            desk,
            in_hand: HashMap::new(),
            keys: HashMap::new(),
            work: JoinSet::new(),
            cursor: None,
            cursor_kept: Instant::now(),
        })
    }

    /// Runs with these settings until `stop`, then drains for at most `grace`.
    /// Errors: the ledger cannot be written.
    pub async fn run(mut self, rig: Rig, stop: CancellationToken, grace: Duration) -> Result<(), ProviderError> {
        self.enter(vec![News::Began { rig: Box::new(rig) }], None)?;
        let mut drain_ends = None;
        let mut is_open = true;
        loop {
            if self.book.is_draining() && self.book.is_idle() {
                info!("drained");
                return self.close();
            }
            let wake = self.book.wakes_at().map(|at| Duration::from_secs(at.saturating_sub(unix_now())));
            let wake = wake.map_or(Duration::from_secs(3600), |wait| wait.max(Duration::from_millis(50)));
            let mut parcels = Vec::new();
            tokio::select! {
                count = self.desk.recv_many(&mut parcels, TOGETHER_MAX), if is_open => {
                    is_open = count > 0;
                    self.take(parcels)?;
                }
                Some(done) = self.work.join_next_with_id(), if !self.work.is_empty() => self.conclude(done)?,
                () = tokio::time::sleep(wake) => self.enter(vec![News::Ticked], None)?,
                () = stop.cancelled(), if drain_ends.is_none() => {
                    drain_ends = Some(tokio::time::Instant::now() + grace);
                    info!(grace_s = grace.as_secs(), "draining");
                    self.enter(vec![News::DrainAsked], None)?;
                }
                () = at(drain_ends), if drain_ends.is_some() => {
                    info!(open = self.book.open_jobs().count(), "drain ends with work unfinished; the next start takes it up");
                    return self.close();
                }
            }
        }
    }

    /// Takes what waited together: one append for all of it.
    fn take(&mut self, parcels: Vec<Parcel>) -> Result<(), ProviderError> {
        let mut facts = Vec::new();
        let mut newest = None;
        let mut durable = Vec::new();
        let mut asked = Vec::new();
        for parcel in parcels {
            match parcel {
                Parcel::Outcome(news) => facts.push(news),
                Parcel::Seen { news, cursor, done } => {
                    facts.extend(news.into_iter().filter(|news| self.is_new(news)));
                    newest = cursor.or(newest);
                    durable.push(done);
                }
                parcel @ (Parcel::Interests(_) | Parcel::Asked(..)) => asked.push(parcel),
            }
        }
        self.enter(facts, newest)?;
        for done in durable {
            let _ = done.send(());
        }
        for parcel in asked {
            match parcel {
                Parcel::Interests(reply) => drop(reply.send(self.interests())),
                Parcel::Asked(question, reply) => {
                    drop(reply.send(status::answer(&question, &self.book, &self.board, &self.rpc, unix_now())));
                }
                Parcel::Outcome(_) | Parcel::Seen { .. } => {}
            }
        }
        Ok(())
    }

    /// Whether a reading says something that the book does not hold.
    fn is_new(&self, news: &News) -> bool {
        match news {
            News::Stood { standing } => self.book.enrolment().standing.as_ref() != Some(standing),
            News::SourceRead { reading } => {
                self.book.sources().get(&reading.id).is_none_or(|served| served.reading != **reading)
            }
            News::TaskRead { reading } => self.book.jobs().get(&reading.task.id).is_none_or(|job| {
                let is_missing = matches!(job.stage, Stage::Responded { .. }) && reading.my_response.is_none();
                is_missing || job.reading != **reading
            }),
            News::MemoryShort => self.book.next_to_rest().is_some(),
            News::SourceListed { source } => self.book.sources().get(source).is_some_and(|served| served.is_removed),
            News::SourceRemoved { source } => self.book.sources().get(source).is_some_and(|served| !served.is_removed),
            _ => true,
        }
    }

    /// Appends, folds, and begins what follows. A cursor that nothing was found before waits for the next fact, or for
    /// [`CURSOR_EVERY`]: blocks without news are scanned again after a crash, which costs less than a write for each.
    fn enter(&mut self, news: Vec<News>, cursor: Option<Cursor>) -> Result<(), ProviderError> {
        let at = unix_now().max(self.book.now());
        let facts: Vec<Fact> = news.into_iter().map(|news| Fact { at, news }).collect();
        self.cursor = cursor.or(self.cursor);
        let is_due = self.cursor.is_some() && self.cursor_kept.elapsed() >= CURSOR_EVERY;
        if facts.is_empty() && !is_due {
            return Ok(());
        }
        let cursor = self.cursor.take();
        tokio::task::block_in_place(|| self.ledger.append(&facts, cursor.as_ref()))?;
        self.cursor_kept = Instant::now();
        self.unfolded += facts.len() as u64;
        for fact in facts {
            let steps = self.book.enter(fact);
            for step in steps {
                self.begin(step);
            }
        }
        self.drop_closed();
        self.clear_stored();
        if self.unfolded > FACTS_KEPT {
            tokio::task::block_in_place(|| self.ledger.compact(&self.book))?;
            self.unfolded = 0;
        }
        Ok(())
    }

    /// Notes how far the chain is scanned, so that the next start begins there.
    fn close(&mut self) -> Result<(), ProviderError> {
        let cursor = self.cursor.take();
        Ok(tokio::task::block_in_place(|| self.ledger.append(&[], cursor.as_ref()))?)
    }

    fn begin(&mut self, step: Step) {
        let key = step.key();
        if let Step::Fetch { attempt } = &step {
            self.stored.insert(attempt.bid.task.id);
        }
        let performer = self.performer.clone();
        let handle = self.work.spawn(async move { performer.perform(step).await });
        self.keys.insert(handle.id(), key);
        if let Some(before) = self.in_hand.insert(key, handle) {
            before.abort();
        }
    }

    /// A step has ended, well or in a panic, or was dropped.
    fn conclude(&mut self, done: Result<(Id, News), tokio::task::JoinError>) -> Result<(), ProviderError> {
        let (id, outcome) = match done {
            Ok((id, news)) => (id, Some(news)),
            Err(broken) if broken.is_cancelled() => (broken.id(), None),
            Err(broken) => {
                error!(error = %broken, "a step panicked");
                let fell = self.keys.get(&broken.id()).map(|step| News::Fell {
                    step: *step,
                    trouble: Trouble::lasting("the rig's own software failed here; its journal says more"),
                });
                (broken.id(), fell)
            }
        };
        let key = self.keys.remove(&id);
        let is_current = key.is_some_and(|key| self.in_hand.get(&key).is_some_and(|handle| handle.id() == id));
        if is_current && let Some(key) = key {
            self.in_hand.remove(&key);
        }
        match outcome {
            // The chain moved the task on while this step was in hand; that it fell through says nothing any more.
            Some(News::Fell { .. }) if !is_current => Ok(()),
            Some(news) => self.enter(vec![news], None),
            None => Ok(()),
        }
    }

    /// Drops what is in hand for tasks that need nothing more.
    fn drop_closed(&mut self) {
        let book = &self.book;
        self.in_hand.retain(|key, handle| {
            let is_closed = key.task().and_then(|task| book.jobs().get(&task)).is_some_and(Job::is_closed);
            if is_closed {
                handle.abort();
            }
            !is_closed
        });
    }

    /// Removes from the store what the book needs no more. What cannot be removed now is tried again at the next start.
    fn clear_stored(&mut self) {
        let (book, store) = (&self.book, &self.store);
        self.stored.retain(|task| {
            let is_needed = book.jobs().get(task).is_some_and(needs_store);
            if !is_needed && let Err(error) = tokio::task::block_in_place(|| store.clear(*task)) {
                warn!(%task, error = chain_of(&error), "store was not cleared of a task");
            }
            is_needed
        });
    }

    fn interests(&self) -> Interests {
        let (wants_any, wanted) = match self.book.rig().map(|rig| &rig.sources) {
            Some(Sources::Any) => (true, BTreeSet::new()),
            Some(Sources::Listed(those)) => (false, those.clone()),
            None => (false, BTreeSet::new()),
        };
        let served = self.book.sources().iter();
        let is_served = |stage: &SourceStage| !matches!(stage, SourceStage::Refused { .. });
        let sources = served.filter(|(_, served)| is_served(&served.stage)).map(|(id, _)| *id).collect();
        Interests { wants_any, wanted, sources, watched: self.book.watched().collect() }
    }
}

/// Whether something that the task brought into the store is still to be read.
fn needs_store(job: &Job) -> bool {
    match job.stage {
        Stage::Attempted { .. } | Stage::Ready { .. } | Stage::Running { .. } | Stage::Ended { .. } => true,
        Stage::Looking
        | Stage::Held { .. }
        | Stage::Bidding { .. }
        | Stage::Published { .. }
        | Stage::Responded { .. }
        | Stage::Closed { .. } => false,
    }
}

async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
