//! Where a library keeps its script: behind its own last byte.
//!
//! ```text
//! | the shared object, as it was built | script, UTF-8 | its length, u64 little-endian | "FAKE-GPU-SCRIPT\n" |
//! ```
//!
//! The dynamic linker maps what the program headers name and never looks behind it, so the file stays loadable.
//! Invariant: a file has at most one trailer; [`append`] replaces the one that is there.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::script::{Script, ScriptError};

/// The file's last bytes.
const MAGIC: &[u8; 16] = b"FAKE-GPU-SCRIPT\n";
/// The length and the magic.
const TAIL_BYTES: usize = 8 + MAGIC.len();
/// A script is a page of text; a longer one is a damaged file.
const SCRIPT_BYTES_MAX: u64 = 1 << 20;

/// A trailer that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TrailerError {
    /// The library's file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The library.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The length is larger than the file or the bound.
    #[error("the trailer of {path} says {bytes} bytes, more than the file or {SCRIPT_BYTES_MAX}; install it again")]
    Length {
        /// The library.
        path: String,
        /// The length that it says.
        bytes: u64,
    },
    /// The text is no script.
    #[error("the trailer of {path} holds no script")]
    Script {
        /// The library.
        path: String,
        /// Why.
        #[source]
        source: ScriptError,
    },
}

/// The script of the library at `path`; the default if it has no trailer.
/// Reads the file's end only. Errors: see [`TrailerError`].
pub fn read(path: &Path) -> Result<Script, TrailerError> {
    let shown = || path.display().to_string();
    let text = match text(path).map_err(|source| TrailerError::Read { path: shown(), source })? {
        Tail::None => return Ok(Script::default()),
        Tail::TooLong(bytes) => return Err(TrailerError::Length { path: shown(), bytes }),
        Tail::Text(text) => text,
    };
    Script::parse(&text).map_err(|source| TrailerError::Script { path: shown(), source })
}

/// `library` with `script` as its only trailer. Errors: see [`Script::to_toml`].
pub fn append(library: &[u8], script: &Script) -> Result<Vec<u8>, ScriptError> {
    let text = script.to_toml()?;
    let mut bytes = bare(library).to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(MAGIC);
    Ok(bytes)
}

/// `library` without its trailer.
fn bare(library: &[u8]) -> &[u8] {
    let Some((rest, tail)) = library.split_last_chunk::<TAIL_BYTES>() else { return library };
    match length(tail) {
        Some(bytes) => usize::try_from(bytes)
            .ok()
            .and_then(|bytes| rest.len().checked_sub(bytes))
            .map_or(library, |end| &rest[..end]),
        None => library,
    }
}

enum Tail {
    None,
    TooLong(u64),
    Text(String),
}

fn text(path: &Path) -> io::Result<Tail> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let Some(rest) = size.checked_sub(TAIL_BYTES as u64) else { return Ok(Tail::None) };
    let mut tail = [0; TAIL_BYTES];
    file.seek(SeekFrom::Start(rest))?;
    file.read_exact(&mut tail)?;
    let Some(bytes) = length(&tail) else { return Ok(Tail::None) };
    if bytes > rest || bytes > SCRIPT_BYTES_MAX {
        return Ok(Tail::TooLong(bytes));
    }
    file.seek(SeekFrom::Start(rest - bytes))?;
    let mut text = String::new();
    file.take(bytes).read_to_string(&mut text)?;
    Ok(Tail::Text(text))
}

fn length(tail: &[u8; TAIL_BYTES]) -> Option<u64> {
    let (bytes, magic) = tail.split_first_chunk::<8>()?;
    (magic == MAGIC).then(|| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Result<Script, &str>) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), bytes).expect("it can be written");
        match (read(file.path()), expected) {
            (Ok(script), Ok(expected)) => assert_eq!(script, expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_script_is_found_behind_the_library_and_only_the_newest_one() {
        let mut script = Script::default();
        script.cuda.init = 803;
        let once = append(b"library", &Script::default()).expect("appended");
        let twice = append(&once, &script).expect("appended");
        check(b"", Ok(Script::default()));
        check(b"library without a trailer, long enough for one", Ok(Script::default()));
        check(&once, Ok(Script::default()));
        check(&twice, Ok(script));
        assert_eq!(bare(&twice), b"library");
    }

    #[test]
    fn a_damaged_trailer_is_refused() {
        check(b"\xff\0\0\0\0\0\0\0FAKE-GPU-SCRIPT\n", Err("says 255 bytes"));
        check(b"x = 1\x05\0\0\0\0\0\0\0FAKE-GPU-SCRIPT\n", Err("holds no script"));
    }
}
