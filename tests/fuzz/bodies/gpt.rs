//! Any disk's partition table: as it is, and with sums that match it, which no fuzzer comes to by itself. What is read lies
//! on the disk, and no two partitions share a sector.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom, Write};

use layout::Guid;
use layout::gpt::{ENTRIES_MAX, SECTOR_BYTES, Table};
use layout::parts::{STATE_KIND, STATE_LABEL};

use crate::disk::Disk;

/// What an entry has room for, in UTF-16; no letter takes less than one of these.
const NAME_UNITS_MAX: usize = 36;
/// More entries than this do not matter: their table is refused.
const ENTRIES_BYTES_MAX: u64 = 512 * 512;

/// Reads the disk that `data` describes.
pub(crate) fn run(data: &[u8]) {
    let Some(disk) = Disk::of(data) else { return };
    read(disk.clone());
    read(summed(disk));
}

fn read(mut disk: Disk) {
    let table = match Table::read(&mut disk) {
        Ok(table) => table,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(Table::read(&mut disk).ok().as_ref(), Some(&table), "it is read otherwise the second time");
    assert!(SECTOR_BYTES.contains(&table.sector_bytes));
    assert!(table.first_usable <= table.last_usable && table.last_usable < table.disk_sectors, "{table:?}");
    for one in &table.partitions {
        assert!(one.kind != Guid::NIL && (1..=ENTRIES_MAX).contains(&one.number) && one.sectors > 0, "{one:?}");
        let last = one.first_sector + (one.sectors - 1);
        assert!(table.first_usable <= one.first_sector && last <= table.last_usable, "{one:?} is not usable");
        let sector = u64::from(table.sector_bytes);
        assert_eq!((one.offset(&table), one.bytes(&table)), (one.first_sector * sector, one.sectors * sector));
        assert!(one.offset(&table) + one.bytes(&table) <= disk.length(), "{one:?} leaves the disk");
        assert!(one.name.encode_utf16().count() <= NAME_UNITS_MAX && !one.name.contains('\0'), "{one:?}");
        assert_eq!(table.by_id(one.id), Some(one));
        assert!(table.by_name(&one.name).is_some_and(|first| first.number <= one.number));
    }
    let numbers: Vec<_> = table.partitions.iter().map(|one| one.number).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    let places: BTreeSet<_> = table.partitions.iter().map(|one| (one.first_sector, one.sectors)).collect();
    let places: Vec<_> = places.into_iter().collect();
    assert!(places.len() == numbers.len() && places.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0), "{table:?}");
    if let Some(state) = table.state() {
        assert!(state.name == STATE_LABEL && state.kind == STATE_KIND && state.id != Guid::NIL);
    }
}

/// The same disk with right sums in everything that begins like a table where tables are looked for.
fn summed(mut disk: Disk) -> Disk {
    for sector_bytes in SECTOR_BYTES.map(u64::from) {
        let mut alternate = [0; 8];
        get(&mut disk, sector_bytes + 32, &mut alternate);
        let last = (disk.length() / sector_bytes).saturating_sub(1);
        for sector in [1, last, u64::from_le_bytes(alternate)] {
            if let Some(at) = sector.checked_mul(sector_bytes) {
                sum(&mut disk, at, sector_bytes);
            }
        }
    }
    disk
}

fn sum(disk: &mut Disk, at: u64, sector_bytes: u64) {
    let mut header = vec![0; usize::try_from(sector_bytes).expect("it is small")];
    if !get(disk, at, &mut header) || !header.starts_with(b"EFI PART") {
        return;
    }
    let four = |header: &[u8], at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let bytes = u64::from(four(&header, 80)) * u64::from(four(&header, 84));
    let place = u64::from_le_bytes(header[72..80].try_into().expect("eight bytes")).checked_mul(sector_bytes);
    if let (Some(place), true) = (place, bytes <= ENTRIES_BYTES_MAX) {
        let mut entries = vec![0; usize::try_from(bytes).expect("it is small")];
        if get(disk, place, &mut entries) {
            header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
        }
    }
    let length = usize::try_from(four(&header, 12)).expect("it is 32 bits");
    header[16..20].fill(0);
    if let Some(summed) = header.get(..length) {
        let sum = crc32fast::hash(summed).to_le_bytes();
        header[16..20].copy_from_slice(&sum);
    }
    disk.seek(SeekFrom::Start(at)).and_then(|_| disk.write_all(&header)).expect("it was read");
}

/// `false` if the disk ends before.
fn get(disk: &mut Disk, at: u64, into: &mut [u8]) -> bool {
    disk.seek(SeekFrom::Start(at)).and_then(|_| disk.read_exact(into)).is_ok()
}
