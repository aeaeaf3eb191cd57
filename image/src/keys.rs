//! The vendor's keys: who may say what a rig runs.
//!
//! ```text
//! PK.key       PK.crt        owner of the firmware's key store      off-line
//! KEK.key      KEK.crt       may change db and dbx                  off-line
//! db.key       db.crt        signs loader and UKI                   build
//! module.key   module.crt    signs kernel modules outside the tree  build
//! pcr.key      pcr.pub       signs what PCR 11 may hold (ukify)     build
//! release.key  release.pub   signs manifests                        build
//! approval.key approval.pub  approves measured software (rig-signer --vendor)  off-line
//! PK.auth  KEK.auth  db.auth  PK.esl  KEK.esl  db.esl                enrolment, public
//! ```
//!
//! Invariants: no file is ever overwritten; every file has mode 0600 and the directory 0700; a build needs none of the
//! off-line files, so that they can live elsewhere; enrolment files are made once, when all keys are at hand, and are
//! only read afterwards.
//!
//! The kernel accepts a module if its signer is in the firmware's db, and firmware asks no certificate what it is for.
//! So `module.key` could sign a loader too: it is a key of its own in order to be replaced alone, not because it is
//! weaker. The approval key is not the release key: the one says what is published, the other what may open a rig's
//! identity, and nobody should be able to do both from one machine.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use p256::ecdsa::SigningKey;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use rsa::rand_core::OsRng;
use x509_cert::Certificate;
use zeroize::Zeroizing;

use self::certificate::CERTIFICATE_BYTES_MAX;
pub use self::certificate::{Pair, PairError, certificate};
pub(crate) use self::certificate::{RSA_ENCRYPTION, SHA_256, algorithm, is_signed_by};
pub use self::enrolment::{Enrolment, Variable};

mod certificate;
mod enrolment;

/// Where systemd-boot looks for what it may enrol, on the ESP. `auto` is the name under which it may do so unasked.
const ENROLMENT_DIRECTORY: &str = "/loader/keys/auto";
/// db.auth with ten foreign certificates has some 20 KiB.
const FILE_BYTES_MAX: u64 = 128 * 1024;
const MODE_FILE: u32 = 0o600;
const MODE_DIRECTORY: u32 = 0o700;

/// The RSA keys with a certificate: file name and common name.
const PLATFORM: (&str, &str) = ("PK", "rig platform key");
const EXCHANGE: (&str, &str) = ("KEK", "rig key exchange key");
const DATABASE: (&str, &str) = ("db", "rig signature database key");
const MODULE: (&str, &str) = ("module", "rig kernel module key");
const POLICY: &str = "pcr";
const RELEASE: &str = "release";
const APPROVAL: &str = "approval";

/// What a build signs with.
pub struct Keys {
    directory: PathBuf,
    database: Pair,
    module: Pair,
    release: SigningKey,
    enrolment: Vec<(Variable, Vec<u8>)>,
}

/// The public halves that others are told, after [`Keys::make`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeys {
    /// Checks manifests: a compressed point of P-256, 66 hex digits.
    pub release: String,
    /// `rig-signer --vendor`, in the same form.
    pub approval: String,
}

/// Why keys cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A key that exists is never replaced: what it signed would be worth nothing.
    #[error("{} is there already: keys are never overwritten, choose another directory", path.display())]
    Exists {
        /// The file or directory.
        path: PathBuf,
    },
    /// The file system.
    #[error("{} cannot be {action}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others on this machine may read a private key.
    #[error("{} can be read by others (mode {mode:o}): chmod 600 it, and think about who has read it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Bigger than any key.
    #[error("{} has more than {FILE_BYTES_MAX} bytes: it is no key", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A file that is not what its name says.
    #[error("{} cannot be used", path.display())]
    Pair {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PairError,
    },
    /// Not a P-256 private key.
    #[error("{} is no P-256 private key: a PEM file that opens with BEGIN PRIVATE KEY is expected", path.display())]
    Curve {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: p256::pkcs8::Error,
    },
}

// === impl Keys ===

impl Keys {
    /// Makes every key in `directory`, which must not be there yet, and the enrolment files.
    ///
    /// `also` are foreign certificates that db shall hold too, such as the one that signed a graphics card's firmware.
    /// Errors: `Exists`, `File`, `Pair`.
    pub fn make(directory: &Path, also: &[Certificate]) -> Result<PublicKeys, KeysError> {
        create_directory(directory)?;
        let pair = |(file, name): (&str, &str)| {
            let pair = Pair::make(name);
            pair.map_err(|source| KeysError::Pair { path: directory.join(file).with_extension("key"), source })
        };
        let (platform, exchange) = (pair(PLATFORM)?, pair(EXCHANGE)?);
        let (database, module) = (pair(DATABASE)?, pair(MODULE)?);
        for ((file, _), pair) in
            [(PLATFORM, &platform), (EXCHANGE, &exchange), (DATABASE, &database), (MODULE, &module)]
        {
            write(&directory.join(file).with_extension("key"), pair.key_pem().as_bytes())?;
            write(&directory.join(file).with_extension("crt"), pair.certificate_pem().as_bytes())?;
        }
        // ukify wants bare keys; the name goes nowhere.
        let policy = pair((POLICY, "rig PCR policy key"))?;
        write(&directory.join(POLICY).with_extension("key"), policy.key_pem().as_bytes())?;
        write(&directory.join(POLICY).with_extension("pub"), policy.public_pem().as_bytes())?;
        let point = |name| make_point(&directory.join(name));
        let public = PublicKeys { release: point(RELEASE)?, approval: point(APPROVAL)? };

        let mut trusted = vec![database.certificate().clone(), module.certificate().clone()];
        trusted.extend_from_slice(also);
        for enrolment in Enrolment::all(&platform, &exchange, &trusted) {
            let path = directory.join(enrolment.variable.name());
            write(&path.with_extension("esl"), &enrolment.list)?;
            write(&path.with_extension("auth"), &enrolment.signed)?;
        }
        Ok(public)
    }

