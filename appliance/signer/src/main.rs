//! `rig-signer`: holds the provider key and signs what the policy allows. See the library for the seam.
//!
//! Start order, which is also the order of trust: memory is locked and made undumpable, then the key is read
//! (or born), then the policy is bound to it, then the socket opens, then one line on stdout says so.
//!
//! Exit codes: 0 told to stop, 1 something named on stderr, 2 wrong usage.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use signer::Identity;
use signer::policy::{Policy, PolicyFile};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod desk;
mod key;
mod memory;
mod server;

use desk::Desk;
use key::Key;
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
        /// Directory of the key; created with mode 0700 if it is missing.
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
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
    /// Print the provider's address. Makes the key if there is none.
    Address {
        /// Directory of the key; created with mode 0700 if it is missing.
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log();
    match act(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "rig-signer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: &Arguments) -> anyhow::Result<()> {
    memory::lock_down(arguments.allow_swap)?;
    match &arguments.command {
        Command::Address { state } => {
            let identity = Key::open_or_create(state)?.identity();
            say(arguments.json, identity, None).context("print the address")
        }
        Command::Run { state, socket, policy, allow_uid } => {
            let key = Key::open_or_create(state)?;
            key.claim()?;
            let identity = key.identity();
            let policy = Policy::bind(PolicyFile::read(policy)?, identity.address)?;
            let peers = Peers::new(*allow_uid);
            serve(Desk::new(key, policy), socket, peers, || say(arguments.json, identity, Some(socket)))
        }
    }
}

/// Serves until a signal. One thread: a signature takes microseconds, and one thread has no races.
fn serve(desk: Desk, socket: &Path, peers: Peers, ready: impl FnOnce() -> io::Result<()>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.context("start the async runtime")?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let server = Server::bind(socket, peers, desk)?;
        ready().context("say that the socket is ready")?;
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

/// One line on stdout: who signs, at which tier, and where.
fn say(json: bool, identity: Identity, socket: Option<&Path>) -> io::Result<()> {
    let (address, tier, kept) = (identity.address, identity.tier, identity.kept());
    let mut out = io::stdout().lock();
    match (json, socket) {
        (true, None) => writeln!(out, "{}", serde_json::json!({ "address": address, "tier": tier }))?,
        (true, Some(at)) => {
            writeln!(out, "{}", serde_json::json!({ "address": address, "tier": tier, "socket": at }))?;
        }
        (false, None) => writeln!(out, "{address}")?,
        (false, Some(at)) => writeln!(out, "{address} (tier {kept}) on {}", at.display())?,
    }
    out.flush()
}

/// To the journal when systemd started us, to stderr otherwise.
fn start_log() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let is_journaled = std::env::var_os("JOURNAL_STREAM").is_some();
    let journal = is_journaled.then(|| tracing_journald::layer().ok()).flatten();
    let stderr = journal
        .is_none()
        .then(|| tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()));
    tracing_subscriber::registry().with(filter).with(journal).with(stderr).init();
}
