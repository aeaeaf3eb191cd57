//! Starts an image in a machine of its own: QEMU with UEFI firmware, a disk on the bus that you name, and a TPM.
//!
//! Invariants: the machine reaches the network as this process does, and is reached through [`Forward`]s on 127.0.0.1
//! only; QEMU and the TPM emulator end with the [`Running`] handle, and with this process however that ends; nothing is
//! written but the disk (unless it is a snapshot), the firmware's variables, the TPM's state and the console's log.
//!
//! Without KVM the processor is emulated, with one core: QEMU 7.2 now and then runs wrong code with more, because the
//! kernel patches its own text while the other core translates it. Times are then ten times those of a real processor.
//!
//! Needs Debian's `qemu-system-x86`, `ovmf`, `util-linux` (`setpriv`), and for a TPM `swtpm`.

mod console;
mod keeper;
mod line;
mod qmp;
mod running;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

pub use self::console::Console;
pub use self::line::EMULATED_PROCESSOR;
pub use self::running::{End, Memory, Running, Traffic};

/// Memory that the image must do with, and what the tests give it.
pub const MEMORY_MIB: u32 = 1024;

/// Where Debian's `ovmf` puts the firmware.
const OVMF: &str = "/usr/share/OVMF";

/// A machine that can be started. Each start is a power-on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What it boots from.
    pub disk: Disk,
    /// What the processor runs first.
    pub firmware: Firmware,
    /// The folder with the TPM's state, made if it is not there; none for a machine without a TPM.
    pub tpm: Option<PathBuf>,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Ports of the machine that this computer can reach.
    pub forwards: Vec<Forward>,
    /// Whether a reset starts it again; otherwise a reset is an end, [`End::Reset`].
    pub reboots: bool,
    /// Whether it has a watchdog (Intel 6300ESB) that resets it.
    pub has_watchdog: bool,
    /// Who runs its instructions.
    pub accelerator: Accelerator,
    /// The serial number on its board.
    pub serial: String,
    /// What its maker wrote into SMBIOS as OEM strings. `systemd-stub` and systemd read some of them.
    pub oem_strings: Vec<String>,
    /// Where the serial console's text is also written.
    pub log: Option<PathBuf>,
}

/// The disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// A raw image.
    pub path: PathBuf,
    /// How it is attached.
    pub bus: Bus,
    /// Bytes of a logical sector.
    pub sectors: SectorBytes,
    /// Whether what is written is forgotten at the end.
    pub is_snapshot: bool,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bus {
    /// A virtual machine's own.
    #[default]
    Virtio,
    /// A stick on USB 3.
    Usb,
    /// NVM Express.
    Nvme,
    /// SATA.
    Ahci,
    /// An SD card. Its size must be a power of two. UEFI firmware for QEMU before 2025.08 has no driver for it.
    Sdhci,
}

/// The sizes of a sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SectorBytes {
    /// What nearly every disk says.
    #[default]
    B512,
    /// What a 4Kn disk says.
    B4096,
}

/// UEFI firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// The code, only read.
    pub code: PathBuf,
    /// The non-volatile variables, written.
    pub variables: PathBuf,
    /// Whether it was built with Secure Boot, and needs system management mode to keep the variables from the system.
    pub has_secure_boot: bool,
}

/// A port of the machine, as a port here on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The port here; 0 for any that is free.
    pub here: u16,
    /// The machine's port.
    pub there: u16,
}

/// Who runs a machine's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accelerator {
    /// QEMU itself, one core.
    #[default]
    Emulated,
    /// This computer's processor, through /dev/kvm, two cores.
    Kvm,
}

