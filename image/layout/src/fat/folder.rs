//! Entries of a FAT folder: 32 bytes for the short name, and before it as many as its long name takes.
//!
//! ```text
//! short  0 name 8+3 │ 11 attributes │ 12 case │ 14 made │ 20 cluster, high │ 22 written │ 26 cluster, low │ 28 bytes
//! long   0 number (last: | 0x40) │ 1 five signs │ 11 0x0f │ 13 checksum of the short name │ 14 six │ 28 two
//! ```
//!
//! Invariant: read strictly, a long name belongs to the entry behind it and to no other, and no two entries share a name,
//! long or short; read leniently, an entry whose
//! long name is damaged goes by its short one.

use std::collections::HashSet;

use super::geometry::Width;
use super::{Entry, Reading, Start};

/// One entry.
pub(super) const ENTRY_BYTES: usize = 32;
/// The first byte behind the last entry.
pub(super) const END: u8 = 0;
/// The first byte of one that is free.
pub(super) const DELETED: u8 = 0xe5;
/// The attributes of a piece of a long name.
pub(super) const LONG: u8 = 0x0f;
/// Attributes that mean something; the two above them are reserved.
const ATTRIBUTES: u8 = 0x3f;
const LABEL: u8 = 0x08;
const FOLDER: u8 = 0x10;
/// Set in the number of a long name's last piece, which comes first.
pub(super) const LAST: u8 = 0x40;
/// 255 signs.
const PIECES_MAX: u8 = 20;
/// Lower case of an 8.3 name: of the name, of the extension.
const LOWER: (u8, u8) = (0x08, 0x10);

/// Where a piece of a long name keeps its signs.
pub(super) const SIGNS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// A file or folder in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    /// Of its short entry.
    pub(super) index: usize,
    /// The long name, and if there is none the short one.
    pub(super) name: String,
    pub(super) short: String,
    pub(super) is_folder: bool,
    /// 0 for a folder.
    pub(super) bytes: u32,
    /// 0: it has no bytes.
    pub(super) cluster: u32,
}

/// The entries of a folder but for `.`, `..` and labels. Errors: what is wrong with one.
pub(super) fn slots(folder: &[u8], width: Width, reading: Reading) -> Result<Vec<Slot>, &'static str> {
    let mut slots = Vec::new();
    let mut long = LongName::default();
    for (index, raw) in folder.chunks_exact(ENTRY_BYTES).enumerate() {
        match (raw[0], raw[11]) {
            (END, _) => break,
            (DELETED, _) => long = LongName::default(),
            (_, attributes) if attributes & ATTRIBUTES == LONG => match (long.add(raw), reading) {
                (Ok(()), _) => {}
                (Err(what), Reading::Strict) => return Err(what),
                (Err(_), Reading::Lenient) => long = LongName::default(),
            },
            (_, attributes) if attributes & LABEL != 0 => long = LongName::default(),
            (_, attributes) => {
                let short = short_name(raw);
                let name = match (std::mem::take(&mut long).finish(raw), reading) {
                    (Ok(name), _) => name,
                    (Err(what), Reading::Strict) => return Err(what),
                    (Err(_), Reading::Lenient) => None,
                };
                let name = name.unwrap_or_else(|| short.clone());
                if name == "." || name == ".." {
                    continue;
                }
                let two = |at: usize| u32::from(u16::from_le_bytes([raw[at], raw[at + 1]]));
                let is_folder = attributes & FOLDER != 0;
                let bytes = u32::from_le_bytes([raw[28], raw[29], raw[30], raw[31]]);
                if reading == Reading::Strict {
                    if name.contains(['/', '\\', '\0']) {
                        return Err("a name in it has a sign that no name has");
                    }
                    if is_folder && bytes != 0 {
                        return Err("a folder in it has a size");
                    }
                }
                let cluster = match width {
                    // Others keep something else in the high half.
                    Width::Sixteen => two(26),
                    Width::ThirtyTwo => two(20) << 16 | two(26),
                };
                slots.push(Slot { index, name, short, is_folder, bytes: if is_folder { 0 } else { bytes }, cluster });
            }
        }
    }
    match reading {
        Reading::Strict if has_twins(&slots) => Err("two entries in it go by one name"),
        Reading::Strict | Reading::Lenient => Ok(slots),
    }
}

/// Whether somebody who asks by a name, long or short, may get either of two entries: firmware decides which.
fn has_twins(slots: &[Slot]) -> bool {
    let mut names = HashSet::new();
    slots.iter().any(|slot| {
        let (name, short) = (slot.name.to_lowercase(), slot.short.to_lowercase());
        let is_same = name == short;
        !names.insert(name) || (!is_same && !names.insert(short))
    })
}

