//! Authenticode: the signature of a program that firmware starts.
//!
//! ```text
//! PE file, padded to 8 | 4 length | 2 revision 0x0200 | 2 type 2 | PKCS#7 | padded to 8
//!                      ^ the header's security entry: offset and size of all that follows
//! ```
//!
//! Invariants: what is hashed is `layout`'s decision alone, because the same code says on a rig what was signed; a file
//! has one signature, at its end; the bytes before it are those of the unsigned file but for the security entry and the
//! padding. Source: PE format specification, "Attribute certificate table"; Authenticode 1.0.

use der::asn1::ObjectIdentifier;
use der::{Any, Decode, Reader};
use layout::uki::{Uki, UkiError};
use x509_cert::Certificate;

use super::SignError;
use super::pkcs7::{self, SignatureError};
use crate::keys::Pair;

const SPC_INDIRECT_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");
/// `SpcIndirectDataContent` up to the digest: a PE image, flags 0, no page hashes, the customary name, SHA-256.
const CONTENT_HEAD: [u8; 74] = [
    0x30, 0x68, 0x30, 0x33, // content, data
    0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f, // SPC_PE_IMAGE_DATA
    0x30, 0x25, 0x03, 0x01, 0x00, 0xa0, 0x20, 0xa2, 0x1e, 0x80, 0x1c, // flags, link, file, name
    0x00, 0x3c, 0x00, 0x3c, 0x00, 0x3c, 0x00, 0x4f, 0x00, 0x62, 0x00, 0x73, 0x00, 0x6f, // <<<Obso
    0x00, 0x6c, 0x00, 0x65, 0x00, 0x74, 0x00, 0x65, 0x00, 0x3e, 0x00, 0x3e, 0x00, 0x3e, // lete>>>
    0x30, 0x31, 0x30, 0x0d, // digest, algorithm
    0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, // SHA-256
    0x04, 0x20,
];
/// Tag and length of the content.
const CONTENT_TAG_BYTES: usize = 2;

const ALIGNMENT: usize = 8;
const HEAD_BYTES: usize = 8;
const REVISION: u16 = 0x0200;
const TYPE_PKCS7: u16 = 2;
/// Where the DOS header says where the PE header is.
const PE_OFFSET: usize = 0x3c;
/// From the PE header to the optional header, and what that begins with.
const OPTIONAL_HEADER: usize = 4 + 20;
const MAGIC_64: u16 = 0x020b;
/// From the PE header to the security entry in an image for 64 bits: 4 signature, 20 file header, 112 optional header,
/// then the fifth entry of the directory.
const SECURITY_ENTRY: usize = OPTIONAL_HEADER + 112 + 4 * 8;
/// Our signatures have 1.4 KiB; one with a chain of certificates some 10 KiB.
const SIGNATURE_BYTES_MAX: usize = 64 * 1024;

