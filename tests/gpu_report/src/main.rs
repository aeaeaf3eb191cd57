//! `gpu-report`: what direct CUDA does on the GPU of this machine, as figures and as checks.
//!
//! It needs nothing but a kit of programs and bundles that `tests/gpu.sh --build` made. Jobs run through the runner, in
//! its jail; where jails cannot be made they run on the same workers without one, and every row says so. Each section
//! takes its own failure: what cannot be done here is a row that says why, and the rest goes on.
//!
//! Owns: the report's form ([`report`]), its sections, a bare CUDA program to compare with ([`bare`], the only unsafe code).
//! Never: changes a setting of the GPU, fetches anything, or takes a figure for granted that was not measured here.
//!
//! Read first: [`report::Row`], then [`backend::Backend`], then one section, such as [`latency`].

mod appetite;

mod attacks;

mod backend;

mod bare;

mod bench;

mod cases;

mod confinement;

mod correctness;

mod environment;

mod faults;

mod figures;

mod jailed;

mod kit;

mod latency;

mod leftovers;

mod manifests;

mod markdown;

mod numbers;

mod patch;

mod power;

mod report;

mod throughput;

mod torch;

mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bundle::Arch;
use clap::{Parser, Subcommand};

use backend::{Backend, Unjailed};
use bench::Bench;
use jailed::Jailed;
use kit::Kit;
use report::{Place, Report, Row, SCHEMA, Section};

/// A section is not begun with less time than this.
const SECTION_AT_LEAST: Duration = Duration::from_secs(15);

/// Attacks on the plan that a worker is asked too.
const ATTACKS_ON_WORKERS: usize = 8;

/// Measures and attacks direct CUDA on this machine's GPU.
///
/// Exit codes: 0 all that ran is as it must be; 1 a check failed, or the report could not be made; 2 the command line is
/// wrong; 3 there is no GPU.
#[derive(Debug, Parser)]
#[command(name = "gpu-report", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work through every section, and write gpu-report.json and gpu-report.md
    Run(Run),
    /// Make machine code of the kit's PTX for GPUs of machines without a linker
    Precompile {
        /// The kit
        kit: PathBuf,
        /// For these, such as sm_90
        #[arg(required = true)]
        targets: Vec<Arch>,
    },
    /// Do what a bundle's plan says with the driver's calls and nothing else; for the report itself
    #[command(hide = true)]
    Bare(bare::Order),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// What tests/gpu.sh --build made
    #[arg(long, value_name = "DIR")]
    kit: PathBuf,
    /// Where the report is written
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// When nothing more is begun, in seconds
    #[arg(long, default_value_t = 390)]
    seconds: u64,
    /// Few rounds at small sizes: for a GPU that is not there
    #[arg(long)]
    small: bool,
    /// Do not try to make jails
    #[arg(long)]
    no_jail: bool,
    /// Only the sections whose name begins so: plans, correctness, latency, throughput, copies, faults, appetite,
    /// leftovers, confinement, power
    #[arg(long, value_name = "SECTION")]
    only: Vec<String>,
    /// Where the runner keeps its state meanwhile; a real file system, not one in memory
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    state: PathBuf,
}

/// A section: its name, its title, and what does it.
type Part = (&'static str, &'static str, Do);

/// Adds rows, one by one, so that those before a failure stay.
type Do = fn(&mut Bench, &mut Vec<Row>) -> Result<()>;

/// In the order of what one wants to know first, should time run out.
const PARTS: [Part; 10] = [
    ("correctness", "The four bundles against their references", correctness::rows),
    ("latency", "Until the first kernel", latency::rows),
    ("throughput", "Kernels of a bundle beside a bare program and PyTorch", throughput::rows),
    ("copies", "Copies of a bundle beside a bare program", throughput::copy_rows),
    ("plans", "Plans that must be refused (attack 67)", plans),
    ("leftovers", "What a job leaves to the next (attack 57)", leftovers::rows),
    ("confinement", "What a worker has in its jail (attacks 63, 64)", confinement::rows),
    ("power", "Power (attack 65)", power::rows),
    ("faults", "Faults and kernels without end (attacks 58, 59)", faults::rows),
    ("appetite", "Jobs that take all there is (attacks 60 to 62)", appetite::rows),
];

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Run(run) => make(&run),
        Command::Precompile { kit, targets } => precompile(&kit, &targets).map(|()| ExitCode::SUCCESS),
        Command::Bare(order) => bare::run(&order).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("gpu-report: {error:#}");
        ExitCode::FAILURE
    })
}

