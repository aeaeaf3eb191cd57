//! The order in which a disk is written, so that one whose writing was cut is never taken for a whole one.
//!
//! ```text
//! 1  the first and the last chunk of the disk's new content, and the places where older tables lie, become zero
//! 2  every chunk between: zero ones are cleared, the others are written
//! 3  every chunk between is read back from the medium and compared
//! 4  the owner's settings
//! 5  the last chunk (the spare partition table), then the first (the partition table and the loader's file system)
//! ```
//!
//! Invariants: after 1 and before the end of 5 no firmware finds a loader on it; what the image says is zero is zero, on
//! a stick that was full before as well; nothing counts as written that was not read back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use layout::manifest::CHUNK_BYTES;
use thiserror::Error;

use super::release::{Piece, Proof, Release, ReleaseError};
use super::target::{Aligned, Target, TargetError};

mod pace;

pub(crate) use self::pace::Pace;

/// What is cleared behind the image, where an older state or the spare table of an older disk may begin.
const BEHIND_BYTES: u64 = 1 << 20;

/// Bytes that a file system may keep in memory before it must write them.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;

/// Two things that take time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Writing,
    ReadingBack,
}

/// Who watches, and may end it.
pub(crate) struct Watch<'a> {
    pub(crate) progress: &'a mut dyn FnMut(Phase, &Pace),
    pub(crate) stop: &'a AtomicBool,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Sent to the medium.
    pub(crate) written_bytes: u64,
    /// Zero in the image, and not sent.
    pub(crate) skipped_bytes: u64,
    /// Compared with what was read from the medium.
    pub(crate) compared_bytes: u64,
}

/// Why a disk was not written to its end.
#[derive(Debug, Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("stopped")]
    Stopped,
    #[error("the stick holds something else than was written to it, {} MiB from its start", .at >> 20)]
    Differs { at: u64 },
}

/// One writing.
struct Writing<'a, 'w> {
    target: &'a mut Target,
    watch: &'a mut Watch<'w>,
    /// What is between the first and the last chunk, and still to be read back.
    unproven: Vec<(u64, usize, Proof)>,
    unsynced_bytes: u64,
    written: Written,
}

/// What goes onto the disk last.
struct Edges {
    first: Option<Piece>,
    last: Option<Piece>,
}

/// Writes `release` to `target`. `settle` puts the settings in place, on a disk that has everything but its edges.
///
/// Errors: after any of them, and after a cut of the power, the target has no partition table at its start.
pub(crate) fn write<E: From<WriteError>>(
    release: &Release,
    target: &mut Target,
    watch: &mut Watch<'_>,
    settle: impl FnOnce(&mut Target) -> Result<(), E>,
) -> Result<Written, E> {
    let mut writing = Writing { target, watch, unproven: Vec::new(), unsynced_bytes: 0, written: Written::default() };
    writing.clear_edges(release.bytes())?;
    let edges = writing.write_inside(release)?;
    writing.read_back()?;
    settle(writing.target)?;
    writing.write_edges(edges)?;
    Ok(writing.written)
}

// === impl Writing ===

impl Writing<'_, '_> {
    /// Takes away what makes a disk look like one that holds something.
    fn clear_edges(&mut self, bytes: u64) -> Result<(), WriteError> {
        let disk = self.target.bytes();
        let last = bytes.saturating_sub(1) / CHUNK_BYTES * CHUNK_BYTES;
        let behind = BEHIND_BYTES.min(disk.saturating_sub(bytes));
        let end = disk.saturating_sub(BEHIND_BYTES).max(bytes);
        for (at, length) in [(0, CHUNK_BYTES.min(bytes)), (last, bytes - last), (bytes, behind), (end, disk - end)] {
            if length > 0 {
                let mut buffer = Aligned::zeroed(usize::try_from(length).unwrap_or(0));
                self.target.clear(at, &mut buffer)?;
            }
        }
        // Before anything else is written, or a cut could leave the old table over new content.
        Ok(self.target.sync()?)
    }

    /// Writes all but the first and the last chunk, which it returns.
    fn write_inside(&mut self, release: &Release) -> Result<Edges, WriteError> {
        let mut pace = Pace::new(release.bytes(), release.zero_bytes());
        let mut edges = Edges { first: None, last: None };
        for piece in release.pieces() {
            let piece = piece?;
            self.heed()?;
            let length = piece.bytes.bytes().len();
            let began = Instant::now();
            let is_zero = piece.proof == Proof::Zero;
            if piece.at == 0 {
                edges.first = Some(piece);
            } else if piece.at + CHUNK_BYTES >= release.bytes() {
                edges.last = Some(piece);
            } else {
                self.put(piece)?;
            }
            pace.count(is_zero, length, began.elapsed());
            (self.watch.progress)(Phase::Writing, &pace);
        }
        Ok(edges)
    }

    fn put(&mut self, mut piece: Piece) -> Result<(), WriteError> {
        let length = piece.bytes.bytes().len();
        let bytes = u64::try_from(length).unwrap_or(0);
        match piece.proof {
            Proof::Zero => {
                if self.target.clear(piece.at, &mut piece.bytes)? {
                    self.unproven.push((piece.at, length, Proof::Zero));
                } else {
                    self.written.compared_bytes += bytes;
                }
                self.written.skipped_bytes += bytes;
            }
            Proof::Sha256(_) => {
                self.target.write(piece.at, piece.bytes.bytes())?;
                self.unproven.push((piece.at, length, piece.proof));
                self.written.written_bytes += bytes;
                self.unsynced_bytes += bytes;
            }
        }
        if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            self.target.sync()?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    fn read_back(&mut self) -> Result<(), WriteError> {
        self.target.sync()?;
        self.target.forget();
        let unproven = std::mem::take(&mut self.unproven);
        let total = unproven.iter().map(|(_, length, _)| u64::try_from(*length).unwrap_or(0)).sum();
        let mut pace = Pace::new(total, 0);
        for (at, length, proof) in unproven {
            self.heed()?;
            let began = Instant::now();
            self.compare(at, length, proof)?;
            pace.count(false, length, began.elapsed());
            (self.watch.progress)(Phase::ReadingBack, &pace);
        }
        Ok(())
    }

    fn compare(&mut self, at: u64, length: usize, proof: Proof) -> Result<(), WriteError> {
        let mut buffer = Aligned::zeroed(length);
        self.target.read(at, buffer.bytes_mut())?;
        if !proof.holds(buffer.bytes()) {
            return Err(WriteError::Differs { at });
        }
        self.written.compared_bytes += u64::try_from(length).unwrap_or(0);
        Ok(())
    }

    /// Makes it a disk that boots. It is too late to stop: this takes less than a second.
    fn write_edges(&mut self, edges: Edges) -> Result<(), WriteError> {
        for piece in [edges.last, edges.first].into_iter().flatten() {
            let bytes = piece.bytes.bytes();
            self.target.write(piece.at, bytes)?;
            self.target.sync()?;
            self.target.forget();
            self.compare(piece.at, bytes.len(), piece.proof)?;
            self.written.written_bytes += u64::try_from(bytes.len()).unwrap_or(0);
        }
        Ok(())
    }

    fn heed(&self) -> Result<(), WriteError> {
        if self.watch.stop.load(Ordering::Relaxed) { Err(WriteError::Stopped) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
