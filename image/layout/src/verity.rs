//! dm-verity: what makes a root one thing that is either right or refused.
//!
//! ```text
//! block 0     superblock, 512 bytes: kind of hash, sizes, salt. Nothing vouches for it; a wrong salt gives wrong hashes.
//! block 1     top of the tree: its SHA-256 (salt first) is the root hash
//! ...         each level below: 128 hashes of 32 bytes a block
//! ```
//! As `veritysetup format` writes it with SHA-256 and blocks of 4096 bytes; anything else is refused. The root hash names
//! the partitions too: its first half is the id of the root's, its second half of the tree's.
//!
//! The salt begins with the count of blocks ([`salt`]), so that the root hash vouches for the root's length: of a shorter
//! one the kernel would check each block that it has, and files at its end could not be read.

use std::fmt::{self, Write as _};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::guid::Guid;

/// Bytes of a block, of data and of the tree.
pub const BLOCK_BYTES: u64 = 4096;

/// So many blocks of data at most: 1 TiB, a thousand times what a slot holds.
pub const DATA_BLOCKS_MAX: u64 = 1 << 28;

const BLOCK: usize = 4096;
const HASHES_A_BLOCK: u64 = 128;
const HASH: usize = 32;
const SIGNATURE: &[u8; 8] = b"verity\0\0";
const SUPERBLOCK: usize = 512;
const SALT_MAX: usize = 256;
/// The tree begins in the block behind the superblock's.
const TREE_AT: u64 = 1;
/// Data is read in pieces of this size; a block at a time makes a stick four times slower.
const AHEAD: usize = 1 << 20;

/// What a whole root comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash([u8; HASH]);

/// A text that is not a root hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a root hash: it is 64 hexadecimal digits")]
pub struct RootHashError;

/// What stands before a tree of hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    data_blocks: u64,
    salt: Vec<u8>,
}

