//! The smallest file that passes for a cubin: what a loader and a validator look at, and no instructions.
//!
//! ```text
//! | ELF64 header: machine 190, flags with the architecture | contents of the sections | section headers |
//! sections: null, .shstrtab, .strtab, .symtab, and for each kernel .nv.info.NAME and .text.NAME
//! ```
//!
//! Sources: the ELF64 object file format; LLVM's `BinaryFormat/ELF.h` for CUDA's constants; the records of `.nv.info.*` as
//! `cuobjdump -elf` prints them.

/// ELF: size of the file header.
const HEADER_BYTES: u64 = 64;
/// ELF: a section of the program's own contents.
const PROGBITS: u32 = 1;
/// ELF: the symbol table.
const SYMTAB: u32 = 2;
/// ELF: a table of NUL-terminated names.
const STRTAB: u32 = 3;
/// CUDA: records about kernels (`SHT_LOPROC`).
const CUDA_INFO: u32 = 0x7000_0000;
/// ELF: occupies memory, is executable.
const ALLOC_EXEC: u64 = 0x6;
/// Index of `.strtab` among the sections.
const STRTAB_INDEX: u32 = 2;
/// Sections in front of the kernels'.
const FIXED_SECTIONS: usize = 4;

struct Section {
    name: String,
    kind: u32,
    flags: u64,
    link: u32,
    info: u32,
    entry_bytes: u64,
    bytes: Vec<u8>,
}

/// A cubin for the architecture `arch` (89 for `sm_89`) with these kernels, each with the sizes of its parameters in
/// bytes. A parameter lies at the next multiple of its size. Kernel names are C identifiers.
///
/// It holds no code: a real driver would load it and then fail.
#[must_use]
pub fn cubin(arch: u32, kernels: &[(&str, &[u32])]) -> Vec<u8> {
    let mut sections = vec![Section::new("", 0), Section::new(".shstrtab", STRTAB), Section::new(".strtab", STRTAB)];
    let mut names = vec![0];
    let mut symbols = vec![0; 24];
    for (index, (kernel, _)) in kernels.iter().enumerate() {
        let text = FIXED_SECTIONS + 2 * index + 1;
        symbols.extend(u32_of(names.len()).to_le_bytes());
        symbols.extend([0x12, 0x10]); // a global function; a kernel (STO_CUDA_ENTRY)
        symbols.extend(u16::try_from(text).expect("a cubin has few kernels").to_le_bytes());
        symbols.extend(0_u64.to_le_bytes());
        symbols.extend((CODE_BYTES as u64).to_le_bytes());
        names.extend(kernel.bytes());
        names.push(0);
    }
    sections[2].bytes = names;
    sections.push(Section {
        link: STRTAB_INDEX,
        info: 1,
        entry_bytes: 24,
        bytes: symbols,
        ..Section::new(".symtab", SYMTAB)
    });
    for (index, (kernel, parameters)) in kernels.iter().enumerate() {
        let text = FIXED_SECTIONS + 2 * index + 1;
        sections.push(Section {
            info: u32_of(text),
            bytes: parameter_records(parameters),
            ..Section::new(&format!(".nv.info.{kernel}"), CUDA_INFO)
        });
        sections.push(Section {
            flags: ALLOC_EXEC,
            info: u32_of(index + 1),
            bytes: vec![0; CODE_BYTES],
            ..Section::new(&format!(".text.{kernel}"), PROGBITS)
        });
    }
    assemble(arch, sections)
}

/// Length of each kernel's empty code section.
const CODE_BYTES: usize = 128;

fn assemble(arch: u32, mut sections: Vec<Section>) -> Vec<u8> {
    let mut names = vec![0];
    let mut name_offsets = vec![0];
    for section in &sections[1..] {
        name_offsets.push(u32_of(names.len()));
        names.extend(section.name.bytes());
        names.push(0);
    }
    sections[1].bytes = names;

    let mut body = Vec::new();
    let mut headers = Vec::new();
    for (section, name) in sections.iter().zip(name_offsets) {
        pad(&mut body);
        let offset = if section.kind == 0 { 0 } else { HEADER_BYTES + body.len() as u64 };
        headers.extend(name.to_le_bytes());
        headers.extend(section.kind.to_le_bytes());
        headers.extend(section.flags.to_le_bytes());
        headers.extend(0_u64.to_le_bytes());
        headers.extend(offset.to_le_bytes());
        headers.extend((section.bytes.len() as u64).to_le_bytes());
        headers.extend(section.link.to_le_bytes());
        headers.extend(section.info.to_le_bytes());
        headers.extend(1_u64.to_le_bytes());
        headers.extend(section.entry_bytes.to_le_bytes());
        body.extend(&section.bytes);
    }
    pad(&mut body);
    let mut file = header(arch, sections.len(), HEADER_BYTES + body.len() as u64);
    file.extend(body);
    file.extend(headers);
    file
}

