//! One directory of the cgroup file system and its control files.
//!
//! Control files are opened through a descriptor of the directory: what was checked at the start is what is used, and
//! the files of a removed cgroup are gone even if another has its name.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use super::CgroupError;

/// More than any control file that is read here has; the largest are lists of processes.
const CONTROL_FILE_BYTES_MAX: usize = 1 << 20;

/// More than any jail has, which may have no cgroup below it at all.
const DEPTH_MAX: u32 = 16;

/// How often a removal is tried again while the last process is being taken apart, for which there is no event.
const REMOVAL_PAUSE: Duration = Duration::from_millis(1);

/// A directory of cgroup version 2.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

// === impl Directory ===

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self, CgroupError> {
        let path = std::fs::canonicalize(path).map_err(failed("resolve", path))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| failed("open", &path)(errno.into()))?;
        let kind = fstatfs(&fd).map_err(|errno| failed("ask about", &path)(errno.into()))?;
        if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(CgroupError::NotVersion2 { path });
        }
        Ok(Self { path, fd })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory `name` below this one.
    pub(super) fn child(&self, name: &str) -> Result<Self, CgroupError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty());
        let fd = fd.map_err(|errno| self.failed("open", name)(errno.into()))?;
        Ok(Self { path: self.path.join(name), fd })
    }

    /// Makes the directory `name` below this one; it must not exist.
    pub(super) fn make(&self, name: &str) -> Result<Self, CgroupError> {
        let made = rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755));
        made.map_err(|errno| self.failed("make", name)(errno.into()))?;
        self.child(name)
    }

    /// The names of all directories below this one.
    pub(super) fn children(&self) -> Result<Vec<String>, CgroupError> {
        let failed = |errno: rustix::io::Errno| self.failed("list", "")(errno.into());
        let mut names = Vec::new();
        for entry in Dir::new(self.open_listing()?).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if entry.file_type().is_dir() && name != b"." && name != b".." {
                names.push(String::from_utf8_lossy(name).into_owned());
            }
        }
        Ok(names)
    }

    /// A descriptor that can be listed and locked, which one for the path alone cannot.
    pub(super) fn open_listing(&self) -> Result<OwnedFd, CgroupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty());
        fd.map_err(|errno| self.failed("open", "")(errno.into()))
    }

    /// A control file's text, without the line end.
    pub(super) fn read(&self, file: &str) -> Result<String, CgroupError> {
        let fd = self.open_file(file, OFlags::RDONLY)?;
        self.read_again(file, &fd)
    }

    pub(super) fn exists(&self, file: &str) -> Result<bool, CgroupError> {
        match rustix::fs::statat(&self.fd, file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.failed("ask about", file)(errno.into())),
        }
    }

    pub(super) fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let fd = self.open_file(file, OFlags::WRONLY)?;
        // One call: the kernel takes each write as a whole command.
        let written = rustix::io::write(&fd, value.as_bytes());
        match written.map_err(|errno| self.failed("write", file)(errno.into()))? {
            length if length == value.len() => Ok(()),
            _ => Err(self.failed("write all of", file)(io::ErrorKind::WriteZero.into())),
        }
    }

    /// Writes `value` and makes sure that one line of the file then is `reads`.
    pub(super) fn set(&self, file: &str, value: &str, reads: &str) -> Result<(), CgroupError> {
        self.write(file, value)?;
        let read = self.read(file)?;
        if read.lines().any(|line| line == reads) {
            return Ok(());
        }
        Err(CgroupError::NotTaken { path: self.path.join(file), written: value.to_owned(), read })
    }

    /// The number in a file that has only one.
    pub(super) fn number(&self, file: &str) -> Result<u64, CgroupError> {
        let text = self.read(file)?;
        text.parse().map_err(|_| self.unreadable(file, "number", text))
    }

    /// The number after `key` in a file of `key number` lines.
    pub(super) fn keyed(&self, file: &str, key: &'static str) -> Result<u64, CgroupError> {
        let text = self.read(file)?;
        keyed(&text, key).ok_or_else(|| self.unreadable(file, key, text))
    }

    /// Kills every process in this cgroup and below; they cannot prevent it, nor outrun it by making new ones.
    pub(super) fn kill(&self) -> Result<(), CgroupError> {
        self.write("cgroup.kill", "1")
    }

    /// Waits until no process is in this cgroup or below; answers whether that came true.
    pub(super) fn wait_empty(&self, timeout: Duration) -> Result<bool, CgroupError> {
        const EVENTS: &str = "cgroup.events";
        let deadline = Instant::now() + timeout;
        let fd = self.open_file(EVENTS, OFlags::RDONLY)?;
        loop {
            // Reading also arms the poll: it wakes at the first change after what was read.
            let text = self.read_again(EVENTS, &fd)?;
            match keyed(&text, "populated") {
                Some(0) => return Ok(true),
                Some(_) => {}
                None => return Err(self.unreadable(EVENTS, "populated", text)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let left = Timespec::try_from(left)
                .map_err(|_| self.failed("wait for", EVENTS)(io::ErrorKind::InvalidInput.into()))?;
            match poll(&mut [PollFd::new(&fd, PollFlags::PRI)], Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.failed("wait for", EVENTS)(errno.into())),
            }
        }
    }

    /// Kills what is inside, waits for its end, and removes this directory with all below it.
    pub(super) fn clear_and_remove(&self, timeout: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + timeout;
        self.kill()?;
        if !self.wait_empty(timeout)? {
            return Err(CgroupError::StillPopulated { path: self.path.clone(), waited: timeout });
        }
        self.remove(deadline, DEPTH_MAX)
    }

    fn remove(&self, deadline: Instant, depth: u32) -> Result<(), CgroupError> {
        if depth == 0 {
            return Err(self.failed("remove what is so deep below", "")(io::ErrorKind::InvalidInput.into()));
        }
        for name in self.children()? {
            self.child(&name)?.remove(deadline, depth - 1)?;
        }
        loop {
            match std::fs::remove_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    std::thread::sleep(REMOVAL_PAUSE);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => return other.map_err(failed("remove", &self.path)),
            }
        }
    }

    pub(super) fn failed(&self, operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> CgroupError + use<> {
        let path = if file.is_empty() { self.path.clone() } else { self.path.join(file) };
        move |source| CgroupError::File { operation, path, source }
    }

    fn unreadable(&self, file: &str, what: &'static str, text: String) -> CgroupError {
        CgroupError::Unreadable { path: self.path.join(file), what, text }
    }

    fn open_file(&self, file: &str, flags: OFlags) -> Result<OwnedFd, CgroupError> {
        let fd = rustix::fs::openat(&self.fd, file, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        fd.map_err(|errno| self.failed("open", file)(errno.into()))
    }

    fn read_again(&self, file: &str, fd: &OwnedFd) -> Result<String, CgroupError> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let offset = bytes.len() as u64;
            match rustix::io::pread(fd, &mut chunk, offset) {
                Ok(0) => break,
                Ok(length) => bytes.extend_from_slice(&chunk[..length]),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.failed("read", file)(errno.into())),
            }
            if bytes.len() > CONTROL_FILE_BYTES_MAX {
                return Err(self.failed("read the whole of", file)(io::ErrorKind::FileTooLarge.into()));
            }
        }
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The number after `key` among `key number` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.parse().ok())
}

fn failed<P: AsRef<OsStr> + ?Sized>(
    operation: &'static str,
    path: &P,
) -> impl FnOnce(io::Error) -> CgroupError + use<P> {
    let path = PathBuf::from(path.as_ref());
    move |source| CgroupError::File { operation, path, source }
}
