//! The state directory: files that are whole or absent.
//!
//! Invariants:
//! * A file is written beside its place (`<name>.new`), synced, renamed, and the directory synced. A kill or a power
//!   cut leaves the old file or the new one; what waits beside the place is swept by the next who holds the lock.
//! * A new key takes no other key's place: [`Locked::bear`] refuses where a file stands. A key is put in the place of
//!   itself only ([`Locked::rewrap`]), and leaves its place only into `retired/`, by a hard link, so that there is no
//!   moment at which it has no name.
//! * Who changes something holds the lock on the directory; who signs holds the [`Claim`]. Both end with the process.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use crate::file::{FILE_BYTES_MAX, KeyFile};
use crate::{Address, IdentityError};

/// The key that the chain knows.
pub(crate) const PROVIDER: &str = "provider.key";
/// The key that takes its place when it is first used.
pub(crate) const SUCCESSOR: &str = "successor.key";
/// The TLS key of a rig with a TPM.
pub(crate) const TLS: &str = "tls.key";
/// Every file that is born here, so that all that an interrupted birth leaves is swept.
const NAMES: [&str; 3] = [PROVIDER, SUCCESSOR, TLS];
const RETIRED: &str = "retired";
const CLAIM: &str = "signer.lock";

/// Different files that were retired under one name: a key is retired once, so two are already odd.
const NAMESAKES_MAX: u32 = 16;

/// A state directory that nobody else may write.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

/// The right to change the directory, held against other processes.
#[derive(Debug)]
pub(crate) struct Locked {
    root: PathBuf,
    directory: File,
}

/// Makes this process the only signer on a state directory, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Claim {
    _file: File,
}

/// The right of a successor to take the provider's place.
#[derive(Debug)]
pub struct Succession {
    store: Store,
    old: Option<Address>,
    successor: Address,
    is_done: bool,
}

// === impl Store ===

impl Store {
    /// Makes `root` for this user alone if it is missing. Errors: `OpenDirectory` where others can replace the key, and
    /// `File`.
    pub(crate) fn prepare(root: &Path) -> Result<Self, IdentityError> {
        if !root.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(at("create", root))?;
            if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync(parent)?;
            }
        }
        let mode = fs::metadata(root).map_err(at("examine", root))?.mode() & 0o7777;
        match mode & 0o022 {
            0 => Ok(Self { root: root.to_owned() }),
            _ => Err(IdentityError::OpenDirectory { path: root.to_owned(), mode }),
        }
    }

    /// Waits until nobody else changes the directory, and sweeps what an interrupted birth left. Errors: `File`.
    pub(crate) fn lock(&self) -> Result<Locked, IdentityError> {
        let directory = File::open(&self.root).map_err(at("open", &self.root))?;
        directory.lock().map_err(at("lock", &self.root))?;
        let locked = Locked { root: self.root.clone(), directory };
        for name in NAMES {
            locked.sweep(name)?;
        }
        Ok(locked)
    }
}

// === impl Locked ===

