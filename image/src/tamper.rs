//! Flips single bytes of an image and asks the boot's own code what it says.
//!
//! Invariants: the image is only read, a flip exists in a reader alone; an area gets flips only where it has content,
//! because a flip behind its end would say nothing; each flip is refused, or harmless for a reason that is named and was
//! checked, or a finding. The same seed gives the same flips.
//!
//! What judges: for root and tree `layout::verity`, the way from the touched block to the root hash, as the kernel goes it
//! for each block that is read; for a program on the ESP the signature that firmware checks, over what a careless firmware
//! would read after the flip. Without Secure Boot firmware checks nothing; what is left then is the TPM, which measures
//! the same digest and gives a changed program no key. So for an unsigned image the digest is the judge.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use layout::Window;
use layout::fat::{Entry, Fat, FatError, Reading};
use layout::gpt::{GptError, Table};
use layout::parts::ESP_LABEL;
use layout::uki::Uki;
use layout::verity::{BLOCK_BYTES, RootHash, Superblock, VerityError};
use x509_cert::Certificate;

use crate::sign::authenticode;
use crate::verify::chain;

mod root;

const PROGRAM_SUFFIX: &str = ".efi";
const ENTRIES_FOLDER: &str = "/efi/linux/";

/// Where a byte was flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// The root's blocks.
    Root,
    /// The superblock and the tree of hashes.
    Verity,
    /// A kernel image, where it lies on the ESP.
    Uki,
    /// What makes the ESP a file system, where it is in use: first sector, tables, folders.
    EspTables,
    /// Any byte of the ESP.
    Esp,
}

/// What became of a flip.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Refused, and by what.
    Refused(&'static str),
    /// Without effect on what runs, and why.
    Harmless(&'static str),
    /// Changed code would run: what, and why it was taken.
    Accepted(String),
}

/// How often each came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// By area and verdict.
    pub counts: BTreeMap<(Area, Verdict), u64>,
}

/// An image to flip bytes of.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    esp: Range<u64>,
    root: root::Root,
    /// Where kernel images lie on the ESP, and what it has besides.
    ukis: Vec<Range<u64>>,
    tables: Vec<Range<u64>>,
    /// Programs by lower-case path, as they should be.
    programs: BTreeMap<String, [u8; 32]>,
    database: Option<Certificate>,
}

