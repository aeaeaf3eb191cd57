//! The disk that is written, or a file that stands for one.
//!
//! A disk is opened exclusively, so that the kernel itself refuses one that is in use, and past the page cache, so that
//! progress is the stick's and what is read back comes from the stick. A file goes through the cache, which is emptied
//! before it is read.
//!
//! Invariants: what is written or read begins and ends at a multiple of [`ALIGNMENT`], and its memory does too; a disk is
//! never made longer; an error says where on the disk it happened.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise};
use thiserror::Error;

/// Sectors have 512 or 4096 bytes, and pages 4096.
pub(crate) const ALIGNMENT: usize = 4096;

/// Memory that a disk can be read into without a copy.
#[derive(Debug)]
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

/// An open disk.
#[derive(Debug)]
pub(crate) struct Target {
    file: File,
    name: PathBuf,
    bytes: u64,
    is_disk: bool,
    is_direct: bool,
    /// Whether it can be told to hold zeros without being sent any.
    can_clear: bool,
}

/// A stretch of a target as a file of its own, such as one partition.
#[derive(Debug)]
pub(crate) struct Stretch<'a> {
    target: &'a mut Target,
    start: u64,
    bytes: u64,
    at: u64,
    block: Aligned,
}

/// One block of a stretch.
struct Loaded {
    from: u64,
    inside: usize,
    usable: usize,
    length: usize,
}

/// Why a target cannot be opened, read or written.
#[derive(Debug, Error)]
pub(crate) enum TargetError {
    #[error("open {}", .name.display())]
    Open {
        name: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} needs root", .0.display())]
    Root(PathBuf),
    #[error("{} is in use by this computer", .0.display())]
    Busy(PathBuf),
    #[error("{} is neither a disk nor a plain file", .0.display())]
    Kind(PathBuf),
    #[error("{} is gone: it was pulled out", .0.display())]
    Gone(PathBuf),
    #[error("no more room at byte {at} of {}", .name.display())]
    Full { name: PathBuf, at: u64 },
    #[error("{doing} {} at byte {at}", .name.display())]
    Medium {
        doing: &'static str,
        name: PathBuf,
        at: u64,
        #[source]
        source: io::Error,
    },
}

// === impl Aligned ===

impl Aligned {
    pub(crate) fn zeroed(length: usize) -> Aligned {
        let memory = vec![0_u8; length + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        assert!(start <= ALIGNMENT, "bytes can be aligned to anything");
        Aligned { memory, start, length }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }

    pub(crate) fn is_zero(&self) -> bool {
        is_zero(self.bytes())
    }
}

/// Whether there is nothing but zeros. Compared by the page, which every build does with wide instructions.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];
    bytes.chunks(ALIGNMENT).all(|page| page == &ZEROS[..page.len()])
}

// === impl Target ===

impl Target {
    /// Opens a disk for nobody else. Errors: `Busy` if it, or a partition of it, is mounted or held.
    pub(crate) fn disk(name: &Path) -> Result<Target, TargetError> {
        let exclusive = OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let open = |flags: OFlag| OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(name);
        let (opened, is_direct) = match open(exclusive | OFlag::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => (open(exclusive), false),
            other => (other, true),
        };
        let file = opened.map_err(|source| refused(name, source))?;
        let kind = file.metadata().map_err(|source| TargetError::Open { name: name.to_owned(), source })?.file_type();
        if !kind.is_block_device() {
            return Err(TargetError::Kind(name.to_owned()));
        }
        Target::of(file, name, true, is_direct)
    }

    /// Opens a file that stands for a disk of `bytes`, and makes it so long. What it held stays, as on a stick.
    pub(crate) fn file(name: &Path, bytes: u64) -> Result<Target, TargetError> {
        let wrong = |source| refused(name, source);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(name).map_err(wrong)?;
        if !file.metadata().map_err(wrong)?.is_file() {
            return Err(TargetError::Kind(name.to_owned()));
        }
        file.set_len(bytes).map_err(wrong)?;
        Target::of(file, name, false, false)
    }

    /// Opens what is there, disk or file, to read and change it.
    pub(crate) fn existing(name: &Path) -> Result<Target, TargetError> {
        let metadata = std::fs::metadata(name).map_err(|source| refused(name, source))?;
        match metadata.file_type() {
            kind if kind.is_block_device() => Target::disk(name),
            kind if kind.is_file() => Target::file(name, metadata.len()),
            _ => Err(TargetError::Kind(name.to_owned())),
        }
    }

