//! The command line.

use std::net::Ipv4Addr;
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
    Run(Box<Run>),
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
    /// Where sealed images, volumes and runs are kept; a real file system, not one in memory
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// A uid besides root that may ask; the first one owns the socket
    #[arg(long = "allow-uid", value_name = "UID")]
    pub(crate) allow_uids: Vec<u32>,
    /// The most bytes that one image may unpack to
    #[arg(long, value_name = "BYTES", default_value_t = 32 << 30)]
    pub(crate) unpacked_bytes_max: u64,
    /// How jails are limited
    #[command(flatten)]
    pub(crate) limits: LimitOptions,
    /// The most memory that one jail may use, in bytes; the default is the machine's less 1 GiB
    #[arg(long, value_name = "BYTES")]
    pub(crate) job_memory: Option<u64>,
    /// The most bytes per second that one jail may read from, and write to, the disk below the state directory; 0 for
    /// as many as it can. Needs --cgroup
    #[arg(long, value_name = "BYTES", default_value_t = 200_000_000)]
    pub(crate) job_disk_rate: u64,
    /// Sealed layers beyond this many bytes are removed, least recently used first
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 30)]
    pub(crate) cache_bytes_max: u64,
    /// Sealed layers that were not used for this many days are removed
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub(crate) cache_days_max: u64,
    /// The program that works on GPUs; the default is rig-cuda beside this one
    #[arg(long, value_name = "PATH")]
    pub(crate) cuda_worker: Option<PathBuf>,
    /// What to set on GPUs, and to put back at the end: power limit, clocks, fan curve. A TOML file with a table [all]
    /// and one for each GPU that differs, named by its UUID in quotes
    #[arg(long, value_name = "FILE", conflicts_with = "no_gpu")]
    pub(crate) gpu_settings: Option<PathBuf>,
    /// Leave GPUs alone: no bundle runs
    #[arg(long)]
    pub(crate) no_gpu: bool,
    /// Let sources whose policy says so talk to public addresses
    #[arg(long)]
    pub(crate) egress: bool,
    /// The most bytes per second that one source may exchange with the internet
    #[arg(long, value_name = "BYTES", default_value_t = 25_000_000, requires = "egress")]
    pub(crate) egress_rate: u64,
    /// The most bytes that one source may exchange with the internet until it is stopped
    #[arg(long, value_name = "BYTES", default_value_t = 512 << 30, requires = "egress")]
    pub(crate) egress_total: u64,
    /// A public resolver that sources may ask; repeat it for more
    #[arg(long = "resolver", value_name = "IP", default_values_t = RESOLVERS, requires = "egress")]
    pub(crate) resolvers: Vec<Ipv4Addr>,
}

/// Two public resolvers of different operators, both of which refuse names that are known to be malicious.
const RESOLVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(1, 1, 1, 2)];

/// One of the two must be said, so that nobody gets less than he thinks.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct LimitOptions {
    /// A cgroup v2 directory that is the runner's own: memory, processes, processor and disk are limited per jail
    #[arg(long, value_name = "DIR")]
    pub(crate) cgroup: Option<PathBuf>,
    /// Limit processes only one by one; for machines without cgroup v2, where no stranger's code runs
    #[arg(long)]
    pub(crate) rlimits_only: bool,
}
