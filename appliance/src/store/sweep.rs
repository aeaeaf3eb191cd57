//! What images left in the store, and its removal.
//!
//! Layers go as soon as the runner has sealed them, so what gathers here is small: manifests, configurations, and what
//! an interrupted pull fetched. Age decides, then size, oldest first; what is in use stays in any case.

use std::collections::BTreeSet;
use std::fs::{File, FileTimes};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::fs;
use work::Digest;

use super::{Shelf, Store, StoreError};
use crate::registry::parse_digest;

/// How long a blob is kept after it was last of use. Source: none; a source that is not seen for a week is pulled anew.
const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The most bytes of blobs that no source uses.
const UNUSED_BYTES_MAX: u64 = 8 << 30;

/// Blobs that are used by a pull under way are younger than this, so size alone does not remove them.
const FRESH: Duration = Duration::from_secs(6 * 3600);

/// Blobs of images, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub count: u64,
    /// Their bytes on disk.
    pub bytes: u64,
}

struct Held {
    used: SystemTime,
    digest: Digest,
    bytes: u64,
}

impl Store {
    /// Notes that a blob was of use just now. One that is not there is none.
    pub async fn touch(&self, shelf: Shelf, digest: Digest) {
        let path = self.path(shelf, digest);
        let touch = move || File::options().append(true).open(path)?.set_times(FileTimes::new().set_modified(now()));
        // Missed, it is swept a little early and fetched again.
        let _: Result<io::Result<()>, _> = tokio::task::spawn_blocking(touch).await;
    }

    /// Removes a blob, if it is there. Errors: [`StoreError::File`].
    pub async fn remove(&self, shelf: Shelf, digest: Digest) -> Result<(), StoreError> {
        let path = self.path(shelf, digest);
        match fs::remove_file(&path).await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::File { what: "remove", path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Counts the blobs of images. Errors: [`StoreError::File`].
    pub async fn count(&self) -> Result<Count, StoreError> {
        let all = self.held().await?;
        Ok(Count { count: all.len() as u64, bytes: all.iter().map(|held| held.bytes).sum() })
    }

    /// Removes blobs of images that are not `in_use`: those beyond the limits, or `everything`. Returns what is gone.
    /// Errors: [`StoreError::File`].
    pub async fn sweep(&self, in_use: &BTreeSet<Digest>, everything: bool) -> Result<Count, StoreError> {
        let mut unused = self.held().await?;
        unused.retain(|held| !in_use.contains(&held.digest));
        unused.sort_by_key(|held| held.used);
        let mut left: u64 = unused.iter().map(|held| held.bytes).sum();
        let now = now();
        let mut gone = Count::default();
        for held in unused {
            let age = now.duration_since(held.used).unwrap_or_default();
            let is_over = age > AGE_MAX || (left > UNUSED_BYTES_MAX && age > FRESH);
            if everything || is_over {
                self.remove(Shelf::Images, held.digest).await?;
                left -= held.bytes;
                gone = Count { count: gone.count + 1, bytes: gone.bytes + held.bytes };
            }
        }
        Ok(gone)
    }

    async fn held(&self) -> Result<Vec<Held>, StoreError> {
        let dir = self.place(Shelf::Images);
        let listed = {
            let dir = dir.clone();
            tokio::task::spawn_blocking(move || list(&dir)).await.expect("listing does not panic")
        };
        listed.map_err(|source| StoreError::File { what: "list", path: dir, source })
    }
}

fn list(dir: &Path) -> io::Result<Vec<Held>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(digest) = name.to_str().and_then(|hex| parse_digest(&format!("sha256:{hex}"))) else { continue };
        match entry.metadata() {
            Ok(meta) => all.push(Held { used: meta.modified()?, digest, bytes: meta.len() }),
            // Removed meanwhile.
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_old_goes_what_is_used_stays_and_everything_means_all_that_is_not_used() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("opens");
        let [old, used, fresh] = [b"old", b"use", b"new"];
        let mut digests = Vec::new();
        for bytes in [old, used, fresh] {
            digests.push(store.put(Shelf::Images, bytes).await.expect("stores"));
        }
        let long_ago = FileTimes::new().set_modified(now() - AGE_MAX - Duration::from_secs(60));
        for digest in &digests[..2] {
            let file = File::options().append(true).open(store.path(Shelf::Images, *digest)).expect("opens");
            file.set_times(long_ago).expect("sets the time");
        }
        let in_use = BTreeSet::from([digests[1]]);
        assert_eq!(store.sweep(&in_use, false).await.expect("sweeps"), Count { count: 1, bytes: 3 });
        assert!(!store.has(Shelf::Images, digests[0]).await);
        assert_eq!(store.sweep(&in_use, true).await.expect("sweeps"), Count { count: 1, bytes: 3 });
        assert_eq!(store.count().await.expect("counts"), Count { count: 1, bytes: 3 });
        store.touch(Shelf::Images, digests[1]).await;
        assert_eq!(store.sweep(&BTreeSet::new(), false).await.expect("sweeps"), Count::default(), "it was of use");
    }
}
