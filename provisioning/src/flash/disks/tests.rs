use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

const GB: u64 = 1_000_000_000;

/// A kernel's own files, with as many disks as a test wants.
struct Machine {
    folder: TempDir,
    mounts: String,
    swaps: String,
    minor: u32,
}

/// One device of it.
#[derive(Clone)]
struct Device {
    real: PathBuf,
    number: String,
}

// === impl Machine ===

impl Machine {
    fn new() -> Machine {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("sys/block")).expect("a folder");
        fs::create_dir_all(folder.path().join("udev")).expect("a folder");
        let swaps = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned();
        Machine { folder, mounts: String::new(), swaps, minor: 0 }
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, format!("{text}\n")).expect("it can be written");
    }

    fn device(&mut self, real: PathBuf) -> Device {
        self.minor += 1;
        let number = format!("8:{}", self.minor);
        Machine::write(&real.join("dev"), &number);
        Device { real, number }
    }

    /// A disk below `path` of the device tree.
    fn disk(&mut self, path: &str, name: &str, bytes: u64, files: &[(&str, &str)]) -> Device {
        let real = self.folder.path().join("sys/devices").join(path).join("block").join(name);
        let device = self.device(real.clone());
        Machine::write(&real.join("size"), &(bytes / 512).to_string());
        Machine::write(&real.join("queue/logical_block_size"), "512");
        for file in ["removable", "ro", "hidden"] {
            Machine::write(&real.join(file), "0");
        }
        for (file, text) in files {
            Machine::write(&real.join(file), text);
        }
        symlink(&real, self.folder.path().join("sys/block").join(name)).expect("a link");
        device
    }

    fn part(&mut self, disk: &Device, number: u32, udev: &str) -> Device {
        let name = disk.real.file_name().expect("a name").to_string_lossy().into_owned();
        let between = if name.ends_with(|sign: char| sign.is_ascii_digit()) { "p" } else { "" };
        let part = self.device(disk.real.join(format!("{name}{between}{number}")));
        Machine::write(&part.real.join("partition"), &number.to_string());
        Machine::write(&self.folder.path().join("udev").join(format!("b{}", part.number)), udev);
        part
    }

    fn hold(&self, below: &Device, above: &Device) {
        let name = above.real.file_name().expect("a name");
        let holders = below.real.join("holders");
        fs::create_dir_all(&holders).expect("a folder");
        symlink(&above.real, holders.join(name)).expect("a link");
    }

    fn mount(&mut self, number: &str, source: &str, at: &str) {
        self.mounts.push_str(&format!("36 35 {number} / {at} rw,noatime shared:1 - ext4 {source} rw\n"));
    }

    fn system(&self) -> System {
        let at = |name: &str| self.folder.path().join(name);
        System::new(at("sys"), at("udev"), &self.mounts, &self.swaps)
    }
}

fn usb(port: u32) -> String {
    format!("pci0000:00/0000:00:14.0/usb2/2-{port}/2-{port}:1.0/host{port}/target{port}:0:0/{port}:0:0:0")
}

const SATA: &str = "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0";
const NVME: &str = "pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0";

/// What a machine says of its only disk.
#[track_caller]
fn check(expected: Result<(), &str>, build: impl FnOnce(&mut Machine)) {
    check_with(expected, Allowed::default(), build);
}

#[track_caller]
fn check_with(expected: Result<(), &str>, allowed: Allowed, build: impl FnOnce(&mut Machine)) {
    let mut machine = Machine::new();
    build(&mut machine);
    let disks = machine.system().disks();
    let [disk] = disks.as_slice() else { panic!("{disks:?}") };
    let judged = disk.judge(Need { bytes: 3 * GB, sector_bytes: 512 }, allowed).map_err(|refusal| refusal.to_string());
    match (expected, judged) {
        (Ok(()), Ok(())) => {}
        (Err(words), Err(found)) => assert!(found.contains(words), "{found}"),
        (expected, judged) => panic!("{judged:?}, not {expected:?}"),
    }
}

