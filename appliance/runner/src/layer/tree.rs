//! Changes to the tree that one layer is unpacked into.
//!
//! Invariants: every path is resolved from the tree's root and cannot leave it (`RESOLVE_IN_ROOT`), and what it
//! leads to is changed through a descriptor of its directory; what an entry replaces is removed first, so
//! nothing is written through what an earlier entry left; a directory in the place of something that hid what
//! is below goes on hiding it; owners are ids that an image may speak of.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chownat, fchmod, fchown, fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::entry_path::{DEPTH_MAX, EntryPath};

/// What overlayfs, mounted with `userxattr`, takes for "nothing below shows".
const OPAQUE: (&str, &[u8]) = ("user.overlay.opaque", b"y");

/// What makes overlayfs look for hidden names when it lists a directory that nothing lies below. Without it a
/// whiteout there, which hides nothing, would be a name that is listed and that nobody can open or remove. Of any
/// length, and of none: "copied up, from where is not known".
const HAS_WHITEOUTS: (&str, &[u8]) = ("user.overlay.origin", b"");

const IN_TREE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

const FIND: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Who owns an entry, and what may be done with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    /// Within the image.
    pub(super) uid: u32,
    /// Within the image.
    pub(super) gid: u32,
    /// Permission bits and the sticky bit.
    pub(super) mode: u32,
    /// Unix seconds.
    pub(super) modified_unix: i64,
}

/// Why something was not made.
#[derive(Debug)]
pub(super) enum Trouble {
    Kernel(io::Error),
    /// Completes "the entry has".
    Refused(&'static str),
    TooManyEntries,
}

/// The tree of one layer.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// Unix seconds that directories get at the end: until then every entry in them changes their time.
    directories: BTreeMap<PathBuf, i64>,
    entries: u64,
    entries_max: u64,
}

// === impl Tree ===

impl Tree {
    pub(super) fn new(root: OwnedFd, entries_max: u64) -> io::Result<Self> {
        let root = openat(&root, ".", OPEN, Mode::empty())?;
        Ok(Self { root, directories: BTreeMap::from([(PathBuf::new(), 0)]), entries: 0, entries_max })
    }

