//! The name that a real IPFS node would give to the same bytes.
//!
//! A CID names a tree of blocks, not a row of bytes, so the same bytes have one name per way of cutting them. We compute
//! the ways that nodes use without being asked ([`Layout`]) and nothing else: a document that was cut otherwise cannot
//! be checked from its bytes alone, and is refused rather than trusted.
//!
//! Invariants: bytes are hashed as they pass and never kept beyond one chunk; a name is only ever compared by codec and
//! multihash, since version 0 and version 1 spell the same root.

use std::fmt;

use cid::Version;
use cid::multihash::Multihash;
use rust_unixfs::file::adder::{BalancedCollector, Chunker, FileAdder};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub use cid::Cid;

/// Multicodec of a bare block. Source: multicodec table.
const RAW: u64 = 0x55;

/// Multicodec of a dag-pb node. Source: multicodec table.
const DAG_PB: u64 = 0x70;

/// Multihash code of SHA-256. Source: multicodec table.
const SHA2_256: u64 = 0x12;

/// Chunk of `ipfs add`, in bytes. Source: kubo `Import.UnixFSChunker`, default `size-262144`.
const CHUNK_BYTES: usize = 256 * 1024;

/// Chunk of kubo's `unixfs-v1-2025` profile, in bytes. Source: IPIP-499.
const WIDE_CHUNK_BYTES: usize = 1024 * 1024;

/// Links per node of the same profile; the older layouts use the crate's 174. Source: IPIP-499.
const WIDE_LINKS: usize = 1024;

/// A way of turning bytes into a tree of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// One bare block: what a raw CID names.
    Block,
    /// `ipfs add`, and what a pin answers with: version 0, leaves wrapped.
    Classic,
    /// `ipfs add --raw-leaves --cid-version=0`.
    ClassicRaw,
    /// `ipfs add --cid-version=1 --raw-leaves=false`.
    Wrapped,
    /// `ipfs add --cid-version=1`.
    Modern,
    /// `ipfs add` under the profile `unixfs-v1-2025`.
    Wide,
}

/// Hashes passing bytes into every name that they could have been asked for by.
///
/// Blocks are dropped as soon as they are hashed, so memory does not grow with the content.
pub struct CidHasher {
    trees: Vec<Tree>,
}

/// What a [`CidHasher`] found: the names of the bytes that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(Vec<Cid>);

/// Bytes that are not what a CID says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{got} instead of {wanted}")]
pub struct Mismatch {
    /// The CID that was asked for or answered.
    pub wanted: Cid,
    /// The CID of the bytes, under the layout most likely meant.
    pub got: Cid,
}

enum Tree {
    Block(Sha256),
    UnixFs {
        adder: Box<FileAdder>,
        /// The newest finished block: the root, if the content ends exactly with the first chunk.
        newest: Option<Cid>,
    },
}

// === impl CidHasher ===

impl CidHasher {
    /// Computes the name of `ipfs add` alone.
    pub fn classic() -> CidHasher {
        CidHasher::of(&[Layout::Classic])
    }

    /// Computes every name that a pinning service might answer with.
    pub fn every() -> CidHasher {
        use Layout::{Block, Classic, ClassicRaw, Modern, Wide, Wrapped};
        CidHasher::of(&[Classic, Block, ClassicRaw, Wrapped, Modern, Wide])
    }

    /// Computes the names that `wanted` can be, or `None` when no bytes alone can prove it: another hash than SHA-256, or
    /// a codec that is not a file's.
    pub fn expecting(wanted: &Cid) -> Option<CidHasher> {
        use Layout::{Block, Classic, ClassicRaw, Modern, Wide, Wrapped};
        if wanted.hash().code() != SHA2_256 {
            return None;
        }
        match (wanted.version(), wanted.codec()) {
            (Version::V0, _) => Some(CidHasher::of(&[Classic, ClassicRaw])),
            (Version::V1, RAW) => Some(CidHasher::of(&[Block])),
            // A version 0 name may have been respelled as version 1, so the classic layouts stay in.
            (Version::V1, DAG_PB) => Some(CidHasher::of(&[Modern, Wide, Classic, Wrapped, ClassicRaw])),
            (Version::V1, _) => None,
        }
    }

    fn of(layouts: &[Layout]) -> CidHasher {
        CidHasher { trees: layouts.iter().map(|layout| layout.tree()).collect() }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for tree in &mut self.trees {
            match tree {
                Tree::Block(hash) => hash.update(bytes),
                Tree::UnixFs { adder, newest } => {
                    let mut rest = bytes;
                    while !rest.is_empty() {
                        let (blocks, taken) = adder.push(rest);
                        *newest = blocks.last().map(|(cid, _block)| cid).or(*newest);
                        rest = &rest[taken..];
                    }
                }
            }
        }
    }