#[test]
fn only_what_can_be_pulled_out_and_is_not_used_may_be_written() {
    // Sticks, cards, readers.
    check(Ok(()), |it| drop(it.disk(&usb(1), "sda", 8 * GB, &[("removable", "1")])));
    check(Ok(()), |it| drop(it.disk(&usb(2), "sda", 8 * GB, &[])));
    check(Ok(()), |it| drop(it.disk("platform/mmc_host/mmc0/mmc0:1234", "mmcblk0", 8 * GB, &[("device/type", "SD")])));
    check(Ok(()), |it| drop(it.disk(SATA, "sda", 8 * GB, &[("removable", "1")])));
    check(Err("no card or medium"), |it| drop(it.disk(&usb(1), "sda", 0, &[("removable", "1")])));
    // What is built in.
    check(Err("built in"), |it| drop(it.disk(NVME, "nvme0n1", 500 * GB, &[])));
    check(Err("built in"), |it| drop(it.disk(SATA, "sda", 500 * GB, &[("removable", "0")])));
    check(Err("built in"), |it| {
        drop(it.disk("platform/mmc_host/mmc0/mmc0:1", "mmcblk0", 32 * GB, &[("device/type", "MMC")]));
    });
    check(Err("built in"), |it| drop(it.disk("pci0000:00/0000:00:02.0/virtio1", "vda", 32 * GB, &[])));
    // A folder that only begins like a bus.
    check(Err("built in"), |it| drop(it.disk("platform/usbphy/x", "sda", 32 * GB, &[])));
    // What cannot be written.
    check(Err("read-only"), |it| drop(it.disk(&usb(1), "sda", 8 * GB, &[("ro", "1")])));
    check(Err("3374 MiB"), |it| drop(it.disk(&usb(1), "sda", 3 * GB, &[])));
    check(Err("sectors of 512"), |it| drop(it.disk(&usb(1), "sda", 8 * GB, &[("queue/logical_block_size", "4096")])));
    // What the system lives on, wherever it is plugged in.
    check(Err("/ is mounted from it"), |it| {
        let disk = it.disk(&usb(1), "sda", 8 * GB, &[("removable", "1")]);
        let part = it.part(&disk, 2, "");
        it.mount(&part.number, "/dev/sda2", "/");
    });
    check(Err("own disk: /boot/efi"), |it| {
        let disk = it.disk(&usb(1), "sda", 8 * GB, &[]);
        let part = it.part(&disk, 1, "");
        it.mount(&part.number, "/dev/sda1", "/boot/efi");
        it.mount(&part.number, "/dev/sda1", "/media/efi");
    });
    // btrfs has a number of its own.
    check(Err("/home is mounted"), |it| {
        let disk = it.disk(&usb(1), "sda", 8 * GB, &[]);
        it.part(&disk, 3, "");
        it.mount("0:31", "/dev/sda3", "/home");
    });
    check(Err("swaps to /dev/sda2"), |it| {
        let disk = it.disk(&usb(1), "sda", 8 * GB, &[]);
        it.part(&disk, 2, "");
        it.swaps.push_str("/dev/sda2 partition 1000 0 -2\n");
    });
    // A whole disk without a table, mounted and then not.
    check(Err("is mounted at /media/me/MY STICK"), |it| {
        let disk = it.disk(&usb(1), "sda", 8 * GB, &[]);
        it.mount(&disk.number, "/dev/sda", "/media/me/MY\\040STICK");
    });
}

