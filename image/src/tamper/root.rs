//! Flips in the root and its tree, judged as the kernel judges: block by block, on the way up to the root hash.

use std::fs::File;
use std::ops::Range;

use layout::Window;
use layout::gpt::Table;
use layout::verity::{self, BLOCK_BYTES, RootHash, Superblock, VerityError};

use super::{Flip, Flipped, TamperError, Verdict, data_bytes, tree_bytes};

/// Hashes of 32 bytes in a block of the tree.
const HASHES: u64 = 128;
const HASH_BYTES: u64 = 32;

/// A root and its tree on an image.
#[derive(Debug)]
pub(super) struct Root {
    data: Range<u64>,
    tree: Range<u64>,
    hash: RootHash,
    superblock: Superblock,
    /// Of each level of the tree, from the lowest up: its first block from the tree's start, and how many.
    levels: Vec<(u64, u64)>,
}

// === impl Root ===

impl Root {
    pub(super) fn open(file: &File, table: &Table, hash: RootHash) -> Result<Root, TamperError> {
        let data = table.by_id(hash.root_id()).ok_or(TamperError::Missing("the root that the kernel image names"))?;
        let tree = table.by_id(hash.verity_id()).ok_or(TamperError::Missing("the tree that the kernel image names"))?;
        let mut window = Window::new(file, tree.offset(table), tree.bytes(table));
        let superblock = Superblock::read(&mut window).map_err(TamperError::Verity)?;
        let (from, tree_from) = (data.offset(table), tree.offset(table));
        let root = Root {
            data: from..from + data_bytes(&superblock),
            tree: tree_from..tree_from + tree_bytes(&superblock),
            hash,
            levels: levels(superblock.data_blocks()),
            superblock,
        };
        // A flip proves something only if it was right before.
        let nothing = Flip { at: u64::MAX, mask: 0 };
        let (mut data, mut tree) = (root.window(file, &root.data, nothing), root.window(file, &root.tree, nothing));
        verity::check(&mut data, &mut tree, &hash, &mut |_| {}).map_err(TamperError::Verity)?;
        Ok(root)
    }

    pub(super) fn data(&self) -> Range<u64> {
        self.data.clone()
    }

    pub(super) fn tree(&self) -> Range<u64> {
        self.tree.clone()
    }

    pub(super) fn verdict(&self, file: &File, flip: Flip) -> Verdict {
        match self.data.contains(&flip.at) {
            true => self.read(file, flip, (flip.at - self.data.start) / BLOCK_BYTES),
            false => match flip.at - self.tree.start {
                at if at < BLOCK_BYTES => self.superblock(file, flip),
                at => self.read(file, flip, self.below(at)),
            },
        }
    }

    /// Reads `block` of the data as the kernel does.
    fn read(&self, file: &File, flip: Flip, block: u64) -> Verdict {
        let (mut data, mut tree) = (self.window(file, &self.data, flip), self.window(file, &self.tree, flip));
        match verity::check_block(&self.superblock, block, &mut data, &mut tree, &self.hash) {
            Err(VerityError::BadData { .. }) => Verdict::Refused("verity: the block is not what the tree says"),
            Err(VerityError::BadTree { .. }) => Verdict::Refused("verity: the tree is not what the root hash says"),
            Err(_) => Verdict::Refused("verity: it cannot be read"),
            Ok(()) => Verdict::Accepted(format!("block {block} of the root with a flip at {}", flip.at)),
        }
    }

    /// Nothing vouches for the superblock but the salt in it, which decides every hash and names the length.
    fn superblock(&self, file: &File, flip: Flip) -> Verdict {
        let (mut data, mut tree) = (self.window(file, &self.data, flip), self.window(file, &self.tree, flip));
        let superblock = match Superblock::read(&mut tree) {
            Err(_) => return Verdict::Refused("verity: no superblock of ours"),
            Ok(superblock) => superblock,
        };
        if superblock == self.superblock {
            return Verdict::Harmless("the superblock's name or padding, which nobody reads");
        }
        match verity::check_block(&superblock, 0, &mut data, &mut tree, &self.hash) {
            Err(_) => Verdict::Refused("verity: another superblock leads to another tree"),
            Ok(()) => Verdict::Accepted(format!("a superblock with a flip at {}", flip.at)),
        }
    }

    /// A block of the data whose way to the root hash leads over the byte `at` of the tree.
    fn below(&self, at: u64) -> u64 {
        let block = at / BLOCK_BYTES;
        let level = self.levels.iter().position(|(first, count)| (*first..first + count).contains(&block)).unwrap_or(0);
        let (first, _) = self.levels[level];
        let child = (block - first) * HASHES + at % BLOCK_BYTES / HASH_BYTES;
        // Behind the last hash of a level there are zeroes, for which the level above vouches too.
        let children = level.checked_sub(1).map_or(self.superblock.data_blocks(), |below| self.levels[below].1);
        let child = if child < children { child } else { (block - first) * HASHES };
        let mut data_block = child;
        for _ in 0..level {
            data_block *= HASHES;
        }
        data_block.min(self.superblock.data_blocks() - 1)
    }

    fn window<'a>(&self, file: &'a File, range: &Range<u64>, flip: Flip) -> Window<Flipped<'a>> {
        Window::new(Flipped::new(file, flip), range.start, range.end - range.start)
    }
}

/// The levels of a tree over so many blocks, from the lowest up; the highest lies first, behind the superblock.
fn levels(data_blocks: u64) -> Vec<(u64, u64)> {
    let mut counts = Vec::new();
    let mut below = data_blocks;
    while below > 1 {
        below = below.div_ceil(HASHES);
        counts.push(below);
    }
    let mut first = 1;
    let mut levels: Vec<(u64, u64)> = Vec::new();
    for count in counts.iter().rev() {
        levels.push((first, *count));
        first += count;
    }
    levels.reverse();
    levels
}
