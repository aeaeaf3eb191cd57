//! A release in miniature: a disk with everything that a real one has, in 8 MiB, made without any tool.
#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(unreachable_pub, reason = "it is a module of more than one test")]
#![allow(missing_debug_implementations, reason = "keys are not shown")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use image::keys::Keys;
use image::release_manifest::{About, describe};
use image::sign;
use layout::Guid;
use layout::manifest::Manifest;
use layout::parts::{ESP_KIND, ESP_LABEL, ROOT_KIND, SETTINGS_KIND, SETTINGS_LABEL, Slot, VERITY_KIND};
use layout::verity::{self, RootHash};
use sha2::{Digest, Sha256};

const MIB: usize = 1 << 20;
const SECTOR: usize = 512;
const BLOCK: usize = 4096;
const DISK_BYTES: usize = 8 * MIB;
const ESP: (usize, usize) = (MIB, 2 * MIB);
const SETTINGS: (usize, usize) = (3 * MIB, MIB);
const ROOT: (usize, usize) = (4 * MIB, 2 * MIB);
const TREE: (usize, usize) = (6 * MIB, MIB);
/// Three blocks of hashes and one above them.
const ROOT_BLOCKS: usize = 300;
pub const VERSION: &str = "1.2.3";
pub const SBOM: &[u8] = br#"{"spdxVersion": "SPDX-2.3", "packages": [], "files": []}"#;

/// What [`release`] left.
pub struct Release {
    pub raw: PathBuf,
    pub keys: Keys,
    pub manifest: Manifest,
    pub json: Vec<u8>,
    pub signature: Vec<u8>,
}

/// Names and contents.
type Files = Vec<(String, Vec<u8>)>;

/// Puts one of two sets of keys into `folder`/keys. Made once: a set takes seconds, and no file outlives its test.
pub fn keys(folder: &Path, other: bool) -> Keys {
    static MADE: [OnceLock<Files>; 2] = [OnceLock::new(), OnceLock::new()];
    let files = MADE[usize::from(other)].get_or_init(|| {
        let folder = tempfile::tempdir().expect("a place for keys");
        Keys::make(folder.path(), &[]).expect("keys can be made");
        let entries = fs::read_dir(folder.path()).expect("they were made").map(|entry| entry.expect("an entry"));
        let file = |entry: fs::DirEntry| {
            (entry.file_name().into_string().expect("text"), fs::read(entry.path()).expect("a file"))
        };
        entries.map(file).collect()
    });
    let directory = folder.join("keys");
    fs::create_dir(&directory).expect("a folder");
    for (name, bytes) in files {
        fs::write(directory.join(name), bytes).expect("a key");
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o600)).expect("a mode");
    }
    Keys::open(&directory).expect("they were made")
}

/// Makes a release below `folder`.
pub fn release(folder: &Path) -> Release {
    let keys = keys(folder, false);
    let data: Vec<u8> = (0..ROOT_BLOCKS * BLOCK).map(|at| Sha256::digest((at / 32).to_le_bytes())[at % 32]).collect();
    let (tree, hash) = tree(&data);
    let line = format!("roothash={hash} ro quiet");
    let sign = |program: Vec<u8>| sign::uki(&keys, &program).expect("it can be signed");
    let kernel = vec![0x90; 70_000];
    let uki = sign(program(&[(".text", &[0xcc; 600]), (".cmdline", line.as_bytes()), (".linux", &kernel)]));
    let loader = sign(program(&[(".text", &[0xeb; 5000])]));
    let entry = format!("rig_{VERSION}.efi");
    let mut disk = vec![0; DISK_BYTES];
    let mut put = |at: usize, bytes: &[u8]| disk[at..at + bytes.len()].copy_from_slice(bytes);
    let mut files: Vec<(&str, &str, &[u8])> = vec![
        ("EFI/BOOT", "BOOTX64.EFI", &loader),
        ("EFI/LINUX", &entry, &uki),
        ("LOADER", "loader.conf", b"timeout 0\neditor no\n"),
    ];
    let enrolment = keys.enrolment();
    let auth: Vec<(String, &[u8])> = enrolment
        .iter()
        .map(|(path, bytes)| (path.rsplit('/').next().unwrap_or(path).to_owned(), &bytes[..]))
        .collect();
    files.extend(auth.iter().map(|(name, bytes)| ("LOADER/KEYS/AUTO", name.as_str(), *bytes)));
    put(ESP.0, &fat(&files));
    put(ROOT.0, &data);
    put(TREE.0, &tree);
    let slot = Slot::A;
    let partitions = [
        (ESP_LABEL, ESP_KIND, Guid::derived(ESP_LABEL), ESP),
        (SETTINGS_LABEL, SETTINGS_KIND, Guid::derived(SETTINGS_LABEL), SETTINGS),
        (slot.root_label(), ROOT_KIND, hash.root_id(), ROOT),
        (slot.verity_label(), VERITY_KIND, hash.verity_id(), TREE),
    ];
    table(&mut disk, &partitions);
    let raw = folder.join("rig.raw");
    fs::write(&raw, &disk).expect("a disk");
    let mut parts = BTreeMap::new();
    let named = [("uki.efi", &uki[..]), ("loader.efi", &loader), ("root.erofs", &data), ("spdx.json", SBOM)];
    for (name, bytes) in named {
        let path = folder.join(name);
        fs::write(&path, bytes).expect("a part");
        parts.insert(name.to_owned(), path);
    }
    let about = About {
        version: VERSION.to_owned(),
        flavour: "generic".to_owned(),
        sector_bytes: 512,
        root_hash: hash,
        kernel: "6.12".to_owned(),
        epoch: 0,
    };
    let manifest = describe(about, &raw, &parts).expect("files that were just written");
    let (json, signature) = sign::published(&keys, &manifest);
    Release { raw, keys, manifest, json, signature }
}

