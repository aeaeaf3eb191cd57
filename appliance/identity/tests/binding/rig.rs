//! Machines that are not there: the part of `/sys` and `/proc` in which a rig looks for what its key can be bound to.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use identity::fields::{self, Fields};
use tempfile::TempDir;

/// A machine below a directory of its own.
pub(crate) struct Rig(TempDir);

// === impl Rig ===

impl Rig {
    /// A machine without parts.
    pub(crate) fn bare() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// Seven fields: two of the board, a drive, a network card, three GPUs. Two numbers share none.
    pub(crate) fn usual(number: u8) -> Self {
        let rig = Self::bare();
        rig.board(number).nvme(number).nic(number);
        for card in 0..3 {
            rig.gpu(card, number, card);
        }
        rig
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn fields(&self) -> Fields {
        fields::read(self.root())
    }

    /// Two serials of its own, and two that every board of the make has.
    pub(crate) fn board(&self, number: u8) -> &Self {
        self.dmi("product_uuid", &format!("4c4c4544-004d-3910-8054-b7c04f5a{number:02x}{:02x}", !number))
            .dmi("board_serial", &format!("/7GX4R2{number:03}/CNWS2008B/"))
            .dmi("product_serial", "System Serial Number")
            .dmi("chassis_serial", "To be filled by O.E.M.")
    }

    pub(crate) fn dmi(&self, name: &str, value: &str) -> &Self {
        self.file(&format!("sys/class/dmi/id/{name}"), format!("{value}\n"))
    }

    pub(crate) fn nvme(&self, number: u8) -> &Self {
        self.drive("nvme0n1", "pci0000:00/0000:00:1d.0/0000:3d:00.0/nvme/nvme0", "0").file(
            "sys/devices/pci0000:00/0000:00:1d.0/0000:3d:00.0/nvme/nvme0/serial",
            format!("S5GXNX0T{number:03}814K  \n"),
        )
    }

    /// A block device that hangs on the device at `device` below `sys/devices`.
    pub(crate) fn drive(&self, name: &str, device: &str, removable: &str) -> &Self {
        let block = format!("sys/devices/{device}/{name}");
        self.file(&format!("{block}/removable"), format!("{removable}\n"))
            .link(&format!("{block}/device"), &format!("sys/devices/{device}"))
            .link(&format!("sys/block/{name}"), &block)
    }

    pub(crate) fn nic(&self, number: u8) -> &Self {
        self.interface("enp4s0", "pci0000:00/0000:04:00.0", "0", &format!("3c:7c:3f:1a:9e:{number:02x}"))
    }

    pub(crate) fn interface(&self, name: &str, device: &str, assigned: &str, address: &str) -> &Self {
        let interface = format!("sys/devices/{device}/net/{name}");
        self.file(&format!("{interface}/addr_assign_type"), format!("{assigned}\n"))
            .file(&format!("{interface}/address"), format!("{address}\n"))
            .link(&format!("sys/class/net/{name}"), &interface)
    }

    /// Card `card` of machine `number`, in `slot`.
    pub(crate) fn gpu(&self, slot: u8, number: u8, card: u8) -> &Self {
        let text = format!(
            "Model: \t\t NVIDIA GeForce RTX 3060\nIRQ:   \t\t {}\n\
             GPU UUID: \t GPU-5a1e0d3c-77b2-4f19-8c4d-0b{number:02x}9e{card:02x}41f7\n\
             Video BIOS: \t 94.06.14.00.1d\nBus Type: \t PCIe\n",
            120 + slot
        );
        self.file(&format!("proc/driver/nvidia/gpus/0000:{:02x}:00.0/information", slot + 1), text)
    }

    pub(crate) fn file(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        fs::write(self.made(path), bytes).expect("write");
        self
    }

    pub(crate) fn link(&self, path: &str, target: &str) -> &Self {
        let target = self.root().join(target);
        let path = self.made(path);
        if path.is_symlink() {
            fs::remove_file(&path).expect("a link");
        }
        symlink(target, path).expect("link");
        self
    }

    /// Takes the part at `path` away.
    pub(crate) fn without(&self, path: &str) -> &Self {
        let path = self.root().join(path);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.expect("it was there");
        self
    }

    fn made(&self, path: &str) -> PathBuf {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("mkdir");
        path
    }
}
