//! The demonstration with the image itself: a stick, a machine that never saw it before, and a rig that earns.
//!
//! The machine is QEMU's, with UEFI firmware and a TPM emulator; its processor is emulated, so every time here is about
//! ten times that of a real one. It shares an island with the local network, so nothing outside is reached.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use alloy_primitives::Address;
use alloy_primitives::utils::format_ether;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::booted::{Booted, Hardware, ROOT_IS_READY, SERVING_WITHIN, address};
use testbed::island;
use testbed::rig::binary;
use testbed::stick::Stick;
use testbed::town::{COIN, Done, Town};

use crate::{Arguments, say};

/// Longest wait for a response: the machine may just be starting the container again.
const RESPONSE_WITHIN: Duration = Duration::from_secs(600);

/// What the serial console shows on the way, and what that means.
const MARKERS: [(&str, &str); 3] = [
    ("firmware hands over to the loader", "BdsDxe: starting Boot"),
    ("the first process runs", "rig-init: "),
    ("the root is verified and mounted", ROOT_IS_READY),
];

/// Where browsers are found that can make a picture of a page.
const BROWSERS: [&str; 2] = ["/usr/bin/chromium", "/usr/bin/google-chrome"];

/// One boot, in times since power-on.
struct Boot {
    name: &'static str,
    steps: Vec<(&'static str, Duration)>,
}

/// One answered and paid task.
struct Paid {
    method: &'static str,
    wei: u128,
    done: Done,
}

/// All that is shown at the end.
struct Told {
    boots: Vec<Boot>,
    paid: Vec<Paid>,
    rose_wei: u128,
    rig: Address,
    tier: String,
}

/// Builds the image, unless one is named, and runs the story on an island.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let image = match &arguments.image {
        Some(image) => image.clone(),
        None => build(arguments)?,
    };
    // Nothing may run beside this thread yet: what runs already would stay in the world.
    island::enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let told = runtime.block_on(story(arguments, &image))?;
    show(arguments, &told)
}

/// Builds the image from the cache, and returns where it is.
fn build(arguments: &Arguments) -> Result<PathBuf> {
    say("building the image");
    let mut command = Command::new(binary("rig")?);
    command.args(["image", "build", "--json"]).stdin(Stdio::null()).stderr(Stdio::inherit());
    if let Some(programs) = &arguments.programs {
        command.arg("--programs").arg(programs);
    }
    let output = command.output()?;
    ensure!(output.status.success(), "rig image build failed: {}", String::from_utf8_lossy(&output.stdout));
    let built: Value = serde_json::from_slice(&output.stdout).context("what rig image build says")?;
    built["raw"].as_str().map(PathBuf::from).with_context(|| format!("{built} names no raw image"))
}

async fn story(arguments: &Arguments, image: &Path) -> Result<Told> {
    let folder = folder()?;
    say("starting the local network and an image registry on an island");
    let town = Town::build().await?;
    say("publishing a source for each delivery method, with the official SDK");
    let mut sources = vec![("first-response", town.publish_source("FIRST_RESPONSE").await?)];
    if !arguments.short {
        sources.push(("manual", town.publish_source("MANUAL_CONFIRMATION").await?));
    }
    say("writing the image to a stick of 4 GB, and rig.toml to its RIG partition");
    let stick = flash(arguments, image, &town, &folder)?;
    let hardware = Hardware::new(&folder.join("machine"))?;

    say("switching a machine on that never saw the stick");
    let booted = hardware.boot(&stick)?;
    let face = booted.wait_page().await?;
    let (page_at, rig) = (booted.elapsed(), address(&face)?);
    let tier = face["tier"].as_str().unwrap_or_default().to_owned();
    let code = face["code"].as_str().unwrap_or_default();
    say(&format!("its page shows address {rig}, key of tier {tier}, code {code}"));
    ensure!(tier != "N", "the key was born in no TPM: {face}");
    town.pair(&face, SERVING_WITHIN)?;
    let paired_at = booted.elapsed();
    say("it is paired; it pulls the source image and registers");
    booted.wait_serving(sources.len()).await?;
    let serving_at = booted.elapsed();

    let before = town.earned_wei().await?;
    let mut paid = Vec::new();
    for (number, (method, source)) in (1..).zip(&sources) {
        paid.push(work(&town, rig, (method, *source), number).await?);
    }
    pictures(&booted, &folder)?;
    let mut boots = vec![boot("first", &booted, [page_at, paired_at, serving_at])];
    if !arguments.short {
        say("pressing the power button");
        let took = booted.power_off()?;
        say(&format!("it was off after {:.1} s; switching it on again", took.as_secs_f64()));
        let booted = hardware.boot(&stick)?;
        let face = booted.wait_page().await?;
        let page_at = booted.elapsed();
        ensure!(address(&face)? == rig, "the second boot has another key: {face}");
        let face = booted.wait_face("it is paired still", SERVING_WITHIN, |face| face["is_paired"] == true).await?;
        let paired_at = booted.elapsed();
        ensure!(face["tier"] == tier.as_str(), "the key's tier changed: {face}");
        booted.wait_serving(sources.len()).await?;
        let serving_at = booted.elapsed();
        // Another sum, because the network refuses equal payloads.
        paid.push(work(&town, rig, sources[0], 3).await?);
        boots.push(boot("second", &booted, [page_at, paired_at, serving_at]));
        booted.power_off()?;
    } else {
        booted.power_off()?;
    }
    let rose_wei = town.earned_wei().await? - before;
    let wanted: u128 = paid.iter().map(|paid| paid.wei).sum();
    ensure!(rose_wei == wanted, "the owner was paid {rose_wei} wei for work worth {wanted} wei");
    if !arguments.keep {
        std::fs::remove_file(stick.path())?;
    }
    Ok(Told { boots, paid, rose_wei, rig, tier })
}

