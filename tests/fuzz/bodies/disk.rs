//! A disk of which a few sectors hold something, so that a fuzzer's few bytes reach every corner of it.
//!
//! The input is two bytes for the disk's length in sectors, then pieces of two and 512 bytes: a sector's number and what it
//! holds. The last piece may be short. Pieces behind the disk's end are left out.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

const SECTOR_BYTES: usize = 512;

/// A little more than the smallest FAT16.
const SECTORS_MAX: u16 = 4352;

/// All sectors that are not named are zero.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    sectors: BTreeMap<u64, [u8; SECTOR_BYTES]>,
    bytes: u64,
    at: u64,
}

// === impl Disk ===

impl Disk {
    /// The disk that `data` describes; `None` if that is too short for any.
    pub(crate) fn of(data: &[u8]) -> Option<Disk> {
        let (length, pieces) = data.split_first_chunk()?;
        let length = u16::from_le_bytes(*length) % (SECTORS_MAX + 1);
        let mut sectors = BTreeMap::new();
        for piece in pieces.chunks(2 + SECTOR_BYTES) {
            let Some((number, bytes)) = piece.split_first_chunk() else { continue };
            let number = u16::from_le_bytes(*number);
            let mut sector = [0; SECTOR_BYTES];
            sector[..bytes.len()].copy_from_slice(bytes);
            if number < length {
                sectors.insert(number.into(), sector);
            }
        }
        Some(Disk { sectors, bytes: u64::from(length) * SECTOR_BYTES as u64, at: 0 })
    }

    /// How long it is, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.bytes
    }
}

impl Read for Disk {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.bytes.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = into.len().min(left);
        let into = &mut into[..length];
        into.fill(0);
        let (from, to) = (self.at, self.at + length as u64);
        for (number, sector) in self.sectors.range(from / SECTOR_BYTES as u64..to.div_ceil(SECTOR_BYTES as u64)) {
            let start = number * SECTOR_BYTES as u64;
            let (first, last) = (from.max(start), to.min(start + SECTOR_BYTES as u64));
            let place = |at: u64, base: u64| usize::try_from(at - base).expect("it is small");
            into[place(first, from)..place(last, from)]
                .copy_from_slice(&sector[place(first, start)..place(last, start)]);
        }
        self.at = to;
        Ok(length)
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.at + bytes.len() as u64;
        assert!(end <= self.bytes, "byte {end} of a disk of {} is written", self.bytes);
        for (at, byte) in (self.at..).zip(bytes) {
            let sector = self.sectors.entry(at / SECTOR_BYTES as u64).or_insert([0; SECTOR_BYTES]);
            sector[usize::try_from(at).expect("it is small") % SECTOR_BYTES] = *byte;
        }
        self.at = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Disk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
