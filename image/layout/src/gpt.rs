//! The partition table, read with care.
//!
//! The kernel's own reading is not enough for the first process: it gives partitions no id without udev, and it says
//! nothing about why a table was refused. Both sector sizes are tried, and the backup at the disk's end where the primary
//! table is damaged. Every table that is returned has right sums, and partitions that lie inside it and do not overlap.

use std::io::{self, Read, Seek, SeekFrom};

pub use crate::guid::{Guid, GuidError};
use crate::parts::{STATE_KIND, STATE_LABEL};

/// Sizes of a sector that disks have. The smaller first: nearly all have it.
pub const SECTOR_BYTES: [u32; 2] = [512, 4096];

/// A table may have so many entries. Everybody writes 128; more than a page of them is not a table of ours.
pub const ENTRIES_MAX: u32 = 512;

/// An entry is 128 bytes by the standard, or a power of two times that. Nobody writes larger ones.
const ENTRY_BYTES: std::ops::RangeInclusive<u32> = 128..=512;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_BYTES_MIN: u32 = 92;
const NAME_BYTES: usize = 72;

/// A partition as its table says it. Sectors are of the table's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Counted from one, as the kernel counts.
    pub number: u32,
    /// What it is for.
    pub kind: Guid,
    /// Its own id; `PARTUUID` in Linux.
    pub id: Guid,
    /// Where it begins.
    pub first_sector: u64,
    /// How long it is; at least one.
    pub sectors: u64,
    /// Its label; what is not UTF-16 is shown as U+FFFD.
    pub name: String,
}

/// Which of a disk's two tables was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// The one behind the first sector.
    Primary,
    /// The one at the end. The primary is damaged.
    Backup,
}

/// A disk's table, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Bytes of a sector: 512 or 4096.
    pub sector_bytes: u32,
    /// The disk's id.
    pub disk: Guid,
    /// How many sectors the disk has, as the header says; an image on a larger stick says the image's size.
    pub disk_sectors: u64,
    /// The first sector that a partition may use.
    pub first_usable: u64,
    /// The last one.
    pub last_usable: u64,
    /// Which table this is.
    pub copy: Copy,
    /// In the order of their numbers; unused entries are left out.
    pub partitions: Vec<Partition>,
}

/// Why a disk has no table that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GptError {
    /// The disk could not be read.
    #[error("the partition table cannot be read")]
    Read(#[source] io::Error),
    /// There is nothing that begins like a table.
    #[error("no partition table (GPT), neither at the disk's start nor at its end")]
    None,
    /// A table was found, and it is damaged or lies.
    #[error("the partition table at sector {sector} (of {sector_bytes} bytes) is damaged: {what}")]
    Damaged {
        /// Where the header stands.
        sector: u64,
        /// The size of a sector that it was read with.
        sector_bytes: u32,
        /// What is wrong with it.
        what: Damage,
    },
}

/// What is wrong with a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The header's size is not one that the standard allows.
    #[error("its header says that it is {0} bytes long")]
    HeaderSize(u32),
    /// The header's sum is wrong.
    #[error("its header's checksum is wrong")]
    HeaderSum,
    /// Another revision than 1.0.
    #[error("its revision is {0:#x}")]
    Revision(u32),
    /// The header says that it stands elsewhere.
    #[error("its header says that it stands at sector {0}")]
    Place(u64),
    /// The usable sectors end before they begin, or reach into the tables.
    #[error("its usable sectors, {first} to {last}, are impossible")]
    Usable {
        /// The first usable sector.
        first: u64,
        /// The last usable sector.
        last: u64,
    },
    /// Too many entries, or too large ones.
    #[error("it says that it has {count} entries of {bytes} bytes")]
    Entries {
        /// How many.
        count: u32,
        /// Bytes of one.
        bytes: u32,
    },
    /// The sum over the entries is wrong.
    #[error("its entries' checksum is wrong")]
    EntriesSum,
    /// A partition that ends before it begins or leaves the usable sectors.
    #[error("partition {number}, sectors {first} to {last}, lies outside the usable ones")]
    Outside {
        /// Its number.
        number: u32,
        /// Its first sector.
        first: u64,
        /// Its last sector.
        last: u64,
    },
    /// Two partitions share sectors.
    #[error("partitions {0} and {1} overlap")]
    Overlap(u32, u32),
    /// Two partitions have one id.
    #[error("partitions {0} and {1} have the same id")]
    SameId(u32, u32),
    /// A partition reaches beyond what the disk has.
    #[error("partition {number} ends at byte {end}, and the disk at byte {disk_bytes}")]
    BeyondDisk {
        /// Its number.
        number: u32,
        /// Where it ends, in bytes.
        end: u64,
        /// The disk's size in bytes.
        disk_bytes: u64,
    },
    /// The header or the entries lie beyond what the disk has.
    #[error("it ends before its entries do")]
    Short,
}