/// Why a machine did not do as asked.
#[derive(Debug, Error)]
pub enum VmError {
    /// A program is missing.
    #[error("run {program}; Debian's package {package} has it")]
    Program {
        /// Its name.
        program: &'static str,
        /// Who has it.
        package: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file or folder that the machine needs.
    #[error("{doing} {}", path.display())]
    File {
        /// What was tried, such as `copy`.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The disk cannot be attached like this.
    #[error("a disk on {bus} has sectors of 512 bytes only")]
    Sectors {
        /// Where.
        bus: &'static str,
    },
    /// No port is free, or a thread could not be started.
    #[error("prepare the machine")]
    Prepare(#[source] io::Error),
    /// QEMU or the TPM emulator ended at once.
    #[error("the machine did not start: {said}")]
    NotStarted {
        /// What the program printed.
        said: String,
    },
    /// QEMU's control socket.
    #[error("ask QEMU to {command}: {said}")]
    Control {
        /// The command.
        command: String,
        /// What it answered, or what happened to the socket.
        said: String,
    },
    /// The console never showed something.
    #[error("the console did not show {marker:?} within {within:?}; it ends:\n{tail}")]
    NotShown {
        /// What was waited for.
        marker: String,
        /// For how long.
        within: Duration,
        /// The console's end.
        tail: String,
    },
    /// The machine ended while something was waited for.
    #[error("the machine ended ({end:?}) before the console showed {marker:?}; it ends:\n{tail}")]
    Ended {
        /// What was waited for.
        marker: String,
        /// How it ended.
        end: End,
        /// The console's end.
        tail: String,
    },
    /// The machine runs on.
    #[error("the machine did not end within {within:?}; the console ends:\n{tail}")]
    StillRuns {
        /// For how long it was waited.
        within: Duration,
        /// The console's end.
        tail: String,
    },
}

// === impl Machine ===

impl Machine {
    /// A machine with the raw image `disk` on virtio, a watchdog, `firmware`, and no TPM.
    pub fn new(disk: &Path, firmware: Firmware) -> Machine {
        let disk =
            Disk { path: disk.to_owned(), bus: Bus::default(), sectors: SectorBytes::default(), is_snapshot: false };
        Machine {
            disk,
            firmware,
            tpm: None,
            memory_mib: MEMORY_MIB,
            forwards: Vec::new(),
            reboots: false,
            has_watchdog: true,
            accelerator: Accelerator::default(),
            serial: "RIG-VM-1".to_owned(),
            oem_strings: Vec::new(),
            log: None,
        }
    }

    /// Switches it on.
    ///
    /// Errors: a file or program is missing, or QEMU refuses the machine; what it said is in the error.
    pub fn start(&self) -> Result<Running, VmError> {
        self.disk.check()?;
        let mut machine = self.clone();
        for forward in &mut machine.forwards {
            if forward.here == 0 {
                forward.here = free_port().map_err(VmError::Prepare)?;
            }
        }
        if let Some(state) = &machine.tpm {
            fs::create_dir_all(state).map_err(VmError::file("make", state))?;
        }
        Running::start(machine)
    }
}

// === impl Disk ===

impl Disk {
    fn check(&self) -> Result<(), VmError> {
        fs::metadata(&self.path).map_err(VmError::file("open", &self.path))?;
        match (self.bus, self.sectors) {
            (Bus::Ahci | Bus::Sdhci, SectorBytes::B4096) => Err(VmError::Sectors { bus: self.bus.name() }),
            (Bus::Ahci | Bus::Sdhci, SectorBytes::B512) | (Bus::Virtio | Bus::Usb | Bus::Nvme, _) => Ok(()),
        }
    }
}

// === impl Bus ===

impl Bus {
    /// All of them.
    pub const ALL: [Bus; 5] = [Bus::Virtio, Bus::Usb, Bus::Nvme, Bus::Ahci, Bus::Sdhci];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Bus::Virtio => "virtio",
            Bus::Usb => "usb",
            Bus::Nvme => "nvme",
            Bus::Ahci => "ahci",
            Bus::Sdhci => "sdhci",
        }
    }
}

// === impl SectorBytes ===

impl SectorBytes {
    /// As a number.
    pub fn get(self) -> u32 {
        match self {
            SectorBytes::B512 => 512,
            SectorBytes::B4096 => 4096,
        }
    }
}

// === impl Firmware ===

impl Firmware {
    /// Debian's OVMF with Secure Boot whose variables nothing guards, in setup mode: a loader that enrols keys switches it
    /// on. The variables are those of `variables`, which is made from Debian's empty ones if it is not there.
    ///
    /// Errors: the package `ovmf` is not installed, or the file cannot be made.
    pub fn ovmf(variables: &Path) -> Result<Firmware, VmError> {
        Firmware::of(variables, "OVMF_CODE_4M.fd", false)
    }

    /// The same, with variables that only the firmware itself can write, by system management mode.
    ///
    /// Errors: as [`Firmware::ovmf`].
    pub fn ovmf_with_secure_boot(variables: &Path) -> Result<Firmware, VmError> {
        Firmware::of(variables, "OVMF_CODE_4M.secboot.fd", true)
    }

    fn of(variables: &Path, code: &str, has_secure_boot: bool) -> Result<Firmware, VmError> {
        let empty = Path::new(OVMF).join("OVMF_VARS_4M.fd");
        let code = Path::new(OVMF).join(code);
        if !variables.exists() {
            if !empty.is_file() {
                let source = io::ErrorKind::NotFound.into();
                return Err(VmError::Program { program: "OVMF", package: "ovmf", source });
            }
            fs::copy(&empty, variables).map_err(VmError::file("copy the firmware's variables to", variables))?;
        }
        Ok(Firmware { code, variables: variables.to_owned(), has_secure_boot })
    }
}

// === impl VmError ===

impl VmError {
    fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VmError {
        let path = path.to_owned();
        move |source| VmError::File { doing, path, source }
    }
}

/// A port of 127.0.0.1 that nobody has now. Somebody may take it before QEMU does, which QEMU then says.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests;
