use std::io::Cursor;

use proptest::prelude::*;

use super::*;

/// Made with `veritysetup format --salt=… --uuid=…` (cryptsetup 2.6.1) of [`golden_data`], which has 130 blocks: two
/// blocks of hashes, and one above them.
const GOLDEN_TREE: &[u8] = include_bytes!("golden.tree");
const GOLDEN_ROOT: &str = "7df8385cea6dfb32440e1cd3c497f85f18cfd603aef27177e9c46b3df459214e";

/// Every block begins with its number, and has a byte here and there that no other has.
fn golden_data() -> Vec<u8> {
    let mut data = vec![0; 130 * BLOCK];
    for (number, block) in (0_u32..).zip(data.chunks_exact_mut(BLOCK)) {
        block[0..4].copy_from_slice(&number.to_le_bytes());
        block[4095] = number.to_le_bytes()[0] ^ 0x5a;
    }
    data
}

fn root() -> RootHash {
    GOLDEN_ROOT.parse().expect("it is a root hash")
}

fn result(data: &[u8], tree: &[u8]) -> Result<(), VerityError> {
    check(&mut Cursor::new(data), &mut Cursor::new(tree), &root(), &mut |_| {})
}

/// A tree as `veritysetup` writes it, over data of any length; `rest` is the salt behind the count.
fn built(data: &[u8], rest: &[u8]) -> (Vec<u8>, RootHash) {
    let salt = &[&u64::try_from(data.len() / BLOCK).unwrap().to_le_bytes(), rest].concat();
    let mut levels: Vec<Vec<u8>> = Vec::new();
    let mut below = data.to_vec();
    while below.len() > BLOCK {
        let mut level: Vec<u8> = below.chunks(BLOCK).flat_map(|block| digest(salt, block)).collect();
        level.resize(level.len().next_multiple_of(BLOCK), 0);
        levels.push(level.clone());
        below = level;
    }
    let mut tree = GOLDEN_TREE[..SUPERBLOCK].to_vec();
    tree[72..80].copy_from_slice(&u64::try_from(data.len() / BLOCK).unwrap().to_le_bytes());
    tree[80..82].copy_from_slice(&u16::try_from(salt.len()).unwrap().to_le_bytes());
    tree[88..344].fill(0);
    tree[88..88 + salt.len()].copy_from_slice(salt);
    tree.resize(BLOCK, 0);
    tree.extend(levels.iter().rev().flatten());
    (tree, RootHash(digest(salt, &below)))
}

#[test]
fn what_veritysetup_made_is_right() {
    let mut done = Vec::new();
    let (mut data, mut tree) = (Cursor::new(golden_data()), Cursor::new(GOLDEN_TREE));
    check(&mut data, &mut tree, &root(), &mut |bytes| done.push(bytes)).expect("it is right");
    assert_eq!((done.len(), done.last()), (130, Some(&(130 * BLOCK_BYTES))));
    let superblock = check_first(&mut data, &mut tree, &root()).expect("it is right");
    assert_eq!((superblock.data_blocks(), superblock.sectors()), (130, 1040));
    assert_eq!(superblock.tree_bytes(), u64::try_from(GOLDEN_TREE.len()).unwrap());
}

#[test]
fn the_table_line_is_the_one_that_veritysetup_loads() {
    let superblock = Superblock::read(&mut Cursor::new(GOLDEN_TREE)).expect("it is right");
    let line = superblock.table_line("254:3", "254:4", &root(), &["restart_on_corruption"]);
    let salt = format!("8200000000000000{}", "0123456789abcdef".repeat(3));
    assert_eq!(line, format!("1 254:3 254:4 4096 4096 130 1 sha256 {GOLDEN_ROOT} {salt} 1 restart_on_corruption"));
    let bare = Superblock { data_blocks: 1, salt: vec![1, 0, 0, 0, 0, 0, 0, 0] }.table_line("a", "b", &root(), &[]);
    assert_eq!(bare, format!("1 a b 4096 4096 1 1 sha256 {GOLDEN_ROOT} 0100000000000000"));
}

