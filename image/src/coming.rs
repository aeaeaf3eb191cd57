//! A folder that is made beside the place that it is for, and gets there when it is whole.
//!
//! Invariants: one process at a time makes the folder for a place; whoever reads the place finds nothing or all of it; what
//! a killed process left is removed by the next one. The lock is the kernel's, on a hidden folder around the one that
//! comes, so it ends with its holder.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::file::{FileError, failed};

/// A folder that is not at its place yet. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Coming {
    folder: PathBuf,
    place: PathBuf,
    around: PathBuf,
    /// The lock on what is around.
    _held: File,
}

// === impl Coming ===

impl Coming {
    /// An empty folder for `place`, which will be replaced if it is there. `None`: another process makes it now.
    pub(crate) fn now(place: &Path) -> Result<Option<Coming>, FileError> {
        Coming::make(place, |held| match held.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })
    }

    /// An empty folder for `place`, once no other process makes one. `None`: the place is there.
    pub(crate) fn unless_there(place: &Path) -> Result<Option<Coming>, FileError> {
        if place.exists() {
            return Ok(None);
        }
        let coming = Coming::make(place, |held| held.lock().map(|()| true))?;
        Ok(coming.filter(|_| !place.exists()))
    }

    fn make(place: &Path, lock: impl Fn(&File) -> io::Result<bool>) -> Result<Option<Coming>, FileError> {
        let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(failed("make", parent))?;
        // Whoever builds may go elsewhere meanwhile.
        let parent = parent.canonicalize().map_err(failed("find", parent))?;
        let name = place.file_name().unwrap_or_default();
        let around = parent.join(format!(".{}.coming", name.to_string_lossy()));
        loop {
            fs::create_dir_all(&around).map_err(failed("make", &around))?;
            let held = match File::open(&around) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                held => held.map_err(failed("open", &around))?,
            };
            if !lock(&held).map_err(failed("lock", &around))? {
                return Ok(None);
            }
            // Whoever had the lock before has removed it.
            if !is_same(&held, &around).map_err(failed("look at", &around))? {
                continue;
            }
            for entry in fs::read_dir(&around).map_err(failed("read", &around))? {
                let path = entry.map_err(failed("read", &around))?.path();
                let is_folder = path.symlink_metadata().is_ok_and(|left| left.is_dir());
                let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(failed("remove", &path))?;
            }
            let folder = around.join(name);
            fs::create_dir(&folder).map_err(failed("make", &folder))?;
            return Ok(Some(Coming { folder, place: parent.join(name), around, _held: held }));
        }
    }

    /// The folder to fill.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts the folder in its place; what was there is removed.
    pub(crate) fn arrive(self) -> Result<(), FileError> {
        let whole = self.folder.clone();
        self.arrive_as(&whole)
    }

    /// Puts `whole`, a folder in the folder, in its place, and removes the rest with what was there.
    pub(crate) fn arrive_as(self, whole: &Path) -> Result<(), FileError> {
        let renamed = match renameat2(AT_FDCWD, whole, AT_FDCWD, &self.place, RenameFlags::RENAME_EXCHANGE) {
            Err(Errno::ENOENT) => fs::rename(whole, &self.place),
            exchanged => exchanged.map_err(io::Error::from),
        };
        renamed.map_err(failed("move", whole))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        // Nothing after this is better for knowing; the next one tries again.
        let _ = fs::remove_dir_all(&self.around);
    }
}

fn is_same(held: &File, path: &Path) -> io::Result<bool> {
    let held = held.metadata()?;
    match path.symlink_metadata() {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_comes_whole_and_what_was_there_goes() {
        let home = tempfile::tempdir().expect("a folder");
        let place = home.path().join("out");
        for content in ["first", "second"] {
            let coming = Coming::now(&place).expect("it can be made").expect("nobody else makes it");
            fs::write(coming.folder().join(content), "").expect("a file");
            coming.arrive().expect("it arrives");
            assert_eq!((names(&place), names(home.path())), (vec![content.to_owned()], vec!["out".to_owned()]));
        }
    }

    #[test]
    fn what_does_not_arrive_leaves_nothing_and_changes_nothing() {
        let home = tempfile::tempdir().expect("a folder");
        let place = home.path().join("out");
        fs::create_dir(&place).expect("a folder");
        fs::write(place.join("kept"), "").expect("a file");
        let coming = Coming::now(&place).expect("it can be made").expect("nobody else makes it");
        fs::write(coming.folder().join("half"), "").expect("a file");
        drop(coming);
        assert_eq!((names(&place), names(home.path())), (vec!["kept".to_owned()], vec!["out".to_owned()]));
    }

    #[test]
    fn what_a_killed_process_left_is_removed_by_the_next() {
        let home = tempfile::tempdir().expect("a folder");
        let place = home.path().join("out");
        let left = home.path().join(".out.coming");
        fs::create_dir_all(left.join("deep/deeper")).expect("folders");
        fs::write(left.join("deep/file"), "").expect("a file");
        std::os::unix::fs::symlink(home.path(), left.join("link")).expect("a link");
        let coming = Coming::now(&place).expect("it can be made").expect("nobody else makes it");
        assert_eq!((names(&left), names(coming.folder())), (vec!["out".to_owned()], vec![]));
        drop(coming);
        assert_eq!(names(home.path()), [""; 0]);
    }

    #[test]
    fn two_do_not_make_the_same_at_the_same_time() {
        let home = tempfile::tempdir().expect("a folder");
        let place = home.path().join("out");
        let first = Coming::now(&place).expect("it can be made").expect("nobody else makes it");
        assert!(Coming::now(&place).expect("it can be tried").is_none());
        let waits = std::thread::spawn({
            let place = place.clone();
            move || Coming::unless_there(&place).expect("it can be waited for").is_none()
        });
        fs::write(first.folder().join("whole"), "").expect("a file");
        first.arrive().expect("it arrives");
        assert!(waits.join().expect("no panic"), "who waited finds it there");
        assert_eq!(names(&place), ["whole"]);
        assert!(Coming::unless_there(&place).expect("it can be looked at").is_none());
        assert_eq!(names(home.path()), ["out"]);
    }
}