impl Locked {
    /// The whole of a file; `None` if there is none. `max` bytes and one more at most, so that what is longer can be
    /// told. Errors: `Exposed`, `File`.
    pub(crate) fn read(&self, name: &str, max: usize) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
        let path = self.root.join(name);
        let options = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(options.bits()).open(&path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(at("open", &path))?,
        };
        let found = file.metadata().map_err(at("examine", &path))?;
        let (mode, uid, own) = (found.mode() & 0o7777, found.uid(), nix::unistd::geteuid().as_raw());
        if !found.is_file() || mode & 0o077 != 0 || uid != own {
            return Err(IdentityError::Exposed { path, mode, uid, own });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(max + 1));
        let limit = u64::try_from(max + 1).expect("a bound of a few KiB");
        file.take(limit).read_to_end(&mut bytes).map_err(at("read", &path))?;
        Ok(Some(bytes))
    }

    /// Writes a file that is not there yet. Errors: `File`, with `AlreadyExists` where one stands.
    pub(crate) fn bear(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        let path = self.root.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(at("create", &path)(io::ErrorKind::AlreadyExists.into()));
        }
        self.put(name, bytes)
    }

    /// Puts a key in the place of the same key, wrapped otherwise. The caller answers for "the same". Errors: `File`.
    pub(crate) fn rewrap(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        self.put(name, bytes)
    }

    /// Moves a file to `retired/<as_name>.key`. What stands there already under the name stays. Errors: `File`.
    pub(crate) fn retire(&self, name: &str, as_name: &str) -> Result<(), IdentityError> {
        self.keep(name, as_name)?;
        let path = self.root.join(name);
        fs::remove_file(&path).map_err(at("remove", &path))?;
        self.sync()
    }

    /// Puts `successor.key` in the provider's place, whose file, if there is one, is kept as `retired/<old>.key`.
    /// Errors: `File`.
    pub(crate) fn follow(&self, old: &str) -> Result<(), IdentityError> {
        let (provider, successor) = (self.root.join(PROVIDER), self.root.join(SUCCESSOR));
        // It was synced when it was born. Synced again, this step leans on no other one.
        sync(&successor)?;
        if self.has(PROVIDER) {
            self.keep(PROVIDER, old)?;
        }
        fs::rename(&successor, &provider).map_err(at("rename", &successor))?;
        self.sync()
    }

    /// Gives a file a second name in `retired/`, which outlives the first.
    fn keep(&self, name: &str, as_name: &str) -> Result<(), IdentityError> {
        let (path, retired) = (self.root.join(name), self.root.join(RETIRED));
        match DirBuilder::new().mode(0o700).create(&retired) {
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made.map_err(at("create", &retired))?;
                self.sync()?;
            }
        }
        for namesake in 0..NAMESAKES_MAX {
            let kept = match namesake {
                0 => retired.join(format!("{as_name}.key")),
                more => retired.join(format!("{as_name}.{more}.key")),
            };
            match fs::hard_link(&path, &kept) {
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                    // The same file, if a crash came between the two names.
                    if is_same(&path, &kept).map_err(at("examine", &kept))? {
                        return sync(&retired);
                    }
                }
                linked => {
                    linked.map_err(at("link", &kept))?;
                    return sync(&retired);
                }
            }
        }
        Err(at("link", &retired.join(as_name))(io::ErrorKind::AlreadyExists.into()))
    }

    /// Whether a file stands there, whatever is in it.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.root.join(name).symlink_metadata().is_ok()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        self.sweep(name)?;
        let (newborn, path) = (self.newborn(name), self.root.join(name));
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&newborn);
        let mut file = created.map_err(at("create", &newborn))?;
        file.write_all(bytes).map_err(at("write", &newborn))?;
        file.sync_all().map_err(at("sync", &newborn))?;
        fs::rename(&newborn, &path).map_err(at("rename", &newborn))?;
        self.sync()
    }

    fn sweep(&self, name: &str) -> Result<(), IdentityError> {
        let newborn = self.newborn(name);
        match fs::remove_file(&newborn) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(at("remove", &newborn)),
        }
    }

    fn newborn(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.new"))
    }

    fn sync(&self) -> Result<(), IdentityError> {
        self.directory.sync_all().map_err(at("sync", &self.root))
    }
}

fn sync(path: &Path) -> Result<(), IdentityError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(at("sync", path))
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (fs::symlink_metadata(one)?, fs::symlink_metadata(other)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

pub(crate) fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::File { step, path, source }
}

// === impl Claim ===

impl Claim {
    /// Errors: `InUse` while another signer runs on `state`, and those of a directory that cannot be used.
    pub fn take(state: &Path) -> Result<Self, IdentityError> {
        let store = Store::prepare(state)?;
        let path = store.root.join(CLAIM);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = options.open(&path).map_err(at("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(IdentityError::InUse { path: store.root }),
            Err(TryLockError::Error(source)) => Err(at("lock", &path)(source)),
        }
    }
}

// === impl Succession ===

impl Succession {
    pub(crate) fn new(store: Store, old: Option<Address>, successor: Address) -> Self {
        Self { store, old, successor, is_done: false }
    }

    /// The address that leaves its place, where its file could be read.
    pub fn replaces(&self) -> Option<Address> {
        self.old
    }

    /// The address that takes it.
    pub fn successor(&self) -> Address {
        self.successor
    }

