//! A release's image, read chunk by chunk, each proven before anybody gets it.
//!
//! ```text
//! rig-1.2.3-generic.raw.zst         the image; or .raw
//! rig-1.2.3-generic.manifest.json   what every 4 MiB of it hash to
//! rig-1.2.3-generic.manifest.sig    the vendor's signature of the manifest
//! ```
//!
//! Invariants: the signature is checked before the manifest is parsed, and the manifest before the image is opened; a
//! chunk that does not hash as the manifest says is an error and never a chunk; at most [`AHEAD`] chunks are in memory
//! besides the one in hand. Reading, unpacking and hashing run in a thread of their own, so that the stick never waits.

use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use layout::gpt::{GptError, Table};
use layout::manifest::{self, CHUNK_BYTES, Chunk, MANIFEST_BYTES_MAX, Manifest, ManifestError, PublicKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::target::Aligned;

/// Chunks that wait for the stick.
const AHEAD: usize = 2;

/// No rig's disk image is larger. It bounds what an unproven image may claim.
const IMAGE_BYTES_MAX: u64 = 64 << 30;

/// A key file holds one line.
const KEY_BYTES_MAX: u64 = 4096;

/// Where a release lies.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) image: PathBuf,
    pub(crate) manifest: PathBuf,
    pub(crate) signature: PathBuf,
}

/// Whom the owner believes.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// The vendor with this key.
    Key(PublicKey),
    /// Whoever made the files. The chunks are still checked against a manifest if there is one.
    Nobody,
}

/// A release that may be written.
#[derive(Debug)]
pub(crate) struct Release {
    image: PathBuf,
    manifest: Option<Manifest>,
    table: Table,
    bytes: u64,
}

/// One chunk of the image.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Where on the disk it goes.
    pub(crate) at: u64,
    pub(crate) bytes: Aligned,
    pub(crate) proof: Proof,
}

/// What a chunk must read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Zero,
    Sha256([u8; 32]),
}

/// The first chunk of a disk as if the rest of it were there, and zero.
struct Head<'a> {
    chunk: Cursor<&'a Vec<u8>>,
    claimed: u64,
    at: u64,
}

/// Why a release is not written.
#[derive(Debug, Error)]
pub(crate) enum ReleaseError {
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no manifest of a release that can be trusted", .path.display())]
    Manifest {
        path: PathBuf,
        #[source]
        source: ManifestError,
    },
    #[error("{} has more than {max} bytes", .path.display())]
    Long { path: PathBuf, max: u64 },
    #[error("{}: {} is not what the manifest says; nothing of it was written", .path.display(), place(*.at))]
    Differs { path: PathBuf, at: u64 },
    #[error("{} ends at byte {at}, and should have {expected}: it was not downloaded to its end", .path.display())]
    Short { path: PathBuf, at: u64, expected: u64 },
    #[error("{} goes on after byte {expected}, where it should end", .path.display())]
    Beyond { path: PathBuf, expected: u64 },
    #[error("{} is no disk image of a rig", .path.display())]
    Table {
        path: PathBuf,
        #[source]
        source: GptError,
    },
    #[error("{} is an image for sectors of {image} bytes, and its manifest says {manifest}", .path.display())]
    Sectors { path: PathBuf, image: u32, manifest: u32 },
}

/// A place in an image as people find it.
fn place(at: u64) -> String {
    format!("the chunk at {} MiB", at >> 20)
}

// === impl Files ===