    /// Ends the content.
    pub fn finish(self) -> Names {
        Names(self.trees.into_iter().map(Tree::root).collect())
    }
}

impl fmt::Debug for CidHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CidHasher({} layouts)", self.trees.len())
    }
}

// === impl Names ===

impl Names {
    /// The name under the layout that was asked for first.
    pub fn first(&self) -> Cid {
        self.0[0]
    }

    /// Whether `cid` names the bytes, however it is spelled.
    pub fn has(&self, cid: &Cid) -> bool {
        self.0.iter().any(|ours| ours.codec() == cid.codec() && ours.hash() == cid.hash())
    }

    /// Errors: `wanted` does not name the bytes.
    pub fn check(&self, wanted: &Cid) -> Result<(), Box<Mismatch>> {
        if self.has(wanted) { Ok(()) } else { Err(Box::new(Mismatch { wanted: *wanted, got: self.first() })) }
    }
}

// === impl Layout ===

impl Layout {
    fn tree(self) -> Tree {
        let (version, has_raw_leaves) = match self {
            Layout::Block => return Tree::Block(Sha256::new()),
            Layout::Classic => (Version::V0, false),
            Layout::ClassicRaw => (Version::V0, true),
            Layout::Wrapped => (Version::V1, false),
            Layout::Modern | Layout::Wide => (Version::V1, true),
        };
        let adder = FileAdder::builder().with_cid_version(version).with_raw_leaves(has_raw_leaves);
        let adder = if self == Layout::Wide {
            adder
                .with_chunker(Chunker::Size(WIDE_CHUNK_BYTES))
                .with_collector(BalancedCollector::with_branching_factor(WIDE_LINKS))
        } else {
            adder.with_chunker(Chunker::Size(CHUNK_BYTES))
        };
        Tree::UnixFs { adder: Box::new(adder.build()), newest: None }
    }
}

// === impl Tree ===

impl Tree {
    fn root(self) -> Cid {
        match self {
            Tree::Block(hash) => {
                let digest = Multihash::wrap(SHA2_256, &hash.finalize()).expect("a SHA-256 digest fits 64 bytes");
                Cid::new_v1(RAW, digest)
            }
            Tree::UnixFs { adder, newest } => {
                let root = adder.finish().last().map(|(cid, _block)| cid);
                root.or(newest).expect("every content has a block, the empty one too")
            }
        }
    }
}

