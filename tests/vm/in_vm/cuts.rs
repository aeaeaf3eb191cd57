//! The power goes while the rig makes its state for the first time.

use std::time::Duration;

use anyhow::ensure;
use image::vm::VmError;
use testbed::stick::SMALLEST_BYTES;

use crate::lab::row;

/// How often the power goes.
const CUTS: u32 = 10;

#[test]
fn a_first_boot_that_loses_power_anywhere_comes_up_the_next_time() {
    row("power cut at 10 points of the first boot", async |lab| {
        let whole = Duration::from_secs(lab.first_start_s().await?);
        let mut keys = Vec::new();
        for cut in 1..=CUTS {
            let at = whole * cut / CUTS;
            let hardware = lab.hardware(&format!("cut-{cut}"))?;
            let stick = lab.stick("cut.raw", SMALLEST_BYTES)?;
            let booted = hardware.boot(&stick)?;
            // A console that never says this is waited for exactly as long as the machine shall live.
            match booted.running.wait_for("no machine says this", at) {
                Err(VmError::NotShown { .. }) => {}
                other => anyhow::bail!("cut {cut}: {other:?} before the power went at {at:?}"),
            }
            drop(booted);
            let booted = hardware.boot(&stick)?;
            let face = booted.wait_page().await?;
            ensure!(face["tier"] != "N", "cut {cut}: the key is in no TPM: {face}");
            ensure!(face["state_code"].is_string(), "cut {cut}: {face}");
            keys.push(testbed::booted::address(&face)?);
            booted.power_off()?;
            std::fs::remove_file(stick.path())?;
        }
        keys.sort_unstable();
        keys.dedup();
        ensure!(keys.len() == usize::try_from(CUTS)?, "two machines have one key: {keys:?}");
        Ok(format!("{CUTS} of {CUTS} came up; cuts every {} s", whole.as_secs() / u64::from(CUTS)))
    });
}
