//! The content store: bytes by their SHA-256, on the rig's disk.
//!
//! ```text
//! blobs/sha256/<hex>      what images are made of; the runner reads here, and cannot write
//! tasks/<task>/<hex>      one task's input and result
//! incoming/<number>       what is being written; cleared at a start
//! ```
//!
//! Invariants:
//! - A blob appears under its name only when it is whole, verified and on disk (temporary file, fsync, rename), so
//!   whatever has a name can be trusted.
//! - A task's blobs are its own, even if another task has the same bytes: when it closes its shelf is cleared, and that
//!   takes nothing from anyone. A shelf that a crash left behind is cleared by [`Store::keep_only`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use alloy_primitives::B256;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use work::{Digest, TaskId};

mod sweep;

pub use self::sweep::Count;

/// The store.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    next_temp: AtomicU64,
}

/// Where a blob stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// Among the blobs of all images.
    Images,
    /// Among what one task brought.
    Task(TaskId),
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
    shelf: Shelf,
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
        for made in [&temp, &dir.join("blobs/sha256"), &dir.join("tasks")] {
            std::fs::create_dir_all(made).map_err(fail("make", made))?;
        }
        Ok(Store { dir: dir.to_owned(), next_temp: AtomicU64::new(0) })
    }

    /// Where a blob is, whether it is there or not.
    pub fn path(&self, shelf: Shelf, digest: Digest) -> PathBuf {
        self.place(shelf).join(format!("{:x}", digest.0))
    }

    /// Whether a blob is there.
    pub async fn has(&self, shelf: Shelf, digest: Digest) -> bool {
        fs::try_exists(self.path(shelf, digest)).await.unwrap_or(false)
    }

    /// Reads a blob of at most `max` bytes. Errors: [`StoreError::File`], [`StoreError::TooBig`].
    pub async fn read(&self, shelf: Shelf, digest: Digest, max: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.path(shelf, digest);
        let fail = |source| StoreError::File { what: "read", path: path.clone(), source };
        if fs::metadata(&path).await.map_err(fail)?.len() > max {
            return Err(StoreError::TooBig { max });
        }
        fs::read(&path).await.map_err(fail)
    }

    /// Reads a blob to its end, and removes it if it is not what its name says: a disk may rot. Returns whether it did.
    /// Errors: [`StoreError::File`].
    pub async fn weed(&self, shelf: Shelf, digest: Digest) -> Result<bool, StoreError> {
        let path = self.path(shelf, digest);
        let fail = |what| {
            let path = path.clone();
            move |source| StoreError::File { what, path, source }
        };
        let read = path.clone();
        let hashed = tokio::task::spawn_blocking(move || {
            let mut hash = Sha256::new();
            io::copy(&mut std::fs::File::open(read)?, &mut hash).map(|_| hash.finalize())
        });
        let found: [u8; 32] = match hashed.await.expect("hashing does not panic") {
            Ok(hash) => hash.into(),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(source) => return Err(fail("read")(source)),
        };
        if Digest(B256::from(found)) == digest {
            return Ok(false);
        }
        fs::remove_file(&path).await.map(|()| true).map_err(fail("remove"))
    }

    /// Stores bytes that are in memory.
    pub async fn put(&self, shelf: Shelf, bytes: &[u8]) -> Result<Digest, StoreError> {
        let mut writing = self.begin(shelf, bytes.len() as u64).await?;
        writing.write(bytes).await?;
        Ok(writing.finish(None).await?.0)
    }

    /// Begins a blob of at most `max` bytes.
    pub async fn begin(&self, shelf: Shelf, max: u64) -> Result<Writing<'_>, StoreError> {
        // Made before the first byte comes, not after the last: a shelf that is cleared meanwhile stays cleared.
        let place = self.place(shelf);
        let made = fs::create_dir_all(&place).await;
        made.map_err(|source| StoreError::File { what: "make", path: place, source })?;
        let name = self.next_temp.fetch_add(1, Ordering::Relaxed).to_string();
        let path = self.dir.join("incoming").join(name);
        let made = File::create_new(&path).await;
        let file = made.map_err(|source| StoreError::File { what: "create", path: path.clone(), source })?;
        Ok(Writing { store: self, shelf, file, path, hash: Sha256::new(), bytes: 0, max, is_kept: false })
    }

    /// Removes what a task brought; it needs nothing more. Blocks for a few unlinks. Errors: [`StoreError::File`].
    pub fn clear(&self, task: TaskId) -> Result<(), StoreError> {
        let path = self.place(Shelf::Task(task));
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::File { what: "remove", path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes what all tasks brought but those that `is_needed`: a crash may have come between the end of a task and
    /// the clearing of its shelf. Blocks. Errors: [`StoreError::File`].
    pub fn keep_only(&self, is_needed: impl Fn(TaskId) -> bool) -> Result<(), StoreError> {
        let tasks = self.dir.join("tasks");
        let fail = |source| StoreError::File { what: "list", path: tasks.clone(), source };
        for entry in std::fs::read_dir(&tasks).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            match name.to_str().and_then(|name| name.parse().ok()) {
                Some(task) if !is_needed(task) => self.clear(task)?,
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    fn place(&self, shelf: Shelf) -> PathBuf {
        match shelf {
            Shelf::Images => self.dir.join("blobs/sha256"),
            Shelf::Task(task) => self.dir.join("tasks").join(task.to_string()),
        }
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

    /// Brings what was written so far to the file, and names the file: for a look at it before it gets a name.
    pub async fn look(&mut self) -> Result<PathBuf, StoreError> {
        let path = self.path.clone();
        let flushed = self.file.flush().await;
        flushed.map(|()| path.clone()).map_err(|source| StoreError::File { what: "write", path, source })
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
        let place = self.store.path(self.shelf, found);
        fs::rename(&self.path, &place).await.map_err(fail("name", &place))?;
        self.is_kept = true;
        let shelf = self.store.place(self.shelf);
        // The name in the shelf, and the shelf's own name, which may be new.
        for dir in [Some(shelf.as_path()), shelf.parent()].into_iter().flatten() {
            let open = File::open(dir).await.map_err(fail("open", dir))?;
            open.sync_all().await.map_err(fail("sync", dir))?;
        }
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
    use alloy_primitives::Address;

    use super::*;

    fn task(number: u8) -> TaskId {
        TaskId(Address::repeat_byte(number))
    }

    #[tokio::test]
    async fn a_blob_appears_only_when_it_is_whole_and_as_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("opens");
        let images = Shelf::Images;
        let digest = store.put(images, b"layer").await.expect("stores");
        assert_eq!(store.read(images, digest, 10).await.expect("reads"), b"layer");
        assert!(matches!(store.read(images, digest, 4).await, Err(StoreError::TooBig { max: 4 })));

        let mut lying = store.begin(images, 100).await.expect("begins");
        lying.write(b"something else").await.expect("writes");
        assert!(matches!(lying.finish(Some(digest)).await, Err(StoreError::Mismatch { .. })));

        let mut big = store.begin(images, 3).await.expect("begins");
        assert!(matches!(big.write(b"1234").await, Err(StoreError::TooBig { max: 3 })));
        drop(big);
        let left = std::fs::read_dir(dir.path().join("incoming")).expect("lists").count();
        assert_eq!(left, 0, "nothing half-written is left");
    }

    #[tokio::test]
    async fn the_end_of_a_task_takes_nothing_from_another_with_the_same_bytes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("opens");
        let [mine, other] = [task(1), task(2)].map(Shelf::Task);
        let digest = store.put(mine, b"{}").await.expect("stores");
        for shelf in [other, Shelf::Images] {
            assert_eq!(store.put(shelf, b"{}").await.expect("stores"), digest);
        }
        store.clear(task(1)).expect("clears");
        store.clear(task(1)).expect("clearing again is fine");
        assert!(!store.has(mine, digest).await);
        assert!(store.has(other, digest).await && store.has(Shelf::Images, digest).await);
    }

    #[tokio::test]
    async fn a_blob_that_comes_after_the_end_of_its_task_is_not_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("opens");
        let mut late = store.begin(Shelf::Task(task(1)), 10).await.expect("begins");
        store.clear(task(1)).expect("clears");
        late.write(b"late").await.expect("writes");
        assert!(matches!(late.finish(None).await, Err(StoreError::File { what: "name", .. })));
        assert!(!dir.path().join("tasks").join(task(1).to_string()).exists());
        assert_eq!(std::fs::read_dir(dir.path().join("incoming")).expect("lists").count(), 0);
    }

    #[tokio::test]
    async fn a_start_clears_what_an_interrupted_life_left_and_keeps_what_is_needed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("opens");
        let layer = store.put(Shelf::Images, b"layer").await.expect("stores");
        let input = store.put(Shelf::Task(task(1)), b"1").await.expect("stores");
        store.put(Shelf::Task(task(2)), b"2").await.expect("stores");
        std::fs::write(dir.path().join("incoming/7"), "half").expect("writes");

        let store = Store::open(dir.path()).expect("opens again");
        store.keep_only(|needed| needed == task(1)).expect("sweeps");
        assert!(store.has(Shelf::Images, layer).await && store.has(Shelf::Task(task(1)), input).await);
        assert!(!dir.path().join("tasks").join(task(2).to_string()).exists());
        assert_eq!(std::fs::read_dir(dir.path().join("incoming")).expect("lists").count(), 0);
    }
}