/// Why an image cannot be tried.
#[derive(Debug, thiserror::Error)]
pub enum TamperError {
    /// The file.
    #[error("{} cannot be read", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// Its table.
    #[error("{} has no partition table", .0.display())]
    Table(PathBuf, #[source] GptError),
    /// Not a rig's.
    #[error("{0} is not on the image")]
    Missing(&'static str),
    /// The ESP is damaged before anything was flipped.
    #[error("the ESP cannot be read")]
    Esp(#[source] FatError),
    /// A program on the ESP is damaged before anything was flipped.
    #[error("{0} is no program that firmware would start: {1}")]
    Program(String, String),
    /// The root is damaged before anything was flipped.
    #[error("the root does not fit its tree")]
    Verity(#[source] VerityError),
}

/// A reader in which one byte is another.
#[derive(Debug)]
pub(crate) struct Flipped<'a> {
    file: &'a File,
    at: u64,
    flip: Flip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flip {
    pub(crate) at: u64,
    pub(crate) mask: u8,
}

// === impl Image ===

impl Image {
    /// Opens the raw image at `path`. With `database`, programs are judged by its signature. Errors: all.
    pub fn open(path: &Path, database: Option<Certificate>) -> Result<Image, TamperError> {
        let read = |source| TamperError::Read(path.to_owned(), source);
        let mut file = File::open(path).map_err(read)?;
        let table = Table::read(&mut file).map_err(|source| TamperError::Table(path.to_owned(), source))?;
        let esp = table.by_name(ESP_LABEL).ok_or(TamperError::Missing("the ESP"))?;
        let esp = esp.offset(&table)..esp.offset(&table) + esp.bytes(&table);
        let mut window = Window::new(&file, esp.start, esp.end - esp.start);
        let mut fat = Fat::open(&mut window, Reading::Strict).map_err(TamperError::Esp)?;
        let entries = fat.entries().map_err(TamperError::Esp)?;
        let shift =
            |places: Vec<(u64, u64)>| places.into_iter().map(|(at, bytes)| esp.start + at..esp.start + at + bytes);
        let (mut ukis, mut programs, mut roots) = (Vec::new(), BTreeMap::new(), Vec::new());
        let structure = fat.structure().map_err(TamperError::Esp)?;
        let tables = structure.into_iter().map(|(from, to)| esp.start + from..esp.start + to).collect();
        for entry in entries.iter().filter(|entry| is_program(entry)) {
            let bytes = fat.read(entry).map_err(TamperError::Esp)?;
            let refused = |words| TamperError::Program(entry.path.clone(), words);
            let program = Uki::read(&bytes).map_err(|error| refused(chain(&error)))?;
            if let Some(database) = &database {
                authenticode::verify(&bytes, database).map_err(|error| refused(chain(&error)))?;
            }
            programs.insert(entry.path.to_lowercase(), program.authenticode());
            if entry.path.to_lowercase().starts_with(ENTRIES_FOLDER) {
                ukis.extend(content(shift(fat.places(entry).map_err(TamperError::Esp)?).collect(), bytes.len()));
                roots.extend(program.root_hash());
            }
        }
        let hash: &RootHash = roots.first().ok_or(TamperError::Missing("a kernel image that names its root"))?;
        let root = root::Root::open(&file, &table, *hash)?;
        Ok(Image { path: path.to_owned(), file, esp, root, ukis, tables, programs, database })
    }

    /// Flips `count` bytes, one at a time and each area in turn; `seed` decides which. `progress` gets how many are done.
    /// Errors: the image could not be read.
    pub fn try_flips(&self, seed: u64, count: u64, progress: &mut dyn FnMut(u64)) -> Result<Tally, TamperError> {
        const AREAS: [Area; 5] = [Area::Root, Area::Verity, Area::Uki, Area::EspTables, Area::Esp];
        let mut random = Random(seed);
        let mut tally = Tally::default();
        for (done, area) in (0..count).zip(AREAS.into_iter().cycle()) {
            let flip = self.flip(area, &mut random);
            let verdict = self.verdict(area, flip)?;
            *tally.counts.entry((area, verdict)).or_default() += 1;
            progress(done + 1);
        }
        Ok(tally)
    }

    fn flip(&self, area: Area, random: &mut Random) -> Flip {
        let at = match area {
            Area::Root => random.within(&[self.root.data()]),
            Area::Verity => random.within(&[self.root.tree()]),
            Area::Uki => random.within(&self.ukis),
            Area::EspTables => random.within(&self.tables),
            Area::Esp => random.within(std::slice::from_ref(&self.esp)),
        };
        // A mask that is not 0, and half of the time a single bit, as a bad cell flips.
        let bits = random.next();
        let one = 1 << (bits >> 8 & 7);
        let mask = if bits & 1 == 0 { one } else { (bits >> 16 & 0xff).max(1) };
        Flip { at, mask: u8::try_from(mask).unwrap_or(1) }
    }

    fn verdict(&self, area: Area, flip: Flip) -> Result<Verdict, TamperError> {
        match area {
            Area::Root | Area::Verity => Ok(self.root.verdict(&self.file, flip)),
            Area::Uki | Area::EspTables | Area::Esp => {
                self.programs(flip).map_err(|source| TamperError::Read(self.path.clone(), source))
            }
        }
    }

    /// What a firmware would find on the ESP after `flip`.
    fn programs(&self, flip: Flip) -> io::Result<Verdict> {
        let mut window =
            Window::new(Flipped { file: &self.file, at: 0, flip }, self.esp.start, self.esp.end - self.esp.start);
        let opened =
            Fat::open(&mut window, Reading::Lenient).and_then(|mut fat| fat.entries().map(|found| (fat, found)));
        let (mut fat, entries) = match opened {
            Ok(opened) => opened,
            Err(FatError::Disk(error)) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            Err(_) => return Ok(Verdict::Refused("firmware finds no file system")),
        };
        let (mut intact, mut refused) = (0, None);
        // Firmware takes a file for a program because it is asked to, not for its name: so all are looked at.
        for entry in entries.iter().filter(|entry| !entry.is_folder) {
            let expected = self.programs.get(&entry.path.to_lowercase());
            let Ok(bytes) = fat.read(entry) else {
                refused = Some("a file's clusters cannot be followed");
                continue;
            };
            match (self.judge(&bytes), expected) {
                (Ok(digest), Some(expected)) if digest == *expected => intact += 1,
                (Ok(digest), _) if self.programs.values().any(|ours| *ours == digest) => {
                    refused = Some("a program of ours goes by another name");
                }
                (Ok(_), _) => return Ok(Verdict::Accepted(format!("{} with a flip at {}", entry.path, flip.at))),
                (Err(by), Some(_)) => refused = Some(by),
                (Err(_), None) => {}
            }
        }
        Ok(match (refused, intact == self.programs.len()) {
            (Some(by), _) => Verdict::Refused(by),
            (None, false) => Verdict::Refused("a program's file is not found"),
            (None, true) => Verdict::Harmless(self.reason(flip)),
        })
    }

    /// The digest of a program that would be started. Errors: what refuses it.
    fn judge(&self, bytes: &[u8]) -> Result<[u8; 32], &'static str> {
        let program = Uki::read(bytes).map_err(|_| "not a program")?;
        let digest = program.authenticode();
        match &self.database {
            Some(database) => match authenticode::verify(bytes, database) {
                Ok(()) => Ok(digest),
                Err(_) => Err("the signature does not hold"),
            },
            None if self.programs.values().any(|ours| *ours == digest) => Ok(digest),
            None => Err("the measured digest differs, and the TPM gives no key"),
        }
    }

    /// Why no program changed.
    fn reason(&self, flip: Flip) -> &'static str {
        let within = |ranges: &[Range<u64>]| ranges.iter().any(|range| range.contains(&flip.at));
        if within(&self.ukis) {
            "a kernel image's checksum, or what its signature block has besides the signature"
        } else if within(&self.tables) {
            "a time, a label, an unused entry, the second table: the programs read the same"
        } else {
            "no program lies there: free space, settings of the loader, or a signature's padding"
        }
    }
}

fn is_program(entry: &Entry) -> bool {
    !entry.is_folder && entry.path.to_lowercase().ends_with(PROGRAM_SUFFIX)
}

/// The places of a file without what its last cluster has behind the file's end.
fn content(places: Vec<Range<u64>>, bytes: usize) -> Vec<Range<u64>> {
    let mut left = u64::try_from(bytes).unwrap_or(u64::MAX);
    let mut cut = Vec::new();
    for place in places {
        let length = left.min(place.end - place.start);
        left -= length;
        cut.push(place.start..place.start + length);
    }
    cut
}

// === impl Tally ===

impl Tally {
    /// The flips with which changed code would run.
    pub fn accepted(&self) -> Vec<&Verdict> {
        let accepted = |(_, verdict): &&(Area, Verdict)| matches!(verdict, Verdict::Accepted(_));
        self.counts.keys().filter(accepted).map(|(_, verdict)| verdict).collect()
    }

    /// A line for each area and verdict.
    pub fn table(&self) -> String {
        let line = |((area, verdict), count): (&(Area, Verdict), &u64)| {
            let (word, why) = match verdict {
                Verdict::Refused(by) => ("refused", *by),
                Verdict::Harmless(why) => ("harmless", *why),
                Verdict::Accepted(what) => ("ACCEPTED", what.as_str()),
            };
            format!("{:10} {word:9} {count:6}  {why}\n", format!("{area:?}"))
        };
        self.counts.iter().map(line).collect()
    }
}

// === impl Flipped ===

impl<'a> Flipped<'a> {
    pub(crate) fn new(file: &'a File, flip: Flip) -> Flipped<'a> {
        Flipped { file, at: 0, flip }
    }
}

impl Read for Flipped<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let got = std::os::unix::fs::FileExt::read_at(self.file, bytes, self.at)?;
        let place = self.flip.at.checked_sub(self.at).and_then(|place| usize::try_from(place).ok());
        if let Some(byte) = place.filter(|place| *place < got).and_then(|place| bytes.get_mut(place)) {
            *byte ^= self.flip.mask;
        }
        self.at += u64::try_from(got).map_err(io::Error::other)?;
        Ok(got)
    }
}

impl Seek for Flipped<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let beyond = || io::Error::new(io::ErrorKind::InvalidInput, "a place outside the file");
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => self.at.checked_add_signed(by).ok_or_else(beyond)?,
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by).ok_or_else(beyond)?,
        };
        Ok(self.at)
    }
}

// === Random ===

/// SplitMix64: good enough to choose places, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A place in one of `ranges`, which hold something.
    fn within(&mut self, ranges: &[Range<u64>]) -> u64 {
        let all: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let mut place = self.next() % all.max(1);
        for range in ranges {
            match place.checked_sub(range.end - range.start) {
                Some(left) => place = left,
                None => return range.start + place,
            }
        }
        0
    }
}

/// The superblock and the whole tree, from the tree partition's start.
pub(crate) fn tree_bytes(superblock: &Superblock) -> u64 {
    superblock.tree_bytes()
}

/// The root's bytes, from its partition's start.
pub(crate) fn data_bytes(superblock: &Superblock) -> u64 {
    superblock.data_blocks() * BLOCK_BYTES
}
