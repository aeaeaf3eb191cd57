//! A FAT volume: its files and folders read, where they lie, and one file replaced in one step.
//!
//! For the boot partition, of which a release's proof wants to know what a firmware would load, and for the partition that
//! the owner's computer shows, on which `rig.toml` is written.
//!
//! Invariants: FAT16 and FAT32, told apart as firmware and kernel do; every number of the volume is bounded before it is
//! used; a chain that runs in a circle or out of the volume is an error. Read strictly, both copies of the table must
//! agree, no two files share a cluster, and two names that differ only by case are one name and refused, because a firmware
//! might take either. Read leniently, it does what a careless firmware does: the first table and the first name win.
//! Only [`Fat::replace`] writes. A crate would do for reading; none can do both, and none replaces a file safely.
//! Source: Microsoft, FAT32 File System Specification 1.03.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read, Seek, SeekFrom};

mod folder;
mod geometry;
mod made;
mod replace;
mod stamp;

use self::folder::Slot;
use self::geometry::Geometry;

/// More files and folders than any volume of ours has.
const ENTRIES_MAX: usize = 4096;
const DEPTH_MAX: usize = 8;
/// Two kernel images and a loader are below this, each.
const FILE_BYTES_MAX: u32 = 512 << 20;
/// What Windows allows a folder to have.
const FOLDER_BYTES_MAX: usize = 2 << 20;
/// The first cluster that holds data.
const FIRST_CLUSTER: u32 = 2;

/// A FAT volume on `disk`, which begins with the volume's first sector.
#[derive(Debug)]
pub struct Fat<D> {
    disk: D,
    reading: Reading,
    geometry: Geometry,
    /// What follows each cluster, as the first table says.
    next: Vec<u32>,
}

/// What to do about contradictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Refuse them.
    Strict,
    /// Overlook them, as a careless firmware does, and as one must who writes to a stick that was once pulled out.
    Lenient,
}

/// A file or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// With a slash in front and between.
    pub path: String,
    /// Of the file; 0 for a folder.
    pub bytes: u32,
    /// Whether it is a folder.
    pub is_folder: bool,
    start: Start,
}

/// Where the content of an entry begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// The root folder of FAT16, which has a place of its own before the clusters.
    RootArea,
    Cluster(u32),
}

/// A folder as it is read: its bytes, and where on the volume each stretch of them lies.
#[derive(Debug)]
struct Folder {
    bytes: Vec<u8>,
    stretches: Vec<(u64, usize)>,
}

/// How following a chain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// At its last cluster.
    Reached,
    /// At as many clusters as were asked for, and there are more.
    Beyond,
}

