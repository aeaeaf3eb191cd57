//! The disk that this rig was started from: its partitions by name, and what is known of its state.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use layout::gpt::{GptError, Table};
use layout::{Guid, parts};

use crate::files;
use crate::places::Places;
use crate::plan::{Content, Partition};

/// So much of a partition is looked at first: both headers of LUKS and the first superblock of ext4 lie in it.
const LOOK_BYTES: usize = 1 << 20;

/// The magic of LUKS, and where its two headers begin as they are made today. Source: LUKS2 on-disk format, §2.
const LUKS: [(usize, &[u8; 6]); 2] = [(0, b"LUKS\xba\xbe"), (0x4000, b"SKUL\xba\xbe")];

/// Where LUKS2's second header may begin: a power of two from 16 KiB to 4 MiB. Source: LUKS2 on-disk format, §2.
const SECOND_LUKS: [u64; 9] =
    [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];

/// The magic of ext4 and its place. Source: ext4 on-disk layout, super block.
const EXT4: (usize, &[u8; 2]) = (1024 + 0x38, b"\x53\xef");

/// Sizes of an ext4 block that `mkfs.ext4` makes, as powers of two of 1024 bytes.
const BLOCK_LOGS: [u32; 3] = [0, 1, 2];

/// The first groups that have a copy of ext4's superblock, in their first block. Source: ext4 on-disk layout,
/// `sparse_super`.
const COPY_GROUPS: [u16; 4] = [1, 3, 5, 7];

/// Time that a TPM has for 8 random bytes. Chips answer within a second.
const TPM_TIME: Duration = Duration::from_secs(15);

/// `TPM2_GetRandom` of 8 bytes without a session. Source: TPM 2.0 library, part 3.
const GET_RANDOM: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 8];

/// A disk that is no rig's.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The first process said nothing, or nothing sensible.
    #[error("{} does not name the disk that the rig was started from", fact.display())]
    Unnamed {
        /// Where it would stand.
        fact: PathBuf,
    },
    /// It cannot be opened.
    #[error("open {}", device.display())]
    Open {
        /// The disk.
        device: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its table cannot be read.
    #[error("read the partition table of {}", device.display())]
    Table {
        /// The disk.
        device: PathBuf,
        /// Why.
        #[source]
        source: GptError,
    },
}

/// The disk.
#[derive(Debug)]
pub struct Disk {
    name: String,
    /// The disk as a whole.
    pub device: PathBuf,
    /// Its partitions.
    pub table: Table,
    bytes: u64,
}

// === impl Disk ===

impl Disk {
    /// The disk that the first process named. Errors: see [`DiskError`].
    pub fn find(places: &Places) -> Result<Disk, DiskError> {
        let fact = places.boot_fact("disk");
        let is_name = |name: &String| name.bytes().all(|sign| sign.is_ascii_alphanumeric());
        let name = files::fact(&fact).filter(is_name).ok_or(DiskError::Unnamed { fact })?;
        let device = places.device(&name);
        let open = |source| DiskError::Open { device: device.clone(), source };
        let mut file = File::open(&device).map_err(open)?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(open)?;
        let table = Table::read(&mut file).map_err(|source| DiskError::Table { device: device.clone(), source })?;
        Ok(Disk { name, device, table, bytes })
    }

    /// The kernel's name of partition `number`.
    #[must_use]
    pub fn partition_name(&self, number: u32) -> String {
        let between = if self.name.ends_with(|sign: char| sign.is_ascii_digit()) { "p" } else { "" };
        format!("{}{between}{number}", self.name)
    }

    /// The kernel's name of the partition with this label.
    #[must_use]
    pub fn named(&self, label: &str) -> Option<String> {
        self.table.by_name(label).map(|partition| self.partition_name(partition.number))
    }

    /// The state's id.
    #[must_use]
    pub fn state_id(&self) -> Option<Guid> {
        self.table.state().map(|partition| partition.id)
    }