/// Why firmware would not start a program.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticodeError {
    /// Not a PE image.
    #[error("this is no program for UEFI")]
    Image(#[source] UkiError),
    /// No signature.
    #[error("nobody signed it")]
    Unsigned,
    /// The table of signatures lies.
    #[error("the table of signatures does not fit the file: {0}")]
    Table(&'static str),
    /// The signature is not by the key.
    #[error("the signature does not hold")]
    Signature(#[source] SignatureError),
    /// The file was changed.
    #[error("the file was changed after it was signed: it has the digest {found}, signed was {signed}")]
    Digest {
        /// What it hashes to now.
        found: String,
        /// What was signed.
        signed: String,
    },
}

/// `unsigned` with the signature of `signer`. Errors: all of [`SignError`].
pub fn sign(unsigned: &[u8], signer: &Pair) -> Result<Vec<u8>, SignError> {
    let parsed = Uki::read(unsigned).map_err(SignError::Image)?;
    let entry = security_entry(unsigned).map_err(|_| SignError::Signed)?;
    if entry.bytes != 0 {
        return Err(SignError::Signed);
    }
    let signature = pkcs7::enclosed(SPC_INDIRECT_DATA, content(&parsed.authenticode()), signer);
    let mut file = unsigned.to_vec();
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    let table = file.len();
    let entry_bytes = (HEAD_BYTES + signature.len()).next_multiple_of(ALIGNMENT);
    let number = |value: usize| u32::try_from(value).map_err(|_| SignError::TooLong);
    file[entry.at..entry.at + 4].copy_from_slice(&number(table)?.to_le_bytes());
    file[entry.at + 4..entry.at + 8].copy_from_slice(&number(entry_bytes)?.to_le_bytes());
    file.extend_from_slice(&number(entry_bytes)?.to_le_bytes());
    file.extend_from_slice(&REVISION.to_le_bytes());
    file.extend_from_slice(&TYPE_PKCS7.to_le_bytes());
    file.extend_from_slice(&signature);
    file.resize(table + entry_bytes, 0);
    Ok(file)
}

/// Whether firmware with `certificate` in its db would start `file`. Errors: all of [`AuthenticodeError`].
pub fn verify(file: &[u8], certificate: &Certificate) -> Result<(), AuthenticodeError> {
    let parsed = Uki::read(file).map_err(AuthenticodeError::Image)?;
    let signature = signature(file)?;
    let found = pkcs7::open(signature, SPC_INDIRECT_DATA, certificate).map_err(AuthenticodeError::Signature)?;
    let digest = parsed.authenticode();
    match found == content(&digest) {
        true => Ok(()),
        false => {
            let signed = found.value().last_chunk::<32>().map(hex::encode).unwrap_or_default();
            Err(AuthenticodeError::Digest { found: hex::encode(digest), signed })
        }
    }
}

/// The PKCS#7 of a signed file. Errors: `Unsigned`, `Table`.
fn signature(file: &[u8]) -> Result<&[u8], AuthenticodeError> {
    let entry = security_entry(file).map_err(AuthenticodeError::Table)?;
    if entry.bytes == 0 {
        return Err(AuthenticodeError::Unsigned);
    }
    let end = entry.offset.checked_add(entry.bytes).filter(|end| *end == file.len());
    let table = end.and_then(|end| file.get(entry.offset..end)).ok_or(AuthenticodeError::Table("not at the end"))?;
    let (head, body) = table.split_at_checked(HEAD_BYTES).ok_or(AuthenticodeError::Table("shorter than its head"))?;
    let length = read_u32(head, 0).filter(|length| length.next_multiple_of(ALIGNMENT) == table.len());
    let length = length.and_then(|length| length.checked_sub(HEAD_BYTES));
    let length = length.ok_or(AuthenticodeError::Table("not one signature"))?;
    let kind = [REVISION.to_le_bytes(), TYPE_PKCS7.to_le_bytes()].concat();
    if head[4..] != kind {
        return Err(AuthenticodeError::Table("no PKCS#7"));
    }
    if length > SIGNATURE_BYTES_MAX {
        return Err(AuthenticodeError::Table("the signature has more than 64 KiB"));
    }
    let padded = body.get(..length).ok_or(AuthenticodeError::Table("shorter than its head says"))?;
    // The length may count the padding in, as ours does: the encoding knows its own end.
    let bytes = encoded_bytes(padded).filter(|bytes| padded.len() - bytes < ALIGNMENT);
    let bytes = bytes.ok_or(AuthenticodeError::Table("bytes behind the signature"))?;
    Ok(&padded[..bytes])
}

/// How many bytes the DER value at the start of `bytes` has.
fn encoded_bytes(bytes: &[u8]) -> Option<usize> {
    let mut reader = der::SliceReader::new(bytes).ok()?;
    let header = der::Header::decode(&mut reader).ok()?;
    let total = (reader.position() + header.length).ok()?;
    usize::try_from(total).ok().filter(|total| *total <= bytes.len())
}

fn content(digest: &[u8; 32]) -> Any {
    let bytes = [&CONTENT_HEAD[..], digest].concat();
    Any::new(der::Tag::Sequence, &bytes[CONTENT_TAG_BYTES..]).expect("a constant and a digest")
}

struct SecurityEntry {
    /// Where the entry itself is.
    at: usize,
    offset: usize,
    bytes: usize,
}

fn security_entry(file: &[u8]) -> Result<SecurityEntry, &'static str> {
    let header = read_u32(file, PE_OFFSET).ok_or("no PE header")?;
    let magic = header.checked_add(OPTIONAL_HEADER).and_then(|at| file.get(at..)?.first_chunk::<2>());
    if magic != Some(&MAGIC_64.to_le_bytes()) {
        return Err("not an image for 64 bits");
    }
    let at = header.checked_add(SECURITY_ENTRY).ok_or("no PE header")?;
    let offset = read_u32(file, at).ok_or("no directory")?;
    let bytes = read_u32(file, at + 4).ok_or("no directory")?;
    Ok(SecurityEntry { at, offset, bytes })
}

fn read_u32(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*four)).ok()
}

/// Whether a file carries a signature, by whomever.
pub fn is_signed(file: &[u8]) -> bool {
    signature(file).is_ok()
}

#[cfg(test)]
mod tests;
