//! The head and the kernels of a cubin: an ELF file of 64 bits for one GPU.
//!
//! A kernel is a global function symbol whose code stands in `.text.NAME`. The sizes of its arguments stand in
//! `.nv.info.NAME`, where the compiler wrote them: a list of attributes, of which `KPARAM_INFO` describes one argument.
//! Source of the layout: `cuobjdump` and `nvdisasm -elf` on compiled files, and LLVM's NVPTX definitions.

use object::LittleEndian as LE;
use object::elf::{EM_CUDA, FileHeader64, STB_GLOBAL, STT_FUNC};
use object::read::elf::{FileHeader as _, SectionHeader as _, SectionTable, Sym as _};

use super::{Contents, Kernel};
use crate::limits::{ARGUMENTS_MAX, KERNELS_MAX};
use crate::version::Arch;

type Head = FileHeader64<LE>;

/// `EI_ABIVERSION` of CUDA up to 12, and of later ones.
const ABI_1: u8 = 7;
const ABI_2: u8 = 8;

/// `e_flags`: code that uses features of one GPU model only (`sm_90a`).
const MODEL_ONLY_1: u32 = 0x800;
const MODEL_ONLY_2: u32 = 0x8;

/// An attribute's form, in its first byte: how its value is stored.
const FORM_SIZED: u8 = 4;
/// An attribute's name, in its second byte.
const KPARAM_INFO: u8 = 0x17;
/// Bytes of a `KPARAM_INFO`: index, ordinal and offset, packed flags.
const KPARAM_BYTES: usize = 12;

/// Reads a module. Errors: a sentence that says what the file lacks.
pub(super) fn read(bytes: &[u8]) -> Result<Contents, String> {
    let broken = |error: object::Error| format!("not a cubin: {error}");
    let head = Head::parse(bytes).map_err(broken)?;
    if !head.is_little_endian() || head.e_machine.get(LE) != EM_CUDA {
        return Err("not a cubin: an ELF file for something else".to_owned());
    }
    let target = target(head.e_ident.abi_version, head.e_flags.get(LE))?;
    let sections = head.sections(LE, bytes).map_err(broken)?;
    let symbols = sections.symbols(LE, bytes, object::elf::SHT_SYMTAB).map_err(broken)?;
    let mut kernels = Vec::new();
    for symbol in symbols.iter() {
        // What is used and not defined here, such as `vprintf`, is in no section.
        let is_defined = symbol.st_shndx(LE) != object::elf::SHN_UNDEF;
        if symbol.st_bind() != STB_GLOBAL || symbol.st_type() != STT_FUNC || !is_defined {
            continue;
        }
        let name = symbols.symbol_name(LE, symbol).map_err(broken)?;
        let name = std::str::from_utf8(name).map_err(|_| "a kernel's name is not ASCII")?;
        let section = symbol.st_shndx(LE);
        let section = sections.section(object::SectionIndex(section.into())).map_err(broken)?;
        // A function for other kernels stands in the section of one of them.
        if sections.section_name(LE, section).map_err(broken)? != format!(".text.{name}").as_bytes() {
            continue;
        }
        if kernels.len() >= KERNELS_MAX {
            return Err(format!("more than {KERNELS_MAX} kernels"));
        }
        kernels.push(Kernel { name: name.to_owned(), parameters: parameters(&sections, bytes, name)? });
    }
    Ok(Contents { ptx_isa: None, targets: vec![target], kernels })
}

/// The target in the file's flags.
fn target(abi: u8, flags: u32) -> Result<Arch, String> {
    let (number, model_only) = match abi {
        ABI_1 => (flags & 0xff, flags & MODEL_ONLY_1 != 0),
        ABI_2 => (flags >> 8 & 0xff, flags & MODEL_ONLY_2 != 0),
        other => return Err(format!("a cubin of ABI version {other}; {ABI_1} and {ABI_2} are read here")),
    };
    if model_only {
        return Err(format!("code for one model of sm_{number} only; build it for the plain target"));
    }
    Ok(Arch::from(number))
}

/// The sizes of a kernel's arguments; none if the compiler did not write them.
fn parameters(sections: &SectionTable<'_, Head>, bytes: &[u8], kernel: &str) -> Result<Option<Vec<u32>>, String> {
    let broken = || format!("kernel {kernel}: its attributes cannot be read");
    let Some((_, section)) = sections.section_by_name(LE, format!(".nv.info.{kernel}").as_bytes()) else {
        return Ok(None);
    };
    let mut rest: &[u8] = section.data(LE, bytes).map_err(|_| broken())?;
    let mut sizes: Vec<(u16, u32)> = Vec::new();
    while let [form, name, low, high, behind @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let length = if *form == FORM_SIZED { length } else { 0 };
        let (value, after) = behind.split_at_checked(length).ok_or_else(broken)?;
        rest = after;
        if *form == FORM_SIZED && *name == KPARAM_INFO {
            let value: [u8; KPARAM_BYTES] = value.try_into().map_err(|_| broken())?;
            let packed = u32::from_le_bytes([value[8], value[9], value[10], value[11]]);
            sizes.push((u16::from_le_bytes([value[4], value[5]]), packed >> 18));
        }
        if sizes.len() > ARGUMENTS_MAX {
            return Err(format!("kernel {kernel}: more than {ARGUMENTS_MAX} arguments"));
        }
    }
    if !rest.is_empty() {
        return Err(broken());
    }
    sizes.sort_unstable();
    let in_order = sizes.iter().enumerate().all(|(index, (ordinal, _))| usize::from(*ordinal) == index);
    // A kernel without arguments and one whose compiler told nothing look the same.
    Ok((in_order && !sizes.is_empty()).then(|| sizes.into_iter().map(|(_, size)| size).collect()))
}
