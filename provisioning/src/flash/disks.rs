//! Which disks this machine has, what they are used for, and which of them may be written.
//!
//! Everything is read from the kernel's own files, without root and without opening a disk. Where they say nothing, the
//! disk counts as one that must not be touched: it is removable only if the kernel or its bus says so.
//!
//! Invariants: whole disks only; what stands below a disk (partitions, and whatever is stacked on them: LUKS, LVM, RAID)
//! counts as the disk's own; a mount outside the places where people's sticks go is the system's.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

/// The kernel counts every disk in these, whatever its sectors.
const KERNEL_SECTOR_BYTES: u64 = 512;

/// What a rig needs behind the image for its own state: keys, ledger, and a first source's files.
pub(crate) const STATE_BYTES_MIN: u64 = 512 << 20;

/// Devices may be stacked: partition, RAID, LUKS, LVM. Nobody has more floors than this.
const FLOORS_MAX: usize = 8;

/// Where desktops and people mount what they plugged in.
const PLUGGED_IN: [&str; 3] = ["/media", "/run/media", "/mnt"];

/// Devices that are no disks of their own: loops, memory, optical, floppy, stacked and network devices.
const NO_DISKS: [&str; 9] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "rbd"];

/// Where the kernel says what there is. Tests name others.
#[derive(Clone, Debug)]
pub(crate) struct System {
    sys: PathBuf,
    udev: PathBuf,
    mounts: Vec<Mount>,
    swaps: BTreeSet<String>,
}

/// One line of mountinfo: the device by number and by name, and where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Mount {
    number: String,
    source: String,
    at: PathBuf,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Disk {
    /// The kernel's name, such as `sdb`.
    pub(crate) name: String,
    /// Its device, such as `/dev/sdb`.
    pub(crate) device: PathBuf,
    /// Major and minor number, as in `8:16`.
    pub(crate) number: String,
    pub(crate) bytes: u64,
    pub(crate) sector_bytes: u32,
    pub(crate) model: String,
    pub(crate) serial: String,
    pub(crate) bus: Bus,
    pub(crate) is_removable: bool,
    pub(crate) is_read_only: bool,
    /// What is on it now, a word or two per partition.
    pub(crate) holds: Vec<String>,
    /// Who uses it now; empty: nobody.
    pub(crate) uses: Vec<Use>,
    /// Counts up with every disk that is plugged in, so that another disk under the same name is noticed.
    pub(crate) sequence: Option<u64>,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Bus {
    Usb,
    /// A card in a reader that is no USB device.
    Sd,
    /// Soldered flash.
    Emmc,
    Nvme,
    Loop,
    Other,
}

/// A use that a disk is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Use {
    /// A part of the running system is mounted from it.
    System(PathBuf),
    Swap(String),
    /// LUKS, LVM, RAID or another device is stacked on it, by the kernel's name.
    Held(String),
    /// Something was plugged in and mounted.
    Mounted(PathBuf),
}

/// What the image needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub(crate) bytes: u64,
    pub(crate) sector_bytes: u32,
}

/// What the person explicitly allowed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed {
    pub(crate) fixed: bool,
    pub(crate) unmount: bool,
}

/// Why a disk must not be written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Refusal {
    #[error("it is this computer's own disk: {} is mounted from it", at.display())]
    System { at: PathBuf },
    #[error("this computer swaps to {0}")]
    Swap(String),
    #[error("{0} is stacked on it (LUKS, LVM or RAID)")]
    Held(String),
    #[error("it is mounted at {}", at.display())]
    Mounted { at: PathBuf },
    #[error("it is built in, not removable")]
    Fixed,
    #[error("it is read-only: a card may have its lock switch set")]
    ReadOnly,
    #[error("there is no card or medium in it")]
    Empty,
    #[error("it has {has} MiB, and the rig needs {needs} MiB: the image and {} MiB for its state", STATE_BYTES_MIN >> 20)]
    Small { has: u64, needs: u64 },
    #[error("its sectors have {has} bytes, and this image is made for sectors of {needs}")]
    Sectors { has: u32, needs: u32 },
}

// === impl System ===

impl System {
    /// This machine, as it is now.
    pub(crate) fn here() -> System {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        // The first process sees mounts that a container or a private namespace hides from us.
        let mounts = [read("/proc/self/mountinfo"), read("/proc/1/mountinfo")].concat();
        System::new("/sys".into(), "/run/udev/data".into(), &mounts, &read("/proc/swaps"))
    }

    fn new(sys: PathBuf, udev: PathBuf, mountinfo: &str, swaps: &str) -> System {
        let swaps = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(unescaped).collect();
        System { sys, udev, mounts: mountinfo.lines().filter_map(Mount::parse).collect(), swaps }
    }

