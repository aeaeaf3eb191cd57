//! Entries of a FAT folder as they are written: an old one that points elsewhere, a new one with its long name.

use super::folder::{DELETED, END, ENTRY_BYTES, LAST, LONG, SIGNS, Slot, checksum, short_name};
use super::stamp::Stamp;

/// Set by whoever writes a file.
const ARCHIVE: u8 = 0x20;

/// Makes a short entry name other bytes.
pub(super) fn point(entry: &mut [u8], cluster: u32, bytes: u32, stamp: Stamp) {
    let cluster = cluster.to_le_bytes();
    entry[18..20].copy_from_slice(&stamp.date.to_le_bytes());
    entry[20..22].copy_from_slice(&cluster[2..]);
    entry[22..24].copy_from_slice(&stamp.time.to_le_bytes());
    entry[24..26].copy_from_slice(&stamp.date.to_le_bytes());
    entry[26..28].copy_from_slice(&cluster[..2]);
    entry[28..32].copy_from_slice(&bytes.to_le_bytes());
}

/// Entries for a new file, and the index where they go: into free ones that lie in one stretch of `stretch` entries, so
/// that they are written at once. `slots` are what the folder has. `None`: there is no room. `name` is ASCII.
pub(super) fn made(
    directory: &[u8],
    slots: &[Slot],
    stretch: usize,
    name: &str,
    cluster: u32,
    bytes: u32,
    stamp: Stamp,
) -> Option<(usize, Vec<u8>)> {
    let short = free_short_name(directory, slots, name)?;
    let parts: Vec<_> = name.as_bytes().chunks(SIGNS.len()).collect();
    let index = free_run(directory, stretch, parts.len() + 1)?;
    let mut entries = Vec::new();
    for (number, part) in parts.iter().enumerate().rev() {
        let mut entry = [0_u8; ENTRY_BYTES];
        let last = if number + 1 == parts.len() { LAST } else { 0 };
        entry[0] = u8::try_from(number + 1).ok()? | last;
        (entry[11], entry[13]) = (LONG, checksum(&short));
        // After the name comes one zero, and then ones.
        let signs = part.iter().map(|sign| u16::from(*sign)).chain([0]).chain(std::iter::repeat(0xffff));
        for (at, sign) in SIGNS.into_iter().zip(signs) {
            entry[at..at + 2].copy_from_slice(&sign.to_le_bytes());
        }
        entries.extend(entry);
    }
    let mut entry = [0_u8; ENTRY_BYTES];
    entry[..11].copy_from_slice(&short);
    entry[11] = ARCHIVE;
    entry[14..16].copy_from_slice(&stamp.time.to_le_bytes());
    entry[16..18].copy_from_slice(&stamp.date.to_le_bytes());
    point(&mut entry, cluster, bytes, stamp);
    entries.extend(entry);
    // What follows the end of a directory may be anything, and now the end moves.
    let after = (index + parts.len() + 1) * ENTRY_BYTES;
    let moves_end = directory[index * ENTRY_BYTES..after].chunks(ENTRY_BYTES).any(|entry| entry[0] == END);
    if moves_end && !after.is_multiple_of(stretch * ENTRY_BYTES) {
        entries.extend([0; ENTRY_BYTES]);
    }
    Some((index, entries))
}

/// The first `count` free entries in a row, all in one stretch.
fn free_run(directory: &[u8], stretch: usize, count: usize) -> Option<usize> {
    let entries: Vec<u8> = directory.chunks_exact(ENTRY_BYTES).map(|entry| entry[0]).collect();
    let end = entries.iter().position(|first| *first == END).unwrap_or(entries.len());
    let is_free = |index: usize| index >= end || entries[index] == DELETED;
    let fits = |start: &usize| start % stretch + count <= stretch && (*start..start + count).all(is_free);
    (0..entries.len().checked_sub(count)? + 1).find(fits)
}

/// A short name for `name` that nothing in the folder has: `RIG~1.TOM` for `rig.toml`.
fn free_short_name(directory: &[u8], slots: &[Slot], name: &str) -> Option<[u8; 11]> {
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let signs = |text: &str, count: usize| {
        let letters = text.bytes().filter(u8::is_ascii_alphanumeric).map(|sign| sign.to_ascii_uppercase());
        letters.take(count).collect::<Vec<u8>>()
    };
    (b'1'..=b'9').find_map(|number| {
        let mut short = [b' '; 11];
        let stem = [signs(stem, 6).as_slice(), &[b'~', number]].concat();
        short[..stem.len()].copy_from_slice(&stem);
        let extension = signs(extension, 3);
        short[8..8 + extension.len()].copy_from_slice(&extension);
        let padded: Vec<u8> = short.into_iter().chain([0; ENTRY_BYTES - 11]).collect();
        let shown = short_name(&padded);
        // It may also be the long name of another.
        let is_taken = directory.chunks_exact(ENTRY_BYTES).any(|entry| entry[..11] == short)
            || slots.iter().any(|slot| slot.is_called(&shown));
        (!is_taken).then_some(short)
    })
}
