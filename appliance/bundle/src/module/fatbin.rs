//! A fatbin: cubins for several targets behind one head.
//!
//! ```text
//! head   magic 0xBA55ED50 (4) | version 1 (2) | bytes of the head 16 (2) | bytes of all entries (8)
//! entry  kind (2) | version (2) | bytes of the head (4) | bytes of the content, padded (8) | compressed bytes (4)
//!        | options (4) | minor, major (2, 2) | target (4) | name at, name length (4, 4) | flags (8) | 0 (8)
//!        | uncompressed bytes (8) | content
//! ```
//!
//! Only plain cubins are taken: PTX in a fatbin would be compiled in the GPU's own process, and packed entries would
//! have to be unpacked to see what they export. Every entry exports the same kernels. Source of the layout: files made by
//! `fatbinary`, and the public descriptions of it.

use super::{Contents, Kernel, cubin};
use crate::version::Arch;

const MAGIC: u32 = 0xBA55_ED50;
const HEAD_BYTES: usize = 16;
const ENTRY_HEAD_BYTES: usize = 64;
const KIND_ELF: u16 = 2;
/// Flags of entries that are packed with LZ4 or Zstandard.
const PACKED: u64 = 0x2000 | 0x8000;
/// As many targets as there are in the table of known ones, and some.
const ENTRIES_MAX: usize = 32;

/// Reads a module. Errors: a sentence that says what the file lacks.
pub(super) fn read(bytes: &[u8]) -> Result<Contents, String> {
    let number = |at: usize, width: usize| number(bytes, at, width);
    if number(0, 4)? != u64::from(MAGIC) || number(4, 2)? != 1 || number(6, 2)? != as_number(HEAD_BYTES) {
        return Err("not a fatbin: its head has another magic, version or length".to_owned());
    }
    if number(8, 8)? != as_number(bytes.len() - HEAD_BYTES) {
        return Err("the fatbin is not as long as its head says".to_owned());
    }
    let (mut at, mut targets, mut kernels) = (HEAD_BYTES, Vec::new(), None::<Vec<Kernel>>);
    while at < bytes.len() {
        if targets.len() >= ENTRIES_MAX {
            return Err(format!("a fatbin of more than {ENTRIES_MAX} entries"));
        }
        let place = format!("fatbin entry {}", targets.len());
        let (content, behind) = entry(bytes, at).map_err(|reason| format!("{place}: {reason}"))?;
        let contents = cubin::read(content).map_err(|reason| format!("{place}: {reason}"))?;
        let mut own = contents.kernels;
        own.sort_by(|a, b| a.name.cmp(&b.name));
        match &kernels {
            None => kernels = Some(own),
            Some(first) if *first == own => {}
            Some(_) => return Err(format!("{place}: it exports other kernels than the first entry")),
        }
        targets.extend(contents.targets);
        at = behind;
    }
    targets.sort_unstable();
    if let Some(pair) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("two entries are for {}", pair[0]));
    }
    Ok(Contents { ptx_isa: None, targets, kernels: kernels.unwrap_or_default() })
}

/// The content of the entry at a place, and where the next one begins.
fn entry(bytes: &[u8], at: usize) -> Result<(&[u8], usize), String> {
    let number = |offset: usize, width: usize| number(bytes, at.saturating_add(offset), width);
    if number(0, 2)? != u64::from(KIND_ELF) {
        return Err("it is no cubin; PTX goes into a module of its own".to_owned());
    }
    let flags = number(40, 8)?;
    if number(16, 4)? != 0 || flags & PACKED != 0 {
        return Err("it is compressed; build the fatbin without compression".to_owned());
    }
    let (head, length) = (number(4, 4)?, number(8, 8)?);
    if head < as_number(ENTRY_HEAD_BYTES) {
        return Err(format!("its head has {head} bytes, at least {ENTRY_HEAD_BYTES} were expected"));
    }
    let end = |start: usize, length: u64| usize::try_from(length).ok().and_then(|length| start.checked_add(length));
    let begin = end(at, head).ok_or("it has no end")?;
    let behind = end(begin, length).ok_or("it has no end")?;
    let content = bytes.get(begin..behind).ok_or("it goes beyond the file")?;
    let target = Arch::from(u32::try_from(number(28, 4)?).unwrap_or_default());
    match cubin::read(content)?.targets.first() {
        Some(own) if *own == target => Ok((content, behind)),
        _ => Err(format!("its head says {target}, its cubin another target")),
    }
}

fn number(bytes: &[u8], at: usize, width: usize) -> Result<u64, String> {
    let field = at.checked_add(width).and_then(|end| bytes.get(at..end)).ok_or("the fatbin ends too early")?;
    Ok(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn as_number(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
