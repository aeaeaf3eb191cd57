//! Counts and hashes what comes out of a decompressor, and stops it at its bounds.
//!
//! Invariant: a bound that is reached is reported as itself, whatever the layers of readers above make of the
//! error, because the reason is kept here.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::{Broken, RATIO_FREE_BYTES, RATIO_MAX};

/// Counts what is read from a blob.
#[derive(Debug)]
pub(crate) struct Counted<R> {
    inner: R,
    bytes: std::rc::Rc<std::cell::Cell<u64>>,
}

/// Hashes and bounds what comes out of a decompressor.
pub(crate) struct Metered<'a> {
    inner: Box<dyn Read + 'a>,
    packed_bytes: std::rc::Rc<std::cell::Cell<u64>>,
    bytes: u64,
    bytes_max: u64,
    hash: Sha256,
    broken: Option<Broken>,
}

// === impl Counted ===

impl<R> Counted<R> {
    pub(crate) fn new(inner: R) -> (Self, std::rc::Rc<std::cell::Cell<u64>>) {
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
    pub(crate) fn new(
        inner: Box<dyn Read + 'a>,
        packed_bytes: std::rc::Rc<std::cell::Cell<u64>>,
        bytes_max: u64,
    ) -> Self {
        Self { inner, packed_bytes, bytes: 0, bytes_max, hash: Sha256::new(), broken: None }
    }

    /// Why reading stopped, if it was a bound; otherwise what `error` says.
    pub(crate) fn blame(&mut self, error: io::Error) -> Broken {
        self.broken.take().unwrap_or(Broken::Archive(error))
    }

    /// SHA-256 of everything read, in hexadecimal, and its length in bytes.
    pub(crate) fn finish(self) -> (String, u64) {
        (hex::encode(self.hash.finalize()), self.bytes)
    }

    fn over(&self) -> Option<Broken> {
        if self.bytes > self.bytes_max {
            return Some(Broken::TooManyBytes);
        }
        (self.bytes > allowed(self.packed_bytes.get())).then_some(Broken::TooDense)
    }
}

/// How many bytes may come of this many packed ones.
pub(crate) fn allowed(packed_bytes: u64) -> u64 {
    packed_bytes.saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES)
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.broken.is_some() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        self.broken = self.over();
        if self.broken.is_some() { Err(io::ErrorKind::QuotaExceeded.into()) } else { Ok(count) }
    }
}
