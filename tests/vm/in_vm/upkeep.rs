//! What a rig does when it has nothing to do, and when it is asked to stop.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use testbed::booted::{SERVING_WITHIN, address};
use testbed::stick::SMALLEST_BYTES;
use testbed::town::COIN;

use crate::lab::row;

/// How long the rig is watched while it has nothing to do.
const IDLE: Duration = Duration::from_secs(600);

/// How long a response may take.
const RESPONSE_WITHIN: Duration = Duration::from_secs(900);

/// How long the task takes, in seconds: the page is not always the newest, and begun work has a minute at the end.
const TASK_S: f64 = 25.0;

/// Before it is watched, what a start leaves behind is written.
const SETTLES: Duration = Duration::from_secs(60);

/// How long the guest may take to say how much memory it has.
const MEMORY_WITHIN: Duration = Duration::from_secs(60);

/// More than this a day is not for a cheap stick: each small write costs it a block of its cells, a hundred times as much.
const WRITTEN_A_DAY_MAX: u64 = 50_000_000;

#[test]
fn an_idle_rig_hardly_writes_to_its_stick() {
    row("10 idle minutes, registered", async |lab| {
        let settled = lab.settled().await?;
        lab.town.publish_source("FIRST_RESPONSE").await?;
        let booted = settled.hardware.boot(&settled.stick)?;
        let face = booted.wait_page().await?;
        lab.town.pair(&face, SERVING_WITHIN)?;
        booted.wait_serving(1).await?;
        tokio::time::sleep(SETTLES).await;
        let before = booted.running.traffic()?;
        tokio::time::sleep(IDLE).await;
        let after = booted.running.traffic()?;
        let memory = booted.running.memory(MEMORY_WITHIN)?;
        booted.power_off()?;
        let bytes = after.written_bytes - before.written_bytes;
        let a_day = bytes * 86_400 / IDLE.as_secs();
        ensure!(a_day < WRITTEN_A_DAY_MAX, "{bytes} bytes in {IDLE:?}, {a_day} a day");
        let (kib, mib, used) = (bytes / 1024, a_day >> 20, (memory.total - memory.available) >> 20);
        Ok(format!("{kib} KiB in {} writes, {mib} MiB a day; {used} MiB used", after.writes - before.writes))
    });
}

#[test]
fn a_task_that_runs_when_the_power_button_is_pressed_is_not_lost() {
    row("power button during a task", async |lab| {
        let hardware = lab.hardware("drain")?;
        let stick = lab.stick("drain.raw", SMALLEST_BYTES)?;
        let source = lab.town.publish_source("FIRST_RESPONSE").await?;
        let booted = hardware.boot(&stick)?;
        let face = booted.wait_page().await?;
        let rig = address(&face)?;
        lab.town.pair(&face, SERVING_WITHIN)?;
        booted.wait_serving(1).await?;
        let before = lab.town.earned_wei().await?;
        let task = lab.town.publish(source, "slow", &json!({ "seconds": TASK_S, "tag": "drain" }), COIN).await?;
        let works = |face: &serde_json::Value| face["tasks"] != json!([0, 0]);
        let face = booted.wait_face("the task is in work", RESPONSE_WITHIN, works).await?;
        ensure!(face["tasks"] == json!([1, 0]), "it was done before anybody saw it begun: {face}");
        let off = booted.power_off()?;
        let is_answered = lab.town.answered(rig, task, Duration::from_secs(1)).await.is_ok();
        if !is_answered {
            let booted = hardware.boot(&stick)?;
            lab.town.answered(rig, task, RESPONSE_WITHIN).await?;
            booted.power_off()?;
        }
        let paid = lab.town.earned_wei().await? - before;
        ensure!(paid == COIN, "the owner was paid {paid} wei");
        let when = if is_answered { "before it was off" } else { "after it was on again" };
        Ok(format!("answered {when}, paid once; off after {:.1} s", off.as_secs_f64()))
    });
}