#[test]
fn what_is_stacked_on_a_disk_counts_as_its_own() {
    let locked = |it: &mut Machine| {
        let disk = it.disk(&usb(1), "sda", 8 * GB, &[("removable", "1")]);
        let part = it.part(&disk, 1, "E:ID_FS_TYPE=crypto_LUKS");
        let above = it.disk("virtual", "dm-0", 8 * GB, &[("dm/name", "luks-1")]);
        it.hold(&part, &above);
        (part, above)
    };
    check(Err("dm-0 is stacked on it"), |it| drop(locked(it)));
    // Unlocked and mounted where sticks go: unmounting it would leave it held.
    check_with(Err("mounted from it"), Allowed { fixed: true, unmount: true }, |it| {
        let (_, above) = locked(it);
        it.mount(&above.number, "/dev/mapper/luks-1", "/media/me/vault");
    });
    check(Err("own disk: /"), |it| {
        let (_, luks) = locked(it);
        let volume = it.disk("virtual", "dm-1", 8 * GB, &[("dm/name", "vg-root")]);
        it.hold(&luks, &volume);
        it.mount("0:40", "/dev/mapper/vg-root", "/");
    });
    check(Err("swaps to /dev/dm-1"), |it| {
        let (_, luks) = locked(it);
        let volume = it.disk("virtual", "dm-1", 8 * GB, &[]);
        it.hold(&luks, &volume);
        it.swaps.push_str("/dev/dm-1 partition 1000 0 -2\n");
    });
    check(Err("md127 is stacked"), |it| {
        let disk = it.disk(&usb(1), "sda", 8 * GB, &[]);
        let above = it.disk("virtual", "md127", 8 * GB, &[]);
        it.hold(&disk, &above);
    });
    // Two that hold each other do not hang us.
    check(Err("dm-"), |it| {
        let (_, luks) = locked(it);
        it.hold(&luks.clone(), &luks);
    });
}

#[test]
fn what_a_person_allows_is_allowed_and_no_more() {
    let fixed = Allowed { fixed: true, unmount: false };
    let unmount = Allowed { fixed: false, unmount: true };
    check_with(Ok(()), fixed, |it| drop(it.disk(NVME, "nvme0n1", 500 * GB, &[])));
    check_with(Err("own disk"), fixed, |it| {
        let disk = it.disk(NVME, "nvme0n1", 500 * GB, &[]);
        let part = it.part(&disk, 2, "");
        it.mount(&part.number, "/dev/nvme0n1p2", "/");
    });
    let mounted = |it: &mut Machine, at: &str| {
        let disk = it.disk(&usb(1), "sda", 8 * GB, &[]);
        let part = it.part(&disk, 1, "");
        it.mount(&part.number, "/dev/sda1", at);
    };
    for at in ["/media/me/A", "/run/media/me/A", "/mnt"] {
        check(Err("is mounted at"), |it| mounted(it, at));
        check_with(Ok(()), unmount, |it| mounted(it, at));
    }
    for at in ["/", "/home", "/srv", "/mediaeval", "/var/lib/docker"] {
        check_with(Err("own disk"), Allowed { fixed: true, unmount: true }, |it| mounted(it, at));
    }
}