/// Why a volume, or a file on it, is refused.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// The disk.
    #[error("read or write the FAT volume")]
    Disk(#[from] io::Error),
    /// The first sector, or the tables.
    #[error("not a FAT16 or FAT32 volume: {0}")]
    Volume(&'static str),
    /// A folder's entries, or a chain of clusters.
    #[error("{path} on the FAT volume is damaged: {what}")]
    Damaged {
        /// Which file or folder.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Too much of something.
    #[error("the FAT volume has more than {ENTRIES_MAX} files, or is more than {DEPTH_MAX} folders deep")]
    TooMany,
    /// A file is longer than its reader wants.
    #[error("`{name}` on the FAT volume has {bytes} bytes, at most {max} are read")]
    Long {
        /// Which file.
        name: String,
        /// What it has.
        bytes: u32,
        /// What was asked for.
        max: u32,
    },
    /// No clusters are left, or no entries.
    #[error("the FAT volume is full: delete what does not belong on it")]
    Full,
    /// A file that is to be written, and a folder is called that.
    #[error("`{0}` on the FAT volume is a folder: rename or delete it")]
    Folder(String),
    /// A file that is to be written.
    #[error("`{0}` is no name for a file on a FAT volume: use 1 to 255 letters, digits and dots")]
    Name(String),
}

// === impl Fat ===

impl<D: Read + Seek> Fat<D> {
    /// Reads the first sector and the table. Errors: `Disk`, `Volume`.
    pub fn open(mut disk: D, reading: Reading) -> Result<Fat<D>, FatError> {
        let mut sector = [0; 512];
        disk.seek(SeekFrom::Start(0))?;
        disk.read_exact(&mut sector)?;
        let geometry = Geometry::read(&sector).map_err(FatError::Volume)?;
        let mut fat = Fat { disk, reading, geometry, next: Vec::new() };
        fat.next = fat.table(0)?;
        if reading == Reading::Strict {
            fat.check_end()?;
            if fat.geometry.tables == 2 && fat.table(1)? != fat.next {
                return Err(FatError::Volume("its two tables disagree"));
            }
        }
        Ok(fat)
    }

    /// The disk.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// Every file and folder, sorted by path. Errors: `Disk`, `Damaged`, `TooMany`.
    pub fn entries(&mut self) -> Result<Vec<Entry>, FatError> {
        let (mut found, mut open) = (Vec::new(), vec![(Entry { path: String::new(), ..self.root() }, 0)]);
        let mut names = BTreeSet::new();
        let mut used = BTreeSet::new();
        while let Some((folder, depth)) = open.pop() {
            if depth > DEPTH_MAX {
                return Err(FatError::TooMany);
            }
            self.claim(&mut used, &folder)?;
            for slot in self.slots(&folder)?.1 {
                let entry = slot.entry(&folder.path);
                if found.len() == ENTRIES_MAX {
                    return Err(FatError::TooMany);
                }
                // Read strictly, no folder has a name twice.
                if !names.insert(entry.path.to_lowercase()) {
                    continue;
                }
                if entry.is_folder {
                    open.push((entry.clone(), depth + 1));
                } else if self.reading == Reading::Strict {
                    self.claim(&mut used, &entry)?;
                }
                found.push(entry);
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// What `file` holds. Errors: `Disk`, `Damaged`.
    pub fn read(&mut self, file: &Entry) -> Result<Vec<u8>, FatError> {
        let stretches = self.stretches(file)?;
        let mut bytes = self.read_stretches(&stretches)?;
        bytes.truncate(usize::try_from(file.bytes).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    /// The bytes of the file `name` in the root folder; `None`: there is none. Capitals do not matter, and a file is found
    /// by its short name too. Errors: `Disk`, `Damaged`, `Long`.
    pub fn read_named(&mut self, name: &str, bytes_max: u32) -> Result<Option<Vec<u8>>, FatError> {
        let (_, slots) = self.slots(&self.root())?;
        let Some(file) = slots.into_iter().find(|slot| slot.is_file(name)) else { return Ok(None) };
        if file.bytes > bytes_max {
            return Err(FatError::Long { name: name.to_owned(), bytes: file.bytes, max: bytes_max });
        }
        self.read(&file.entry("")).map(Some)
    }

    /// Where on the volume `entry` lies, in bytes: start and length of each cluster. Errors: `Damaged`.
    pub fn places(&self, entry: &Entry) -> Result<Vec<(u64, u64)>, FatError> {
        let places = self.stretches(entry)?.into_iter();
        Ok(places.map(|(at, length)| (at, u64::try_from(length).unwrap_or(u64::MAX))).collect())
    }

    /// The folder that all others are in.
    pub fn root(&self) -> Entry {
        Entry { path: "/".to_owned(), bytes: 0, is_folder: true, start: self.geometry.root }
    }

    /// What makes it a file system, where it is in use: the first sector, the table's entries of every file and folder in
    /// each copy, and the folders up to their last entry. Start and end of each, in bytes. Errors: `Disk`, `Damaged`.
    pub fn structure(&mut self) -> Result<Vec<(u64, u64)>, FatError> {
        const FIRST_SECTOR: (u64, u64) = (0, 512);
        let mut entries = self.entries()?;
        entries.push(self.root());
        let mut ranges = vec![FIRST_SECTOR];
        for entry in &entries {
            let clusters = self.chain(entry)?;
            for run in clusters.chunk_by(|a, b| a + 1 == *b) {
                for copy in 0..self.geometry.tables {
                    let table = self.geometry.table(copy);
                    let end = run[run.len() - 1] + 1;
                    ranges.push((table + self.geometry.width.offset(run[0]), table + self.geometry.width.offset(end)));
                }
            }
            if entry.is_folder {
                let folder = self.folder(entry)?;
                let mut left = folder.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                for (at, bytes) in folder.stretches {
                    let length = left.min(bytes);
                    ranges.push((at, at + u64::try_from(length).unwrap_or(0)));
                    left -= length;
                }
            }
        }
        Ok(ranges)
    }

    /// The entries of a folder, and its bytes.
    fn slots(&mut self, entry: &Entry) -> Result<(Folder, Vec<Slot>), FatError> {
        let folder = self.folder(entry)?;
        let slots = folder::slots(&folder.bytes, self.geometry.width, self.reading);
        let path = if entry.path.is_empty() { "/" } else { &entry.path };
        let slots = slots.map_err(|what| FatError::Damaged { path: path.to_owned(), what })?;
        Ok((folder, slots))
    }

    fn folder(&mut self, entry: &Entry) -> Result<Folder, FatError> {
        let stretches = self.stretches(entry)?;
        Ok(Folder { bytes: self.read_stretches(&stretches)?, stretches })
    }

    /// Where the content of an entry lies.
    fn stretches(&self, entry: &Entry) -> Result<Vec<(u64, usize)>, FatError> {
        match entry.start {
            Start::RootArea => Ok(vec![(self.geometry.root_area(), self.geometry.root_area_bytes())]),
            Start::Cluster(_) => {
                let clusters = self.chain(entry)?;
                Ok(clusters.iter().map(|it| (self.geometry.cluster(*it), self.geometry.cluster_bytes())).collect())
            }
        }
    }

    /// The clusters of an entry, as many as its size needs.
    fn chain(&self, entry: &Entry) -> Result<Vec<u32>, FatError> {
        let Start::Cluster(first) = entry.start else { return Ok(Vec::new()) };
        let size = usize::try_from(entry.bytes).unwrap_or(usize::MAX);
        let needed = size.div_ceil(self.geometry.cluster_bytes());
        let is_strict = self.reading == Reading::Strict;
        if !entry.is_folder && needed == 0 {
            return match (first, is_strict) {
                (0, _) | (_, false) => Ok(Vec::new()),
                (_, true) => Err(entry.damaged("it is empty and has clusters")),
            };
        }
        if entry.bytes > FILE_BYTES_MAX {
            return Err(entry.damaged("it is larger than any file of ours"));
        }
        let most = if entry.is_folder { FOLDER_BYTES_MAX / self.geometry.cluster_bytes() } else { needed };
        let (clusters, end) = self.follow(first, most).map_err(|what| entry.damaged(what))?;
        match (entry.is_folder, clusters.len() == needed, end) {
            (true, _, End::Reached) | (false, true, End::Reached) => Ok(clusters),
            (false, true, End::Beyond) if !is_strict && has_twice(&clusters) => {
                Err(entry.damaged("its chain of clusters runs in a circle"))
            }
            (false, true, End::Beyond) if !is_strict => Ok(clusters),
            (true, _, End::Beyond) => Err(entry.damaged("it is longer than any folder, or its chain runs in a circle")),
            (false, _, End::Beyond) => Err(entry.damaged("its chain of clusters is longer than its size")),
            (false, false, End::Reached) => Err(entry.damaged("its chain of clusters is shorter than its size")),
        }
    }

    /// The clusters from `first` on, `most` at most.
    fn follow(&self, first: u32, most: usize) -> Result<(Vec<u32>, End), &'static str> {
        let mut clusters = Vec::new();
        let mut at = first;
        while !self.geometry.width.is_end(at) {
            if clusters.len() == most {
                return Ok((clusters, End::Beyond));
            }
            let next = usize::try_from(at).ok().filter(|_| at >= FIRST_CLUSTER).and_then(|at| self.next.get(at));
            let Some(next) = next else {
                return Err(match at {
                    0 => "its chain of clusters leads to a free one",
                    _ => "its chain of clusters leaves the volume",
                });
            };
            clusters.push(at);
            at = *next;
        }
        Ok((clusters, End::Reached))
    }

    /// A cluster belongs to one file.
    fn claim(&self, used: &mut BTreeSet<u32>, entry: &Entry) -> Result<(), FatError> {
        let is_alone = self.chain(entry)?.iter().all(|cluster| used.insert(*cluster));
        match is_alone || self.reading == Reading::Lenient {
            true => Ok(()),
            false => Err(entry.damaged("it shares clusters with another file")),
        }
    }

    fn read_stretches(&mut self, stretches: &[(u64, usize)]) -> Result<Vec<u8>, FatError> {
        let mut bytes = vec![0; stretches.iter().map(|(_, length)| length).sum()];
        let mut rest = &mut bytes[..];
        let is_next = |a: &(u64, usize), b: &(u64, usize)| u64::try_from(a.1).is_ok_and(|length| a.0 + length == b.0);
        // What lies together is read at once.
        for run in stretches.chunk_by(is_next) {
            let (piece, behind) = rest.split_at_mut(run.iter().map(|(_, length)| length).sum());
            self.disk.seek(SeekFrom::Start(run[0].0))?;
            self.disk.read_exact(piece)?;
            rest = behind;
        }
        Ok(bytes)
    }

    fn table(&mut self, copy: u64) -> Result<Vec<u32>, FatError> {
        let mut bytes = vec![0; self.geometry.table_bytes_used()];
        self.disk.seek(SeekFrom::Start(self.geometry.table(copy)))?;
        self.disk.read_exact(&mut bytes)?;
        Ok(self.geometry.width.parse(&bytes))
    }

    fn check_end(&mut self) -> Result<(), FatError> {
        match self.geometry.end() <= self.disk.seek(SeekFrom::End(0))? {
            true => Ok(()),
            false => Err(FatError::Volume("it is larger than its partition")),
        }
    }
}

/// Whether a chain came to a cluster again; one that does never ends.
fn has_twice(clusters: &[u32]) -> bool {
    let mut seen = HashSet::new();
    !clusters.iter().all(|cluster| seen.insert(*cluster))
}

// === impl Entry ===

impl Entry {
    fn damaged(&self, what: &'static str) -> FatError {
        FatError::Damaged { path: if self.path.is_empty() { "/".to_owned() } else { self.path.clone() }, what }
    }
}

#[cfg(test)]
mod tests;
