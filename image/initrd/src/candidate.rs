//! Which disk is started from.
//!
//! A disk is a candidate when one table has both partitions that the root hash names. Two sticks of one release in one
//! machine are both right; the one that already keeps a rig's state is the rig's own. Parts of two disks are never paired.

use layout::Guid;
use layout::gpt::{Partition, Table};
use layout::parts::Slot;
use layout::verity::RootHash;

/// So many disks are looked at. A shelf of sixty is the largest that a machine of ours would have.
pub const DISKS_MAX: usize = 64;

/// Names of what stands in `/sys/block` and is never a disk that firmware starts from. A floppy's driver waits for seconds.
const NOT_DISKS: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];

/// A disk that has the wanted root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The kernel's name, e.g. `sda`.
    pub disk: String,
    /// Where the root lies on it.
    pub slot: Slot,
    /// The root's partition.
    pub root: Place,
    /// The partition of the tree of hashes.
    pub verity: Place,
    /// The id of the state's partition, which is the machine's.
    pub machine: Option<Guid>,
}

/// A partition, in what the kernel can be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Counted from one.
    pub number: u32,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
}

/// Why a disk that has a table is not a candidate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// Another disk: it has neither partition.
    #[error("it has no partition of this release")]
    Other,
    /// Half a slot.
    #[error("it has the {has} of this release and not the {lacks}")]
    Half {
        /// What is there.
        has: &'static str,
        /// What is not.
        lacks: &'static str,
    },
    /// The root is there under a label that is no slot's.
    #[error("its root is in a partition labelled {0:?}, which is no slot")]
    Label(String),
}

// === impl Candidate ===

impl Candidate {
    /// What `table` of `disk` has of the release `root_hash`.
    pub fn find(disk: &str, table: &Table, root_hash: &RootHash) -> Result<Candidate, Unfit> {
        let root = table.by_id(root_hash.root_id());
        let verity = table.by_id(root_hash.verity_id());
        let (root, verity) = match (root, verity) {
            (Some(root), Some(verity)) => (root, verity),
            (None, None) => return Err(Unfit::Other),
            (Some(_), None) => return Err(Unfit::Half { has: "root", lacks: "tree of hashes" }),
            (None, Some(_)) => return Err(Unfit::Half { has: "tree of hashes", lacks: "root" }),
        };
        let slot = Slot::of_root_label(&root.name).ok_or_else(|| Unfit::Label(root.name.clone()))?;
        Ok(Candidate {
            disk: disk.to_owned(),
            slot,
            root: Place::of(root, table),
            verity: Place::of(verity, table),
            machine: table.state().map(|state| state.id),
        })
    }
}

/// The one to start from: a rig's own disk before one without state, then by name.
#[must_use]
pub fn choose(mut candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.sort_by(|one, other| {
        other.machine.is_some().cmp(&one.machine.is_some()).then_with(|| one.disk.cmp(&other.disk))
    });
    candidates.into_iter().next()
}

/// Whether the name in `/sys/block` can be a disk's. What follows goes into paths, so it is a plain word.
#[must_use]
pub fn is_disk(name: &str) -> bool {
    let is_plain = !name.is_empty() && name.len() <= 32 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    is_plain && !NOT_DISKS.iter().any(|other| name.starts_with(other)) && !name.contains("boot")
}

/// A machine's id as systemd writes it: the digits alone.
#[must_use]
pub fn machine_id(id: Guid) -> String {
    id.to_string().replace('-', "")
}

// === impl Place ===

impl Place {
    fn of(partition: &Partition, table: &Table) -> Place {
        Place { number: partition.number, offset: partition.offset(table), bytes: partition.bytes(table) }
    }

    /// The kernel's name of this partition of `disk`.
    #[must_use]
    pub fn device(&self, disk: &str) -> String {
        let between = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        format!("{disk}{between}{}", self.number)
    }