    /// Opens what a build needs: db, release and the enrolment files. Errors: all but `Exists`.
    pub fn open(directory: &Path) -> Result<Self, KeysError> {
        let database = open_pair(directory, DATABASE.0)?;
        let module = open_pair(directory, MODULE.0)?;
        read_private(&directory.join(POLICY).with_extension("key"))?;
        let path = directory.join(RELEASE).with_extension("key");
        let release =
            SigningKey::from_pkcs8_pem(&read_private(&path)?).map_err(|source| KeysError::Curve { path, source })?;
        let signed = |variable: Variable| {
            let path = directory.join(variable.name()).with_extension("auth");
            Ok((variable, read(&path, FILE_BYTES_MAX)?))
        };
        let enrolment = Variable::ALL.into_iter().map(signed).collect::<Result<_, KeysError>>()?;
        Ok(Self { directory: directory.to_owned(), database, module, release, enrolment })
    }

    /// The pair that signs loader and UKI.
    pub fn database(&self) -> &Pair {
        &self.database
    }

    pub(crate) fn release(&self) -> &SigningKey {
        &self.release
    }

    /// The key that manifests are checked with, as [`PublicKeys::release`].
    pub fn release_public(&self) -> String {
        point_of(&self.release)
    }

    /// The pair that signs kernel modules outside the tree.
    pub fn module(&self) -> &Pair {
        &self.module
    }

    /// Private and public key (PEM) for ukify's signature of PCR 11.
    pub fn policy_files(&self) -> (PathBuf, PathBuf) {
        let path = self.directory.join(POLICY);
        (path.with_extension("key"), path.with_extension("pub"))
    }

    /// What goes on the ESP for systemd-boot to enrol: path and bytes. PK comes last, because it ends the set-up mode.
    pub fn enrolment(&self) -> Vec<(String, Vec<u8>)> {
        let file = |(variable, bytes): &(Variable, Vec<u8>)| {
            (format!("{ENROLMENT_DIRECTORY}/{}.auth", variable.name()), bytes.clone())
        };
        self.enrolment.iter().map(file).collect()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("directory", &self.directory).finish_non_exhaustive()
    }
}

// === files ===

/// Makes a P-256 key at `path`.key and `path`.pub; the public half as text.
fn make_point(path: &Path) -> Result<String, KeysError> {
    let key = SigningKey::random(&mut OsRng);
    let pem = key.to_pkcs8_pem(LineEnding::LF).expect("a P-256 key has a PKCS#8 form");
    write(&path.with_extension("key"), pem.as_bytes())?;
    let public = point_of(&key);
    write(&path.with_extension("pub"), format!("{public}\n").as_bytes())?;
    Ok(public)
}

fn point_of(key: &SigningKey) -> String {
    hex::encode(key.verifying_key().to_encoded_point(true).as_bytes())
}

fn open_pair(directory: &Path, name: &str) -> Result<Pair, KeysError> {
    let path = directory.join(name).with_extension("key");
    let key = read_private(&path)?;
    let certificate_max = u64::try_from(CERTIFICATE_BYTES_MAX).unwrap_or(u64::MAX);
    let certificate = read(&path.with_extension("crt"), certificate_max)?;
    Pair::read(&key, &certificate).map_err(|source| KeysError::Pair { path, source })
}

fn create_directory(path: &Path) -> Result<(), KeysError> {
    match DirBuilder::new().mode(MODE_DIRECTORY).create(path) {
        Ok(()) => Ok(()),
        // A directory made beforehand, with the mount point of an encrypted stick in mind, is fine as long as it is empty.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let entries = fs::read_dir(path);
            let mut entries =
                entries.map_err(|source| KeysError::File { action: "listed", path: path.to_owned(), source })?;
            match entries.find(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name() != "lost+found")) {
                None => Ok(()),
                Some(_) => Err(KeysError::Exists { path: path.to_owned() }),
            }
        }
        Err(source) => Err(KeysError::File { action: "made", path: path.to_owned(), source }),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeysError::Exists { path: path.to_owned() },
        _ => KeysError::File { action: "written", path: path.to_owned(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE_FILE).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| KeysError::File { action: "read", path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Open { path: path.to_owned(), mode });
    }
    let bytes = Zeroizing::new(read(path, FILE_BYTES_MAX)?);
    let text =
        std::str::from_utf8(&bytes).map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, KeysError> {
    let failed = |source| KeysError::File { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // All at once: what grows leaves copies of a key behind.
    let mut bytes = Vec::with_capacity(usize::try_from(bytes_max).unwrap_or(0) + 1);
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    match u64::try_from(bytes.len()).is_ok_and(|length| length <= bytes_max) {
        true => Ok(bytes),
        false => Err(KeysError::TooLong { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests;