    /// The kernel's name of the state's partition.
    #[must_use]
    pub fn state_name(&self) -> Option<String> {
        self.table.state().map(|partition| self.partition_name(partition.number))
    }

    /// Room behind the last partition, in bytes, as far as the disk really goes.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        let sector = u64::from(self.table.sector_bytes);
        let ends = self.table.partitions.iter().map(|one| one.first_sector.saturating_add(one.sectors));
        let used = ends.max().unwrap_or(0).saturating_mul(sector).next_multiple_of(parts::ALIGNMENT_BYTES);
        // The second copy of the table stands in the last mebibyte.
        self.bytes.saturating_sub(used).saturating_sub(parts::ALIGNMENT_BYTES)
    }

    /// Whether nothing can be written to it.
    #[must_use]
    pub fn is_read_only(&self, places: &Places) -> bool {
        files::fact(&places.read_only(&self.name)).as_deref() == Some("1")
    }

    /// The state as it lies there. Errors: what the system said.
    pub fn state(&self, places: &Places) -> io::Result<Partition> {
        let Some(name) = self.state_name() else { return Ok(Partition::Absent) };
        content(&places.device(&name)).map(Partition::There)
    }
}

/// What `device` looks like. Where its beginning is zero the copies further on are looked at: worn flash reads as zeros,
/// and what can be mended from a copy is not blank. Errors: what the system said.
pub fn content(device: &Path) -> io::Result<Content> {
    let mut bytes = Vec::new();
    let file = File::open(device)?;
    (&file).take(LOOK_BYTES.try_into().unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    let has = |at: usize, magic: &[u8]| bytes.get(at..at + magic.len()) == Some(magic);
    Ok(match () {
        () if LUKS.into_iter().any(|(at, magic)| has(at, magic)) => Content::Sealed,
        () if has(EXT4.0, EXT4.1) => Content::Plain,
        () if has_second_luks(&file)? => Content::Sealed,
        () if bytes.iter().any(|byte| *byte != 0) => Content::Foreign,
        () => of_ext4_copy(&file)?.unwrap_or(Content::Blank),
    })
}

fn has_second_luks(file: &File) -> io::Result<bool> {
    for at in SECOND_LUKS {
        if read_at(file, at)? == *LUKS[1].1 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the copies of ext4's superblock say about a partition whose beginning is gone: it can be mended if the root of its
/// files still stands, and otherwise mending would leave an empty state. `None`: there is no copy.
fn of_ext4_copy(file: &File) -> io::Result<Option<Content>> {
    for log in BLOCK_LOGS {
        let block = 1024_u64 << log;
        // A group is what one block of bits describes. Blocks of 1024 bytes are counted from the second one.
        let (group, first) = (block * 8 * block, if log == 0 { block } else { 0 });
        for number in COPY_GROUPS {
            let at = u64::from(number) * group + first;
            let (magic, size, place) =
                (read_at(file, at + 0x38)?, read_at(file, at + 0x18)?, read_at(file, at + 0x5a)?);
            if magic == *EXT4.1 && size == log.to_le_bytes() && place == number.to_le_bytes() {
                // The first group's description follows in the next block, and says where its inodes are; the root's is
                // the second.
                let inode_bytes = u64::from(u16::from_le_bytes(read_at(file, at + 0x58)?));
                let inodes = u64::from(u32::from_le_bytes(read_at(file, at + block + 8)?));
                let mode = u16::from_le_bytes(read_at(file, inodes * block + inode_bytes)?);
                let is_folder = mode & 0xf000 == 0x4000;
                return Ok(Some(if is_folder { Content::Plain } else { Content::Broken }));
            }
        }
    }
    Ok(None)
}

/// What stands at `at`; zeros behind the end.
fn read_at<const N: usize>(file: &File, at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    match file.read_exact_at(&mut bytes, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([0; N]),
        Err(error) => Err(error),
        Ok(()) => Ok(bytes),
    }
}

/// Whether there is a TPM at `device`, and it answers in time.
#[must_use]
pub fn tpm_answers(device: &Path) -> bool {
    let Ok(mut file) = OpenOptions::new().read(true).write(true).open(device) else { return false };
    let (send, answered) = mpsc::sync_channel(1);
    // A chip that hangs holds its thread, and not the boot.
    std::thread::spawn(move || {
        let mut answer = [0; 64];
        let count = file.write_all(&GET_RANDOM).and_then(|()| file.read(&mut answer));
        // Ten bytes of head, of which the last four are zero if all is well.
        let is_well = count.is_ok_and(|count| count >= 10 && answer[6..10] == [0; 4]);
        let _ = send.send(is_well);
    });
    answered.recv_timeout(TPM_TIME).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_known_by_what_stands_at_its_beginning() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let check = |marks: &[(usize, &[u8])], expected: Content| {
            let mut bytes = vec![0; LOOK_BYTES + 100];
            for (at, mark) in marks {
                bytes[*at..at + mark.len()].copy_from_slice(mark);
            }
            std::fs::write(file.path(), bytes).expect("writes");
            assert_eq!(content(file.path()).expect("reads"), expected, "{marks:?}");
        };
        check(&[], Content::Blank);
        check(&[(LOOK_BYTES, b"beyond")], Content::Blank);
        let (first, second, ext4) = ((LUKS[0].0, &LUKS[0].1[..]), (LUKS[1].0, &LUKS[1].1[..]), (EXT4.0, &EXT4.1[..]));
        check(&[first], Content::Sealed);
        check(&[second], Content::Sealed);
        check(&[ext4], Content::Plain);
        check(&[second, ext4], Content::Sealed);
        check(&[(512 << 10, second.1)], Content::Sealed);
        check(&[(512 << 10, second.1), (0, b"x")], Content::Sealed);
        check(&[(768 << 10, second.1)], Content::Foreign);
        check(&[(LOOK_BYTES - 1, b"x")], Content::Foreign);
        check(&[(3, b"NTFS    ")], Content::Foreign);
    }

    #[test]
    fn what_has_a_copy_further_on_is_not_blank() {
        let check = |place: &[(u64, &[u8])], expected: Content| {
            let file = tempfile::tempfile_in(std::env::temp_dir()).expect("a file");
            file.set_len(1 << 30).expect("grows");
            for (at, bytes) in place {
                file.write_all_at(bytes, *at).expect("writes");
            }
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            assert_eq!(content(Path::new(&path)).expect("reads"), expected, "{place:?}");
        };
        for at in [1 << 20, 2 << 20, 4 << 20] {
            check(&[(at, LUKS[1].1)], Content::Sealed);
            check(&[(at + 512, LUKS[1].1)], Content::Blank);
        }
        // Where `mkfs.ext4` writes them, for blocks of 1, 2 and 4 KiB.
        for (log, block, first) in [(0_u8, 1024_u64, 8193_u64), (1, 2048, 16384), (2, 4096, 32768)] {
            let at = first * block;
            let copy: [(u64, &[u8]); 3] = [(at + 0x38, b"\x53\xef"), (at + 0x18, &[log]), (at + 0x5a, &[1])];
            check(&copy, Content::Broken);
            let root: [(u64, &[u8]); 3] =
                [(at + 0x58, &[0, 1]), (at + block + 8, &[0, 9]), (9 * 256 * block + 256, &[0xed, 0x41])];
            let whole: Vec<(u64, &[u8])> = copy.into_iter().chain(root).collect();
            check(&whole, Content::Plain);
            check(&[copy[0], copy[1], (at + 0x5a, &[2])], Content::Blank);
            check(&[(0, b"NTFS"), copy[0], copy[1], copy[2]], Content::Foreign);
        }
        let at = 3 * 32768 * 4096;
        check(&[(at + 0x38, b"\x53\xef"), (at + 0x18, &[2]), (at + 0x5a, &[3])], Content::Broken);
    }

    #[test]
    fn a_machine_without_a_tpm_has_none_that_answers() {
        assert!(!tpm_answers(Path::new("/nowhere/tpmrm0")));
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(!tpm_answers(file.path()));
    }
}
