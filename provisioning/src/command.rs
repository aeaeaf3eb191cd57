//! What `rig` understands: one file per command.
//!
//! Invariants: a command takes its arguments as types that were checked while they were parsed; it answers through
//! `Screen` and ends with an [`Exit`]; only [`main`] prints a failure.

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::exit::{Exit, Failure, exit_codes};
use crate::screen::Screen;

mod attest;
mod bench;
mod cache;
mod cells;
mod cuda;
mod devnet;
mod doing;
mod flash;
mod gpu;
mod image;
mod pair;
mod rotate;
mod seed;
mod shell;
mod source;
mod stake;
mod status;
mod task;
mod tasks;

/// Filter for the log on stderr, such as `chain=debug`.
const ENV_LOG: &str = "RIG_LOG";

/// What people do to rigs: sticks, local network, pairing, stake, tasks.
#[derive(Debug, Parser)]
#[command(name = "rig", version, after_help = exit_codes(), max_term_width = 100)]
pub struct Rig {
    /// Answer with one line of JSON on stdout, failures included.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A local network to develop and test on.
    #[command(subcommand)]
    Devnet(devnet::Devnet),
    Flash(Box<flash::Flash>),
    Seed(Box<seed::Seed>),
    Pair(pair::Pair),
    Rotate(rotate::Rotate),
    Stake(stake::Stake),
    Status(status::Status),
    Tasks(tasks::Tasks),
    Cache(cache::Cache),
    Gpu(gpu::Gpu),
    Bench(bench::Bench),
    Attest(attest::Attest),
    /// Offer kinds of work.
    #[command(subcommand)]
    Source(source::Source),
    /// Build CUDA bundles, and look into them.
    #[command(subcommand)]
    Cuda(cuda::Cuda),
    /// Give a source work, and read the result.
    #[command(subcommand)]
    Task(task::Task),
    /// The image that a rig starts from.
    #[command(subcommand)]
    Image(image::Image),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// The whole program: parses, acts, prints what went wrong, and says how it ended.
pub fn main() -> Exit {
    let rig = match Rig::try_parse() {
        Ok(rig) => rig,
        Err(error) => return misunderstood(&error),
    };
    let json = rig.json;
    match act(rig) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            failure.report(json);
            failure.exit
        }
    }
}

/// Prints clap's words. Help and version come this way too, and are no failure.
fn misunderstood(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // A reader that closed the pipe is no fault.
        let _ = error.print();
        return Exit::Done;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        Failure::new(Exit::Usage, error.render().to_string().trim_end().to_owned()).report(true);
    } else {
        let _ = error.print();
    }
    Exit::Usage
}

fn act(rig: Rig) -> Result<(), Failure> {
    // Nothing is logged unless it is asked for: what a person should see is said through `Screen`.
    let filter = EnvFilter::try_from_env(ENV_LOG).unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let screen = Screen::new(rig.json);
    // Built by hand so that its size is said: two threads carry the one command that serves others, `devnet up`.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    runtime.block_on(async {
        match rig.command {
            Command::Devnet(devnet) => devnet.run(screen).await,
            Command::Flash(flash) => flash.run(screen).await,
            Command::Seed(seed) => seed.run(screen).await,
            Command::Pair(pair) => pair.run(screen).await,
            Command::Rotate(rotate) => rotate.run(screen).await,
            Command::Stake(stake) => stake.run(screen).await,
            Command::Status(status) => status.run(screen).await,
            Command::Tasks(tasks) => tasks.run(screen).await,
            Command::Cache(cache) => cache.run(screen).await,
            Command::Gpu(gpu) => gpu.run(screen).await,
            Command::Bench(bench) => bench.run(screen).await,
            Command::Attest(attest) => attest.run(screen),
            Command::Source(source) => source.run(screen).await,
            Command::Cuda(cuda) => cuda.run(screen),
            Command::Task(task) => task.run(screen).await,
            Command::Image(image) => image.run(screen).await,
            Command::Completions(completions) => completions.run(screen),
            Command::Man(man) => man.run(screen),
        }
    })
}

/// The command line as data, for manual pages and completions.
pub(crate) fn grammar() -> clap::Command {
    Rig::command()
}
