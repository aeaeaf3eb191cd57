//! Proves that a copy of an image is the release that it says it is.
//!
//! Invariants: the signature is checked before anything that it covers is believed; every line of a [`Report`] says what
//! was compared with what; a check that could not be made is not a check that held, and the report says so; nothing of
//! the copy is run, mounted or written.
//!
//! An image file must be the release bit for bit. A stick in use cannot be: its table names a state partition, its RIG
//! partition holds settings, its loader has renamed entries. So of a stick the loader, the kernel image and the root with
//! its tree are compared, file by file and block by block, and the rest is named as not compared.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use layout::gpt::{GptError, Partition, Table};
use layout::manifest::{Chunk, Manifest, ManifestError, PublicKey, Raw};
use layout::parts::{ESP_KIND, ESP_LABEL, Slot};
use layout::verity;
use layout::{Guid, Window};
use serde::Serialize;
use sha2::{Digest, Sha256};
use x509_cert::Certificate;

use crate::release_manifest::chunk_of;

mod esp;

/// The name of a part in the manifest.
pub(crate) const PART_LOADER: &str = "loader.efi";
pub(crate) const PART_UKI: &str = "uki.efi";
pub(crate) const PART_SBOM: &str = "spdx.json";
const PART_ROOT: &str = "root.erofs";
/// The first bytes of a zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What speaks for a release.
#[derive(Debug)]
pub struct Evidence {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Its signature.
    pub signature: Vec<u8>,
    /// Whose signature it must be; without it nothing is proven.
    pub key: Option<PublicKey>,
    /// Whose signature loader and kernel image must carry, if that is to be checked.
    pub database: Option<Certificate>,
    /// The SBOM's bytes, if at hand.
    pub sbom: Option<Vec<u8>>,
}

/// What is to be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// A file as it was published.
    Image,
    /// A stick or a disk that may have been in use.
    Disk,
}

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Proven,
    /// It was not made, for the reason that the line gives.
    NotChecked,
    /// It does not hold.
    Refused,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at.
    pub subject: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was compared, or what is wrong.
    pub detail: String,
}

/// All checks, in the order in which they were made. After a refusal no further check is made that rests on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The checks.
    pub lines: Vec<Line>,
}

/// Why nothing could be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file that cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No room to unpack.
    #[error("there is no room to unpack the image: set TMPDIR to a directory with {0} bytes free")]
    Room(u64, #[source] io::Error),
}

// === impl Report ===

impl Report {
    /// Whether the copy is the release, as far as it was looked at, and by a signature that was checked.
    pub fn is_good(&self) -> bool {
        let holds = |subject| self.lines.iter().any(|line| line.subject == subject && line.outcome == Outcome::Proven);
        self.lines.iter().all(|line| line.outcome != Outcome::Refused) && holds(SIGNATURE) && holds(ROOT)
    }

    fn push(&mut self, subject: &'static str, outcome: Outcome, detail: impl Into<String>) {
        self.lines.push(Line { subject, outcome, detail: detail.into() });
    }

    /// Adds the line of a result; what it was good for goes on.
    fn take<T>(&mut self, subject: &'static str, result: Result<(T, String), String>) -> Option<T> {
        match result {
            Ok((value, detail)) => {
                self.push(subject, Outcome::Proven, detail);
                Some(value)
            }
            Err(detail) => {
                self.push(subject, Outcome::Refused, detail);
                None
            }
        }
    }
}

const SIGNATURE: &str = "manifest's signature";
const CHUNKS: &str = "image";
const TABLE: &str = "partitions";
const ROOT: &str = "root";
const SBOM: &str = "SBOM";

