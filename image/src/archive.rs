//! Packages on this machine: fetched once, kept by their hash, checked whenever they are handed out.
//!
//! Invariants: a file in the cache carries its SHA-256 as its name, and gets it only after it was hashed; what is handed
//! out was hashed in this process. apt's own client fetches, so proxies and mirrors work as they do for apt.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use thiserror::Error;

use crate::file::{FileError, failed};
use crate::lock::LockedPackage;
use crate::mirrors::Mirrors;
use crate::release_manifest::digest_of;

/// apt's client for single files; it is in the package apt, but not on the search path.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// Packages that one start of the client fetches: few enough that progress moves.
const AT_ONCE: usize = 12;

/// The cache and where to fill it from.
#[derive(Debug)]
pub struct Archive {
    mirrors: Mirrors,
    folder: PathBuf,
    /// Hashes that were checked since this process began.
    checked: Mutex<BTreeSet<String>>,
}

/// Why a package is not here.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum ArchiveError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("start {APT_HELPER}, which fetches packages; install the Debian package apt")]
    Start(#[source] io::Error),
    #[error(
        "the mirror does not have {package}: {words}. If it has moved on to a newer version, `rig image lock` renews the \
         lock, and --renew does so for this build alone"
    )]
    Gone { package: String, words: String },
    #[error("what the mirror calls {package} is not what the lock names: its sha256 is {found}")]
    Hash { package: String, found: String },
}

// === impl Archive ===

impl Archive {
    /// Keeps packages below `cache`.
    pub fn new(mirrors: Mirrors, cache: &Path) -> Archive {
        Archive { mirrors, folder: cache.join("packages"), checked: Mutex::default() }
    }

    /// Where it is filled from.
    pub fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// The `.deb` of `package`, from the cache or else from the mirror.
    pub fn fetch(&self, package: &LockedPackage) -> Result<PathBuf, ArchiveError> {
        self.fetch_all(&[package], &mut |_| ())?;
        Ok(self.place(package))
    }

    /// Brings all of `packages` here; `progress` hears how many are missing still.
    pub fn fetch_all(&self, packages: &[&LockedPackage], progress: &mut dyn FnMut(usize)) -> Result<(), ArchiveError> {
        fs::create_dir_all(&self.folder).map_err(failed("make", &self.folder))?;
        let mut missing = Vec::new();
        for package in packages {
            if !self.has(package)? && !missing.contains(package) {
                missing.push(*package);
            }
        }
        let mut left = missing.len();
        for group in missing.chunks(AT_ONCE) {
            progress(left);
            self.download(group)?;
            left -= group.len();
        }
        Ok(())
    }

    /// Where `package` is or will be.
    fn place(&self, package: &LockedPackage) -> PathBuf {
        self.folder.join(format!("{}.deb", package.sha256))
    }

    fn is_checked(&self, package: &LockedPackage) -> bool {
        self.checked.lock().is_ok_and(|checked| checked.contains(&package.sha256))
    }

    fn note_checked(&self, package: &LockedPackage) {
        if let Ok(mut checked) = self.checked.lock() {
            checked.insert(package.sha256.clone());
        }
    }

    /// Whether the cache has it whole. What is damaged is removed, and fetched anew.
    fn has(&self, package: &LockedPackage) -> Result<bool, ArchiveError> {
        let place = self.place(package);
        if self.is_checked(package) {
            return Ok(true);
        }
        if !place.exists() {
            return Ok(false);
        }
        if sha256(&place).map_err(failed("read", &place))? == package.sha256 {
            self.note_checked(package);
            return Ok(true);
        }
        fs::remove_file(&place).map_err(failed("remove", &place))?;
        Ok(false)
    }

    /// Where it is until it was hashed.
    fn coming(&self, package: &LockedPackage) -> PathBuf {
        self.folder.join(format!("{}.{}", package.sha256, std::process::id()))
    }

    fn download(&self, group: &[&LockedPackage]) -> Result<(), ArchiveError> {
        let done = self.bring(group);
        if done.is_err() {
            for package in group {
                // Most were never there, or are in their place already.
                let _ = fs::remove_file(self.coming(package));
            }
        }
        done
    }

