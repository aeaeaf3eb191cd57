//! A bundle in a file.

use std::path::{Path, PathBuf};

use bundle::limits::ARCHIVE_BYTES_MAX;
use bundle::{Bundle, BundleError};
use thiserror::Error;

use super::files::{ReadError, read_file};

/// Why a file is not taken for a bundle.
#[derive(Debug, Error)]
pub(crate) enum ArchiveError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{} is no bundle", .path.display())]
    Bundle {
        path: PathBuf,
        #[source]
        source: BundleError,
    },
}

/// Reads a bundle, and checks it as a rig would.
pub(crate) fn read(path: &Path) -> Result<(Bundle, Vec<u8>), ArchiveError> {
    let archive = read_file(path, ARCHIVE_BYTES_MAX)?;
    let bundle = Bundle::parse(&archive).map_err(|source| ArchiveError::Bundle { path: path.to_owned(), source })?;
    Ok((bundle, archive))
}