/// Checks the copy at `path`. `progress` gets the bytes read so far and the bytes there are, image and root each.
/// Errors: only what prevents looking; what was found is in the report.
pub fn verify(
    path: &Path,
    copy: Copy,
    evidence: &Evidence,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, VerifyError> {
    let mut report = Report::default();
    let Some(manifest) = manifest(evidence, &mut report) else { return Ok(report) };
    let file = File::open(path).map_err(|source| VerifyError::Read { path: path.to_owned(), source })?;
    let disk = match copy {
        Copy::Disk => {
            report.push(CHUNKS, Outcome::NotChecked, "a disk in use differs from its image; its parts are compared");
            Some(file)
        }
        Copy::Image => image(file, path, &manifest.raw, &mut report, progress)?,
    };
    if let Some(mut disk) = disk {
        parts(&mut disk, copy, &manifest, evidence, &mut report, progress);
    }
    sbom(evidence, &manifest, &mut report);
    Ok(report)
}

fn manifest(evidence: &Evidence, report: &mut Report) -> Option<Manifest> {
    let said = |manifest: &Manifest| format!("rig {} {}", manifest.version, manifest.flavour);
    match &evidence.key {
        Some(key) => {
            let manifest = layout::manifest::verify(&evidence.manifest, &evidence.signature, key);
            let manifest = manifest.map_err(|error| chain(&error));
            report.take(
                SIGNATURE,
                manifest.map(|manifest| {
                    let words = format!("{}, signed by {key}", said(&manifest));
                    (manifest, words)
                }),
            )
        }
        None => match Manifest::parse(&evidence.manifest) {
            Ok(manifest) => {
                let words = format!("{}; no key was given, so anybody may have written this manifest", said(&manifest));
                report.push(SIGNATURE, Outcome::NotChecked, words);
                Some(manifest)
            }
            Err(error) => report.take(SIGNATURE, Err(chain::<ManifestError>(&error))),
        },
    }
}

// === the image, chunk by chunk ===

/// Compares the image with its chunks; the image, unpacked if it was packed, if it is right.
fn image(
    mut file: File,
    path: &Path,
    raw: &Raw,
    report: &mut Report,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<File>, VerifyError> {
    let failed = |source| VerifyError::Read { path: path.to_owned(), source };
    let mut magic = Vec::new();
    (&file).take(4).read_to_end(&mut magic).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    if magic != ZSTD_MAGIC {
        let result = compare(&mut file, raw, progress, &mut |_, _| Ok(()));
        let found = report.take(CHUNKS, settle(result, raw).map_err(failed)?);
        return Ok(found.map(|()| file));
    }
    let mut unpacked = tempfile::tempfile().map_err(|source| VerifyError::Room(raw.bytes, source))?;
    let mut keep = |at: u64, chunk: &[u8]| {
        unpacked.seek(SeekFrom::Start(at))?;
        unpacked.write_all(chunk)
    };
    let mut reader = zstd::stream::read::Decoder::new(file).map_err(failed)?;
    let result = compare(&mut reader, raw, progress, &mut keep);
    // What does not unpack is a damaged copy, not a machine that fails us.
    let result = match result {
        Err(Trouble::Read(error)) => Ok(Err(format!("it does not unpack: {error}"))),
        other => settle(other, raw),
    };
    let found = report.take(CHUNKS, result.map_err(|source| VerifyError::Room(raw.bytes, source))?);
    unpacked.set_len(raw.bytes).map_err(|source| VerifyError::Room(raw.bytes, source))?;
    Ok(found.map(|()| unpacked))
}

enum Trouble {
    Read(io::Error),
    Keep(io::Error),
    Differs(String),
}

type Proof = Result<((), String), String>;

fn settle(result: Result<(), Trouble>, raw: &Raw) -> io::Result<Proof> {
    match result {
        Ok(()) => Ok(Ok(((), format!("{} bytes in {} chunks, sha256 {}", raw.bytes, raw.chunks.len(), raw.sha256)))),
        Err(Trouble::Differs(words)) => Ok(Err(words)),
        Err(Trouble::Read(error) | Trouble::Keep(error)) => Err(error),
    }
}

/// Reads to the end; `keep` gets every chunk that is not zero, with its place.
fn compare(
    reader: &mut impl Read,
    raw: &Raw,
    progress: &mut dyn FnMut(u64, u64),
    keep: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> Result<(), Trouble> {
    let mut whole = Sha256::new();
    let (mut at, mut chunk) = (0, Vec::new());
    for expected in &raw.chunks {
        let wanted = raw.chunk_bytes.min(raw.bytes - at);
        chunk.clear();
        let got = reader.by_ref().take(wanted).read_to_end(&mut chunk).map_err(Trouble::Read)?;
        if u64::try_from(got) != Ok(wanted) {
            let there = at + u64::try_from(got).unwrap_or(0);
            return Err(Trouble::Differs(format!("it ends after {there} bytes of {}", raw.bytes)));
        }
        if chunk_of(&chunk) != *expected {
            return Err(Trouble::Differs(format!("the {wanted} bytes from byte {at} are not those of the release")));
        }
        if *expected != Chunk::Zero {
            keep(at, &chunk).map_err(Trouble::Keep)?;
        }
        whole.update(&chunk);
        at += wanted;
        progress(at, raw.bytes);
    }
    if reader.read(&mut [0]).map_err(Trouble::Read)? != 0 {
        return Err(Trouble::Differs(format!("it goes on after the {} bytes of the release", raw.bytes)));
    }
    match <[u8; 32]>::from(whole.finalize()) == raw.sha256.0 {
        true => Ok(()),
        false => Err(Trouble::Differs("its hash is not the manifest's, though every chunk is".to_owned())),
    }
}

// === what lies in it ===

fn parts(
    disk: &mut File,
    copy: Copy,
    manifest: &Manifest,
    evidence: &Evidence,
    report: &mut Report,
    progress: &mut dyn FnMut(u64, u64),
) {
    let Some(found) = report.take(TABLE, table(disk, manifest)) else { return };
    let Found { table, esp, root, tree, slot } = found;
    esp::verify(disk, &table, &esp, copy, manifest, evidence, report);
    let hash = &manifest.root_hash;
    let bytes = root.bytes(&table);
    let result = {
        // Both look at one file: a window says where before each read.
        let window = |partition: &Partition| Window::new(&*disk, partition.offset(&table), partition.bytes(&table));
        let (mut data, mut tree) = (window(&root), window(&tree));
        let mut read = 0;
        let mut told = |done| {
            read = done;
            progress(done, bytes);
        };
        let checked = verity::check(&mut data, &mut tree, hash, &mut told).map_err(|error| chain(&error));
        // How long the root is says a superblock that no hash covers: a shorter one would leave its end unread.
        let whole = |()| match manifest.parts.get(PART_ROOT).map(|part| part.bytes) {
            Some(bytes) if bytes == read => Ok(()),
            Some(bytes) => {
                Err(format!("slot {slot}: its tree is for {read} bytes, and the release's root has {bytes}"))
            }
            None => Err(format!("the manifest names no {PART_ROOT}")),
        };
        let said = format!("slot {slot}: {read} bytes, every block under the root hash {hash}");
        checked.and_then(whole).map(|()| ((), said))
    };
    report.take(ROOT, result);
    if copy == Copy::Disk {
        report.push("other slot, RIG, state", Outcome::NotChecked, "they belong to the rig's owner and to its updates");
    }
}

struct Found {
    table: Table,
    esp: Partition,
    root: Partition,
    tree: Partition,
    slot: &'static str,
}

fn table(disk: &mut File, manifest: &Manifest) -> Result<(Found, String), String> {
    let table = Table::read(disk).map_err(|error: GptError| chain(&error))?;
    let named = |id: Guid, what: &str| {
        let partition = table.by_id(id).cloned();
        partition.ok_or_else(|| format!("no partition {id}, which the release's {what} would have"))
    };
    let root = named(manifest.root_hash.root_id(), "root")?;
    let tree = named(manifest.root_hash.verity_id(), "tree")?;
    let esp = table.by_name(ESP_LABEL).filter(|partition| partition.kind == ESP_KIND).cloned();
    let esp = esp.ok_or_else(|| format!("no partition {ESP_LABEL} that firmware would boot from"))?;
    let slot =
        Slot::of_root_label(&root.name).ok_or_else(|| format!("the root lies in {:?}, not in a slot", root.name))?;
    if tree.name != slot.verity_label() {
        return Err(format!("the tree lies in {:?}, and the root in {:?}", tree.name, root.name));
    }
    let words = format!("{} of them; root and tree in slot {}", table.partitions.len(), slot.letter());
    Ok((Found { esp, root, tree, slot: slot.letter(), table }, words))
}

fn sbom(evidence: &Evidence, manifest: &Manifest, report: &mut Report) {
    let Some(sbom) = &evidence.sbom else {
        return report.push(SBOM, Outcome::NotChecked, "there is none beside the image");
    };
    let result = match manifest.parts.get(PART_SBOM) {
        Some(part) if part.sha256.0 == <[u8; 32]>::from(Sha256::digest(sbom)) => {
            crate::sbom::count(sbom).map(|count| ((), format!("the release's own: {count}")))
        }
        Some(_) => Err("it is not the one of the release".to_owned()),
        None => Err(format!("the manifest names no {PART_SBOM}")),
    };
    report.take(SBOM, result);
}

/// An error and what lies behind it, on one line.
pub(crate) fn chain<E: std::error::Error>(error: &E) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}