impl Files {
    /// The files beside `image`, unless they are named.
    pub(crate) fn beside(image: &Path, manifest: Option<PathBuf>, signature: Option<PathBuf>) -> Files {
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = [".raw.zst", ".raw", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        let beside = |end: &str| image.with_file_name(format!("{stem}{end}"));
        Files {
            image: image.to_owned(),
            manifest: manifest.unwrap_or_else(|| beside(".manifest.json")),
            signature: signature.unwrap_or_else(|| beside(".manifest.sig")),
        }
    }
}

/// Reads the vendor's key: the point itself, or a file with it.
///
/// Errors: a sentence that says what is wrong.
pub(crate) fn key(text: &str) -> Result<PublicKey, String> {
    if let Ok(key) = PublicKey::from_hex(text) {
        return Ok(key);
    }
    let path = Path::new(text);
    let line = bounded(path, KEY_BYTES_MAX).map_err(|_| {
        format!("`{text}` is neither a key (66 or 130 hexadecimal digits) nor a file that can be read with one in it")
    })?;
    PublicKey::from_hex(&String::from_utf8_lossy(&line)).map_err(|error| format!("{text}: {error}"))
}

fn bounded(path: &Path, max: u64) -> Result<Vec<u8>, ReleaseError> {
    let read = |source| ReleaseError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(read)?.take(max + 1).read_to_end(&mut bytes).map_err(read)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > max) {
        return Err(ReleaseError::Long { path: path.to_owned(), max });
    }
    Ok(bytes)
}

// === impl Release ===

