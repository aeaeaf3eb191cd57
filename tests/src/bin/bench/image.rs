//! What an image costs: bytes, seconds from power-on, memory, processes, and the time to build it; both flavours beside a
//! plain Debian of the same release with the same kernel, booted in turns in the same run.
//!
//! The processor is emulated, so only the columns of boots may be compared, not one with a real machine.

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

/// What it says, a while later, before the number.
const COUNTED: &str = "stock processes: ";

/// Longest time for one boot.
const BOOT_WITHIN: Duration = Duration::from_secs(900);

/// What a start leaves running ends within this; then memory is looked at.
const SETTLES: Duration = Duration::from_secs(30);

/// How long a guest may take to say how much memory it uses.
const MEMORY_WITHIN: Duration = Duration::from_secs(60);

const EMULATED: &str = "an emulated core";
const BYTES: &str = "bytes on the disk";
const CORES: &str = "this machine's cores";

/// The flavours, and what names an image of each that is not built first.
const FLAVOURS: [(&str, &str); 2] = [("generic", "RIG_VM_IMAGE"), ("nvidia", "RIG_VM_IMAGE_NVIDIA")];

/// All figures. Builds the images that no variable names; RIG_BENCH_STOCK names the plain Debian's disk.
pub(crate) fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut images = Vec::new();
    for (flavour, variable) in FLAVOURS {
        let image = match std::env::var_os(variable) {
            Some(image) => PathBuf::from(image),
            None => {
                say(&format!("building the {flavour} image"));
                let (image, built) = build(flavour)?;
                figures.extend(built);
                image
            }
        };
        figures.push(figure(
            &format!("{flavour}: bytes of the disk, holes not counted"),
            "MiB",
            vec![held_mib(&image)?],
            BYTES,
        ));
        images.push(image);
    }
    let stock = std::env::var_os("RIG_BENCH_STOCK").map(PathBuf::from).context("RIG_BENCH_STOCK names no disk")?;
    figures.push(figure("plain Debian: bytes of the disk, holes not counted", "MiB", vec![held_mib(&stock)?], BYTES));
    island::enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    figures.extend(runtime.block_on(boots(&images[0], &images[1], &stock))?);
    Ok(figures)
}

/// Builds a flavour, and tells the time of each step and the size of each file and component.
fn build(flavour: &str) -> Result<(PathBuf, Vec<Figure>)> {
    let began = Instant::now();
    let output = Command::new(binary("rig")?)
        .args(["image", "build", "--json", "--flavour", flavour])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "rig image build failed: {}", String::from_utf8_lossy(&output.stdout));
    let took = began.elapsed().as_secs_f64();
    let built: Value = serde_json::from_slice(&output.stdout).context("what rig image build says")?;
    let steps = built["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let cpu_ms: f64 = steps.iter().filter_map(|step| step["cpu_ms"].as_f64()).sum();
    let mut figures = vec![
        figure(&format!("{flavour}: building it, packages in the cache"), "s", vec![took], CORES),
        figure(&format!("{flavour}: the same, of processor"), "s", vec![cpu_ms / 1e3], CORES),
    ];
    for step in steps {
        let what = format!("{flavour}:   step {}", step["step"].as_str().unwrap_or_default());
        let ms = step["elapsed_ms"].as_f64().unwrap_or_default();
        figures.push(figure(&what, "s", vec![ms / 1e3], CORES));
    }
    for (kind, name) in [("files", "file"), ("root", "in the root, unpacked:")] {
        for (what, bytes) in built[kind].as_object().into_iter().flatten() {
            let mib = bytes.as_f64().unwrap_or_default() / f64::from(1 << 20);
            figures.push(figure(&format!("{flavour}:   {name} {what}"), "MiB", vec![mib], "bytes"));
        }
    }
    let raw = built["raw"].as_str().with_context(|| format!("{built} names no raw image"))?;
    Ok((raw.into(), figures))
}

/// Seconds from power-on to each step, and what is in use when all is quiet.
#[derive(Debug, Default)]
struct Samples {
    loader: Vec<f64>,
    init: Vec<f64>,
    systemd: Vec<f64>,
    /// The page, or the prompt.
    up: Vec<f64>,
    serving: Vec<f64>,
    used: Vec<f64>,
    processes: Vec<f64>,
}