#[test]
fn every_byte_of_the_tree_is_covered() {
    let data = golden_data();
    for at in BLOCK..GOLDEN_TREE.len() {
        let mut tree = GOLDEN_TREE.to_vec();
        tree[at] ^= 0x01;
        let block = u64::try_from(at / BLOCK).unwrap();
        match result(&data, &tree) {
            Err(VerityError::BadTree { block: found }) => assert_eq!(found, block),
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn every_byte_of_the_data_is_covered() {
    // All bytes of a small root; of the large one the corners of every block.
    let mut data: Vec<u8> = golden_data()[..2 * BLOCK].to_vec();
    let (tree, root) = built(&data, b"salt");
    let corners = (0..130).flat_map(|block| [0, 2047, 4095].map(|at| block * BLOCK + at));
    let mut large = golden_data();
    for at in corners {
        large[at] ^= 0x80;
        bad_data(result(&large, GOLDEN_TREE), at);
        large[at] ^= 0x80;
    }
    for at in 0..data.len() {
        data[at] ^= 0x80;
        bad_data(check(&mut Cursor::new(&data), &mut Cursor::new(&tree), &root, &mut |_| {}), at);
        data[at] ^= 0x80;
    }
}

#[track_caller]
fn bad_data(result: Result<(), VerityError>, at: usize) {
    match result {
        Err(VerityError::BadData { block }) => assert_eq!(block, u64::try_from(at / BLOCK).unwrap()),
        other => panic!("byte {at}: {other:?}"),
    }
}

#[test]
fn another_salt_or_root_is_refused_at_the_top() {
    let mut tree = GOLDEN_TREE.to_vec();
    tree[88 + 8] ^= 1;
    assert!(matches!(result(&golden_data(), &tree), Err(VerityError::BadTree { block: 1 })));
    let mut other = root();
    other.0[31] ^= 1;
    let checked = check_first(&mut Cursor::new(golden_data()), &mut Cursor::new(GOLDEN_TREE), &other);
    assert!(matches!(checked, Err(VerityError::BadTree { block: 1 })));
}

// Once, a root of another length was taken where the tree led the same way: of a shorter one the end could not be read.
#[test]
fn no_bit_of_the_length_can_be_another() {
    for bit in 0..64 {
        let mut tree = GOLDEN_TREE.to_vec();
        tree[72 + bit / 8] ^= 1 << (bit % 8);
        let checked = check_first(&mut Cursor::new(golden_data()), &mut Cursor::new(&tree), &root());
        let is_refused = matches!(checked, Err(VerityError::Superblock(_) | VerityError::Foreign { .. }));
        assert!(is_refused, "bit {bit}: {checked:?}");
        // With the salt's count the same, the hashes are others.
        tree[88 + bit / 8] ^= 1 << (bit % 8);
        let checked = check_first(&mut Cursor::new(golden_data()), &mut Cursor::new(&tree), &root());
        assert!(checked.is_err(), "bit {bit}: {checked:?}");
    }
}

#[test]
fn a_salt_is_the_count_and_the_release() {
    let salt = salt(130, "rig 0.1.0");
    assert_eq!(salt[..8], 130_u64.to_le_bytes());
    assert_eq!(salt[8..], Sha256::digest("rig 0.1.0")[8..]);
}

#[test]
fn a_tree_or_data_that_ends_early_says_where() {
    let short = result(&golden_data()[..5 * BLOCK + 7], GOLDEN_TREE);
    assert!(matches!(short, Err(VerityError::ReadData { block: 5, .. })), "{short:?}");
    let short = result(&golden_data(), &GOLDEN_TREE[..2 * BLOCK + 7]);
    assert!(matches!(short, Err(VerityError::ReadTree { at: 8192, .. })), "{short:?}");
    assert!(matches!(result(&[], &[]), Err(VerityError::ReadTree { at: 0, .. })));
}

#[test]
fn a_superblock_that_is_not_ours_is_refused() {
    let table: [(usize, &[u8], &str); 16] = [
        (0, b"x", "no verity superblock: the partition does not begin with one"),
        (8, &[2], "the verity superblock is not one of ours: its version is 2"),
        (12, &[0], "the verity superblock is not one of ours: its kind of hash is 0"),
        (32, b"sha512", "no verity superblock: its hash is not sha256"),
        (38, b"x", "no verity superblock: its hash is not sha256"),
        (64, &[0, 2], "the verity superblock is not one of ours: its size of a data block is 512"),
        (68, &[0, 32], "the verity superblock is not one of ours: its size of a hash block is 8192"),
        (72, &[129], "no verity superblock: its count of data blocks is not the one in its salt"),
        (88, &[129], "no verity superblock: its count of data blocks is not the one in its salt"),
        (80, &[7, 0], "no verity superblock: its count of data blocks is not the one in its salt"),
        (80, &[0, 0], "no verity superblock: its count of data blocks is not the one in its salt"),
        (72, &[0], "the verity superblock is not one of ours: its count of data blocks is 0"),
        (76, &[1], "the verity superblock is not one of ours: its count of data blocks is 4294967426"),
        (79, &[255], "the verity superblock is not one of ours: its count of data blocks is 18374686479671623810"),
        (80, &[1, 1], "the verity superblock is not one of ours: its length of the salt is 257"),
        (80, &[255, 255], "the verity superblock is not one of ours: its length of the salt is 65535"),
    ];
    for (at, value, expected) in table {
        let mut tree = GOLDEN_TREE.to_vec();
        tree[at..at + value.len()].copy_from_slice(value);
        assert_eq!(result(&golden_data(), &tree).expect_err("it is foreign").to_string(), expected);
    }
}

#[test]
fn a_root_hash_names_its_partitions() {
    let root: RootHash = "00112233445566778899aabbccddeeff0102030405060708090a0b0c0d0e0f10".parse().expect("it is one");
    assert_eq!(root.root_id().to_string(), "00112233-4455-6677-8899-aabbccddeeff");
    assert_eq!(root.verity_id().to_string(), "01020304-0506-0708-090a-0b0c0d0e0f10");
    for text in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
        assert!(text.parse::<RootHash>().is_err(), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_tree_over_data_of_any_length_is_followed(
        blocks in 1_usize..300,
        salt in proptest::collection::vec(any::<u8>(), 0..64),
        bad in any::<proptest::sample::Index>(),
    ) {
        let mut data: Vec<u8> = golden_data().into_iter().cycle().take(blocks * BLOCK).collect();
        let (tree, root) = built(&data, &salt);
        let run = |data: &[u8]| check(&mut Cursor::new(data), &mut Cursor::new(&tree), &root, &mut |_| {});
        prop_assert!(run(&data).is_ok());
        let at = bad.index(data.len());
        data[at] ^= 4;
        let block = u64::try_from(at / BLOCK).unwrap();
        let found = run(&data).map_err(|error| error.to_string());
        prop_assert_eq!(found, Err(VerityError::BadData { block }.to_string()));
    }

    #[test]
    fn no_superblock_panics(changes in proptest::collection::vec((0_usize..SUPERBLOCK, any::<u8>()), 1..8)) {
        let mut tree = GOLDEN_TREE.to_vec();
        for (at, value) in changes {
            tree[at] = value;
        }
        let _ = result(&golden_data()[..BLOCK], &tree);
    }
}
