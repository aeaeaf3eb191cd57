//! What the driver is asked to load as a module: machine code, never PTX.
//!
//! The driver's call takes an address without a length, looks what is there, and reads as far as the tables in it say.
//! So an [`Image`] exists only after those tables were found to lie within the bytes. Text is refused whatever it
//! says: the driver would compile it, here, beside the GPU.

/// Machine code of one module that the driver may be shown.
#[derive(Debug)]
pub(crate) struct Image(Vec<u8>);

/// Bytes that are not machine code for a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImageError {
    /// It begins like neither.
    #[error("neither a cubin nor a fat binary; PTX is compiled elsewhere, before a GPU is there")]
    Neither,
    /// An ELF file for something else.
    #[error("an ELF file, but not one for an NVIDIA GPU")]
    NotCuda,
    /// A table or what it points to is not within the file.
    #[error("a {0} beyond the end of the file")]
    Beyond(&'static str),
}

const ELF_MAGIC: [u8; 6] = *b"\x7fELF\x02\x01";
const ELF_HEADER_BYTES: u64 = 64;
const ELF_MACHINE_CUDA: u64 = 190;
const SECTION_HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
/// `SHT_NOBITS`: a section that takes no room in the file.
const NOBITS: u64 = 8;

const FATBIN_MAGIC: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();

// === impl Image ===

impl Image {
    /// Takes bytes as machine code.
    ///
    /// # Errors
    /// [`ImageError`]: what they are not.
    pub(crate) fn new(bytes: Vec<u8>) -> Result<Self, ImageError> {
        if bytes.starts_with(&ELF_MAGIC) {
            check_elf(&bytes)?;
        } else if bytes.starts_with(&FATBIN_MAGIC) {
            check_fatbin(&bytes)?;
        } else {
            return Err(ImageError::Neither);
        }
        Ok(Self(bytes))
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Layout of the ELF64 header: machine at 18 (2 bytes); program headers at 32 (8), size of one at 54 (2), count at 56
/// (2); section headers at 40 (8), size of one at 58 (2), count at 60 (2).
fn check_elf(bytes: &[u8]) -> Result<(), ImageError> {
    let header = |at, width| number(bytes, at, width).ok_or(ImageError::Beyond("header"));
    if number(bytes, ELF_HEADER_BYTES - 1, 1).is_none() {
        return Err(ImageError::Beyond("header"));
    }
    if header(18, 2)? != ELF_MACHINE_CUDA {
        return Err(ImageError::NotCuda);
    }
    let sections = Table { at: header(40, 8)?, entry: header(58, 2)?, count: header(60, 2)? };
    sections.check(bytes, SECTION_HEADER_BYTES, "section", |entry| {
        let of = |at, width| number(bytes, entry + at, width);
        if of(4, 4)? == NOBITS { Some((0, 0)) } else { Some((of(24, 8)?, of(32, 8)?)) }
    })?;
    let programs = Table { at: header(32, 8)?, entry: header(54, 2)?, count: header(56, 2)? };
    programs.check(bytes, PROGRAM_HEADER_BYTES, "segment", |entry| {
        Some((number(bytes, entry + 8, 8)?, number(bytes, entry + 32, 8)?))
    })
}

/// Layout of a fat binary's header: magic (4 bytes), version (2), bytes of this header (2), bytes behind it (8).
fn check_fatbin(bytes: &[u8]) -> Result<(), ImageError> {
    let header = number(bytes, 6, 2).ok_or(ImageError::Beyond("header"))?;
    let behind = number(bytes, 8, 8).ok_or(ImageError::Beyond("header"))?;
    within(bytes, header, behind).then_some(()).ok_or(ImageError::Beyond("list of images"))
}

/// A table of an ELF file.
struct Table {
    at: u64,
    entry: u64,
    count: u64,
}

// === impl Table ===

impl Table {
    /// Whether the table, and the range of the file that each entry of it names, lie within `bytes`.
    fn check(
        &self,
        bytes: &[u8],
        entry_bytes: u64,
        what: &'static str,
        range: impl Fn(u64) -> Option<(u64, u64)>,
    ) -> Result<(), ImageError> {
        if self.count == 0 {
            return Ok(());
        }
        if self.entry != entry_bytes || !within(bytes, self.at, self.count * entry_bytes) {
            return Err(ImageError::Beyond("table"));
        }
        let is_within = |index| range(self.at + index * entry_bytes).is_some_and(|(at, len)| within(bytes, at, len));
        if (0..self.count).all(is_within) { Ok(()) } else { Err(ImageError::Beyond(what)) }
    }
}

fn within(bytes: &[u8], at: u64, len: u64) -> bool {
    let file = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    at.checked_add(len).is_some_and(|end| end <= file)
}

/// The little-endian number of `width` bytes (at most 8) at `at`; nothing if it is not all there.
fn number(bytes: &[u8], at: u64, width: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(bytes);
    Some(u64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One section of 16 bytes behind the header, then its header.
    fn cubin() -> Vec<u8> {
        let mut bytes = ELF_MAGIC.to_vec();
        bytes.resize(64 + 16 + 64, 0);
        bytes[18] = 190;
        bytes[40] = 80;
        bytes[58] = 64;
        bytes[60] = 1;
        bytes[80 + 24] = 64;
        bytes[80 + 32] = 16;
        bytes
    }

    fn changed(at: usize, value: u8) -> Vec<u8> {
        let mut bytes = cubin();
        bytes[at] = value;
        bytes
    }

    #[test]
    fn only_machine_code_whose_tables_lie_within_it_is_taken() {
        let check = |bytes: Vec<u8>, expected: Result<(), ImageError>| {
            assert_eq!(Image::new(bytes.clone()).map(drop), expected, "{bytes:?}");
        };
        check(cubin(), Ok(()));
        check(Vec::new(), Err(ImageError::Neither));
        check(b".version 8.0\n.target sm_75\n\0".to_vec(), Err(ImageError::Neither));
        check(changed(4, 1), Err(ImageError::Neither));
        check(changed(18, 62), Err(ImageError::NotCuda));
        check(cubin()[..63].to_vec(), Err(ImageError::Beyond("header")));
        check(cubin()[..143].to_vec(), Err(ImageError::Beyond("table")));
        check(changed(47, 0xff), Err(ImageError::Beyond("table")));
        check(changed(60, 2), Err(ImageError::Beyond("table")));
        check(changed(58, 32), Err(ImageError::Beyond("table")));
        check(changed(80 + 32, 81), Err(ImageError::Beyond("section")));
        check(changed(80 + 39, 0xff), Err(ImageError::Beyond("section")));
        check(changed(56, 1), Err(ImageError::Beyond("table")));

        let fatbin = |behind: u8| [&FATBIN_MAGIC[..], &[1, 0, 16, 0, behind, 0, 0, 0, 0, 0, 0, 0], &[0; 8]].concat();
        check(fatbin(8), Ok(()));
        check(fatbin(9), Err(ImageError::Beyond("list of images")));
        check(fatbin(8)[..15].to_vec(), Err(ImageError::Beyond("header")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), whole in any::<bool>()) {
            let mut image = if whole { cubin() } else { ELF_MAGIC.to_vec() };
            let from = image.len().min(6);
            for (at, byte) in bytes.iter().enumerate() {
                match image.get_mut(from + at * 3) {
                    Some(place) => *place = *byte,
                    None => image.push(*byte),
                }
            }
            let _ = Image::new(image);
            let _ = Image::new([&FATBIN_MAGIC[..], &bytes].concat());
        }
    }
}
