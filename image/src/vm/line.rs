//! QEMU's command line for a machine.

use std::ffi::OsString;
use std::path::Path;

use super::{Accelerator, Bus, Machine};

/// Everything that QEMU can emulate, less `cmpxchg16b`, whose emulation in QEMU 7.2 leaves a wrong flags register
/// behind and so makes the kernel's allocator fault, and less five-level page tables, which cost time on every miss.
pub const EMULATED_PROCESSOR: &str = "max,cx16=off,la57=off";

/// Where the sockets of a machine are.
pub(super) struct Sockets<'a> {
    /// QEMU's own.
    pub(super) control: &'a Path,
    /// The TPM emulator's, if there is one.
    pub(super) tpm: Option<&'a Path>,
}

/// All arguments.
pub(super) fn arguments(machine: &Machine, sockets: &Sockets<'_>) -> Vec<OsString> {
    let mut line = Line::default();
    line.add(["-nodefaults", "-no-user-config", "-display", "none", "-name", "rig"]);
    processor(&mut line, machine);
    firmware(&mut line, machine);
    disk(&mut line, machine);
    line.add(["-device", "virtio-rng-pci", "-device", "VGA", "-device", "virtio-balloon-pci,id=balloon"]);
    network(&mut line, machine);
    if let Some(socket) = sockets.tpm {
        line.add(["-chardev", &format!("socket,id=tpm0,path={}", escaped(socket))]);
        line.add(["-tpmdev", "emulator,id=tpm0,chardev=tpm0", "-device", "tpm-crb,tpmdev=tpm0"]);
    }
    if machine.has_watchdog {
        line.add(["-device", "i6300esb", "-action", "watchdog=reset"]);
    }
    if !machine.reboots {
        line.add(["-no-reboot"]);
    }
    smbios(&mut line, machine);
    line.add(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    line.add(["-qmp", &format!("unix:{},server=on,wait=off", escaped(sockets.control))]);
    line.words
}

#[derive(Default)]
struct Line {
    words: Vec<OsString>,
}

impl Line {
    fn add<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        self.words.extend(words.into_iter().map(OsString::from));
    }
}

fn processor(line: &mut Line, machine: &Machine) {
    let smm = if machine.firmware.has_secure_boot { "on" } else { "off" };
    line.add(["-machine", &format!("q35,smm={smm}"), "-global", "ICH9-LPC.disable_s3=1"]);
    match machine.accelerator {
        Accelerator::Emulated => line.add(["-accel", "tcg", "-cpu", EMULATED_PROCESSOR, "-smp", "1"]),
        Accelerator::Kvm => line.add(["-accel", "kvm", "-cpu", "host", "-smp", "2"]),
    }
    line.add(["-m", &machine.memory_mib.to_string()]);
}

fn firmware(line: &mut Line, machine: &Machine) {
    let flash =
        |unit: u8, file: &Path, mode: &str| format!("if=pflash,format=raw,unit={unit},file={},{mode}", escaped(file));
    if machine.firmware.has_secure_boot {
        line.add(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
    }
    line.add(["-drive", &flash(0, &machine.firmware.code, "readonly=on")]);
    line.add(["-drive", &flash(1, &machine.firmware.variables, "readonly=off")]);
}

fn disk(line: &mut Line, machine: &Machine) {
    let disk = &machine.disk;
    let snapshot = if disk.is_snapshot { "on" } else { "off" };
    // What the guest flushed is in this computer's page cache, which outlives QEMU: a power cut in here loses nothing
    // that a real disk would keep.
    let file = escaped(&disk.path);
    line.add([
        "-drive",
        &format!("if=none,id=disk,format=raw,file={file},cache=unsafe,discard=unmap,snapshot={snapshot}"),
    ]);
    let bytes = disk.sectors.get();
    let sectors = format!("logical_block_size={bytes},physical_block_size={bytes}");
    match disk.bus {
        Bus::Virtio => line.add(["-device", &format!("virtio-blk-pci,drive=disk,bootindex=1,{sectors}")]),
        Bus::Usb => {
            line.add(["-device", "qemu-xhci,id=usb"]);
            line.add(["-device", &format!("usb-storage,bus=usb.0,drive=disk,removable=on,bootindex=1,{sectors}")]);
        }
        Bus::Nvme => line.add(["-device", &format!("nvme,drive=disk,serial=rig-disk,bootindex=1,{sectors}")]),
        Bus::Ahci => line.add(["-device", "ide-hd,bus=ide.0,drive=disk,bootindex=1"]),
        Bus::Sdhci => line.add(["-device", "sdhci-pci", "-device", "sd-card,drive=disk"]),
    }
}

fn network(line: &mut Line, machine: &Machine) {
    let mut words = "user,id=net".to_owned();
    for forward in &machine.forwards {
        words.push_str(&format!(",hostfwd=tcp:127.0.0.1:{}-:{}", forward.here, forward.there));
    }
    // An empty ROM: the firmware need not try to boot from the network.
    line.add(["-netdev", &words, "-device", "virtio-net-pci,netdev=net,romfile="]);
}

fn smbios(line: &mut Line, machine: &Machine) {
    let serial = machine.serial.replace(',', ",,");
    line.add(["-smbios", &format!("type=1,manufacturer=Rig,product=Emulated,serial={serial}")]);
    line.add(["-smbios", &format!("type=2,manufacturer=Rig,product=Board,serial={serial}-board")]);
    for string in &machine.oem_strings {
        line.add(["-smbios", &format!("type=11,value={}", string.replace(',', ",,"))]);
    }
}

/// A path inside an option: QEMU ends a value at a comma unless it is doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