    /// Opens what is there, only to read it; it may be in use.
    pub(crate) fn reading(name: &Path) -> Result<Target, TargetError> {
        let file = File::open(name).map_err(|source| refused(name, source))?;
        let kind = file.metadata().map_err(|source| refused(name, source))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(TargetError::Kind(name.to_owned()));
        }
        Target::of(file, name, kind.is_block_device(), false)
    }

    fn of(mut file: File, name: &Path, is_disk: bool, is_direct: bool) -> Result<Target, TargetError> {
        let bytes = file.seek(SeekFrom::End(0)).map_err(|source| refused(name, source))?;
        Ok(Target { file, name: name.to_owned(), bytes, is_disk, is_direct, can_clear: true })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    /// The device's number, as `8:16`; `None` for a file.
    pub(crate) fn number(&self) -> Option<String> {
        let metadata = self.file.metadata().ok().filter(|_| self.is_disk)?;
        let device = metadata.rdev();
        Some(format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device)))
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.file.write_all_at(bytes, at).map_err(|source| self.medium("write", at, source))
    }

    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.file.read_exact_at(into, at).map_err(|source| self.medium("read", at, source))
    }

    /// Makes `buffer`'s length from `at` read as zeros. Answers whether that is still to be proven by reading: `false`
    /// if it was read as zeros just now. Zeros are sent only where something else is, since a new stick is mostly
    /// zero and reads faster than it writes.
    pub(crate) fn clear(&mut self, at: u64, buffer: &mut Aligned) -> Result<bool, TargetError> {
        if self.can_clear {
            let length = i64::try_from(buffer.length).unwrap_or(i64::MAX);
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let done = i64::try_from(at).map_err(|_| Errno::EINVAL);
            match done.and_then(|at| fallocate(&self.file, flags, at, length)) {
                Ok(()) => return Ok(true),
                // What it cannot do it need not do: any trouble of the medium shows in what follows.
                Err(_) => self.can_clear = false,
            }
        }
        self.read(at, buffer.bytes_mut())?;
        if buffer.is_zero() {
            return Ok(false);
        }
        buffer.bytes_mut().fill(0);
        self.write(at, buffer.bytes())?;
        Ok(true)
    }

    /// Waits until everything is on the medium.
    pub(crate) fn sync(&self) -> Result<(), TargetError> {
        self.file.sync_data().map_err(|source| self.medium("finish writing", 0, source))
    }

    /// Makes the next reads come from the medium and not from memory. Call after [`Target::sync`].
    pub(crate) fn forget(&self) {
        if !self.is_direct {
            // A file system without a cache has nothing to forget.
            let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
    }

    /// For a test: whether it is a medium that clears by itself.
    #[cfg(test)]
    pub(crate) fn can_clear(&mut self, can: bool) {
        self.can_clear = can;
    }

    /// The stretch of `bytes` from `start`.
    pub(crate) fn stretch(&mut self, start: u64, bytes: u64) -> Stretch<'_> {
        Stretch { target: self, start, bytes, at: 0, block: Aligned::zeroed(ALIGNMENT) }
    }

    /// Names what went wrong at `at`. A disk that was pulled out says so in several ways.
    fn medium(&self, doing: &'static str, at: u64, source: io::Error) -> TargetError {
        let name = self.name.clone();
        let code = source.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        let is_gone = matches!(code, Errno::ENODEV | Errno::ENXIO | Errno::ENOMEDIUM);
        if self.is_disk && (is_gone || !self.is_there()) {
            return TargetError::Gone(name);
        }
        if code == Errno::ENOSPC || code == Errno::EFBIG {
            return TargetError::Full { name, at };
        }
        TargetError::Medium { doing, name, at, source }
    }

    /// Whether the kernel still knows the disk under its name and number.
    fn is_there(&self) -> bool {
        let file = self.name.file_name().unwrap_or_default();
        let here = std::fs::read_to_string(Path::new("/sys/class/block").join(file).join("dev"));
        // A path that is no kernel name, such as one below /dev/disk, is not looked up.
        self.name.parent() != Some(Path::new("/dev")) || here.ok().map(|it| it.trim().to_owned()) == self.number()
    }
}

fn refused(name: &Path, source: io::Error) -> TargetError {
    match source.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw) {
        Errno::EACCES | Errno::EPERM => TargetError::Root(name.to_owned()),
        Errno::EBUSY => TargetError::Busy(name.to_owned()),
        Errno::ENXIO | Errno::ENODEV | Errno::ENOMEDIUM => TargetError::Gone(name.to_owned()),
        _ => TargetError::Open { name: name.to_owned(), source },
    }
}

// === impl Stretch ===

impl Stretch<'_> {
    /// Reads the block under the cursor. Answers where it begins, the cursor's place in it, how many bytes from there
    /// are the stretch's, and how long the block is: a disk may end within one.
    fn load(&mut self) -> io::Result<Loaded> {
        let size = u64::try_from(ALIGNMENT).map_err(io::Error::other)?;
        let place = self.start + self.at;
        let from = place / size * size;
        let length = size.min(self.target.bytes.saturating_sub(from));
        let end = (self.start + self.bytes).min(from + length);
        let narrow = |bytes: u64| usize::try_from(bytes).map_err(io::Error::other);
        let loaded = Loaded {
            from,
            inside: narrow(place - from)?,
            usable: narrow(end.saturating_sub(place))?,
            length: narrow(length)?,
        };
        if loaded.usable > 0 {
            self.target.read(from, &mut self.block.bytes_mut()[..loaded.length]).map_err(io::Error::other)?;
        }
        Ok(loaded)
    }

    fn advance(&mut self, count: usize) -> io::Result<usize> {
        self.at += u64::try_from(count).map_err(io::Error::other)?;
        Ok(count)
    }
}

impl Read for Stretch<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Loaded { inside, usable, .. } = self.load()?;
        let count = usable.min(into.len());
        into[..count].copy_from_slice(&self.block.bytes()[inside..inside + count]);
        self.advance(count)
    }
}

impl Write for Stretch<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Loaded { from, inside, usable, length } = self.load()?;
        let count = usable.min(bytes.len());
        self.block.bytes_mut()[inside..inside + count].copy_from_slice(&bytes[..count]);
        if count > 0 {
            self.target.write(from, &self.block.bytes()[..length]).map_err(io::Error::other)?;
        }
        self.advance(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.sync().map_err(io::Error::other)
    }
}

impl Seek for Stretch<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
