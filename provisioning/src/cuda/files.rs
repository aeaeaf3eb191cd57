//! Files of a source directory, read up to a bound.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a file is not read.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} has more than {bytes_max} bytes", .path.display())]
    TooLarge { path: PathBuf, bytes_max: usize },
    #[error("{} is not UTF-8", .path.display())]
    NoText { path: PathBuf },
}

/// The whole file, which has at most `bytes_max` bytes.
pub(super) fn read_file(path: &Path, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
    let fault = |source| ReadError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(fault)?;
    let mut bytes = Vec::new();
    // One more than it may have, so that a longer one shows.
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() > bytes_max {
        return Err(ReadError::TooLarge { path: path.to_owned(), bytes_max });
    }
    Ok(bytes)
}

/// The same for text.
pub(super) fn read_text(path: &Path, bytes_max: usize) -> Result<String, ReadError> {
    String::from_utf8(read_file(path, bytes_max)?).map_err(|_| ReadError::NoText { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        std::fs::write(file.path(), b"four\xff").expect("it can be written");
        assert_eq!(read_file(file.path(), 5).expect("it has five bytes"), b"four\xff");
        assert!(matches!(read_file(file.path(), 4), Err(ReadError::TooLarge { bytes_max: 4, .. })));
        assert!(matches!(read_text(file.path(), 5), Err(ReadError::NoText { .. })));
        assert!(matches!(read_file(Path::new("/nowhere"), 5), Err(ReadError::Read { .. })));
    }
}
