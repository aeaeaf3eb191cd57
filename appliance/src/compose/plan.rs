//! What a compose file says once it is understood: services in the order in which they start, and what they share.
//!
//! Invariants: there is a service or a bundle; every index points into [`Plan::services`] or [`Plan::volumes`], but for
//! [`Plan::main`] where there is no service; a service depends on earlier ones only;
//! every text has no NUL and at most [`super::TEXT_BYTES_MAX`] bytes; names and paths are checked, so that whoever makes
//! a directory or a line of a file from them needs no further care.

use super::cuda::Cuda;

/// A compose file, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The kernel bundle that may run in place of the services.
    pub cuda: Option<Cuda>,
    /// In start order, dependencies first; at most [`super::SERVICES_MAX`], and at least one if there is no bundle.
    pub services: Vec<Service>,
    /// Index of the service that answers on `PORT`.
    pub main: usize,
    /// The port inside that service's container.
    pub main_port: u16,
    /// Named volumes that are mounted somewhere, in the order in which they are first named.
    pub volumes: Vec<Volume>,
    /// Further ports that a service can be reached at as `host.docker.internal:<host_port>`. The main port is not here.
    pub published: Vec<Published>,
    /// What was ignored, and why, in words for the owner.
    pub notes: Vec<String>,
    /// Names of the exceptions that the owner allows and that this file made use of, in alphabetical order.
    pub exceptions: Vec<String>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its name in the file, which is also a host name.
    pub name: String,
    /// The image reference as written, after interpolation.
    pub image: String,
    /// Replaces the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Added to the image's environment; no name twice.
    pub environment: Vec<(String, String)>,
    /// Replaces the image's working directory; absolute.
    pub working_dir: Option<String>,
    /// Replaces the image's user, as `user`, `uid`, `user:group` or `uid:gid`.
    pub user: Option<String>,
    /// Whether the root file system cannot be written.
    pub read_only: bool,
    /// Volumes that it sees.
    pub mounts: Vec<Mount>,
    /// File systems of its own in memory, empty at each start.
    pub tmpfs: Vec<Tmpfs>,
    /// Size of `/dev/shm`, in bytes.
    pub shm_bytes: Option<u64>,
    /// Descriptors per process.
    pub open_files: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processor time, in thousandths of one core.
    pub cpu_millis: Option<u32>,
    /// How to tell that it is ready. A service without is ready when it has started.
    pub health: Option<Health>,
    /// Which services must be there first, and how far.
    pub depends_on: Vec<(usize, Condition)>,
    /// When it is started again.
    pub restart: Restart,
    /// Time from SIGTERM to SIGKILL, in milliseconds.
    pub stop_grace_ms: Option<u64>,
    /// Graphics processors that it asks for.
    pub gpus: Option<Gpus>,
    /// Further host names that mean this service; no two services share one.
    pub aliases: Vec<String>,
}

/// A named volume, kept for the source over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// A name that is one harmless path component: letters, digits, `_`, `.` and `-`, the first a letter or a digit.
    pub name: String,
    /// The most that it may hold, in bytes, if the file says.
    pub bytes: Option<u64>,
}

/// A volume in a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Index into [`Plan::volumes`].
    pub volume: usize,
    /// Absolute, without `..`, and not below `/proc`, `/sys` or `/dev`.
    pub target: String,
    /// Whether it can be written here.
    pub read_only: bool,
}

/// A file system in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// As [`Mount::target`].
    pub target: String,
    /// Its size, in bytes.
    pub bytes: u64,
    /// Permissions of its root, at most `0o7777`.
    pub mode: Option<u32>,
}

/// A port of the rig's inner host that leads to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Port of `host.docker.internal`.
    pub host_port: u16,
    /// Index into [`Plan::services`].
    pub service: usize,
    /// Port inside the service's container.
    pub port: u16,
}

/// How to tell that a service is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The command; status 0 means ready. At least one word.
    pub test: Vec<String>,
    /// Between two looks, in milliseconds; not 0.
    pub interval_ms: u64,
    /// Time of one look, in milliseconds; not 0.
    pub timeout_ms: u64,
    /// Failures in a row until it counts as broken.
    pub retries: u32,
    /// Time after the start in which failures do not count, in milliseconds.
    pub start_period_ms: u64,
}

/// How far a dependency must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its first process runs.
    Started,
    /// Its health command succeeds. Only for services with [`Service::health`].
    Healthy,
    /// It has ended with status 0.
    Completed,
}

/// When a service that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// When its status is not 0.
    OnFailure {
        /// How often in a row; `None` for as often as it takes.
        max: Option<u32>,
    },
    /// Always.
    Always,
}

/// Graphics processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gpus {
    /// All that the rig offers.
    All,
    /// So many.
    Count(u32),
}
