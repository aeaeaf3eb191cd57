//! The stick goes from machine part to machine part, and stays the same rig.
//!
//! An SD card is not among them: Debian's firmware has no driver for it. The initrd's own tests start from one.

use anyhow::ensure;
use image::vm::{Bus, SectorBytes};
use testbed::booted::Booted;

use crate::lab::{comes_up_as, row};

#[test]
fn a_machine_whose_firmware_forgot_everything_starts_the_rig() {
    row("firmware's variables wiped before each boot", async |lab| {
        let settled = lab.settled().await?;
        let mut took = Vec::new();
        for _ in 0..2 {
            settled.hardware.wipe_variables()?;
            took.push(comes_up_as(settled.hardware.boot(&settled.stick)?, settled.rig).await?);
        }
        Ok(format!("same rig each time, page after {took:?} s"))
    });
}

#[test]
fn a_stick_that_is_moved_from_bus_to_bus_stays_the_same_rig() {
    row("disk moved virtio, usb, nvme, ahci", async |lab| {
        let mut settled = lab.settled().await?;
        let mut took = Vec::new();
        for bus in [Bus::Usb, Bus::Nvme, Bus::Ahci, Bus::Virtio] {
            settled.hardware.bus = bus;
            let seconds = comes_up_as(settled.hardware.boot(&settled.stick)?, settled.rig).await?;
            took.push(format!("{} {seconds} s", bus.name()));
        }
        Ok(format!("same rig on each: {}", took.join(", ")))
    });
}

#[test]
fn a_disk_with_sectors_of_4096_bytes_boots() {
    row("sectors of 4096 bytes", async |lab| {
        let mut took = Vec::new();
        for bus in [Bus::Virtio, Bus::Nvme] {
            let hardware = lab.hardware(bus.name())?;
            let stick = lab.stick_4k(&format!("{}.raw", bus.name()))?;
            let mut machine = hardware.machine(&stick)?;
            (machine.disk.bus, machine.disk.sectors) = (bus, SectorBytes::B4096);
            // The loader enrols keys, and starts the machine anew.
            machine.reboots = true;
            let booted = Booted::start(&machine)?;
            booted.wait_page().await?;
            took.push(format!("{} {} s", bus.name(), booted.elapsed().as_secs()));
            booted.power_off()?;
        }
        ensure!(took.len() == 2);
        Ok(format!("first boot on {}", took.join(", ")))
    });
}
