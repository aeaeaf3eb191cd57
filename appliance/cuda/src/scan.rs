//! Looks whether somebody's bytes are left in the memory of the device.
//!
//! Takes all memory that is free, in ever smaller chunks, without writing to it, and counts on the host what is not
//! zero. The host's memory does not grow with the device's: see `memory.rs`.

use crate::driver::{DevicePointer, Driver, Refused};
use crate::memory::Staging;

/// The first chunk that is asked for, in bytes. Larger ones make nothing faster.
const CHUNK_BYTES_MAX: u64 = 1 << 30;

/// The smallest, in bytes: the size of the pages in which the driver hands out memory.
const CHUNK_BYTES_MIN: u64 = 2 << 20;

/// The most chunks: half a tebibyte of the large ones, which no device has yet.
const CHUNKS_MAX: usize = 512;

/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: i32 = 2;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Bytes that were read.
    pub(crate) scanned_bytes: u64,
    /// Those that were not zero.
    pub(crate) dirty_bytes: u64,
}

/// Reads all free memory of the device, and gives it back.
///
/// # Errors
/// What the driver refused, except that there is no more memory, which is how it ends.
pub(crate) fn scan(driver: &Driver, staging: &mut Staging) -> Result<Scan, Refused> {
    let chunks = take_all(|bytes| driver.allocate(bytes))?;
    let mut scan = Scan::default();
    for (chunk, bytes) in &chunks {
        staging.fetch(driver, *chunk, *bytes, |_, piece| {
            scan.dirty_bytes += dirty(piece);
            Ok::<(), Refused>(())
        })?;
        scan.scanned_bytes += bytes;
    }
    for (chunk, _) in chunks {
        driver.free(chunk)?;
    }
    Ok(scan)
}

/// Asks for chunks, half as large whenever one is refused for want of memory, until not even the smallest is there.
fn take_all(
    mut allocate: impl FnMut(u64) -> Result<DevicePointer, Refused>,
) -> Result<Vec<(DevicePointer, u64)>, Refused> {
    let mut chunks = Vec::new();
    let mut bytes = CHUNK_BYTES_MAX;
    while bytes >= CHUNK_BYTES_MIN && chunks.len() < CHUNKS_MAX {
        match allocate(bytes) {
            Ok(chunk) => chunks.push((chunk, bytes)),
            Err(refused) if refused.code == OUT_OF_MEMORY => bytes /= 2,
            Err(refused) => return Err(refused),
        }
    }
    Ok(chunks)
}

fn dirty(bytes: &[u8]) -> u64 {
    let count = bytes.iter().filter(|byte| **byte != 0).count();
    u64::try_from(count).expect("a pointer has at most 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: i32) -> Refused {
        Refused { call: "cuMemAlloc", code, name: String::new() }
    }

    #[test]
    fn all_memory_but_less_than_a_page_is_taken() {
        let check = |mut free: u64, expected_left: u64| {
            let taken = take_all(|bytes| {
                free = free.checked_sub(bytes).ok_or(refusal(2))?;
                Ok(DevicePointer::at(free))
            });
            let taken: u64 = taken.expect("enough chunks").iter().map(|(_, bytes)| bytes).sum();
            assert_eq!(free, expected_left, "{taken} bytes taken");
        };
        check(0, 0);
        check((2 << 20) - 1, (2 << 20) - 1);
        check((80 << 30) + 12_345, 12_345);
        check((3 << 30) - 1, (2 << 20) - 1);
    }

    #[test]
    fn what_is_not_a_want_of_memory_ends_it() {
        assert_eq!(take_all(|_| Err(refusal(700))), Err(refusal(700)));
    }

    #[test]
    fn a_device_without_end_does_not_hold_it_up() {
        assert_eq!(take_all(|_| Ok(DevicePointer::at(0))).expect("chunks").len(), CHUNKS_MAX);
    }

    #[test]
    fn bytes_that_are_not_zero_are_counted() {
        let check = |bytes: &[u8], expected| assert_eq!(dirty(bytes), expected);
        check(&[], 0);
        check(&[0; 64], 0);
        check(&[0, 1, 0, 255], 2);
    }
}
