//! Short files with secrets in them.
//!
//! Invariants: a file that anybody but its owner may read is refused, and this is looked up on the opened file; what was
//! read is wiped when it is dropped, and never grows while it is read, because growing would leave a copy behind.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

/// The permission bits of everybody but the owner.
const MODE_OTHERS: u32 = 0o077;

/// Why a file with a secret is not used.
#[derive(Debug, Error)]
pub(crate) enum PrivateError {
    #[error("read the {what} {}", .path.display())]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the {what} {} can be read by others (mode {mode:03o})", .path.display())]
    Open { what: &'static str, path: PathBuf, mode: u32 },
    #[error("the {what} {} is longer than {most} bytes", .path.display())]
    Long { what: &'static str, path: PathBuf, most: usize },
}

/// Reads the `what` at `path`, of at most `most` bytes, after making sure that nobody else can.
pub(super) fn read(what: &'static str, path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, PrivateError> {
    let fault = |source| PrivateError::Read { what, path: path.to_owned(), source };
    let mut file = File::open(path).map_err(fault)?;
    let mode = file.metadata().map_err(fault)?.mode() & 0o777;
    if mode & MODE_OTHERS != 0 {
        return Err(PrivateError::Open { what, path: path.to_owned(), mode });
    }
    // One more than may be there, so that a longer file shows.
    let mut bytes = Zeroizing::new(vec![0; most + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fault(error)),
        }
    }
    if length > most {
        return Err(PrivateError::Long { what, path: path.to_owned(), most });
    }
    bytes.truncate(length);
    Ok(bytes)
}

// === impl PrivateError ===

impl PrivateError {
    /// What to do about it.
    pub(super) fn next(&self) -> String {
        match self {
            PrivateError::Read { what, .. } => format!("check the path of the {what}, and that you may read it"),
            PrivateError::Open { path, .. } => format!("chmod 600 {}", path.display()),
            PrivateError::Long { what, .. } => format!("name the right file: this is no {what}"),
        }
    }
}