    /// All disks, removable ones first, by name.
    pub(crate) fn disks(&self) -> Vec<Disk> {
        let mut disks: Vec<_> = self.names().into_iter().filter_map(|name| self.disk(&name)).collect();
        disks.sort_by_key(|disk| (!disk.is_removable, disk.name.clone()));
        disks
    }

    fn names(&self) -> Vec<String> {
        let is_disk = |name: &String| !NO_DISKS.iter().any(|other| name.starts_with(other)) && !is_part_of_mmc(name);
        list(&self.sys.join("block")).into_iter().filter(is_disk).collect()
    }

    /// The disk that the kernel calls `name`, of whatever kind.
    pub(crate) fn disk(&self, name: &str) -> Option<Disk> {
        let at = self.sys.join("block").join(name);
        let number = word(&at.join("dev"))?;
        if word(&at.join("hidden")).is_some_and(|hidden| hidden == "1") {
            return None;
        }
        let real = fs::canonicalize(&at).ok()?;
        let bus = bus_of(name, &real);
        let udev = self.udev_of(&number);
        let flag = |file: &str| word(&at.join(file)).is_some_and(|value| value == "1");
        let count = |file: &str| word(&at.join(file)).and_then(|value| value.parse::<u64>().ok());
        Some(Disk {
            name: name.to_owned(),
            device: Path::new("/dev").join(name),
            bytes: count("size").unwrap_or(0).saturating_mul(KERNEL_SECTOR_BYTES),
            sector_bytes: count("queue/logical_block_size").and_then(|size| size.try_into().ok()).unwrap_or(512),
            model: model_of(&at),
            serial: serial_of(&at, &real).or_else(|| value_of(&udev, "ID_SERIAL_SHORT")).unwrap_or_default(),
            bus,
            is_removable: flag("removable") || matches!(bus, Bus::Usb | Bus::Sd),
            is_read_only: flag("ro"),
            holds: self.holds(&at, &udev),
            uses: self.uses(&at, &number),
            sequence: count("diskseq"),
            number,
        })
    }

    fn udev_of(&self, number: &str) -> String {
        fs::read_to_string(self.udev.join(format!("b{number}"))).unwrap_or_default()
    }

    /// What is on the disk now: per partition its file system and label, as far as the system has looked.
    fn holds(&self, at: &Path, udev: &str) -> Vec<String> {
        let words = |udev: &str, partition: Option<String>| {
            let kind = value_of(udev, "ID_FS_TYPE");
            let label = value_of(udev, "ID_FS_LABEL").or(partition);
            let both: Vec<String> = kind.into_iter().chain(label).collect();
            (!both.is_empty()).then(|| both.join(" "))
        };
        let parts = partitions(at);
        if parts.is_empty() {
            return words(udev, None).into_iter().collect();
        }
        let each = parts.iter().map(|part| {
            let uevent = fs::read_to_string(part.join("uevent")).unwrap_or_default();
            let name = uevent.lines().find_map(|line| line.strip_prefix("PARTNAME=")).map(str::to_owned);
            let udev = word(&part.join("dev")).map(|number| self.udev_of(&number)).unwrap_or_default();
            words(&udev, name).unwrap_or_else(|| "?".to_owned())
        });
        each.collect()
    }

    fn uses(&self, at: &Path, number: &str) -> Vec<Use> {
        let mut uses = BTreeSet::new();
        self.gather(at, number, 0, &mut uses);
        for part in partitions(at) {
            let number = word(&part.join("dev")).unwrap_or_default();
            self.gather(&part, &number, 0, &mut uses);
        }
        uses.into_iter().collect()
    }

    /// The uses of one device, and of everything that is stacked on it.
    fn gather(&self, at: &Path, number: &str, floor: usize, uses: &mut BTreeSet<Use>) {
        let name = at.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mapped = word(&at.join("dm/name")).map(|mapped| format!("/dev/mapper/{mapped}"));
        let names: Vec<String> = [format!("/dev/{name}")].into_iter().chain(mapped).collect();
        let is_here = |mount: &&Mount| mount.number == number || names.contains(&mount.source);
        for mount in self.mounts.iter().filter(is_here) {
            // What lies on a stacked device cannot just be unmounted: the device below stays held.
            let is_plugged_in = floor == 0 && PLUGGED_IN.iter().any(|place| mount.at.starts_with(place));
            let at = mount.at.clone();
            uses.insert(if is_plugged_in { Use::Mounted(at) } else { Use::System(at) });
        }
        uses.extend(names.iter().filter(|name| self.swaps.contains(*name)).cloned().map(Use::Swap));
        for holder in list(&at.join("holders")) {
            uses.insert(Use::Held(holder.clone()));
            let above = self.sys.join("block").join(&holder);
            let number = word(&above.join("dev")).unwrap_or_default();
            if floor < FLOORS_MAX {
                self.gather(&above, &number, floor + 1, uses);
            }
        }
    }
}

