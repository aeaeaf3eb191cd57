//! What the image costs: bytes, seconds from power-on, memory, and the time to build it; beside a plain Debian of the same
//! release with the same kernel, booted in turns in the same run.
//!
//! The processor is emulated, so only the two columns of boots may be compared, not either with a real machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use image::vm::{Firmware, Machine};
use serde_json::Value;
use testbed::booted::{Booted, Hardware, INIT_STARTS, LOADER_STARTS, ROOT_IS_READY, SERVING_WITHIN};
use testbed::island;
use testbed::rig::binary;
use testbed::stick::{SMALLEST_BYTES, Stick};
use testbed::town::Town;

use crate::{Figure, say};

/// Boots of each.
const BOOTS: usize = 5;

/// What the plain Debian's systemd says first, on the serial port.
const WELCOME: &str = "Welcome to";

/// What the plain Debian shows there when it is up.
const LOGIN: &str = "stock login:";

/// Longest time for one boot.
const BOOT_WITHIN: Duration = Duration::from_secs(900);

/// What a start leaves running ends within this; then memory is looked at.
const SETTLES: Duration = Duration::from_secs(30);

/// How long a guest may take to say how much memory it uses.
const MEMORY_WITHIN: Duration = Duration::from_secs(60);

const EMULATED: &str = "an emulated core";

/// All figures. Builds the image unless RIG_VM_IMAGE names one; RIG_BENCH_STOCK names the plain Debian's disk.
pub(crate) fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let image = match std::env::var_os("RIG_VM_IMAGE") {
        Some(image) => PathBuf::from(image),
        None => {
            say("building the image");
            let (image, built) = build()?;
            figures.extend(built);
            image
        }
    };
    let stock = std::env::var_os("RIG_BENCH_STOCK").map(PathBuf::from).context("RIG_BENCH_STOCK names no disk")?;
    figures.push(figure("the image's file, holes not counted", "MiB", vec![held_mib(&image)?], "bytes on the disk"));
    figures.push(figure("the plain Debian's, the same", "MiB", vec![held_mib(&stock)?], "bytes on the disk"));
    island::enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    figures.extend(runtime.block_on(boots(&image, &stock))?);
    Ok(figures)
}