#[test]
fn a_full_machine_is_listed_with_removable_disks_first() {
    let mut it = Machine::new();
    let nvme = it.disk(NVME, "nvme0n1", 1000 * GB, &[("device/model", "Fast One  "), ("device/serial", "S1")]);
    let root = it.part(&nvme, 2, "E:ID_FS_TYPE=ext4");
    it.mount(&root.number, "/dev/nvme0n1p2", "/");
    it.disk(NVME, "nvme0c0n1", 1000 * GB, &[("hidden", "1")]);
    it.disk(SATA, "sda", 4000 * GB, &[("device/vendor", "ATA"), ("device/model", "Spinner")]);
    let stick =
        it.disk(&usb(1), "sdb", 8 * GB, &[("device/vendor", "Acme"), ("device/model", "Stick"), ("diskseq", "9")]);
    it.part(&stick, 1, "E:ID_FS_TYPE=vfat\nE:ID_FS_LABEL=HOLIDAY\n");
    let named = it.part(&stick, 2, "");
    Machine::write(&named.real.join("uevent"), "DEVNAME=sdb2\nPARTNAME=rig-root-a");
    let device = stick.real.ancestors().nth(6).expect("the USB device").to_owned();
    Machine::write(&device.join("idVendor"), "abcd");
    Machine::write(&device.join("serial"), "0123456789");
    it.disk(&usb(2), "sdc", 0, &[("removable", "1")]);
    let card = it.disk(
        "platform/mmc_host/mmc1/mmc1:1",
        "mmcblk1",
        32 * GB,
        &[("device/type", "SD"), ("device/name", "SC32G")],
    );
    Machine::write(
        &it.folder.path().join("udev").join(format!("b{}", card.number)),
        "E:ID_FS_TYPE=iso9660\nE:ID_FS_LABEL=OS\n",
    );
    it.disk("platform/mmc_host/mmc0/mmc0:1", "mmcblk0", 32 * GB, &[("device/type", "MMC")]);
    for (path, name) in [
        ("platform/mmc_host/mmc0/mmc0:1", "mmcblk0boot0"),
        ("platform/mmc_host/mmc0/mmc0:1", "mmcblk0boot1"),
        ("platform/mmc_host/mmc0/mmc0:1", "mmcblk0rpmb"),
        ("virtual", "loop0"),
        ("virtual", "zram0"),
        ("virtual", "ram0"),
        ("virtual", "dm-0"),
        ("virtual", "md0"),
        (&usb(3), "sr0"),
        ("platform/floppy", "fd0"),
        ("virtual", "nbd0"),
        ("virtual", "rbd0"),
    ] {
        it.disk(path, name, 8 * GB, &[("removable", "1")]);
    }
    let system = it.system();
    let disks = system.disks();
    let names: Vec<_> = disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["mmcblk1", "sdb", "sdc", "mmcblk0", "nvme0n1", "sda"]);
    let by_name = |name: &str| disks.iter().find(|disk| disk.name == name).expect(name);
    let stick = by_name("sdb");
    assert_eq!((stick.bus, stick.model.as_str(), stick.serial.as_str()), (Bus::Usb, "Acme Stick", "0123456789"));
    assert_eq!((stick.bytes, stick.sequence, stick.device.as_path()), (8 * GB, Some(9), Path::new("/dev/sdb")));
    assert_eq!(stick.holds, ["vfat HOLIDAY", "rig-root-a"]);
    assert_eq!(
        (by_name("mmcblk1").bus, by_name("mmcblk1").holds.as_slice()),
        (Bus::Sd, ["iso9660 OS".to_owned()].as_slice())
    );
    assert_eq!((by_name("nvme0n1").model.as_str(), by_name("nvme0n1").serial.as_str()), ("Fast One", "S1"));
    assert_eq!(by_name("sda").model, "Spinner");
    // A loop is no disk of the list, and is found by its name.
    assert_eq!(system.disk("loop0").map(|disk| disk.bus), Some(Bus::Loop));
    assert_eq!(system.disk("nothing"), None);
}

#[test]
fn mounts_are_read_as_the_kernel_writes_them() {
    let line = "36 35 98:0 /mnt1 /a\\040b\\134c rw,noatime master:1 propagate_from:2 - ext3 /dev/x\\011y rw";
    let mount = Mount::parse(line).expect("a mount");
    assert_eq!(
        (mount.number.as_str(), mount.at.as_path(), mount.source.as_str()),
        ("98:0", Path::new("/a b\\c"), "/dev/x\ty")
    );
    for bad in ["", "36 35 98:0", "36 35 98:0 / / rw ext3 /dev/x rw", "- -"] {
        assert_eq!(Mount::parse(bad), None, "{bad}");
    }
    assert_eq!(unescaped("a\\04"), "a\\04");
    assert_eq!(unescaped("\\777"), "\\777");
}

#[test]
fn this_machine_has_no_disk_of_its_own_that_would_be_written() {
    for disk in System::here().disks() {
        let holds_root = disk.uses.iter().any(|each| matches!(each, Use::System(at) if at == Path::new("/")));
        let judged =
            disk.judge(Need { bytes: 0, sector_bytes: disk.sector_bytes }, Allowed { fixed: true, unmount: true });
        assert!(!holds_root || matches!(judged, Err(Refusal::System { .. })), "{disk:?}");
    }
}
