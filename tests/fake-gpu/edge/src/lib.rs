//! Where C calls in: the pointers that callers of a C library pass, as types that are safe to use behind that edge.
//!
//! `fake-cuda` and `fake-nvml` export C functions. Their signatures use the types of this crate in place of raw
//! pointers, with the same layout, so that the exported functions are safe code, and what must be trusted lies here.
//!
//! The trust: a value of these types comes from a C caller who keeps the contract of the driver's documentation. A
//! pointer is null, or valid for what the called function reads or writes through it, for as long as the call lasts,
//! and no other thread writes there meanwhile. Rust code cannot make such a value: the fields are private, and there are no
//! constructors.
//!
//! Owns: those types ([`Out`], [`InOut`], [`Array`], [`Text`], [`OutText`], [`Host`], [`Parameters`]), and what a library
//! must ask the dynamic linker about itself ([`own_path`], [`own_symbol`]). Never: holds state, or is part of a binary that ships.
//!
//! Read first: this file; `linker.rs` is the rest.

#![expect(unsafe_code, reason = "pointers from C are read and written here and nowhere else")]

mod linker;

pub use linker::{own_path, own_symbol};

use std::ffi::{CStr, c_char, c_void};

/// Names and PTX that callers pass end with NUL; beyond this many bytes the end is not looked for.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Where a result goes: `T *`, only written.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Out<T>(*mut T);

/// A structure or count that the caller fills in and the call changes: `T *`.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct InOut<T>(*mut T);

/// Room for several results: `T *`, whose length is another argument.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Array<T>(*mut T);

/// A name: `const char *`.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Text(*const c_char);

/// Room for a name: `char *`, whose length is another argument.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct OutText(*mut c_char);

/// Bytes in the caller's memory, read or written: `void *`.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Host(*mut c_void);

/// A launch's arguments: `void **`, each the address of one argument's bytes.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Parameters(*const *const c_void);

// === impl Out ===

impl<T: Copy> Out<T> {
    /// Whether the caller does not want the result.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Writes the result; `None` if the pointer is null.
    #[must_use]
    pub fn set(self, value: T) -> Option<()> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: not null, so by the crate's contract valid for a write of `T`; unaligned, since nobody promised more.
        unsafe { self.0.write_unaligned(value) };
        Some(())
    }
}

// === impl InOut ===

impl<T: Copy> InOut<T> {
    /// What the caller filled in; `None` if the pointer is null.
    #[must_use]
    pub fn get(self) -> Option<T> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: not null, so by the crate's contract it points to a `T` that the caller initialised.
        Some(unsafe { self.0.read_unaligned() })
    }

    /// Replaces it; `None` if the pointer is null.
    #[must_use]
    pub fn set(self, value: T) -> Option<()> {
        Out(self.0).set(value)
    }
}

// === impl Array ===

impl<T: Copy> Array<T> {
    /// Whether the caller only asks how many there are.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Writes `values`, which are no more than the caller has room for; `None` if the pointer is null.
    #[must_use]
    pub fn set(self, values: &[T]) -> Option<()> {
        if self.0.is_null() {
            return None;
        }
        for (index, value) in values.iter().enumerate() {
            // SAFETY: not null, so by the crate's contract valid for as many writes as the call's length argument says,
            // and the exported functions pass no more values than that.
            unsafe { self.0.add(index).write_unaligned(*value) };
        }
        Some(())
    }

    /// Changes each of the `count` elements that the caller filled in; `None` if the pointer is null.
    #[must_use]
    pub fn change(self, count: usize, change: impl Fn(&mut T)) -> Option<()> {
        if self.0.is_null() {
            return None;
        }
        for index in 0..count {
            // SAFETY: not null, so by the crate's contract there are `count` initialised elements, which is the call's
            // length argument.
            let at = unsafe { self.0.add(index) };
            let element = InOut(at);
            let mut value = element.get()?;
            change(&mut value);
            element.set(value)?;
        }
        Some(())
    }
}

// === impl Text ===

impl Text {
    /// The name; `None` if the pointer is null or the bytes are no UTF-8.
    #[must_use]
    pub fn read(self) -> Option<String> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: not null, so by the crate's contract a string that ends with NUL.
        unsafe { CStr::from_ptr(self.0) }.to_str().ok().map(str::to_owned)
    }
}

// === impl OutText ===

impl OutText {
    /// Writes `text` and a NUL into the caller's `room` bytes. `None` if the pointer is null, `Some(false)` if the room
    /// is too small; then nothing is written.
    #[must_use]
    pub fn set(self, room: usize, text: &str) -> Option<bool> {
        if self.0.is_null() {
            return None;
        }
        if text.len() >= room {
            return Some(false);
        }
        Array(self.0.cast::<u8>()).set(text.as_bytes())?;
        // SAFETY: not null, so by the crate's contract valid for `room` bytes, and `text.len()` is less.
        unsafe { self.0.cast::<u8>().add(text.len()).write(0) };
        Some(true)
    }
}

