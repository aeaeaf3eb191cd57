//! The content store: bytes by their SHA-256, on the rig's disk.
//!
//! `blobs/sha256/<hex>` holds image layers, task inputs and results alike. A blob appears under its name only when it is
//! whole, verified and on disk (temporary file, fsync, rename), so whatever has a name can be trusted. The runner reads
//! the same directory, and cannot write it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use alloy_primitives::B256;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use work::Digest;

/// The store.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    next_temp: AtomicU64,
}

/// What the store could not do.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{what} {}", path.display())]
    File {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// More bytes came than were allowed.
    #[error("more than {max} bytes came")]
    TooBig {
        /// The bound, in bytes.
        max: u64,
    },
    /// The bytes are not what their name says.
    #[error("the bytes have digest {found}, {wanted} was asked for")]
    Mismatch {
        /// What was asked for.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
}

/// A blob that is being written. Dropped without [`Writing::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Writing<'a> {
    store: &'a Store,
    file: File,
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
    max: u64,
    is_kept: bool,
}

// === impl Store ===

impl Store {
    /// Opens the store in `dir`, and clears what an interrupted write left. Errors: [`StoreError::File`].
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let temp = dir.join("incoming");
        let fail = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::File { what, path, source }
        };
        if temp.exists() {
            std::fs::remove_dir_all(&temp).map_err(fail("clear", &temp))?;
        }
        for made in [&temp, &dir.join("blobs/sha256")] {
            std::fs::create_dir_all(made).map_err(fail("make", made))?;
        }
        Ok(Store { dir: dir.to_owned(), next_temp: AtomicU64::new(0) })
    }

    /// Where a blob is, whether it is there or not.
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(format!("{:x}", digest.0))
    }

    /// Whether a blob is there.
    pub async fn has(&self, digest: Digest) -> bool {
        fs::try_exists(self.path(digest)).await.unwrap_or(false)
    }

    /// Reads a blob of at most `max` bytes. Errors: [`StoreError::File`], [`StoreError::TooBig`].
    pub async fn read(&self, digest: Digest, max: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let fail = |source| StoreError::File { what: "read", path: path.clone(), source };
        if fs::metadata(&path).await.map_err(fail)?.len() > max {
            return Err(StoreError::TooBig { max });
        }
        fs::read(&path).await.map_err(fail)
    }

    /// Removes a blob that nothing needs any more.
    pub async fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        match fs::remove_file(&path).await {
            Ok(()) => Ok(()),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(StoreError::File { what: "remove", path, source }),
        }
    }

    /// Stores bytes that are in memory.
    pub async fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let mut writing = self.begin(bytes.len() as u64).await?;
        writing.write(bytes).await?;
        Ok(writing.finish(None).await?.0)
    }

    /// Begins a blob of at most `max` bytes.
    pub async fn begin(&self, max: u64) -> Result<Writing<'_>, StoreError> {
        let name = self.next_temp.fetch_add(1, Ordering::Relaxed).to_string();
        let path = self.dir.join("incoming").join(name);
        let made = File::create_new(&path).await;
        let file = made.map_err(|source| StoreError::File { what: "create", path: path.clone(), source })?;
        Ok(Writing { store: self, file, path, hash: Sha256::new(), bytes: 0, max, is_kept: false })
    }
}

// === impl Writing ===

impl Writing<'_> {
    /// Adds bytes. Errors: [`StoreError::TooBig`] as soon as the bound is passed, [`StoreError::File`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.max {
            return Err(StoreError::TooBig { max: self.max });
        }
        self.hash.update(bytes);
        let path = &self.path;
        let written = self.file.write_all(bytes).await;
        written.map_err(|source| StoreError::File { what: "write", path: path.clone(), source })
    }

    /// Gives the blob its name, if it is what was `wanted`. Returns the name and the size in bytes.
    pub async fn finish(mut self, wanted: Option<Digest>) -> Result<(Digest, u64), StoreError> {
        let hash: [u8; 32] = std::mem::take(&mut self.hash).finalize().into();
        let found = Digest(B256::from(hash));
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return Err(StoreError::Mismatch { wanted, found });
        }
        let fail = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::File { what, path, source }
        };
        self.file.flush().await.map_err(fail("write", &self.path))?;
        self.file.sync_all().await.map_err(fail("sync", &self.path))?;
        let place = self.store.path(found);
        fs::rename(&self.path, &place).await.map_err(fail("name", &place))?;
        self.is_kept = true;
        let shelf = self.store.dir.join("blobs/sha256");
        let dir = File::open(&shelf).await.map_err(fail("open", &shelf))?;
        dir.sync_all().await.map_err(fail("sync", &shelf))?;
        Ok((found, self.bytes))
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            // What stays behind is cleared at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blob_appears_only_when_it_is_whole_and_as_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("opens");
        let digest = store.put(b"result").await.expect("stores");
        assert_eq!(store.read(digest, 10).await.expect("reads"), b"result");
        assert!(matches!(store.read(digest, 5).await, Err(StoreError::TooBig { max: 5 })));

        let mut lying = store.begin(100).await.expect("begins");
        lying.write(b"something else").await.expect("writes");
        assert!(matches!(lying.finish(Some(digest)).await, Err(StoreError::Mismatch { .. })));

        let mut big = store.begin(3).await.expect("begins");
        assert!(matches!(big.write(b"1234").await, Err(StoreError::TooBig { max: 3 })));
        drop(big);
        let left = std::fs::read_dir(dir.path().join("incoming")).expect("lists").count();
        assert_eq!(left, 0, "nothing half-written is left");
    }
}
