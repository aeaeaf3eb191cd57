//! Removes a directory tree that a stranger made.
//!
//! The depth of such a tree is the stranger's choice: a program can go down from directory to directory for as
//! long as the disk has inodes. Whoever goes after it with one descriptor, or one stack frame, for each level
//! runs out of them, and the tree stays. So nobody goes down here: a directory that is not empty hands its own
//! directories to the top of the tree, and is empty then.
//!
//! Invariants: follows no link; holds four descriptors at most, whatever the depth.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes the directory `path` and all that is in it. `ENOTEMPTY` if somebody goes on making files there.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = openat(CWD, path, OPEN, Mode::empty())?;
    let mut names = 0;
    loop {
        let (mut found, mut removed) = (false, false);
        each(&top, |name| {
            found = true;
            removed |= match remove_if_empty(&top, name)? {
                true => true,
                false => empty(&top, name, &mut names)?,
            };
            Ok(())
        })?;
        if !found {
            return Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?);
        }
        if !removed {
            return Err(Errno::NOTEMPTY.into());
        }
    }
}

/// Empties and removes the directory `name`; what it cannot remove of it goes to `top` under a name of ours.
fn empty(top: &OwnedFd, name: &CStr, names: &mut u64) -> rustix::io::Result<bool> {
    let dir = openat(top, name, OPEN, Mode::empty())?;
    each(&dir, |child| {
        while !remove_if_empty(&dir, child)? {
            *names += 1;
            match renameat(&dir, child, top, format!(".{names}")) {
                // The stranger may have thought of this name.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                other => return other,
            }
        }
        Ok(())
    })?;
    remove_if_empty(top, name)
}

/// Removes a file, a link or an empty directory; answers whether it is gone.
fn remove_if_empty(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
    let removed = match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(parent, name, AtFlags::REMOVEDIR),
        other => other,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn each(dir: &OwnedFd, mut visit: impl FnMut(&CStr) -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            visit(entry.file_name())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::{mkdirat, symlinkat};

    use super::*;

    #[test]
    fn a_tree_goes_however_deep_it_is_and_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        for path in [&tree, &outside] {
            std::fs::create_dir(path).expect("mkdir");
            std::fs::write(path.join("file"), b"x").expect("write");
        }
        // Deeper than a descriptor for each level would allow for.
        let mut at = openat(CWD, &tree, OPEN, Mode::empty()).expect("open");
        for depth in 0..3000 {
            if depth % 500 == 0 {
                symlinkat(&outside, &at, "link").expect("link");
                // Names that the removal would give.
                mkdirat(&at, ".1", Mode::from_raw_mode(0o700)).expect("mkdir");
                mkdirat(&at, ".2", Mode::from_raw_mode(0o700)).expect("mkdir");
                symlinkat("..", &at, ".2/l").expect("link");
                std::fs::write(tree.join(".3"), b"x").expect("write");
            }
            mkdirat(&at, "d", Mode::from_raw_mode(0o000)).expect("mkdir");
            at = openat(&at, "d", OPEN, Mode::empty()).expect("open");
        }
        drop(at);
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
        assert!(outside.join("file").exists());
        assert_eq!(remove_tree(&tree).expect_err("gone").kind(), io::ErrorKind::NotFound);
    }
}
