//! The manifest of a release, from what a build left.
//!
//! Invariants: the raw image is read once, in order, and never held whole; the manifest is a function of the files and of
//! [`About`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use layout::manifest::{CHUNK_BYTES, Chunk, FORMAT, Manifest, Part, Raw, Sha256Hex};
use layout::verity::RootHash;
use sha2::{Digest, Sha256};

/// What the files do not say of themselves.
#[derive(Debug, Clone)]
pub struct About {
    /// Of the release.
    pub version: String,
    /// `generic` or `nvidia`.
    pub flavour: String,
    /// 512 or 4096.
    pub sector_bytes: u32,
    /// Of slot A.
    pub root_hash: RootHash,
    /// As `uname -r` says it.
    pub kernel: String,
    /// Unix seconds.
    pub epoch: u64,
}

/// A file of the build that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read", path.display())]
pub struct ReadError {
    /// Which.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Describes `raw` and `parts`, whose names are those that the manifest shall have. Errors: a file that cannot be read.
pub fn describe(about: About, raw: &Path, parts: &BTreeMap<String, PathBuf>) -> Result<Manifest, ReadError> {
    let part = |(name, path): (&String, &PathBuf)| {
        let file = File::open(path).and_then(|mut file| digest_of(&mut file));
        let (bytes, sha256) = file.map_err(|source| ReadError { path: path.clone(), source })?;
        Ok((name.clone(), Part { bytes, sha256 }))
    };
    let parts = parts.iter().map(part).collect::<Result<_, ReadError>>()?;
    let file = File::open(raw).and_then(|mut file| chunks_of(&mut file));
    let raw = file.map_err(|source| ReadError { path: raw.to_owned(), source })?;
    let About { version, flavour, sector_bytes, root_hash, kernel, epoch } = about;
    Ok(Manifest { format: FORMAT, version, flavour, sector_bytes, root_hash, kernel, epoch, raw, parts })
}

/// Reads a raw image to its end, chunk by chunk.
pub fn chunks_of(raw: &mut impl Read) -> io::Result<Raw> {
    let mut whole = Sha256::new();
    let (mut bytes, mut chunks) = (0, Vec::new());
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        let got = raw.by_ref().take(CHUNK_BYTES).read_to_end(&mut chunk)?;
        if got == 0 {
            break;
        }
        whole.update(&chunk);
        chunks.push(chunk_of(&chunk));
        bytes += u64::try_from(got).unwrap_or(CHUNK_BYTES);
    }
    Ok(Raw { bytes, sha256: Sha256Hex(whole.finalize().into()), chunk_bytes: CHUNK_BYTES, chunks })
}

/// What the manifest says of these bytes.
pub(crate) fn chunk_of(bytes: &[u8]) -> Chunk {
    match bytes.iter().all(|byte| *byte == 0) {
        true => Chunk::Zero,
        false => Chunk::Sha256(Sha256Hex(Sha256::digest(bytes).into())),
    }
}

/// Length and digest of all that `reader` has.
pub(crate) fn digest_of(reader: &mut impl Read) -> io::Result<(u64, Sha256Hex)> {
    let mut digest = Sha256::new();
    let bytes = io::copy(reader, &mut digest)?;
    Ok((bytes, Sha256Hex(digest.finalize().into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(bytes: &[u8]) -> Raw {
        chunks_of(&mut &bytes[..]).expect("memory can be read")
    }

    #[test]
    fn an_image_is_cut_into_chunks_and_empty_ones_are_named_zero() {
        let chunk = usize::try_from(CHUNK_BYTES).expect("4 MiB");
        let mut image = vec![0; 2 * chunk + 512];
        image[chunk + 7] = 1;
        let raw = chunks(&image);
        assert_eq!(raw.bytes, 2 * CHUNK_BYTES + 512);
        assert_eq!(raw.chunks[0], Chunk::Zero);
        assert_eq!(raw.chunks[1], Chunk::Sha256(Sha256Hex(Sha256::digest(&image[chunk..2 * chunk]).into())));
        assert_eq!(raw.chunks[2], Chunk::Zero, "a short one too");
        assert_eq!(raw.chunks.len(), 3);
        assert_eq!(raw.sha256.0, <[u8; 32]>::from(Sha256::digest(&image)));
    }

    #[test]
    fn nothing_has_no_chunks() {
        assert_eq!(chunks(&[]).chunks, []);
    }
}