/// Builds it, and tells the time of each step and the size of each file and component.
fn build() -> Result<(PathBuf, Vec<Figure>)> {
    let began = Instant::now();
    let output = Command::new(binary("rig")?)
        .args(["image", "build", "--json"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "rig image build failed: {}", String::from_utf8_lossy(&output.stdout));
    let took = began.elapsed().as_secs_f64();
    let built: Value = serde_json::from_slice(&output.stdout).context("what rig image build says")?;
    let mut figures =
        vec![figure("building the image, packages in the cache", "s", vec![took], "this machine's cores")];
    let steps = built["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let cpu_ms: f64 = steps.iter().filter_map(|step| step["cpu_ms"].as_f64()).sum();
    figures.push(figure("the same, of processor", "s", vec![cpu_ms / 1e3], "this machine's cores"));
    for step in steps {
        let what = format!("  step {}", step["step"].as_str().unwrap_or_default());
        let ms = step["elapsed_ms"].as_f64().unwrap_or_default();
        figures.push(figure(&what, "s", vec![ms / 1e3], "this machine's cores"));
    }
    for (kind, name) in [("files", "file"), ("root", "in the root, unpacked:")] {
        for (what, bytes) in built[kind].as_object().into_iter().flatten() {
            let mib = bytes.as_f64().unwrap_or_default() / f64::from(1 << 20);
            figures.push(figure(&format!("  {name} {what}"), "MiB", vec![mib], "bytes"));
        }
    }
    let raw = built["raw"].as_str().with_context(|| format!("{built} names no raw image"))?;
    Ok((raw.into(), figures))
}

/// Seconds from power-on to each step, and memory used when all is quiet.
#[derive(Debug, Default)]
struct Samples {
    loader: Vec<f64>,
    init: Vec<f64>,
    systemd: Vec<f64>,
    page: Vec<f64>,
    serving: Vec<f64>,
    login: Vec<f64>,
    used: Vec<f64>,
}

async fn boots(image: &Path, stock: &Path) -> Result<Vec<Figure>> {
    let dir = tempfile::TempDir::with_prefix_in("bench-", target())?;
    let town = Town::build().await?;
    let stick = Stick::write(image, &dir.path().join("stick.raw"), SMALLEST_BYTES)?;
    stick.put("rig.toml", &town.settings()?)?;
    let hardware = Hardware::new(&dir.path().join("machine"))?;
    town.publish_source("FIRST_RESPONSE").await?;
    say("the first start, which makes state and key");
    let booted = hardware.boot(&stick)?;
    let face = booted.wait_page().await?;
    let first = booted.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLES).await;
    let alone = used_mib(&booted.running)?;
    let paired = booted.elapsed().as_secs_f64();
    town.pair(&face, SERVING_WITHIN)?;
    booted.wait_serving(1).await?;
    let earns = first + booted.elapsed().as_secs_f64() - paired;
    booted.power_off()?;
    let (mut rig, mut debian) = (Samples::default(), Samples::default());
    for boot in 1..=BOOTS {
        say(&format!("boot {boot} of {BOOTS}, each"));
        let mut machine = hardware.machine(&stick)?;
        machine.disk.is_snapshot = true;
        boot_rig(&machine, &mut rig).await?;
        let mut machine = Machine::new(stock, Firmware::ovmf(&dir.path().join("stock.fd"))?);
        machine.disk.is_snapshot = true;
        machine.tpm = Some(dir.path().join("stock-tpm"));
        boot_stock(&machine, &mut debian).await?;
    }
    let seconds = |what: &str, samples| figure(what, "s", samples, EMULATED);
    let memory = |what: &str, samples| figure(what, "MiB", samples, "resident, caches left out; 1 GiB machine");
    Ok(vec![
        seconds("first start to the status page", vec![first]),
        seconds("first start to a rig that serves a source: paired, registered", vec![earns]),
        seconds("power-on to the loader", rig.loader),
        seconds("plain Debian, the same", debian.loader),
        seconds("power-on to the kernel's first process", rig.init),
        seconds("power-on to systemd, in the verified root", rig.systemd),
        seconds("plain Debian: power-on to systemd", debian.systemd),
        seconds("power-on to the status page: the provider is up", rig.page),
        seconds("plain Debian: power-on to the login prompt", debian.login),
        seconds("power-on to a rig that serves its source again", rig.serving),
        memory("memory used, idle, all of the rig's programs and no source", vec![alone]),
        memory("the same with a source in Python that waits for tasks", rig.used),
        memory("plain Debian: memory used, idle, no rig", debian.used),
    ])
}

async fn boot_rig(machine: &Machine, samples: &mut Samples) -> Result<()> {
    let booted = Booted::start(machine)?;
    booted.wait_page().await?;
    samples.page.push(booted.elapsed().as_secs_f64());
    for (marker, list) in
        [(LOADER_STARTS, &mut samples.loader), (INIT_STARTS, &mut samples.init), (ROOT_IS_READY, &mut samples.systemd)]
    {
        let at = booted.running.console().shown(marker).with_context(|| format!("the console never said {marker}"))?;
        list.push(at.as_secs_f64());
    }
    booted.wait_serving(1).await?;
    samples.serving.push(booted.elapsed().as_secs_f64());
    tokio::time::sleep(SETTLES).await;
    samples.used.push(used_mib(&booted.running)?);
    Ok(())
}

async fn boot_stock(machine: &Machine, samples: &mut Samples) -> Result<()> {
    let running = machine.start()?;
    for (marker, list) in
        [(LOADER_STARTS, &mut samples.loader), (WELCOME, &mut samples.systemd), (LOGIN, &mut samples.login)]
    {
        list.push(running.wait_for(marker, BOOT_WITHIN)?.as_secs_f64());
    }
    tokio::time::sleep(SETTLES).await;
    samples.used.push(used_mib(&running)?);
    Ok(())
}

fn used_mib(running: &image::vm::Running) -> Result<f64> {
    let memory = running.memory(MEMORY_WITHIN)?;
    Ok(f64::from(u32::try_from((memory.total - memory.available) / 1024)?) / 1024.0)
}

/// What a file with holes takes up.
fn held_mib(path: &Path) -> Result<f64> {
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path)?);
    Ok(f64::from(u32::try_from(blocks)?) / 2048.0)
}

fn target() -> PathBuf {
    std::env::var_os("RIG_VM_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

fn figure(what: &str, unit: &'static str, samples: Vec<f64>, bound: &'static str) -> Figure {
    Figure { what: what.to_owned(), unit, samples, bound }
}
