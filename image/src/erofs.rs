//! The root as one file: packed with `mkfs.erofs`, with its tree of hashes made by `veritysetup`.
//!
//! Invariants: owner, time, identifier and salt are fixed and extended attributes are left out, so that the same folder gives the same root hash.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use layout::gpt::Guid;
use layout::verity::{self, RootHash, RootHashError};
use thiserror::Error;

use crate::workshop::{Workshop, WorkshopError};

/// What one extent is packed from: the larger the smaller the root, and the more is read for one byte.
const CLUSTER_BYTES: u32 = 65_536;

/// Why the root was not packed.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum PackError {
    #[error("pack the root")]
    Workshop(#[from] WorkshopError),
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("veritysetup wrote no root hash but {text:?}")]
    Hash {
        text: String,
        #[source]
        source: RootHashError,
    },
}

/// Packs the folder `root` into `work/root.erofs`.
pub fn pack(
    workshop: &Workshop,
    root: &Path,
    work: &Path,
    compression: &str,
    epoch: u64,
) -> Result<PathBuf, PackError> {
    let (time, id) = (format!("-T{epoch}"), format!("-U{}", Guid::derived("root.erofs")));
    let (method, cluster) = (format!("-z{compression}"), format!("-C{CLUSTER_BYTES}"));
    let command = [
        "mkfs.erofs",
        "--quiet",
        &time,
        &id,
        "--all-root",
        // No attributes: a machine with SELinux labels every file that it writes.
        "-x-1",
        &method,
        &cluster,
        "-Eztailpacking",
        "root.erofs",
        "/srv",
    ];
    let target = work.join("root.erofs");
    if target.exists() {
        fs::remove_file(&target).map_err(|source| PackError::Read { path: target.clone(), source })?;
    }
    workshop.run_with(work, &[(root, "/srv")], &command, &[("SOURCE_DATE_EPOCH", &epoch.to_string())], &[])?;
    Ok(target)
}

/// Makes the tree of hashes over `work/root.erofs` as `work/root.verity`. The salt is derived from the root's length and
/// from `version`.
pub fn hash(workshop: &Workshop, work: &Path, version: &str) -> Result<(PathBuf, RootHash), PackError> {
    let target = work.join("root.verity");
    if target.exists() {
        fs::remove_file(&target).map_err(|source| PackError::Read { path: target.clone(), source })?;
    }
    let root = work.join("root.erofs");
    let bytes = fs::metadata(&root).map_err(|source| PackError::Read { path: root, source })?.len();
    let salt = verity::salt(bytes / verity::BLOCK_BYTES, &format!("rig {version}"));
    let salt = format!("--salt={}", hex::encode(salt));
    let id = format!("--uuid={}", Guid::derived("root.verity"));
    let command = [
        "veritysetup",
        "format",
        &salt,
        &id,
        "--hash=sha256",
        "--data-block-size=4096",
        "--hash-block-size=4096",
        "--root-hash-file=roothash",
        "root.erofs",
        "root.verity",
    ];
    workshop.run(work, &command, &[])?;
    let path = work.join("roothash");
    let text = fs::read_to_string(&path).map_err(|source| PackError::Read { path, source })?;
    let hash = text.trim().parse().map_err(|source| PackError::Hash { text, source })?;
    Ok((target, hash))
}
