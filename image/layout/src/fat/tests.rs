use std::io::Cursor;

use proptest::prelude::*;

use super::*;

const SECTOR: usize = 512;
/// Places on the small FAT32: the table's first copy, its second, the root folder and the folder in it.
const TABLE: usize = 2 * SECTOR;
const TABLE_TWO: usize = 3 * SECTOR;
const ROOT: usize = 4 * SECTOR;
const SUB: usize = 7 * SECTOR;
const ENTRY: usize = folder::ENTRY_BYTES;

fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

fn short(name: &str, attributes: u8, cluster: u8, bytes: u16) -> Vec<u8> {
    let mut entry = name.as_bytes().to_vec();
    entry.resize(ENTRY, 0);
    (entry[11], entry[26]) = (attributes, cluster);
    put(&mut entry, 28, &bytes.to_le_bytes());
    entry
}

/// `/A.TXT` in clusters 3 and 4, `/SUB` in 5, and in it `/SUB/inner file.txt` in 6.
fn small(width: geometry::Width) -> Vec<u8> {
    let root = [short("A       TXT", 0x20, 3, 700), short("SUB        ", 0x10, 5, 0), short("LABEL      ", 8, 0, 0)];
    let sub = [short(".          ", 0x10, 5, 0), short("..         ", 0x10, 0, 0)];
    let (_, inner) =
        made::made(&[0; SECTOR], &[], 16, "inner file.txt", 6, 10, stamp::Stamp { time: 0, date: 33 }).expect("fits");
    let clusters = |at: usize| {
        [root.concat(), vec![b'a'; 700], [sub.concat(), inner.clone()].concat(), vec![b'i'; 10]].into_iter().zip([
            at,
            at + SECTOR,
            at + 3 * SECTOR,
            at + 4 * SECTOR,
        ])
    };
    let mut disk;
    match width {
        geometry::Width::ThirtyTwo => {
            disk = vec![0; 104 * SECTOR];
            put(&mut disk, 11, &[0, 2, 1, 2, 0, 2]);
            put(&mut disk, 32, &[104, 0, 0, 0, 1, 0, 0, 0]);
            put(&mut disk, 44, &[2, 0, 0, 0, 1, 0]);
            put(&mut disk, SECTOR, b"RRaA");
            let table = [0x0fff_fff8, 0x0fff_ffff, 0x0fff_ffff, 4, 0x0fff_ffff, 0x0fff_ffff, 0x0fff_ffff_u32];
            let table: Vec<u8> = table.iter().flat_map(|next| next.to_le_bytes()).collect();
            put(&mut disk, TABLE, &table);
            put(&mut disk, TABLE_TWO, &table);
            for (bytes, at) in clusters(ROOT) {
                put(&mut disk, at, &bytes);
            }
        }
        geometry::Width::Sixteen => {
            const CLUSTERS: u16 = 4085;
            const AREA: usize = 33 * SECTOR;
            disk = vec![0; (35 + usize::from(CLUSTERS)) * SECTOR];
            put(&mut disk, 11, &[0, 2, 1, 1, 0, 2, 32, 0]);
            put(&mut disk, 19, &(35 + CLUSTERS).to_le_bytes());
            disk[22] = 16;
            let table: Vec<u8> =
                [0xfff8, 0xffff, 0, 4, 0xffff, 0xffff, 0xffff_u16].iter().flat_map(|next| next.to_le_bytes()).collect();
            put(&mut disk, SECTOR, &table);
            put(&mut disk, 17 * SECTOR, &table);
            // The root folder is in its own area, of two sectors, and cluster 2 is free.
            for ((bytes, at), is_root) in clusters(AREA + 2 * SECTOR).zip([true, false, false, false]) {
                put(&mut disk, if is_root { AREA } else { at }, &bytes);
            }
        }
    }
    put(&mut disk, 510, &[0x55, 0xaa]);
    disk
}

fn entries(disk: &[u8], reading: Reading) -> Result<Vec<String>, FatError> {
    let mut fat = Fat::open(Cursor::new(disk), reading)?;
    let entries = fat.entries()?;
    for entry in entries.iter().filter(|entry| !entry.is_folder) {
        let bytes = fat.read(entry)?;
        assert!(u32::try_from(bytes.len()) == Ok(entry.bytes));
    }
    Ok(entries.into_iter().map(|entry| entry.path).collect())
}

