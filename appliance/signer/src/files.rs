//! Files of the state directory that are the signer's own: private, whole or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// Opens `path` for reading and writing; `None` if there is no file.
/// Errors: a link, a file that is not plain, one that others can use, and whatever the system says.
pub(crate) fn open(path: &Path) -> io::Result<Option<File>> {
    let options = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).write(true).custom_flags(options.bits()).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let found = file.metadata()?;
    let own = nix::unistd::geteuid().as_raw();
    match found.is_file() && found.mode() & 0o077 == 0 && found.uid() == own {
        true => Ok(Some(file)),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("it must be a plain file of user {own} with mode 600"),
        )),
    }
}

/// Makes `name` in `directory` hold `bytes`, and nothing in between: written beside, synced, renamed, and the directory
/// synced. A crash may leave `name` with `.new` at its end, which the next replacement takes over.
pub(crate) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (newborn, path) = (directory.join(format!("{name}.new")), directory.join(name));
    match fs::remove_file(&newborn) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&newborn)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&newborn, &path)?;
    File::open(directory)?.sync_all()
}
