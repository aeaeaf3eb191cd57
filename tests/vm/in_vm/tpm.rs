//! Machines without a TPM, and with one that forgot.

use anyhow::{Context, ensure};
use testbed::booted::{PAGE_WITHIN, address};
use testbed::stick::SMALLEST_BYTES;

use crate::lab::{comes_up_as, row};

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
        let notice = |face: &serde_json::Value| face["notices"].as_array().is_some_and(|all| !all.is_empty());
        let face = booted.wait_face("a notice on the page", PAGE_WITHIN, notice).await?;
        ensure!(face["address"].as_str() != Some(&settled.rig.to_string()), "the shut state gave its key: {face}");
        booted.power_off()?;
        let status = settled.stick.read("rig-status.txt")?;
        let word = status
            .lines()
            .find_map(|line| line.split_once("erase = \"")?.1.split('"').next())
            .with_context(|| format!("no erase word in {status}"))?;
        let settings = format!("{}\n[state]\nerase = \"{word}\"\n", lab.town.settings()?);
        settled.stick.put("rig.toml", &settings)?;
        let booted = settled.hardware.boot(&settled.stick)?;
        let face = booted.wait_page().await?;
        ensure!(address(&face)? != settled.rig, "the erased key is back: {face}");
        booted.power_off()?;
        Ok("state stays shut with a notice; with the erase word a new rig".to_owned())
    });
}