/// From `sm_100` on the second version of CUDA's ELF holds, whose flags keep the architecture one byte higher.
fn header(arch: u32, sections: usize, section_headers_at: u64) -> Vec<u8> {
    let (os_abi, abi_version, flags) =
        if arch < 100 { (0x33, 7, arch << 16 | 0x500 | arch) } else { (0x41, 8, 0x0600_0002 | arch << 8) };
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.push(os_abi);
    header.push(abi_version);
    header.extend([0; 7]);
    header.extend(2_u16.to_le_bytes()); // an executable
    header.extend(190_u16.to_le_bytes()); // EM_CUDA
    header.extend(1_u32.to_le_bytes());
    header.extend(0_u64.to_le_bytes());
    header.extend(0_u64.to_le_bytes());
    header.extend(section_headers_at.to_le_bytes());
    header.extend(flags.to_le_bytes());
    for half in [64, 56, 0, 64, u16::try_from(sections).expect("a cubin has few kernels"), 1] {
        header.extend(half.to_le_bytes());
    }
    header
}

/// One `EIATTR_KPARAM_INFO` for each parameter, the last one first as the assembler writes them, and the sum of all in
/// `EIATTR_CBANK_PARAM_SIZE`.
fn parameter_records(sizes: &[u32]) -> Vec<u8> {
    let mut end = 0_u32;
    let mut records = Vec::new();
    for (ordinal, size) in sizes.iter().enumerate() {
        let offset = end.next_multiple_of((*size).clamp(1, 8).next_power_of_two());
        end = offset + size;
        let mut record = vec![0x04, 0x17, 12, 0];
        record.extend(0_u32.to_le_bytes());
        record.extend(half_of(u32_of(ordinal)).to_le_bytes());
        record.extend(half_of(offset).to_le_bytes());
        record.extend((size << 18 | 0x1f << 12).to_le_bytes());
        records.push(record);
    }
    let mut bytes = vec![0x03, 0x19];
    bytes.extend(half_of(end).to_le_bytes());
    bytes.extend(records.into_iter().rev().flatten());
    bytes
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn u32_of(value: usize) -> u32 {
    u32::try_from(value).expect("a cubin is small")
}

fn half_of(value: u32) -> u16 {
    u16::try_from(value).expect("a kernel's parameters take at most 4 KiB")
}

// === impl Section ===

impl Section {
    fn new(name: &str, kind: u32) -> Section {
        Section { name: name.to_owned(), kind, flags: 0, link: 0, info: 0, entry_bytes: 0, bytes: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_aligned_to_their_size_and_told_last_first() {
        let check = |sizes: &[u32], expected: &[u8]| assert_eq!(parameter_records(sizes), expected, "{sizes:?}");
        check(&[], &[3, 0x19, 0, 0]);
        check(
            &[4, 8],
            &[
                3, 0x19, 16, 0, //
                4, 0x17, 12, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0xf0, 0x21, 0, //
                4, 0x17, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0x11, 0,
            ],
        );
    }

    #[test]
    fn the_architecture_is_in_the_flags() {
        let check = |arch, abi: [u8; 2], flags: u32| {
            let file = cubin(arch, &[("k", &[8])]);
            assert_eq!((&file[7..9], &file[48..52]), (abi.as_slice(), flags.to_le_bytes().as_slice()), "sm_{arch}");
        };
        // As NVRTC 12 writes them.
        check(75, [0x33, 7], 0x004b_054b);
        check(90, [0x33, 7], 0x005a_055a);
        check(120, [0x41, 8], 0x0600_7802);
    }
}
