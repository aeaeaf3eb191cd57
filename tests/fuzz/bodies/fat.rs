//! Any disk as a FAT volume, read strictly and leniently; then one file on it is replaced.
//!
//! What is read is as long as its entry says and no longer than the disk. Read strictly, nothing shares a byte with anything
//! else, and reading leniently comes to the same. A volume that was good is good afterwards, with its other files as they
//! were.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use layout::fat::{Entry, Fat, FatError, Reading};

use crate::disk::Disk;

/// Files of a bad volume whose bytes are read: it may have thousands that share one long chain.
const FILES_READ_MAX: usize = 16;
/// What [`Fat::entries`] keeps to.
const ENTRIES_MAX: usize = 4096;
const DEPTH_MAX: usize = 9;
/// The file that is replaced: a new one, and names of files and folders that the corpus has.
const NAMES: [&str; 4] = ["rig.toml", "a.txt", "SUB", "inner file.txt"];

/// An entry, and the sum over its bytes.
type Read = (Entry, u32);

/// Reads and changes the disk that `data` describes.
pub(crate) fn run(data: &[u8]) {
    let Some(disk) = Disk::of(data) else { return };
    let strict = read(&disk, Reading::Strict, usize::MAX);
    let lenient = read(&disk, Reading::Lenient, if strict.is_ok() { usize::MAX } else { FILES_READ_MAX });
    match (&strict, &lenient) {
        (Ok(strict), Ok(lenient)) => assert_eq!(strict, lenient),
        (Ok(_), Err(error)) => panic!("only read strictly it is good: {error}"),
        (Err(error), _) => assert!(!error.to_string().is_empty()),
    }
    for (at, name) in NAMES.iter().enumerate() {
        let new = data.get(..at * 700).unwrap_or(data);
        replace(&disk, name, new, strict.as_deref().ok());
    }
}

/// All that is on the volume, and the sums of the first `most` entries; an error if one of these is damaged.
fn read(disk: &Disk, reading: Reading, most: usize) -> Result<Vec<Read>, FatError> {
    let mut fat = Fat::open(disk.clone(), reading)?;
    let entries = fat.entries()?;
    assert!(entries.len() <= ENTRIES_MAX && entries.is_sorted_by(|one, next| one.path <= next.path));
    let paths: BTreeSet<_> = entries.iter().map(|entry| entry.path.to_lowercase()).collect();
    assert_eq!(paths.len(), entries.len(), "a path is there twice");
    let mut all = Vec::new();
    let mut damage = None;
    for (at, entry) in entries.into_iter().enumerate() {
        assert!(entry.path.starts_with('/') && !(entry.is_folder && entry.bytes > 0), "{entry:?}");
        if reading == Reading::Strict {
            let depth = entry.path.matches('/').count();
            assert!(depth <= DEPTH_MAX && !entry.path.contains("//"), "{entry:?}");
        }
        let sum = if at < most { content(&mut fat, disk, &entry, reading) } else { Ok(0) };
        match sum {
            Ok(sum) => all.push((entry, sum)),
            Err(error) => damage = Some(error),
        }
    }
    match damage {
        Some(damage) => return Err(damage),
        None if reading == Reading::Strict => whole(&mut fat, disk, &all)?,
        None => {}
    }
    Ok(all)
}

/// The sum over what one entry holds.
fn content(fat: &mut Fat<Disk>, disk: &Disk, entry: &Entry, reading: Reading) -> Result<u32, FatError> {
    let bytes = fat.read(entry)?;
    assert_eq!(u32::try_from(bytes.len()), Ok(entry.bytes), "{entry:?}");
    assert!(bytes.len() as u64 <= disk.length(), "{entry:?} is longer than the disk");
    if let Some(name) = entry.path.strip_prefix('/').filter(|name| !name.contains('/') && !entry.is_folder) {
        match fat.read_named(name, u32::MAX) {
            Ok(Some(named)) => {
                assert!(reading == Reading::Lenient || named == bytes, "{entry:?} is another by its name")
            }
            Ok(None) => panic!("{entry:?} is not found by its name"),
            // Leniently another may have the same name, come first, and be damaged.
            Err(error) => assert!(reading == Reading::Lenient, "{entry:?}: {error}"),
        }
    }
    Ok(crc32fast::hash(&bytes))
}

/// Nothing of a good volume lies outside the disk or on something else.
fn whole(fat: &mut Fat<Disk>, disk: &Disk, all: &[Read]) -> Result<(), FatError> {
    let mut places = fat.places(&fat.root())?;
    for (entry, _) in all {
        places.extend(fat.places(entry)?);
    }
    places.sort_unstable();
    assert!(places.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0), "two things share bytes");
    assert!(places.iter().all(|(at, length)| *at >= 512 && at + length <= disk.length()), "something leaves the disk");
    let structure = fat.structure()?;
    assert!(structure.iter().all(|(from, to)| from <= to && *to <= disk.length()), "the structure leaves the disk");
    Ok(())
}

/// Replaces `name` by `new`; `good` is what the volume holds if there is nothing wrong with it.
fn replace(disk: &Disk, name: &str, new: &[u8], good: Option<&[Read]>) {
    let Ok(mut fat) = Fat::open(disk.clone(), Reading::Lenient) else { return };
    let replaced = fat.replace(name, new, UNIX_EPOCH);
    let disk = fat.into_disk();
    if replaced.is_ok() {
        let mut fat = Fat::open(disk.clone(), Reading::Lenient).expect("it was a volume");
        let read = fat.read_named(name, u32::MAX).expect("it was just written");
        assert!(read.as_deref() == Some(new), "{name} is not what was written");
    }
    let Some(before) = good else { return };
    let after = read(&disk, Reading::Strict, usize::MAX);
    let after = after.unwrap_or_else(|error| panic!("replacing {name} broke the volume: {error}"));
    let gone = before.iter().filter(|one| !after.contains(one)).count();
    let come: Vec<_> = after.iter().filter(|one| !before.contains(one)).map(|(_, sum)| *sum).collect();
    match replaced {
        // An empty file in place of an empty one is the same.
        Ok(()) if new.is_empty() && come.is_empty() => assert_eq!(gone, 0),
        Ok(()) => assert!(gone <= 1 && come == [crc32fast::hash(new)], "{name} is not all that was touched"),
        Err(error) => assert!(gone == 0 && come.is_empty(), "something was touched, and {error}"),
    }
}
