//! Reading the TPM's binary structures: big-endian numbers, and sizes of two bytes before buffers.
//!
//! Invariants: nothing is read past the end; a buffer longer than its bound is refused before it is looked at; bytes
//! left over are an error, so that one value has one form. A general parser of TPM structures was not taken: the
//! verifier accepts five shapes, and what it cannot read it must refuse.

use thiserror::Error;

/// Longest buffer in any structure we read: an RSA-2048 modulus. Names are 34 bytes, nonces 64 at most.
pub(crate) const MAX_BUFFER: usize = 256;

/// A TPM structure that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StructureFault {
    /// It ends inside the named field.
    #[error("ends inside {0}")]
    Short(&'static str),
    /// It goes on after its last field.
    #[error("{0} bytes follow its end")]
    Trailing(usize),
    /// A field's size is more than it can be.
    #[error("{field} has {size} bytes, {most} at most")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// The size that it says, bytes.
        size: usize,
        /// The most that it can be, bytes.
        most: usize,
    },
}

/// What of a structure was not read yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub(crate) fn bytes(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], StructureFault> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(StructureFault::Short(field))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], StructureFault> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(StructureFault::Short(field))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, StructureFault> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, StructureFault> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, StructureFault> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, StructureFault> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A buffer behind its size (TPM2B_*).
    pub(crate) fn sized(&mut self, field: &'static str) -> Result<&'a [u8], StructureFault> {
        let size = usize::from(self.u16(field)?);
        if size > MAX_BUFFER {
            return Err(StructureFault::TooLong { field, size, most: MAX_BUFFER });
        }
        self.bytes(size, field)
    }

    /// A number of 32 bytes behind its size. A TPM may leave out leading zeros.
    pub(crate) fn scalar(&mut self, field: &'static str) -> Result<[u8; 32], StructureFault> {
        let bytes = self.sized(field)?;
        let mut scalar = [0; 32];
        let start = scalar.len().checked_sub(bytes.len()).ok_or(StructureFault::TooLong {
            field,
            size: bytes.len(),
            most: 32,
        })?;
        scalar[start..].copy_from_slice(bytes);
        Ok(scalar)
    }

    pub(crate) fn end(self) -> Result<(), StructureFault> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(StructureFault::Trailing(left)),
        }
    }
}

/// A buffer behind its size. `bytes` is one of ours, far below 64 KiB.
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let size = u16::try_from(bytes.len()).expect("every buffer written here is a key, a name or a digest");
    [&size.to_be_bytes(), bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_claims_more_than_there_is_is_refused() {
        let check = |bytes: &[u8], expected| assert_eq!(Reader::of(bytes).sized("the nonce"), expected);
        check(&[0, 2, 7, 8], Ok(&[7, 8][..]));
        check(&[0, 0], Ok(&[][..]));
        check(&[0], Err(StructureFault::Short("the nonce")));
        check(&[0, 2, 7], Err(StructureFault::Short("the nonce")));
        let too_long = StructureFault::TooLong { field: "the nonce", size: 0xffff, most: MAX_BUFFER };
        check(&[0xff, 0xff, 7], Err(too_long));
    }

    #[test]
    fn a_scalar_without_its_leading_zeros_is_the_same_scalar() {
        let short = sized(&[5]);
        let mut whole = [0; 32];
        whole[31] = 5;
        assert_eq!(Reader::of(&short).scalar("x"), Ok(whole));
        assert_eq!(Reader::of(&sized(&whole)).scalar("x"), Ok(whole));
        assert!(Reader::of(&sized(&[0; 33])).scalar("x").is_err());
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        let mut reader = Reader::of(&[1, 2, 3]);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.end(), Err(StructureFault::Trailing(2)));
    }
}
