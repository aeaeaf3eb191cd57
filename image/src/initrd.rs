//! The initrd: `rig-init` and the modules it loads, as the kernel unpacks it.
//!
//! ```text
//! /init              rig-init, static
//! /modules/order     one file name a line
//! /modules/NAME.ko
//! /dev /proc /run /sys /sysroot
//! ```
//! Invariants: no time, owner, device number or inode of the machine that builds gets in; entries are sorted, folders
//! first. Source of the format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst ("newc").

use std::collections::BTreeMap;
use std::io;

/// Smaller than the default of most tools, and the kernel unpacks it as fast.
const LEVEL: i32 = 19;

/// Mounted on by rig-init.
const FOLDERS: [&str; 6] = ["dev", "modules", "proc", "run", "sys", "sysroot"];

/// The kernel's alignment of names and contents.
const ALIGNMENT: usize = 4;

const FOLDER_MODE: u32 = 0o040_755;
const PROGRAM_MODE: u32 = 0o100_755;
const FILE_MODE: u32 = 0o100_644;

/// Packs `init` and `modules` (file name and content, in the order of loading).
pub fn pack(init: &[u8], modules: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let order: String = modules.iter().map(|(name, _)| format!("{name}\n")).collect();
    let mut entries: BTreeMap<String, (u32, &[u8])> = BTreeMap::new();
    for folder in FOLDERS {
        entries.insert(folder.to_owned(), (FOLDER_MODE, &[]));
    }
    entries.insert("init".to_owned(), (PROGRAM_MODE, init));
    entries.insert("modules/order".to_owned(), (FILE_MODE, order.as_bytes()));
    for (name, content) in modules {
        entries.insert(format!("modules/{name}"), (FILE_MODE, content));
    }
    let mut archive = Vec::new();
    for (number, (name, (mode, content))) in entries.iter().enumerate() {
        entry(&mut archive, number + 1, name, *mode, content)?;
    }
    entry(&mut archive, 0, "TRAILER!!!", 0, &[])?;
    zstd::bulk::compress(&archive, LEVEL)
}

/// One entry: a header of hexadecimal numbers, the name, the content.
fn entry(archive: &mut Vec<u8>, number: usize, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, format!("{name} does not fit into an initrd"));
    let size = u32::try_from(content.len()).map_err(too_large)?;
    let links = if mode == FOLDER_MODE { 2 } else { 1 };
    archive.extend_from_slice(b"070701");
    // Inode, mode, owner, group, links, time, size, four numbers of devices, length of the name, checksum.
    for field in [number, mode as usize, 0, 0, links, 0, size as usize, 0, 0, 0, 0, name.len() + 1, 0] {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(ALIGNMENT), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(ALIGNMENT), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initrd_is_as_the_kernel_wants_it() {
        let modules = [("b.ko".to_owned(), vec![7; 5]), ("a.ko".to_owned(), vec![8])];
        let packed = pack(b"program", &modules).expect("small");
        assert_eq!(packed, pack(b"program", &modules).expect("small"), "the same twice");
        let plain = zstd::bulk::decompress(&packed, 1 << 20).expect("its own");
        let text = String::from_utf8_lossy(&plain);
        assert!(
            plain.len().is_multiple_of(ALIGNMENT)
                && text.contains("b.ko\na.ko\n")
                && text.ends_with("TRAILER!!!\0\0\0\0")
        );
        // "070701", then 13 fields of 8 digits, then the name.
        let names: Vec<usize> = ["dev\0", "init\0", "modules\0", "modules/a.ko\0", "modules/b.ko\0", "modules/order\0"]
            .iter()
            .map(|name| text.find(name).expect(name))
            .collect();
        assert!(names.is_sorted(), "{names:?}");
    }
}