    /// Makes the successor the provider key, on disk, before this returns. Call it before the first signature leaves:
    /// what has signed must never be mistaken for a key that nobody used. A second call does nothing.
    ///
    /// It makes `retired/`, links into it, renames in the state directory, and syncs: a sandbox has to allow that.
    /// Errors: `File`; then nothing may be signed.
    pub fn adopt(&mut self) -> Result<(), IdentityError> {
        if self.is_done {
            return Ok(());
        }
        let locked = self.store.lock()?;
        // Another process may have opened this directory meanwhile, and have borne another successor.
        let waiting = locked.read(SUCCESSOR, FILE_BYTES_MAX)?;
        let waiting = waiting.and_then(|bytes| KeyFile::parse(&bytes).ok()).map(|file| file.address());
        if waiting != Some(self.successor) {
            return Err(at("find the successor in", &self.store.root)(io::ErrorKind::NotFound.into()));
        }
        locked.follow(&retired_name(self.old))?;
        self.is_done = true;
        tracing::info!(
            address = %hex::encode(self.successor),
            replaces = %retired_name(self.old),
            "successor adopted"
        );
        Ok(())
    }
}

/// What a key is called in `retired/`.
pub(crate) fn retired_name(address: Option<Address>) -> String {
    address.map_or_else(|| "damaged".to_owned(), hex::encode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn locked() -> (tempfile::TempDir, Locked) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
        let locked = Store::prepare(dir.path()).and_then(|store| store.lock()).expect("a store");
        (dir, locked)
    }

    #[test]
    fn a_file_that_others_could_read_is_refused() {
        for mode in [0o644, 0o640, 0o604, 0o660, 0o601] {
            let (dir, locked) = locked();
            let path = dir.path().join(PROVIDER);
            fs::write(&path, "key").expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            let error = locked.read(PROVIDER, 8).expect_err("it is exposed");
            assert!(matches!(error, IdentityError::Exposed { mode: found, .. } if found == mode), "{error}");
        }
    }

    #[test]
    fn a_symbolic_link_and_a_directory_are_no_key() {
        let (dir, locked) = locked();
        let path = dir.path().join(PROVIDER);
        std::os::unix::fs::symlink("/etc/hostname", &path).expect("link");
        assert!(matches!(locked.read(PROVIDER, 8), Err(IdentityError::File { step: "open", .. })));
        fs::remove_file(&path).expect("unlink");
        DirBuilder::new().mode(0o700).create(&path).expect("mkdir");
        assert!(matches!(locked.read(PROVIDER, 8), Err(IdentityError::Exposed { .. })));
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).expect("chmod");
        let error = Store::prepare(dir.path()).expect_err("others can write");
        assert!(matches!(error, IdentityError::OpenDirectory { mode: 0o770, .. }));
    }

    #[test]
    fn an_unfinished_birth_is_swept_and_a_new_file_is_private() {
        let (dir, first) = locked();
        drop(first);
        fs::write(dir.path().join("provider.key.new"), "RIGK").expect("write");
        let store = Store::prepare(dir.path()).expect("a store");
        let locked = store.lock().expect("the lock");
        assert!(!dir.path().join("provider.key.new").exists());
        locked.bear(PROVIDER, b"key").expect("a birth");
        let mode = fs::metadata(dir.path().join(PROVIDER)).expect("a key").mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(locked.read(PROVIDER, 8).expect("readable").expect("there")[..], *b"key");
    }

    #[test]
    fn a_birth_takes_no_other_keys_place() {
        let (_dir, locked) = locked();
        locked.bear(PROVIDER, b"one").expect("a birth");
        let error = locked.bear(PROVIDER, b"two").expect_err("one is there");
        assert!(matches!(error, IdentityError::File { step: "create", .. }));
        assert_eq!(locked.read(PROVIDER, 8).expect("readable").expect("there")[..], *b"one");
    }

    #[test]
    fn what_is_longer_than_its_bound_is_seen_to_be() {
        let (_dir, locked) = locked();
        locked.bear(PROVIDER, &[7; 100]).expect("a birth");
        assert_eq!(locked.read(PROVIDER, 8).expect("readable").expect("there").len(), 9);
    }

    #[test]
    fn a_retired_file_is_kept_under_a_name_of_its_own() {
        let (dir, locked) = locked();
        for (bytes, name) in [(b"one", "a.key"), (b"two", "a.1.key")] {
            locked.bear(SUCCESSOR, bytes).expect("a birth");
            locked.retire(SUCCESSOR, "a").expect("retired");
            assert_eq!(fs::read(dir.path().join(RETIRED).join(name)).expect("kept"), bytes);
            assert!(!locked.has(SUCCESSOR));
        }
    }

    #[test]
    fn a_successor_takes_the_place_and_the_old_key_is_kept() {
        let (dir, locked) = locked();
        locked.bear(PROVIDER, b"old").expect("a birth");
        locked.bear(SUCCESSOR, b"new").expect("a birth");
        // As a crash between the two names leaves it.
        locked.keep(PROVIDER, "a").expect("kept");
        locked.follow("a").expect("succeeded");
        assert_eq!(fs::read(dir.path().join(PROVIDER)).expect("there"), b"new");
        assert_eq!(fs::read(dir.path().join(RETIRED).join("a.key")).expect("kept"), b"old");
        assert_eq!(fs::read_dir(dir.path().join(RETIRED)).expect("readable").count(), 1);
        assert!(!locked.has(SUCCESSOR));
    }

    #[test]
    fn one_signer_runs_on_a_directory() {
        let (dir, _locked) = locked();
        let first = Claim::take(dir.path()).expect("nobody has it");
        assert!(matches!(Claim::take(dir.path()), Err(IdentityError::InUse { .. })));
        drop(first);
        Claim::take(dir.path()).expect("it was given back");
    }
}
