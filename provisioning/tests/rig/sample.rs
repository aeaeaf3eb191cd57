//! A release small enough to be written often: twelve chunks with all that a rig's disk has, signed by a key of this test.
//!
//! ```text
//! MiB  0 table │ 1 to 9 rig-esp │ 12 to 32 RIG (FAT) │ 32 to 36 rig-root-a │ 36 to 44 rig-root-b, zero │ 48 spare table
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use layout::gpt::Guid;
use layout::manifest::{CHUNK_BYTES, Chunk, FORMAT, Manifest, Part, Raw, Sha256Hex};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha256};

pub(crate) const MIB: usize = 1 << 20;

/// All of the disk.
pub(crate) const BYTES: usize = 48 * MIB;

/// Where the partition RIG lies.
pub(crate) const RIG: std::ops::Range<usize> = 12 * MIB..32 * MIB;

/// Where the root of slot A lies.
pub(crate) const ROOT_A: std::ops::Range<usize> = 32 * MIB..36 * MIB;

/// What is on the stick before anybody wrote to it: with a comment, and with Windows' line ends.
pub(crate) const TEMPLATE: &str = "# Who is paid.\r\n[owner]\r\naddress = \"\" # 0x and 40 digits\r\n# name = \"attic\"\r\n\r\n\
                                   [work]\r\nmax_runs = 4 # at a time\r\n";

/// The files of a release.
pub(crate) struct Sample {
    pub(crate) bytes: Vec<u8>,
    pub(crate) image: PathBuf,
    pub(crate) packed: PathBuf,
    pub(crate) manifest: PathBuf,
    pub(crate) signature: PathBuf,
    pub(crate) key: String,
}

// === impl Sample ===

impl Sample {
    /// Makes one in `folder`.
    pub(crate) fn new(folder: &Path, sector_bytes: u32) -> Sample {
        let bytes = disk(folder, sector_bytes);
        let signer = SigningKey::from_slice(&[7; 32]).unwrap();
        let key = hex(signer.verifying_key().to_encoded_point(true).as_bytes());
        let path = |end: &str| folder.join(format!("rig-1.2.3-sample{end}"));
        let sample = Sample {
            image: path(".raw"),
            packed: path(".raw.zst"),
            manifest: path(".manifest.json"),
            signature: path(".manifest.sig"),
            bytes,
            key,
        };
        fs::write(&sample.image, &sample.bytes).unwrap();
        fs::write(&sample.packed, zstd::encode_all(sample.bytes.as_slice(), 1).unwrap()).unwrap();
        let json = manifest(&sample.bytes, sector_bytes).to_json();
        let signature: Signature = signer.sign(&json);
        fs::write(&sample.manifest, json).unwrap();
        fs::write(&sample.signature, signature.to_der().as_bytes()).unwrap();
        sample
    }
}

/// A program that must succeed; its output.
pub(crate) fn tool(name: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(name);
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = command.args(arguments).env("PATH", path).env("MTOOLS_SKIP_CHECK", "1").output().expect(name);
    let both = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&both).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {said}");
    said
}

