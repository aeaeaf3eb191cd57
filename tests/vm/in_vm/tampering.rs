//! One bit is turned around on the stick. What it belongs to must not run.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use image::vm::{End, VmError};
use testbed::booted::{Booted, Hardware, INIT_STARTS, ROOT_IS_READY};
use testbed::stick::Stick;

use crate::lab::{Lab, row};

/// A machine whose kernel has not started by then will not start it: a good one takes a quarter of this.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// From the kernel's start to a reset: longer than a good one needs from there to its page.
const RESETS_WITHIN: Duration = Duration::from_secs(300);

/// The size of a block of the root and of its tree.
const BLOCK: u64 = 4096;

/// What became of a tampered stick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The kernel was never started: the firmware or the loader stayed where it was.
    NotRun,
    /// The first process found no root that it would mount.
    ResetByInit,
    /// The root was mounted, and the kernel met a block that is not the one that was built.
    ResetBySystem,
}

#[test]
fn a_changed_bit_in_the_first_program_resets_the_machine() {
    row("a bit of systemd's program in the root", async |lab| {
        tampered(lab, |_, stick| {
            let root = stick.place("rig-root-a")?;
            stick.flip(root.at + program_at(stick, "/usr/lib/systemd/systemd")? + 100)
        })
        .await
    });
}

#[test]
fn a_changed_bit_in_the_roots_superblock_resets_the_machine() {
    row("a bit of the root's superblock", async |lab| {
        tampered(lab, |_, stick| stick.flip(stick.place("rig-root-a")?.at + 1024 + 16)).await
    });
}

#[test]
fn a_changed_bit_in_the_tree_of_hashes_resets_the_machine() {
    row("a bit of the tree of hashes", async |lab| {
        tampered(lab, |_, stick| stick.flip(stick.place("rig-verity-a")?.at + BLOCK + 8)).await
    });
}

#[test]
fn a_changed_bit_in_veritys_superblock_resets_the_machine() {
    row("a bit of verity's salt", async |lab| {
        // Superblock version 1: the salt is at byte 88.
        tampered(lab, |_, stick| stick.flip(stick.place("rig-verity-a")?.at + 90)).await
    });
}

#[test]
fn a_shorter_root_in_veritys_superblock_resets_the_machine() {
    row("a bit of the root's length in verity's superblock", async |lab| {
        // The count of blocks is at byte 72, and odd counts are as good as even ones.
        tampered(lab, |_, stick| stick.flip(stick.place("rig-verity-a")?.at + 72)).await
    });
}

#[test]
fn another_root_hash_on_the_command_line_finds_no_root() {
    row("no Secure Boot: a digit of the root hash in the kernel image", async |lab| {
        tampered(lab, |hardware, stick| {
            // Nobody enrols keys, so the firmware runs anything.
            hardware.wipe_variables()?;
            for key in ["PK.auth", "KEK.auth", "db.auth"] {
                stick.remove_from("rig-esp", &format!("loader/keys/auto/{key}"))?;
            }
            let name = kernel_image(stick)?;
            let mut bytes = stick.read_from("rig-esp", &name)?;
            let found = find(&bytes, b"roothash=").context("the command line has a root hash")?;
            let digit = &mut bytes[found + 9];
            *digit = if *digit == b'0' { b'1' } else { b'0' };
            stick.put_on("rig-esp", &name, &bytes)
        })
        .await
    });
}

#[test]
fn a_stick_without_its_second_partition_table_still_boots() {
    row("the backup partition table destroyed", async |lab| {
        let settled = lab.settled().await?;
        let end = std::fs::metadata(settled.stick.path())?.len();
        settled.stick.overwrite(end - 512, &[0; 512])?;
        let took = crate::lab::comes_up_as(settled.hardware.boot(&settled.stick)?, settled.rig).await?;
        Ok(format!("same rig, page after {took} s"))
    });
}

#[test]
fn a_stick_without_its_first_partition_table_still_boots() {
    row("the primary partition table destroyed", async |lab| {
        let settled = lab.settled().await?;
        settled.stick.overwrite(512, &[0; 512])?;
        let took = crate::lab::comes_up_as(settled.hardware.boot(&settled.stick)?, settled.rig).await?;
        Ok(format!("same rig, page after {took} s"))
    });
}

async fn tampered(lab: &Lab, tamper: impl FnOnce(&Hardware, &Stick) -> Result<()>) -> Result<String> {
    let settled = lab.settled().await?;
    tamper(&settled.hardware, &settled.stick)?;
    let booted = settled.hardware.boot_once(&settled.stick)?;
    let fate = fate(&booted).await?;
    let seconds = booted.elapsed().as_secs();
    match fate {
        Fate::ResetBySystem => Ok(format!("reset after {seconds} s, when it was read")),
        Fate::ResetByInit => Ok(format!("reset after {seconds} s, before the root was mounted")),
        // Nothing of these rows is what firmware or loader look at.
        Fate::NotRun => anyhow::bail!("the kernel did not start: {}", booted.running.console().tail()),
    }
}

/// Follows a boot that must not succeed. Errors: it does.
pub(crate) async fn fate(booted: &Booted) -> Result<Fate> {
    let running = &booted.running;
    match running.wait_for(INIT_STARTS, STARTS_WITHIN) {
        Ok(_) => {}
        Err(VmError::NotShown { .. }) => return Ok(Fate::NotRun),
        Err(other) => return Err(other.into()),
    }
    let end = running.wait_end(RESETS_WITHIN);
    if let Ok(face) = booted.face().await {
        anyhow::bail!("it came up: {face}");
    }
    match end {
        Ok(End::Reset) if running.console().shown(ROOT_IS_READY).is_some() => Ok(Fate::ResetBySystem),
        Ok(End::Reset) => Ok(Fate::ResetByInit),
        other => anyhow::bail!("no reset: {other:?}"),
    }
}

/// The only kernel image on the stick, as a path.
pub(crate) fn kernel_image(stick: &Stick) -> Result<String> {
    let names = stick.list("rig-esp", "EFI/Linux")?;
    let name =
        names.iter().find(|name| name.ends_with(".efi")).with_context(|| format!("no kernel image: {names:?}"))?;
    Ok(format!("EFI/Linux/{name}"))
}

pub(crate) fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

/// Where the first block of a file's content lies in the root, in bytes; erofs-utils know.
fn program_at(stick: &Stick, path: &str) -> Result<u64> {
    let root = stick.place("rig-root-a")?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), stick.bytes(root.at, usize::try_from(root.bytes)?)?)?;
    let told = Command::new("dump.erofs").args(["-e", &format!("--path={path}")]).arg(file.path()).output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    // `   0:        0..   65535 |   65536 :   12345678..  12398765 |   53087`
    let extent = told.lines().find(|line| line.trim_start().starts_with("0:"));
    let physical = extent.and_then(|line| line.split('|').nth(1)?.split(':').nth(1)?.split("..").next());
    let at = physical.and_then(|number| number.trim().parse().ok());
    at.with_context(|| format!("dump.erofs says nothing of where {path} lies: {told}"))
}
