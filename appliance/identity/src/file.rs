//! The key file, byte for byte.
//!
//! ```text
//!  0        6         7         8                       40
//!  ├────────┼─────────┼─────────┼────────────────────────┤
//!  │ RIGKEY │ version │  level  │ secp256k1 scalar       │   version 1: software; written by the first rigs, read
//!  │        │   0x01  │   0x00  │                        │   forever, written no more
//!  └────────┴─────────┴─────────┴────────────────────────┘
//!  0        6         7      8            12        32       33                      n-32      n
//!  ├────────┼─────────┼──────┼────────────┼─────────┼────────┼───────────────────────┼─────────┤
//!  │ RIGKEY │ version │ tier │ generation │ address │ fields │ chunks: u16 length    │ SHA-256 │   version 2
//!  │        │   0x02  │      │    u32     │         │        │ and bytes, each       │ of all  │
//!  └────────┴─────────┴──────┴────────────┴─────────┴────────┴───────────────────────┴─────────┘
//!  tier N, fields 0   scalar
//!  tier N, fields n   the binding's shares, the scalar under the key that the shares give
//!  tier B, S, 4       SHA-256 of the endorsement key's name, evidence of the machine, the TPM's blob
//! ```
//!
//! Numbers are big endian. Tier is one of the letters `N B S 4`.
//!
//! Invariants: what is parsed is written again as the same bytes; the checksum tells a damaged disk from a TPM that
//! refuses a blob (it is no protection: whoever may write the file may write the checksum).

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::secret::Scalar;
use crate::{Address, Tier};

/// A file of 16 bound fields has some 2 KiB, one of a TPM some 1 KiB.
pub const FILE_BYTES_MAX: usize = 16 * 1024;

const MAGIC: &[u8; 6] = b"RIGKEY";
const VERSION_1: u8 = 1;
const VERSION_2: u8 = 2;
const SCALAR_BYTES: usize = 32;
const VERSION_1_BYTES: usize = 8 + SCALAR_BYTES;
const HEADER_BYTES: usize = 33;
const DIGEST_BYTES: usize = 32;

/// A key file that is whole.
#[derive(Debug)]
pub struct KeyFile {
    address: Address,
    generation: u32,
    body: Body,
}

/// How the file holds its key.
pub enum Body {
    /// Version 1: the scalar as it is.
    First(Scalar),
    /// The scalar as it is, bound to nothing.
    Plain(Scalar),
    /// The scalar under a key that hardware fields give.
    Bound {
        /// How many fields; never zero.
        fields: u8,
        /// What `binding` wrote.
        binding: Vec<u8>,
        /// The scalar, encrypted.
        sealed: Vec<u8>,
    },
    /// The scalar under a TPM.
    Sealed(Sealed),
}

/// A key under a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// S, 4 or B.
    pub tier: Tier,
    /// SHA-256 of the name of the TPM's endorsement key.
    pub ek: [u8; 32],
    /// What tells this machine from another. Empty: the machine had too few fields.
    pub evidence: Vec<u8>,
    /// What the TPM made of the scalar.
    pub blob: Vec<u8>,
}

/// Why bytes are no key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Not the length of its version, or more than any version has.
    #[error("it has {bytes} bytes")]
    Length {
        /// How many.
        bytes: usize,
    },
    /// Not a key file, or its first bytes are lost.
    #[error("its header is unknown")]
    Header,
    /// Written by newer software.
    #[error("its version is {version}, and this software knows {VERSION_1} and {VERSION_2}")]
    Future {
        /// The version.
        version: u8,
    },
    /// Some byte is not what was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// The checksum is right and the contents are not: other software wrote it.
    #[error("its {part} cannot be read")]
    Part {
        /// Which part.
        part: &'static str,
    },
    /// The number in it is zero or too large.
    #[error("its number is no secp256k1 key")]
    Scalar,
    /// The key in it is not the key of the address.
    #[error("its key has another address")]
    Address,
}

// === impl KeyFile ===

impl KeyFile {
    /// A file of version 2.
    pub(crate) fn new(address: Address, generation: u32, body: Body) -> Self {
        Self { address, generation, body }
    }

