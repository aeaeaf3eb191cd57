//! Any bytes as a layer of an image: the first says how it is packed, the rest is the blob.

use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use runner::layer::{Bounds, Compression, apply};

/// Small, so that every bound is met.
const BOUNDS: Bounds = Bounds { bytes: 1 << 20, entries: 64 };

/// Unpacks `data` into a directory of its own, as root as the unpacker is, and looks at what came of it.
pub(crate) fn run(data: &[u8]) {
    let Some((packing, blob)) = data.split_first() else { return };
    let compression = match packing % 3 {
        0 => Compression::None,
        1 => Compression::Gzip,
        _ => Compression::Zstd,
    };
    let dir = tempfile::tempdir().expect("a directory");
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).expect("mkdir");
    let root = OwnedFd::from(File::open(&tree).expect("open"));
    match apply(compression, blob, BOUNDS, root) {
        Ok(applied) => assert!(applied.is_within(BOUNDS) && applied.diff_id.len() == 64),
        Err(broken) => assert!(!broken.to_string().is_empty()),
    }
    let beside: Vec<_> =
        std::fs::read_dir(dir.path()).expect("list").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(beside, ["tree"], "something was made beside the tree");
    let mut entries = 0;
    look(&tree, &mut entries);
    // Each counted entry makes one name at most.
    assert!(entries <= BOUNDS.entries + 1, "{entries} names");
}

fn look(dir: &Path, entries: &mut u64) {
    for entry in std::fs::read_dir(dir).expect("list").flatten() {
        *entries += 1;
        let found = entry.metadata().expect("stat");
        assert!(is_harmless(&found), "{}: {found:?}", entry.path().display());
        if found.is_dir() {
            look(&entry.path(), entries);
        }
    }
}

/// A file, directory or link without set-uid and set-gid bits, or overlayfs's way to hide a name.
fn is_harmless(found: &Metadata) -> bool {
    let kind = found.file_type();
    let hides = kind.is_char_device() && found.rdev() == 0;
    let plain = kind.is_file() || kind.is_dir() || kind.is_symlink();
    (plain || hides) && found.permissions().mode() & 0o6000 == 0 && found.uid() < 65_536 && found.gid() < 65_536
}
