//! A binding as bytes.
//!
//! ```text
//!  0        7        8        9      41               41 + 32 n    73 + 32 n    81 + 32 n
//!  │ RIGBIND │ version │ n       │ salt │ n coefficients │ check      │ SHA-256    │
//!            └ 1       └ 3 to 16        └ from the constant up, big endian, below the field's order
//! ```
//!
//! The first eight bytes of the SHA-256 of all before them tell a damaged binding from one of another machine. They are
//! of public bytes, and say nothing about the key.

use sha2::{Digest, Sha256};

use super::polynomial::decode;
use super::{Bound, FIELDS_MIN, SALT_BYTES};
use crate::fields::FIELDS_MAX;

const MAGIC: &[u8; 7] = b"RIGBIND";
const VERSION: u8 = 1;
const SCALAR_BYTES: usize = 32;
const CHECK_BYTES: usize = 32;
const DAMAGE_BYTES: usize = 8;

/// Not a binding. Nothing of it was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not begin as a binding does.
    #[error("the bytes are no binding")]
    Foreign,
    /// A later rig wrote it.
    #[error("the binding is of version {0}, this rig reads version 1: start the newer release")]
    Version(u8),
    /// Its number of fields is none that is ever bound.
    #[error("the binding says that it has {0} fields, which is none of 3 to 16")]
    Fields(u8),
    /// Not as long as its number of fields says.
    #[error("the binding has {actual} bytes where {expected} are said")]
    Length {
        /// What its number of fields comes to.
        expected: usize,
        /// What is there.
        actual: usize,
    },
    /// Bytes changed since it was written.
    #[error("the binding is damaged: its checksum does not match")]
    Damaged,
    /// A coefficient is not written as one is.
    #[error("coefficient {0} of the binding is outside the field")]
    Coefficient(usize),
}

/// What the check is over: everything before it.
pub(super) fn digest(bound: &Bound) -> [u8; 32] {
    Sha256::digest(body(bound)).into()
}

fn body(bound: &Bound) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length(bound.coefficients.len()));
    bytes.extend(MAGIC);
    bytes.push(VERSION);
    bytes.push(bound.fields());
    bytes.extend(bound.salt);
    for coefficient in &bound.coefficients {
        bytes.extend(coefficient.to_bytes());
    }
    bytes
}

fn length(fields: usize) -> usize {
    MAGIC.len() + 2 + SALT_BYTES + fields * SCALAR_BYTES + CHECK_BYTES + DAMAGE_BYTES
}

// === impl Bound ===

impl Bound {
    /// The bytes that [`Bound::parse`] reads: 177 to 593 of them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = body(self);
        bytes.extend(self.check);
        let damage = Sha256::digest(&bytes);
        bytes.extend(&damage[..DAMAGE_BYTES]);
        bytes
    }

    /// Reads what [`Bound::to_bytes`] wrote. A binding has one encoding.
    ///
    /// Errors: what is wrong with `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(Malformed::Foreign)?;
        let [version, fields, rest @ ..] = rest else { return Err(Malformed::Foreign) };
        if *version != VERSION {
            return Err(Malformed::Version(*version));
        }
        let count = usize::from(*fields);
        if !(FIELDS_MIN..=FIELDS_MAX).contains(&count) {
            return Err(Malformed::Fields(*fields));
        }
        let wrong_length = Malformed::Length { expected: length(count), actual: bytes.len() };
        if bytes.len() != length(count) {
            return Err(wrong_length);
        }
        let (whole, damage) = bytes.split_last_chunk::<DAMAGE_BYTES>().ok_or(wrong_length)?;
        if Sha256::digest(whole)[..DAMAGE_BYTES] != damage[..] {
            return Err(Malformed::Damaged);
        }
        let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>().ok_or(wrong_length)?;
        let (scalars, rest) = rest.split_at_checked(count * SCALAR_BYTES).ok_or(wrong_length)?;
        let check = rest.first_chunk::<CHECK_BYTES>().ok_or(wrong_length)?;
        let (scalars, _) = scalars.as_chunks::<SCALAR_BYTES>();
        let scalar =
            |(scalar, number): (&[u8; SCALAR_BYTES], usize)| decode(*scalar).ok_or(Malformed::Coefficient(number));
        let coefficients = scalars.iter().zip(0..).map(scalar).collect::<Result<_, _>>()?;
        Ok(Self { salt: *salt, coefficients, check: *check })
    }
}
