//! Reading a TPMT_PUBLIC, and asking for attributes and algorithms by their names.
//!
//! Invariants: an attribute that this version does not know is refused, since it may undo one that it asks for; RSA means
//! 2048 bits and exponent 65537, ECC means a point of P-256.

use p256::elliptic_curve::sec1::FromEncodedPoint;
use p256::{EncodedPoint, PublicKey};
use rsa::{BigUint, RsaPublicKey};

use super::{KeyFault, KeyName};
use crate::signature::ALG_SHA256;
use crate::structure::{Reader, StructureFault};

// TPM 2.0 library specification, part 2: TPM_ALG_ID and TPM_ECC_CURVE.
const ALG_RSA: u16 = 0x0001;
pub(super) const ALG_AES: u16 = 0x0006;
pub(super) const ALG_NULL: u16 = 0x0010;
const ALG_ECC: u16 = 0x0023;
pub(super) const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;

/// Bits of an RSA endorsement key that we can encrypt to.
const RSA_BITS: u16 = 2048;
/// What exponent 0 in a public area means.
const RSA_EXPONENT: u32 = 65537;

/// Attributes by their bit in TPMA_OBJECT, part 2 of the specification.
const ATTRIBUTES: [(u32, &str); 11] = [
    (1 << 1, "fixedTPM"),
    (1 << 2, "stClear"),
    (1 << 4, "fixedParent"),
    (1 << 5, "sensitiveDataOrigin"),
    (1 << 6, "userWithAuth"),
    (1 << 7, "adminWithPolicy"),
    (1 << 10, "noDA"),
    (1 << 11, "encryptedDuplication"),
    (1 << 16, "restricted"),
    (1 << 17, "decrypt"),
    (1 << 18, "sign"),
];
pub(super) const ENCRYPTED_DUPLICATION: u32 = 1 << 11;
pub(super) const RESTRICTED: u32 = 1 << 16;
pub(super) const DECRYPT: u32 = 1 << 17;
pub(super) const SIGN: u32 = 1 << 18;
/// Made in this TPM, and never leaves it: fixedTPM, fixedParent, sensitiveDataOrigin.
pub(super) const BORN_HERE: u32 = (1 << 1) | (1 << 4) | (1 << 5);

/// A public area, read but not judged.
pub(super) struct Public<'a> {
    key: &'static str,
    attributes: u32,
    /// Key bits and mode, where there is a symmetric algorithm.
    pub(super) symmetric: Option<(u16, u16, u16)>,
    pub(super) scheme: Option<(u16, u16)>,
    pub(super) numbers: Numbers<'a>,
    pub(super) name: KeyName,
}

pub(super) enum Numbers<'a> {
    Rsa { bits: u16, exponent: u32, modulus: &'a [u8] },
    Ecc { curve: u16, kdf: u16, x: [u8; 32], y: [u8; 32] },
}

// === impl Public ===