    /// Errors: what is wrong with `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err(Damage::Length { bytes: bytes.len() });
        }
        match bytes.strip_prefix(MAGIC) {
            Some([VERSION_1, ..]) => parse_1(bytes),
            Some([VERSION_2, ..]) => parse_2(bytes),
            Some([version, ..]) if *version > VERSION_2 => Err(Damage::Future { version: *version }),
            Some(_) | None if bytes.is_empty() => Err(Damage::Length { bytes: 0 }),
            Some(_) | None => Err(Damage::Header),
        }
    }

    /// As it stands on disk. The same bytes that were parsed.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Of the full size at once: growing would leave copies of the scalar behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX));
        bytes.extend_from_slice(MAGIC);
        if let Body::First(scalar) = &self.body {
            bytes.extend_from_slice(&[VERSION_1, 0]);
            bytes.extend_from_slice(scalar.bytes());
            return bytes;
        }
        bytes.extend_from_slice(&self.header());
        match &self.body {
            Body::First(scalar) | Body::Plain(scalar) => chunk(&mut bytes, scalar.bytes()),
            Body::Bound { binding, sealed, .. } => {
                chunk(&mut bytes, binding);
                chunk(&mut bytes, sealed);
            }
            Body::Sealed(sealed) => {
                for part in [sealed.ek.as_slice(), &sealed.evidence, &sealed.blob] {
                    chunk(&mut bytes, part);
                }
            }
        }
        let digest = Sha256::digest(&bytes[..]);
        bytes.extend_from_slice(&digest);
        bytes
    }

    /// Version, tier, generation, address and number of fields: what an encrypted scalar is tied to.
    pub(crate) fn header(&self) -> [u8; HEADER_BYTES - MAGIC.len()] {
        header(self.body.tier(), self.generation, self.address, self.body.fields())
    }

    /// The address of the key.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The owner's request that the key was born for. Version 1: zero.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// What protects the key.
    pub fn tier(&self) -> Tier {
        self.body.tier()
    }

    /// How the key is held.
    pub fn body(&self) -> &Body {
        &self.body
    }
}

/// See [`KeyFile::header`].
pub(crate) fn header(tier: Tier, generation: u32, address: Address, fields: u8) -> [u8; HEADER_BYTES - MAGIC.len()] {
    let mut header = [0; HEADER_BYTES - MAGIC.len()];
    header[0] = VERSION_2;
    header[1] = tier.byte();
    header[2..6].copy_from_slice(&generation.to_be_bytes());
    header[6..26].copy_from_slice(&address);
    header[26] = fields;
    header
}

fn parse_1(bytes: &[u8]) -> Result<KeyFile, Damage> {
    if bytes.len() != VERSION_1_BYTES {
        return Err(Damage::Length { bytes: bytes.len() });
    }
    if bytes[7] != 0 {
        return Err(Damage::Header);
    }
    let scalar = Scalar::from_slice(&bytes[8..]).ok_or(Damage::Scalar)?;
    Ok(KeyFile { address: scalar.address(), generation: 0, body: Body::First(scalar) })
}

fn parse_2(bytes: &[u8]) -> Result<KeyFile, Damage> {
    let length = Damage::Length { bytes: bytes.len() };
    let (whole, digest) = bytes.split_at_checked(bytes.len().saturating_sub(DIGEST_BYTES)).ok_or(length)?;
    let (header, mut rest) = whole.split_at_checked(HEADER_BYTES).ok_or(length)?;
    if Sha256::digest(whole)[..] != *digest {
        return Err(Damage::Checksum);
    }
    let part = |part| Damage::Part { part };
    let tier = Tier::from_byte(header[7]).ok_or(part("tier"))?;
    let generation = u32::from_be_bytes(header[8..12].try_into().expect("four bytes"));
    let address: Address = header[12..32].try_into().expect("twenty bytes");
    let mut next = |name| take(&mut rest).ok_or(part(name));
    let body = match (tier, header[32]) {
        (Tier::N, 0) => {
            let scalar = Scalar::from_slice(next("scalar")?).ok_or(Damage::Scalar)?;
            if scalar.address() != address {
                return Err(Damage::Address);
            }
            Body::Plain(scalar)
        }
        (Tier::N, fields) => Body::Bound { fields, binding: next("binding")?.to_vec(), sealed: next("key")?.to_vec() },
        (Tier::B | Tier::S | Tier::Four, 0) => Body::Sealed(Sealed {
            tier,
            ek: next("endorsement key")?.try_into().map_err(|_| part("endorsement key"))?,
            evidence: next("evidence")?.to_vec(),
            blob: next("blob")?.to_vec(),
        }),
        (Tier::B | Tier::S | Tier::Four, _) => return Err(part("number of fields")),
    };
    match rest {
        [] => Ok(KeyFile { address, generation, body }),
        _ => Err(part("end")),
    }
}

