//! Secure Boot with the keys of the image: the firmware runs what is signed, and nothing else.

use anyhow::{Context, Result, ensure};
use image::vm::Firmware;
use testbed::booted::Booted;
use testbed::stick::Stick;

use super::tampering::{Fate, fate, find, kernel_image};
use crate::lab::{Lab, Settled, row};

/// Firmware and loader say it with a capital or without.
const REFUSED: &str = "access denied";

#[test]
fn a_loader_with_a_changed_bit_is_not_run() {
    row("Secure Boot: a bit of the loader", async |lab| {
        refused(lab, |stick| change(stick, "EFI/BOOT/BOOTX64.EFI", flip_middle)).await
    });
}

#[test]
fn a_kernel_with_a_changed_bit_is_not_run() {
    row("Secure Boot: a bit of the kernel", async |lab| {
        refused(lab, |stick| change(stick, &kernel_image(stick)?, flip_middle)).await
    });
}

#[test]
fn a_changed_command_line_is_not_run() {
    row("Secure Boot: a letter of the command line", async |lab| {
        refused(lab, |stick| {
            change(stick, &kernel_image(stick)?, |bytes| {
                let found = find(bytes, b"panic=").context("the command line has panic=")?;
                bytes[found + 6] ^= 1;
                Ok(())
            })
        })
        .await
    });
}

/// A machine in setup mode takes the image's keys at its first boot; after that `tamper` is done to its stick.
async fn refused(lab: &Lab, tamper: impl FnOnce(&Stick) -> Result<()>) -> Result<String> {
    let settled = lab.settled().await?;
    enrol(&settled).await?;
    tamper(&settled.stick)?;
    let booted = boot(&settled, false)?;
    let fate = fate(&booted).await?;
    let console = booted.running.console().text();
    ensure!(fate == Fate::NotRun, "{fate:?}: the changed code has run: {console}");
    ensure!(console.to_lowercase().contains(REFUSED), "not run, but not for its signature: {console}");
    Ok(format!("refused by the firmware; looked at for {} s", booted.elapsed().as_secs()))
}

/// Boots until the firmware says that Secure Boot is on. The loader enrols the keys, and starts the machine anew.
async fn enrol(settled: &Settled) -> Result<()> {
    settled.hardware.wipe_variables()?;
    let booted = boot(settled, true)?;
    booted.wait_page().await.context("the boot that enrols the keys")?;
    booted.power_off()?;
    let variables = std::fs::read(settled.hardware.variables())?;
    let name: Vec<u8> = "PK\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    ensure!(find(&variables, &name).is_some(), "the firmware has no platform key after the first boot");
    Ok(())
}

/// `reboots`: the loader starts the machine anew when it has enrolled keys.
fn boot(settled: &Settled, reboots: bool) -> Result<Booted> {
    let mut machine = settled.hardware.machine(&settled.stick)?;
    machine.firmware = Firmware::ovmf_with_secure_boot(&settled.hardware.variables())?;
    machine.reboots = reboots;
    Booted::start(&machine)
}

fn change(stick: &Stick, name: &str, change: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
    let mut bytes = stick.read_from("rig-esp", name)?;
    change(&mut bytes)?;
    stick.put_on("rig-esp", name, &bytes)
}

fn flip_middle(bytes: &mut [u8]) -> Result<()> {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(())
}
