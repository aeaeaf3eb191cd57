//! Runs one program in the guest as root and ends as it ended: a runner for cargo, as `tests/guest.sh` sets it.
//!
//! The program and the files of `--with` stand in the guest at the absolute paths that they have here; the working
//! directory has the same name there, and is empty. The console goes to standard output. Exit code 125 means that the
//! guest failed, not the program.

use std::io::stdout;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use testbed::guest::{Guest, quoted};

/// What an exit code says when there is none of the program's own.
const EXIT_NO_RESULT: u8 = 125;

/// Taken into the guest if set here; all else there is the guest's own.
const ENVIRONMENT: [&str; 7] =
    ["RUST_BACKTRACE", "RUST_TEST_THREADS", "RIG_LOG", "RIG_CGROUP", "RIG_JOBS", "RIG_RUNNER", "RIG_ATTACK"];

/// Runs a program in the guest.
#[derive(Debug, Parser)]
struct Arguments {
    /// A file that the program needs, at the same path; may be repeated.
    #[arg(long, value_name = "PATH")]
    with: Vec<PathBuf>,
    /// Longest time from the start of the machine to its end.
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    deadline: u64,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(EXIT_NO_RESULT)),
        Err(error) => {
            eprintln!("guest: {error:#}");
            ExitCode::from(EXIT_NO_RESULT)
        }
    }
}

fn run(arguments: &Arguments) -> Result<i32> {
    let (program, rest) = arguments.command.split_first().context("no program is named")?;
    let program = absolute(Path::new(program))?;
    let with = arguments.with.iter().map(|path| absolute(path)).collect::<Result<Vec<_>>>()?;
    let files: Vec<(&Path, &str)> =
        with.iter().chain([&program]).map(|path| (Path::new(path), path.as_str())).collect();

    let here = std::env::current_dir().context("find the working directory")?;
    let here = quoted(&here.display().to_string());
    let mut script = format!("mkdir -p {here} && cd {here} || exit {EXIT_NO_RESULT}\nexec env");
    let environment = ENVIRONMENT.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    for word in environment.chain([program.clone()]).chain(rest.iter().cloned()) {
        script.push(' ');
        script.push_str(&quoted(&word));
    }

    let guest = Guest::build_payload(&files, &script)?;
    let run = guest.run(Duration::from_secs(arguments.deadline), &mut stdout())?;
    println!("guest: status {} after {:.1} s", run.status, run.took.as_secs_f64());
    Ok(run.status)
}

fn absolute(path: &Path) -> Result<String> {
    let path = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
    path.into_os_string().into_string().ok().context("a path is not text")
}
