//! Reads the kernel's own files: `/sys/class/dmi/id`, `/sys/block`, `/sys/class/net` and the NVIDIA driver's `/proc`.
//!
//! Where a device is attached is told by its real path: below a PCI device and not below a USB one is a part of the
//! machine. A file is read up to a bound, a directory too, and nothing outside the root is followed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use zeroize::Zeroizing;

use super::{Field, Kind, Why};

/// The longest file read, `information` of a GPU, has some 400 bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024;

/// Entries of one directory: a storage server has some hundred drives.
const ENTRIES_MAX: usize = 1024;

/// Links from a device up to the root of `/sys` that are looked at; the deepest chains of bridges have some twenty.
const ANCESTORS_MAX: usize = 64;

/// What one place says.
pub(super) struct Reading {
    pub(super) kind: Kind,
    pub(super) place: String,
    pub(super) value: Result<Zeroizing<String>, Why>,
}

/// Where a device is attached.
enum Attachment {
    /// Inside, at this PCI address.
    Inside(String),
    /// On USB, or in a slot for what is carried around. With the PCI address of the host controller.
    Portable(String),
    /// Not on PCI: made up by the kernel, or across a network.
    Elsewhere,
}

/// Everything that may give a field below `root`.
pub(super) fn read(root: &Path) -> Vec<Reading> {
    // A root that is not there has no files either.
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
    let mut readings = board(&root);
    readings.extend(disks(&root));
    readings.extend(nics(&root));
    readings.extend(gpus(&root));
    readings
}

/// Whether PCI shows more NVIDIA GPUs than the driver has ids of.
pub(super) fn awaits_gpus(root: &Path) -> bool {
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
    let dir = root.join("sys/bus/pci/devices");
    let says = |name: &str, file: &str, begin: &str| {
        text(&dir.join(name).join(file)).is_ok_and(|word| word.trim().starts_with(begin))
    };
    // The class of displays, so that the sound of a card is not counted.
    let is_gpu = |name: &&String| says(name, "vendor", "0x10de") && says(name, "class", "0x03");
    let has_id = |gpu: &Reading| gpu.value.as_ref().is_ok_and(|id| Field::parse(Kind::Gpu, id).is_ok());
    names(&dir).iter().filter(is_gpu).count() > gpus(&root).iter().filter(|gpu| has_id(gpu)).count()
}

fn board(root: &Path) -> Vec<Reading> {
    const FILES: [(Kind, &str); 4] = [
        (Kind::ProductUuid, "product_uuid"),
        (Kind::BoardSerial, "board_serial"),
        (Kind::ProductSerial, "product_serial"),
        (Kind::ChassisSerial, "chassis_serial"),
    ];
    let dir = root.join("sys/class/dmi/id");
    let reading = |(kind, name): (Kind, &str)| Reading { kind, place: name.to_owned(), value: text(&dir.join(name)) };
    FILES.into_iter().map(reading).collect()
}

fn disks(root: &Path) -> Vec<Reading> {
    // Cards in a slot (`mmcblk`) are carried around, and most say that they are not removable.
    let is_drive = |name: &str| name.starts_with("nvme") || name.starts_with("sd");
    let names = names(&root.join("sys/block")).into_iter().filter(|name| is_drive(name));
    names.filter_map(|name| disk(root, name)).collect()
}

fn disk(root: &Path, name: String) -> Option<Reading> {
    let real = within(root, &root.join("sys/block").join(&name))?;
    let device = real.join("device");
    let value = match attachment(root, &controller(root, &real)) {
        Attachment::Elsewhere => return None,
        Attachment::Portable(_) => Err(Why::Portable),
        Attachment::Inside(_) => match text(&real.join("removable")) {
            Ok(word) if word.trim() == "0" => drive_serial(&device, &name),
            Ok(_) => Err(Why::Portable),
            Err(why) => Err(why),
        },
    };
    Some(Reading { kind: Kind::Disk, place: name, value })
}

/// The path that tells where a drive is attached. A drive with several controllers is itself a device that the kernel
/// made up, and its controllers stand beside it.
fn controller(root: &Path, block: &Path) -> PathBuf {
    let Some(device) = within(root, &block.join("device")) else { return block.to_path_buf() };
    let is_shared = device.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nvme-subsys"));
    if !is_shared {
        return block.to_path_buf();
    }
    let controllers = names(&device).into_iter().filter(|name| name.starts_with("nvme"));
    let is_on_pci = |path: &PathBuf| !matches!(attachment(root, path), Attachment::Elsewhere);
    let real = controllers.filter_map(|name| within(root, &device.join(name)));
    real.into_iter().find(is_on_pci).unwrap_or_else(|| block.to_path_buf())
}

fn drive_serial(device: &Path, name: &str) -> Result<Zeroizing<String>, Why> {
    if name.starts_with("nvme") {
        return text(&device.join("serial"));
    }
    match bytes(&device.join("vpd_pg80")).and_then(|page| unit_serial(&page)) {
        Ok(serial) => Ok(serial),
        Err(_) => text(&device.join("wwid")),
    }
}