/// Writes the stick with `rig flash`, as its owner does. An image without a known maker is a developer's own.
fn flash(arguments: &Arguments, image: &Path, town: &Town, folder: &Path) -> Result<Stick> {
    let (path, settings) = (folder.join("stick.raw"), folder.join("rig.toml"));
    std::fs::write(&settings, town.settings()?)?;
    let key = arguments.key.clone().unwrap_or_else(|| target().join("image/keys/release.pub"));
    let mut command = Command::new(binary("rig")?);
    command.arg("flash").arg(image).arg("--to-file").arg(&path).args(["--size", "4GB", "--yes", "--settings"]);
    command.arg(&settings);
    if key.exists() {
        command.arg("--key").arg(key);
    } else {
        command.arg("--unverified");
    }
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "rig flash: {}", String::from_utf8_lossy(&output.stderr));
    Ok(Stick::open(&path))
}

/// One task for one source: published, answered, confirmed where that is the client's to do, and right.
async fn work(town: &Town, rig: Address, source: (&'static str, Address), number: u64) -> Result<Paid> {
    let ((function, data), wanted) = Town::sum(number);
    let wei = COIN * u128::from(number);
    let done = town.task(rig, source.1, (function, data), wei, RESPONSE_WITHIN).await?;
    ensure!(done.payload == wanted, "task {} was answered {}, {wanted} was wanted", done.task, done.payload);
    if source.0 == "manual" {
        town.client.confirm(done.task).await?;
    }
    let status = town.client.status(done.task).await?.to_lowercase();
    ensure!(status == "finalized", "task {} is {status}", done.task);
    Ok(Paid { method: source.0, wei, done })
}

fn boot(name: &'static str, booted: &Booted, [page, paired, serving]: [Duration; 3]) -> Boot {
    let console = booted.running.console();
    let shown = |(what, marker): (&'static str, &str)| Some((what, console.shown(marker)?));
    let mut steps: Vec<_> = MARKERS.into_iter().filter_map(shown).collect();
    steps.extend([("the provider serves its page", page), ("paired", paired), ("serves its sources", serving)]);
    Boot { name, steps }
}

/// The screen, and the page where a browser is installed.
fn pictures(booted: &Booted, folder: &Path) -> Result<()> {
    booted.running.screenshot(&folder.join("console.png"))?;
    say(&format!("a picture of its screen is {}", folder.join("console.png").display()));
    let Some(browser) = BROWSERS.into_iter().find(|path| Path::new(path).exists()) else { return Ok(()) };
    let picture = folder.join("page.png");
    let home = tempfile::TempDir::with_prefix("browser-")?;
    let made = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=520,1100"])
        .arg(format!("--user-data-dir={}", home.path().display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(booted.page())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if made.is_ok_and(|status| status.success()) && picture.exists() {
        say(&format!("a picture of its page is {}", picture.display()));
    }
    Ok(())
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// A new folder for this run, where the pictures stay.
fn folder() -> Result<PathBuf> {
    let folder = std::env::var_os("RIG_VM_DIR").map_or_else(target, PathBuf::from).join("demo-vm");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder.canonicalize()?)
}

fn show(arguments: &Arguments, told: &Told) -> Result<()> {
    if arguments.json {
        let boots: Vec<Value> = told
            .boots
            .iter()
            .map(|boot| {
                let steps: Vec<Value> =
                    boot.steps.iter().map(|(what, at)| json!({ "what": what, "seconds": at.as_secs_f64() })).collect();
                json!({ "boot": boot.name, "steps": steps })
            })
            .collect();
        let tasks: Vec<Value> = told
            .paid
            .iter()
            .map(|paid| {
                json!({ "task": paid.done.task, "method": paid.method, "seconds": paid.done.took.as_secs_f64(),
                "paid_wei": paid.wei.to_string() })
            })
            .collect();
        let rose = told.rose_wei.to_string();
        println!("{}", json!({ "rig": told.rig, "tier": told.tier, "boots": boots, "tasks": tasks, "paid_wei": rose }));
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    for boot in &told.boots {
        writeln!(out, "\n{} boot, seconds since power-on (emulated processor)", boot.name)?;
        for (what, at) in &boot.steps {
            writeln!(out, "  {what:<36} {:>8.1}", at.as_secs_f64())?;
        }
    }
    writeln!(out, "\n{:<42}  {:<14}  {:>7}  {:>6}", "task", "method", "seconds", "coins")?;
    for Paid { method, wei, done } in &told.paid {
        let coins = format_ether(*wei);
        let coins = coins.trim_end_matches('0').trim_end_matches('.');
        writeln!(out, "{:<42}  {method:<14}  {:>7.1}  {coins:>6}", done.task.to_string(), done.took.as_secs_f64())?;
    }
    let rose = format_ether(told.rose_wei);
    writeln!(out, "\nthe rig {} keeps its key in a TPM (tier {})", told.rig, told.tier)?;
    writeln!(out, "the owner's vault balance rose by {} coins", rose.trim_end_matches('0').trim_end_matches('.'))?;
    say("every payload is right, and the owner's vault balance rose by exactly the payments");
    Ok(())
}