fn chunk(bytes: &mut Vec<u8>, part: &[u8]) {
    let length = u16::try_from(part.len()).expect("no part comes near 64 KiB");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(part);
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (part, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *rest = after;
    Some(part)
}

// === impl Body ===

impl Body {
    /// What protects a key that is held so.
    pub fn tier(&self) -> Tier {
        match self {
            Self::First(_) | Self::Plain(_) | Self::Bound { .. } => Tier::N,
            Self::Sealed(sealed) => sealed.tier,
        }
    }

    /// How many hardware fields the key is bound to.
    pub fn fields(&self) -> u8 {
        match self {
            Self::First(_) | Self::Plain(_) | Self::Sealed(_) => 0,
            Self::Bound { fields, .. } => *fields,
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::First(_) => f.write_str("First(..)"),
            Self::Plain(_) => f.write_str("Plain(..)"),
            Self::Bound { fields, .. } => f.debug_struct("Bound").field("fields", fields).finish_non_exhaustive(),
            Self::Sealed(sealed) => f.debug_struct("Sealed").field("tier", &sealed.tier).finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key file of the scalar 1, byte for byte. A change here needs a new version.
    const GOLDEN_1: [u8; VERSION_1_BYTES] = *b"RIGKEY\x01\x00\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";
    /// The well-known address of the scalar 1.
    const ADDRESS: &str = "7e5f4552091a69125d5dfcb7b8c2659029395bdf";

    fn one() -> Scalar {
        Scalar::from_slice(&GOLDEN_1[8..]).expect("a key")
    }

    fn address() -> Address {
        hex::decode(ADDRESS).expect("hex").try_into().expect("twenty bytes")
    }

    fn samples() -> [KeyFile; 3] {
        let sealed = Sealed { tier: Tier::Four, ek: [0xE0; 32], evidence: vec![0xE1; 3], blob: vec![0xA0; 5] };
        let bound = Body::Bound { fields: 5, binding: vec![0xB0; 6], sealed: vec![0xB1; 2] };
        [(7, Body::Plain(one())), (0, bound), (0x0102_0304, Body::Sealed(sealed))]
            .map(|(generation, body)| KeyFile::new(address(), generation, body))
    }

    #[test]
    fn a_key_file_of_version_1_is_read_forever() {
        let file = KeyFile::parse(&GOLDEN_1).expect("the golden key opens");
        assert_eq!((file.address(), file.tier(), file.generation()), (address(), Tier::N, 0));
        assert_eq!(file.to_bytes()[..], GOLDEN_1);
    }

    #[test]
    fn a_key_file_of_version_2_has_the_bytes_that_it_always_had() {
        let goldens = [
            format!("5249474b4559024e00000007{ADDRESS}000020{}", hex::encode(&GOLDEN_1[8..])),
            format!("5249474b4559024e00000000{ADDRESS}050006b0b0b0b0b0b00002b1b1"),
            format!("5249474b4559023401020304{ADDRESS}000020{}0003e1e1e10005a0a0a0a0a0", "e0".repeat(32)),
        ];
        for (file, golden) in samples().iter().zip(goldens) {
            let mut golden = hex::decode(golden).expect("hex");
            let digest = Sha256::digest(&golden);
            golden.extend_from_slice(&digest);
            assert_eq!(hex::encode(&file.to_bytes()[..]), hex::encode(&golden));
            let read = KeyFile::parse(&golden).expect("it is whole");
            assert_eq!(read.to_bytes()[..], golden);
            assert_eq!((read.address(), read.generation()), (file.address(), file.generation()));
        }
    }

    #[test]
    fn any_bit_that_flips_and_any_cut_is_noticed() {
        for file in samples() {
            let bytes = file.to_bytes();
            for end in 0..bytes.len() {
                assert!(KeyFile::parse(&bytes[..end]).is_err(), "{end}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(KeyFile::parse(&flipped).is_err(), "{bit}");
            }
            assert!(KeyFile::parse(&[&bytes[..], b"\n"].concat()).is_err());
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |bytes: &[u8], expected| assert_eq!(KeyFile::parse(bytes).expect_err("no key"), expected);
        let edited = |at: usize, byte: u8| {
            let mut bytes = GOLDEN_1.to_vec();
            bytes[at] = byte;
            bytes
        };
        check(b"", Damage::Length { bytes: 0 });
        check(&GOLDEN_1[..39], Damage::Length { bytes: 39 });
        check(&[&GOLDEN_1[..], b"\n"].concat(), Damage::Length { bytes: 41 });
        check(&edited(0, b'r'), Damage::Header);
        check(&edited(6, 0), Damage::Header);
        check(&edited(6, 3), Damage::Future { version: 3 });
        check(&edited(7, 1), Damage::Header);
        check(&edited(39, 0), Damage::Scalar);
        check(&[0; FILE_BYTES_MAX + 1], Damage::Length { bytes: FILE_BYTES_MAX + 1 });
        let signed = |hex: &str| {
            let mut bytes = hex::decode(hex).expect("hex");
            let digest = Sha256::digest(&bytes);
            bytes.extend_from_slice(&digest);
            bytes
        };
        let part = |part| Damage::Part { part };
        check(&signed(&format!("5249474b4559025800000007{ADDRESS}00")), part("tier"));
        check(&signed(&format!("5249474b4559024200000007{ADDRESS}01")), part("number of fields"));
        check(&signed(&format!("5249474b4559024e00000007{ADDRESS}00")), part("scalar"));
        check(&signed(&format!("5249474b4559024e00000007{ADDRESS}01ffff")), part("binding"));
        check(&signed(&format!("5249474b4559024200000007{ADDRESS}0000010a")), part("endorsement key"));
        check(&signed(&format!("5249474b4559024e00000007{ADDRESS}01000000000a")), part("end"));
        let other = "00".repeat(31) + "02";
        check(&signed(&format!("5249474b4559024e00000007{ADDRESS}000020{other}")), Damage::Address);
    }

    #[test]
    fn no_secret_is_shown() {
        for file in samples() {
            assert!(!format!("{file:?}").contains(&hex::encode(&GOLDEN_1[8..])));
        }
        assert_eq!(format!("{:?}", Body::Plain(one())), "Plain(..)");
    }
}
