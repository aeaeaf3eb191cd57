//! Device memory: bytes of the host behind addresses of a space of its own.
//!
//! Invariants: allocations never overlap and have a gap between them, so an address behind one belongs to none; an
//! address is never given twice.

use std::collections::BTreeMap;

use crate::code::{Answer, Code};

/// Where device addresses begin: far from anything that the host's allocator gives.
const FIRST_ADDRESS: u64 = 0x0004_0000_0000;
/// Allocations begin at multiples of this, as `cudaMalloc`'s do.
const ALIGNMENT: u64 = 512;
/// At least so much lies between two allocations.
const GAP: u64 = 2 << 20;
/// What another process left in memory that nobody scrubbed.
const RESIDUE: u8 = 0x5a;

/// All allocations of one context.
#[derive(Debug)]
pub(crate) struct Memory {
    allocations: BTreeMap<u64, Vec<u8>>,
    next: u64,
    scrub: bool,
    /// Freed and not scrubbed: the next allocation of the same size gets these bytes.
    stale: Vec<Vec<u8>>,
}

// === impl Memory ===

impl Memory {
    pub(crate) fn new(scrub: bool) -> Memory {
        Memory { allocations: BTreeMap::new(), next: FIRST_ADDRESS, scrub, stale: Vec::new() }
    }

    /// Bytes in use, each allocation rounded up.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.allocations.values().map(|bytes| (bytes.len() as u64).next_multiple_of(ALIGNMENT)).sum()
    }

    /// A new allocation's address. The caller checked that the GPU has so many bytes left.
    /// Errors: 0 bytes, or the host has not so much.
    pub(crate) fn allocate(&mut self, bytes: u64) -> Answer<u64> {
        let length = usize::try_from(bytes).map_err(|_| Code::OUT_OF_MEMORY)?;
        if length == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let stale = self.stale.iter().position(|freed| freed.len() == length).map(|at| self.stale.swap_remove(at));
        let fill = if self.scrub { 0 } else { RESIDUE };
        let contents = stale.unwrap_or_else(|| vec![fill; length]);
        let address = self.next;
        self.next += bytes.next_multiple_of(ALIGNMENT) + GAP;
        self.allocations.insert(address, contents);
        Ok(address)
    }

    /// Frees the allocation that begins at `address`. Errors: none does.
    pub(crate) fn free(&mut self, address: u64) -> Answer {
        let contents = self.allocations.remove(&address).ok_or(Code::INVALID_VALUE)?;
        if !self.scrub {
            self.stale.push(contents);
        }
        Ok(())
    }

    /// The `bytes` bytes at `address`. Errors: they do not all lie in one allocation.
    pub(crate) fn range(&mut self, address: u64, bytes: usize) -> Answer<&mut [u8]> {
        let (base, offset) = self.locate(address)?;
        let allocation = self.allocations.get_mut(&base).ok_or(Code::INVALID_VALUE)?;
        let end = offset.checked_add(bytes).ok_or(Code::INVALID_VALUE)?;
        allocation.get_mut(offset..end).ok_or(Code::INVALID_VALUE)
    }

    /// Copies within the context. Errors: one of the ranges does not lie in an allocation.
    pub(crate) fn copy(&mut self, target: u64, source: u64, bytes: usize) -> Answer {
        self.range(target, bytes)?;
        let copy = self.range(source, bytes)?.to_vec();
        self.range(target, bytes)?.copy_from_slice(&copy);
        Ok(())
    }

    /// The allocation that holds `address`: its beginning, and how far behind it the address lies.
    pub(crate) fn locate(&self, address: u64) -> Answer<(u64, usize)> {
        let (base, allocation) = self.allocations.range(..=address).next_back().ok_or(Code::INVALID_VALUE)?;
        match usize::try_from(address - base) {
            Ok(offset) if offset < allocation.len() => Ok((*base, offset)),
            Ok(_) | Err(_) => Err(Code::INVALID_VALUE),
        }
    }

    /// The size of the allocation that begins at `base`.
    pub(crate) fn size(&self, base: u64) -> usize {
        self.allocations.get(&base).map_or(0, Vec::len)
    }

    /// Takes the contents of the allocation that begins at `base`, for a launch; [`Memory::put`] brings them back.
    pub(crate) fn take(&mut self, base: u64) -> Vec<u8> {
        self.allocations.get_mut(&base).map(std::mem::take).unwrap_or_default()
    }

    /// Brings back what [`Memory::take`] took.
    pub(crate) fn put(&mut self, base: u64, contents: Vec<u8>) {
        self.allocations.insert(base, contents);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_inside_an_allocation_are_memory() {
        let mut memory = Memory::new(true);
        let a = memory.allocate(100).expect("room");
        let b = memory.allocate(1000).expect("room");
        let mut check = |address, bytes, inside: bool| {
            assert_eq!(memory.range(address, bytes).is_ok(), inside, "{bytes} bytes at {address:#x}");
        };
        check(a, 100, true);
        check(a + 99, 1, true);
        check(a, 101, false);
        check(a + 100, 1, false);
        check(a + 100, 0, false);
        check(b, 1000, true);
        check(b - 1, 1, false);
        check(b + 500, usize::MAX, false);
        check(0, 1, false);
        check(u64::MAX, 1, false);
        assert_eq!(memory.used_bytes(), 512 + 1024);
    }

    #[test]
    fn freed_memory_comes_back_clean_unless_the_driver_does_not_scrub() {
        let check = |scrub, fresh: u8, again: u8| {
            let mut memory = Memory::new(scrub);
            let first = memory.allocate(64).expect("room");
            assert_eq!(memory.range(first, 64).expect("inside"), [fresh; 64], "scrub {scrub}");
            memory.range(first, 64).expect("inside").fill(7);
            memory.free(first).expect("allocated");
            assert_eq!(memory.free(first), Err(Code::INVALID_VALUE));
            let second = memory.allocate(64).expect("room");
            assert_ne!(first, second);
            assert_eq!(memory.range(second, 64).expect("inside"), [again; 64], "scrub {scrub}");
        };
        check(true, 0, 0);
        check(false, RESIDUE, 7);
    }
}
