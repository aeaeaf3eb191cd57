//! One file of the root folder is replaced in one step.
//!
//! ```text
//! new clusters <- bytes │ their chain in every table │ the entry points to them │ the old chain is freed
//!                       flush                        flush    (one sector)      flush
//! ```
//!
//! Cut anywhere, the entry names either the whole old file or the whole new one; at worst some clusters belong to no file.
//! That is why this is no general FAT library: those free the old chain first, and a stick that is pulled out then has no
//! settings at all.
//!
//! Invariant: no other file is touched, and nothing is written that is not within the partition.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::SystemTime;

use super::folder::{ENTRY_BYTES, Slot};
use super::stamp::Stamp;
use super::{End, Fat, FatError, Folder, made};

/// What a long name has at most.
const NAME_BYTES_MAX: usize = 255;
/// How the sector with the count of free clusters begins, and where in it the count is.
const INFO: ([u8; 4], u64) = (*b"RRaA", 488);

// === impl Fat ===

impl<D: Read + Write + Seek> Fat<D> {
    /// Makes `bytes` the content of the file `name` in the root folder, written at `time`; the file is made if there is
    /// none. Errors: `Disk`, `Volume`, `Damaged`, `Full`, `Folder`, `Name`.
    pub fn replace(&mut self, name: &str, bytes: &[u8], time: SystemTime) -> Result<(), FatError> {
        let is_sign = |sign: u8| sign.is_ascii_alphanumeric() || b"._- ".contains(&sign);
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_sign) {
            return Err(FatError::Name(name.to_owned()));
        }
        self.check_end()?;
        let (folder, slots) = self.slots(&self.root())?;
        let found = slots.iter().find(|slot| slot.is_file(name));
        if found.is_none() && slots.iter().any(|slot| slot.is_called(name)) {
            return Err(FatError::Folder(name.to_owned()));
        }
        let old = self.whole_chain(found)?;
        let length = u32::try_from(bytes.len()).map_err(|_| FatError::Full)?;
        let new = self.free(bytes.len().div_ceil(self.geometry.cluster_bytes()))?;
        for (cluster, part) in new.iter().zip(bytes.chunks(self.geometry.cluster_bytes())) {
            let mut padded = part.to_vec();
            padded.resize(self.geometry.cluster_bytes(), 0);
            self.put(self.geometry.cluster(*cluster), &padded)?;
        }
        self.link(&new)?;
        self.disk.flush()?;
        let first = new.first().copied().unwrap_or(0);
        let (index, entry) = match found {
            Some(found) => {
                let at = found.index * ENTRY_BYTES;
                let mut entry = folder.bytes[at..at + ENTRY_BYTES].to_vec();
                made::point(&mut entry, first, length, Stamp::from(time));
                (found.index, entry)
            }
            None => made::made(&folder.bytes, &slots, folder.stretch_entries(), name, first, length, Stamp::from(time))
                .ok_or(FatError::Full)?,
        };
        let at = folder.place(index * ENTRY_BYTES).ok_or_else(|| self.root().damaged("it has holes"))?;
        // The one write that makes the new file the file.
        self.put(at, &entry)?;
        self.disk.flush()?;
        for cluster in old {
            self.set(cluster, 0)?;
        }
        self.count()?;
        self.disk.flush()?;
        Ok(())
    }

    /// All clusters of a file, whatever its size says: they are to be freed.
    fn whole_chain(&self, file: Option<&Slot>) -> Result<Vec<u32>, FatError> {
        let Some(file) = file.filter(|file| file.cluster != 0) else { return Ok(Vec::new()) };
        let entry = file.entry("");
        let (chain, end) = self.follow(file.cluster, self.next.len()).map_err(|what| entry.damaged(what))?;
        // Freed, they would take the folder with them.
        let root: BTreeSet<_> = self.chain(&self.root())?.into_iter().collect();
        match end {
            End::Reached if chain.iter().any(|cluster| root.contains(cluster)) => {
                Err(entry.damaged("it shares clusters with the folder that it is in"))
            }
            End::Reached => Ok(chain),
            End::Beyond => Err(entry.damaged("its chain of clusters runs in a circle")),
        }
    }

    /// `count` clusters that belong to nothing.
    fn free(&self, count: usize) -> Result<Vec<u32>, FatError> {
        let all = (0_u32..).zip(&self.next).skip(2);
        let free: Vec<_> = all.filter(|(_, next)| **next == 0).map(|(cluster, _)| cluster).take(count).collect();
        if free.len() == count { Ok(free) } else { Err(FatError::Full) }
    }

    /// Makes one chain of `clusters`, last link first.
    fn link(&mut self, clusters: &[u32]) -> Result<(), FatError> {
        let mut next = self.geometry.width.end();
        for cluster in clusters.iter().rev() {
            self.set(*cluster, next)?;
            next = *cluster;
        }
        Ok(())
    }

    /// Writes one entry of every table.
    fn set(&mut self, cluster: u32, next: u32) -> Result<(), FatError> {
        let width = self.geometry.width;
        for table in 0..self.geometry.tables {
            let at = self.geometry.table(table) + width.offset(cluster);
            let mut old = [0; 4];
            let old = &mut old[..usize::try_from(width.bytes()).unwrap_or(4)];
            self.disk.seek(SeekFrom::Start(at))?;
            self.disk.read_exact(old)?;
            self.put(at, &width.entry(old, next))?;
        }
        if let Some(entry) = usize::try_from(cluster).ok().and_then(|at| self.next.get_mut(at)) {
            *entry = next;
        }
        Ok(())
    }

    /// Corrects the number of free clusters that FAT32 keeps; it is a hint, and a wrong one alarms whoever checks.
    fn count(&mut self) -> Result<(), FatError> {
        let Some(at) = self.geometry.info else { return Ok(()) };
        let mut mark = [0; 4];
        self.disk.seek(SeekFrom::Start(at))?;
        self.disk.read_exact(&mut mark)?;
        if mark != INFO.0 {
            return Ok(());
        }
        let free = self.next.iter().skip(2).filter(|next| **next == 0).count();
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        self.put(at + INFO.1, &free.to_le_bytes())
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), FatError> {
        self.disk.seek(SeekFrom::Start(at))?;
        Ok(self.disk.write_all(bytes)?)
    }
}

// === impl Folder ===

impl Folder {
    /// Where on the volume byte `at` of the folder lies.
    fn place(&self, at: usize) -> Option<u64> {
        let mut left = at;
        for (start, length) in &self.stretches {
            if left < *length {
                return Some(start + u64::try_from(left).ok()?);
            }
            left -= length;
        }
        None
    }

    /// Entries per stretch, within which entries are written at once.
    fn stretch_entries(&self) -> usize {
        self.stretches.first().map_or(1, |(_, length)| length / ENTRY_BYTES)
    }
}