async fn boots(generic: &Path, nvidia: &Path, stock: &Path) -> Result<Vec<Figure>> {
    let dir = tempfile::TempDir::with_prefix_in("bench-", target())?;
    let town = Town::build().await?;
    town.publish_source("FIRST_RESPONSE").await?;
    let settings = town.settings()?;
    let rig = |image: &Path, name: &str| -> Result<(Stick, Hardware)> {
        let stick = Stick::write(image, &dir.path().join(format!("{name}.raw")), SMALLEST_BYTES)?;
        stick.put("rig.toml", &settings)?;
        Ok((stick, Hardware::new(&dir.path().join(name))?))
    };
    say("the first starts, which make state and key");
    let (driven_stick, driven_hardware) = rig(nvidia, "nvidia")?;
    let booted = driven_hardware.boot(&driven_stick)?;
    booted.wait_page().await?;
    booted.power_off()?;
    let (stick, hardware) = rig(generic, "generic")?;
    let booted = hardware.boot(&stick)?;
    let face = booted.wait_page().await?;
    let first = booted.elapsed().as_secs_f64();
    let mut alone = Samples::default();
    quiet(&booted, &mut alone).await?;
    let paired = booted.elapsed().as_secs_f64();
    town.pair(&face, SERVING_WITHIN)?;
    booted.wait_serving(1).await?;
    let earns = first + booted.elapsed().as_secs_f64() - paired;
    booted.power_off()?;
    let (mut rig, mut driven, mut debian) = (Samples::default(), Samples::default(), Samples::default());
    for boot in 1..=BOOTS {
        say(&format!("boot {boot} of {BOOTS}, each"));
        boot_rig(&hardware, &stick, &mut rig, true).await?;
        boot_rig(&driven_hardware, &driven_stick, &mut driven, false).await?;
        let mut machine = Machine::new(stock, Firmware::ovmf(&dir.path().join("stock.fd"))?);
        machine.disk.is_snapshot = true;
        machine.tpm = Some(dir.path().join("stock-tpm"));
        boot_stock(&machine, &mut debian).await?;
    }
    let seconds = |what: &str, samples| figure(what, "s", samples, EMULATED);
    let mut figures = vec![
        seconds("generic: first start to the status page", vec![first]),
        seconds("generic: first start to a rig that serves a source: paired, registered", vec![earns]),
        seconds("generic: power-on to a rig that serves its source again", rig.serving),
        seconds("generic: power-on to the kernel's first process", rig.init),
        seconds("nvidia: power-on to the kernel's first process", driven.init),
    ];
    for (who, up, samples) in [
        ("generic", "the status page: the provider is up", [rig.loader, rig.systemd, rig.up]),
        ("nvidia", "the status page: the provider is up", [driven.loader, driven.systemd, driven.up]),
        ("plain Debian", "the login prompt", [debian.loader, debian.systemd, debian.up]),
    ] {
        let names = ["the loader", "systemd", up];
        figures.extend(
            names.into_iter().zip(samples).map(|(to, list)| seconds(&format!("{who}: power-on to {to}"), list)),
        );
    }
    for (who, memory, processes) in [
        ("generic, no source", alone.used, alone.processes),
        ("generic, a source in Python that waits for tasks", rig.used, rig.processes),
        ("nvidia, no GPU, no source", driven.used, driven.processes),
        ("plain Debian, no rig", debian.used, debian.processes),
    ] {
        let bound = "resident, caches left out; 1 GiB machine";
        figures.push(figure(&format!("{who}: memory used, idle"), "MiB", memory, bound));
        figures.push(figure(&format!("{who}: processes, idle"), "", processes, "the kernel's own left out"));
    }
    Ok(figures)
}

/// Boots it, and throws away what it writes.
async fn boot_rig(hardware: &Hardware, stick: &Stick, samples: &mut Samples, serves: bool) -> Result<()> {
    let mut machine = hardware.machine(stick)?;
    machine.disk.is_snapshot = true;
    let booted = Booted::start(&machine)?;
    booted.wait_page().await?;
    samples.up.push(booted.elapsed().as_secs_f64());
    for (marker, list) in
        [(LOADER_STARTS, &mut samples.loader), (INIT_STARTS, &mut samples.init), (ROOT_IS_READY, &mut samples.systemd)]
    {
        let at = booted.running.console().shown(marker).with_context(|| format!("the console never said {marker}"))?;
        list.push(at.as_secs_f64());
    }
    if serves {
        booted.wait_serving(1).await?;
        samples.serving.push(booted.elapsed().as_secs_f64());
    }
    quiet(&booted, samples).await
}

/// Waits until what a start leaves running has ended, and looks at what is in use then.
async fn quiet(booted: &Booted, samples: &mut Samples) -> Result<()> {
    tokio::time::sleep(SETTLES).await;
    samples.used.push(used_mib(&booted.running)?);
    let face = booted.face().await?;
    let count = face["machine"]["processes"].as_f64().with_context(|| format!("{face} counts no processes"))?;
    samples.processes.push(count);
    Ok(())
}

async fn boot_stock(machine: &Machine, samples: &mut Samples) -> Result<()> {
    let running = machine.start()?;
    for (marker, list) in
        [(LOADER_STARTS, &mut samples.loader), (WELCOME, &mut samples.systemd), (LOGIN, &mut samples.up)]
    {
        list.push(running.wait_for(marker, BOOT_WITHIN)?.as_secs_f64());
    }
    tokio::time::sleep(SETTLES).await;
    samples.used.push(used_mib(&running)?);
    running.wait_for(COUNTED, BOOT_WITHIN)?;
    // The rest of its line.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let text = running.console().text();
    let count = text.split_once(COUNTED).and_then(|(_, rest)| rest.split_once('.')?.0.parse().ok());
    samples.processes.push(count.context("the plain Debian counted nothing")?);
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
