//! `rig image vm`: an image in a machine of its own, to look at.

use std::io::stdout;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use image::vm::{Accelerator, Bus, End, Firmware, Forward, Machine, Running, SectorBytes, VmError};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, Failure};
use crate::screen::Screen;

/// How long the machine may take to switch itself off after the power button was pressed.
const POWER_OFF_WITHIN: Duration = Duration::from_secs(300);

/// Start an image in QEMU, with UEFI firmware and a TPM.
///
/// The serial console comes on stdout. Ctrl-C presses the power button; a second one pulls the plug. The TPM's state and
/// the firmware's variables lie beside the image, in IMAGE.vm/, so that the machine is the same one the next time; delete
/// the folder for a new machine.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig image vm rig.raw --snapshot
  rig image vm rig.raw --bus usb --forward 8080:80
  rig image vm rig.raw --no-tpm --screenshot console.png")]
pub(crate) struct Vm {
    /// The raw image. It is written to, as a stick would be, unless --snapshot is given.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// How its disk is attached.
    #[arg(long, value_name = "BUS", default_value = "virtio")]
    bus: BusName,
    /// The disk has sectors of 4096 bytes; the image must be built for that.
    #[arg(long)]
    sectors_4k: bool,
    /// Forget at the end what was written to the disk.
    #[arg(long)]
    snapshot: bool,
    /// A machine without a TPM.
    #[arg(long)]
    no_tpm: bool,
    /// Reach the machine's port THERE as port HERE of this computer, over TCP; may be repeated.
    #[arg(long, value_name = "HERE:THERE", value_parser = forward)]
    forward: Vec<Forward>,
    /// The machine's memory, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = image::vm::MEMORY_MIB)]
    memory: u32,
    /// Use this computer's processor through /dev/kvm.
    #[arg(long)]
    kvm: bool,
    /// Write a picture of the screen to this file when the power button is pressed.
    #[arg(long, value_name = "PNG")]
    screenshot: Option<PathBuf>,
}

/// [`Bus`], as it is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum BusName {
    Virtio,
    Usb,
    Nvme,
    Ahci,
    Sdhci,
}

// === impl Vm ===

impl Vm {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| Failure::new(Exit::Failed, error))?;
        let running = Arc::new(self.machine()?.start()?);
        for forward in &self.forward {
            if let Some(here) = running.port(forward.there) {
                screen.note(&format!("port {} of the machine is 127.0.0.1:{here}", forward.there));
            }
        }
        let shown = running.clone();
        let mut console = tokio::task::spawn_blocking(move || {
            // A reader that has seen enough and closed the pipe is no fault; the machine runs on.
            let _ = shown.console().copy_to(&mut stdout().lock());
        });
        tokio::select! {
            _ = &mut console => {}
            _ = interrupt.recv() => {
                if let Some(png) = &self.screenshot {
                    running.screenshot(png)?;
                }
                screen.note("the power button is pressed; Ctrl-C again pulls the plug");
                running.press_power()?;
                tokio::select! {
                    _ = &mut console => {}
                    _ = interrupt.recv() => return Err(Failure::new(Exit::Failed, "the plug was pulled")),
                    () = tokio::time::sleep(POWER_OFF_WITHIN) => {}
                }
            }
        }
        ended(&running)
    }

    fn machine(&self) -> Result<Machine, Failure> {
        let folder = folder_of(&self.image);
        std::fs::create_dir_all(&folder).map_err(|source| VmError::File {
            doing: "make",
            path: folder.clone(),
            source,
        })?;
        let mut machine = Machine::new(&self.image, Firmware::ovmf(&folder.join("variables.fd"))?);
        machine.disk.bus = self.bus.into();
        machine.disk.sectors = if self.sectors_4k { SectorBytes::B4096 } else { SectorBytes::B512 };
        machine.disk.is_snapshot = self.snapshot;
        machine.tpm = (!self.no_tpm).then(|| folder.join("tpm"));
        machine.forwards.clone_from(&self.forward);
        machine.memory_mib = self.memory;
        machine.accelerator = if self.kvm { Accelerator::Kvm } else { Accelerator::Emulated };
        machine.reboots = true;
        Ok(machine)
    }
}

/// What lasts of the machine besides its disk.
fn folder_of(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".vm");
    name.into()
}

fn ended(running: &Running) -> Result<(), Failure> {
    match running.wait_end(Duration::ZERO)? {
        End::PoweredOff | End::Reset | End::Cut => Ok(()),
        End::Died(said) => Err(Failure::new(Exit::Failed, format!("the machine died: {said}"))),
    }
}

/// Reads `8080:80`.
fn forward(text: &str) -> Result<Forward, String> {
    let numbers = text.split_once(':').and_then(|(here, there)| Some((here.parse().ok()?, there.parse().ok()?)));
    match numbers {
        Some((here, there)) if there != 0 => Ok(Forward { here, there }),
        _ => Err("two port numbers, as in 8080:80".to_owned()),
    }
}

// === impl BusName ===

impl From<BusName> for Bus {
    fn from(name: BusName) -> Bus {
        match name {
            BusName::Virtio => Bus::Virtio,
            BusName::Usb => Bus::Usb,
            BusName::Nvme => Bus::Nvme,
            BusName::Ahci => Bus::Ahci,
            BusName::Sdhci => Bus::Sdhci,
        }
    }
}

// === impl Failure ===

impl From<VmError> for Failure {
    fn from(error: VmError) -> Failure {
        let next = match &error {
            VmError::Program { .. } => Some("install the package that is named"),
            VmError::Sectors { .. } => Some("take another --bus"),
            VmError::File { .. }
            | VmError::Prepare(_)
            | VmError::NotStarted { .. }
            | VmError::Control { .. }
            | VmError::NotShown { .. }
            | VmError::Ended { .. }
            | VmError::StillRuns { .. } => None,
        };
        let failure = Failure::new(Exit::Failed, error);
        match next {
            Some(next) => failure.next(next),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_two_ports() {
        assert_eq!(forward("8080:80"), Ok(Forward { here: 8080, there: 80 }));
        assert_eq!(forward("0:80"), Ok(Forward { here: 0, there: 80 }));
        for wrong in ["", "80", ":", "80:", ":80", "1:2:3", "80:0", "65536:80", "x:80"] {
            assert!(forward(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_lasts_lies_beside_the_image() {
        assert_eq!(folder_of(Path::new("a/rig.raw")), Path::new("a/rig.raw.vm"));
    }
}
