//! Machines that are not there: the part of `/sys` in which a rig looks for what its key can be bound to.
//!
//! Two numbers give two machines that share nothing; a test takes parts away or moves them with ordinary file calls.

use std::path::Path;

use anyhow::{Context, Result};

/// Writes machine `number` below `root`: a board with serials, an NVMe drive, a network card on PCI, two GPUs.
pub fn machine(root: &Path, number: u8) -> Result<()> {
    board(root, number)?;
    drive(root, number)?;
    card(root, number)?;
    for slot in 0..2 {
        gpu(root, number, slot)?;
    }
    Ok(())
}

/// The board's serials.
pub fn board(root: &Path, number: u8) -> Result<()> {
    let dmi = "sys/class/dmi/id";
    write(
        root,
        &format!("{dmi}/product_uuid"),
        &format!("4c4c4544-004d-3910-8054-b7c04f5a{number:02x}{:02x}", !number),
    )?;
    write(root, &format!("{dmi}/board_serial"), &format!("/7GX4R2{number:03}/CNWS2008B{number:03}/"))?;
    write(root, &format!("{dmi}/product_serial"), &format!("PF3K9{number:03}Q"))?;
    write(root, &format!("{dmi}/chassis_serial"), "To be filled by O.E.M.")
}

/// An NVMe drive that is neither removable nor on USB.
fn drive(root: &Path, number: u8) -> Result<()> {
    let device = format!("sys/devices/pci0000:00/0000:00:1d.0/0000:{number:02x}:00.0/nvme/nvme0");
    write(root, &format!("{device}/serial"), &format!("S5GXNX0T{number:03}814K"))?;
    write(root, &format!("{device}/nvme0n1/removable"), "0")?;
    link(root, &format!("{device}/nvme0n1/device"), "..")?;
    link(root, "sys/block/nvme0n1", &format!("../../{device}/nvme0n1"))
}

/// A network card on PCI with the address that it was made with.
fn card(root: &Path, number: u8) -> Result<()> {
    let device = "sys/devices/pci0000:00/0000:00:1f.6";
    write(root, &format!("{device}/net/eno1/address"), &format!("3c:7c:3f:1a:9e:{number:02x}"))?;
    write(root, &format!("{device}/net/eno1/addr_assign_type"), "0")?;
    link(root, &format!("{device}/net/eno1/device"), "../..")?;
    link(root, "sys/class/net/eno1", &format!("../../../{device}/net/eno1"))
}

/// A GPU of the machine in `slot`, as its driver tells of it.
pub fn gpu(root: &Path, number: u8, slot: u8) -> Result<()> {
    let text = format!(
        "Model: \t\t A GPU\nIRQ:   \t\t {}\nGPU UUID: \t GPU-5a1e0d3c-77b2-4f19-8c4d-0b{number:02x}9e{slot:02x}41f7\n\
         Bus Type: \t PCIe\n",
        120 + slot
    );
    write(root, &format!("proc/driver/nvidia/gpus/0000:{:02x}:00.0/information", slot + 1), &text)
}

fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().context("a path below the root")?)?;
    std::fs::write(&path, format!("{text}\n")).with_context(|| format!("write {}", path.display()))
}

fn link(root: &Path, path: &str, to: &str) -> Result<()> {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().context("a path below the root")?)?;
    std::os::unix::fs::symlink(to, &path).with_context(|| format!("link {}", path.display()))
}
