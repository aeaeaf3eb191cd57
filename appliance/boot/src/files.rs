//! Reads and writes small files so that neither a power cut nor a stranger's file does harm.
//!
//! Invariants: what is read is a plain file and has a bound; what is written is there whole or not at all, and is on the
//! disk when the call returns.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use nix::fcntl::OFlag;

/// Who owns a file or folder, and what others may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

// === impl Access ===

impl Access {
    /// Root's.
    #[must_use]
    pub const fn root(mode: u32) -> Access {
        Access { uid: 0, gid: 0, mode }
    }

    /// Gives `path` this owner and these bits. Errors: what the system said.
    pub fn give(self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))?;
        fs::set_permissions(path, Permissions::from_mode(self.mode))
    }
}

/// The first `most` bytes of the plain file at `path`; `None` if there is no such file.
/// Errors: it is something else, or cannot be read.
pub fn read(path: &Path, most: usize) -> io::Result<Option<Vec<u8>>> {
    // Opening a pipe or a device must not wait for anybody.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(most.try_into().unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// A short fact in a file, such as those that the first process leaves: its first line. `None`: it is not there.
#[must_use]
pub fn fact(path: &Path) -> Option<String> {
    /// No fact is longer.
    const FACT_BYTES_MAX: usize = 512;
    let bytes = read(path, FACT_BYTES_MAX).ok()??;
    let text = String::from_utf8(bytes).ok()?;
    let line = text.lines().next().unwrap_or_default().trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Puts `bytes` at `path`, in place of what is there. Errors: what the system said; then the old file is still there.
pub fn write(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let written = write_part(&part, bytes, access).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // Nobody reads it, and the next write replaces it.
        let _ = fs::remove_file(&part);
    }
    written?;
    sync_folder(path)
}

fn write_part(part: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits();
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(part)?;
    access.give(part)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The same, unless exactly that is there already. Says whether something was written.
pub fn write_if_other(path: &Path, bytes: &[u8], access: Access) -> io::Result<bool> {
    let there = read(path, bytes.len().saturating_add(1))?;
    if there.as_deref() == Some(bytes) {
        access.give(path)?;
        return Ok(false);
    }
    write(path, bytes, access).map(|()| true)
}

/// Makes the folder `path` if it is missing, and gives it its owner. Errors: what the system said, or a link is there:
/// what a stranger's disk points at is not given away.
pub fn folder(path: &Path, access: Access) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if !fs::symlink_metadata(path)?.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    access.give(path)
}

/// Makes the names in the folder of `path` durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_with_its_owner_and_only_when_it_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        let access = Access { uid: 802, gid: 800, mode: 0o640 };
        assert!(write_if_other(&path, b"one", access).expect("writes"));
        assert!(!write_if_other(&path, b"one", access).expect("writes"));
        assert!(write_if_other(&path, b"on", access).expect("writes"));
        use std::os::unix::fs::MetadataExt;
        let there = fs::metadata(&path).expect("is there");
        assert_eq!((there.uid(), there.gid(), there.mode() & 0o777, there.len()), (802, 800, 0o640, 2));
        assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 1);
    }

    #[test]
    fn a_folder_that_is_a_link_is_not_given_away() {
        use std::os::unix::fs::MetadataExt;
        let at = tempfile::tempdir().expect("a folder");
        let (real, link) = (at.path().join("real"), at.path().join("link"));
        folder(&real, Access::root(0o755)).expect("makes");
        std::os::unix::fs::symlink(&real, &link).expect("links");
        let error = folder(&link, Access { uid: 802, gid: 802, mode: 0o700 }).expect_err("a link");
        assert_eq!(error.kind(), ErrorKind::NotADirectory);
        let there = fs::metadata(&real).expect("is there");
        assert_eq!((there.uid(), there.mode() & 0o777), (0, 0o755));
    }

    #[test]
    fn only_plain_files_are_read_and_only_so_much_of_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        assert!(read(&at("none"), 9).expect("reads").is_none());
        fs::write(at("long"), "0123456789\nx").expect("writes");
        assert_eq!(read(&at("long"), 4).expect("reads").as_deref(), Some(&b"0123"[..]));
        assert_eq!(fact(&at("long")).as_deref(), Some("0123456789"));
        std::os::unix::fs::symlink(at("long"), at("link")).expect("links");
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("makes");
        for name in ["link", "pipe", "."] {
            assert!(read(&at(name), 9).is_err(), "{name}");
            assert!(fact(&at(name)).is_none(), "{name}");
        }
    }
}
