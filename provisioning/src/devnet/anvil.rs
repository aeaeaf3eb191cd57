//! The chain of the local network: a real node, as a child process.
//!
//! Invariants:
//! * Anvil never outlives us, however we end. It is started by a shell that waits on a pipe from us; the kernel closes
//!   the pipe when we die, and the shell then asks anvil to stop. A parent-death signal would need `unsafe` and would be
//!   bound to one of our threads; this way anvil also writes its state down when we are killed.
//! * It listens on the loopback interface only.
//! * Its output is read for as long as it runs, because a full pipe would stop the chain. Only the last
//!   `LOG_LINES_MAX` lines are kept, to be shown if it fails to start.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alloy::primitives::B256;
use serde::Deserialize;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::accounts::{BALANCE_COINS, PUBLIC_PHRASE, Role};

/// The environment variable that names the anvil to use.
pub const ENV_ANVIL: &str = "RIG_ANVIL";

/// The command that puts anvil where [`find`] looks.
const INSTALL: &str = "npm install --prefix target/devnet @foundry-rs/anvil";

/// Far from any chain with value on it, and what every tool takes for a local one.
pub(crate) const CHAIN_ID: u64 = 31_337;

/// A block may hold the whole deployment at once, and a burst of tasks.
const BLOCK_GAS: u64 = 100_000_000;

/// A cold start takes half a second; a loaded machine with a large state file may need many.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Long enough to write a large state file.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

const LOG_LINES_MAX: usize = 40;

/// `$@` is anvil's command line. The shell holds no end of anvil's output, so that its end can be seen.
const LIFELINE: &str = "\"$@\" 2>&1 & anvil=$!; exec >/dev/null 2>&1; read -r _; kill -TERM $anvil; wait $anvil";

/// Why there is no chain.
#[derive(Debug, Error)]
pub enum AnvilError {
    /// The path that was asked for is not a file.
    #[error("there is no anvil at {}", .path.display())]
    NotThere {
        /// Where it should have been.
        path: PathBuf,
    },
    /// It is in none of the usual places.
    #[error("anvil is not installed: run `{INSTALL}`, or name it with --anvil or ${ENV_ANVIL}")]
    NotInstalled,
    /// It could not be started.
    #[error("start {}", .path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended before it listened.
    #[error("anvil ended before it listened; its last words: {log}")]
    Ended {
        /// What it printed last.
        log: String,
    },
    /// It did not listen in time.
    #[error("anvil did not listen within {} s", START_TIMEOUT.as_secs())]
    Slow,
    /// Its account list is missing or in another form than that of version 1.
    #[error("read the accounts that anvil wrote to {}", .path.display())]
    Accounts {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        #[source]
        source: io::Error,
    },
    /// It did not stop in time and was killed.
    #[error("anvil did not stop within {} s and was killed; its state is lost", STOP_TIMEOUT.as_secs())]
    Killed,
    /// It stopped with an error.
    #[error("anvil stopped with {status}; its state may be lost")]
    Stopped {
        /// How it ended.
        status: String,
    },
}

/// How to start it.
pub(super) struct AnvilOptions<'a> {
    /// Whether the states of old blocks are dropped.
    pub(super) forgets: bool,
    /// The program.
    pub(super) program: &'a Path,
    /// 0: any.
    pub(super) port: u16,
    /// `None`: a block for each transaction.
    pub(super) block_time: Option<Duration>,
    /// Where the chain is kept between two runs.
    pub(super) state: Option<&'a Path>,
    /// Whether the accounts come from a phrase that nobody knows.
    pub(super) fresh_keys: bool,
    /// A folder that nobody else can read.
    pub(super) scratch: &'a Path,
}

/// A running chain. Dropping it stops it, without waiting.
#[derive(Debug)]
pub(super) struct Anvil {
    /// The shell that holds anvil.
    shell: Child,
    /// Our end of the pipe: anvil lives as long as this.
    lifeline: ChildStdin,
    /// Cancelled when anvil's output ended.
    ended: CancellationToken,
    /// Where it listens, on 127.0.0.1.
    pub(super) port: u16,
    /// In the order of derivation.
    pub(super) keys: Vec<B256>,
}

#[derive(Deserialize)]
struct AccountsFile {
    private_keys: Vec<B256>,
}

// === finding it ===

