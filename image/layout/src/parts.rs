//! The disk of a rig: its partitions, in order, with their names, kinds and sizes.
//!
//! ```text
//! 1 rig-esp       256 MiB  what the firmware starts
//! 2 RIG            64 MiB  rig.toml, for the owner's own computer to open
//! 3 rig-root-a      1 GiB  slot A: the root, and the tree of hashes over it
//! 4 rig-verity-a   16 MiB
//! 5 rig-root-b      1 GiB  slot B: empty until the first update
//! 6 rig-verity-b   16 MiB
//! 7 rig-state     the rest of the disk; not in the image, made at the first start
//! ```
//! The ids of a filled slot are its root hash ([`crate::verity::RootHash::root_id`]); of all else [`Guid::derived`] from the
//! label. The id of `rig-state` is the machine's id.

use std::ops::Not;

use crate::guid::Guid;

const MIB: u64 = 1 << 20;

/// Every partition begins at a multiple of this.
pub const ALIGNMENT_BYTES: u64 = MIB;

/// The label of the partition that the firmware starts from.
pub const ESP_LABEL: &str = "rig-esp";
/// Its size: two kernel images, and one more while an update is written.
pub const ESP_BYTES: u64 = 256 * MIB;
/// EFI system partition (UEFI specification).
pub const ESP_KIND: Guid = Guid::from_u128(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);

/// The label of the partition that the owner's computer shows; also its volume label.
pub const SETTINGS_LABEL: &str = "RIG";
/// Its size: FAT32 has no smaller one that every system opens.
pub const SETTINGS_BYTES: u64 = 64 * MIB;
/// Microsoft basic data: Windows and macOS show it.
pub const SETTINGS_KIND: Guid = Guid::from_u128(0xebd0a0a2_b9e5_4433_87c0_68b6b72699c7);

/// The size of a slot's root.
pub const ROOT_BYTES: u64 = 1024 * MIB;
/// Root of an x86-64 system (UAPI discoverable partitions).
pub const ROOT_KIND: Guid = Guid::from_u128(0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709);

/// The size of a slot's tree of hashes: a little less than a hundredth of the root.
pub const VERITY_BYTES: u64 = 16 * MIB;
/// Verity of an x86-64 root (UAPI discoverable partitions).
pub const VERITY_KIND: Guid = Guid::from_u128(0x2c7357ed_ebd2_46d9_aec1_23d437ec2bf5);

/// The label of what the rig keeps.
pub const STATE_LABEL: &str = "rig-state";
/// Variable data (UAPI discoverable partitions).
pub const STATE_KIND: Guid = Guid::from_u128(0x4d21b016_b534_45c2_a9fb_5c16e091fd2d);

/// One of the two places for a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Where the image has its root.
    A,
    /// Where the first update goes.
    B,
}

// === impl Slot ===

impl Slot {
    /// Both, in the disk's order.
    pub const ALL: [Slot; 2] = [Slot::A, Slot::B];

    /// The label of its root.
    #[must_use]
    pub fn root_label(self) -> &'static str {
        match self {
            Slot::A => "rig-root-a",
            Slot::B => "rig-root-b",
        }
    }

    /// The label of its tree of hashes.
    #[must_use]
    pub fn verity_label(self) -> &'static str {
        match self {
            Slot::A => "rig-verity-a",
            Slot::B => "rig-verity-b",
        }
    }

    /// `a` or `b`.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
        }
    }

    /// The slot whose root is labelled `label`.
    #[must_use]
    pub fn of_root_label(label: &str) -> Option<Slot> {
        Slot::ALL.into_iter().find(|slot| slot.root_label() == label)
    }
}

impl Not for Slot {
    type Output = Slot;

    fn not(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_found_by_the_label_of_its_root() {
        for slot in Slot::ALL {
            assert_eq!(Slot::of_root_label(slot.root_label()), Some(slot));
            assert_eq!(!!slot, slot);
            assert_ne!(!slot, slot);
        }
        assert_eq!(Slot::of_root_label("rig-verity-a"), None);
    }

    #[test]
    fn a_tree_over_a_full_root_fits_its_partition() {
        // One hash of 32 bytes for every block of 4096, the same again for every level, and the superblock's block.
        let (mut blocks, mut tree) = (ROOT_BYTES / 4096, 1);
        while blocks > 1 {
            blocks = blocks.div_ceil(128);
            tree += blocks;
        }
        assert!(tree * 4096 <= VERITY_BYTES);
    }
}