#[test]
fn files_and_folders_of_both_widths_are_found_and_where_they_lie() {
    let check = |width, root: usize, data: usize| {
        let disk = small(width);
        let found = ["/A.TXT", "/SUB", "/SUB/inner file.txt"];
        assert_eq!(entries(&disk, Reading::Strict).expect("it is good"), found, "{width:?}");
        assert_eq!(entries(&disk, Reading::Lenient).expect("it is good"), found, "{width:?}");
        let mut fat = Fat::open(Cursor::new(&disk), Reading::Strict).expect("it is good");
        let all = fat.entries().expect("it is good");
        assert_eq!(fat.read(&all[0]).expect("it is read"), [b'a'; 700]);
        assert_eq!(fat.read(&all[2]).expect("it is read"), [b'i'; 10]);
        assert_eq!(fat.read_named("a.txt", 700).expect("it is read").as_deref(), Some([b'a'; 700].as_slice()));
        assert!(matches!(fat.read_named("a.txt", 699), Err(FatError::Long { bytes: 700, max: 699, .. })));
        assert_eq!(fat.read_named("sub", 700).expect("it is a folder"), None);
        let at = |cluster: usize| u64::try_from(data + (cluster - 2) * SECTOR).expect("small");
        assert_eq!(fat.places(&all[0]).expect("it is followed"), [(at(3), 512), (at(4), 512)]);
        assert_eq!(fat.places(&fat.root()).expect("it is followed")[0].0, u64::try_from(root).expect("small"));
        let structure = fat.structure().expect("it is followed");
        let is_in = |place: usize| structure.iter().any(|(from, to)| (*from..*to).contains(&(place as u64)));
        assert!(is_in(0) && is_in(root) && is_in(data + 3 * SECTOR), "{structure:?}");
        assert!(!is_in(root + 3 * ENTRY) && !is_in(data + SECTOR), "{structure:?}");
    };
    check(geometry::Width::ThirtyTwo, ROOT, ROOT);
    check(geometry::Width::Sixteen, 33 * SECTOR, 35 * SECTOR);
}