/// Bytes that do not compress, and are the same each time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    // One mebibyte is made, and each copy of it begins with its number.
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + MIB);
    while bytes.len() < MIB {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    while bytes.len() < length {
        let at = bytes.len();
        bytes.extend_from_within(..MIB);
        bytes[at..at + 8].copy_from_slice(&(at as u64).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn manifest(disk: &[u8], sector_bytes: u32) -> Manifest {
    let digest = |bytes: &[u8]| Sha256Hex(Sha256::digest(bytes).into());
    let chunks = disk.chunks(usize::try_from(CHUNK_BYTES).unwrap());
    let chunk = |bytes: &[u8]| match bytes == vec![0; bytes.len()] {
        true => Chunk::Zero,
        false => Chunk::Sha256(digest(bytes)),
    };
    Manifest {
        format: FORMAT,
        version: "1.2.3".to_owned(),
        flavour: "sample".to_owned(),
        sector_bytes,
        root_hash: "00".repeat(32).parse().unwrap(),
        kernel: "6.12".to_owned(),
        epoch: 1_767_225_600,
        raw: Raw {
            bytes: disk.len() as u64,
            sha256: digest(disk),
            chunk_bytes: CHUNK_BYTES,
            chunks: chunks.map(chunk).collect(),
        },
        parts: BTreeMap::from([("root.erofs".to_owned(), Part { bytes: 1, sha256: digest(b"0") })]),
    }
}

fn disk(folder: &Path, sector_bytes: u32) -> Vec<u8> {
    let mut disk = vec![0; BYTES];
    disk[MIB..9 * MIB].copy_from_slice(&noise(3, 8 * MIB));
    disk[ROOT_A].copy_from_slice(&noise(5, 4 * MIB));
    disk[RIG].copy_from_slice(&volume(folder, RIG.len(), sector_bytes));
    let parts = [("rig-esp", MIB..9 * MIB), ("RIG", RIG), ("rig-root-a", ROOT_A), ("rig-root-b", 36 * MIB..44 * MIB)];
    table(&mut disk, usize::try_from(sector_bytes).unwrap(), &parts);
    disk
}

/// The partition RIG as the image's own tools make it. FAT16, because FAT32 has at least 65,525 clusters.
fn volume(folder: &Path, length: usize, sector_bytes: u32) -> Vec<u8> {
    let volume = folder.join("volume");
    fs::write(&volume, vec![0; length]).unwrap();
    let template = folder.join("rig.toml");
    fs::write(&template, TEMPLATE).unwrap();
    let (at, template) = (volume.to_str().unwrap(), template.to_str().unwrap());
    tool("mkfs.vfat", &["-F", "16", "-s", "1", "-S", &sector_bytes.to_string(), "-n", "RIG", at]);
    tool("mcopy", &["-i", at, template, "::rig.toml"]);
    tool("mcopy", &["-i", at, template, "::README.txt"]);
    fs::read(&volume).unwrap()
}

/// Writes both partition tables. Source: UEFI Specification 2.10, 5.3.
fn table(disk: &mut [u8], sector: usize, parts: &[(&str, std::ops::Range<usize>)]) {
    let sectors = disk.len() / sector;
    let entry_sectors = (128 * 128) / sector;
    let mut entries = vec![0_u8; 128 * 128];
    for (entry, (name, range)) in entries.chunks_mut(128).zip(parts) {
        entry[..16].copy_from_slice(&mixed(Guid::derived("kind")));
        entry[16..32].copy_from_slice(&mixed(Guid::derived(name)));
        entry[32..40].copy_from_slice(&(range.start as u64 / sector as u64).to_le_bytes());
        entry[40..48].copy_from_slice(&(range.end as u64 / sector as u64 - 1).to_le_bytes());
        for (at, sign) in (56..).step_by(2).zip(name.encode_utf16()) {
            entry[at..at + 2].copy_from_slice(&sign.to_le_bytes());
        }
    }
    let header = |at: usize, other: usize, entries_at: usize| {
        let mut header = vec![0_u8; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
        let (first, last) = (2 + entry_sectors, sectors - 2 - entry_sectors);
        for (place, value) in [(24, at), (32, other), (40, first), (48, last), (72, entries_at)] {
            header[place..place + 8].copy_from_slice(&(value as u64).to_le_bytes());
        }
        header[56..72].copy_from_slice(&mixed(Guid::derived("disk")));
        header[80..88].copy_from_slice(&[128, 0, 0, 0, 128, 0, 0, 0]);
        header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
        let sum = crc32fast::hash(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    };
    let spare = sectors - 1;
    let spare_entries = spare - entry_sectors;
    for (at, bytes) in [
        (1, header(1, spare, 2)),
        (2, entries.clone()),
        (spare, header(spare, 1, spare_entries)),
        (spare_entries, entries.clone()),
    ] {
        disk[at * sector..at * sector + bytes.len()].copy_from_slice(&bytes);
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
}

/// A GUID as tables hold it: the first three parts with the low byte first.
fn mixed(id: Guid) -> [u8; 16] {
    let mut bytes = id.bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
