//! Public areas of the keys and secrets that we make, and their names: TPMT_PUBLIC of part 2 of the TPM library.
//!
//! Each template is a constant of the fleet: another attribute makes another key of the same seed.

use sha2::{Digest, Sha256};

use crate::point::EcPoint;
use crate::policy::PolicyDigest;
use crate::wire::{Reader, Short, Writer};

// TPM_ALG_ID.
pub(crate) const RSA: u16 = 0x0001;
pub(crate) const AES: u16 = 0x0006;
pub(crate) const KEYEDHASH: u16 = 0x0008;
pub(crate) const SHA256: u16 = 0x000b;
pub(crate) const NULL: u16 = 0x0010;
pub(crate) const ECDSA: u16 = 0x0018;
pub(crate) const ECC: u16 = 0x0023;
pub(crate) const CFB: u16 = 0x0043;

/// TPM_ECC_NIST_P256.
pub(crate) const P256: u16 = 0x0003;
pub(crate) const AES_BITS: u16 = 128;

// TPMA_OBJECT.
const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const USER_WITH_AUTH: u32 = 1 << 6;
const ADMIN_WITH_POLICY: u32 = 1 << 7;
const NO_DA: u32 = 1 << 10;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;

/// PolicySecret(endorsement), which templates L-1 and L-2 of "TCG EK Credential Profile" (2.5, B.3.3 and B.3.4) have as the
/// endorsement key's policy: PolicyA.
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
const RSA_BITS: u16 = 2048;

/// Bytes of a name with SHA-256: the algorithm and the digest.
pub(crate) const NAME: usize = 34;
/// Longest public area that is taken in, bytes. An RSA-2048 endorsement key has 314; somebody's persistent RSA-4096 key,
/// which is read to see that it is not ours, has about 540.
pub(crate) const PUBLIC_MAX: usize = 640;

/// The storage root key's: the "SRK" template of "TCG TPM v2.0 Provisioning Guidance" for P-256, with an empty `unique`.
pub(crate) fn srk() -> Writer {
    let made_here = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN;
    key(ECC, made_here | USER_WITH_AUTH | NO_DA | RESTRICTED | DECRYPT, &[])
        .u16(AES)
        .u16(AES_BITS)
        .u16(CFB)
        .u16(NULL)
        .u16(P256)
        .u16(NULL)
        .sized(&[])
        .sized(&[])
}

/// A sealed secret's: nothing opens it but `policy`. No dictionary attack by others locks it.
pub(crate) fn sealed(policy: &PolicyDigest) -> Writer {
    let attributes = FIXED_TPM | FIXED_PARENT | ADMIN_WITH_POLICY | NO_DA;
    key(KEYEDHASH, attributes, policy.as_bytes()).u16(NULL).sized(&[])
}

/// The TLS key's: signs any digest.
pub(crate) fn tls() -> Writer {
    signing(FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | NO_DA | SIGN)
}

/// The attestation key's: restricted, so that it signs only what the TPM made.
pub(crate) fn attestation() -> Writer {
    signing(FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | NO_DA | RESTRICTED | SIGN)
}

/// The RSA endorsement key's: template L-1.
pub(crate) fn ek_rsa() -> Writer {
    ek(RSA).u16(NULL).u16(RSA_BITS).u32(0).sized(&[0; RSA_BITS as usize / 8])
}

/// The P-256 endorsement key's: template L-2.
pub(crate) fn ek_p256() -> Writer {
    ek(ECC).u16(NULL).u16(P256).u16(NULL).sized(&[0; 32]).sized(&[0; 32])
}

/// A public key from outside, under which the TPM checks a signature.
pub(crate) fn verification_key(point: &EcPoint) -> Vec<u8> {
    key(ECC, USER_WITH_AUTH | SIGN, &[])
        .u16(NULL)
        .u16(ECDSA)
        .u16(SHA256)
        .u16(P256)
        .u16(NULL)
        .sized(&point.x)
        .sized(&point.y)
        .into_bytes()
}

/// Name of an object: its algorithm and the digest of its public area.
pub(crate) fn name(public: &[u8]) -> [u8; NAME] {
    let mut name = [0; NAME];
    name[..2].copy_from_slice(&SHA256.to_be_bytes());
    name[2..].copy_from_slice(&Sha256::digest(public));
    name
}

/// Whether `public` was made from `template`: the same up to `unique`.
pub(crate) fn is_made_from(public: &[u8], template: &[u8]) -> bool {
    matches!((before_unique(public), before_unique(template)), (Ok(public), Ok(template)) if public == template)
}

/// The point of a public area on P-256.
pub(crate) fn point(public: &[u8]) -> Result<EcPoint, Short> {
    let mut reader = Reader::new(public);
    if reader.u16()? != ECC {
        return Err(Short("the key is not on an elliptic curve"));
    }
    let (mut unique, curve) = skip_to_unique(Reader::new(public))?;
    if curve != P256 {
        return Err(Short("the key is not on P-256"));
    }
    let point = EcPoint::read(&mut unique)?;
    unique.end()?;
    Ok(point)
}

fn before_unique(public: &[u8]) -> Result<&[u8], Short> {
    let (unique, _) = skip_to_unique(Reader::new(public))?;
    Ok(&public[..public.len() - unique.rest().len()])
}

/// A reader at `unique`, and the curve; zero for RSA.
fn skip_to_unique(mut reader: Reader<'_>) -> Result<(Reader<'_>, u16), Short> {
    let kind = reader.u16()?;
    reader.u16()?;
    reader.u32()?;
    reader.sized()?;
    if reader.u16()? != NULL {
        reader.u32()?;
    }
    if reader.u16()? != NULL {
        reader.u16()?;
    }
    match kind {
        ECC => {
            let curve = reader.u16()?;
            if reader.u16()? != NULL {
                reader.u16()?;
            }
            Ok((reader, curve))
        }
        RSA => {
            reader.u16()?;
            reader.u32()?;
            Ok((reader, 0))
        }
        _ => Err(Short("the key is neither RSA nor on an elliptic curve")),
    }
}

fn key(kind: u16, attributes: u32, policy: &[u8]) -> Writer {
    Writer::new().u16(kind).u16(SHA256).u32(attributes).sized(policy)
}

fn signing(attributes: u32) -> Writer {
    key(ECC, attributes, &[]).u16(NULL).u16(ECDSA).u16(SHA256).u16(P256).u16(NULL).sized(&[]).sized(&[])
}

fn ek(kind: u16) -> Writer {
    let made_here = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN;
    key(kind, made_here | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT, &EK_POLICY).u16(AES).u16(AES_BITS).u16(CFB)
}
