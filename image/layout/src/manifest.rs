//! What a release is made of, in one signed file.
//!
//! JSON, at most 4 MiB, every key known. The signature (ECDSA P-256 over SHA-256, DER) covers the file's bytes as they
//! are and is checked before the first of them is parsed. Whoever holds the manifest and the key can check the raw image
//! piece by piece while it is written or downloaded.

use std::collections::BTreeMap;
use std::fmt;

use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::gpt::SECTOR_BYTES;
use crate::verity::RootHash;

/// The form of the file; another number is another form.
pub const FORMAT: u32 = 1;

/// A manifest is at most so long: an image of 100 GiB has one of 1.7 MiB.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// The raw image is checked in pieces of this size.
pub const CHUNK_BYTES: u64 = 4 << 20;

/// So many other files at most.
const PARTS_MAX: usize = 64;

/// Names and versions are at most so long.
const WORD_MAX: usize = 64;

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Of the release, as in the name of its boot entry.
    pub version: String,
    /// Which drivers it has, e.g. `generic`.
    pub flavour: String,
    /// Sectors of the raw image: 512 or 4096.
    pub sector_bytes: u32,
    /// Of the root in slot A.
    #[serde(with = "text")]
    pub root_hash: RootHash,
    /// The kernel's release, as `uname -r` says it.
    pub kernel: String,
    /// The time that all files of it carry, in Unix seconds.
    pub epoch: u64,
    /// The whole disk.
    pub raw: Raw,
    /// Every other file, by name.
    pub parts: BTreeMap<String, Part>,
}

/// The whole disk, in pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// How long it is.
    pub bytes: u64,
    /// Of all of it.
    pub sha256: Sha256Hex,
    /// How long each piece but the last is.
    pub chunk_bytes: u64,
    /// The pieces in order.
    pub chunks: Vec<Chunk>,
}

/// One piece of the disk. In the file `0`, or 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// All zero: need not be written to an empty disk.
    Zero,
    /// What it hashes to.
    Sha256(Sha256Hex),
}

/// One file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// How long it is.
    pub bytes: u64,
    /// Of all of it.
    pub sha256: Sha256Hex,
}

/// A SHA-256; 64 hexadecimal digits in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Hex(pub [u8; 32]);

/// The key that releases are signed with: a point of P-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why a manifest is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Longer than [`MANIFEST_BYTES_MAX`].
    #[error("the manifest has {0} bytes; at most {MANIFEST_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Not JSON of our form.
    #[error("the manifest is not one that this program reads")]
    Json(#[source] serde_json::Error),
    /// Of another form.
    #[error("the manifest's format is {0}, and this program reads {FORMAT}; use a program of the same release")]
    Format(u32),
    /// What it says cannot be.
    #[error("the manifest contradicts itself: {0}")]
    Contradiction(&'static str),
    /// The key is not a point of P-256.
    #[error("not a public key: a point of P-256 in hexadecimal digits, 66 or 130 of them")]
    Key,
    /// The signature is not one, or of another file, or by another key.
    #[error("the manifest is not signed by the key of this release; download it again, from its own place")]
    Signature,
}

// === impl Manifest ===

impl Manifest {
    /// Reads `json`, of whose origin the caller is sure; from outside use [`verify`].
    pub fn parse(json: &[u8]) -> Result<Manifest, ManifestError> {
        bounded(json)?;
        /// Read first, so that a newer form is named as that and not as an unknown key.
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let Form { format } = serde_json::from_slice(json).map_err(ManifestError::Json)?;
        if format != FORMAT {
            return Err(ManifestError::Format(format));
        }
        let manifest: Manifest = serde_json::from_slice(json).map_err(ManifestError::Json)?;
        manifest.checked()
    }

    /// The bytes to sign and to keep. Keys are in a fixed order and the last byte is a line's end.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // The fields are text, numbers and maps with text for keys.
        let mut json = serde_json::to_vec_pretty(self).expect("a manifest has nothing that JSON lacks");
        json.push(b'\n');
        json
    }

    fn checked(self) -> Result<Manifest, ManifestError> {
        let Raw { bytes, chunk_bytes, chunks, .. } = &self.raw;
        let wrong = if !SECTOR_BYTES.contains(&self.sector_bytes) {
            "a sector has 512 or 4096 bytes"
        } else if *chunk_bytes != CHUNK_BYTES {
            "a chunk has 4 MiB"
        } else if u64::try_from(chunks.len()) != Ok(bytes.div_ceil(*chunk_bytes)) {
            "the chunks do not cover the image"
        } else if *bytes == 0 || bytes % u64::from(self.sector_bytes) != 0 {
            "the image does not end with a sector"
        } else if self.parts.len() > PARTS_MAX || !self.parts.keys().all(|name| is_word(name)) {
            "a part has a name that is no file's, or there are too many"
        } else if ![&self.version, &self.flavour, &self.kernel].into_iter().all(|word| is_word(word)) {
            "the version, flavour or kernel is not a word"
        } else {
            return Ok(self);
        };
        Err(ManifestError::Contradiction(wrong))
    }
}

/// Checks the signature `sig` of `json` by `key`, and only then reads it.
pub fn verify(json: &[u8], sig: &[u8], key: &PublicKey) -> Result<Manifest, ManifestError> {
    bounded(json)?;
    let signature = Signature::from_der(sig).map_err(|_| ManifestError::Signature)?;
    key.0.verify(json, &signature).map_err(|_| ManifestError::Signature)?;
    Manifest::parse(json)
}

fn bounded(json: &[u8]) -> Result<(), ManifestError> {
    if json.len() > MANIFEST_BYTES_MAX { Err(ManifestError::TooLong(json.len())) } else { Ok(()) }
}

/// A name that is one file's in the folder it is put in, and prints.
fn is_word(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-' | '~' | '^');
    begins && text.len() <= WORD_MAX && text.chars().all(is_of_word)
}

// === impl PublicKey ===

impl PublicKey {
    /// A point in hexadecimal digits, compressed or not.
    pub fn from_hex(point: &str) -> Result<PublicKey, ManifestError> {
        let bytes = hex::decode(point.trim()).map_err(|_| ManifestError::Key)?;
        VerifyingKey::from_sec1_bytes(&bytes).map(PublicKey).map_err(|_| ManifestError::Key)
    }

    /// The point compressed: 66 digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0.to_encoded_point(true).as_bytes())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.to_hex())
    }
}

// === impl Sha256Hex ===

impl fmt::Display for Sha256Hex {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(self.0))
    }
}

impl Serialize for Sha256Hex {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Hex {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Sha256Hex, D::Error> {
        digest(&String::deserialize(from)?).ok_or_else(|| serde::de::Error::custom("not 64 hexadecimal digits"))
    }
}

// === impl Chunk ===

impl Serialize for Chunk {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Chunk::Zero => to.serialize_str("0"),
            Chunk::Sha256(digest) => digest.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Chunk, D::Error> {
        let text = String::deserialize(from)?;
        if text == "0" {
            return Ok(Chunk::Zero);
        }
        let refused = || serde::de::Error::custom("a chunk is 0 or 64 hexadecimal digits");
        digest(&text).map(Chunk::Sha256).ok_or_else(refused)
    }
}

fn digest(text: &str) -> Option<Sha256Hex> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(Sha256Hex(bytes))
}

/// A value that is text in the file.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