impl Release {
    /// Reads manifest and signature, and the image's first chunk with its partition table.
    pub(crate) fn open(files: &Files, trust: &Trust) -> Result<Release, ReleaseError> {
        let manifest = proven(files, trust)?;
        let image = files.image.clone();
        let known = manifest.as_ref().map(|manifest| manifest.raw.bytes);
        let mut reader = open_image(&image)?;
        let first = usize::try_from(known.unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)).unwrap_or(0);
        let mut chunk = vec![0; first];
        fill(&mut reader, &mut chunk, &image, 0, known.unwrap_or(CHUNK_BYTES))?;
        if let Some(expected) = manifest.as_ref().and_then(|manifest| manifest.raw.chunks.first()) {
            check(*expected, &chunk, &image, 0)?;
        }
        let path = || image.clone();
        let claimed = known.unwrap_or(IMAGE_BYTES_MAX);
        let mut head = Head { chunk: Cursor::new(&chunk), claimed, at: 0 };
        let table = Table::read(&mut head).map_err(|source| ReleaseError::Table { path: path(), source })?;
        let said = table.disk_sectors.saturating_mul(u64::from(table.sector_bytes));
        let bytes = known.unwrap_or(said);
        if bytes > IMAGE_BYTES_MAX {
            return Err(ReleaseError::Long { path: path(), max: IMAGE_BYTES_MAX });
        }
        match manifest.as_ref().map(|manifest| manifest.sector_bytes) {
            Some(sectors) if sectors != table.sector_bytes => {
                Err(ReleaseError::Sectors { path: path(), image: table.sector_bytes, manifest: sectors })
            }
            Some(_) | None => Ok(Release { image, manifest, table, bytes }),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// How many bytes of the image are known to be zero.
    pub(crate) fn zero_bytes(&self) -> u64 {
        let chunks = self.manifest.iter().flat_map(|manifest| &manifest.raw.chunks);
        let zeros = chunks.filter(|chunk| **chunk == Chunk::Zero).count();
        u64::try_from(zeros).unwrap_or(0).saturating_mul(CHUNK_BYTES).min(self.bytes)
    }

    /// All chunks in order. The thread behind it ends when the receiver is dropped.
    pub(crate) fn pieces(&self) -> Receiver<Result<Piece, ReleaseError>> {
        let (to, from) = sync_channel(AHEAD);
        let (image, bytes) = (self.image.clone(), self.bytes);
        let chunks = self.manifest.as_ref().map(|manifest| manifest.raw.chunks.clone());
        thread::spawn(move || {
            let mut reader = match open_image(&image) {
                Ok(reader) => reader,
                // Nobody is there to be told once the receiver is gone; so below.
                Err(error) => return drop(to.send(Err(error))),
            };
            let mut at = 0;
            let mut expected = chunks.map(Vec::into_iter);
            while at < bytes {
                let chunk = expected.as_mut().and_then(Iterator::next);
                let piece = read_piece(&mut reader, &image, at, bytes, chunk);
                let is_bad = piece.is_err();
                if to.send(piece).is_err() || is_bad {
                    return;
                }
                at += CHUNK_BYTES;
            }
        });
        from
    }
}

/// The manifest, if whom it is from is right.
fn proven(files: &Files, trust: &Trust) -> Result<Option<Manifest>, ReleaseError> {
    let max = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
    let wrong = |source| ReleaseError::Manifest { path: files.manifest.clone(), source };
    match trust {
        Trust::Key(key) => {
            let json = bounded(&files.manifest, max)?;
            let signature = bounded(&files.signature, KEY_BYTES_MAX)?;
            manifest::verify(&json, &signature, key).map(Some).map_err(wrong)
        }
        Trust::Nobody if !files.manifest.exists() => Ok(None),
        Trust::Nobody => Manifest::parse(&bounded(&files.manifest, max)?).map(Some).map_err(wrong),
    }
}

fn open_image(path: &Path) -> Result<Box<dyn Read + Send>, ReleaseError> {
    let read = |source| ReleaseError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return Err(read(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    if path.extension().is_some_and(|extension| extension == "zst") {
        return Ok(Box::new(zstd::Decoder::new(file).map_err(read)?));
    }
    Ok(Box::new(file))
}

fn read_piece(
    reader: &mut impl Read,
    path: &Path,
    at: u64,
    bytes: u64,
    expected: Option<Chunk>,
) -> Result<Piece, ReleaseError> {
    let length = usize::try_from((bytes - at).min(CHUNK_BYTES)).unwrap_or(0);
    let mut buffer = Aligned::zeroed(length);
    fill(reader, buffer.bytes_mut(), path, at, bytes)?;
    let proof = match expected {
        Some(expected) => check(expected, buffer.bytes(), path, at)?,
        None if buffer.is_zero() => Proof::Zero,
        None => Proof::Sha256(Sha256::digest(buffer.bytes()).into()),
    };
    let is_last = at + CHUNK_BYTES >= bytes;
    let read = |source| ReleaseError::Read { path: path.to_owned(), source };
    if is_last && reader.read(&mut [0]).map_err(read)? != 0 {
        return Err(ReleaseError::Beyond { path: path.to_owned(), expected: bytes });
    }
    Ok(Piece { at, bytes: buffer, proof })
}

fn fill(reader: &mut impl Read, into: &mut [u8], path: &Path, at: u64, expected: u64) -> Result<(), ReleaseError> {
    reader.read_exact(into).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => ReleaseError::Short { path: path.to_owned(), at, expected },
        _ => ReleaseError::Read { path: path.to_owned(), source },
    })
}

fn check(expected: Chunk, bytes: &[u8], path: &Path, at: u64) -> Result<Proof, ReleaseError> {
    let proof = Proof::from(expected);
    if proof.holds(bytes) { Ok(proof) } else { Err(ReleaseError::Differs { path: path.to_owned(), at }) }
}

// === impl Head ===

impl Read for Head<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.claimed.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let count = into.len().min(left);
        self.chunk.set_position(self.at);
        let content = self.chunk.read(&mut into[..count])?;
        into[content..count].fill(0);
        self.at += u64::try_from(count).map_err(io::Error::other)?;
        Ok(count)
    }
}

impl Seek for Head<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.claimed.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

// === impl Proof ===

impl Proof {
    /// Whether `bytes` are the chunk.
    pub(crate) fn holds(self, bytes: &[u8]) -> bool {
        match self {
            Proof::Zero => super::target::is_zero(bytes),
            Proof::Sha256(expected) => expected == <[u8; 32]>::from(Sha256::digest(bytes)),
        }
    }
}

impl From<Chunk> for Proof {
    fn from(chunk: Chunk) -> Proof {
        match chunk {
            Chunk::Zero => Proof::Zero,
            Chunk::Sha256(digest) => Proof::Sha256(digest.0),
        }
    }
}
