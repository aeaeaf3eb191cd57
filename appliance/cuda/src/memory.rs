//! How bytes get to the device and back: through two pieces of pinned memory, of which one is read or written by the
//! device while the other is by us.
//!
//! Invariants: a piece is touched only after the event behind its last copy; files are read and written at offsets
//! that the caller gives, and a transfer is exactly as long as it says. The host's memory does not grow with the job.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::driver::{DevicePointer, Driver, Event, Pinned, Refused, Stream};

/// Bytes of a piece: long enough that a copy runs at full speed, short enough to be pinned in a few milliseconds.
const PIECE_BYTES: usize = 8 << 20;

/// The pieces, and the stream on which they travel.
#[derive(Debug)]
pub(crate) struct Staging {
    pieces: [Piece; 2],
    turn: usize,
    stream: Stream,
}

#[derive(Debug)]
struct Piece {
    pinned: Pinned,
    /// Behind the last copy from or to it.
    done: Event,
}

/// Bytes that did not get through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MoveError {
    /// The driver refused.
    #[error("copy between host and device")]
    Driver(#[source] Refused),
    /// The file did.
    #[error("read or write at offset {offset} of the {file}")]
    File {
        /// `inputs` or `outputs`.
        file: &'static str,
        /// Where, in bytes.
        offset: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

// === impl Staging ===

impl Staging {
    /// Pins the pieces; part of getting warm.
    pub(crate) fn new(driver: &Driver, stream: Stream) -> Result<Self, Refused> {
        let piece = || Ok(Piece { pinned: driver.pinned(PIECE_BYTES)?, done: driver.event()? });
        Ok(Self { pieces: [piece()?, piece()?], turn: 0, stream })
    }

    /// Copies `bytes` bytes of `file` from `offset` on to the device. The last of it may still be under way.
    pub(crate) fn upload(
        &mut self,
        driver: &Driver,
        (file, offset): (&File, u64),
        to: DevicePointer,
        bytes: u64,
    ) -> Result<(), MoveError> {
        self.send(driver, to, bytes, |at, piece| {
            let offset = offset + at;
            file.read_exact_at(piece, offset).map_err(|source| MoveError::File { file: "inputs", offset, source })
        })
    }

    /// Copies `bytes` bytes of the device into `file` from `offset` on.
    pub(crate) fn download(
        &mut self,
        driver: &Driver,
        from: DevicePointer,
        bytes: u64,
        (file, offset): (&File, u64),
    ) -> Result<(), MoveError> {
        self.fetch(driver, from, bytes, |at, piece| {
            let offset = offset + at;
            file.write_all_at(piece, offset).map_err(|source| MoveError::File { file: "outputs", offset, source })
        })
    }

    /// Writes `pattern` (1, 2, 4 or 8 bytes) all over `bytes` bytes of the device, a multiple of its length.
    pub(crate) fn fill(
        &mut self,
        driver: &Driver,
        at: DevicePointer,
        bytes: u64,
        pattern: Pattern,
    ) -> Result<(), Refused> {
        match pattern {
            Pattern::Bits8(value) => driver.fill_8(at, value, bytes, self.stream),
            Pattern::Bits16(value) => driver.fill_16(at, value, bytes / 2, self.stream),
            Pattern::Bits32(value) => driver.fill_32(at, value, bytes / 4, self.stream),
            Pattern::Bits64(value) => self.fill_by_doubling(driver, at, bytes, value),
        }
    }

    /// The driver fills with at most 32 bits: write one piece from here, then copy what is there behind itself.
    fn fill_by_doubling(
        &mut self,
        driver: &Driver,
        at: DevicePointer,
        bytes: u64,
        value: [u8; 8],
    ) -> Result<(), Refused> {
        let mut there = bytes.min(wide(PIECE_BYTES));
        self.send(driver, at, there, |_, piece| {
            piece.chunks_exact_mut(8).for_each(|element| element.copy_from_slice(&value));
            Ok::<(), Refused>(())
        })?;
        while there < bytes {
            let more = there.min(bytes - there);
            driver.copy(at, at.offset(there), more, self.stream)?;
            there += more;
        }
        Ok(())
    }

    /// Hands out each piece, with its distance from the beginning, to be filled, and sends it.
    fn send<E: From<Refused>>(
        &mut self,
        driver: &Driver,
        to: DevicePointer,
        bytes: u64,
        mut fill: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = 0;
        while at < bytes {
            let stream = self.stream;
            let piece = self.next();
            let len = piece_of(bytes - at);
            driver.wait(piece.done)?;
            fill(at, &mut piece.pinned.bytes_mut()[..len])?;
            driver.upload(&piece.pinned, to.offset(at), len, stream, piece.done)?;
            at += wide(len);
        }
        Ok(())
    }

    /// Fetches the memory piece by piece, and hands out each with its distance from the beginning.
    pub(crate) fn fetch<E: From<Refused>>(
        &mut self,
        driver: &Driver,
        from: DevicePointer,
        bytes: u64,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut asked, mut taken) = (0, 0);
        let stream = self.stream;
        while taken < bytes {
            // One piece ahead of what is taken, so that the device copies while we look.
            while asked < bytes && asked - taken < wide(2 * PIECE_BYTES) {
                let len = piece_of(bytes - asked);
                let piece = self.next();
                driver.download(from.offset(asked), &mut piece.pinned, len, stream, piece.done)?;
                asked += wide(len);
            }
            let len = piece_of(bytes - taken);
            let piece = self.oldest(asked - taken > wide(PIECE_BYTES));
            driver.wait(piece.done)?;
            take(taken, &piece.pinned.bytes_mut()[..len])?;
            taken += wide(len);
        }
        Ok(())
    }

    /// The piece whose turn it is.
    fn next(&mut self) -> &mut Piece {
        let turn = self.turn;
        self.turn = 1 - turn;
        &mut self.pieces[turn]
    }

    /// Of the pieces on their way, the one that was asked for first.
    fn oldest(&mut self, both: bool) -> &mut Piece {
        let turn = if both { self.turn } else { 1 - self.turn };
        &mut self.pieces[turn]
    }
}

/// What a fill writes, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// One byte.
    Bits8(u8),
    /// Two bytes that differ.
    Bits16(u16),
    /// Four bytes, of which the halves differ.
    Bits32(u32),
    /// Eight bytes, of which the halves differ.
    Bits64([u8; 8]),
}

