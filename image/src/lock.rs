//! The packages of a release, each by version, size and hash: what `*.lock` holds.
//!
//! Invariants: sets and packages are sorted, so that a diff shows what changed; no host is named; a package's path stays
//! inside the archive's pool; nothing enters a build that is not here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// The format of the file.
const FORMAT: u32 = 1;

/// No set of ours is near this; a file that says so is damaged.
const PACKAGES_MAX: usize = 4096;

/// The largest package of Debian (a game's data) is below this.
const PACKAGE_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Which archive a package is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// The release itself.
    Main,
    /// Its security updates.
    Security,
}

/// One package, as it is in the archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// The binary package's.
    pub name: String,
    /// With the epoch, if it has one: `2:1.02.205-2`.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// The archive that has it.
    pub suite: Suite,
    /// Inside the archive: `pool/main/k/kmod/kmod_34.2-2_amd64.deb`.
    pub path: String,
    /// Of the `.deb`.
    pub bytes: u64,
    /// SHA-256 of the `.deb`, in lower-case hex.
    pub sha256: String,
}

/// Packages by set: `root`, `builder`, `kernel` and so on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// Each sorted by name.
    pub sets: BTreeMap<String, Vec<LockedPackage>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u32,
    #[serde(default)]
    sets: BTreeMap<String, Vec<LockedPackage>>,
}

/// Why a lock cannot be used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum LockError {
    #[error("read {}; `rig image lock` writes it", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{whence} is not a lock")]
    Parse {
        whence: String,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{whence} has format {found}, and this program reads {FORMAT}")]
    Format { whence: String, found: u32 },
    #[error("{whence}: {package} in set {set}: {what}")]
    Package { whence: String, set: String, package: String, what: &'static str },
    #[error("the lock has no set {0:?}; `rig image lock` writes it")]
    Set(String),
    #[error("two locks have a set {0:?}")]
    Twice(String),
}

// === impl Suite ===

impl Suite {
    /// As the lock has it.
    pub fn word(self) -> &'static str {
        match self {
            Suite::Main => "main",
            Suite::Security => "security",
        }
    }
}

// === impl LockedPackage ===

impl LockedPackage {
    /// The name of the `.deb` as apt would keep it: `kmod_34.2-2_amd64.deb`.
    pub fn file_name(&self) -> &str {
        self.path.rsplit_once('/').map_or(self.path.as_str(), |(_, name)| name)
    }

    /// What is wrong with it, if anything.
    fn fault(&self) -> Option<&'static str> {
        let is_plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|sign| sign.is_ascii_alphanumeric() || b"+-.~:_%".contains(&sign))
        };
        let is_pool = self.path.starts_with("pool/")
            && self.path.ends_with(".deb")
            && self.path.split('/').all(|part| is_plain(part) && part != "." && part != "..");
        let is_hash = self.sha256.len() == 64
            && self.sha256.bytes().all(|sign| sign.is_ascii_digit() || (b'a'..=b'f').contains(&sign));
        if !(is_plain(&self.name) && is_plain(&self.version) && is_plain(&self.architecture)) {
            return Some("its name, version or architecture has signs that Debian does not use");
        }
        if !is_pool {
            return Some("its path is not a .deb below pool/");
        }
        if !is_hash {
            return Some("its sha256 is not 64 hex digits in lower case");
        }
        (self.bytes == 0 || self.bytes > PACKAGE_BYTES_MAX).then_some("its size cannot be")
    }
}

// === impl Lock ===

impl Lock {
    /// Reads the lock at `path`.
    pub fn read(path: &Path) -> Result<Lock, LockError> {
        let text = std::fs::read_to_string(path).map_err(|source| LockError::Read { path: path.to_owned(), source })?;
        Lock::parse(&text, &path.display().to_string())
    }

    /// Parses `text`, which came from `whence`.
    pub fn parse(text: &str, whence: &str) -> Result<Lock, LockError> {
        let whence = whence.to_owned();
        let parsed: Text = toml::from_str(text)
            .map_err(|source| LockError::Parse { whence: whence.clone(), source: Box::new(source) })?;
        if parsed.format != FORMAT {
            return Err(LockError::Format { whence, found: parsed.format });
        }
        for (set, packages) in &parsed.sets {
            let refused = |package: &str, what| {
                let (whence, set, package) = (whence.clone(), set.clone(), package.to_owned());
                Err(LockError::Package { whence, set, package, what })
            };
            if packages.len() > PACKAGES_MAX {
                return refused("all", "it has more packages than any set of ours");
            }
            for (at, package) in packages.iter().enumerate() {
                if let Some(what) = package.fault() {
                    return refused(&package.name, what);
                }
                if at > 0 && packages[at - 1].name >= package.name {
                    return refused(&package.name, "packages are sorted by name, and each is there once");
                }
            }
        }
        Ok(Lock { sets: parsed.sets })
    }

    /// The text of the file: one line for each package.
    pub fn to_text(&self) -> String {
        let mut text =
            format!("# Written by `rig image lock`; edit the definition, not this.\nformat = {FORMAT}\n\n[sets]\n");
        for (set, packages) in &self.sets {
            let _ = writeln!(text, "{set} = [");
            for LockedPackage { name, version, architecture, suite, path, bytes, sha256 } in packages {
                let suite = suite.word();
                let _ = writeln!(
                    text,
                    "    {{ name = \"{name}\", version = \"{version}\", architecture = \"{architecture}\", suite = \"{suite}\", \
                     path = \"{path}\", bytes = {bytes}, sha256 = \"{sha256}\" }},"
                );
            }
            text.push_str("]\n");
        }
        text
    }

    /// The packages of `set`.
    pub fn set(&self, set: &str) -> Result<&[LockedPackage], LockError> {
        self.sets.get(set).map(Vec::as_slice).ok_or_else(|| LockError::Set(set.to_owned()))
    }

    /// Adds the sets of `other`, which must be others.
    pub fn join(mut self, other: Lock) -> Result<Lock, LockError> {
        for (set, packages) in other.sets {
            if self.sets.contains_key(&set) {
                return Err(LockError::Twice(set));
            }
            self.sets.insert(set, packages);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
