//! Applies one layer to the tree, and answers what the layer's uncompressed bytes hash to.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

use super::ENTRIES_MAX;
use super::entry_path::{EntryPath, Meaning};
use super::meter::{Broken, Budget, Counted, Metered};
use super::tree::{self, Attributes, Made};
use crate::orders::{Compression, LayerPlan};
use crate::slots::IDS_PER_SLOT;

/// Permission bits and the sticky bit; set-uid and set-gid never leave the archive.
const MODE_MASK: u32 = 0o1777;

/// Who owns what an id beyond the slot owns in the archive: the kernel's own choice for ids that do not fit.
/// Images built on a company's network do have such ids, and work with them.
const OVERFLOW_ID: u32 = 65_534;

/// Applies the layer in `blob`. Answers the SHA-256 of its uncompressed tar, which the caller compares: by then
/// the files are written, but nobody has seen them.
pub(super) fn apply(layer: &LayerPlan, blob: File, budget: &mut Budget) -> Result<String, Broken> {
    let (counted, packed_bytes) = Counted::new(io::BufReader::new(blob));
    let tar: Box<dyn Read> = match layer.compression {
        Compression::None => Box::new(counted),
        Compression::Gzip => Box::new(MultiGzDecoder::new(counted)),
        Compression::Zstd => Box::new(zstd::Decoder::new(counted).map_err(Broken::Archive)?),
    };
    let (mut file_bytes, mut entries) = (budget.file_bytes, budget.entries);
    let mut metered = Metered::new(tar, packed_bytes, budget);
    let read = apply_entries(&mut metered, &mut file_bytes, &mut entries);
    // A tar may be followed by padding, which counts for the hash and for the bounds.
    let read = read.and_then(|()| io::copy(&mut metered, &mut io::sink()).map_err(Broken::Archive));
    match read {
        Err(Broken::Archive(error)) => return Err(metered.blame(error)),
        Err(Broken::Write { operation, path, source }) => {
            let blamed = metered.blame(source);
            return Err(match blamed {
                Broken::Archive(source) => Broken::Write { operation, path, source },
                bound => bound,
            });
        }
        other => other?,
    };
    let digest = metered.digest();
    (budget.file_bytes, budget.entries) = (file_bytes, entries);
    Ok(digest)
}

fn apply_entries(metered: &mut Metered<'_>, file_bytes: &mut u64, entries: &mut u64) -> Result<(), Broken> {
    let mut made = Made::default();
    let mut archive = Archive::new(metered);
    for entry in archive.entries().map_err(Broken::Archive)? {
        let mut entry = entry.map_err(Broken::Archive)?;
        *entries += 1;
        if *entries > ENTRIES_MAX {
            return Err(Broken::TooManyEntries);
        }
        match Meaning::parse(&entry.path_bytes())? {
            Meaning::Plain(path) => *file_bytes += apply_entry(&mut entry, &path, &mut made)?,
            Meaning::Whiteout(path) => made.hide(&path).map_err(writing("hide", &path))?,
            Meaning::Opaque(path) => made.hide_below(&path).map_err(writing("hide what is in", &path))?,
        }
    }
    Ok(())
}

/// Makes what one entry describes; answers the bytes of file content written.
fn apply_entry<R: Read>(entry: &mut Entry<'_, R>, path: &EntryPath, made: &mut Made) -> Result<u64, Broken> {
    let kind = entry.header().entry_type();
    let known = kind.is_dir() || is_file(kind) || kind.is_symlink() || kind.is_hard_link();
    if !known || (path.is_root() && !kind.is_dir()) {
        // Devices, FIFOs and whatever else: a jail has a /dev of its own, and nothing to say to the rest.
        return Ok(0);
    }
    let attributes = attributes(entry)?;
    tree::make_parents(path).map_err(writing("make the directories of", path))?;
    made.note(path);
    match kind {
        EntryType::Directory => tree::directory(path, attributes).map(|()| 0).map_err(writing("make directory", path)),
        EntryType::Symlink => {
            let target = link_name(entry, path)?;
            tree::symlink(path, attributes, &target).map(|()| 0).map_err(writing("link", path))
        }
        EntryType::Link => {
            let target = EntryPath::parse(link_name(entry, path)?.as_os_str().as_bytes())?;
            tree::hard_link(path, &target).map(|()| 0).map_err(writing("hard link", path))
        }
        _ => tree::file(path, attributes, entry).map_err(writing("write", path)),
    }
}

fn is_file(kind: EntryType) -> bool {
    kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse()
}

fn link_name<R: Read>(entry: &Entry<'_, R>, path: &EntryPath) -> Result<PathBuf, Broken> {
    let refused = |reason| Broken::Entry { path: path.as_path().to_owned(), reason };
    match entry.link_name().map_err(Broken::Archive)? {
        Some(target) if !target.as_os_str().is_empty() => Ok(target.into_owned()),
        _ => Err(refused("no link target")),
    }
}

fn attributes<R: Read>(entry: &Entry<'_, R>) -> Result<Attributes, Broken> {
    let header = entry.header();
    let owner = |id: io::Result<u64>| {
        let id = id.map_err(Broken::Archive)?;
        Ok(u32::try_from(id).ok().filter(|id| *id < IDS_PER_SLOT).unwrap_or(OVERFLOW_ID))
    };
    Ok(Attributes {
        uid: owner(header.uid())?,
        gid: owner(header.gid())?,
        mode: header.mode().map_err(Broken::Archive)? & MODE_MASK,
        modified_unix: i64::try_from(header.mtime().map_err(Broken::Archive)?).unwrap_or(0),
    })
}

fn writing(operation: &'static str, path: &EntryPath) -> impl FnOnce(io::Error) -> Broken {
    let path = Path::new("/").join(path.as_path());
    move |source| Broken::Write { operation, path, source }
}
