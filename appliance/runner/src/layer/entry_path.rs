//! What a tar entry's path means.
//!
//! Invariant: an [`EntryPath`] has only plain components, so joining it to a directory stays below it as far as
//! text can say; what links make of it is for the resolution to settle.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Broken;

/// The most components, and bytes, of one path (`PATH_MAX`, and more depth than any real image has).
pub(crate) const DEPTH_MAX: usize = 256;
const PATH_BYTES_MAX: usize = 4096;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path below the image's root; empty for the root itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EntryPath(PathBuf);

/// What an entry asks for, by its name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// An entry of its own.
    Plain(EntryPath),
    /// What lower layers put there goes.
    Whiteout(EntryPath),
    /// What lower layers put into the directory goes.
    Opaque(EntryPath),
}

// === impl EntryPath ===

impl EntryPath {
    /// Reads the path of an entry or the target of a hard link: a leading `/` counts for nothing.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, Broken> {
        let refused = |reason| Broken::Entry { path: PathBuf::from(OsStr::from_bytes(raw)), reason };
        if raw.len() > PATH_BYTES_MAX {
            let path = PathBuf::from(OsStr::from_bytes(&raw[..64]));
            return Err(Broken::Entry { path, reason: "a path of more than 4096 bytes" });
        }
        if raw.contains(&0) {
            return Err(refused("a zero byte in its path"));
        }
        let mut path = PathBuf::new();
        let mut depth = 0;
        for name in raw.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
            if name == b".." {
                return Err(refused("'..' in its path"));
            }
            depth += 1;
            path.push(OsStr::from_bytes(name));
        }
        if depth > DEPTH_MAX {
            return Err(refused("more than 256 directories in its path"));
        }
        Ok(Self(path))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.as_os_str().is_empty()
    }

    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }

    /// The directory that it is in, and its name there. Of the root: itself, and `.`.
    pub(crate) fn split(&self) -> (&Path, &OsStr) {
        match (self.0.parent(), self.0.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => (&self.0, OsStr::new(".")),
        }
    }
}

// === impl Meaning ===

impl Meaning {
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, Broken> {
        let EntryPath(path) = EntryPath::parse(raw)?;
        let parent = || EntryPath(path.parent().unwrap_or(Path::new("")).to_owned());
        let hidden = path.file_name().and_then(|name| name.as_bytes().strip_prefix(WHITEOUT).map(|_| name.as_bytes()));
        match hidden {
            None => Ok(Self::Plain(EntryPath(path))),
            Some(OPAQUE) => Ok(Self::Opaque(parent())),
            Some(name) => {
                let hidden = &name[WHITEOUT.len()..];
                if matches!(hidden, b"" | b"." | b"..") || hidden.starts_with(WHITEOUT) {
                    return Err(Broken::Entry { path, reason: "a whiteout of nothing" });
                }
                let hidden: OsString = OsStr::from_bytes(hidden).to_owned();
                Ok(Self::Whiteout(EntryPath(parent().0.join(hidden))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath(PathBuf::from(text))
    }

    #[test]
    fn a_path_is_its_plain_components() {
        for (raw, expected) in
            [("a/b", "a/b"), ("./a//b/", "a/b"), ("/etc/passwd", "etc/passwd"), ("./", ""), ("a..b", "a..b")]
        {
            assert_eq!(EntryPath::parse(raw.as_bytes()).expect(raw), path(expected));
        }
        let (deep, long) = ("a/".repeat(257), "a".repeat(4097));
        for raw in ["..", "../a", "a/../b", "a/..", "a\0b", deep.as_str(), long.as_str()] {
            assert!(EntryPath::parse(raw.as_bytes()).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn a_whiteout_names_what_it_hides_and_nothing_above_it() {
        for (raw, expected) in [
            ("a/.wh.b", Meaning::Whiteout(path("a/b"))),
            (".wh.b", Meaning::Whiteout(path("b"))),
            ("a/.wh..wh..opq", Meaning::Opaque(path("a"))),
            (".wh..wh..opq", Meaning::Opaque(path(""))),
            ("a/.whb", Meaning::Plain(path("a/.whb"))),
        ] {
            assert_eq!(Meaning::parse(raw.as_bytes()).expect(raw), expected);
        }
        for raw in ["a/.wh.", "a/.wh..", "a/.wh...", "a/.wh..wh.plnk"] {
            assert!(Meaning::parse(raw.as_bytes()).is_err(), "{raw:?}");
        }
    }
}
