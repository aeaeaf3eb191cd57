//! What went wrong with a file or a folder: the same in every step of a build.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The system refused something of a path.
#[derive(Debug, Error)]
#[error("{action} {}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Says what was to be done with `path`, such as `read`.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { action, path, source }
}
