//! What is in an image, file by file: an SPDX 2.3 document.
//!
//! Invariants: every regular file of every tree is in it once, and nothing else; where a file came from is found by its
//! content, then by its name, and if neither tells, it is ours; the document is a function of what it describes.
//!
//! A Debian file that the build changed (a module unpacked or stripped, a program stripped) still belongs to its package
//! and carries a comment that says so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use layout::fat::{Entry, Fat, FatError, Reading};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::lock::LockedPackage;

pub use self::crates::{Crate, CratesError, of_workspace};
pub use self::debian::ContentsError;
pub use self::document::{Difference, compare, count};

mod crates;
mod debian;
mod document;
mod licence;

/// An image has some ten thousand files.
const FILES_MAX: usize = 200_000;

/// One file of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The tree's name and the path in it: `root/usr/bin/rig-init`.
    pub path: String,
    /// SPDX still wants it.
    pub sha1: [u8; 20],
    /// What it is known by.
    pub sha256: [u8; 32],
}

/// What a document says besides its files.
#[derive(Debug)]
pub struct About<'a> {
    /// Of the release.
    pub version: &'a str,
    /// `generic` or `nvidia`.
    pub flavour: &'a str,
    /// Unix seconds: the only time in the document.
    pub epoch: u64,
    /// Each package of the image and its .deb.
    pub packages: &'a [(LockedPackage, PathBuf)],
    /// Our programs: the path in the image, such as `root/usr/bin/rig-signer`, and the crate that it is built from.
    pub programs: &'a BTreeMap<String, String>,
    /// What those crates are made of, by crate: see [`of_workspace`].
    pub crates: &'a BTreeMap<String, Vec<Crate>>,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum SbomError {
    /// A file of a tree.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A package.
    #[error("a package's contents are not known")]
    Contents(#[from] ContentsError),
    /// More files than an image has.
    #[error("{} holds more than {FILES_MAX} files", path.display())]
    TooMany {
        /// The tree.
        path: PathBuf,
    },
    /// A name that is no text.
    #[error("{} has a name that is not UTF-8", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
}

/// The document as bytes. Errors: all of [`SbomError`].
pub fn describe(about: &About<'_>, items: &[Item]) -> Result<Vec<u8>, SbomError> {
    let read = |(package, file): &(LockedPackage, PathBuf)| debian::Contents::read(package, file);
    let contents: Vec<_> = about.packages.iter().map(read).collect::<Result<_, _>>()?;
    Ok(document::write(about, &contents, items))
}

/// Every regular file below `folder`, under the name `tree`, sorted. Links and folders are no contents.
pub fn walk(tree: &str, folder: &Path) -> Result<Vec<Item>, SbomError> {
    let mut items = Vec::new();
    let mut open = vec![(tree.to_owned(), folder.to_owned())];
    while let Some((name, path)) = open.pop() {
        let failed = |source| SbomError::Read { path: path.clone(), source };
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            let child = entry.file_name().into_string().map_err(|_| SbomError::Name { path: entry.path() })?;
            let child = format!("{name}/{child}");
            if kind.is_dir() {
                open.push((child, entry.path()));
            } else if kind.is_file() {
                if items.len() == FILES_MAX {
                    return Err(SbomError::TooMany { path: folder.to_owned() });
                }
                let file = File::open(entry.path()).and_then(|mut file| item(child, &mut file));
                items.push(file.map_err(|source| SbomError::Read { path: entry.path(), source })?);
            }
        }
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(items)
}

/// The regular files of an initrd: newc archives, unpacked, one after the other.
pub fn walk_archive(tree: &str, archive: &[u8]) -> Result<Vec<Item>, io::Error> {
    const HEAD: usize = 110;
    const KIND: u32 = 0o170_000;
    const REGULAR: u32 = 0o100_000;
    let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of an entry");
    let mut items = BTreeMap::new();
    let mut rest = archive;
    loop {
        // Between two archives there are zeroes.
        let zeroes = rest.iter().take_while(|byte| **byte == 0).count();
        rest = &rest[zeroes..];
        if rest.is_empty() {
            return Ok(items.into_values().collect());
        }
        let head = rest.get(..HEAD).ok_or_else(short)?;
        if !head.starts_with(b"070701") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no newc archive"));
        }
        let field = |number: usize| {
            let digits = std::str::from_utf8(&head[6 + number * 8..14 + number * 8]).ok()?;
            u32::from_str_radix(digits, 16).ok()
        };
        let field = |number| field(number).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no number"));
        let size = |number| field(number).and_then(|size| usize::try_from(size).map_err(io::Error::other));
        let (mode, file_bytes, name_bytes) = (field(1)?, size(6)?, size(11)?);
        let name = rest.get(HEAD..HEAD + name_bytes).ok_or_else(short)?;
        let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
        let body = (HEAD + name_bytes).next_multiple_of(4);
        let bytes = rest.get(body..body + file_bytes).ok_or_else(short)?;
        if mode & KIND == REGULAR {
            let path = format!("{tree}/{}", name.trim_start_matches("./").trim_start_matches('/'));
            items.insert(path.clone(), item(path, &mut &bytes[..])?);
        }
        rest = rest.get((body + file_bytes).next_multiple_of(4)..).unwrap_or_default();
    }
}

/// The files of the boot partition of a raw image, or of any other FAT behind `disk`. Errors: all of [`FatError`].
pub fn walk_fat(tree: &str, disk: &mut (impl Read + Seek)) -> Result<Vec<Item>, FatError> {
    let mut fat = Fat::open(disk, Reading::Strict)?;
    let files: Vec<_> = fat.entries()?.into_iter().filter(|entry| !entry.is_folder).collect();
    let read = |entry: Entry| {
        let bytes = fat.read(&entry)?;
        item(format!("{tree}{}", entry.path), &mut &bytes[..]).map_err(FatError::Disk)
    };
    files.into_iter().map(read).collect()
}

/// One file under the name `path`.
pub fn item(path: String, reader: &mut impl Read) -> io::Result<Item> {
    let (mut one, mut two) = (Sha1::new(), Sha256::new());
    let mut piece = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(Item { path, sha1: one.finalize().into(), sha256: two.finalize().into() }),
            got => {
                one.update(&piece[..got]);
                two.update(&piece[..got]);
            }
        }
    }
}
