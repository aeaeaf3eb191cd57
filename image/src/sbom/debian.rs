//! What a Debian package brings: its files by content, and its licences.
//!
//! Invariants: nothing is unpacked to disk; paths are those of a merged /usr, as an image has them; what one package may
//! hold is bounded.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::licence::Licences;
use crate::lock::LockedPackage;
use crate::release_manifest::digest_of;

/// The headers of a kernel have some 20,000 files.
const FILES_MAX: usize = 200_000;
const COPYRIGHT_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// A package's contents.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    pub(crate) package: LockedPackage,
    /// SHA-256 by path without a slash in front.
    pub(crate) files: BTreeMap<String, [u8; 32]>,
    pub(crate) licences: Licences,
}

/// Why a package could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// dpkg is missing.
    #[error("start dpkg-deb, which opens packages; install the Debian package dpkg")]
    Start(#[source] io::Error),
    /// A damaged package.
    #[error("{} cannot be read", package.display())]
    Read {
        /// The .deb.
        package: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// More files than any package has.
    #[error("{} has more than {FILES_MAX} files", package.display())]
    TooMany {
        /// The .deb.
        package: PathBuf,
    },
}

// === impl Contents ===

impl Contents {
    /// Reads `file`, the .deb of `package`. Errors: all of [`ContentsError`].
    pub(crate) fn read(package: &LockedPackage, file: &Path) -> Result<Contents, ContentsError> {
        let failed = |source| ContentsError::Read { package: file.to_owned(), source };
        let mut opener = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(ContentsError::Start)?;
        let pipe = opener.stdout.take().expect("it was asked for");
        let read = Contents::entries(package, tar::Archive::new(pipe), file);
        let ended = opener.wait().map_err(failed)?;
        let contents = read?;
        match ended.success() {
            true => Ok(contents),
            false => Err(failed(io::Error::other("dpkg-deb found it damaged"))),
        }
    }

    fn entries(
        package: &LockedPackage,
        mut archive: tar::Archive<impl Read>,
        file: &Path,
    ) -> Result<Contents, ContentsError> {
        let failed = |source| ContentsError::Read { package: file.to_owned(), source };
        let mut files: BTreeMap<String, [u8; 32]> = BTreeMap::new();
        let mut licences = Licences::default();
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let path = merged(&String::from_utf8_lossy(&entry.path_bytes()));
            let kind = entry.header().entry_type();
            if kind.is_hard_link() {
                let target = entry.link_name_bytes().map(|name| merged(&String::from_utf8_lossy(&name)));
                if let Some(digest) = target.and_then(|target| files.get(&target).copied()) {
                    files.insert(path, digest);
                }
                continue;
            }
            if !kind.is_file() {
                continue;
            }
            if files.len() == FILES_MAX {
                return Err(ContentsError::TooMany { package: file.to_owned() });
            }
            let is_copyright = path == format!("usr/share/doc/{}/copyright", package.name);
            let digest = match is_copyright {
                true => {
                    let mut text = Vec::new();
                    entry.by_ref().take(COPYRIGHT_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
                    licences = Licences::read(&text);
                    Sha256::digest(&text).into()
                }
                false => digest_of(&mut entry).map_err(failed)?.1.0,
            };
            files.insert(path, digest);
        }
        Ok(Contents { package: package.clone(), files, licences })
    }

    /// The package as a package URL.
    pub(crate) fn url(&self) -> String {
        let LockedPackage { name, version, architecture, .. } = &self.package;
        let escape = |text: &str| text.replace('%', "%25").replace('+', "%2B").replace(':', "%3A");
        format!("pkg:deb/debian/{}@{}?arch={architecture}", escape(name), escape(version))
    }
}

/// A path as it is where /bin, /lib and /sbin are links into /usr.
fn merged(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    match ["bin/", "sbin/", "lib/", "lib32/", "lib64/"].iter().any(|top| path.starts_with(top)) {
        true => format!("usr/{path}"),
        false => path.to_owned(),
    }
}