    /// Whether the kernel, which counts in sectors of 512 bytes whatever the disk has, sees the same partition.
    #[must_use]
    pub fn is_as_kernel_sees(&self, start: &str, size: &str) -> bool {
        let bytes = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(512);
        bytes(start) == Some(self.offset) && bytes(size) == Some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use layout::gpt::Copy;
    use layout::parts::{ROOT_KIND, STATE_KIND, STATE_LABEL, VERITY_KIND};

    use super::*;

    const HASH: [u8; 32] = [0x5a; 32];
    const STATE_ID: Guid = Guid::from_u128(0x1234);

    fn hash() -> RootHash {
        let mut bytes = HASH;
        bytes[31] = 1;
        RootHash::from_bytes(bytes)
    }

    fn part(number: u32, name: &str, kind: Guid, id: Guid) -> Partition {
        Partition { number, kind, id, first_sector: u64::from(number) * 100, sectors: 50, name: name.to_owned() }
    }

    fn root() -> Partition {
        part(5, "rig-root-b", ROOT_KIND, hash().root_id())
    }

    fn verity() -> Partition {
        part(6, "rig-verity-b", VERITY_KIND, hash().verity_id())
    }

    fn table(partitions: Vec<Partition>) -> Table {
        Table {
            sector_bytes: 4096,
            disk: Guid::NIL,
            disk_sectors: 1000,
            first_usable: 6,
            last_usable: 990,
            copy: Copy::Primary,
            partitions,
        }
    }

    #[track_caller]
    fn unfit(partitions: Vec<Partition>, expected: &str) {
        let found = Candidate::find("sda", &table(partitions), &hash()).expect_err("it is unfit");
        assert_eq!(found.to_string(), expected);
    }

    #[test]
    fn a_disk_with_both_halves_is_a_candidate_and_its_state_names_the_machine() {
        let state = part(7, STATE_LABEL, STATE_KIND, STATE_ID);
        let found = Candidate::find("nvme0n1", &table(vec![root(), verity(), state]), &hash()).expect("it is fit");
        assert_eq!((found.slot, found.machine), (Slot::B, Some(STATE_ID)));
        assert_eq!(found.root, Place { number: 5, offset: 500 * 4096, bytes: 50 * 4096 });
        assert_eq!(found.root.device(&found.disk), "nvme0n1p5");
        assert_eq!(found.verity.device("sda"), "sda6");
        assert_eq!(found.verity.device("mmcblk0"), "mmcblk0p6");
        assert!(found.root.is_as_kernel_sees("4000\n", "400\n"));
        for (start, size) in [("4001", "400"), ("4000", "401"), ("", "400"), ("x", "y"), ("99999999999999999999", "1")]
        {
            assert!(!found.root.is_as_kernel_sees(start, size), "{start} {size}");
        }
        assert_eq!(machine_id(STATE_ID), "00000000000000000000000000001234");
    }

    #[test]
    fn a_disk_without_the_whole_slot_is_passed_over() {
        unfit(vec![], "it has no partition of this release");
        unfit(vec![part(3, "rig-root-a", ROOT_KIND, STATE_ID)], "it has no partition of this release");
        unfit(vec![root()], "it has the root of this release and not the tree of hashes");
        unfit(vec![verity()], "it has the tree of hashes of this release and not the root");
        let strange = Partition { name: "x".to_owned(), ..root() };
        unfit(vec![strange, verity()], "its root is in a partition labelled \"x\", which is no slot");
    }

    #[test]
    fn what_is_called_state_and_is_not_names_no_machine() {
        for state in [part(7, STATE_LABEL, ROOT_KIND, STATE_ID), part(7, STATE_LABEL, STATE_KIND, Guid::NIL)] {
            let found = Candidate::find("sda", &table(vec![root(), verity(), state]), &hash()).expect("it is fit");
            assert_eq!(found.machine, None);
        }
    }

    #[test]
    fn the_rigs_own_disk_comes_before_a_fresh_stick() {
        let own = vec![root(), verity(), part(7, STATE_LABEL, STATE_KIND, STATE_ID)];
        let fresh = Candidate::find("sda", &table(vec![root(), verity()]), &hash()).expect("it is fit");
        let own = Candidate::find("sdb", &table(own), &hash()).expect("it is fit");
        let later = Candidate { disk: "sdc".to_owned(), ..fresh.clone() };
        assert_eq!(choose(vec![fresh.clone(), own.clone()]), Some(own));
        assert_eq!(choose(vec![later, fresh.clone()]), Some(fresh));
        assert_eq!(choose(vec![]), None);
    }

    #[test]
    fn disks_are_told_from_what_else_is_listed() {
        for disk in ["sda", "vda", "nvme0n1", "mmcblk1", "xvda", "hda"] {
            assert!(is_disk(disk), "{disk}");
        }
        for other in
            ["loop0", "ram1", "zram0", "dm-0", "md127", "sr0", "fd0", "nbd3", "mmcblk0boot0", "", "a/b", "..", "a b"]
        {
            assert!(!is_disk(other), "{other}");
        }
    }
}