// === impl Host ===

impl Host {
    /// `bytes` bytes of the caller's memory; `None` if the pointer is null and bytes are asked for.
    #[must_use]
    pub fn read(self, bytes: usize) -> Option<Vec<u8>> {
        let mut copy = vec![0; bytes];
        self.read_into(&mut copy).map(|()| copy)
    }

    /// Fills `target` from the caller's memory; `None` if the pointer is null and `target` is not empty.
    #[must_use]
    pub fn read_into(self, target: &mut [u8]) -> Option<()> {
        if target.is_empty() {
            return Some(());
        }
        if self.0.is_null() {
            return None;
        }
        // SAFETY: not null, so by the crate's contract valid for reads of the call's length argument, which is
        // `target.len()`. The fake's device memory is never handed to callers as addresses, so they do not overlap.
        unsafe { self.0.cast::<u8>().copy_to_nonoverlapping(target.as_mut_ptr(), target.len()) };
        Some(())
    }

    /// Writes `bytes` into the caller's memory; `None` if the pointer is null and `bytes` is not empty.
    #[must_use]
    pub fn write(self, bytes: &[u8]) -> Option<()> {
        if bytes.is_empty() {
            return Some(());
        }
        if self.0.is_null() {
            return None;
        }
        // SAFETY: as in `read_into`, for writes.
        unsafe { self.0.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Some(())
    }

    /// Reads byte by byte for as long as `more`, which sees what was read so far, says so. For data that say their own
    /// length, such as a module's image. `None` if the pointer is null.
    #[must_use]
    pub fn read_while(self, mut more: impl FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        if self.0.is_null() {
            return None;
        }
        let mut bytes = Vec::new();
        while bytes.len() < TEXT_BYTES_MAX && more(&bytes) {
            // SAFETY: not null, and `more` asks for no byte behind the end that the data themselves tell.
            bytes.push(unsafe { self.0.cast::<u8>().add(bytes.len()).read() });
        }
        Some(bytes)
    }

    /// The address, as a key for memory that the library itself handed out.
    #[must_use]
    pub fn address(self) -> usize {
        self.0.addr()
    }
}

// === impl Parameters ===

impl Parameters {
    /// The arguments, whose sizes in bytes are `sizes`; `None` if a pointer is null.
    #[must_use]
    pub fn read(self, sizes: &[usize]) -> Option<Vec<Vec<u8>>> {
        if sizes.is_empty() {
            return Some(Vec::new());
        }
        if self.0.is_null() {
            return None;
        }
        let argument = |(index, bytes): (usize, &usize)| {
            // SAFETY: not null, so by the crate's contract an array with one pointer for each parameter of the kernel.
            let at = unsafe { self.0.add(index).read() };
            Host(at.cast_mut()).read(*bytes)
        };
        sizes.iter().enumerate().map(argument).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_never_followed() {
        let null: *mut c_void = std::ptr::null_mut();
        assert_eq!(Out::<u32>(null.cast()).set(1), None);
        assert_eq!(InOut::<u32>(null.cast()).get(), None);
        assert_eq!(Array::<u32>(null.cast()).set(&[1]), None);
        assert_eq!(Text(null.cast()).read(), None);
        assert_eq!(OutText(null.cast()).set(8, "x"), None);
        assert_eq!(Host(null).read(1), None);
        assert_eq!(Host(null).read(0), Some(Vec::new()));
        assert_eq!(Host(null).write(&[1]), None);
        assert_eq!(Host(null).read_while(|_| true), None);
        assert_eq!(Parameters(null.cast()).read(&[4]), None);
        assert_eq!(Parameters(null.cast()).read(&[]), Some(Vec::new()));
    }

    #[test]
    fn a_name_is_written_whole_or_not_at_all() {
        let check = |room, expected, bytes: &[u8]| {
            let mut target = [0xff_u8; 4];
            let got = OutText(target.as_mut_ptr().cast()).set(room, "abc");
            assert_eq!((got, target.as_slice()), (Some(expected), bytes), "room for {room}");
        };
        check(4, true, b"abc\0");
        check(3, false, b"\xff\xff\xff\xff");
        check(0, false, b"\xff\xff\xff\xff");
    }

    #[test]
    fn arguments_are_read_by_their_sizes() {
        let (n, address) = (7_u32, 0x0102_0304_0506_0708_u64);
        let pointers = [(&raw const n).cast::<c_void>(), (&raw const address).cast()];
        let read = Parameters(pointers.as_ptr()).read(&[4, 8]);
        assert_eq!(read, Some(vec![vec![7, 0, 0, 0], vec![8, 7, 6, 5, 4, 3, 2, 1]]));
    }
}
