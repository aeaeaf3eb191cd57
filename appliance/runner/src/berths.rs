//! What a jail begins with: its number, its network namespace, its cgroup, and a child of the spawner in both, which
//! waits to be told what to become. One is made in advance, because making it is a quarter of a start.
//!
//! Invariants: a berth is used once; at most one waits; it is made while nobody starts anything, so that no start
//! waits for the next one's berth.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cgroup::{Cgroup, CgroupError, Cgroups};
use crate::link::{Link, LinkError};
use crate::network::{self, NetworkError};
use crate::orders::{Order, Ticket};

/// How long nothing may have been started before the next berth is made: twice what a start takes.
const QUIET: Duration = Duration::from_millis(5);

/// Where one run will be.
#[derive(Debug)]
pub(crate) struct Berth {
    /// The number of the run.
    pub(crate) number: Ticket,
    /// Leads nowhere yet.
    pub(crate) netns: OwnedFd,
    /// Without limits yet; `None` on a machine without cgroups.
    pub(crate) cgroup: Option<Cgroup>,
}

/// Gives berths out.
#[derive(Debug)]
pub(crate) struct Berths {
    link: Arc<Link>,
    cgroups: Option<Cgroups>,
    spare: Mutex<Option<Berth>>,
    taken: SyncSender<()>,
}

/// A berth that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BerthError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("have a child made in advance")]
    Link(#[source] LinkError),
}

// === impl Berths ===

impl Berths {
    /// Makes the first berth, and begins to make one whenever there is none. `cgroups`: `None` on a machine without.
    pub(crate) fn start(link: Arc<Link>, cgroups: Option<Cgroups>) -> Result<Arc<Self>, BerthError> {
        // One word is enough: more of them would mean the same.
        let (taken, word) = sync_channel(1);
        let berths = Arc::new(Self { link, cgroups, spare: Mutex::default(), taken });
        berths.refill()?;
        let refilling = berths.clone();
        let thread = std::thread::Builder::new().name("berths".to_owned());
        // Without it each start makes its own berth, which is slower and nothing else.
        if let Err(error) = thread.spawn(move || refilling.keep_one(&word)) {
            tracing::warn!(%error, "no berth is made in advance");
        }
        Ok(berths)
    }

    /// Whether jails have cgroups.
    pub(crate) fn has_cgroups(&self) -> bool {
        self.cgroups.is_some()
    }

    /// The one that waits, or a new one without a child, which the spawner then makes when it is told what of.
    pub(crate) fn take(&self) -> Result<Berth, BerthError> {
        let waiting = self.spare().take();
        // Full: it has been told already.
        let _ = self.taken.try_send(());
        waiting.map_or_else(|| self.make(), Ok)
    }

    /// Ends the child that waits, and with it the berth.
    pub(crate) fn clear(&self) {
        drop(self.spare().take());
    }

    fn make(&self) -> Result<Berth, BerthError> {
        let number = self.link.ticket();
        let cgroup = self.cgroups.as_ref().map(|cgroups| cgroups.begin(number.0)).transpose()?;
        Ok(Berth { number, netns: network::isolated()?, cgroup })
    }

    fn refill(&self) -> Result<(), BerthError> {
        let berth = self.make()?;
        let mut fds = vec![berth.netns.as_fd()];
        fds.extend(berth.cgroup.as_ref().map(Cgroup::fd));
        self.link.tell(&Order::Prepare { ticket: berth.number }, &fds).map_err(BerthError::Link)?;
        *self.spare() = Some(berth);
        Ok(())
    }

    fn keep_one(&self, word: &Receiver<()>) {
        while word.recv().is_ok() {
            // Each start begins the quiet anew.
            while word.recv_timeout(QUIET) == Ok(()) {}
            if self.spare().is_some() {
                continue;
            }
            if let Err(error) = self.refill() {
                // The next start makes its own, and is told what is wrong.
                tracing::warn!(error = &error as &dyn std::error::Error, "no berth is made in advance");
            }
        }
    }

    fn spare(&self) -> MutexGuard<'_, Option<Berth>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