// === impl Pattern ===

impl Pattern {
    /// The shortest pattern that says the same; nothing if it is not of 1, 2, 4 or 8 bytes.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        if let (2 | 4 | 8, (low, high)) = (bytes.len(), bytes.split_at(bytes.len() / 2))
            && low == high
        {
            return Self::new(low);
        }
        match *bytes {
            [byte] => Some(Self::Bits8(byte)),
            [a, b] => Some(Self::Bits16(u16::from_le_bytes([a, b]))),
            [a, b, c, d] => Some(Self::Bits32(u32::from_le_bytes([a, b, c, d]))),
            _ => bytes.try_into().ok().map(Self::Bits64),
        }
    }
}

impl From<Refused> for MoveError {
    fn from(refused: Refused) -> Self {
        Self::Driver(refused)
    }
}

fn piece_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).min(PIECE_BYTES)
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a pointer has at most 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_as_short_as_it_can_be() {
        let check = |bytes: &[u8], expected| assert_eq!(Pattern::new(bytes), expected, "{bytes:?}");
        check(&[7], Some(Pattern::Bits8(7)));
        check(&[7, 7], Some(Pattern::Bits8(7)));
        check(&[0; 8], Some(Pattern::Bits8(0)));
        check(&[1, 2], Some(Pattern::Bits16(0x201)));
        check(&[1, 2, 1, 2], Some(Pattern::Bits16(0x201)));
        check(&1.0_f32.to_le_bytes(), Some(Pattern::Bits32(0x3f80_0000)));
        check(&[1, 2, 3, 4, 1, 2, 3, 4], Some(Pattern::Bits32(0x0403_0201)));
        check(&1.0_f64.to_le_bytes(), Some(Pattern::Bits64([0, 0, 0, 0, 0, 0, 0xf0, 0x3f])));
        check(&[], None);
        check(&[1, 2, 3], None);
        check(&[0; 16], None);
    }
}