/// Why data does not belong to its root hash, or could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerityError {
    /// The tree's partition cannot be read.
    #[error("the tree of hashes cannot be read at byte {at}")]
    ReadTree {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The data's partition cannot be read.
    #[error("the data cannot be read at block {block}")]
    ReadData {
        /// Which block.
        block: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What stands where the superblock should.
    #[error("no verity superblock: {0}")]
    Superblock(&'static str),
    /// A number in the superblock is not one that we write.
    #[error("the verity superblock is not one of ours: {what} is {found}")]
    Foreign {
        /// Which field.
        what: &'static str,
        /// What it says.
        found: u64,
    },
    /// A block of the tree is not what the level above says, or the top is not the root hash.
    #[error("block {block} of the tree of hashes is not the one that was built")]
    BadTree {
        /// Counted from the start of the partition, the superblock's is 0.
        block: u64,
    },
    /// A block of the data is not what the tree says.
    #[error("block {block} of the data is not the one that was built")]
    BadData {
        /// Counted from the start of the partition.
        block: u64,
    },
}

/// A tree on its way down: of each level the block that was last checked.
struct Tree<'a, H> {
    hash: &'a mut H,
    root: RootHash,
    salt: &'a [u8],
    /// From the lowest level up.
    levels: Vec<Level>,
}

struct Level {
    /// Its first block, counted from the start of the partition.
    first: u64,
    held: Option<u64>,
    block: Vec<u8>,
}

// === impl RootHash ===

impl RootHash {
    /// A hash from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> RootHash {
        RootHash(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The id of the root's partition.
    #[must_use]
    pub fn root_id(&self) -> Guid {
        self.half(0)
    }

    /// The id of the partition of the tree.
    #[must_use]
    pub fn verity_id(&self) -> Guid {
        self.half(16)
    }

    fn half(&self, from: usize) -> Guid {
        let mut half = [0; 16];
        half.copy_from_slice(&self.0[from..from + 16]);
        Guid::from_bytes(half)
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl FromStr for RootHash {
    type Err = RootHashError;

    fn from_str(text: &str) -> Result<RootHash, RootHashError> {
        let mut bytes = [0; HASH];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| RootHashError)?;
        Ok(RootHash(bytes))
    }
}

// === impl Superblock ===

impl Superblock {
    /// Reads the superblock at the start of `hash`.
    pub fn read(hash: &mut (impl Read + Seek)) -> Result<Superblock, VerityError> {
        let mut bytes = [0; SUPERBLOCK];
        let read = hash.seek(SeekFrom::Start(0)).and_then(|_| hash.read_exact(&mut bytes));
        read.map_err(|source| VerityError::ReadTree { at: 0, source })?;
        Superblock::parse(&bytes)
    }

    fn parse(bytes: &[u8; SUPERBLOCK]) -> Result<Superblock, VerityError> {
        if !bytes.starts_with(SIGNATURE) {
            return Err(VerityError::Superblock("the partition does not begin with one"));
        }
        let word = |at: usize| u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        let expected = [
            ("its version", word(8), 1),
            ("its kind of hash", word(12), 1),
            ("its size of a data block", word(64), BLOCK_BYTES),
            ("its size of a hash block", word(68), BLOCK_BYTES),
        ];
        for (what, found, ours) in expected {
            if found != ours {
                return Err(VerityError::Foreign { what, found });
            }
        }
        if bytes[32..64] != *b"sha256\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" {
            return Err(VerityError::Superblock("its hash is not sha256"));
        }
        let data_blocks = word(72) | word(76) << 32;
        if data_blocks == 0 || data_blocks > DATA_BLOCKS_MAX {
            return Err(VerityError::Foreign { what: "its count of data blocks", found: data_blocks });
        }
        let salt_bytes = u16::from_le_bytes([bytes[80], bytes[81]]);
        if usize::from(salt_bytes) > SALT_MAX {
            return Err(VerityError::Foreign { what: "its length of the salt", found: salt_bytes.into() });
        }
        let salt = bytes[88..88 + usize::from(salt_bytes)].to_vec();
        if !salt.starts_with(&data_blocks.to_le_bytes()) {
            return Err(VerityError::Superblock("its count of data blocks is not the one in its salt"));
        }
        Ok(Superblock { data_blocks, salt })
    }

    /// The line that a device-mapper table of target `verity` takes, for the devices `data` and `hash`.
    /// `options` are words that stand alone, such as `restart_on_corruption`.
    #[must_use]
    pub fn table_line(&self, data: &str, hash: &str, root: &RootHash, options: &[&str]) -> String {
        let salt = hex::encode(&self.salt);
        let blocks = self.data_blocks;
        let mut line = format!("1 {data} {hash} {BLOCK_BYTES} {BLOCK_BYTES} {blocks} {TREE_AT} sha256 {root} {salt}");
        if !options.is_empty() {
            let _ = write!(line, " {}", options.len());
        }
        for option in options {
            let _ = write!(line, " {option}");
        }
        line
    }

    /// How long the data is, in sectors of 512 bytes, as the device mapper counts.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.data_blocks * (BLOCK_BYTES / 512)
    }

    /// How long the data is, in blocks.
    #[must_use]
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// How long the superblock and its tree are, in bytes.
    #[must_use]
    pub fn tree_bytes(&self) -> u64 {
        let blocks: u64 = level_sizes(self.data_blocks).iter().sum();
        (TREE_AT + blocks) * BLOCK_BYTES
    }
}

/// The salt of a tree over so many blocks of data: their count, little-endian, and what the name of the release comes
/// down to.
#[must_use]
pub fn salt(data_blocks: u64, release: &str) -> [u8; 32] {
    let mut salt: [u8; 32] = Sha256::digest(release).into();
    salt[..8].copy_from_slice(&data_blocks.to_le_bytes());
    salt
}

/// Reads all data and the whole tree, and compares them with `root`. `progress` is told how many bytes of data are done.
/// Errors: the first block that is not the one that was built, in the order of the data.
pub fn check(
    data: &mut (impl Read + Seek),
    hash: &mut (impl Read + Seek),
    root: &RootHash,
    progress: &mut dyn FnMut(u64),
) -> Result<(), VerityError> {
    let superblock = Superblock::read(hash)?;
    check_blocks(&superblock, superblock.data_blocks, data, hash, root, progress)
}

/// Reads the first block of data and the way to it from `root`: enough to tell a slot that was never written, or half
/// written from its end, from one that can be started.
pub fn check_first(
    data: &mut (impl Read + Seek),
    hash: &mut (impl Read + Seek),
    root: &RootHash,
) -> Result<Superblock, VerityError> {
    let superblock = Superblock::read(hash)?;
    check_blocks(&superblock, 1, data, hash, root, &mut |_| {})?;
    Ok(superblock)
}

/// Reads one block of data and the way to it from `root`, which is what the kernel does for each block that is read.
pub fn check_block(
    superblock: &Superblock,
    block: u64,
    data: &mut (impl Read + Seek),
    hash: &mut (impl Read + Seek),
    root: &RootHash,
) -> Result<(), VerityError> {
    let mut bytes = vec![0; BLOCK];
    let read = data.seek(SeekFrom::Start(block.saturating_mul(BLOCK_BYTES))).and_then(|_| data.read_exact(&mut bytes));
    read.map_err(|source| VerityError::ReadData { block, source })?;
    match Tree::over(superblock, hash, *root).expected(0, block)? == digest(&superblock.salt, &bytes) {
        true => Ok(()),
        false => Err(VerityError::BadData { block }),
    }
}

fn check_blocks(
    superblock: &Superblock,
    blocks: u64,
    data: &mut (impl Read + Seek),
    hash: &mut (impl Read + Seek),
    root: &RootHash,
    progress: &mut dyn FnMut(u64),
) -> Result<(), VerityError> {
    let mut tree = Tree::over(superblock, hash, *root);
    data.seek(SeekFrom::Start(0)).map_err(|source| VerityError::ReadData { block: 0, source })?;
    let ahead = if blocks == 1 { BLOCK } else { AHEAD };
    let mut data = BufReader::with_capacity(ahead, data);
    let mut bytes = vec![0; BLOCK];
    for block in 0..blocks {
        data.read_exact(&mut bytes).map_err(|source| VerityError::ReadData { block, source })?;
        if tree.expected(0, block)? != digest(&superblock.salt, &bytes) {
            return Err(VerityError::BadData { block });
        }
        progress((block + 1) * BLOCK_BYTES);
    }
    Ok(())
}

// === impl Tree ===

impl<'a, H: Read + Seek> Tree<'a, H> {
    fn over(superblock: &'a Superblock, hash: &'a mut H, root: RootHash) -> Tree<'a, H> {
        let sizes = level_sizes(superblock.data_blocks);
        let mut levels = Vec::with_capacity(sizes.len());
        let mut first = TREE_AT;
        // The top stands first in the partition.
        for size in sizes.iter().rev() {
            levels.push(Level { first, held: None, block: vec![0; BLOCK] });
            first += size;
        }
        levels.reverse();
        Tree { hash, root, salt: &superblock.salt, levels }
    }

    /// What the block `index` below `level` must hash to.
    fn expected(&mut self, level: usize, index: u64) -> Result<[u8; HASH], VerityError> {
        if level == self.levels.len() {
            return Ok(self.root.0);
        }
        let place = index / HASHES_A_BLOCK;
        if self.levels[level].held != Some(place) {
            let expected = self.expected(level + 1, place)?;
            self.hold(level, place, expected)?;
        }
        let from = usize::try_from(index % HASHES_A_BLOCK).unwrap_or(0) * HASH;
        let mut hash = [0; HASH];
        hash.copy_from_slice(&self.levels[level].block[from..from + HASH]);
        Ok(hash)
    }

    /// Reads block `place` of `level`, and keeps it if it is the one that was built.
    fn hold(&mut self, level: usize, place: u64, expected: [u8; HASH]) -> Result<(), VerityError> {
        let level = &mut self.levels[level];
        let block = level.first + place;
        let at = block * BLOCK_BYTES;
        level.held = None;
        let read = self.hash.seek(SeekFrom::Start(at)).and_then(|_| self.hash.read_exact(&mut level.block));
        read.map_err(|source| VerityError::ReadTree { at, source })?;
        if digest(self.salt, &level.block) != expected {
            return Err(VerityError::BadTree { block });
        }
        level.held = Some(place);
        Ok(())
    }
}

/// How many blocks each level has, from the lowest up. Data of one block has none: its hash is the root.
fn level_sizes(data_blocks: u64) -> Vec<u64> {
    let mut sizes = Vec::new();
    let mut below = data_blocks;
    while below > 1 {
        below = below.div_ceil(HASHES_A_BLOCK);
        sizes.push(below);
    }
    sizes
}

fn digest(salt: &[u8], block: &[u8]) -> [u8; HASH] {
    Sha256::new().chain_update(salt).chain_update(block).finalize().into()
}

#[cfg(test)]
mod tests;
