//! Machines without a TPM, and with one that forgot.

use std::time::Duration;

use anyhow::ensure;
use testbed::booted::{PAGE_WITHIN, address};
use testbed::stick::SMALLEST_BYTES;

use crate::lab::{comes_up_as, row};

/// Between two looks at the stick.
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[test]
fn a_machine_without_a_tpm_binds_the_key_to_its_parts() {
    row("no TPM", async |lab| {
        let mut hardware = lab.hardware("plain")?;
        hardware.has_tpm = false;
        let stick = lab.stick("plain.raw", SMALLEST_BYTES)?;
        let booted = hardware.boot(&stick)?;
        let face = booted.wait_page().await?;
        let rig = address(&face)?;
        ensure!(face["tier"] == "N", "{face}");
        booted.power_off()?;
        let took = comes_up_as(hardware.boot(&stick)?, rig).await?;
        Ok(format!("tier N, same rig the second time, page after {took} s"))
    });
}

#[test]
fn a_cleared_tpm_keeps_the_state_shut_until_the_owner_says_erase() {
    row("TPM cleared", async |lab| {
        let settled = lab.settled().await?;
        settled.hardware.clear_tpm()?;
        let booted = settled.hardware.boot(&settled.stick)?;
        // Without a state nothing that has a page is started; what is wrong stands on the stick and on the screen.
        let word = loop {
            ensure!(booted.elapsed() < PAGE_WITHIN, "no word on the stick: {}", booted.running.console().tail());
            let status = settled.stick.read("rig-status.txt").unwrap_or_default();
            let word = status.lines().find_map(|line| line.split_once("erase = \"")?.1.split('"').next());
            if let Some(word) = word {
                ensure!(status.contains("The TPM does not open the rig's state"), "{status}");
                break word.to_owned();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        ensure!(booted.face().await.is_err(), "the shut state has a page");
        booted.power_off()?;
        let settings = format!("{}\n[state]\nerase = \"{word}\"\n", lab.town.settings()?);
        settled.stick.put("rig.toml", &settings)?;
        let booted = settled.hardware.boot(&settled.stick)?;
        let face = booted.wait_page().await?;
        ensure!(address(&face)? != settled.rig, "the erased key is back: {face}");
        booted.power_off()?;
        Ok("state stays shut, and the stick says why; with the word that it names a new rig".to_owned())
    });
}