// === impl Mount ===

impl Mount {
    /// `36 35 98:0 /root /mount/point rw,noatime shared:1 - ext3 /dev/root rw`; the optional fields end with the hyphen.
    fn parse(line: &str) -> Option<Mount> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let number = before.next()?.to_owned();
        let at = PathBuf::from(unescaped(before.nth(1)?));
        let source = unescaped(after.split(' ').nth(1)?);
        Some(Mount { number, source, at })
    }
}

// === impl Disk ===

impl Disk {
    /// Whether it may be written. Errors: the first reason why not, the worst first.
    pub(crate) fn judge(&self, need: Need, allowed: Allowed) -> Result<(), Refusal> {
        // Sorted: the system's own before what a person can undo.
        for each in &self.uses {
            match each {
                Use::System(at) => return Err(Refusal::System { at: at.clone() }),
                Use::Swap(name) => return Err(Refusal::Swap(name.clone())),
                Use::Held(name) => return Err(Refusal::Held(name.clone())),
                Use::Mounted(_) if allowed.unmount => {}
                Use::Mounted(at) => return Err(Refusal::Mounted { at: at.clone() }),
            }
        }
        if !self.is_removable && !allowed.fixed {
            return Err(Refusal::Fixed);
        }
        if self.bytes == 0 {
            return Err(Refusal::Empty);
        }
        if self.is_read_only {
            return Err(Refusal::ReadOnly);
        }
        if self.sector_bytes != need.sector_bytes {
            return Err(Refusal::Sectors { has: self.sector_bytes, needs: need.sector_bytes });
        }
        let needs = need.bytes.saturating_add(STATE_BYTES_MIN);
        if self.bytes < needs {
            return Err(Refusal::Small { has: self.bytes >> 20, needs: needs.div_ceil(1 << 20) });
        }
        Ok(())
    }

    /// Where it is mounted, innermost first.
    pub(crate) fn mounts(&self) -> Vec<&Path> {
        let mut mounts: Vec<_> = self
            .uses
            .iter()
            .filter_map(|each| match each {
                Use::Mounted(at) => Some(at.as_path()),
                Use::System(_) | Use::Swap(_) | Use::Held(_) => None,
            })
            .collect();
        mounts.reverse();
        mounts
    }
}

/// eMMC has boot and replay-protected areas that look like disks.
fn is_part_of_mmc(name: &str) -> bool {
    name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"))
}

fn bus_of(name: &str, real: &Path) -> Bus {
    let is_usb =
        |part: &str| part.strip_prefix("usb").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let parts = || real.components().filter_map(|part| part.as_os_str().to_str());
    if name.starts_with("loop") {
        Bus::Loop
    } else if parts().any(is_usb) {
        Bus::Usb
    } else if name.starts_with("mmcblk") {
        // SDIO says SD, soldered flash says MMC.
        match word(&real.join("device/type")).as_deref() {
            Some("SD") => Bus::Sd,
            _ => Bus::Emmc,
        }
    } else if name.starts_with("nvme") {
        Bus::Nvme
    } else {
        Bus::Other
    }
}

fn model_of(at: &Path) -> String {
    let words = ["device/vendor", "device/model", "device/name"].map(|file| word(&at.join(file)));
    let mut words: Vec<String> = words.into_iter().flatten().filter(|each| each != "ATA").collect();
    words.dedup();
    words.join(" ")
}

/// A disk's own serial number, or that of the USB device that it hangs from.
fn serial_of(at: &Path, real: &Path) -> Option<String> {
    let own = word(&at.join("device/serial"));
    own.or_else(|| {
        let usb = real.ancestors().find(|above| above.join("idVendor").exists())?;
        word(&usb.join("serial"))
    })
}

fn partitions(at: &Path) -> Vec<PathBuf> {
    list(at).into_iter().map(|name| at.join(name)).filter(|path| path.join("partition").exists()).collect()
}

fn list(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn word(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

fn value_of(udev: &str, key: &str) -> Option<String> {
    let line = udev.lines().find_map(|line| line.strip_prefix("E:")?.strip_prefix(key)?.strip_prefix('='));
    line.filter(|value| !value.is_empty()).map(str::to_owned)
}

/// Undoes the kernel's octal escapes for blanks and the like in a path.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