    fn bring(&self, group: &[&LockedPackage]) -> Result<(), ArchiveError> {
        let coming = |package: &LockedPackage| self.coming(package);
        let mut client = Command::new(APT_HELPER);
        // As root apt would fetch as a user of its own, who may not write here.
        client.args(["-o", "APT::Sandbox::User=root", "download-file"]);
        let mut words = String::new();
        let mut is_asked = false;
        for package in group {
            let url = self.mirrors.url(package.suite);
            if let Ok(base) = url.to_file_path() {
                let from = base.join(&package.path);
                if let Err(error) = fs::copy(&from, coming(package)) {
                    words = format!("{}: {error}", from.display());
                }
                continue;
            }
            is_asked = true;
            client.arg(format!("{url}{}", package.path)).arg(coming(package)).arg(format!("SHA256:{}", package.sha256));
            // Or a mirror could fill the disk before its answer turns out to be wrong.
            client.arg(format!("Checksum-FileSize:{}", package.bytes));
        }
        if is_asked {
            let done = client.output().map_err(ArchiveError::Start)?;
            let said = String::from_utf8_lossy(&done.stderr);
            words.push_str(said.lines().rfind(|line| line.starts_with("E:")).unwrap_or("no answer").trim());
        }
        for package in group {
            let came = coming(package);
            let named = || format!("{} {}", package.name, package.version);
            if !came.exists() {
                return Err(ArchiveError::Gone { package: named(), words });
            }
            let found = sha256(&came).map_err(failed("read", &came))?;
            if found != package.sha256 {
                return Err(ArchiveError::Hash { package: named(), found });
            }
            let place = self.place(package);
            fs::rename(&came, &place).map_err(failed("rename", &came))?;
            self.note_checked(package);
        }
        Ok(())
    }
}

/// SHA-256 of the file at `path`, in lower-case hex.
fn sha256(path: &Path) -> io::Result<String> {
    File::open(path).and_then(|mut file| digest_of(&mut file)).map(|(_, digest)| digest.to_string())
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::lock::Suite;

    /// An archive on a disk with one package, and that package.
    fn mirror(content: &[u8]) -> (tempfile::TempDir, Archive, LockedPackage) {
        let home = tempfile::tempdir().expect("a folder");
        let pool = home.path().join("debian/pool");
        fs::create_dir_all(&pool).expect("a folder");
        fs::write(pool.join("a_1_all.deb"), content).expect("a file");
        let mirrors = Mirrors::at(&format!("file://{}/debian", home.path().display())).expect("an address");
        let archive = Archive::new(mirrors, &home.path().join("cache"));
        let package = LockedPackage {
            name: "a".to_owned(),
            version: "1".to_owned(),
            architecture: "all".to_owned(),
            suite: Suite::Main,
            path: "pool/a_1_all.deb".to_owned(),
            bytes: 5,
            sha256: hex::encode(Sha256::digest(b"right")),
        };
        (home, archive, package)
    }

    #[test]
    fn a_package_is_fetched_once_and_kept() {
        let (home, archive, package) = mirror(b"right");
        let place = archive.fetch(&package).expect("it is there");
        fs::remove_dir_all(home.path().join("debian")).expect("ours");
        let again = Archive::new(archive.mirrors().clone(), &home.path().join("cache"));
        assert_eq!(again.fetch(&package).expect("from the cache"), place);
        assert_eq!(fs::read(place).expect("whole"), b"right");
    }

    #[test]
    fn another_package_under_the_same_name_is_refused() {
        let (_home, archive, package) = mirror(b"wrong");
        assert!(matches!(archive.fetch(&package), Err(ArchiveError::Hash { .. })));
        let left = fs::read_dir(&archive.folder).expect("a folder").count();
        assert_eq!(left, 0, "nothing of it is kept");
    }

    #[test]
    fn a_damaged_cache_is_mended_from_the_mirror() {
        let (home, archive, package) = mirror(b"right");
        let place = archive.fetch(&package).expect("it is there");
        fs::write(&place, b"rotten").expect("ours");
        let again = Archive::new(archive.mirrors().clone(), &home.path().join("cache"));
        assert_eq!(fs::read(again.fetch(&package).expect("mended")).expect("whole"), b"right");
    }

    #[test]
    fn a_version_that_is_gone_says_how_to_renew_the_lock() {
        let (home, archive, package) = mirror(b"right");
        fs::remove_dir_all(home.path().join("debian/pool")).expect("ours");
        let error = archive.fetch(&package).expect_err("it is gone").to_string();
        assert!(error.contains("rig image lock") && error.contains("a 1"), "{error}");
    }
}
