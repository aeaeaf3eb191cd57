//! Modules: which kernels an image holds, and whether the GPU can run it.
//!
//! Taken are cubins (ELF64, machine 190), fat binaries with uncompressed cubins in them, and PTX text. An image says its
//! own length, since `cuModuleLoadData` is given none. Nothing here reads an instruction.

use std::collections::BTreeSet;

use fake_gpu_edge::Host;
use object::LittleEndian;
use object::elf::{FileHeader64, STT_FUNC};
use object::read::elf::{FileHeader, SectionHeader};

use crate::code::{Answer, Code};

/// A cubin's machine.
const EM_CUDA: u16 = 190;
/// From this ABI version on the flags keep the architecture in the second byte.
const ABI_VERSION_2: u8 = 8;
/// The code uses features of one GPU model (`sm_90a`): in the flags of the first ABI and of the second.
const MODEL_ONLY: [u32; 2] = [0x800, 0x8];
/// The first four bytes of a fat binary, little-endian.
const FATBIN_MAGIC: u32 = 0xba55_ed50;
/// An entry of a fat binary that holds a cubin.
const FATBIN_CUBIN: u16 = 2;
/// Larger images are refused; the bundles' bound is the same.
const IMAGE_BYTES_MAX: u64 = 64 << 20;

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) context: usize,
    pub(crate) kernels: BTreeSet<String>,
}

/// What the GPU and the environment allow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loader {
    /// 89 for `sm_89`.
    pub(crate) arch: u32,
    /// As `cuDriverGetVersion` says.
    pub(crate) driver_version: i32,
    /// Whether PTX may be compiled here.
    pub(crate) jit: bool,
}

