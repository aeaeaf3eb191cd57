//! Boot entries of other systems, put into the firmware's variables as their installers would have left them.
//!
//! ```text
//! firmware volume header, its length at byte 48 (u16)
//! variable store header, 28 bytes
//! variables, each aligned to 4 bytes:
//!   AA 55, state, 0, attributes u32, count u64, time 16 bytes, key index u32, name length u32, data length u32, vendor 16
//!   name (UTF-16, with its zero), data
//! FF …
//! ```
//! Source: EDK II, `MdeModulePkg/Include/Guid/VariableFormat.h`, the authenticated variant.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const STORE_HEADER_BYTES: usize = 28;
const VARIABLE_HEADER_BYTES: usize = 60;
const START: [u8; 2] = [0xaa, 0x55];
/// Added, and not deleted since.
const ADDED: u8 = 0x3f;
/// Non-volatile, for the time of boot services, and for the system.
const ATTRIBUTES: u32 = 7;
/// EFI_GLOBAL_VARIABLE, 8BE4DF61-93CA-11D2-AA0D-00E098032B8C, as it lies in memory.
const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];

/// Writes boot entries for files on disks that are not there into `variables`, first in the order.
pub(crate) fn add_foreign_entries(variables: &Path) -> Result<()> {
    let mut flash = fs::read(variables)?;
    let files =
        [("Windows Boot Manager", "\\EFI\\Microsoft\\Boot\\bootmgfw.efi"), ("ubuntu", "\\EFI\\ubuntu\\shimx64.efi")];
    let mut order = Vec::new();
    for (number, (name, file)) in (0x0010_u16..).zip(files) {
        add(&mut flash, &format!("Boot{number:04X}"), &entry(name, file))?;
        order.extend_from_slice(&number.to_le_bytes());
    }
    add(&mut flash, "BootOrder", &order)?;
    Ok(fs::write(variables, flash)?)
}

/// A load option: active, for a file on a GPT partition with an id of nobody's.
fn entry(name: &str, file: &str) -> Vec<u8> {
    let file = utf16(file);
    // Kind 4.1: a partition. Number, first sector, sectors, id, a GPT, the id is a GUID.
    let mut path = vec![4, 1, 42, 0];
    path.extend(1_u32.to_le_bytes());
    path.extend(2048_u64.to_le_bytes());
    path.extend(200_000_u64.to_le_bytes());
    path.extend([0x5a; 16]);
    path.extend([2, 2]);
    // Kind 4.4: a file.
    path.extend([4, 4]);
    path.extend(u16::try_from(file.len() + 4).unwrap_or(u16::MAX).to_le_bytes());
    path.extend(file);
    // The end.
    path.extend([0x7f, 0xff, 4, 0]);
    let mut option = 1_u32.to_le_bytes().to_vec();
    option.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
    option.extend(utf16(name));
    option.extend(path);
    option
}

fn add(flash: &mut [u8], name: &str, data: &[u8]) -> Result<()> {
    ensure!(flash.get(40..44) == Some(b"_FVH"), "no firmware volume");
    let mut at = usize::from(u16::from_le_bytes([flash[48], flash[49]])) + STORE_HEADER_BYTES;
    while flash.get(at..at + 2) == Some(&START) {
        let word = |offset: usize| -> Result<usize> {
            let bytes = flash.get(at + offset..at + offset + 4).context("a variable leaves the store")?;
            Ok(usize::try_from(u32::from_le_bytes(bytes.try_into()?))?)
        };
        at = (at + VARIABLE_HEADER_BYTES + word(36)? + word(40)?).next_multiple_of(4);
    }
    let name = utf16(name);
    let mut variable = [START[0], START[1], ADDED, 0].to_vec();
    variable.extend(ATTRIBUTES.to_le_bytes());
    variable.extend([0; 8 + 16 + 4]);
    variable.extend(u32::try_from(name.len())?.to_le_bytes());
    variable.extend(u32::try_from(data.len())?.to_le_bytes());
    variable.extend(GLOBAL);
    variable.extend(name);
    variable.extend(data);
    let room = flash.get_mut(at..at + variable.len()).context("the store is full")?;
    ensure!(room.iter().all(|byte| *byte == 0xff), "the store's end is not empty");
    room.copy_from_slice(&variable);
    Ok(())
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}
