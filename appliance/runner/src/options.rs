//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use runner::protocol::SOCKET_PATH;

/// Runs sources in jails, without Docker.
///
/// Exit codes: 0 told to stop; 1 could not start, or failed; 2 the command line is wrong; 3 the spawner died.
#[derive(Debug, Parser)]
#[command(name = "rig-runner", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to be.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the provider until told to stop
    Run(Run),
    /// Make jails for the runner that started this process; of no use to anyone else
    #[command(hide = true)]
    Spawner,
}

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Where to listen
    #[arg(long, value_name = "PATH", default_value = SOCKET_PATH)]
    pub(crate) socket: PathBuf,
    /// The content store: blobs are read from DIR/blobs/sha256
    #[arg(long, value_name = "DIR")]
    pub(crate) content: PathBuf,
    /// Where images are unpacked and runs keep their files
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// A uid besides root that may ask; the first one owns the socket
    #[arg(long = "allow-uid", value_name = "UID")]
    pub(crate) allow_uids: Vec<u32>,
    /// The most bytes that one image may unpack to
    #[arg(long, value_name = "BYTES", default_value_t = 32 << 30)]
    pub(crate) unpacked_bytes_max: u64,
}