impl<'a> Public<'a> {
    pub(super) fn read(key: &'static str, bytes: &'a [u8]) -> Result<Public<'a>, KeyFault> {
        let mut reader = Reader::of(bytes);
        let broken = |source| KeyFault::Structure { key, source };
        let wrong = |field, found: u16, expected| KeyFault::Algorithm { key, field, found: found.into(), expected };
        let kind = reader.u16("the type").map_err(broken)?;
        let name_alg = reader.u16("the name's hash").map_err(broken)?;
        if name_alg != ALG_SHA256 {
            return Err(wrong("hash", name_alg, "SHA-256"));
        }
        let attributes = reader.u32("the attributes").map_err(broken)?;
        let known = ATTRIBUTES.iter().fold(0, |known, (bit, _)| known | bit);
        if attributes & !known != 0 {
            // x509sign, firmwareLimited and their like: what such a key may do, this version cannot judge.
            let found = attributes & !known;
            return Err(KeyFault::Algorithm { key, field: "attributes", found, expected: "none of these" });
        }
        reader.sized("the policy").map_err(broken)?;
        let symmetric = read_symmetric(&mut reader).map_err(broken)?;
        let scheme = read_scheme(&mut reader, "the scheme").map_err(broken)?;
        let numbers = match kind {
            ALG_RSA => read_rsa(&mut reader).map_err(broken)?,
            ALG_ECC => read_ecc(&mut reader).map_err(broken)?,
            other => return Err(wrong("type", other, "RSA or ECC")),
        };
        reader.end().map_err(broken)?;
        Ok(Public { key, attributes, symmetric, scheme, numbers, name: KeyName::of(bytes) })
    }

    pub(super) fn needs(&self, bits: u32) -> Result<(), KeyFault> {
        let missing = ATTRIBUTES.iter().find(|(bit, _)| bits & bit != 0 && self.attributes & bit == 0);
        missing.map_or(Ok(()), |(_, attribute)| Err(KeyFault::Lacks { key: self.key, attribute }))
    }

    pub(super) fn excludes(&self, bits: u32) -> Result<(), KeyFault> {
        let spoilt = ATTRIBUTES.iter().find(|(bit, _)| bits & self.attributes & bit != 0);
        spoilt.map_or(Ok(()), |(_, attribute)| Err(KeyFault::Excluded { key: self.key, attribute }))
    }

    pub(super) fn has_no_symmetric(&self) -> Result<(), KeyFault> {
        match self.symmetric {
            None => Ok(()),
            Some((algorithm, ..)) => Err(self.wrong("symmetric algorithm", algorithm, "none")),
        }
    }

    pub(super) fn wrong(&self, field: &'static str, found: u16, expected: &'static str) -> KeyFault {
        KeyFault::Algorithm { key: self.key, field, found: found.into(), expected }
    }

    pub(super) fn point(&self) -> Result<PublicKey, KeyFault> {
        let Numbers::Ecc { curve, kdf, x, y } = &self.numbers else {
            return Err(self.wrong("type", ALG_RSA, "ECC"));
        };
        if *curve != CURVE_P256 {
            return Err(self.wrong("curve", *curve, "P-256"));
        }
        if *kdf != ALG_NULL {
            return Err(self.wrong("key derivation", *kdf, "none"));
        }
        let point = EncodedPoint::from_affine_coordinates(x.into(), y.into(), false);
        Option::from(PublicKey::from_encoded_point(&point)).ok_or(KeyFault::Numbers { key: self.key })
    }

    pub(super) fn rsa(&self) -> Result<RsaPublicKey, KeyFault> {
        let Numbers::Rsa { bits, exponent, modulus } = &self.numbers else {
            return Err(self.wrong("type", ALG_ECC, "RSA"));
        };
        let is_whole = modulus.len() == usize::from(RSA_BITS / 8) && modulus.first().is_some_and(|top| top & 0x80 != 0);
        if *bits != RSA_BITS || !is_whole || !matches!(*exponent, 0 | RSA_EXPONENT) {
            return Err(KeyFault::Numbers { key: self.key });
        }
        let numbers = RsaPublicKey::new(BigUint::from_bytes_be(modulus), BigUint::from(RSA_EXPONENT));
        numbers.map_err(|_| KeyFault::Numbers { key: self.key })
    }
}

/// TPMT_SYM_DEF_OBJECT. Every algorithm but the null one has key bits and a mode.
fn read_symmetric(reader: &mut Reader<'_>) -> Result<Option<(u16, u16, u16)>, StructureFault> {
    match reader.u16("the symmetric algorithm")? {
        ALG_NULL => Ok(None),
        algorithm => Ok(Some((algorithm, reader.u16("its key bits")?, reader.u16("its mode")?))),
    }
}

/// A scheme and its hash. Schemes with other details (RSAES, ECDAA) end in an error further on, as they should.
fn read_scheme(reader: &mut Reader<'_>, field: &'static str) -> Result<Option<(u16, u16)>, StructureFault> {
    match reader.u16(field)? {
        ALG_NULL => Ok(None),
        scheme => Ok(Some((scheme, reader.u16(field)?))),
    }
}

fn read_rsa<'a>(reader: &mut Reader<'a>) -> Result<Numbers<'a>, StructureFault> {
    let bits = reader.u16("the key bits")?;
    let exponent = reader.u32("the exponent")?;
    Ok(Numbers::Rsa { bits, exponent, modulus: reader.sized("the modulus")? })
}

fn read_ecc<'a>(reader: &mut Reader<'a>) -> Result<Numbers<'a>, StructureFault> {
    let curve = reader.u16("the curve")?;
    let kdf = read_scheme(reader, "the key derivation")?.map_or(ALG_NULL, |(kdf, _)| kdf);
    Ok(Numbers::Ecc { curve, kdf, x: reader.scalar("x")?, y: reader.scalar("y")? })
}
