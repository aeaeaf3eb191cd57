//! A thread with mounts of its own, in which programs are started.
//!
//! Invariants: nothing that is mounted here is ever seen by the rest of the machine, and all of it goes when the thread
//! and what it started have ended, however that was. So a crashed build leaves no device bind-mounted under a tree that
//! somebody deletes later.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use thiserror::Error;

/// Why there is no private view.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum NamespaceError {
    #[error(
        "a private view of the file system is refused; run as root, or in a user namespace: \
         `unshare --map-root-user --mount -- rig image ...`"
    )]
    Refused(#[source] Errno),
    #[error("bind {} to {}", from.display(), to.display())]
    Bind {
        from: PathBuf,
        to: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("make {} the root of a program", root.display())]
    Root {
        root: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("the thread with private mounts ended in a panic")]
    Panic,
}

/// Runs `act` with `binds` (from, to) mounted and then, if given, `root` as its root directory.
pub(crate) fn within<T: Send>(
    binds: &[(&Path, &Path)],
    root: Option<&Path>,
    act: impl FnOnce() -> T + Send,
) -> Result<T, NamespaceError> {
    std::thread::scope(|scope| {
        let inside =
            scope.spawn(move || {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(NamespaceError::Refused)?;
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(NamespaceError::Refused)?;
                for (from, to) in binds {
                    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
                    mount(Some(*from), *to, None::<&str>, bind, None::<&str>).map_err(|source| {
                        NamespaceError::Bind { from: from.to_path_buf(), to: to.to_path_buf(), source }
                    })?;
                }
                if let Some(root) = root {
                    let failed = |source| NamespaceError::Root { root: root.to_owned(), source };
                    nix::unistd::chroot(root).map_err(failed)?;
                    nix::unistd::chdir("/").map_err(failed)?;
                }
                Ok(act())
            });
        inside.join().unwrap_or(Err(NamespaceError::Panic))
    })
}
