//! Machine code that is none: the code of one kernel in a cubin, overwritten with what no GPU executes.

use anyhow::{Context as _, Result, ensure};
use object::read::elf::{FileHeader as _, SectionHeader as _};
use object::{LittleEndian as LE, elf};

/// No instruction of any architecture so far: all bits are ones.
const NONE: u8 = 0xff;

/// Overwrites the code of `kernel`.
pub(crate) fn spoil(cubin: &[u8], kernel: &str) -> Result<Vec<u8>> {
    let header = elf::FileHeader64::<LE>::parse(cubin).context("read the head of a cubin")?;
    let sections = header.sections(LE, cubin).context("read the sections of a cubin")?;
    let (_, section) =
        sections.section_by_name(LE, format!(".text.{kernel}").as_bytes()).context("the cubin has no such kernel")?;
    let (at, bytes) = section.file_range(LE).context("the kernel has no code")?;
    let (at, bytes) = (usize::try_from(at)?, usize::try_from(bytes)?);
    ensure!(bytes > 0 && at + bytes <= cubin.len(), "the kernel's code is not in the file");
    let mut spoilt = cubin.to_vec();
    spoilt[at..at + bytes].fill(NONE);
    Ok(spoilt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_one_kernel_is_overwritten_and_nothing_else() {
        let good = fake_gpu_script::cubin(89, &[("first", &[8]), ("second", &[8])]);
        let spoilt = spoil(&good, "second").expect("it has it");
        let changed = good.iter().zip(&spoilt).filter(|(before, after)| before != after).count();
        assert_eq!((spoilt.len(), changed), (good.len(), 128));
        assert!(spoil(&good, "third").is_err() && spoil(b"no cubin", "first").is_err());
    }
}