/// The unit serial number page of SCSI: two bytes of kind, the length big endian, the serial.
fn unit_serial(page: &[u8]) -> Result<Zeroizing<String>, Why> {
    let [_, 0x80, high, low, rest @ ..] = page else { return Err(Why::Malformed) };
    let serial = rest.get(..usize::from(u16::from_be_bytes([*high, *low]))).ok_or(Why::Malformed)?;
    match std::str::from_utf8(serial) {
        Ok(serial) if !serial.trim().is_empty() => Ok(Zeroizing::new(serial.to_owned())),
        Ok(_) | Err(_) => Err(Why::Malformed),
    }
}

fn nics(root: &Path) -> Vec<Reading> {
    let dir = root.join("sys/class/net");
    let reading = |name: String| {
        let real = within(root, &dir.join(name))?;
        let (place, value) = match attachment(root, &real) {
            Attachment::Elsewhere => return None,
            Attachment::Portable(place) => (place, Err(Why::Portable)),
            Attachment::Inside(place) => (place, permanent_address(&real)),
        };
        Some(Reading { kind: Kind::Nic, place, value })
    };
    names(&dir).into_iter().filter_map(reading).collect()
}

/// The kernel's `NET_ADDR_PERM`: an address that the card was made with. Any other was drawn, copied or set.
fn permanent_address(interface: &Path) -> Result<Zeroizing<String>, Why> {
    match text(&interface.join("addr_assign_type"))?.trim() {
        "0" => text(&interface.join("address")),
        _ => Err(Why::NotPermanent),
    }
}

fn gpus(root: &Path) -> Vec<Reading> {
    let dir = root.join("proc/driver/nvidia/gpus");
    let reading = |place: String| {
        let value = text(&dir.join(&place).join("information")).and_then(|text| {
            let uuid = text.lines().find_map(|line| line.strip_prefix("GPU UUID:")).ok_or(Why::Malformed)?;
            Ok(Zeroizing::new(uuid.to_owned()))
        });
        Reading { kind: Kind::Gpu, place, value }
    };
    names(&dir).into_iter().filter(|name| is_pci_address(name)).map(reading).collect()
}

/// Where the device with the real path `path` is attached.
fn attachment(root: &Path, path: &Path) -> Attachment {
    let below = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = below.components().filter_map(part).collect();
    let is_usb =
        |part: &&str| part.strip_prefix("usb").is_some_and(|bus| bus.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(address) = parts.iter().rev().find(|part| is_pci_address(part)) else { return Attachment::Elsewhere };
    let is_carried = |dir: &Path| text(&dir.join("removable")).is_ok_and(|word| word.trim() == "removable");
    let is_portable = parts.iter().any(is_usb) || up(root, path).any(is_carried);
    if is_portable { Attachment::Portable((*address).to_owned()) } else { Attachment::Inside((*address).to_owned()) }
}

/// The directories from `path` up to `root`.
fn up<'a>(root: &'a Path, path: &'a Path) -> impl Iterator<Item = &'a Path> {
    path.ancestors().take_while(move |dir| dir.starts_with(root)).take(ANCESTORS_MAX)
}

fn part(component: Component<'_>) -> Option<&str> {
    match component {
        Component::Normal(part) => part.to_str(),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
    }
}

/// `0000:03:00.0`: domain, bus, device, function.
fn is_pci_address(name: &str) -> bool {
    let hex = |part: &str, lengths: &[usize]| {
        lengths.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let Some((address, function)) = name.rsplit_once('.') else { return false };
    match address.split(':').collect::<Vec<_>>().as_slice() {
        // A domain has four digits, and behind some volume controllers five; the driver writes eight.
        [domain, bus, device] => hex(domain, &[4, 5, 8]) && hex(bus, &[2]) && hex(device, &[2]) && hex(function, &[1]),
        _ => false,
    }
}

/// The real path of `path`, if it is below `root`.
fn within(root: &Path, path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok().filter(|real| real.starts_with(root))
}

/// The names in `dir`, sorted. What cannot be listed is empty.
fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let name = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    let mut names: Vec<_> = entries.take(ENTRIES_MAX).filter_map(name).collect();
    names.sort_unstable();
    names
}

fn text(path: &Path) -> Result<Zeroizing<String>, Why> {
    let bytes = bytes(path)?;
    std::str::from_utf8(&bytes).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| Why::Malformed)
}

fn bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, Why> {
    let weather = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Why::Missing,
        kind => Why::Unreadable(kind),
    };
    // A pipe in the place of a file would keep us waiting.
    if !fs::metadata(path).map_err(weather)?.is_file() {
        return Err(Why::Malformed);
    }
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(weather)?;
    let is_within = u64::try_from(bytes.len()).is_ok_and(|length| length <= FILE_BYTES_MAX);
    if is_within { Ok(bytes) } else { Err(Why::TooLong) }
}
