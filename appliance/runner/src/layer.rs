//! Unpacks one layer of an image into an empty directory, in the form in which overlayfs stacks it.
//!
//! What a layer hides of those below it stays in the tree as overlayfs writes it down: a character device 0:0 in
//! the place of a hidden name, the attribute `user.overlay.opaque` on a directory of which nothing below shows,
//! and `user.overlay.origin` on a directory with hidden names, so that they are not listed even where nothing is below.
//! So a layer is unpacked without knowing what it will lie on, once, whoever uses it.
//!
//! Invariants: nothing that is read is trusted; whatever is made lies below the given directory, at most
//! 256 directories deep; no set-uid or set-gid bit, no extended attribute and no device of the archive survives;
//! every count has a bound.
//!
//! Two things differ from an unpacking over the layers below. A directory that the archive implies but does not
//! hold is root's, mode 0755, and so it shows, whatever a lower layer made of it. And a hard link reaches only
//! files of its own layer. Container engines that store layers apart do the same.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use tar::{Archive, Entry, EntryType};

mod entry_path;
mod meter;
mod tree;

use entry_path::{EntryPath, Meaning};
use meter::{Counted, Metered};
use tree::{Attributes, Tree, Trouble};

/// The most layers of one image.
pub const LAYERS_MAX: usize = 128;

/// The most entries of one image, all layers together: what tar holds, and the directories that it implies.
pub const ENTRIES_MAX: u64 = 500_000;

/// How many times larger than its blob a layer may be, beyond its first [`RATIO_FREE_BYTES`].
/// Deflate cannot exceed 1032; real layers stay below 20.
pub const RATIO_MAX: u64 = 200;

/// What a layer may unpack to before its ratio counts: a small layer of zeroes harms nobody.
pub const RATIO_FREE_BYTES: u64 = 64 << 20;

/// How many user ids, and group ids, an image may speak of: 0 to 65535.
pub const IDS: u32 = 65_536;

/// Permission bits and the sticky bit; set-uid and set-gid never leave the archive.
const MODE_MASK: u32 = 0o1777;

/// Who owns what an id beyond [`IDS`] owns in the archive: the kernel's own choice for ids that do not fit.
/// Images built on a company's network do have such ids, and work with them.
const OVERFLOW_ID: u32 = 65_534;

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// A plain tar.
    None,
    /// One or more members of gzip.
    Gzip,
    /// One or more frames of zstd.
    Zstd,
}

/// What one layer may take: the rest of what its image is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Bytes of uncompressed tar, and of file content.
    pub bytes: u64,
    /// See [`ENTRIES_MAX`].
    pub entries: u64,
}

