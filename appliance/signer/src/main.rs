//! `rig-signer`: holds the provider key and signs what the policy allows. See the library for the seam.
//!
//! Start order, which is also the order of trust: memory is locked and made undumpable, then the key is opened (or
//! born), then the policy is bound to it, then the journal of what it answered is read, then the socket opens, then the
//! process locks itself in, then one line on stdout says so. A key that cannot be opened does not end the process:
//! the socket says why, and what may pass is tried again.
//!
//! Whoever is root on the running rig can use the key, by asking for it or by reading this process's memory. What is
//! done here keeps the key from everybody else, and from whoever has the disk without the machine.
//!
//! Exit codes: 0 told to stop, 1 something named on stderr, 2 wrong usage, killed by SIGSYS: see `filter`.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use identity::{Claim, Options, VendorKey};
use notify::Notifier;
use signer::policy::{KeyWish, PolicyFile};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod attestation;
mod desk;
mod files;
mod filter;
mod journal;
mod keeper;
mod memory;
mod minutes;
mod report;
mod server;

use desk::Desk;
use journal::Journal;
use keeper::Keeper;
use minutes::Minutes;
use report::Report;
use server::{Peers, Server};

/// Holds the provider key and signs what the policy allows.
#[derive(Debug, Parser)]
#[command(name = "rig-signer", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Run although memory cannot be locked, so that the key may reach the swap. For development only.
    #[arg(long, global = true)]
    allow_swap: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the socket until SIGTERM or SIGINT. Prints one line when it is ready.
    Run {
        #[command(flatten)]
        key: KeyPlace,
        /// Unix socket to serve.
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// The policy file; `signer.example.toml` explains every key.
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        /// User id that may ask, besides the signer's own.
        #[arg(long, value_name = "UID")]
        allow_uid: Option<u32>,
    },
    /// Print the provider's address on the first line, and how its key is kept. Makes the key if there is none.
    Address {
        #[command(flatten)]
        key: KeyPlace,
        /// The policy file, for what it says of the key: without it, as if it said nothing.
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
}

/// Where the key is, and what it may be bound to.
#[derive(Debug, clap::Args)]
struct KeyPlace {
    /// Directory of the key and of the journal; created with mode 0700 if it is missing.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// The TPM: `device:PATH`, `unix:PATH`, or `none`. A device that is not there is a machine without a TPM.
    #[arg(long, value_name = "PLACE", default_value = "device:/dev/tpmrm0")]
    tpm: TpmPlace,
    /// What `sys` and `proc` are read under.
    #[arg(long, value_name = "DIR", default_value = "/")]
    hardware: PathBuf,
    /// The vendor's approvals of releases, for tiers S and 4.
    #[arg(long, value_name = "FILE")]
    approvals: Option<PathBuf>,
    /// The vendor's key for approvals, for tiers S and 4: a point of P-256 in hexadecimal.
    #[arg(long, value_name = "HEX")]
    vendor: Option<VendorKey>,
}

/// A place that may be none.
#[derive(Debug, Clone)]
struct TpmPlace(Option<tpm::Place>);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log();
    match act(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "rig-signer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { command, json, allow_swap } = arguments;
    memory::lock_down(allow_swap)?;
    match command {
        Command::Address { key, policy } => {
            let wish = policy.as_deref().map(PolicyFile::read).transpose()?.map(|file| file.identity);
            let outcome = identity::open(&key.options(wish.unwrap_or_default()))?;
            Report::of(&outcome).say(json, None).context("print the address")
        }
        Command::Run { key, socket, policy, allow_uid } => {
            // Before the filter, which allows no new socket.
            let notifier = Notifier::from_environment();
            let file = PolicyFile::read(&policy)?;
            let options = key.options(file.identity);
            notifier.status("opens the key");
            let claim = Claim::take(&options.state)?;
            let calls_max = file.max_calls_per_minute;
            let state = options.state.clone();
            let keeper = Keeper::open(options, file, claim)?;
            let report = Report { identity: keeper.identity(), state: keeper.state(), closed: keeper.closed() };
            let minutes = Minutes::open(&state, calls_max).context("open the usage of the last day")?;
            let reach = keeper.reach(directory_of(&socket));
            let standing = standing(&keeper);
            let desk = Desk::new(keeper, minutes, Journal::open(&state));
            serve(desk, &socket, Peers::new(allow_uid), || {
                filter::lock(&reach)?;
                notifier.ready(&standing);
                report.say(json, Some(&socket)).context("say that the socket is ready")
            })
        }
    }
}

/// Serves until a signal. One thread: a signature takes microseconds, and one thread has no races.
fn serve(desk: Desk, socket: &Path, peers: Peers, ready: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.context("start the async runtime")?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let server = Server::bind(socket, peers, desk)?;
        ready()?;
        tracing::info!("signer ready");
        server
            .serve(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await;
        tracing::info!("signer stopped");
        Ok(())
    })
}

/// Whose key it is, or why it is closed, for whoever looks at the service. What becomes of it later, the socket says.
fn standing(keeper: &Keeper) -> String {
    match keeper.identity() {
        Some(identity) => format!("signs for {}", identity.address),
        None => format!("serves without a key: {}", keeper.state().what()),
    }
}

/// To the journal when systemd started us, to stderr otherwise. The journal's socket stays open: none is made later.
fn start_log() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let is_journaled = std::env::var_os("JOURNAL_STREAM").is_some();
    let journal = is_journaled.then(|| tracing_journald::layer().ok()).flatten();
    let stderr = journal
        .is_none()
        .then(|| tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()));
    tracing_subscriber::registry().with(filter).with(journal).with(stderr).init();
}

/// The directory that a path is in, also if it is only a name.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

// === impl KeyPlace ===

impl KeyPlace {
    fn options(self, wish: KeyWish) -> Options {
        let Self { state, tpm: TpmPlace(tpm), hardware, approvals, vendor } = self;
        Options { state, tpm, hardware, wish: keeper::wish_of(wish), vendor, approvals, generation: wish.generation }
    }
}

// === impl TpmPlace ===

impl std::str::FromStr for TpmPlace {
    type Err = <tpm::Place as std::str::FromStr>::Err;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "none" => Ok(Self(None)),
            place => Ok(Self(Some(place.parse()?))),
        }
    }
}