/// The sum of a short name that the pieces of its long name carry.
pub(super) fn checksum(short: &[u8]) -> u8 {
    short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

pub(super) fn short_name(raw: &[u8]) -> String {
    let part = |bytes: &[u8], is_lower: bool| {
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        let text = text.trim_end().to_owned();
        if is_lower { text.to_lowercase() } else { text }
    };
    let (name, extension) = (part(&raw[..8], raw[12] & LOWER.0 != 0), part(&raw[8..11], raw[12] & LOWER.1 != 0));
    if extension.is_empty() { name } else { format!("{name}.{extension}") }
}

// === impl Slot ===

impl Slot {
    /// Whether it is called `name`, whatever its capitals, by its long name or its short one.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name) || self.short.eq_ignore_ascii_case(name)
    }

    /// Whether it is the file `name`.
    pub(super) fn is_file(&self, name: &str) -> bool {
        !self.is_folder && self.is_called(name)
    }

    /// The same, with the path of the folder that it is in.
    pub(super) fn entry(&self, folder: &str) -> Entry {
        Entry {
            path: format!("{folder}/{}", self.name),
            bytes: self.bytes,
            is_folder: self.is_folder,
            start: Start::Cluster(self.cluster),
        }
    }
}

// === LongName ===

/// The pieces of a long name, which come last first.
#[derive(Debug, Default)]
struct LongName {
    pieces: Vec<[u16; 13]>,
    left: u8,
    sum: u8,
}

impl LongName {
    fn add(&mut self, raw: &[u8]) -> Result<(), &'static str> {
        let number = raw[0] & 0x1f;
        let is_next = match raw[0] & LAST != 0 {
            true => {
                *self = LongName { pieces: Vec::new(), left: number, sum: raw[13] };
                (1..=PIECES_MAX).contains(&number)
            }
            false => self.left > 0 && number == self.left && raw[13] == self.sum,
        };
        if !is_next {
            return Err("the pieces of a long name in it do not follow each other");
        }
        self.left -= 1;
        self.pieces.push(SIGNS.map(|at| u16::from_le_bytes([raw[at], raw[at + 1]])));
        Ok(())
    }

    /// The name of the short entry `raw`, if it has a long one.
    fn finish(self, raw: &[u8]) -> Result<Option<String>, &'static str> {
        if self.pieces.is_empty() {
            return Ok(None);
        }
        if self.left != 0 || checksum(&raw[..11]) != self.sum {
            return Err("a long name in it belongs to another entry");
        }
        let units: Vec<u16> = self.pieces.iter().rev().flatten().copied().take_while(|unit| *unit != 0).collect();
        String::from_utf16(&units).map(Some).map_err(|_| "a name in it is no text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry with a short name of 11 signs, and before it the long one that is wanted.
    fn entry(long: Option<&str>, short: &[u8; 11]) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(long) = long {
            let mut piece = [0xff_u8; ENTRY_BYTES];
            (piece[0], piece[11], piece[12], piece[13]) = (LAST | 1, LONG, 0, checksum(short));
            for (unit, at) in long.encode_utf16().chain([0]).zip(SIGNS) {
                piece[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
            bytes.extend(piece);
        }
        let mut named = [0; ENTRY_BYTES];
        named[..11].copy_from_slice(short);
        bytes.extend(named);
        bytes
    }

    fn read(entries: &[Vec<u8>], reading: Reading) -> Result<usize, &'static str> {
        let mut folder = entries.concat();
        folder.resize(1024, 0);
        slots(&folder, Width::ThirtyTwo, reading).map(|slots| slots.len())
    }

    #[test]
    fn two_entries_that_go_by_one_name_are_refused() {
        let loader = entry(None, b"BOOTX64 EFI");
        let twins = [
            entry(Some("readme.txt"), b"BOOTX64 EFI"),
            entry(Some("bootx64.EFI"), b"OTHER   EFI"),
            entry(None, b"BOOTX64 EFI"),
        ];
        for twin in twins {
            let both = [loader.clone(), twin];
            assert_eq!(read(&both, Reading::Strict), Err("two entries in it go by one name"));
            assert_eq!(read(&both, Reading::Lenient), Ok(2));
        }
        let others = [loader, entry(Some("readme.txt"), b"README  TXT")];
        assert_eq!(read(&others, Reading::Strict), Ok(2));
    }
}