#[test]
fn a_bad_volume_is_refused_and_what_a_careless_firmware_overlooks_is_known() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Leniently {
        Refused,
        Overlooked,
    }
    use Leniently::{Overlooked, Refused};
    let check = |width, patches: &[(usize, &[u8])], words: &str, leniently| {
        let mut disk = small(width);
        for (at, bytes) in patches {
            put(&mut disk, *at, bytes);
        }
        let error = entries(&disk, Reading::Strict).expect_err(words);
        assert!(error.to_string().contains(words), "{error}, expected {words}");
        let is_overlooked = entries(&disk, Reading::Lenient).is_ok();
        assert_eq!(is_overlooked, leniently == Overlooked, "{words}");
    };
    let thirty_two =
        |patches: &[(usize, &[u8])], words, leniently| check(geometry::Width::ThirtyTwo, patches, words, leniently);
    let sixteen =
        |patches: &[(usize, &[u8])], words, leniently| check(geometry::Width::Sixteen, patches, words, leniently);

    thirty_two(&[(510, &[0])], "no signature", Refused);
    thirty_two(&[(11, &[0, 1])], "its sectors", Refused);
    thirty_two(&[(11, &[0, 32])], "its sectors", Refused);
    thirty_two(&[(13, &[0])], "its clusters", Refused);
    thirty_two(&[(13, &[3])], "its clusters", Refused);
    thirty_two(&[(11, &[0, 16, 32])], "its clusters", Refused);
    thirty_two(&[(14, &[0])], "no table", Refused);
    thirty_two(&[(16, &[0])], "no table", Refused);
    thirty_two(&[(16, &[3])], "more than two", Refused);
    thirty_two(&[(36, &[0])], "no table", Refused);
    thirty_two(&[(36, &[0xff; 4])], "its table is longer", Refused);
    thirty_two(&[(36, &[103])], "larger than the whole", Refused);
    thirty_two(&[(32, &[0, 0, 0, 0])], "larger than the whole", Refused);
    thirty_two(&[(32, &[10])], "too few clusters", Refused);
    thirty_two(&[(32, &[200])], "more clusters than its table", Refused);
    thirty_two(&[(32, &[105])], "larger than its partition", Overlooked);
    thirty_two(&[(17, &[16])], "of another FAT", Refused);
    thirty_two(&[(40, &[0x81])], "of another version", Refused);
    thirty_two(&[(42, &[1])], "of another version", Refused);
    thirty_two(&[(44, &[0])], "/ on the FAT volume is damaged: its chain of clusters leads to a free one", Refused);
    thirty_two(&[(44, &[200])], "leaves the volume", Refused);
    thirty_two(&[(TABLE_TWO + 60, &[1])], "its two tables disagree", Overlooked);
    sixteen(&[(17, &[0, 0])], "no root folder", Refused);
    sixteen(&[(19, &[0])], "FAT12", Refused);
    sixteen(&[(19, &[0, 0]), (22, &[0, 1]), (32, &[0, 0, 2, 0])], "more clusters than FAT16", Refused);

    let both = |at: usize, bytes: &'static [u8]| [(TABLE + at, bytes), (TABLE_TWO + at, bytes)];
    let long = (ROOT + 28, [0, 5].as_slice());
    thirty_two(&[&both(3 * 4, &[99])[..], &[long]].concat(), "leads to a free one", Refused);
    thirty_two(&both(3 * 4, &[99]), "longer than its size", Overlooked);
    thirty_two(&both(3 * 4, &[1]), "leaves the volume", Refused);
    thirty_two(&both(3 * 4, &[102]), "leaves the volume", Refused);
    thirty_two(&both(3 * 4, &[0xff, 0xff, 0xff, 0xff]), "shorter than its size", Refused);
    thirty_two(&both(4 * 4, &[7, 0, 0, 0]), "longer than its size", Overlooked);
    thirty_two(&both(5 * 4, &[5, 0, 0, 0]), "in a circle", Refused);
    thirty_two(&both(2 * 4, &[2, 0, 0, 0]), "in a circle", Refused);
    thirty_two(&[(ROOT + 26, &[6]), (ROOT + 28, &[9, 0])], "it shares clusters with another file", Overlooked);
    thirty_two(&[(ROOT + 28, &[0, 0])], "it is empty and has clusters", Overlooked);
    thirty_two(&[(ROOT + 31, &[0x20])], "larger than any file", Refused);
    thirty_two(&[(ROOT + ENTRY + 28, &[1])], "a folder in it has a size", Overlooked);
    thirty_two(&[(ROOT + 1, b"/")], "a sign that no name has", Overlooked);
    thirty_two(
        &[(ROOT + ENTRY, b"A       TXT\x20"), (ROOT + ENTRY + 26, &[0])],
        "two entries in it go by one name",
        Overlooked,
    );
    // The second piece of the long name of /SUB/inner file.txt comes first.
    let (second, first, own) = (SUB + 2 * ENTRY, SUB + 3 * ENTRY, SUB + 4 * ENTRY);
    thirty_two(&[(second, &[0x43])], "/SUB on the FAT volume is damaged: the pieces of a long name", Overlooked);
    thirty_two(&[(second, &[0x40])], "the pieces of a long name", Overlooked);
    thirty_two(&[(first, &[2])], "the pieces of a long name", Overlooked);
    thirty_two(&[(first + 13, &[0])], "the pieces of a long name", Overlooked);
    thirty_two(&[(own, b"X")], "belongs to another entry", Overlooked);
    thirty_two(&[(first + 1, &[0, 0xd8])], "is no text", Overlooked);
}

#[test]
fn too_many_files_or_folders_are_refused() {
    let mut disk = small(geometry::Width::ThirtyTwo);
    // Each folder has one of the same name in it, which is itself: leniently nothing but the depth ends that.
    put(&mut disk, SUB + 2 * ENTRY, &[short("SUB        ", 0x10, 5, 0), vec![0; ENTRY]].concat());
    assert!(matches!(entries(&disk, Reading::Lenient), Err(FatError::TooMany)));
    let error = entries(&disk, Reading::Strict).expect_err("it is its own folder");
    assert!(error.to_string().contains("shares clusters"), "{error}");
}

#[test]
fn a_name_that_cannot_be_written_and_a_volume_beyond_its_partition_are_refused_before_a_byte_is() {
    let before = small(geometry::Width::ThirtyTwo);
    let mut fat = Fat::open(Cursor::new(before.clone()), Reading::Lenient).expect("a volume");
    for name in ["", "a/b", "a\\b", "é", "a:b", "nul\0", &"a".repeat(256)] {
        assert!(matches!(fat.replace(name, b"", std::time::UNIX_EPOCH), Err(FatError::Name(_))), "{name}");
    }
    assert!(fat.into_disk().into_inner() == before);
    let mut before = before;
    before[32] += 1;
    let mut fat = Fat::open(Cursor::new(before.clone()), Reading::Lenient).expect("leniently a volume");
    assert!(matches!(fat.replace("a.txt", b"new", std::time::UNIX_EPOCH), Err(FatError::Volume(_))));
    assert!(fat.into_disk().into_inner() == before);
}

