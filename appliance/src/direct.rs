//! Direct CUDA, the provider's half: sources that are kernel bundles.
//!
//! A bundle is fetched, parsed and held against the machine's GPUs once ([`Direct::start`]); a task's JSON is bound to raw
//! bytes, the runner is asked to launch, and raw bytes become the response ([`Direct::run`]). No line of a stranger's code
//! runs in this process: it reads archives and JSON, and the crate `bundle` does that.
//!
//! Invariants:
//! - Whatever a bundle or a task brings is bounded before it is fetched or made: the archive, each input by its planned
//!   size, inputs and outputs together by [`JOB_BYTES_MAX`](runner::protocol::JOB_BYTES_MAX).
//! - The runner is given only sealed memory, so what was checked is what runs.
//! - A launch gets the machine code of the GPU that takes it: where GPUs differ, the launch names one.
//! - Each error says whether the job or the machine is to blame ([`DirectError::is_final`]); the job's own fault is never
//!   tried again.
//!
//! Read first: [`Direct`], then `fit` (what runs where), `launch` (the life of a run), `end` (whose fault).

mod choice;
mod code;
mod end;
mod error;
mod fit;
mod inputs;
mod launch;
mod load;
mod result;

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bundle::{Arch, Bundle, Function};
use chain::content::Content;
use runner::protocol::Gpus as Report;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use work::task::Descriptor;
use work::{Digest, News, SourceId};

pub use self::error::DirectError;
use crate::chain_of;
use crate::gpus::{Gpus, NoGpus};
use crate::provider::Parcel;
use crate::store::Store;

/// Time between two looks at whether a GPU is there for the bundles that are served.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the inputs and outputs of all runs together may have, in MiB: those of the largest job. More runs wait.
const ROOM_MIB: u32 = 2048;

/// All sources that are bundles.
#[derive(Debug)]
pub struct Direct {
    gpus: Gpus,
    content: Content,
    store: Arc<Store>,
    result_bytes_max: u64,
    loaded: Mutex<HashMap<SourceId, Arc<Loaded>>>,
    /// Whose turn it is among GPUs that differ.
    turn: AtomicUsize,
    /// Room for bytes, a place for each MiB.
    room: Semaphore,
}

/// A bundle that is served.
#[derive(Debug)]
struct Loaded {
    bundle: Bundle,
    /// The archive, sealed.
    archive: OwnedFd,
    /// The only function that is served, if the source names one.
    only: Option<String>,
    /// Sealed machine code of each PTX module, in the bundle's order, for each architecture that the bundle runs on here.
    code: code::Code,
    /// The GPUs as they were then.
    gpus: Report,
}

/// A source that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// SHA-256 of the archive.
    pub bundle: Digest,
    /// The functions that are served.
    pub functions: BTreeSet<String>,
    /// What is not served here, in words for the owner.
    pub notes: Vec<String>,
}

/// A result that is in the store, on its task's shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    /// SHA-256 of the response.
    pub digest: Digest,
    /// Its size in bytes.
    pub bytes: u64,
    /// Where it ran, and what it left.
    pub descriptor: Descriptor,
}

// === impl Direct ===

impl Direct {
    /// Serves bundles on `gpus`. `content` fetches archives and inputs and publishes outputs; responses go to `store`, and
    /// have at most `result_bytes_max` bytes.
    pub fn new(gpus: Gpus, content: Content, store: Arc<Store>, result_bytes_max: u64) -> Direct {
        let room = Semaphore::new(ROOM_MIB.try_into().unwrap_or(Semaphore::MAX_PERMITS));
        let (loaded, turn) = (Mutex::default(), AtomicUsize::new(0));
        Direct { gpus, content, store, result_bytes_max, loaded, turn, room }
    }

    /// The GPUs, if a bundle can run here. Errors: see [`Gpus::usable`].
    pub async fn gpus(&self) -> Result<Report, NoGpus> {
        self.gpus.usable().await
    }

    /// Whether a source is up as a bundle.
    pub fn serves(&self, source: SourceId) -> bool {
        self.loaded().contains_key(&source)
    }

    /// Stops serving a source; answers whether it was served. What runs, runs to its end.
    pub fn stop(&self, source: SourceId) -> bool {
        self.loaded().remove(&source).is_some()
    }

    /// Watches until `stop` whether there are GPUs for what is served, and tells `desk` of each source that has none.
    pub async fn watch(self: Arc<Self>, desk: mpsc::Sender<Parcel>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            for (source, why) in self.without_gpu().await {
                let _ = desk.send(Parcel::Outcome(News::SourceDown { source, why })).await;
            }
        }
    }

    /// Stops serving what no GPU is there for, and says why.
    async fn without_gpu(&self) -> Vec<(SourceId, String)> {
        let known: Vec<_> = self.loaded().iter().map(|(source, loaded)| (*source, loaded.clone())).collect();
        if known.is_empty() {
            return Vec::new();
        }
        let report = match self.gpus.usable().await {
            Ok(report) => Ok(report),
            Err(NoGpus::None(why)) => Err(why),
            // An answer that did not come says nothing about GPUs, and a runner that is not there is started again.
            Err(NoGpus::Unasked(error)) => {
                tracing::warn!(error = chain_of(&error), "runner did not list its GPUs");
                return Vec::new();
            }
        };
        let mut down = Vec::new();
        for (source, loaded) in known {
            let why = match &report {
                Ok(report) if choice::may_take(report, &loaded.archs()) => continue,
                Ok(report) => choice::why_none(report),
                Err(why) => why.clone(),
            };
            // What was begun anew meanwhile has been held against the GPUs itself.
            let mut all = self.loaded();
            if all.get(&source).is_some_and(|now| Arc::ptr_eq(now, &loaded)) {
                all.remove(&source);
                down.push((source, why));
            }
        }
        down
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<SourceId, Arc<Loaded>>> {
        self.loaded.lock().expect("no holder of this lock panics")
    }
}

// === impl Loaded ===

impl Loaded {
    /// The functions that are served.
    fn functions(&self) -> impl Iterator<Item = &Function> {
        self.bundle.functions().filter(|function| self.only.as_deref().is_none_or(|only| only == function.name()))
    }

    fn archs(&self) -> BTreeSet<Arch> {
        self.code.keys().copied().collect()
    }
}

/// Has something done that takes the processor or the kernel a while.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("what is done beside the loop does not panic")
}

/// The same digest in the words of the ledger.
fn digest_of(digest: bundle::Digest) -> Digest {
    Digest((*digest.as_bytes()).into())
}
