//! A sealed layer as a file: what it is called, and whether it is whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use runner::protocol::Digest;

/// Where the superblock is, in bytes (Linux `fs/erofs/erofs_fs.h`), and how much of it is read.
const OFFSET: u64 = 1024;
const LENGTH: usize = 64;

const MAGIC: u32 = 0xE0F5_E1E2;

/// What an erofs image says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    /// Length of the image.
    pub(super) bytes: u64,
    /// Files, links and directories.
    pub(super) inodes: u64,
}

pub(super) fn path(state: &Path, digest: &Digest) -> PathBuf {
    state.join(format!("layers/{}.erofs", digest.hex()))
}

/// Which layer stands at `path`, by its name.
pub(super) fn digest_of(path: &Path) -> Option<Digest> {
    let hex = path.file_name()?.to_str()?.strip_suffix(".erofs")?;
    format!("sha256:{hex}").parse().ok()
}

// === impl Superblock ===

impl Superblock {
    /// Reads it, if `path` is an image at full length. Whether the rest is sound is for the kernel to find out,
    /// which fails reads of what is not.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut block = [0; LENGTH];
        file.read_exact_at(&mut block, OFFSET)?;
        let length = file.metadata()?.size();
        // Little endian: magic at 0, log2 of the block size at 12, inodes at 16, blocks at 36.
        let number = |at: usize| block[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let inodes = block[16..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let bytes = u64::from(number(36)).checked_shl(u32::from(block[12])).unwrap_or(u64::MAX);
        if number(0) == MAGIC && block[12] < 32 && bytes <= length {
            return Ok(Self { bytes: length, inodes });
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "not a whole erofs image"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_was_cut_short_or_overwritten_is_not_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        let mut image = vec![0; 8192];
        image[1024..1028].copy_from_slice(&MAGIC.to_le_bytes());
        image[1036] = 12;
        image[1040] = 7;
        image[1060] = 2;
        let read = |image: &[u8]| {
            std::fs::write(&path, image).expect("write");
            Superblock::read(&path)
        };
        assert_eq!(read(&image).expect("whole"), Superblock { bytes: 8192, inodes: 7 });
        assert!(read(&image[..8191]).is_err());
        assert!(read(&image[..1050]).is_err());
        assert!(read(&[]).is_err());
        image[1024] = 0;
        assert!(read(&image).is_err());
    }

    #[test]
    fn a_name_is_the_digest_of_a_blob() {
        let digest: Digest = format!("sha256:{}", "0a".repeat(32)).parse().expect("a digest");
        let path = path(Path::new("/state"), &digest);
        assert_eq!(digest_of(&path), Some(digest));
        for other in ["layers/.0a", "layers/x.erofs", "layers/0a0a.erofs"] {
            assert_eq!(digest_of(Path::new(other)), None);
        }
    }
}
