//! The whole disk as one sparse file: the partition table and what is in the partitions.
//!
//! Invariants: every identifier is derived, none drawn; what is zero in a part stays a hole. The table is made by
//! `sfdisk`, and read back by the rig's own reader before the disk is called done.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use layout::gpt::{GptError, Guid, Table};
use layout::parts::{
    ALIGNMENT_BYTES, ESP_BYTES, ESP_KIND, ESP_LABEL, ROOT_BYTES, ROOT_KIND, SETTINGS_BYTES, SETTINGS_KIND,
    SETTINGS_LABEL, Slot, VERITY_BYTES, VERITY_KIND,
};
use layout::verity::RootHash;
use thiserror::Error;

use crate::file::{FileError, failed};
use crate::workshop::{Workshop, WorkshopError};

/// Copied at once; the smallest hole that is kept.
const BLOCK_BYTES: usize = 64 * 1024;

/// The packed disk is made of frames of this many bytes, each of them packed alone: the many empty ones cost nothing.
const FRAME_BYTES: usize = 4 << 20;

/// The root is packed already; higher levels cost minutes for nothing.
const LEVEL: i32 = 9;

/// What is on the disk.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The boot partition.
    pub esp: &'a Path,
    /// The settings partition.
    pub settings: &'a Path,
    /// The packed root.
    pub root: &'a Path,
    /// Its tree of hashes.
    pub verity: &'a Path,
    /// Its root hash.
    pub hash: &'a RootHash,
    /// 512 or 4096.
    pub sector_bytes: u32,
}

/// Why there is no disk.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum DiskError {
    #[error("write the partition table")]
    Workshop(#[from] WorkshopError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("read back the partition table")]
    Table(#[from] GptError),
    #[error("the partition {0} is not where it should be; is sfdisk of another kind?")]
    Elsewhere(String),
    #[error("the partition table was made for sectors of {found} bytes, and {wanted} were asked for")]
    Sectors { found: u32, wanted: u32 },
    #[error("{label} has {bytes} bytes, and its partition {room}")]
    TooLarge { label: String, bytes: u64, room: u64 },
}

/// One partition of the image.
struct Planned<'a> {
    label: &'a str,
    kind: Guid,
    id: Guid,
    bytes: u64,
    content: Option<&'a Path>,
}

/// Makes `work/FILE`.
pub fn make(workshop: &Workshop, work: &Path, file: &str, parts: &Parts<'_>) -> Result<PathBuf, DiskError> {
    let planned = plan(parts);
    let target = work.join(file);
    let whole = planned.iter().map(|part| part.bytes).sum::<u64>() + 2 * ALIGNMENT_BYTES;
    let disk = File::create(&target).map_err(failed("make", &target))?;
    disk.set_len(whole).map_err(failed("size", &target))?;
    let script = script(&planned, parts.sector_bytes, whole);
    // A file has no sectors of its own, and without this option they are taken to have 512 bytes, whatever the script says.
    let sector_bytes = parts.sector_bytes.to_string();
    let command = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--sector-size", &sector_bytes, file];
    workshop.run_with(work, &[], &command, &[], script.as_bytes())?;
    let mut disk = fs::OpenOptions::new().read(true).write(true).open(&target).map_err(failed("open", &target))?;
    let table = Table::read(&mut disk)?;
    if table.sector_bytes != parts.sector_bytes {
        return Err(DiskError::Sectors { found: table.sector_bytes, wanted: parts.sector_bytes });
    }
    let mut expected = ALIGNMENT_BYTES;
    for part in &planned {
        let found = table.by_id(part.id).filter(|found| {
            found.offset(&table) == expected && found.bytes(&table) == part.bytes && found.name == part.label
        });
        let found = found.ok_or_else(|| DiskError::Elsewhere(part.label.to_owned()))?;
        if let Some(content) = part.content {
            let bytes = content.metadata().map_err(failed("look at", content))?.len();
            if bytes > part.bytes {
                return Err(DiskError::TooLarge { label: part.label.to_owned(), bytes, room: part.bytes });
            }
            let mut from = File::open(content).map_err(failed("open", content))?;
            copy_sparse(&mut from, &mut disk, found.offset(&table)).map_err(failed("copy", content))?;
        }
        expected += part.bytes;
    }
    Ok(target)
}