/// One table's header, its sum already right.
struct Header {
    alternate: u64,
    first_usable: u64,
    last_usable: u64,
    disk: Guid,
    entries_at: u64,
    entries: u32,
    entry_bytes: u32,
    entries_sum: u32,
}

/// Where a header is looked for.
#[derive(Clone, Copy)]
struct Place {
    sector_bytes: u32,
    sector: u64,
    copy: Copy,
}

// === impl Partition ===

impl Partition {
    /// Where it begins on the disk of `table`, in bytes.
    #[must_use]
    pub fn offset(&self, table: &Table) -> u64 {
        self.first_sector.saturating_mul(table.sector_bytes.into())
    }

    /// How long it is, in bytes.
    #[must_use]
    pub fn bytes(&self, table: &Table) -> u64 {
        self.sectors.saturating_mul(table.sector_bytes.into())
    }
}

// === impl Table ===

impl Table {
    /// Reads the table of `disk`: with sectors of 512 bytes and of 4096, the primary and then the backup.
    /// A copy that cannot be read is as damaged as one that is wrong.
    /// Errors: what is wrong with the first table that was found, if none is right.
    pub fn read(disk: &mut (impl Read + Seek)) -> Result<Table, GptError> {
        let disk_bytes = disk.seek(SeekFrom::End(0)).map_err(GptError::Read)?;
        let mut first_damage = None;
        let primaries = SECTOR_BYTES.map(|bytes| Place { sector_bytes: bytes, sector: 1, copy: Copy::Primary });
        let mut places = primaries.to_vec();
        for sector_bytes in SECTOR_BYTES {
            let sector = (disk_bytes / u64::from(sector_bytes)).saturating_sub(1);
            places.push(Place { sector_bytes, sector, copy: Copy::Backup });
        }
        // A primary whose entries alone are damaged still says where its backup is. Looked at first, and once.
        let mut said = Vec::new();
        for place in primaries {
            if let Ok(Some(Ok(header))) = header(disk, place) {
                said.push(Place { sector: header.alternate, copy: Copy::Backup, ..place });
            }
        }
        places.splice(primaries.len()..primaries.len(), said);
        for place in places {
            match table(disk, place, disk_bytes) {
                Ok(Some(Ok(table))) => return Ok(table),
                Ok(Some(Err(what))) => {
                    let Place { sector, sector_bytes, .. } = place;
                    first_damage.get_or_insert(GptError::Damaged { sector, sector_bytes, what });
                }
                Ok(None) => {}
                Err(error) => {
                    first_damage.get_or_insert(error);
                }
            }
        }
        Err(first_damage.unwrap_or(GptError::None))
    }

    /// The partition whose id is `id`.
    #[must_use]
    pub fn by_id(&self, id: Guid) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.id == id)
    }

    /// The first partition called `name`.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.name == name)
    }

    /// The partition of the rig's state: its label, its kind, and an id, which is the machine's. All who look for it ask
    /// here, so that they mean the same one.
    #[must_use]
    pub fn state(&self) -> Option<&Partition> {
        let is_state = |one: &&Partition| one.name == STATE_LABEL && one.kind == STATE_KIND && one.id != Guid::NIL;
        self.partitions.iter().find(is_state)
    }
}

/// The table at `place`; `None` where nothing says that it is one.
fn table(
    disk: &mut (impl Read + Seek),
    place: Place,
    disk_bytes: u64,
) -> Result<Option<Result<Table, Damage>>, GptError> {
    let header = match header(disk, place)? {
        None => return Ok(None),
        Some(Err(damage)) => return Ok(Some(Err(damage))),
        Some(Ok(header)) => header,
    };
    let length = usize::try_from(u64::from(header.entries) * u64::from(header.entry_bytes)).unwrap_or(usize::MAX);
    let mut entries = vec![0; length];
    let Some(at) = header.entries_at.checked_mul(place.sector_bytes.into()) else {
        return Ok(Some(Err(Damage::Short)));
    };
    if !read_at(disk, at, &mut entries)? {
        return Ok(Some(Err(Damage::Short)));
    }
    Ok(Some(checked(&header, &entries, place, disk_bytes)))
}

/// The header at `place`; `None` where nothing says that it is one.
fn header(disk: &mut (impl Read + Seek), place: Place) -> Result<Option<Result<Header, Damage>>, GptError> {
    let Ok(sector_length) = usize::try_from(place.sector_bytes) else { return Ok(None) };
    let Some(at) = place.sector.checked_mul(place.sector_bytes.into()) else { return Ok(None) };
    let mut sector = vec![0; sector_length];
    if !read_at(disk, at, &mut sector)? || !sector.starts_with(SIGNATURE) {
        return Ok(None);
    }
    Ok(Some(Header::parse(&sector, place)))
}

