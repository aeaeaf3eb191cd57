//! Disks as the image has them, smaller, and with something wrong.

use layout::Guid;
use layout::parts::{
    ESP_KIND, ESP_LABEL, ROOT_KIND, SETTINGS_KIND, SETTINGS_LABEL, STATE_KIND, STATE_LABEL, Slot, VERITY_KIND,
};

use crate::parts::{self, FILLER, STATE_ID, root_hash};

/// A power of two, as a card must have it.
const DISK_BYTES: usize = 64 << 20;

const MIB: usize = 1 << 20;

/// Where slot A lies.
const ROOT_AT: usize = 8 * MIB;
const VERITY_AT: usize = 24 * MIB;

const ENTRIES: usize = 128;
const ENTRY_BYTES: usize = 128;

/// The size of a sector.
#[derive(Clone, Copy)]
pub(crate) enum Sectors {
    Small,
    Large,
}

/// A partition: label, kind, id, first byte, bytes.
type Part = (&'static str, Guid, Guid, usize, usize);

/// The bytes of a disk.
#[derive(Clone)]
pub(crate) struct Disk {
    sector: usize,
    parts: Vec<Part>,
    pub(crate) bytes: Vec<u8>,
}

// === impl Disk ===

impl Disk {
    /// With slot A filled, and slot B empty.
    pub(crate) fn whole(sectors: Sectors) -> Disk {
        let hash = root_hash();
        let derived = Guid::derived;
        let (a, b) = (Slot::A, Slot::B);
        let layout = vec![
            (ESP_LABEL, ESP_KIND, derived(ESP_LABEL), MIB, 2 * MIB),
            (SETTINGS_LABEL, SETTINGS_KIND, derived(SETTINGS_LABEL), 4 * MIB, 2 * MIB),
            (a.root_label(), ROOT_KIND, hash.root_id(), ROOT_AT, 16 * MIB),
            (a.verity_label(), VERITY_KIND, hash.verity_id(), VERITY_AT, 2 * MIB),
            (b.root_label(), ROOT_KIND, derived(b.root_label()), 28 * MIB, 16 * MIB),
            (b.verity_label(), VERITY_KIND, derived(b.verity_label()), 44 * MIB, 2 * MIB),
        ];
        let sector = match sectors {
            Sectors::Small => 512,
            Sectors::Large => 4096,
        };
        let mut disk = Disk { sector, parts: layout, bytes: vec![0; DISK_BYTES] };
        disk.put(ROOT_AT, &parts::parts().root);
        disk.put(VERITY_AT, &parts::parts().tree);
        disk.with_tables()
    }

    /// After the first start.
    pub(crate) fn with_state(mut self) -> Disk {
        self.parts.push((STATE_LABEL, STATE_KIND, STATE_ID, 48 * MIB, 8 * MIB));
        self.with_tables()
    }

    pub(crate) fn without_verity(mut self) -> Disk {
        self.parts.retain(|(label, ..)| *label != Slot::A.verity_label());
        self.with_tables()
    }

    pub(crate) fn without_root(mut self) -> Disk {
        self.parts.retain(|(label, ..)| *label != Slot::A.root_label());
        self.with_tables()
    }

    /// A slot that was named before it was written.
    pub(crate) fn with_empty_verity(mut self) -> Disk {
        self.bytes[VERITY_AT..VERITY_AT + 2 * MIB].fill(0);
        self
    }

    pub(crate) fn with_changed_first_block(mut self) -> Disk {
        self.bytes[ROOT_AT + 100] ^= 1;
        self
    }

    /// One bit, in a block that nothing reads by itself.
    pub(crate) fn with_changed_filler(mut self) -> Disk {
        let wanted = FILLER.repeat(256);
        let blocks = self.bytes[ROOT_AT..VERITY_AT].chunks_exact(4096);
        let filled: Vec<usize> =
            (0..).zip(blocks).filter(|(_, block)| *block == wanted).map(|(number, _)| number).collect();
        let middle = filled.get(filled.len() / 2).expect("the filler is in the root as it is");
        self.bytes[ROOT_AT + middle * 4096 + 7] ^= 1;
        self
    }

    pub(crate) fn without_primary_table(mut self) -> Disk {
        let head = self.sector..2 * self.sector;
        self.bytes[head].fill(0);
        self
    }

    fn put(&mut self, at: usize, what: &[u8]) {
        self.bytes[at..at + what.len()].copy_from_slice(what);
    }

    /// Writes the tables of both ends, and the mark of the first sector that says so to older tools.
    fn with_tables(mut self) -> Disk {
        let (sector, mut entries) = (self.sector, vec![0; ENTRIES * ENTRY_BYTES]);
        for (entry, (label, kind, id, at, bytes)) in entries.chunks_exact_mut(ENTRY_BYTES).zip(&self.parts) {
            entry[0..16].copy_from_slice(&kind.to_disk());
            entry[16..32].copy_from_slice(&id.to_disk());
            entry[32..40].copy_from_slice(&(at / sector).to_le_bytes());
            entry[40..48].copy_from_slice(&((at + bytes) / sector - 1).to_le_bytes());
            for (place, letter) in label.encode_utf16().enumerate() {
                entry[56 + 2 * place..58 + 2 * place].copy_from_slice(&letter.to_le_bytes());
            }
        }
        let (last, table) = (DISK_BYTES / sector - 1, entries.len() / sector);
        for (here, there, entries_at) in [(1, last, 2), (last, 1, last - table)] {
            let mut header = vec![0; 92];
            header[0..16].copy_from_slice(b"EFI PART\0\0\x01\0\x5c\0\0\0");
            for (at, value) in [(24, here), (32, there), (40, 2 + table), (48, last - table - 1), (72, entries_at)] {
                header[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            header[56..72].copy_from_slice(&Guid::derived("disk").to_disk());
            header[80] = 128;
            header[84] = 128;
            header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
            let sum = crc32fast::hash(&header);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            self.put(here * sector, &header);
            self.put(entries_at * sector, &entries);
        }
        self.put(446, &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        self.put(510, &[0x55, 0xaa]);
        self
    }
}