/// A layer that has been unpacked whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// SHA-256 of the uncompressed tar, 64 hexadecimal digits. The caller compares: by now the files are
    /// written, but nobody has seen them.
    pub diff_id: String,
    /// Bytes of uncompressed tar.
    pub stream_bytes: u64,
    /// Bytes of file content.
    pub file_bytes: u64,
    /// See [`ENTRIES_MAX`].
    pub entries: u64,
}

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// More than [`Bounds::bytes`].
    #[error("more bytes when uncompressed than its image may have")]
    TooManyBytes,
    /// More than [`Bounds::entries`].
    #[error("more than the {ENTRIES_MAX} entries that its image may have")]
    TooManyEntries,
    /// See [`RATIO_MAX`].
    #[error("expands more than {RATIO_MAX} times")]
    TooDense,
    /// It is no tar, or not packed as it says.
    #[error("the archive cannot be read")]
    Archive(#[source] io::Error),
    /// An entry asks for what no entry gets.
    #[error("entry {path:?} has {reason}")]
    Entry {
        /// As the archive spells it.
        path: PathBuf,
        /// Completes "it has".
        reason: &'static str,
    },
    /// The kernel did not make what an entry describes.
    #[error("{operation} {path:?}")]
    Write {
        /// A verb.
        operation: &'static str,
        /// Inside the image.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Unpacks the layer that `blob` yields into the empty directory `root`.
///
/// # Errors
/// The first [`Broken`]; what had been made until then is left.
pub fn apply(compression: Compression, blob: impl Read, bounds: Bounds, root: OwnedFd) -> Result<Applied, Broken> {
    let (counted, packed_bytes) = Counted::new(io::BufReader::new(blob));
    let tar: Box<dyn Read + '_> = match compression {
        Compression::None => Box::new(counted),
        Compression::Gzip => Box::new(MultiGzDecoder::new(counted)),
        Compression::Zstd => Box::new(zstd::Decoder::new(counted).map_err(Broken::Archive)?),
    };
    let mut metered = Metered::new(tar, packed_bytes.clone(), bounds.bytes);
    let tree = Tree::new(root, bounds.entries);
    let tree = tree.map_err(|source| Broken::Write { operation: "open", path: PathBuf::from("/"), source })?;
    let mut applying = Applying { tree, bounds, packed_bytes, file_bytes: 0 };
    let read = applying.entries(&mut metered);
    // A tar may be followed by padding, which counts for the hash and for the bounds.
    let read = read.and_then(|()| io::copy(&mut metered, &mut io::sink()).map(drop).map_err(Broken::Archive));
    match read {
        Err(Broken::Archive(error)) => return Err(metered.blame(error)),
        Err(Broken::Write { operation, path, source }) => {
            return Err(match metered.blame(source) {
                Broken::Archive(source) => Broken::Write { operation, path, source },
                bound => bound,
            });
        }
        other => other?,
    }
    applying.tree.set_times().map_err(blame("set the times of", Path::new("")))?;
    let (diff_id, stream_bytes) = metered.finish();
    Ok(Applied { diff_id, stream_bytes, file_bytes: applying.file_bytes, entries: applying.tree.entries() })
}

/// A layer on its way into a tree.
struct Applying {
    tree: Tree,
    bounds: Bounds,
    packed_bytes: std::rc::Rc<std::cell::Cell<u64>>,
    file_bytes: u64,
}

// === impl Applied ===

impl Applied {
    /// Whether it counts no more than it may; one that was sent by somebody else might.
    #[must_use]
    pub fn is_within(&self, bounds: Bounds) -> bool {
        self.stream_bytes <= bounds.bytes && self.file_bytes <= bounds.bytes && self.entries <= bounds.entries
    }
}

// === impl Applying ===

impl Applying {
    fn entries(&mut self, metered: &mut Metered<'_>) -> Result<(), Broken> {
        let mut archive = Archive::new(metered);
        for entry in archive.entries().map_err(Broken::Archive)? {
            let mut entry = entry.map_err(Broken::Archive)?;
            self.tree.count_entry().map_err(blame("count", Path::new("")))?;
            match Meaning::parse(&entry.path_bytes())? {
                Meaning::Plain(path) => self.entry(&mut entry, &path)?,
                Meaning::Whiteout(path) => self.tree.hide(&path).map_err(blame("hide", path.as_path()))?,
                Meaning::Opaque(path) => {
                    self.tree.hide_below(&path).map_err(blame("hide what is in", path.as_path()))?;
                }
            }
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &EntryPath) -> Result<(), Broken> {
        let kind = entry.header().entry_type();
        let known = kind.is_dir() || is_file(kind) || kind.is_symlink() || kind.is_hard_link();
        if !known || (path.is_root() && !kind.is_dir()) {
            // Devices, FIFOs and whatever else: a jail has a /dev of its own, and nothing to say to the rest.
            return Ok(());
        }
        let attributes = attributes(entry)?;
        match kind {
            EntryType::Directory => {
                self.tree.directory(path, attributes).map_err(blame("make directory", path.as_path()))
            }
            EntryType::Symlink => {
                let target = link_name(entry, path)?;
                self.tree.symlink(path, attributes, &target).map_err(blame("link", path.as_path()))
            }
            EntryType::Link => {
                let target = EntryPath::parse(link_name(entry, path)?.as_os_str().as_bytes())?;
                self.tree.hard_link(path, &target).map_err(blame("hard link", path.as_path()))
            }
            _ => {
                self.admit(entry.size(), kind)?;
                self.file_bytes += self.tree.file(path, attributes, entry).map_err(blame("write", path.as_path()))?;
                Ok(())
            }
        }
    }

    /// Bounds a file by its length. What is in the stream is bounded there as well; the holes of a sparse file
    /// are not in it.
    fn admit(&self, bytes: u64, kind: EntryType) -> Result<(), Broken> {
        let total = self.file_bytes.saturating_add(bytes);
        if total > self.bounds.bytes {
            return Err(Broken::TooManyBytes);
        }
        let dense = kind.is_gnu_sparse() && total > meter::allowed(self.packed_bytes.get());
        if dense { Err(Broken::TooDense) } else { Ok(()) }
    }
}

fn is_file(kind: EntryType) -> bool {
    kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse()
}

fn link_name<R: Read>(entry: &Entry<'_, R>, path: &EntryPath) -> Result<PathBuf, Broken> {
    match entry.link_name().map_err(Broken::Archive)? {
        Some(target) if !target.as_os_str().is_empty() => Ok(target.into_owned()),
        _ => Err(Broken::Entry { path: path.as_path().to_owned(), reason: "no link target" }),
    }
}

fn attributes<R: Read>(entry: &Entry<'_, R>) -> Result<Attributes, Broken> {
    let header = entry.header();
    let owner = |id: io::Result<u64>| {
        let id = id.map_err(Broken::Archive)?;
        Ok(u32::try_from(id).ok().filter(|id| *id < IDS).unwrap_or(OVERFLOW_ID))
    };
    Ok(Attributes {
        uid: owner(header.uid())?,
        gid: owner(header.gid())?,
        mode: header.mode().map_err(Broken::Archive)? & MODE_MASK,
        modified_unix: i64::try_from(header.mtime().map_err(Broken::Archive)?).unwrap_or(0),
    })
}

fn blame(operation: &'static str, path: &Path) -> impl FnOnce(Trouble) -> Broken {
    let path = path.to_owned();
    move |trouble| match trouble {
        Trouble::Kernel(source) => Broken::Write { operation, path: Path::new("/").join(path), source },
        Trouble::Refused(reason) => Broken::Entry { path, reason },
        Trouble::TooManyEntries => Broken::TooManyEntries,
    }
}