    /// Entries read so far, and directories that they implied.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    pub(super) fn count_entry(&mut self) -> Result<(), Trouble> {
        self.entries += 1;
        if self.entries > self.entries_max { Err(Trouble::TooManyEntries) } else { Ok(()) }
    }

    pub(super) fn directory(&mut self, path: &EntryPath, attributes: Attributes) -> Result<(), Trouble> {
        let (parent, name) = self.place(path)?;
        if !stat(&parent, name)?.is_some_and(|found| kind(&found) == FileType::Directory) {
            replace_by_directory(&parent, name, Mode::from_raw_mode(0o700))?;
        }
        let directory = openat(&parent, name, OPEN, Mode::empty())?;
        attributes.give_to(&directory)?;
        self.directories.insert(path.as_path().to_owned(), attributes.modified_unix);
        Ok(())
    }

    /// Makes a regular file of what `content` yields; answers its length in bytes.
    pub(super) fn file(
        &mut self,
        path: &EntryPath,
        attributes: Attributes,
        content: &mut impl io::Read,
    ) -> Result<u64, Trouble> {
        let (parent, name) = self.place(path)?;
        remove(&parent, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
        let bytes = io::copy(content, &mut file)?;
        attributes.give_to(&file)?;
        // Python believes its compiled modules by the source's time, so the time is part of the content.
        futimens(&file, &modified(attributes.modified_unix))?;
        Ok(bytes)
    }

    pub(super) fn symlink(&mut self, path: &EntryPath, attributes: Attributes, target: &Path) -> Result<(), Trouble> {
        let (parent, name) = self.place(path)?;
        remove(&parent, name)?;
        symlinkat(target, &parent, name)?;
        let (uid, gid) = attributes.owners();
        chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        utimensat(&parent, name, &modified(attributes.modified_unix), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    pub(super) fn hard_link(&mut self, path: &EntryPath, target: &EntryPath) -> Result<(), Trouble> {
        const ELSEWHERE: Trouble = Trouble::Refused("a hard link to a file that is not in its own layer");
        if path == target {
            return Ok(());
        }
        let (from, linked) = target.split();
        let from = match openat2(&self.root, at(from), FIND, Mode::empty(), IN_TREE) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(ELSEWHERE),
            found => found?,
        };
        match stat(&from, linked)? {
            None => return Err(ELSEWHERE),
            Some(found) if is_whiteout(&found) => return Err(ELSEWHERE),
            Some(found) if kind(&found) == FileType::Directory => {
                return Err(Trouble::Refused("a hard link to a directory"));
            }
            Some(_) => {}
        }
        let (parent, name) = self.place(path)?;
        remove(&parent, name)?;
        Ok(linkat(&from, linked, &parent, name, AtFlags::empty())?)
    }

    /// Hides what lower layers have at `path`; what this layer made there stays.
    pub(super) fn hide(&mut self, path: &EntryPath) -> Result<(), Trouble> {
        let (parent, name) = self.place(path)?;
        match stat(&parent, name)? {
            None => {
                mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0)?;
                utimensat(&parent, name, &modified(0), AtFlags::SYMLINK_NOFOLLOW)?;
                mark(&parent, OsStr::new("."), HAS_WHITEOUTS)
            }
            Some(found) if kind(&found) == FileType::Directory => mark(&parent, name, OPAQUE),
            // It lies over whatever is below.
            Some(_) => Ok(()),
        }
    }

    /// Hides what lower layers have in the directory `path`; what this layer made there stays.
    pub(super) fn hide_below(&mut self, path: &EntryPath) -> Result<(), Trouble> {
        let directory = self.enter(path.as_path())?;
        mark(&directory, OsStr::new("."), OPAQUE)
    }

    /// Gives every directory its time. What a later entry replaced is not there any more.
    pub(super) fn set_times(&self) -> Result<(), Trouble> {
        for (path, unix) in &self.directories {
            match openat2(&self.root, at(path), OPEN, Mode::empty(), IN_TREE) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                directory => futimens(directory?, &modified(*unix))?,
            }
        }
        Ok(())
    }

    /// The directory that `path` is in, made if absent, and its name there.
    fn place<'p>(&mut self, path: &'p EntryPath) -> Result<(OwnedFd, &'p OsStr), Trouble> {
        let (parent, name) = path.split();
        Ok((self.enter(parent)?, name))
    }

    fn enter(&mut self, path: &Path) -> Result<OwnedFd, Trouble> {
        let path = at(path);
        let straight = IN_TREE | ResolveFlags::NO_SYMLINKS;
        match openat2(&self.root, path, FIND, Mode::empty(), straight) {
            Err(Errno::LOOP | Errno::NOENT | Errno::NOTDIR) => {}
            found => return Ok(found?),
        }
        let directory = match openat2(&self.root, path, FIND, Mode::empty(), IN_TREE) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_directories(path)?,
            found => found?,
        };
        self.check_depth(&directory)?;
        Ok(directory)
    }

    /// Makes what is missing of `path`. Each prefix is resolved from the root again, because a link may lead
    /// anywhere in the tree.
    fn make_directories(&mut self, path: &Path) -> Result<OwnedFd, Trouble> {
        let mut directory = openat(&self.root, ".", FIND, Mode::empty())?;
        let mut so_far = PathBuf::new();
        for name in path {
            so_far.push(name);
            directory = match openat2(&self.root, &so_far, FIND, Mode::empty(), IN_TREE) {
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    match stat(&directory, name)? {
                        None => {}
                        Some(found) if is_whiteout(&found) => {}
                        Some(found) if kind(&found) == FileType::Symlink => {
                            return Err(Trouble::Refused("a link that leads nowhere in its path"));
                        }
                        Some(_) => return Err(Trouble::Refused("a file in its path")),
                    }
                    self.count_entry()?;
                    replace_by_directory(&directory, name, Mode::from_raw_mode(0o755))?;
                    self.directories.insert(so_far.clone(), 0);
                    openat(&directory, name, FIND | OFlags::NOFOLLOW, Mode::empty())?
                }
                found => found?,
            };
        }
        Ok(directory)
    }

    /// A path is only so deep, but what links make of many could be deeper than anyone can remove.
    fn check_depth(&self, directory: &OwnedFd) -> Result<(), Trouble> {
        let root = fstat(&self.root)?;
        let mut above = openat(directory, ".", FIND, Mode::empty())?;
        for _ in 0..=DEPTH_MAX {
            let found = fstat(&above)?;
            if (found.st_dev, found.st_ino) == (root.st_dev, root.st_ino) {
                return Ok(());
            }
            above = openat(&above, "..", FIND, Mode::empty())?;
        }
        Err(Trouble::Refused("more than 256 directories in what its path leads to"))
    }
}

// === impl Attributes ===

impl Attributes {
    fn owners(self) -> (Uid, Gid) {
        (Uid::from_raw(self.uid), Gid::from_raw(self.gid))
    }

    fn give_to(self, file: impl AsFd) -> rustix::io::Result<()> {
        let (uid, gid) = self.owners();
        fchown(&file, Some(uid), Some(gid))?;
        fchmod(&file, Mode::from_raw_mode(self.mode))
    }
}

// === impl Trouble ===

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno.into())
    }
}

/// The root is spelled `.` where a path may not be empty.
fn at(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

/// No other device is ever in the tree.
fn is_whiteout(found: &Stat) -> bool {
    kind(found) == FileType::CharacterDevice
}

fn stat(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<Option<Stat>> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        found => found.map(Some),
    }
}

/// Makes the directory `name`. What was in its place lay over what is below, so nothing of that shows now either.
fn replace_by_directory(parent: &OwnedFd, name: &OsStr, mode: Mode) -> Result<(), Trouble> {
    let replaced = remove(parent, name)?;
    mkdirat(parent, name, mode)?;
    if replaced { mark(parent, name, OPAQUE) } else { Ok(()) }
}

fn mark(parent: &OwnedFd, directory: &OsStr, (attribute, value): (&str, &[u8])) -> Result<(), Trouble> {
    let directory = openat(parent, directory, OPEN, Mode::empty())?;
    Ok(fsetxattr(directory, attribute, value, XattrFlags::empty())?)
}

/// Removes whatever is at `name`; answers whether anything was. Never follows a link.
fn remove(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<bool> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno),
    }
    let directory = openat(parent, name, OPEN, Mode::empty())?;
    // As deep as the tree, which is bounded.
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            remove(&directory, name)?;
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

fn modified(unix: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: unix, tv_nsec: 0 },
    }
}
