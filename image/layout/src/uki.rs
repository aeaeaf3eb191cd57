//! A kernel image that the firmware starts: a PE file whose sections are the kernel, the first root and the command line.
//!
//! Only what we need is read: the sections, and the digest that a signature covers. A file that points outside itself,
//! overlaps itself or has two sections of one name is refused, so that what we checked is what the firmware loads.

use sha2::{Digest, Sha256};

use crate::verity::RootHash;

/// A kernel image is at most so large; the EFI partition holds two and one more being written.
pub const UKI_BYTES_MAX: usize = 80 << 20;

/// x86-64 in a PE header. Source: PE format, machine types.
const MACHINE: u16 = 0x8664;

/// So many sections at most; a UKI has fifteen.
const SECTIONS_MAX: u16 = 96;

/// A UKI, read and found whole.
#[derive(Debug)]
pub struct Uki<'a> {
    bytes: &'a [u8],
    sections: Vec<Section<'a>>,
    /// Where the checksum stands, which a signature leaves out.
    checksum_at: usize,
    /// Where the place of the signatures stands, which a signature leaves out.
    certificates_at: usize,
    /// Where the signatures begin; the end of the file where there are none.
    signed_end: usize,
    headers_end: usize,
}

#[derive(Debug)]
struct Section<'a> {
    name: &'a str,
    raw: (usize, usize),
    content: &'a [u8],
}

/// Why a file is not a UKI that we would start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UkiError {
    /// Larger than [`UKI_BYTES_MAX`].
    #[error("the kernel image has {0} bytes; at most {UKI_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// Not a PE file for this machine.
    #[error("not a kernel image for the firmware to start: {0}")]
    Foreign(&'static str),
    /// The file ends before what a field says.
    #[error("the kernel image ends before its {0}")]
    Short(&'static str),
    /// Parts of the file that must not share bytes do.
    #[error("the kernel image's section {0} overlaps another part")]
    Overlap(String),
    /// Two sections of one name.
    #[error("the kernel image has two sections {0}")]
    Twice(String),
    /// Too many sections.
    #[error("the kernel image has {0} sections; at most {SECTIONS_MAX} are allowed")]
    Sections(u16),
    /// A section's name is not text.
    #[error("a section of the kernel image has no readable name")]
    Name,
    /// The signatures do not end where the file ends.
    #[error("the kernel image has something behind its signatures")]
    Tail,
}

// === impl Uki ===

impl<'a> Uki<'a> {
    /// Reads the headers of `bytes`. Nothing is copied.
    pub fn read(bytes: &'a [u8]) -> Result<Uki<'a>, UkiError> {
        if bytes.len() > UKI_BYTES_MAX {
            return Err(UkiError::TooLarge(bytes.len()));
        }
        let Pe { optional_at, optional_bytes, sections, is_wide } = pe(bytes)?;
        let (checksum_at, directories_at) = (optional_at + 64, optional_at + if is_wide { 112 } else { 96 });
        let headers_end = word(bytes, optional_at + 60, "size of its headers")?;
        let table_at = optional_at + optional_bytes;
        // The fifth directory is the signatures'; a file with fewer has no room for them.
        let directories = word(bytes, directories_at - 4, "directories")?;
        let certificates_at = directories_at + 4 * 8;
        if directories < 5 || certificates_at + 8 > table_at {
            return Err(UkiError::Foreign("it has no place for a signature"));
        }
        let table_end = table_at + usize::from(sections) * 40;
        if headers_end < table_end || headers_end > bytes.len() {
            return Err(UkiError::Short("headers"));
        }
        let signed_end = signed_end(bytes, certificates_at, headers_end)?;
        let sections = read_sections(bytes, table_at, sections, (headers_end, signed_end))?;
        Ok(Uki { bytes, sections, checksum_at, certificates_at, signed_end, headers_end })
    }

    /// What the section `name` (with its dot) holds.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.sections.iter().find(|section| section.name == name).map(|section| section.content)
    }

    /// The kernel's command line, up to its first zero: what is behind that the kernel does not see.
    #[must_use]
    pub fn command_line(&self) -> Option<&'a str> {
        let text = std::str::from_utf8(self.section(".cmdline")?).ok()?;
        Some(text.split('\0').next().unwrap_or_default().trim())
    }

    /// The root that it starts, as its command line says; `None` if it says none, or more than one.
    #[must_use]
    pub fn root_hash(&self) -> Option<RootHash> {
        let mut said = self.command_line()?.split_ascii_whitespace().filter_map(|word| word.strip_prefix("roothash="));
        let hash = said.next()?;
        if said.next().is_some() { None } else { hash.parse().ok() }
    }

    /// The SHA-256 that a signature covers (Microsoft's Authenticode): all but the checksum, the place of the signatures
    /// and the signatures. What ends in the middle of 8 bytes is filled up with zeros, as signing does to the file.
    #[must_use]
    pub fn authenticode(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(&self.bytes[..self.checksum_at]);
        digest.update(&self.bytes[self.checksum_at + 4..self.certificates_at]);
        digest.update(&self.bytes[self.certificates_at + 8..self.headers_end]);
        // Sections come in the file's order, then all that no section claims.
        let mut end = self.headers_end;
        for Section { raw: (from, to), .. } in &self.sections {
            digest.update(&self.bytes[*from..*to]);
            end += to - from;
        }
        digest.update(&self.bytes[end.min(self.signed_end)..self.signed_end]);
        digest.update(&[0; 8][..self.signed_end.next_multiple_of(8) - self.signed_end]);
        digest.finalize().into()
    }
}

