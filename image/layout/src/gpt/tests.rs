use std::io::Cursor;

use proptest::prelude::*;

use super::*;

const DISK_SECTORS: u64 = 4096;

/// A disk whose table is written as the standard says, and can then be damaged.
struct Disk {
    sector_bytes: u64,
    entry_bytes: u32,
    entries: u32,
    partitions: Vec<(u64, u64, u128)>,
    bytes: Vec<u8>,
}

impl Disk {
    fn new(sector_bytes: u64) -> Disk {
        let partitions = vec![(2048, 2559, 1), (2560, 3071, 2), (3072, 3072, 3)];
        Disk { sector_bytes, entry_bytes: 128, entries: 128, partitions, bytes: Vec::new() }.written()
    }

    fn with(partitions: &[(u64, u64, u128)]) -> Disk {
        Disk { partitions: partitions.to_vec(), ..Disk::new(512) }.written()
    }

    fn written(mut self) -> Disk {
        let (sector, last) = (usize::try_from(self.sector_bytes).unwrap(), DISK_SECTORS - 1);
        self.bytes = vec![0; sector * usize::try_from(DISK_SECTORS).unwrap()];
        let entries = self.entries();
        let table_sectors = u64::try_from(entries.len()).unwrap().div_ceil(self.sector_bytes);
        for (here, there, entries_at) in [(1, last, 2), (last, 1, last - table_sectors)] {
            let mut header = vec![0; 92];
            header[0..8].copy_from_slice(SIGNATURE);
            header[8..12].copy_from_slice(&REVISION.to_le_bytes());
            header[12..16].copy_from_slice(&92_u32.to_le_bytes());
            let usable = (2 + table_sectors, last - table_sectors - 1);
            for (at, value) in [(24, here), (32, there), (40, usable.0), (48, usable.1), (72, entries_at)] {
                header[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            header[56..72].copy_from_slice(&Guid::derived("disk").to_disk());
            header[80..84].copy_from_slice(&self.entries.to_le_bytes());
            header[84..88].copy_from_slice(&self.entry_bytes.to_le_bytes());
            header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
            self.put(here, &header);
            self.put(entries_at, &entries);
            self.sum(here);
        }
        self
    }

    fn entries(&self) -> Vec<u8> {
        let length = usize::try_from(self.entry_bytes).unwrap();
        let mut entries = vec![0; length * usize::try_from(self.entries).unwrap()];
        for (entry, (first, last, id)) in entries.chunks_exact_mut(length).zip(&self.partitions) {
            entry[0..16].copy_from_slice(&crate::parts::ROOT_KIND.to_disk());
            entry[16..32].copy_from_slice(&Guid::from_u128(*id).to_disk());
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            for (place, letter) in format!("part-{id}").encode_utf16().enumerate() {
                entry[56 + 2 * place..58 + 2 * place].copy_from_slice(&letter.to_le_bytes());
            }
        }
        entries
    }

    fn at(&self, sector: u64) -> usize {
        usize::try_from(sector * self.sector_bytes).unwrap()
    }

    fn put(&mut self, sector: u64, what: &[u8]) {
        let at = self.at(sector);
        self.bytes[at..at + what.len()].copy_from_slice(what);
    }

    /// Changes both headers at `at` and makes their sums right again.
    fn lie(mut self, at: usize, value: &[u8]) -> Disk {
        for sector in [1, DISK_SECTORS - 1] {
            let start = self.at(sector) + at;
            self.bytes[start..start + value.len()].copy_from_slice(value);
            self.sum(sector);
        }
        self
    }

    fn sum(&mut self, sector: u64) {
        let at = self.at(sector);
        self.bytes[at + 16..at + 20].fill(0);
        let sum = crc32fast::hash(&self.bytes[at..at + 92]);
        self.bytes[at + 16..at + 20].copy_from_slice(&sum.to_le_bytes());
    }

    fn read(&self) -> Result<Table, GptError> {
        Table::read(&mut Cursor::new(&self.bytes))
    }
}

#[track_caller]
fn damage(disk: &Disk, expected: Damage) {
    match disk.read() {
        Err(GptError::Damaged { sector: 1, what, .. }) => assert_eq!(what, expected),
        other => panic!("expected {expected:?}, found {other:?}"),
    }
}

/// A disk whose second sector is worn out.
struct Worn(Cursor<Vec<u8>>);

impl Read for Worn {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if (512..1024).contains(&self.0.position()) { Err(io::Error::other("worn out")) } else { self.0.read(into) }
    }
}

impl Seek for Worn {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn a_primary_table_that_cannot_be_read_leaves_the_backup() {
    let mut disk = Disk::new(512);
    let table = Table::read(&mut Worn(Cursor::new(disk.bytes.clone()))).expect("the backup is right");
    assert_eq!((table.copy, table.partitions.len()), (Copy::Backup, 3));
    disk.put(DISK_SECTORS - 1, &[0; 92]);
    let error = Table::read(&mut Worn(Cursor::new(disk.bytes))).expect_err("there is none");
    assert!(matches!(error, GptError::Read(_)), "{error}");
}

#[test]
fn both_sizes_of_sector_are_read() {
    for sector_bytes in [512, 4096] {
        let table = Disk::new(sector_bytes).read().expect("the table is right");
        assert_eq!(u64::from(table.sector_bytes), sector_bytes);
        assert_eq!((table.copy, table.disk_sectors), (Copy::Primary, DISK_SECTORS));
        assert_eq!(table.disk, Guid::derived("disk"));
        let second = table.by_id(Guid::from_u128(2)).expect("it is there");
        assert_eq!((second.number, second.first_sector, second.sectors), (2, 2560, 512));
        assert_eq!(second.offset(&table), 2560 * sector_bytes);
        assert_eq!(second.bytes(&table), 512 * sector_bytes);
        assert_eq!(table.by_name("part-3").map(|last| last.sectors), Some(1));
        assert_eq!(table.by_name("part-4"), None);
    }
}

#[test]
fn any_damage_to_the_primary_leaves_the_backup() {
    for sector_bytes in [512, 4096] {
        let whole = Disk::new(sector_bytes);
        let header = whole.at(1)..whole.at(1) + 92;
        let entries = whole.at(2)..whole.at(2) + 3 * 128;
        for at in header.chain(entries) {
            let mut disk = Disk::new(sector_bytes);
            disk.bytes[at] ^= 0x40;
            let table = disk.read().expect("the backup is right");
            assert_eq!(table.copy, Copy::Backup, "byte {at}");
            assert_eq!(table.partitions, whole.read().expect("the table is right").partitions);
            assert_eq!(table.disk_sectors, DISK_SECTORS);
        }
    }
}

#[test]
fn the_backup_of_an_image_on_a_larger_stick_is_found_while_the_primary_header_is_right() {
    let mut disk = Disk::new(512);
    let entries = disk.at(2);
    disk.bytes[entries] ^= 1;
    disk.bytes.extend(vec![0; 1 << 20]);
    let table = disk.read().expect("the primary header says where the backup is");
    assert_eq!((table.copy, table.disk_sectors), (Copy::Backup, DISK_SECTORS));
}

#[test]
fn both_tables_damaged_is_an_error_that_names_the_first() {
    let mut disk = Disk::new(512);
    for sector in [1, DISK_SECTORS - 1] {
        let at = disk.at(sector) + 60;
        disk.bytes[at] ^= 1;
    }
    damage(&disk, Damage::HeaderSum);
    assert_eq!(
        disk.read().expect_err("it is damaged").to_string(),
        "the partition table at sector 1 (of 512 bytes) is damaged: its header's checksum is wrong"
    );
}

#[test]
fn a_table_that_lies_is_refused_even_when_its_sums_are_right() {
    let disk = || Disk::new(512);
    damage(&disk().lie(8, &0x2_0000_u32.to_le_bytes()), Damage::Revision(0x2_0000));
    damage(&disk().lie(12, &91_u32.to_le_bytes()), Damage::HeaderSize(91));
    damage(&disk().lie(12, &513_u32.to_le_bytes()), Damage::HeaderSize(513));
    damage(&disk().lie(12, &u32::MAX.to_le_bytes()), Damage::HeaderSize(u32::MAX));
    damage(&disk().lie(24, &7_u64.to_le_bytes()), Damage::Place(7));
    damage(&disk().lie(80, &u32::MAX.to_le_bytes()), Damage::Entries { count: u32::MAX, bytes: 128 });
    damage(&disk().lie(80, &513_u32.to_le_bytes()), Damage::Entries { count: 513, bytes: 128 });
    for bytes in [0, 1, 64, 127, 129, 384, 1024, u32::MAX] {
        damage(&disk().lie(84, &bytes.to_le_bytes()), Damage::Entries { count: 128, bytes });
    }
    damage(&disk().lie(72, &u64::MAX.to_le_bytes()), Damage::Short);
    damage(&disk().lie(72, &(1_u64 << 55).to_le_bytes()), Damage::Short);
    damage(&disk().lie(72, &DISK_SECTORS.to_le_bytes()), Damage::Short);
    damage(&disk().lie(72, &3_u64.to_le_bytes()), Damage::EntriesSum);
    damage(&disk().lie(48, &5_u64.to_le_bytes()), Damage::Usable { first: 34, last: 5 });
    damage(&disk().lie(48, &u64::MAX.to_le_bytes()), Damage::Usable { first: 34, last: u64::MAX });
    damage(&disk().lie(40, &0_u64.to_le_bytes()), Damage::Usable { first: 0, last: 4062 });
}

#[test]
fn partitions_that_overlap_or_leave_the_disk_are_refused() {
    damage(&Disk::with(&[(100, 200, 1), (200, 300, 2)]), Damage::Overlap(1, 2));
    damage(&Disk::with(&[(100, 400, 1), (500, 600, 2), (200, 300, 3)]), Damage::Overlap(1, 3));
    damage(&Disk::with(&[(100, 199, 1), (200, 300, 1)]), Damage::SameId(1, 2));
    damage(&Disk::with(&[(200, 199, 1)]), Damage::Outside { number: 1, first: 200, last: 199 });
    damage(&Disk::with(&[(1, 199, 1)]), Damage::Outside { number: 1, first: 1, last: 199 });
    damage(&Disk::with(&[(100, u64::MAX, 1)]), Damage::Outside { number: 1, first: 100, last: u64::MAX });
    damage(&Disk::with(&[(u64::MAX, 100, 1)]), Damage::Outside { number: 1, first: u64::MAX, last: 100 });
    damage(&Disk::with(&[(100, DISK_SECTORS, 1)]), Damage::Outside { number: 1, first: 100, last: DISK_SECTORS });
}

#[test]
fn a_disk_that_was_cut_short_is_refused() {
    let mut disk = Disk::new(512);
    disk.bytes.truncate(3000 * 512);
    damage(&disk, Damage::BeyondDisk { number: 2, end: 3072 * 512, disk_bytes: 3000 * 512 });
}

#[test]
fn larger_entries_and_other_counts_are_read() {
    for (entry_bytes, entries) in [(128, 4), (256, 128), (512, 512)] {
        let disk = Disk { entry_bytes, entries, ..Disk::new(512) }.written();
        assert_eq!(disk.read().expect("the table is right").partitions.len(), 3);
    }
}

#[test]
fn what_is_no_disk_has_no_table() {
    for bytes in [0, 1, 511, 512, 513, 1024, 8192, 100_000] {
        assert!(matches!(Table::read(&mut Cursor::new(vec![0; bytes])), Err(GptError::None)), "{bytes}");
    }
}

proptest! {
    #[test]
    fn no_table_panics(changes in proptest::collection::vec((0_usize..92, any::<u8>()), 1..8)) {
        let mut disk = Disk::new(512);
        for (at, value) in changes {
            disk = disk.lie(at, &[value]);
        }
        if let Ok(table) = disk.read() {
            for partition in &table.partitions {
                prop_assert!(partition.offset(&table) + partition.bytes(&table) <= DISK_SECTORS * 512);
            }
        }
    }

    #[test]
    fn partitions_that_are_returned_never_overlap(
        parts in proptest::collection::vec((30_u64..130, 0_u64..40), 1..6)
    ) {
        let parts: Vec<_> = (1..).zip(parts).map(|(id, (first, long))| (first, first + long, id)).collect();
        if let Ok(table) = Disk::with(&parts).read() {
            let mut taken = std::collections::BTreeSet::new();
            for partition in &table.partitions {
                for sector in partition.first_sector..partition.first_sector + partition.sectors {
                    prop_assert!(taken.insert(sector));
                }
            }
        }
    }
}
