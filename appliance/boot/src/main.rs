//! `rig-boot`: settles one start of a rig, before its network and its services. See the library for the order.
//!
//! Exit codes: 0 done, or the file is right; 1 not even a notice could be written, or the file is wrong; 2 wrong usage;
//! 3 the file waits for an owner. Something that is wrong with the rig is a notice and no exit code: what depends on it
//! is not started, because its settings are not there.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use boot::exec::Call;
use boot::judge::{Judged, judge};
use boot::places::{Places, Programs};
use boot::text::FILE_BYTES_MAX;
use boot::{files, gpu, settle, text};
use clap::{Parser, Subcommand};

/// Time that the provider has to check a file.
const CHECK_TIME: Duration = Duration::from_secs(60);

/// The exit code of a file that names no owner yet.
const EXIT_WAITING: u8 = 3;

/// Settles one start of a rig: its state, the owner's settings, and what its services start with.
///
/// Exit codes: 0 done, or the file is right; 1 nothing could be done, or the file is wrong; 2 wrong usage; 3 the file
/// waits for an owner.
#[derive(Debug, Parser)]
#[command(name = "rig-boot", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Settle this start. Root, once per boot, before network and services. The same as no command.
    Run {
        /// What all places are under; another rig's than this machine's in tests.
        #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
        root: PathBuf,
        /// The file system of the partition RIG.
        #[arg(long, value_name = "KIND", default_value = "vfat", hide = true)]
        stick: String,
        /// Where programs of the image are looked for, by their names.
        #[arg(long, value_name = "DIR", hide = true)]
        programs: Option<PathBuf>,
    },
    /// Load the driver of NVIDIA's GPUs and make its device nodes, if there are such GPUs.
    Gpu {
        /// The number of the group that may open them besides root.
        #[arg(long, value_name = "GID")]
        group: u32,
    },
    /// Say whether a rig.toml is right.
    Check {
        /// The file.
        file: PathBuf,
        /// The program that has the last word.
        #[arg(long, value_name = "PROGRAM", default_value = "/usr/bin/rig-provider")]
        provider: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        None => run(Path::new("/"), "vfat".to_owned(), None),
        Some(Command::Run { root, stick, programs }) => run(&root, stick, programs.as_deref()),
        Some(Command::Gpu { group }) => gpus(group),
        Some(Command::Check { file, provider }) => check(&file, &provider),
    };
    done.unwrap_or_else(|error| {
        eprintln!("rig-boot: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(root: &Path, stick: String, programs: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut places = Places::under(root);
    places.stick_kind = stick;
    let programs = programs.map_or_else(Programs::default, Programs::in_folder);
    let report = settle::settle(&places, &programs).context("this start could not be settled")?;
    for line in report.lines() {
        println!("rig-boot: {line}");
    }
    Ok(ExitCode::SUCCESS)
}

fn gpus(group: u32) -> anyhow::Result<ExitCode> {
    let nodes = gpu::settle(&gpu::Places::default(), group).context("the notice about the GPUs")?;
    for gpu::Node { name, major, minor } in nodes {
        println!("rig-boot: /dev/{name} is {major}:{minor}");
    }
    Ok(ExitCode::SUCCESS)
}

fn check(file: &Path, provider: &Path) -> anyhow::Result<ExitCode> {
    let bytes = files::read(file, FILE_BYTES_MAX + 1).with_context(|| format!("read {}", file.display()))?;
    let bytes = bytes.with_context(|| format!("there is no {}", file.display()))?;
    let text = text::of(&bytes).with_context(|| file.display().to_string())?;
    let asked = || {
        let call = Call::new(provider, ["--check".as_ref(), "--config".as_ref(), file.as_os_str()], CHECK_TIME);
        let here = std::env::current_dir().map_err(|error| error.to_string())?;
        let ended = call.within(&here).run().map_err(|error| error.to_string())?;
        if ended.code == 0 { Ok(()) } else { Err(ended.said().trim_start_matches("rig-provider: ").to_owned()) }
    };
    match judge(text, asked) {
        Judged::Right => {
            println!("{} is right", file.display());
            Ok(ExitCode::SUCCESS)
        }
        Judged::Waiting => {
            println!("{} waits for an owner: write your address into it", file.display());
            Ok(ExitCode::from(EXIT_WAITING))
        }
        Judged::Wrong(why) => anyhow::bail!("{why}"),
    }
}
