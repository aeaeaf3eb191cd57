//! Counts and hashes what comes out of a decompressor, and stops it at its bounds.
//!
//! Invariant: a bound that is reached is reported as itself, whatever the layers of readers above make of the
//! error, because the reason is kept here.

use std::io::{self, Read};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::{ENTRIES_MAX, RATIO_FREE_BYTES, RATIO_MAX};

/// What is left for the rest of the image.
#[derive(Debug)]
pub(super) struct Budget {
    stream_bytes: u64,
    stream_bytes_max: u64,
    /// Bytes of file content written so far.
    pub(super) file_bytes: u64,
    /// Tar entries read so far.
    pub(super) entries: u64,
}

/// Why an image is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("more than {0} bytes when uncompressed")]
    TooManyBytes(u64),
    #[error("more than {ENTRIES_MAX} entries")]
    TooManyEntries,
    #[error("expands more than {RATIO_MAX} times")]
    TooDense,
    #[error("the archive cannot be read")]
    Archive(#[source] io::Error),
    #[error("entry {path:?} has {reason}")]
    Entry { path: PathBuf, reason: &'static str },
    #[error("{operation} {path:?}")]
    Write {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Counts what is read from a blob.
#[derive(Debug)]
pub(super) struct Counted<R> {
    inner: R,
    bytes: std::rc::Rc<std::cell::Cell<u64>>,
}

/// Hashes and bounds what comes out of a decompressor.
pub(super) struct Metered<'a> {
    inner: Box<dyn Read + 'a>,
    packed_bytes: std::rc::Rc<std::cell::Cell<u64>>,
    layer_bytes: u64,
    budget: &'a mut Budget,
    hash: Sha256,
    broken: Option<Broken>,
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(stream_bytes_max: u64) -> Self {
        Self { stream_bytes: 0, stream_bytes_max, file_bytes: 0, entries: 0 }
    }
}

// === impl Counted ===

impl<R> Counted<R> {
    pub(super) fn new(inner: R) -> (Self, std::rc::Rc<std::cell::Cell<u64>>) {
        let bytes = std::rc::Rc::new(std::cell::Cell::new(0));
        (Self { inner, bytes: bytes.clone() }, bytes)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes.set(self.bytes.get() + count as u64);
        Ok(count)
    }
}

// === impl Metered ===

impl<'a> Metered<'a> {
    pub(super) fn new(
        inner: Box<dyn Read + 'a>,
        packed_bytes: std::rc::Rc<std::cell::Cell<u64>>,
        budget: &'a mut Budget,
    ) -> Self {
        Self { inner, packed_bytes, layer_bytes: 0, budget, hash: Sha256::new(), broken: None }
    }

    /// Why reading stopped, if it was a bound; otherwise what `error` says.
    pub(super) fn blame(&mut self, error: io::Error) -> Broken {
        self.broken.take().unwrap_or(Broken::Archive(error))
    }

    /// SHA-256 of everything read, in hexadecimal.
    pub(super) fn digest(self) -> String {
        hex::encode(self.hash.finalize())
    }

    fn over(&self) -> Option<Broken> {
        let budget = &self.budget;
        if budget.stream_bytes > budget.stream_bytes_max {
            return Some(Broken::TooManyBytes(budget.stream_bytes_max));
        }
        let allowed = self.packed_bytes.get().saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES);
        (self.layer_bytes > allowed).then_some(Broken::TooDense)
    }
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.broken.is_some() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.layer_bytes += count as u64;
        self.budget.stream_bytes += count as u64;
        self.broken = self.over();
        if self.broken.is_some() { Err(io::ErrorKind::QuotaExceeded.into()) } else { Ok(count) }
    }
}