/// Finds anvil: `asked`, then `$RIG_ANVIL`, then `$PATH`, then what `npm install --prefix` leaves in `target/devnet`, here or in a
/// folder above.
///
/// Errors: the one that was named is not there, or there is none.
pub fn find(asked: Option<&Path>) -> Result<PathBuf, AnvilError> {
    let asked = asked.map(Path::to_owned).or_else(|| env::var_os(ENV_ANVIL).map(PathBuf::from));
    if let Some(path) = asked {
        return if path.is_file() { Ok(path) } else { Err(AnvilError::NotThere { path }) };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let here = env::current_dir().unwrap_or_default();
    let platform = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let installed = format!("target/devnet/node_modules/@foundry-rs/anvil-linux-{platform}/bin/anvil");
    let on_path = env::split_paths(&path).map(|folder| folder.join("anvil"));
    let above = here.ancestors().map(|folder| folder.join(&installed));
    on_path.chain(above).find(|file| file.is_file()).ok_or(AnvilError::NotInstalled)
}

// === impl Anvil ===

impl Anvil {
    /// Starts anvil and waits until it listens.
    pub(super) async fn start(options: &AnvilOptions<'_>) -> Result<Anvil, AnvilError> {
        let accounts = options.scratch.join("accounts.json");
        let mut shell = Command::new("/bin/sh")
            .args(["-c", LIFELINE, "anvil"])
            .arg(options.program)
            .args(arguments(options, &accounts))
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal is ours to act on: anvil must not go first.
            .process_group(0)
            .spawn()
            .map_err(|source| AnvilError::Start { path: options.program.to_owned(), source })?;
        let lifeline = shell.stdin.take().expect("stdin is piped");
        let mut lines = BufReader::new(shell.stdout.take().expect("stdout is piped")).lines();
        let port = timeout(START_TIMEOUT, listening_port(&mut lines)).await.map_err(|_| AnvilError::Slow)??;
        let ended = CancellationToken::new();
        tokio::spawn(drain(lines, ended.clone()));
        let keys = read_keys(&accounts)?;
        Ok(Anvil { shell, lifeline, ended, port, keys })
    }

    /// Resolves when anvil has ended without being asked to.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Asks anvil to stop and waits until it has; with a state file, the file is whole afterwards.
    pub(super) async fn stop(self) -> Result<(), AnvilError> {
        let Anvil { mut shell, lifeline, .. } = self;
        drop(lifeline);
        match timeout(STOP_TIMEOUT, shell.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(AnvilError::Stopped { status: status.to_string() }),
            Ok(Err(error)) => Err(AnvilError::Stopped { status: error.to_string() }),
            Err(_) => {
                kill_group(&shell);
                Err(AnvilError::Killed)
            }
        }
    }
}

fn arguments(options: &AnvilOptions<'_>, accounts: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["--host", "127.0.0.1", "--port"].map(OsString::from).into();
    arguments.push(options.port.to_string().into());
    arguments.extend(["--chain-id".into(), CHAIN_ID.to_string().into()]);
    arguments.extend(["--accounts".into(), Role::ALL.len().to_string().into()]);
    arguments.extend(["--balance".into(), BALANCE_COINS.to_string().into()]);
    arguments.extend(["--gas-limit".into(), BLOCK_GAS.to_string().into()]);
    arguments.extend(["--config-out".into(), accounts.into()]);
    // States of old blocks, up to 2 GB of them, which it writes to its user's home otherwise and leaves there.
    arguments.extend(["--cache-path".into(), options.scratch.join("blocks").into()]);
    // The real chain is of another lineage and has none of the system contracts that later forks bring; on anvil they
    // make each block dearer than the one before it.
    arguments.extend(["--hardfork".into(), "paris".into()]);
    if options.forgets {
        arguments.push("--prune-history".into());
    }
    if options.fresh_keys {
        arguments.push("--mnemonic-random".into());
    } else {
        arguments.extend(["--mnemonic".into(), PUBLIC_PHRASE.into()]);
    }
    if let Some(block_time) = options.block_time {
        arguments.extend(["--block-time".into(), block_time.as_secs_f64().to_string().into()]);
    }
    if let Some(state) = options.state {
        arguments.extend(["--state".into(), state.into()]);
    }
    arguments
}

/// Reads until anvil says where it listens.
async fn listening_port(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<u16, AnvilError> {
    let mut last = VecDeque::with_capacity(LOG_LINES_MAX);
    while let Ok(Some(line)) = lines.next_line().await {
        let port = line.strip_prefix("Listening on ").and_then(|at| at.rsplit(':').next()).map(str::parse);
        if let Some(Ok(port)) = port {
            return Ok(port);
        }
        if last.len() == LOG_LINES_MAX {
            last.pop_front();
        }
        last.push_back(line);
    }
    let log = last.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ");
    Err(AnvilError::Ended { log })
}

async fn drain(mut lines: Lines<BufReader<ChildStdout>>, ended: CancellationToken) {
    // An unreadable line is one that is not UTF-8; the pipe itself is still good.
    while !matches!(lines.next_line().await, Ok(None)) {}
    ended.cancel();
}

fn read_keys(path: &Path) -> Result<Vec<B256>, AnvilError> {
    let read = || -> io::Result<AccountsFile> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
    Ok(read().map_err(|source| AnvilError::Accounts { path: path.to_owned(), source })?.private_keys)
}

fn kill_group(shell: &Child) {
    let group = shell.id().and_then(|id| i32::try_from(id).ok()).map(nix::unistd::Pid::from_raw);
    if let Some(group) = group {
        // The group may have ended in this very moment, which is what is wanted.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
}