#[test]
fn a_circle_is_never_read_however_long_the_file_says_it_is() {
    let mut disk = small(geometry::Width::ThirtyTwo);
    // The two clusters of /A.TXT follow each other for ever.
    put(&mut disk, TABLE + 4 * 4, &[3, 0, 0, 0]);
    for bytes in [1025_u32, 60_000, 400 << 20] {
        put(&mut disk, ROOT + 28, &bytes.to_le_bytes());
        let error = entries(&disk, Reading::Lenient).expect_err("it has no end");
        assert!(error.to_string().contains("in a circle"), "{bytes}: {error}");
    }
    // What is read of it is not yet a circle.
    put(&mut disk, ROOT + 28, &1024_u32.to_le_bytes());
    assert!(entries(&disk, Reading::Lenient).is_ok());
}

#[test]
fn a_file_does_not_take_the_place_of_a_folder_or_the_root() {
    let refused = |disk: Vec<u8>, name: &str, words: &str| {
        let mut fat = Fat::open(Cursor::new(disk.clone()), Reading::Lenient).expect("a volume");
        let error = fat.replace(name, b"new", std::time::UNIX_EPOCH).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
        assert!(fat.into_disk().into_inner() == disk);
    };
    refused(small(geometry::Width::ThirtyTwo), "sub", "is a folder");
    let mut disk = small(geometry::Width::ThirtyTwo);
    put(&mut disk, ROOT + 26, &[2]);
    refused(disk, "a.txt", "/A.TXT on the FAT volume is damaged: it shares clusters with the folder that it is in");
}

#[test]
fn a_new_file_gets_a_short_name_that_is_no_files_long_one() {
    let mut disk = small(geometry::Width::ThirtyTwo);
    let stamp = stamp::Stamp { time: 0, date: 33 };
    let (_, other) = made::made(&[0; SECTOR], &[], 16, "rig~1.tom", 0, 0, stamp).expect("fits");
    put(&mut disk, ROOT, &other);
    // Its own short name is another.
    let mut short = *b"OTHER   TXT";
    put(&mut disk, ROOT + ENTRY, &short);
    disk[ROOT + 13] = folder::checksum(&short);
    assert_eq!(entries(&disk, Reading::Strict).expect("it is good"), ["/rig~1.tom"]);
    let mut fat = Fat::open(Cursor::new(disk), Reading::Strict).expect("it is good");
    fat.replace("rig.toml", b"new", std::time::UNIX_EPOCH).expect("there is room");
    let disk = fat.into_disk().into_inner();
    assert_eq!(entries(&disk, Reading::Strict).expect("it is good"), ["/rig.toml", "/rig~1.tom"]);
    short.copy_from_slice(&disk[ROOT + 3 * ENTRY..ROOT + 3 * ENTRY + 11]);
    assert_eq!(&short, b"RIG~2   TOM");
}

#[test]
fn what_fat16_has_besides_the_cluster_is_no_cluster() {
    let mut disk = small(geometry::Width::Sixteen);
    put(&mut disk, 33 * SECTOR + 20, &[7, 7]);
    let mut fat = Fat::open(Cursor::new(disk), Reading::Strict).expect("a volume");
    assert_eq!(fat.read_named("A.TXT", 700).expect("it is read"), Some(vec![b'a'; 700]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a damaged volume says, it is an answer or an error, within bounds, and nothing grows.
    #[test]
    fn a_damaged_volume_is_no_trouble(
        flips in proptest::collection::vec((11..9 * SECTOR, any::<u8>()), 0..20),
        boot in proptest::collection::vec((11..50_usize, any::<u8>()), 0..4),
    ) {
        let mut disk = small(geometry::Width::ThirtyTwo);
        for (at, byte) in flips.into_iter().filter(|(at, _)| !(510..512).contains(at)).chain(boot) {
            disk[at] = byte;
        }
        for reading in [Reading::Strict, Reading::Lenient] {
            let Ok(mut fat) = Fat::open(Cursor::new(disk.clone()), reading) else { continue };
            for entry in fat.entries().unwrap_or_default() {
                let _ = fat.places(&entry);
                let _ = fat.read(&entry);
            }
            let _ = fat.structure();
            let _ = fat.read_named("a.txt", 1 << 20);
            let _ = fat.replace("a.txt", b"new", std::time::UNIX_EPOCH);
            prop_assert_eq!(fat.into_disk().into_inner().len(), disk.len());
        }
    }
}