/// Headers for 64 bits and these sections.
pub fn program(sections: &[(&str, &[u8])]) -> Vec<u8> {
    const PE: usize = 0x80;
    const OPTIONAL: usize = PE + 24;
    let head = (OPTIONAL + 240 + 40 * sections.len()).next_multiple_of(SECTOR);
    let mut file = vec![0; head];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &[0x80]);
    put(PE, b"PE\0\0");
    put(PE + 4, &[0x64, 0x86, u8::try_from(sections.len()).expect("a few"), 0]);
    put(PE + 20, &[240]);
    put(OPTIONAL, &[0x0b, 0x02]);
    put(OPTIONAL + 60, &number(head));
    put(OPTIONAL + 108, &[16]);
    let mut end = head;
    for (index, (name, content)) in sections.iter().enumerate() {
        let at = OPTIONAL + 240 + 40 * index;
        let room = content.len().next_multiple_of(SECTOR);
        put(at, name.as_bytes());
        for (offset, value) in [(8, content.len()), (12, end), (16, room), (20, end)] {
            put(at + offset, &number(value));
        }
        end += room;
    }
    for (_, content) in sections {
        file.extend_from_slice(content);
        file.resize(file.len().next_multiple_of(SECTOR), 0);
    }
    file
}

/// A tree over `data`, and what it comes down to.
fn tree(data: &[u8]) -> (Vec<u8>, RootHash) {
    let salt = verity::salt(u64::try_from(data.len() / BLOCK).expect("it is small"), "synthetic");
    let hash = |block: &[u8]| <[u8; 32]>::from(Sha256::new().chain_update(salt).chain_update(block).finalize());
    let mut superblock = b"verity\0\0".to_vec();
    superblock.extend([1, 0, 0, 0, 1, 0, 0, 0]);
    superblock.extend([7; 16]);
    superblock.extend(b"sha256");
    superblock.resize(64, 0);
    superblock.extend([number(BLOCK), number(BLOCK)].concat());
    superblock.extend((data.len() / BLOCK).to_le_bytes());
    superblock.extend([u8::try_from(salt.len()).expect("32"), 0, 0, 0, 0, 0, 0, 0]);
    superblock.extend(salt);
    superblock.resize(BLOCK, 0);
    let mut levels = vec![data.to_vec()];
    while levels[levels.len() - 1].len() > BLOCK {
        let mut level: Vec<u8> = levels[levels.len() - 1].chunks(BLOCK).flat_map(hash).collect();
        level.resize(level.len().next_multiple_of(BLOCK), 0);
        levels.push(level);
    }
    let root = RootHash::from_bytes(hash(&levels[levels.len() - 1]));
    levels.reverse();
    levels.pop();
    (superblock.into_iter().chain(levels.concat()).collect(), root)
}

