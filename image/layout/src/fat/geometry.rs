//! Where things lie on a FAT volume, as its first sector says.
//!
//! Invariant: every number is bounded before it is kept, so that no sum or product of them overflows.

use super::{FIRST_CLUSTER, Start};

const SIGNATURE: [u8; 2] = [0x55, 0xaa];
const SECTOR_BYTES: [u32; 4] = [512, 1024, 2048, 4096];
/// The specification's.
const CLUSTER_BYTES_MAX: u32 = 64 * 1024;
/// Enough for 2 GiB in clusters of 512 bytes; an ESP of 256 MiB has 256 KiB to 2 MiB.
const TABLE_BYTES_MAX: u64 = 16 << 20;
/// With fewer clusters it is FAT12, whose entries are one and a half bytes.
const FAT16_CLUSTERS_MIN: u32 = 4085;
const FAT16_CLUSTERS_MAX: u32 = 65_524;
/// The specification wants 65,525 for FAT32; but firmware (EDK II) and Linux go by the table alone, and small volumes that
/// are formatted by force are about.
const FAT32_CLUSTERS_MIN: u32 = 16;
/// The upper four bits of an entry are not the cluster's.
const FAT32_MASK: u32 = 0x0fff_ffff;
const ENTRY_BYTES: u64 = 32;

/// Numbers of the volume.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    pub(super) width: Width,
    /// Copies of the table.
    pub(super) tables: u64,
    pub(super) root: Start,
    /// Where the sector with the count of free clusters begins, in bytes.
    pub(super) info: Option<u64>,
    clusters: u32,
    sector_bytes: u32,
    cluster_bytes: u32,
    reserved_sectors: u32,
    table_sectors: u32,
    root_sectors: u32,
}

/// How wide an entry of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Sixteen,
    /// Of which 28 bits are the cluster.
    ThirtyTwo,
}

// === impl Geometry ===