/// Copies the image at `host`, as long as it says it is. Errors: null, too long, or no known kind.
pub(crate) fn copy_image(host: Host) -> Answer<Vec<u8>> {
    let start = host.read_while(|bytes| bytes.len() < 4 && (bytes.is_empty() || has_magic(bytes)));
    let start = start.ok_or(Code::INVALID_VALUE)?;
    if start == b"\x7fELF" {
        let header = host.read(64).ok_or(Code::INVALID_VALUE)?;
        let table = |at: usize, size: usize, count: usize| {
            long(&header, at).checked_add(u64::from(half(&header, size)) * u64::from(half(&header, count)))
        };
        let (programs, sections) = (table(32, 54, 56), table(40, 58, 60));
        return bounded(host, programs.zip(sections).map(|(programs, sections)| programs.max(sections)));
    }
    if start == FATBIN_MAGIC.to_le_bytes() {
        let header = host.read(16).ok_or(Code::INVALID_VALUE)?;
        return bounded(host, long(&header, 8).checked_add(u64::from(half(&header, 6))));
    }
    let text = |bytes: &[u8]| bytes.last().is_none_or(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'));
    host.read_while(text).ok_or(Code::INVALID_VALUE)
}

/// The kernels of `image`. Errors: 200 no module, 209 for another GPU, 222 PTX that cannot be compiled here.
pub(crate) fn kernels(image: &[u8], loader: Loader) -> Answer<BTreeSet<String>> {
    if image.starts_with(b"\x7fELF") {
        return cubin(image, loader);
    }
    if image.starts_with(&FATBIN_MAGIC.to_le_bytes()) {
        return fatbin(image, loader);
    }
    ptx(image, loader)
}

fn has_magic(bytes: &[u8]) -> bool {
    b"\x7fELF".starts_with(bytes) || FATBIN_MAGIC.to_le_bytes().starts_with(bytes)
}

fn bounded(host: Host, bytes: Option<u64>) -> Answer<Vec<u8>> {
    let bytes = bytes.filter(|bytes| *bytes <= IMAGE_BYTES_MAX).and_then(|bytes| usize::try_from(bytes).ok());
    host.read(bytes.ok_or(Code::INVALID_IMAGE)?).ok_or(Code::INVALID_VALUE)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// A cubin runs on its major compute capability, from its minor on; one for a single model on that alone.
fn cubin(image: &[u8], loader: Loader) -> Answer<BTreeSet<String>> {
    let bad = |_| Code::INVALID_IMAGE;
    let header = FileHeader64::<LittleEndian>::parse(image).map_err(bad)?;
    let endian = LittleEndian;
    if header.e_machine(endian) != EM_CUDA {
        return Err(Code::INVALID_IMAGE);
    }
    let flags = header.e_flags(endian);
    let (arch, model_only) = if header.e_ident().abi_version < ABI_VERSION_2 {
        (flags & 0xff, flags & MODEL_ONLY[0] != 0)
    } else {
        (flags >> 8 & 0xff, flags & MODEL_ONLY[1] != 0)
    };
    let sections = header.sections(endian, image).map_err(bad)?;
    let symbols = sections.symbols(endian, image, object::elf::SHT_SYMTAB).map_err(bad)?;
    let mut kernels = BTreeSet::new();
    for (index, symbol) in symbols.enumerate() {
        let section = symbols.symbol_section(endian, symbol, index).map_err(bad)?;
        let Some(section) = section.filter(|_| symbol.st_type() == STT_FUNC) else { continue };
        let name = symbols.symbol_name(endian, symbol).map_err(bad)?;
        let section = sections.section(section).map_err(bad)?;
        section.data(endian, image).map_err(bad)?;
        let text = sections.section_name(endian, section).map_err(bad)?;
        if text.strip_prefix(b".text.") == Some(name) {
            kernels.insert(String::from_utf8_lossy(name).into_owned());
        }
    }
    if arch / 10 != loader.arch / 10 || arch > loader.arch || model_only && arch != loader.arch {
        return Err(Code::NO_BINARY_FOR_GPU);
    }
    Ok(kernels)
}

/// The first cubin for this GPU among the entries. Layout of an entry: kind u16, version u16, header's size u32, payload's
/// size u64, and at byte 28 the architecture u32.
fn fatbin(image: &[u8], loader: Loader) -> Answer<BTreeSet<String>> {
    let mut at = usize::from(half(image, 6));
    while at + 64 <= image.len() {
        let entry = &image[at..];
        let sizes = (u32::from(half(entry, 4)) | u32::from(half(entry, 6)) << 16, long(entry, 8));
        let (Ok(header), Ok(payload)) = (usize::try_from(sizes.0), usize::try_from(sizes.1)) else {
            return Err(Code::INVALID_IMAGE);
        };
        let end = header.checked_add(payload).ok_or(Code::INVALID_IMAGE)?;
        let contents = entry.get(header..end).ok_or(Code::INVALID_IMAGE)?;
        if half(entry, 0) == FATBIN_CUBIN && contents.starts_with(b"\x7fELF") {
            match cubin(contents, loader) {
                Err(Code::NO_BINARY_FOR_GPU) => {}
                found => return found,
            }
        }
        if end == 0 {
            return Err(Code::INVALID_IMAGE);
        }
        at += end;
    }
    Err(Code::NO_BINARY_FOR_GPU)
}

fn ptx(image: &[u8], loader: Loader) -> Answer<BTreeSet<String>> {
    let text = String::from_utf8_lossy(image);
    let word = |directive: &str| {
        let rest = text.lines().find_map(|line| line.trim_start().strip_prefix(directive))?;
        rest.split([' ', ',', ';']).find(|word| !word.is_empty()).map(str::to_owned)
    };
    let (Some(version), Some(target)) = (word(".version "), word(".target ")) else {
        return Err(Code::INVALID_IMAGE);
    };
    let version: Vec<u32> = version.split('.').filter_map(|part| part.trim_end_matches('\0').parse().ok()).collect();
    let [major, minor] = version[..] else { return Err(Code::INVALID_PTX) };
    if !loader.jit || (major, minor) > isa(loader.driver_version) {
        return Err(Code::UNSUPPORTED_PTX_VERSION);
    }
    let target: u32 = target.trim_start_matches("sm_").parse().map_err(|_| Code::INVALID_PTX)?;
    if target > loader.arch {
        return Err(Code::INVALID_PTX);
    }
    let entry = |rest: &str| {
        rest.trim_start().split(|c: char| !c.is_ascii_alphanumeric() && !"_$%".contains(c)).next().map(str::to_owned)
    };
    Ok(text.split(".entry").skip(1).filter_map(entry).collect())
}

/// The newest PTX ISA that a driver of this CUDA version knows. Source: PTX ISA, release notes.
fn isa(driver_version: i32) -> (u32, u32) {
    match driver_version / 10 {
        ..1200 => (7, 8),
        1200..=1205 => (8, u32::try_from(driver_version / 10 - 1200).unwrap_or(0)),
        1206 => (8, 5),
        1207 => (8, 6),
        1208 => (8, 7),
        1209..1300 => (8, 8),
        1300.. => (9, u32::try_from(driver_version / 10 - 1300).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOADER: Loader = Loader { arch: 89, driver_version: 12_080, jit: true };

    fn check(image: &[u8], loader: Loader, expected: Answer<&[&str]>) {
        let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(kernels(image, loader), expected, "{}", String::from_utf8_lossy(image));
    }

    fn entry(kind: u16, arch: u32, contents: &[u8]) -> Vec<u8> {
        let mut entry = vec![0; 64];
        entry[..2].copy_from_slice(&kind.to_le_bytes());
        entry[4] = 64;
        entry[8..16].copy_from_slice(&(contents.len() as u64).to_le_bytes());
        entry[28..32].copy_from_slice(&arch.to_le_bytes());
        entry.extend(contents);
        entry
    }

    #[test]
    fn a_cubin_runs_on_its_major_capability_from_its_minor_on() {
        for (arch, expected) in [(80, true), (86, true), (89, true), (75, false), (90, false), (120, false)] {
            let image = fake_gpu_script::cubin(arch, &[("a", &[8, 4]), ("b", &[])]);
            check(&image, LOADER, if expected { Ok(&["a", "b"]) } else { Err(Code::NO_BINARY_FOR_GPU) });
        }
        let newest = Loader { arch: 121, ..LOADER };
        check(&fake_gpu_script::cubin(120, &[("k", &[])]), newest, Ok(&["k"]));
        check(&fake_gpu_script::cubin(100, &[("k", &[])]), newest, Err(Code::NO_BINARY_FOR_GPU));
    }

    #[test]
    fn a_cubin_for_one_model_runs_on_that_alone() {
        let mut image = fake_gpu_script::cubin(80, &[("k", &[])]);
        image[49] |= 0x08;
        check(&image, Loader { arch: 80, ..LOADER }, Ok(&["k"]));
        check(&image, LOADER, Err(Code::NO_BINARY_FOR_GPU));
    }

    #[test]
    fn a_damaged_cubin_is_no_image() {
        let whole = fake_gpu_script::cubin(89, &[("kernel", &[8])]);
        for length in 0..whole.len() {
            assert_eq!(kernels(&whole[..length], LOADER), Err(Code::INVALID_IMAGE), "{length} bytes");
        }
        let mut other = whole.clone();
        other[18] = 62;
        check(&other, LOADER, Err(Code::INVALID_IMAGE));
    }

    #[test]
    fn a_fat_binary_gives_the_cubin_for_this_gpu() {
        let (old, fits) = (fake_gpu_script::cubin(75, &[("old", &[])]), fake_gpu_script::cubin(86, &[("fits", &[])]));
        let wrap = |entries: &[Vec<u8>]| {
            let entries = entries.concat();
            let mut image = FATBIN_MAGIC.to_le_bytes().to_vec();
            image.extend([1, 0, 16, 0]);
            image.extend((entries.len() as u64).to_le_bytes());
            image.extend(entries);
            image
        };
        check(&wrap(&[entry(1, 89, b"ptx"), entry(2, 75, &old), entry(2, 86, &fits)]), LOADER, Ok(&["fits"]));
        check(&wrap(&[entry(2, 75, &old)]), LOADER, Err(Code::NO_BINARY_FOR_GPU));
        check(&wrap(&[]), LOADER, Err(Code::NO_BINARY_FOR_GPU));
    }

    #[test]
    fn ptx_is_compiled_if_the_driver_knows_it_and_nobody_forbade_it() {
        let text = |version: &str, target: u32| {
            format!("// a comment\n.version {version}\n.target sm_{target}\n.address_size 64\n.visible .entry first(\n) {{}}\n.visible .entry second()").into_bytes()
        };
        check(&text("8.4", 75), LOADER, Ok(&["first", "second"]));
        check(&text("8.7", 89), LOADER, Ok(&["first", "second"]));
        check(&text("8.8", 75), LOADER, Err(Code::UNSUPPORTED_PTX_VERSION));
        check(&text("8.4", 90), LOADER, Err(Code::INVALID_PTX));
        check(&text("x", 75), LOADER, Err(Code::INVALID_PTX));
        check(&text("8.4", 75), Loader { jit: false, ..LOADER }, Err(Code::UNSUPPORTED_PTX_VERSION));
        check(b"", LOADER, Err(Code::INVALID_IMAGE));
        check(b"no module at all", LOADER, Err(Code::INVALID_IMAGE));
    }
}
