//! How the chain's hints become facts.
//!
//! One loop scans the contracts' logs; what they hint at is read as state, and the readings go to the ledger together
//! with the cursor, so that a crash re-reads and never skips. A slow poll covers what no event announces (`unregister`
//! emits nothing) and what a re-org took back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chain::read::{self, ReadError};
use chain::rpc::Rpc;
use chain::watch::{Cursor, Event, Scan, Watch};
use futures::future::join_all;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use work::policy::Rig;
use work::{News, ProviderId, SourceId, TaskId};

use crate::provider::{Interests, Parcel};

/// Tasks read in one go.
const TASKS_AT_A_TIME: usize = 100;

/// Sources read side by side.
const SOURCES_AT_A_TIME: usize = 8;

/// The newest tasks of a source that are looked at when the rig comes onto its list.
const BACKLOG_MAX: u64 = 100;

/// The intake: the scan, and what it needs to read.
#[derive(Debug)]
pub struct Intake {
    rpc: Rpc,
    me: ProviderId,
    owner: ProviderId,
    watch: Watch,
    desk: mpsc::Sender<Parcel>,
    poll_every: Duration,
    polled: Option<Instant>,
}

/// What one scan hints at.
#[derive(Debug, Default)]
struct Hints {
    me: bool,
    sources: BTreeSet<SourceId>,
    backlogs: BTreeSet<SourceId>,
    tasks: BTreeSet<TaskId>,
    /// Scans overlap, so an order is heard again after it was followed and revoked: only the last word counts.
    last_words: BTreeMap<SourceId, LastWord>,
}

/// What the chain told last of a source and us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastWord {
    /// We were put on its list.
    Listed,
    /// Our owner wants its container removed.
    Removed,
}

/// Which of some tasks are read in full.
#[derive(Clone, Copy, Debug)]
enum Which {
    /// All: they are ours, and their end matters.
    All,
    /// Those that still take attempts: after a long absence most are over.
    Open,
}