impl Geometry {
    /// From the first 512 bytes of the volume, however long its sectors are.
    pub(super) fn read(sector: &[u8; 512]) -> Result<Geometry, &'static str> {
        let two = |at: usize| u32::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
        let four = |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
        let either = |short: u32, long: usize| if short == 0 { four(long) } else { short };
        if sector[510..] != SIGNATURE {
            return Err("its first sector has no signature");
        }
        let sector_bytes = two(11);
        if !SECTOR_BYTES.contains(&sector_bytes) {
            return Err("its sectors have a size that FAT does not know");
        }
        let cluster_sectors = u32::from(sector[13]);
        let cluster_bytes = cluster_sectors * sector_bytes;
        if !cluster_sectors.is_power_of_two() || cluster_bytes > CLUSTER_BYTES_MAX {
            return Err("its clusters have a size that FAT does not know");
        }
        let width = if two(22) == 0 { Width::ThirtyTwo } else { Width::Sixteen };
        let (reserved_sectors, tables, table_sectors) = (two(14), u64::from(sector[16]), either(two(22), 36));
        if reserved_sectors == 0 || !(1..=2).contains(&tables) || table_sectors == 0 {
            return Err("it has no table, or more than two");
        }
        if u64::from(table_sectors) * u64::from(sector_bytes) > TABLE_BYTES_MAX {
            return Err("its table is longer than that of any volume of ours");
        }
        let root_entries = u64::from(two(17));
        let root_sectors = (root_entries * ENTRY_BYTES).div_ceil(u64::from(sector_bytes));
        let head = u64::from(reserved_sectors) + tables * u64::from(table_sectors) + root_sectors;
        let data = u64::from(either(two(19), 32)).checked_sub(head).ok_or("its parts are larger than the whole")?;
        let clusters = u32::try_from(data / u64::from(cluster_sectors)).map_err(|_| "it has too many clusters")?;
        let (root, info) = match width {
            Width::Sixteen if root_entries == 0 => return Err("it has no root folder"),
            Width::Sixteen => (Start::RootArea, None),
            Width::ThirtyTwo if root_entries != 0 => return Err("its root folder is that of another FAT"),
            // One active table of two, or a version that is not 0.
            Width::ThirtyTwo if two(40) != 0 || two(42) != 0 => return Err("it is of another version"),
            Width::ThirtyTwo => {
                let info = (1..reserved_sectors).contains(&two(48)).then(|| u64::from(two(48) * sector_bytes));
                (Start::Cluster(four(44)), info)
            }
        };
        let geometry = Geometry {
            width,
            tables,
            root,
            info,
            clusters,
            sector_bytes,
            cluster_bytes,
            reserved_sectors,
            table_sectors,
            root_sectors: u32::try_from(root_sectors).map_err(|_| "its root folder is too long")?,
        };
        geometry.check_clusters()?;
        Ok(geometry)
    }

    fn check_clusters(&self) -> Result<(), &'static str> {
        match self.width {
            Width::Sixteen if self.clusters < FAT16_CLUSTERS_MIN => return Err("it is FAT12, which is not read"),
            Width::Sixteen if self.clusters > FAT16_CLUSTERS_MAX => return Err("it has more clusters than FAT16 can"),
            Width::ThirtyTwo if self.clusters < FAT32_CLUSTERS_MIN => return Err("it has too few clusters"),
            Width::Sixteen | Width::ThirtyTwo => {}
        }
        let needed = (u64::from(self.clusters) + u64::from(FIRST_CLUSTER)) * self.width.bytes();
        if needed > self.table_bytes() { Err("it has more clusters than its table") } else { Ok(()) }
    }

    fn table_bytes(&self) -> u64 {
        u64::from(self.table_sectors) * u64::from(self.sector_bytes)
    }

    /// Of a table, what stands for clusters.
    pub(super) fn table_bytes_used(&self) -> usize {
        let bytes = (u64::from(self.clusters) + u64::from(FIRST_CLUSTER)) * self.width.bytes();
        usize::try_from(bytes).unwrap_or(0)
    }

    /// Where copy number `index` of the table begins.
    pub(super) fn table(&self, index: u64) -> u64 {
        u64::from(self.reserved_sectors) * u64::from(self.sector_bytes) + index * self.table_bytes()
    }

    /// Where the root folder of FAT16 begins.
    pub(super) fn root_area(&self) -> u64 {
        self.table(self.tables)
    }

    pub(super) fn root_area_bytes(&self) -> usize {
        usize::try_from(self.root_sectors * self.sector_bytes).unwrap_or(0)
    }

    /// Where a cluster begins. `cluster` is one of the volume's.
    pub(super) fn cluster(&self, cluster: u32) -> u64 {
        let data = self.root_area() + u64::from(self.root_sectors) * u64::from(self.sector_bytes);
        data + u64::from(cluster.saturating_sub(FIRST_CLUSTER)) * u64::from(self.cluster_bytes)
    }

    pub(super) fn cluster_bytes(&self) -> usize {
        usize::try_from(self.cluster_bytes).unwrap_or(usize::MAX)
    }

    /// Where the volume ends.
    pub(super) fn end(&self) -> u64 {
        self.cluster(self.clusters + FIRST_CLUSTER)
    }
}

// === impl Width ===

impl Width {
    pub(super) fn bytes(self) -> u64 {
        match self {
            Width::Sixteen => 2,
            Width::ThirtyTwo => 4,
        }
    }

    /// Where in a table the entry of `cluster` begins.
    pub(super) fn offset(self, cluster: u32) -> u64 {
        u64::from(cluster) * self.bytes()
    }

    /// The entries of a table.
    pub(super) fn parse(self, table: &[u8]) -> Vec<u32> {
        match self {
            Width::Sixteen => table.as_chunks().0.iter().map(|entry| u32::from(u16::from_le_bytes(*entry))).collect(),
            Width::ThirtyTwo => {
                table.as_chunks().0.iter().map(|entry| u32::from_le_bytes(*entry) & FAT32_MASK).collect()
            }
        }
    }

    /// An entry that was `old`, now with `next`. The upper four bits of a FAT32 entry are kept: they are not ours.
    pub(super) fn entry(self, old: &[u8], next: u32) -> Vec<u8> {
        let mut entry = next.to_le_bytes();
        match (self, old) {
            (Width::ThirtyTwo, [_, _, _, kept]) => entry[3] = entry[3] & 0x0f | kept & 0xf0,
            (Width::Sixteen | Width::ThirtyTwo, _) => {}
        }
        entry[..old.len().min(4)].to_vec()
    }

    /// What the last cluster of a chain is followed by.
    pub(super) fn end(self) -> u32 {
        match self {
            Width::Sixteen => 0xffff,
            Width::ThirtyTwo => FAT32_MASK,
        }
    }

    pub(super) fn is_end(self, next: u32) -> bool {
        next >= self.end() - 7
    }
}