/// The CID that `ipfs add` prints for `bytes`.
pub fn cid_of(bytes: &[u8]) -> Cid {
    let mut hasher = CidHasher::classic();
    hasher.update(bytes);
    hasher.finish().first()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that no chunk repeats: a 32-bit counter, little-endian, cut off at `len`.
    fn counted(len: usize) -> Vec<u8> {
        let words = u32::try_from(len.div_ceil(4)).expect("a test vector is below 16 GiB");
        let mut bytes: Vec<u8> = (0..words).flat_map(u32::to_le_bytes).collect();
        bytes.truncate(len);
        bytes
    }

    fn hash(mut hasher: CidHasher, bytes: &[u8], step: usize) -> Names {
        bytes.chunks(step).for_each(|part| hasher.update(part));
        hasher.finish()
    }

    fn cid(text: &str) -> Cid {
        text.parse().expect("a vector is a CID")
    }

    /// Sizes in bytes and the name that `ipfs add` gives; computed with the JavaScript importer of IPFS.
    const CLASSIC: &[(usize, &str)] = &[
        (0, "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
        (1, "QmS9JArPwa55ePgDnyg6TzX24mYTS1b1vLqWNebyVotKxQ"),
        (262143, "QmbDpWNvYootk8DfzUBhVJfA2Z5xmVgXh8M8cmNXcFKELM"),
        (262144, "QmWmHGhQUmbjLQPYFrbk2DHsLEhGtyLHeLicfFbeatpXBJ"),
        (262145, "QmQ2vSYVPShrETqxXWaotPeNwd9YDzw1mtqmGr5JXHR6Ko"),
        (524288, "QmV7xT6RXYG5R2rMepSXgXUWhXhw32vPPqbTigQUbEc79T"),
        (786439, "QmPjwFSJdh7p4AgDqnefpoJVa2G9Wiq3BruiQbqKKejsYW"),
        (45613056, "QmY5yewQjPGxjLwG4i9PSz66RZtSnggrFvTUDaZoEykjSc"),
        (45613057, "QmQfMM7F8rztQKp9A44BMhepf9iR2iAdxqegwtDMSUvgQv"),
        (45875200, "QmRpg6vY4j9k17RTZ9kNmW4GY5STm8VaXCh7Z4W1ujtzfr"),
        (46137344, "QmZQJc2zvuv5bhFtKjMhVAyZtSfXwESntHDxUst3iN1tRe"),
        (91226117, "QmNZX51i6bgKr6SapFdePwdvDcUtmXvgfCUEZxwUFPvkpc"),
    ];

    /// Sizes in bytes and the names under the other layouts, same origin.
    const OTHERS: &[(usize, &str)] = &[
        (0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (0, "bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y"),
        (0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (262144, "bafkreickgwszvk7tssw3dwb43jwtyltzsvj6gw5h4txfku34rlosbfjsu4"),
        (262144, "bafybeid5ftdip72edum4akqfk4pdtzgzo353xbtnljo6ruiygb6i7j4x6u"),
        (262144, "bafkreickgwszvk7tssw3dwb43jwtyltzsvj6gw5h4txfku34rlosbfjsu4"),
        (262144, "bafkreickgwszvk7tssw3dwb43jwtyltzsvj6gw5h4txfku34rlosbfjsu4"),
        (262145, "bafybeighp4oom4wr7bokfuxsg3yrmxtbv6utbaropfgcudvjevnooskhe4"),
        (262145, "bafybeigbg73w62qhw22c257hgigx5bnnoucrsbyqnumx5t5sxtmwpyo5de"),
        (262145, "QmbmQG5B24skE3o87xqrkshGVwqNBzaKAD9hbTvdU9GMvW"),
        (262145, "bafkreifjizzvmlhdnsv64kqnpwmxe32dq2g5eommtl2rrk2natuix6o3xi"),
        (45613057, "bafybeiame6rxulbgikgamqxmqlq2emnkahg6jgkospdg4dcb5vlbtuj5hi"),
        (45613057, "bafybeigczi7frawgihmhjmvc6cpgdi777cgfbuas4wkyvajffkmk3qkk5y"),
        (45613057, "QmeRUTfTFga9GyLGGL9RHEUvQLnxeWwiG4ojriWTqMQ3MV"),
        (45613057, "bafybeigwanivk7qydx5qni5nkaxs4yofhzfixh42vqq43se63ix7a2skzq"),
    ];

    #[test]
    fn well_known_documents_have_their_well_known_names() {
        assert_eq!(cid_of(b"").to_string(), "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH");
        assert_eq!(cid_of(b"hello world\n").to_string(), "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o");
    }

    #[test]
    fn a_name_is_the_one_that_ipfs_add_prints() {
        for (len, expected) in CLASSIC {
            assert_eq!(cid_of(&counted(*len)).to_string(), *expected, "{len} bytes");
        }
    }

    #[test]
    fn every_other_layout_is_recognised_from_the_name_alone() {
        for (len, expected) in OTHERS {
            let wanted = cid(expected);
            let hasher = CidHasher::expecting(&wanted).expect("a file's name");
            assert!(hash(hasher, &counted(*len), 1 << 20).has(&wanted), "{len} bytes, {expected}");
        }
    }

    #[test]
    fn a_name_respelled_as_version_1_is_still_recognised() {
        let classic = cid_of(&counted(3 * CHUNK_BYTES + 7));
        let respelled = Cid::new_v1(DAG_PB, *classic.hash());
        let hasher = CidHasher::expecting(&respelled).expect("a file's name");
        assert!(hash(hasher, &counted(3 * CHUNK_BYTES + 7), 4096).has(&respelled));
    }

    #[test]
    fn the_sizes_in_which_bytes_arrive_do_not_matter() {
        let bytes = counted(CHUNK_BYTES * 2 + 11);
        let whole = hash(CidHasher::every(), &bytes, bytes.len());
        for step in [1021, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1] {
            assert_eq!(hash(CidHasher::every(), &bytes, step), whole, "in steps of {step}");
        }
    }

    #[test]
    fn one_changed_bit_is_another_name() {
        let mut bytes = counted(CHUNK_BYTES + 1);
        let name = cid_of(&bytes);
        bytes[CHUNK_BYTES] ^= 1;
        assert!(!hash(CidHasher::every(), &bytes, 4096).has(&name));
    }

    #[test]
    fn names_that_bytes_alone_cannot_prove_are_not_checked() {
        let digest = *cid_of(b"").hash();
        let dag_cbor = Cid::new_v1(0x71, digest);
        let blake2b = Cid::new_v1(RAW, Multihash::wrap(0xb220, digest.digest()).expect("32 bytes fit"));
        assert!(CidHasher::expecting(&dag_cbor).is_none());
        assert!(CidHasher::expecting(&blake2b).is_none());
    }
}