/// A FAT32 with clusters of 512 bytes. A folder is named with its whole path in upper case and has at most 16 entries;
/// a file's name is kept as a long one.
fn fat(files: &[(&str, &str, &[u8])]) -> Vec<u8> {
    const RESERVED: usize = 32;
    const TABLE_SECTORS: usize = 40;
    let mut disk = vec![0; ESP.1];
    let all = ESP.1 / SECTOR;
    disk[..3].copy_from_slice(&[0xeb, 0x58, 0x90]);
    disk[11..14].copy_from_slice(&[0, 2, 1]);
    disk[14] = u8::try_from(RESERVED).expect("32");
    disk[16] = 2;
    disk[32..36].copy_from_slice(&number(all));
    disk[36..40].copy_from_slice(&number(TABLE_SECTORS));
    disk[44] = 2;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut clusters: Vec<u32> = vec![0x0fff_fff8, 0x0fff_ffff];
    let mut contents: Vec<u8> = Vec::new();
    let mut store = |bytes: &[u8]| {
        let first = clusters.len();
        let count = bytes.len().div_ceil(SECTOR);
        clusters.extend((1..count).map(|next| u32::try_from(first + next).expect("small")));
        clusters.push(0x0fff_ffff);
        contents.extend(bytes);
        contents.resize(contents.len().next_multiple_of(SECTOR), 0);
        first
    };
    // Folders get two clusters each, the root first, so that their places are known before their entries.
    let mut folders: Vec<String> = vec![String::new()];
    for (folder, _, _) in files {
        let mut path = String::new();
        for name in folder.split('/') {
            path = format!("{path}/{name}");
            if !folders.contains(&path) {
                folders.push(path.clone());
            }
        }
    }
    let places: Vec<usize> = folders.iter().map(|_| store(&[0; 2 * SECTOR])).collect();
    let mut entries: Vec<Vec<u8>> = vec![Vec::new(); folders.len()];
    for (folder, place) in folders.iter().zip(&places).skip(1) {
        let (parent, name) = folder.rsplit_once('/').expect("it has a slash");
        let parent = folders.iter().position(|folder| folder == parent).expect("it came before");
        entries[parent].extend(entry(name, "", 0x10, *place, 0));
    }
    for (index, (folder, name, bytes)) in files.iter().enumerate() {
        let parent = folders.iter().position(|path| *path == format!("/{folder}")).expect("it was made");
        let short = format!("FILE{index}");
        entries[parent].extend(long(name, &short));
        let first = store(bytes);
        entries[parent].extend(entry(&short, "", 0x20, first, bytes.len()));
    }
    for (list, place) in entries.iter().zip(&places) {
        assert!(list.len() < 2 * SECTOR, "a folder is full");
        contents[(place - 2) * SECTOR..][..list.len()].copy_from_slice(list);
    }
    let table: Vec<u8> = clusters.iter().flat_map(|next| next.to_le_bytes()).collect();
    for copy in 0..2 {
        disk[(RESERVED + copy * TABLE_SECTORS) * SECTOR..][..table.len()].copy_from_slice(&table);
    }
    disk[(RESERVED + 2 * TABLE_SECTORS) * SECTOR..][..contents.len()].copy_from_slice(&contents);
    disk
}

fn entry(name: &str, extension: &str, attributes: u8, first: usize, bytes: usize) -> Vec<u8> {
    let mut raw = format!("{name:8}{extension:3}").into_bytes();
    raw.push(attributes);
    raw.resize(32, 0);
    raw[26..28].copy_from_slice(&number(first)[..2]);
    raw[28..32].copy_from_slice(&number(bytes));
    raw
}

fn long(name: &str, short: &str) -> Vec<u8> {
    let sum = format!("{short:11}").bytes().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(byte));
    let mut units: Vec<u16> = name.encode_utf16().collect();
    units.push(0);
    units.resize(units.len().next_multiple_of(13), 0xffff);
    let pieces: Vec<&[u16]> = units.chunks(13).collect();
    let mut raw = Vec::new();
    for (index, piece) in pieces.iter().enumerate().rev() {
        let last = if index + 1 == pieces.len() { 0x40 } else { 0 };
        let units: Vec<u8> = piece.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        raw.push(u8::try_from(index + 1).expect("a short name") | last);
        raw.extend(&units[..10]);
        raw.extend([0x0f, 0, sum]);
        raw.extend(&units[10..22]);
        raw.extend([0, 0]);
        raw.extend(&units[22..]);
    }
    raw
}

/// Writes a table with both its copies.
fn table(disk: &mut [u8], partitions: &[(&str, Guid, Guid, (usize, usize))]) {
    let mut entries = Vec::new();
    for (name, kind, id, (at, bytes)) in partitions {
        entries.extend([kind.to_disk(), id.to_disk()].concat());
        entries.extend((at / SECTOR).to_le_bytes());
        entries.extend(((at + bytes) / SECTOR - 1).to_le_bytes());
        entries.extend([0; 8]);
        let mut name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        name.resize(72, 0);
        entries.extend(name);
    }
    entries.resize(128 * 128, 0);
    let last = disk.len() / SECTOR - 1;
    for (here, other, entries_at) in [(1, last, 2), (last, 1, last - 32)] {
        let mut head = b"EFI PART\0\0\x01\0".to_vec();
        head.extend([number(92), [0; 4], [0; 4]].concat());
        for place in [here, other, 34, last - 33] {
            head.extend(place.to_le_bytes());
        }
        head.extend(Guid::derived("disk").to_disk());
        head.extend(entries_at.to_le_bytes());
        head.extend([number(128), number(128), crc(&entries).to_le_bytes()].concat());
        let sum = crc(&head);
        head[16..20].copy_from_slice(&sum.to_le_bytes());
        disk[here * SECTOR..][..head.len()].copy_from_slice(&head);
        disk[entries_at * SECTOR..][..entries.len()].copy_from_slice(&entries);
    }
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}

fn number(value: usize) -> [u8; 4] {
    u32::try_from(value).expect("a small number").to_le_bytes()
}