/// Why one round brought nothing. The next brings it.
#[derive(Debug, Error)]
enum IntakeError {
    #[error("read the chain")]
    Read(#[from] ReadError),
    #[error("the provider is ending")]
    Ending,
}

// === impl Intake ===

impl Intake {
    /// An intake that scans with `watch`, reads for `rig`'s account, and hands over to `desk`.
    pub fn new(rpc: Rpc, rig: &Rig, watch: Watch, desk: mpsc::Sender<Parcel>, poll_every: Duration) -> Intake {
        Intake { rpc, me: rig.provider, owner: rig.owner, watch, desk, poll_every, polled: None }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let round = async {
                self.poll().await?;
                match self.watch.next().await {
                    Ok(scan) => self.take(scan).await,
                    Err(error) => {
                        warn!(%error, "chain was not scanned");
                        Ok(())
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                done = round => match done {
                    Ok(()) => {}
                    Err(IntakeError::Ending) => return,
                    Err(error @ IntakeError::Read(_)) => {
                        warn!(error = %error, cause = std::error::Error::source(&error).map(tracing::field::display), "round is repeated");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
            }
        }
    }

    /// Turns one scan into facts. The cursor moves only when all of them are durable: until then the scan is repeated.
    async fn take(&mut self, scan: Scan) -> Result<(), IntakeError> {
        debug!(from = scan.from, to = scan.to, events = scan.events.len(), "blocks scanned");
        let hints = Hints::of(&scan.events, self.me, &self.interests().await?);
        loop {
            match self.take_hints(&hints, &scan).await {
                Err(IntakeError::Read(error)) => {
                    warn!(%error, "readings of a scan are repeated");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                done => return done,
            }
        }
    }

    async fn take_hints(&mut self, hints: &Hints, scan: &Scan) -> Result<(), IntakeError> {
        let mut news: Vec<News> = Vec::new();
        if hints.me {
            news.push(News::Stood { standing: read::standing(&self.rpc, self.me, self.owner).await? });
        }
        news.extend(hints.last_words.iter().map(|(source, word)| match word {
            LastWord::Removed => News::SourceRemoved { source: *source },
            LastWord::Listed => News::SourceListed { source: *source },
        }));
        news.extend(self.read_sources(&hints.sources).await?);
        self.hand_over(news, None).await?;
        // Which tasks matter depends on the sources just read.
        let known = self.interests().await?.sources;
        let mut published: BTreeSet<TaskId> = BTreeSet::new();
        published.extend(scan.events.iter().filter_map(|event| match event {
            Event::TaskPublished { task, source } if known.contains(source) => Some(*task),
            _ => None,
        }));
        for source in &hints.backlogs {
            published.extend(read::newest_tasks(&self.rpc, *source, BACKLOG_MAX).await?);
        }
        published.retain(|task| !hints.tasks.contains(task));
        let mut news = self.read_tasks(&hints.tasks, Which::All).await?;
        news.extend(self.read_tasks(&published, Which::Open).await?);
        self.hand_over(news, Some(scan.cursor)).await
    }

    /// Reads what no event announces.
    async fn poll(&mut self) -> Result<(), IntakeError> {
        if self.polled.is_some_and(|at| at.elapsed() < self.poll_every) {
            return Ok(());
        }
        let interests = self.interests().await?;
        let mut sources = interests.sources.clone();
        sources.extend(&interests.wanted);
        if self.polled.is_none() && interests.wants_any {
            sources.extend(read::all_sources(&self.rpc).await?);
        }
        let mut news = vec![News::Stood { standing: read::standing(&self.rpc, self.me, self.owner).await? }];
        news.extend(self.read_sources(&sources).await?);
        news.extend(self.read_tasks(&interests.watched, Which::All).await?);
        self.hand_over(news, None).await?;
        self.polled = Some(Instant::now());
        Ok(())
    }

    /// Reads sources. One that no release of ours can read is left out, loudly; an endpoint that does not answer is not.
    async fn read_sources(&self, sources: &BTreeSet<SourceId>) -> Result<Vec<News>, IntakeError> {
        let all: Vec<SourceId> = sources.iter().copied().collect();
        let mut news = Vec::with_capacity(all.len());
        for some in all.chunks(SOURCES_AT_A_TIME) {
            let readings = join_all(some.iter().map(|source| read::source(&self.rpc, self.me, *source))).await;
            for reading in readings {
                news.extend(legible(reading)?.map(|reading| News::SourceRead { reading: Box::new(reading) }));
            }
        }
        Ok(news)
    }

    /// Reads tasks. One that no release of ours can read is left out, loudly; an endpoint that does not answer is not.
    async fn read_tasks(&self, tasks: &BTreeSet<TaskId>, which: Which) -> Result<Vec<News>, IntakeError> {
        let all: Vec<TaskId> = tasks.iter().copied().collect();
        let mut news = Vec::with_capacity(all.len());
        for some in all.chunks(TASKS_AT_A_TIME) {
            let readings = match which {
                Which::All => read::tasks(&self.rpc, self.me, some).await?,
                Which::Open => read::open_tasks(&self.rpc, self.me, some).await?,
            };
            for reading in readings {
                news.extend(legible(reading)?.map(|reading| News::TaskRead { reading: Box::new(reading) }));
            }
        }
        Ok(news)
    }

    async fn interests(&self) -> Result<Interests, IntakeError> {
        let (send, receive) = oneshot::channel();
        self.desk.send(Parcel::Interests(send)).await.map_err(|_| IntakeError::Ending)?;
        receive.await.map_err(|_| IntakeError::Ending)
    }

    /// Hands readings over, and returns when they are durable.
    async fn hand_over(&self, news: Vec<News>, cursor: Option<Cursor>) -> Result<(), IntakeError> {
        if news.is_empty() && cursor.is_none() {
            return Ok(());
        }
        let (done, durable) = oneshot::channel();
        let parcel = Parcel::Seen { news, cursor, done };
        self.desk.send(parcel).await.map_err(|_| IntakeError::Ending)?;
        durable.await.map_err(|_| IntakeError::Ending)
    }
}

/// A reading, if there is one that this release understands. One contract that it does not must not stall the rest.
#[expect(clippy::result_large_err, reason = "the reader's own error only passes through")]
fn legible<T>(reading: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match reading {
        Ok(reading) => Ok(Some(reading)),
        Err(error @ (ReadError::NoAnswer { .. } | ReadError::NoBlock { .. })) => Err(error),
        Err(error) => {
            warn!(%error, "a contract cannot be read");
            Ok(None)
        }
    }
}

// === impl Hints ===

impl Hints {
    fn of(events: &[Event], me: ProviderId, interests: &Interests) -> Hints {
        let mut hints = Hints::default();
        for event in events {
            match *event {
                Event::SourcePublished { source } if interests.wants_any || interests.wanted.contains(&source) => {
                    hints.sources.insert(source);
                }
                Event::SourceUpdated { source } | Event::SourceStatusChanged { source, .. }
                    if interests.sources.contains(&source) || interests.wanted.contains(&source) =>
                {
                    hints.sources.insert(source);
                }
                Event::Registered { provider, source } if provider == me => {
                    hints.sources.insert(source);
                    hints.backlogs.insert(source);
                    hints.last_words.insert(source, LastWord::Listed);
                }
                Event::RemoveContainer { provider, source } if provider == me => {
                    hints.last_words.insert(source, LastWord::Removed);
                }
                Event::Attempted { task, provider } if provider == me => {
                    hints.tasks.insert(task);
                }
                Event::TaskStatusChanged { task, .. } if interests.watched.contains(&task) => {
                    hints.tasks.insert(task);
                }
                Event::ProviderAnnounced { provider, .. }
                | Event::MasterAnnounced { provider, .. }
                | Event::ProviderRemoved { provider }
                | Event::VaultMoved { account: provider }
                    if provider == me =>
                {
                    hints.me = true;
                }
                _ => {}
            }
        }
        hints
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;

    use super::*;

    #[test]
    fn the_last_word_on_a_source_counts_however_often_an_earlier_one_is_heard() {
        let (provider, source) = (ProviderId(Address::repeat_byte(1)), SourceId(Address::repeat_byte(2)));
        let (listed, removed) = (Event::Registered { provider, source }, Event::RemoveContainer { provider, source });
        let last =
            |events: &[Event]| Hints::of(events, provider, &Interests::default()).last_words.get(&source).copied();
        assert_eq!(last(&[listed, removed]), Some(LastWord::Removed));
        assert_eq!(last(&[listed, removed, listed]), Some(LastWord::Listed));
        assert_eq!(last(&[removed]), Some(LastWord::Removed));
        let other = ProviderId(Address::repeat_byte(3));
        assert_eq!(last(&[Event::RemoveContainer { provider: other, source }]), None);
    }
}
