//! What is kept so that it need not be fetched again: sealed layers, which the runner holds, and blobs, which we do.
//!
//! Invariant: nothing that a source stands on, or that a pull under way has fetched, is removed. Everything else can be
//! fetched again, which is why a person may clear it away over the status socket.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use runner::client::{Client, ClientError};
use serde_json::{Value, json};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use work::{Digest, SourceId};

use crate::chain_of;
use crate::store::{Count, Store, StoreError};

/// Time between two collections.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);

/// The cache.
#[derive(Debug)]
pub struct Cache {
    runner: Client,
    store: Arc<Store>,
    in_use: Mutex<HashMap<SourceId, BTreeSet<Digest>>>,
}

/// What the cache could not do.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The runner did not answer, or refused.
    #[error("ask the runner for its layers")]
    Runner(#[from] ClientError),
    /// The store cannot be read or swept.
    #[error("look through the content store")]
    Store(#[from] StoreError),
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Sealed layers.
    pub layers: Count,
    /// Blobs.
    pub blobs: Count,
}

// === impl Cache ===

impl Cache {
    /// The cache of this runner and this store.
    pub fn new(runner: Client, store: Arc<Store>) -> Cache {
        Cache { runner, store, in_use: Mutex::default() }
    }

    /// From now on a source uses these blobs, and no others.
    pub fn uses(&self, source: SourceId, blobs: BTreeSet<Digest>) {
        self.in_use.lock().expect("no holder of this lock panics").insert(source, blobs);
    }

    /// A source uses nothing any more.
    pub fn releases(&self, source: SourceId) {
        self.in_use.lock().expect("no holder of this lock panics").remove(&source);
    }

    /// Collects once an hour until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(COLLECT_EVERY) => self.tidy().await,
            }
        }
    }

    /// Collects by the limits. What cannot be removed now is tried again within the hour.
    pub async fn tidy(&self) {
        match self.collect(false).await {
            Ok(Collected { layers, blobs }) if layers.count + blobs.count > 0 => {
                info!(bytes = layers.bytes + blobs.bytes, "cache is collected");
            }
            Ok(_) => {}
            Err(error) => warn!(error = chain_of(&error), "cache is not collected"),
        }
    }

    /// Removes what is beyond the limits, or `everything` that is not in use. Errors: see [`CacheError`].
    pub async fn collect(&self, everything: bool) -> Result<Collected, CacheError> {
        let in_use: BTreeSet<Digest> = {
            let in_use = self.in_use.lock().expect("no holder of this lock panics");
            in_use.values().flatten().copied().collect()
        };
        let blobs = self.store.sweep(&in_use, everything).await?;
        let (count, bytes) = self.ask(move |runner| runner.collect(everything)).await?;
        Ok(Collected { layers: Count { count, bytes }, blobs })
    }

    /// The answer to `rig cache`.
    pub async fn show(&self) -> Value {
        match self.contents().await {
            Ok(value) => value,
            Err(error) => refused(&error),
        }
    }

    /// The answer to `rig cache clean`.
    pub async fn clean(&self, everything: bool) -> Value {
        let count = |count: Count| json!({ "count": count.count, "bytes": count.bytes });
        match self.collect(everything).await {
            Ok(Collected { layers, blobs }) => json!({ "removed": { "layers": count(layers), "blobs": count(blobs) } }),
            Err(error) => refused(&error),
        }
    }

    async fn contents(&self) -> Result<Value, CacheError> {
        let (layers, count, bytes) = self.ask(Client::layers).await?;
        let blobs = self.store.count().await?;
        Ok(json!({
            "layers": layers,
            "count": count,
            "bytes": bytes,
            "blobs": { "count": blobs.count, "bytes": blobs.bytes },
        }))
    }

    /// The runner's client blocks; this is where it may.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let runner = self.runner.clone();
        tokio::task::spawn_blocking(move || question(&runner)).await.expect("the runner's client does not panic")
    }
}

fn refused(error: &CacheError) -> Value {
    json!({ "error": chain_of(error), "next": "look at its log: journalctl -u rig-runner" })
}
