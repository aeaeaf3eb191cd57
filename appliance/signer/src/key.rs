//! The provider key: born here, kept here, used here.
//!
//! On disk it is one file, `<state>/provider.key`, mode 0600:
//!
//! ```text
//!  0        6         7         8                       40
//!  ├────────┼─────────┼─────────┼────────────────────────┤
//!  │ RIGKEY │ version │  level  │ secp256k1 scalar, big  │   version 1; level 0 = software: the scalar is
//!  │        │   0x01  │   0x00  │ endian                 │   stored as it is
//!  └────────┴─────────┴─────────┴────────────────────────┘
//! ```
//!
//! Invariants:
//! * A key file is whole or absent: it is written beside its place, synced, renamed, and the directory synced.
//! * A key file is never overwritten, and never ignored because it looks wrong: losing it loses the provider.
//! * Births in one directory exclude each other by a lock on the directory; running signers exclude each other
//!   by a lock on the key file. Both locks end with the process, so a crash leaves none.
//! * The scalar leaves this file only as a signature over a [`Permit`].

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use alloy::consensus::SignableTransaction;
use alloy::eips::eip2718::Encodable2718;
use alloy::signers::SignerSync;
use alloy::signers::k256::ecdsa::SigningKey;
use alloy::signers::k256::elliptic_curve::rand_core::{self, OsRng, RngCore};
use alloy::signers::local::PrivateKeySigner;
use nix::fcntl::OFlag;
use signer::policy::Permit;
use signer::{Identity, KeyState, Signed, Tier};
use zeroize::Zeroizing;

const FILE_NAME: &str = "provider.key";

/// Where a key waits until it is whole. A crash may leave it; the next birth removes it.
const NEWBORN_NAME: &str = "provider.key.new";

const HEADER: [u8; 8] = *b"RIGKEY\x01\x00";
const SCALAR_BYTES: usize = 32;
const FILE_BYTES: usize = HEADER.len() + SCALAR_BYTES;

/// The provider key, in locked memory. Its scalar is wiped on drop.
pub(crate) struct Key {
    signer: PrivateKeySigner,
    file: File,
    path: PathBuf,
}

/// A key that cannot be had. Nothing is repaired silently: a wrong guess would cost the provider's identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("{step} {path}")]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("draw a key from the system's random numbers")]
    Random(#[source] rand_core::Error),
    #[error(
        "{path} can be used by others (mode {mode:03o}, user {uid}): it must be a plain file of user {own} with \
         mode 600; if nobody else could read it, `chown {own}` and `chmod 600` it, otherwise move to a new key"
    )]
    Exposed { path: PathBuf, mode: u32, uid: u32, own: u32 },
    #[error("{path} is writable by others (mode {mode:03o}), who could replace the key: `chmod 700` it")]
    OpenDirectory { path: PathBuf, mode: u32 },
    #[error(
        "{path} is not a key file of this version ({why}): restore it from where it was copied, or move it away to \
         let a new key be born, which makes this rig a new provider that must be paired again"
    )]
    Damaged { path: PathBuf, why: &'static str },
    #[error("{path} is in use by another signer: stop that one first")]
    InUse { path: PathBuf },
}

// === impl Key ===

impl Key {
    /// Opens the key in `state`, or makes directory and key if there is none. Errors: all but `InUse`.
    pub(crate) fn open_or_create(state: &Path) -> Result<Self, KeyError> {
        make_directory(state)?;
        let path = state.join(FILE_NAME);
        if let Some(key) = Self::open(&path)? {
            return Ok(key);
        }
        let directory = File::open(state).map_err(at("open", state))?;
        directory.lock().map_err(at("lock", state))?;
        // Another process may have finished its birth while this one waited for the lock.
        if let Some(key) = Self::open(&path)? {
            return Ok(key);
        }
        bear(&directory, state)?;
        match Self::open(&path)? {
            Some(key) => {
                tracing::info!("key born");
                Ok(key)
            }
            None => Err(at("open", &path)(io::ErrorKind::NotFound.into())),
        }
    }