fn precompile(kit: &Path, targets: &[Arch]) -> Result<()> {
    for arch in targets {
        let count = Kit::new(kit, *arch).precompile()?;
        eprintln!("machine code of {count} modules for {arch}");
    }
    Ok(())
}

/// The whole report.
fn make(run: &Run) -> Result<ExitCode> {
    let began = Instant::now();
    let deadline = began + Duration::from_secs(run.seconds);
    let kit_dir = run.kit.canonicalize().with_context(|| format!("find the kit {}", run.kit.display()))?;
    let probe = worker::probe(&kit_dir.join("bin/rig-cuda"))?;
    let Some(device) = probe.devices.first().cloned() else {
        let why = probe.why.as_deref().unwrap_or("the driver sees no device");
        eprintln!("gpu-report: there is no GPU to report on: {why}");
        return Ok(ExitCode::from(3));
    };
    let (major, minor) = device.compute_capability;
    let kit = Kit::new(&kit_dir, Arch::new(major, minor));
    let mut environment = environment::environment(&probe, &device);
    eprintln!("gpu-report: {} ({}), driver {}", device.name, device.uuid, environment.driver);

    let unjailed = Unjailed::new(kit.program("rig-cuda"), device.uuid.clone());
    let backend = match jail(run, &kit, &device.uuid) {
        Ok(jailed) => {
            environment.jail = "yes".to_owned();
            Backend::Jailed(Box::new(jailed))
        }
        Err(error) => {
            environment.jail = format!("no: {error:#}");
            Backend::Unjailed(Unjailed::new(kit.program("rig-cuda"), device.uuid.clone()))
        }
    };
    eprintln!("gpu-report: in a jail: {}", environment.jail);
    if let (Backend::Jailed(jailed), true) = (&backend, environment.driver.is_empty()) {
        environment.driver = jailed.client.gpus()?.driver.unwrap_or_default();
    }
    let dir = tempfile::tempdir().context("make a directory for files")?;
    let (is_small, uuid) = (run.small, device.uuid);
    let mut bench = Bench { kit, backend, unjailed, uuid, is_small, deadline, dir: dir.path().to_owned() };
    let mut report = Report { schema: SCHEMA, environment, sections: Vec::new(), seconds: 0.0 };
    for (name, title, part) in PARTS {
        if run.only.is_empty() || run.only.iter().any(|only| name.starts_with(only.as_str())) {
            report.sections.push(section(&mut bench, name, title, part));
            report.seconds = began.elapsed().as_secs_f64();
            // After each, so that whoever ends this has what there is.
            write(&report, &run.out)?;
        }
    }
    let failed = report.has_failed();
    eprintln!("gpu-report: {} after {:.0} s", if failed { "a check failed" } else { "done" }, report.seconds);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn plans(bench: &mut Bench, rows: &mut Vec<Row>) -> Result<()> {
    attacks::rows(&mut bench.backend, ATTACKS_ON_WORKERS, rows)
}

fn jail(run: &Run, kit: &Kit, uuid: &str) -> Result<Jailed> {
    anyhow::ensure!(!run.no_jail, "it was not wanted");
    Jailed::start(kit, &run.state, uuid)
}

/// One section; whatever becomes of it, it is in the report.
fn section(bench: &mut Bench, name: &str, title: &str, part: Do) -> Section {
    let began = Instant::now();
    eprintln!("{name}: {title}");
    let mut rows = Vec::new();
    let failure = if bench.left() < SECTION_AT_LEAST {
        Some("there was no time left".to_owned())
    } else {
        match catch_unwind(AssertUnwindSafe(|| part(bench, &mut rows))) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("it panicked; standard error says where".to_owned()),
        }
    };
    if let Some(why) = failure {
        rows.push(Row::not_run(format!("the section {name}, or the rest of it"), Place::Host, why));
    }
    for row in &rows {
        let median = row.median().map(|median| format!(" {} {}", figures::shown(median), row.unit)).unwrap_or_default();
        eprintln!("  {}: {}{median} {}", row.what, row.verdict, row.note);
    }
    let seconds = began.elapsed().as_secs_f64();
    Section { name: name.to_owned(), title: title.to_owned(), rows, seconds }
}

fn write(report: &Report, out: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report).context("write the report as JSON")?;
    for (name, text) in [("gpu-report.json", json), ("gpu-report.md", markdown::text(report))] {
        let file = out.join(name);
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}
