//! A machine that had other systems before: their boot entries come first, and lead nowhere.

use anyhow::Context;

use crate::lab::{comes_up_as, row};
use crate::variables::add_foreign_entries;

#[test]
fn boot_entries_of_other_systems_do_not_keep_the_rig_from_starting() {
    row("foreign boot entries first in the order", async |lab| {
        let settled = lab.settled().await?;
        settled.hardware.wipe_variables()?;
        // Makes the variables anew.
        settled.hardware.machine(&settled.stick)?;
        add_foreign_entries(&settled.hardware.variables()).context("add foreign entries")?;
        let took = comes_up_as(settled.hardware.boot(&settled.stick)?, settled.rig).await?;
        Ok(format!("same rig, page after {took} s"))
    });
}
