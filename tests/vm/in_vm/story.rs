//! What the image is for: a stick, a machine, and a rig that earns.

use std::time::Duration;

use anyhow::ensure;
use testbed::booted::{SERVING_WITHIN, address};
use testbed::stick::SMALLEST_BYTES;
use testbed::town::{COIN, Town};

use crate::lab::row;

/// How long a response may take.
const RESPONSE_WITHIN: Duration = Duration::from_secs(600);

#[test]
fn a_new_stick_boots_into_a_rig_that_earns() {
    row("first boot to a paid task", async |lab| {
        let hardware = lab.hardware("new")?;
        let stick = lab.stick("new.raw", SMALLEST_BYTES)?;
        let source = lab.town.publish_source("FIRST_RESPONSE").await?;
        let booted = hardware.boot(&stick)?;
        let face = booted.wait_page().await?;
        let (page, rig) = (booted.elapsed().as_secs(), address(&face)?);
        ensure!(face["tier"] != "N", "the key was born in no TPM: {face}");
        lab.town.pair(&face, SERVING_WITHIN)?;
        booted.wait_serving(1).await?;
        let serving = booted.elapsed().as_secs();
        let before = lab.town.earned_wei().await?;
        let (job, wanted) = Town::sum(2);
        let done = lab.town.task(rig, source, job, COIN, RESPONSE_WITHIN).await?;
        ensure!(done.payload == wanted, "it answered {}", done.payload);
        let paid = lab.town.earned_wei().await? - before;
        ensure!(paid == COIN, "the owner was paid {paid} wei");
        let off = booted.power_off()?;
        let (took, off) = (done.took.as_secs_f64(), off.as_secs_f64());
        Ok(format!("page after {page} s, serving after {serving} s, task in {took:.1} s, off in {off:.1} s"))
    });
}