/// `false` if the disk ends before.
fn read_at(disk: &mut (impl Read + Seek), at: u64, into: &mut [u8]) -> Result<bool, GptError> {
    // Beyond what a signed offset holds no disk reaches, and a seek there is refused in another way.
    if i64::try_from(at).is_err() {
        return Ok(false);
    }
    disk.seek(SeekFrom::Start(at)).map_err(GptError::Read)?;
    match disk.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(GptError::Read(error)),
    }
}

/// The table, once its entries agree with `header` and with each other.
fn checked(header: &Header, entries: &[u8], place: Place, disk_bytes: u64) -> Result<Table, Damage> {
    if crc32fast::hash(entries) != header.entries_sum {
        return Err(Damage::EntriesSum);
    }
    let entry_length = usize::try_from(header.entry_bytes).unwrap_or(usize::MAX);
    let mut partitions: Vec<Partition> = Vec::new();
    for (number, entry) in (1..).zip(entries.chunks_exact(entry_length)) {
        let kind = guid(entry, 0);
        if kind == Guid::NIL {
            continue;
        }
        let (first, last) = (word64(entry, 32), word64(entry, 40));
        if first < header.first_usable || last > header.last_usable || last < first {
            return Err(Damage::Outside { number, first, last });
        }
        let end = (last + 1).saturating_mul(place.sector_bytes.into());
        if end > disk_bytes {
            return Err(Damage::BeyondDisk { number, end, disk_bytes });
        }
        let (sectors, id) = (last - first + 1, guid(entry, 16));
        partitions.push(Partition { number, kind, id, first_sector: first, sectors, name: name(entry) });
    }
    for (place, one) in partitions.iter().enumerate() {
        for other in &partitions[place + 1..] {
            if one.id == other.id {
                return Err(Damage::SameId(one.number, other.number));
            }
            let (one_end, other_end) = (one.first_sector + one.sectors, other.first_sector + other.sectors);
            if one.first_sector < other_end && other.first_sector < one_end {
                return Err(Damage::Overlap(one.number, other.number));
            }
        }
    }
    let last_sector = match place.copy {
        Copy::Primary => header.alternate,
        Copy::Backup => place.sector,
    };
    Ok(Table {
        sector_bytes: place.sector_bytes,
        disk: header.disk,
        disk_sectors: last_sector.saturating_add(1),
        first_usable: header.first_usable,
        last_usable: header.last_usable,
        copy: place.copy,
        partitions,
    })
}

// === impl Header ===

impl Header {
    fn parse(sector: &[u8], place: Place) -> Result<Header, Damage> {
        let header_bytes = word32(sector, 12);
        let length = usize::try_from(header_bytes).unwrap_or(usize::MAX);
        if header_bytes < HEADER_BYTES_MIN || length > sector.len() {
            return Err(Damage::HeaderSize(header_bytes));
        }
        let mut summed = sector[..length].to_vec();
        summed[16..20].fill(0);
        if crc32fast::hash(&summed) != word32(sector, 16) {
            return Err(Damage::HeaderSum);
        }
        let revision = word32(sector, 8);
        if revision != REVISION {
            return Err(Damage::Revision(revision));
        }
        let here = word64(sector, 24);
        if here != place.sector {
            return Err(Damage::Place(here));
        }
        let (alternate, first, last) = (word64(sector, 32), word64(sector, 40), word64(sector, 48));
        let (head, tail) = match place.copy {
            Copy::Primary => (here, alternate),
            Copy::Backup => (alternate, here),
        };
        if first > last || first <= head || last >= tail {
            return Err(Damage::Usable { first, last });
        }
        let (entries_at, entries) = (word64(sector, 72), word32(sector, 80));
        let (entry_bytes, entries_sum) = (word32(sector, 84), word32(sector, 88));
        if entries > ENTRIES_MAX || !ENTRY_BYTES.contains(&entry_bytes) || !entry_bytes.is_power_of_two() {
            return Err(Damage::Entries { count: entries, bytes: entry_bytes });
        }
        let disk = guid(sector, 56);
        Ok(Header {
            alternate,
            first_usable: first,
            last_usable: last,
            disk,
            entries_at,
            entries,
            entry_bytes,
            entries_sum,
        })
    }
}

/// The label of an entry, up to its first zero.
fn name(entry: &[u8]) -> String {
    let letters = entry[56..56 + NAME_BYTES].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let letters: Vec<u16> = letters.take_while(|letter| *letter != 0).collect();
    String::from_utf16_lossy(&letters)
}

/// Callers pass a sector or an entry, and offsets inside it.
fn word32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(piece(bytes, at))
}

fn word64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(piece(bytes, at))
}

fn guid(bytes: &[u8], at: usize) -> Guid {
    Guid::from_disk(piece(bytes, at))
}

fn piece<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut piece = [0; N];
    piece.copy_from_slice(&bytes[at..at + N]);
    piece
}

#[cfg(test)]
mod tests;