fn plan<'a>(parts: &Parts<'a>) -> Vec<Planned<'a>> {
    let fixed =
        |label: &'a str, kind, bytes, content| Planned { label, kind, id: Guid::derived(label), bytes, content };
    let (a, b) = (Slot::A, Slot::B);
    vec![
        fixed(ESP_LABEL, ESP_KIND, ESP_BYTES, Some(parts.esp)),
        fixed(SETTINGS_LABEL, SETTINGS_KIND, SETTINGS_BYTES, Some(parts.settings)),
        Planned { id: parts.hash.root_id(), ..fixed(a.root_label(), ROOT_KIND, ROOT_BYTES, Some(parts.root)) },
        Planned {
            id: parts.hash.verity_id(),
            ..fixed(a.verity_label(), VERITY_KIND, VERITY_BYTES, Some(parts.verity))
        },
        fixed(b.root_label(), ROOT_KIND, ROOT_BYTES, None),
        fixed(b.verity_label(), VERITY_KIND, VERITY_BYTES, None),
    ]
}

/// What `sfdisk` reads.
fn script(planned: &[Planned<'_>], sector_bytes: u32, whole: u64) -> String {
    let sectors = |bytes: u64| bytes / u64::from(sector_bytes);
    // The table's second copy, and what the first one keeps free.
    let last = sectors(whole) - sectors(ALIGNMENT_BYTES);
    let mut text = format!(
        "label: gpt\nlabel-id: {}\nunit: sectors\nsector-size: {sector_bytes}\nfirst-lba: {}\nlast-lba: {}\n\n",
        Guid::derived("disk"),
        sectors(ALIGNMENT_BYTES),
        last - 1,
    );
    let mut start = ALIGNMENT_BYTES;
    for (at, part) in planned.iter().enumerate() {
        let Planned { label, kind, id, bytes, .. } = part;
        let _ = writeln!(
            text,
            "{} : start={}, size={}, type={kind}, uuid={id}, name=\"{label}\"",
            at + 1,
            sectors(start),
            sectors(*bytes),
        );
        start += bytes;
    }
    text
}

/// Copies `from` to `to` from `offset` on, leaving out what is zero.
fn copy_sparse(from: &mut File, to: &mut File, offset: u64) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = offset;
    loop {
        let mut got = 0;
        while got < block.len() {
            match from.read(&mut block[got..])? {
                0 => break,
                count => got += count,
            }
        }
        if got == 0 {
            return Ok(());
        }
        if block[..got].iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(at))?;
            to.write_all(&block[..got])?;
        }
        at += u64::try_from(got).map_err(io::Error::other)?;
    }
}

/// Packs `raw` into `to`: Zstandard frames of four MiB, one after the other, which every reader takes for one stream.
pub fn pack(raw: &Path, to: &Path) -> Result<(), DiskError> {
    let mut from = File::open(raw).map_err(failed("open", raw))?;
    let mut packed = io::BufWriter::new(File::create(to).map_err(failed("make", to))?);
    let mut frame = Vec::with_capacity(FRAME_BYTES);
    let mut empty: Option<Vec<u8>> = None;
    loop {
        frame.clear();
        let limit = u64::try_from(FRAME_BYTES).unwrap_or(u64::MAX);
        Read::by_ref(&mut from).take(limit).read_to_end(&mut frame).map_err(failed("read", raw))?;
        if frame.is_empty() {
            break;
        }
        let is_empty = frame.len() == FRAME_BYTES && frame.iter().all(|byte| *byte == 0);
        let bytes = match &empty {
            Some(bytes) if is_empty => bytes.clone(),
            _ => zstd::bulk::compress(&frame, LEVEL).map_err(failed("pack", raw))?,
        };
        packed.write_all(&bytes).map_err(failed("write", to))?;
        if is_empty && empty.is_none() {
            empty = Some(bytes);
        }
    }
    Ok(packed.flush().map_err(failed("write", to))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_disk_is_one_stream_with_the_same_bytes() {
        let home = tempfile::tempdir().expect("a folder");
        let (raw, packed) = (home.path().join("raw"), home.path().join("raw.zst"));
        let file = File::create(&raw).expect("a file");
        file.set_len(5 * 4 * 1024 * 1024 + 17).expect("sparse");
        let mut source = home.path().join("part");
        fs::write(&source, b"content").expect("a file");
        let mut target = fs::OpenOptions::new().write(true).open(&raw).expect("ours");
        copy_sparse(&mut File::open(&source).expect("ours"), &mut target, 9 << 20).expect("copied");
        pack(&raw, &packed).expect("packed");
        source = home.path().join("again");
        let mut again = File::create(&source).expect("a file");
        zstd::stream::copy_decode(File::open(&packed).expect("ours"), &mut again).expect("a stream");
        assert!(fs::read(&source).expect("ours") == fs::read(&raw).expect("ours"));
        assert!(packed.metadata().expect("ours").len() < 4096);
    }
}