    /// Makes this the only signer that runs on the key, until the process ends. Errors: `InUse`, `File`.
    pub(crate) fn claim(&self) -> Result<(), KeyError> {
        match self.file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(KeyError::InUse { path: self.path.clone() }),
            Err(TryLockError::Error(source)) => Err(at("lock", &self.path)(source)),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity { address: self.signer.address(), tier: Tier::N, fields: 0, state: KeyState::Open, replaces: None }
    }

    /// Signs what the policy permitted. Deterministic (RFC 6979): the same transaction gives the same bytes.
    pub(crate) fn sign(&self, permit: &Permit<'_>) -> Signed {
        let digest = permit.tx().signature_hash();
        let signature = self.signer.sign_hash_sync(&digest).expect("a digest of 32 bytes can be signed");
        let envelope = permit.tx().clone().into_envelope(signature);
        Signed { raw: envelope.encoded_2718().into(), hash: *envelope.tx_hash() }
    }

    /// `None` if there is no file.
    fn open(path: &Path) -> Result<Option<Self>, KeyError> {
        let options = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut file = match OpenOptions::new().read(true).custom_flags(options.bits()).open(path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(at("open", path))?,
        };
        let found = file.metadata().map_err(at("examine", path))?;
        let (mode, uid, own) = (found.mode() & 0o7777, found.uid(), nix::unistd::geteuid().as_raw());
        if !found.is_file() || mode & 0o077 != 0 || uid != own {
            return Err(KeyError::Exposed { path: path.to_owned(), mode, uid, own });
        }
        let damaged = |why| KeyError::Damaged { path: path.to_owned(), why };
        if found.len() != FILE_BYTES as u64 {
            return Err(damaged("it does not have 40 bytes"));
        }
        let mut bytes = Zeroizing::new([0; FILE_BYTES]);
        file.read_exact(&mut bytes[..]).map_err(at("read", path))?;
        let scalar = bytes.strip_prefix(&HEADER).ok_or_else(|| damaged("its header is unknown"))?;
        let signer = PrivateKeySigner::from_slice(scalar).map_err(|_| damaged("its number is no secp256k1 key"))?;
        Ok(Some(Self { signer, file, path: path.to_owned() }))
    }
}

/// Makes `state` for this user alone if it is missing, and refuses one in which others can replace the key.
fn make_directory(state: &Path) -> Result<(), KeyError> {
    if !state.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(at("create", state))?;
        if let Some(parent) = state.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(at("sync", parent))?;
        }
    }
    let mode = fs::metadata(state).map_err(at("examine", state))?.mode() & 0o7777;
    match mode & 0o022 {
        0 => Ok(()),
        _ => Err(KeyError::OpenDirectory { path: state.to_owned(), mode }),
    }
}

/// Writes a new key into `state`, whose lock is held through `directory` and which holds no key.
fn bear(directory: &File, state: &Path) -> Result<(), KeyError> {
    let (newborn, path) = (state.join(NEWBORN_NAME), state.join(FILE_NAME));
    match fs::remove_file(&newborn) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => {}
        removed => removed.map_err(at("remove", &newborn))?,
    }
    let bytes = draw()?;
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&newborn);
    let mut file = created.map_err(at("create", &newborn))?;
    file.write_all(&bytes[..]).map_err(at("write", &newborn))?;
    file.sync_all().map_err(at("sync", &newborn))?;
    fs::rename(&newborn, &path).map_err(at("rename", &newborn))?;
    directory.sync_all().map_err(at("sync", state))
}

/// A key file with a scalar from `getrandom(2)`, which waits until the system's pool is ready at first boot.
fn draw() -> Result<Zeroizing<[u8; FILE_BYTES]>, KeyError> {
    let mut bytes = Zeroizing::new([0; FILE_BYTES]);
    bytes[..HEADER.len()].copy_from_slice(&HEADER);
    loop {
        let scalar = &mut bytes[HEADER.len()..];
        OsRng.try_fill_bytes(scalar).map_err(KeyError::Random)?;
        // One draw in 2^128 is zero or beyond the curve's order; draw again.
        if SigningKey::from_slice(scalar).is_ok() {
            return Ok(bytes);
        }
    }
}

fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::File { step, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use alloy::primitives::address;
    use tempfile::TempDir;

    use super::*;

    /// The key file of the scalar 1, byte for byte. A change here needs a new version.
    const GOLDEN: [u8; FILE_BYTES] = *b"RIGKEY\x01\x00\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";

    fn state_with(bytes: &[u8], mode: u32) -> TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, bytes).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        dir
    }

    fn refusal(state: &TempDir) -> KeyError {
        match Key::open_or_create(state.path()) {
            Ok(_) => panic!("the key was accepted"),
            Err(error) => error,
        }
    }

    #[test]
    fn a_key_file_of_version_1_is_read_forever() {
        let state = state_with(&GOLDEN, 0o600);
        let key = Key::open_or_create(state.path()).expect("the golden key opens");
        // The well-known address of the scalar 1.
        let address = address!("0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf");
        assert_eq!(key.identity().address, address);
    }

    #[test]
    fn a_key_that_others_could_read_is_refused() {
        for mode in [0o644, 0o640, 0o604, 0o660, 0o601] {
            let error = refusal(&state_with(&GOLDEN, mode));
            assert!(matches!(error, KeyError::Exposed { mode: found, .. } if found == mode), "{error}");
        }
    }

    #[test]
    fn a_symbolic_link_and_a_directory_are_no_key() {
        let (state, elsewhere) = (tempfile::tempdir().expect("a directory"), state_with(&GOLDEN, 0o600));
        let path = state.path().join(FILE_NAME);
        std::os::unix::fs::symlink(elsewhere.path().join(FILE_NAME), &path).expect("link");
        assert!(matches!(refusal(&state), KeyError::File { step: "open", .. }));
        fs::remove_file(&path).expect("unlink");
        DirBuilder::new().mode(0o700).create(&path).expect("mkdir");
        assert!(matches!(refusal(&state), KeyError::Exposed { .. }));
    }

    #[test]
    fn a_damaged_key_is_named_and_left_alone() {
        let edited = |at: usize, byte: u8| {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] = byte;
            bytes
        };
        let cases = [
            vec![],
            GOLDEN[..39].to_vec(),
            [&GOLDEN[..], b"\n"].concat(),
            edited(0, b'r'),
            edited(6, 2),
            edited(39, 0),
        ];
        for bytes in cases {
            let state = state_with(&bytes, 0o600);
            let error = refusal(&state);
            assert!(matches!(error, KeyError::Damaged { .. }), "{error}");
            assert_eq!(fs::read(state.path().join(FILE_NAME)).expect("still there"), bytes);
        }
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let state = state_with(&GOLDEN, 0o600);
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o770)).expect("chmod");
        assert!(matches!(refusal(&state), KeyError::OpenDirectory { mode: 0o770, .. }));
    }

    #[test]
    fn an_unfinished_birth_is_swept_and_a_new_key_is_private() {
        let state = tempfile::tempdir().expect("a directory");
        fs::write(state.path().join(NEWBORN_NAME), "RIGK").expect("write");
        let born = Key::open_or_create(state.path()).expect("a birth").identity();
        assert!(!state.path().join(NEWBORN_NAME).exists());
        let mode = fs::metadata(state.path().join(FILE_NAME)).expect("a key").mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(Key::open_or_create(state.path()).expect("the same key").identity(), born);
    }

    #[test]
    fn one_signer_runs_on_a_key() {
        let state = state_with(&GOLDEN, 0o600);
        let open = || Key::open_or_create(state.path()).expect("opens");
        let first = open();
        first.claim().expect("nobody has it");
        assert!(matches!(open().claim(), Err(KeyError::InUse { .. })));
        drop(first);
        open().claim().expect("it was given back");
    }
}
