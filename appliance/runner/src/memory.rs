//! Bytes that travel between processes as a descriptor: memory that nobody can change any more.
//!
//! Invariants: what [`read`] and [`length`] accept is memory, sealed against writing, growing and shrinking, so its
//! bytes are the same whoever looks and whenever; and it is no longer than the reader says.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};

/// All that makes bytes stay as they are.
const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Memory that is not what it has to be.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel would not.
    #[error("{operation} memory of {what}")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// Whose bytes.
        what: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// It can still change.
    #[error("the memory of {what} is not sealed; seal it against writing, growing and shrinking")]
    NotSealed {
        /// Whose bytes.
        what: &'static str,
    },
    /// It is longer than anybody takes.
    #[error("{what} has {bytes} bytes, of at most {bytes_max}")]
    TooLong {
        /// Whose bytes.
        what: &'static str,
        /// How many.
        bytes: u64,
        /// Of at most so many.
        bytes_max: u64,
    },
}

/// Sealed memory that holds `bytes`; `what` names it.
///
/// # Errors
/// [`MemoryError::Kernel`], above all when memory is short.
pub fn sealed(what: &'static str, bytes: &[u8]) -> Result<OwnedFd, MemoryError> {
    let failed = |operation| move |source: io::Error| MemoryError::Kernel { operation, what, source };
    let mut file = File::from(blank(what, 0)?);
    file.write_all(bytes).map_err(failed("write"))?;
    seal(what, &file)?;
    Ok(file.into())
}

/// Memory of exactly `bytes` zeros, which can be written and be sealed later.
///
/// # Errors
/// [`MemoryError::Kernel`].
pub fn blank(what: &'static str, bytes: u64) -> Result<OwnedFd, MemoryError> {
    let failed =
        |operation| move |errno: rustix::io::Errno| MemoryError::Kernel { operation, what, source: errno.into() };
    let fd = memfd_create(what, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(failed("make"))?;
    if bytes > 0 {
        ftruncate(&fd, bytes).map_err(failed("size"))?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW).map_err(failed("bound"))?;
    }
    Ok(fd)
}

/// Seals what was written; nobody may have it mapped for writing any more.
///
/// # Errors
/// [`MemoryError::Kernel`].
pub fn seal(what: &'static str, fd: impl AsFd) -> Result<(), MemoryError> {
    let failed = |errno: rustix::io::Errno| MemoryError::Kernel { operation: "seal", what, source: errno.into() };
    fcntl_add_seals(fd, SEALS).map_err(failed)
}

/// How many bytes sealed memory holds.
///
/// # Errors
/// [`MemoryError::NotSealed`], [`MemoryError::TooLong`] beyond `bytes_max`, [`MemoryError::Kernel`].
pub fn length(what: &'static str, fd: impl AsFd, bytes_max: u64) -> Result<u64, MemoryError> {
    let failed =
        |operation| move |errno: rustix::io::Errno| MemoryError::Kernel { operation, what, source: errno.into() };
    // What is no memory has no seals, and says EINVAL.
    let seals = fcntl_get_seals(&fd).map_err(failed("look at"))?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE) {
        return Err(MemoryError::NotSealed { what });
    }
    let bytes = fstat(&fd).map_err(failed("measure"))?.st_size;
    let bytes = u64::try_from(bytes).unwrap_or(0);
    if bytes > bytes_max { Err(MemoryError::TooLong { what, bytes, bytes_max }) } else { Ok(bytes) }
}

/// The bytes of sealed memory.
///
/// # Errors
/// As [`length`].
pub fn read(what: &'static str, fd: OwnedFd, bytes_max: u64) -> Result<Vec<u8>, MemoryError> {
    let bytes = length(what, &fd, bytes_max)?;
    let mut file = File::from(fd);
    let mut text = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    let read = file.rewind().and_then(|()| file.take(bytes).read_to_end(&mut text));
    read.map_err(|source| MemoryError::Kernel { operation: "read", what, source })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_are_read_as_they_were_and_cannot_be_changed() {
        let fd = sealed("a test", b"bytes").expect("memory");
        let copy = fd.try_clone().expect("a copy");
        assert!(File::from(copy).write_all(b"other").is_err());
        assert_eq!(read("a test", fd, 5).expect("the bytes"), b"bytes");
    }

    #[test]
    fn what_can_still_change_or_is_too_long_is_refused_by_name() {
        let open = blank("an open thing", 8).expect("memory");
        assert!(matches!(length("an open thing", &open, 8), Err(MemoryError::NotSealed { .. })));
        seal("an open thing", &open).expect("seal");
        assert_eq!(length("an open thing", &open, 8).expect("sealed now"), 8);
        let error = length("an open thing", &open, 7).expect_err("too long");
        assert_eq!(error.to_string(), "an open thing has 8 bytes, of at most 7");
        let file = tempfile::tempfile().expect("a file");
        assert!(matches!(length("a file", &file, 1), Err(MemoryError::Kernel { .. })));
    }
}
