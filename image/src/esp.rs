//! The two FAT file systems of the image: what the firmware starts from, and what the owner writes to.
//!
//! Invariants: every file has the release's time; names and identifiers are fixed. With sectors of 4096 bytes FAT32 needs
//! more room than either has, so both are FAT16 there.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::file::{FileError, failed};
use crate::keys::Keys;
use crate::workshop::{Workshop, WorkshopError};

/// One FAT file system.
#[derive(Clone, Debug)]
pub struct Fat<'a> {
    /// The file in the work folder.
    pub file: &'a str,
    /// At most eleven signs, capitals.
    pub label: &'a str,
    /// Of the whole file system.
    pub bytes: u64,
    /// 512 or 4096.
    pub sector_bytes: u32,
    /// Files by path, without a slash in front.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Unix seconds.
    pub epoch: u64,
}

/// Why it was not made.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum FatBuildError {
    #[error("make the file system {label}")]
    Workshop {
        label: String,
        #[source]
        source: Box<WorkshopError>,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "{label} holds {bytes} bytes, more than nine tenths of its {room}: an update could not be written beside it"
    )]
    Full { label: String, bytes: u64, room: u64 },
}

/// What systemd-boot reads: start the newest at once, let nobody change a thing, touch no variable.
pub const LOADER_CONF: &str =
    "timeout 0\neditor no\nauto-entries no\nauto-firmware no\nrandom-seed-mode off\nsecure-boot-enroll if-safe\n";

/// What is on a boot partition: the loader, one entry for it (path and kernel image), and what it enrols in set-up mode.
pub fn boot_files(loader: Vec<u8>, entry: (String, Vec<u8>), keys: &Keys) -> BTreeMap<String, Vec<u8>> {
    let enrolment = keys.enrolment().into_iter();
    let mut files: BTreeMap<String, Vec<u8>> =
        enrolment.map(|(path, bytes)| (path.trim_start_matches('/').to_owned(), bytes)).collect();
    files.extend([
        ("EFI/BOOT/BOOTX64.EFI".to_owned(), loader),
        entry,
        ("loader/loader.conf".to_owned(), LOADER_CONF.as_bytes().to_vec()),
    ]);
    files
}

// === impl Fat ===

impl Fat<'_> {
    /// Makes it as `work/FILE`, sparse.
    pub fn make(&self, workshop: &Workshop, work: &Path) -> Result<PathBuf, FatBuildError> {
        let held: u64 = self.files.values().map(|content| u64::try_from(content.len()).unwrap_or(u64::MAX)).sum();
        if held > self.bytes / 10 * 9 {
            return Err(FatBuildError::Full { label: self.label.to_owned(), bytes: held, room: self.bytes });
        }
        let target = work.join(self.file);
        let file = File::create(&target).map_err(failed("make", &target))?;
        file.set_len(self.bytes).map_err(failed("size", &target))?;
        let tree = work.join(format!("{}.tree", self.file));
        if tree.exists() {
            fs::remove_dir_all(&tree).map_err(failed("remove", &tree))?;
        }
        fs::create_dir_all(&tree).map_err(failed("make", &tree))?;
        for (path, content) in &self.files {
            let to = tree.join(path);
            fs::create_dir_all(to.parent().unwrap_or(&tree)).map_err(failed("make", &to))?;
            fs::write(&to, content).map_err(failed("write", &to))?;
        }
        touch(&tree, self.epoch)?;
        let epoch = self.epoch.to_string();
        let run = |command: &[&str]| {
            let ran = workshop.run(work, command, &[("SOURCE_DATE_EPOCH", &epoch), ("MTOOLS_SKIP_CHECK", "1")]);
            ran.map_err(|source| FatBuildError::Workshop { label: self.label.to_owned(), source: Box::new(source) })
        };
        let (kind, sector) = (if self.sector_bytes == 512 { "32" } else { "16" }, self.sector_bytes.to_string());
        let serial = hex::encode(&Sha256::digest(format!("rig {}", self.label))[..4]);
        run(&[
            "mkfs.vfat",
            "--invariant",
            "-F",
            kind,
            "-S",
            &sector,
            "-s",
            "1",
            "-i",
            &serial,
            "-n",
            self.label,
            self.file,
        ])?;
        let mut folders: Vec<String> = Vec::new();
        for path in self.files.keys() {
            let mut at = 0;
            while let Some(slash) = path[at..].find('/') {
                at += slash + 1;
                folders.push(path[..at - 1].to_owned());
            }
        }
        folders.sort();
        folders.dedup();
        for folder in &folders {
            run(&["mmd", "-i", self.file, &format!("::/{folder}")])?;
        }
        for path in self.files.keys() {
            let from = format!("{}.tree/{path}", self.file);
            run(&["mcopy", "-m", "-i", self.file, &from, &format!("::/{path}")])?;
        }
        fs::remove_dir_all(&tree).map_err(failed("remove", &tree))?;
        Ok(target)
    }
}

/// Gives everything below `folder` the time `epoch`.
fn touch(folder: &Path, epoch: u64) -> Result<(), FatBuildError> {
    let time = UNIX_EPOCH + Duration::from_secs(epoch);
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let path = entry.map_err(failed("read", folder))?.path();
        if path.is_dir() {
            touch(&path, epoch)?;
        }
        let file = File::open(&path).map_err(failed("open", &path))?;
        file.set_times(FileTimes::new().set_accessed(time).set_modified(time)).map_err(failed("touch", &path))?;
    }
    Ok(())
}
