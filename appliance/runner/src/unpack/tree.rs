//! Changes to the tree that layers are unpacked into. The working directory is its root.
//!
//! Invariants: what an entry replaces is removed first, so nothing is written through what an earlier entry
//! left; no file has a set-uid or set-gid bit; owners are ids of the slot.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT, futimens};

use super::entry_path::EntryPath;

/// Who owns an entry, and what may be done with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    /// Within the slot.
    pub(super) uid: u32,
    /// Within the slot.
    pub(super) gid: u32,
    /// Permission bits and the sticky bit.
    pub(super) mode: u32,
    /// Unix seconds.
    pub(super) modified_unix: i64,
}

/// What the present layer has made; whiteouts hide only what is older.
#[derive(Debug, Default)]
pub(super) struct Made(HashSet<PathBuf>);

// === impl Made ===

impl Made {
    pub(super) fn note(&mut self, path: &EntryPath) {
        self.0.insert(path.as_path().to_owned());
        self.0.extend(path.parents().map(Path::to_owned));
    }

    /// Removes `path` unless this layer made it.
    pub(super) fn hide(&self, path: &EntryPath) -> io::Result<()> {
        if self.0.contains(path.as_path()) { Ok(()) } else { remove(path.as_path()) }
    }

    /// Removes what is below the directory `path`, except what this layer made.
    pub(super) fn hide_below(&self, path: &EntryPath) -> io::Result<()> {
        let mut open = vec![path.as_path().to_owned()];
        while let Some(dir) = open.pop() {
            let listed = if dir.as_os_str().is_empty() { Path::new(".") } else { &dir };
            let entries = match fs::read_dir(listed) {
                Err(error) if is_absent(&error) => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let path = dir.join(entry.file_name());
                if !self.0.contains(&path) {
                    remove(&path)?;
                } else if entry.file_type()?.is_dir() {
                    open.push(path);
                }
            }
        }
        Ok(())
    }
}

/// Makes the missing directories on the way to `path`.
pub(super) fn make_parents(path: &EntryPath) -> io::Result<()> {
    match path.as_path().parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)
        }
        _ => Ok(()),
    }
}

pub(super) fn directory(path: &EntryPath, attributes: Attributes) -> io::Result<()> {
    let path = if path.is_root() { Path::new(".") } else { path.as_path() };
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        remove(path)?;
        fs::DirBuilder::new().mode(0o700).create(path)?;
    }
    lchown(path, Some(attributes.uid), Some(attributes.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(attributes.mode))
}

/// Makes a regular file of what `content` yields; answers its length in bytes.
pub(super) fn file(path: &EntryPath, attributes: Attributes, content: &mut impl io::Read) -> io::Result<u64> {
    remove(path.as_path())?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path.as_path())?;
    let bytes = io::copy(content, &mut file)?;
    std::os::unix::fs::fchown(&file, Some(attributes.uid), Some(attributes.gid))?;
    file.set_permissions(fs::Permissions::from_mode(attributes.mode))?;
    // Python believes its compiled modules by the source's time, so the time is part of the content.
    set_modified(&file, attributes.modified_unix)?;
    Ok(bytes)
}

pub(super) fn symlink(path: &EntryPath, attributes: Attributes, target: &Path) -> io::Result<()> {
    remove(path.as_path())?;
    std::os::unix::fs::symlink(target, path.as_path())?;
    lchown(path.as_path(), Some(attributes.uid), Some(attributes.gid))
}

pub(super) fn hard_link(path: &EntryPath, target: &EntryPath) -> io::Result<()> {
    if path == target {
        return Ok(());
    }
    remove(path.as_path())?;
    fs::hard_link(target.as_path(), path.as_path())
}

fn set_modified(file: &File, unix: i64) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: unix, tv_nsec: 0 },
    };
    Ok(futimens(file, &times)?)
}

/// Removes whatever is at `path`, if anything is; never follows a final link.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if is_absent(&error) => Ok(()),
        result => result,
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
