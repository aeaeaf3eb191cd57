//! Where a TPM is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Where to reach a TPM. Written `device:/dev/tpmrm0` or `unix:/run/tpm.sock`.
///
/// A device should be the kernel's resource manager, `/dev/tpmrm0`: it keeps the objects of processes apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// A character device of the kernel.
    Device(PathBuf),
    /// A Unix socket with bare frames: an emulator.
    Socket(PathBuf),
}

/// Words that are no [`Place`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no place of a TPM: write device:/dev/tpmrm0 or unix:/path/of/a/socket, with an absolute path")]
pub struct PlaceError(String);

// === impl Place ===

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(words: &str) -> Result<Self, PlaceError> {
        let place = match words.split_once(':') {
            Some(("device", path)) => Some(Self::Device(path.into())),
            Some(("unix", path)) => Some(Self::Socket(path.into())),
            Some(_) | None => None,
        };
        place.filter(|place| place.path().is_absolute()).ok_or_else(|| PlaceError(words.to_owned()))
    }
}

impl Place {
    pub(crate) fn path(&self) -> &std::path::Path {
        match self {
            Self::Device(path) | Self::Socket(path) => path,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Device(_) => "device",
            Self::Socket(_) => "unix",
        };
        write!(f, "{kind}:{}", self.path().display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_it_is_read() {
        for words in ["device:/dev/tpmrm0", "unix:/run/x.sock", "unix:/with:colon"] {
            assert_eq!(words.parse::<Place>().map(|place| place.to_string()).as_deref(), Ok(words));
        }
    }

    #[test]
    fn other_words_are_refused() {
        for words in ["", "device", "device:", "/dev/tpmrm0", "unix:relative", "tcp:/x", "Device:/dev/tpm0"] {
            assert_eq!(words.parse::<Place>(), Err(PlaceError(words.to_owned())));
        }
    }
}