/// Where the parts of the headers stand.
struct Pe {
    optional_at: usize,
    optional_bytes: usize,
    sections: u16,
    is_wide: bool,
}

fn pe(bytes: &[u8]) -> Result<Pe, UkiError> {
    if !bytes.starts_with(b"MZ") {
        return Err(UkiError::Foreign("it does not begin as one"));
    }
    let pe_at = word(bytes, 60, "headers")?;
    if pe_at > bytes.len() || !bytes[pe_at..].starts_with(b"PE\0\0") {
        return Err(UkiError::Foreign("it has no PE header"));
    }
    if half(bytes, pe_at + 4, "headers")? != MACHINE {
        return Err(UkiError::Foreign("it is for another kind of machine"));
    }
    let sections = half(bytes, pe_at + 6, "headers")?;
    if sections == 0 || sections > SECTIONS_MAX {
        return Err(UkiError::Sections(sections));
    }
    let optional_bytes = usize::from(half(bytes, pe_at + 20, "headers")?);
    let optional_at = pe_at + 24;
    let is_wide = match half(bytes, optional_at, "headers")? {
        0x20b => true,
        0x10b => false,
        _ => return Err(UkiError::Foreign("its headers are of an unknown kind")),
    };
    Ok(Pe { optional_at, optional_bytes, sections, is_wide })
}

/// Where the signatures begin. They stand last, or there are none.
fn signed_end(bytes: &[u8], certificates_at: usize, headers_end: usize) -> Result<usize, UkiError> {
    let at = word(bytes, certificates_at, "headers")?;
    let length = word(bytes, certificates_at + 4, "headers")?;
    if at == 0 && length == 0 {
        return Ok(bytes.len());
    }
    match at.checked_add(length) {
        Some(end) if end > bytes.len() || at < headers_end => Err(UkiError::Short("signatures")),
        Some(end) if end < bytes.len() => Err(UkiError::Tail),
        Some(_) => Ok(at),
        None => Err(UkiError::Short("signatures")),
    }
}

/// The sections in the order in which they lie in the file, each inside `room` and none over another.
fn read_sections(
    bytes: &[u8],
    table_at: usize,
    count: u16,
    room: (usize, usize),
) -> Result<Vec<Section<'_>>, UkiError> {
    let mut sections: Vec<Section<'_>> = Vec::with_capacity(count.into());
    for index in 0..usize::from(count) {
        let at = table_at + index * 40;
        let name = bytes.get(at..at + 8).ok_or(UkiError::Short("sections"))?;
        let name = std::str::from_utf8(name).map_err(|_| UkiError::Name)?.trim_end_matches('\0');
        let virtual_bytes = word(bytes, at + 8, "sections")?;
        let (raw_bytes, raw_at) = (word(bytes, at + 16, "sections")?, word(bytes, at + 20, "sections")?);
        if sections.iter().any(|section| section.name == name) {
            return Err(UkiError::Twice(name.to_owned()));
        }
        if raw_bytes == 0 {
            // Memory only: nothing of the file.
            sections.push(Section { name, raw: (room.0, room.0), content: &[] });
            continue;
        }
        let end = raw_at.checked_add(raw_bytes).filter(|end| raw_at >= room.0 && *end <= room.1);
        let end = end.ok_or_else(|| UkiError::Overlap(name.to_owned()))?;
        let content = &bytes[raw_at..raw_at + raw_bytes.min(virtual_bytes)];
        sections.push(Section { name, raw: (raw_at, end), content });
    }
    sections.sort_by_key(|section| section.raw);
    for pair in sections.windows(2) {
        if pair[1].raw.0 < pair[0].raw.1 {
            return Err(UkiError::Overlap(pair[1].name.to_owned()));
        }
    }
    Ok(sections)
}

fn half(bytes: &[u8], at: usize, what: &'static str) -> Result<u16, UkiError> {
    let piece = at.checked_add(2).and_then(|end| bytes.get(at..end)).ok_or(UkiError::Short(what))?;
    Ok(u16::from_le_bytes([piece[0], piece[1]]))
}

fn word(bytes: &[u8], at: usize, what: &'static str) -> Result<usize, UkiError> {
    let piece = at.checked_add(4).and_then(|end| bytes.get(at..end)).ok_or(UkiError::Short(what))?;
    let word = u32::from_le_bytes([piece[0], piece[1], piece[2], piece[3]]);
    usize::try_from(word).map_err(|_| UkiError::Short(what))
}

#[cfg(test)]
mod tests;
