//! What a jail costs: `tests/bench.sh jail`.
//!
//! Everything that is compared is run in turns, in one run, on one machine: a machine that is busy is then busy for all
//! of them. The tools beside ours are the distribution's own, with the flags that [`anchors`] names. What cannot run here
//! says so in its row; no figure stands for something that was not run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use hostile::rig::Setup;

mod anchors;

mod bed;

mod filter;

mod images;

mod kill;

mod overhead;

mod pull;

mod spawn;

mod table;

mod task_start;

use bed::Bed;
use table::Table;

/// How one part is measured: on what, with which image, how often, into which table.
type Part = fn(&Bed, &Path, u32, &mut Table) -> Result<()>;

/// What a jail costs, beside other jails and beside none.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many times each jail is started and each is killed; what takes longer is done fewer times
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Print one line of JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Only the parts whose name begins so: spawn, start, overhead, kill, images
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// The OCI layout whose image `handler:1` is unpacked
    #[arg(long, value_name = "DIR", default_value = "target/source-image")]
    image: PathBuf,
    /// More options for the runner, for comparing
    #[arg(long = "runner-option", value_name = "OPTION", allow_hyphen_values = true)]
    runner_options: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match bench(&arguments) {
        Ok(table) => {
            table.show(arguments.json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<Table> {
    ensure!(nix::unistd::geteuid().is_root(), "jails take root");
    let scheduling = bed::hide_cgroups().context("hide cgroups that other jails refuse")?;
    let options: Vec<&str> = arguments.runner_options.iter().map(String::as_str).collect();
    let bed = Bed::new(Setup::default().options(&options).env("RIG_LOG", "info,rig_runner::sources=warn"))?;
    let mut table = Table::new(&bed, scheduling)?;
    let rounds = arguments.rounds;
    let parts: [(&str, Part); 5] = [
        ("spawn", spawn::measure),
        ("start", task_start::measure),
        ("overhead", overhead::measure),
        ("kill", kill::measure),
        ("images", images::measure),
    ];
    for (name, measure) in parts {
        if arguments.only.is_empty() || arguments.only.iter().any(|only| name.starts_with(only)) {
            measure(&bed, &arguments.image, rounds, &mut table).with_context(|| format!("measure {name}"))?;
        }
    }
    Ok(table)
}
