//! What can be asked of the runner, and what it can answer.
//!
//! One request at a time, one reply, at most one file descriptor beside it. Both ends ship in one image,
//! so messages carry no version; an unknown field is refused rather than ignored. Anything that is bounded
//! has its bound here, because both ends must agree on it.
//!
//! The order of a source's life: its images are prepared, it is opened (its network and its volumes), its
//! services are started, and it is stopped, which closes it. Volumes outlive that, until it is forgotten.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

mod gpu;
mod names;
mod refusal;
mod spec;
mod state;

pub use gpu::{
    Bench, CUBINS_MAX, End, GPU_WAIT_MS_MAX, GPUS_MAX, GpuReport, Gpus, JOB_BYTES_MAX, JOB_SECONDS_MAX, Launch,
    Launched, Measurement, Throughput,
};
pub use names::{Digest, Malformed, ServiceName, SourceName, VolumeName};
pub use refusal::Refusal;
pub use spec::{
    HealthTest, Limits, NetworkPolicy, Published, ServiceSpec, SourcePlan, TmpfsMount, VolumeMount, VolumePlan,
};
pub use state::{CachedLayer, Confinement, Exit, Health, ServiceState, SourceState};

/// Where the runner listens when nothing else is configured.
pub const SOCKET_PATH: &str = "/run/rig/runner.sock";

/// The largest message in either direction, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The address, in every source's network, at which callbacks are awaited and published ports are found.
pub const CALLBACK_ADDR: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// The port of the callback listener; the one that the network's first provider software published.
pub const CALLBACK_PORT: u16 = 20_000;

/// The name that [`CALLBACK_ADDR`] has in every jail's `/etc/hosts`.
pub const CALLBACK_HOST: &str = "host.docker.internal";

/// The most sources that one runner holds.
pub const SOURCES_MAX: usize = 32;

/// The most services of one source.
pub const SERVICES_MAX: usize = 16;

/// The most services of all sources together: one message lists them.
pub const SERVICES_TOTAL_MAX: usize = 128;

/// The most volumes of one source.
pub const VOLUMES_MAX: usize = 16;

/// The most ports that one source publishes besides its own.
pub const PUBLISHED_MAX: usize = 32;

/// The most further names that the services of one source have together.
pub const ALIASES_MAX: usize = 64;

/// The most mounts of one service, of volumes and of tmpfs each.
pub const MOUNTS_MAX: usize = 32;

/// The most layers that one reply lists; a message holds them.
pub const LAYERS_LISTED_MAX: usize = 384;

/// The most text of a service's log that one reply carries, in bytes, before JSON quotes it.
pub const LOG_TAIL_BYTES_MAX: usize = 48 * 1024;

/// The longest time between SIGTERM and SIGKILL that a stop may ask for, in milliseconds.
pub const GRACE_MS_MAX: u64 = 120_000;

/// The longest that a [`Request::Wait`] may wait, in milliseconds. Each waits on one of the runner's connections.
pub const WAIT_MS_MAX: u64 = 60_000;

/// What the provider asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Which layers of an image whose manifest and configuration are in the content store are neither sealed
    /// here nor need be: what must be downloaded before [`Request::Prepare`].
    Missing {
        /// The image manifest, not an index.
        manifest: Digest,
    },
    /// Unpack and seal what is not sealed yet of the image whose manifest has this digest, from blobs that are
    /// in the content store. Idempotent.
    Prepare {
        /// Under whose ids it is unpacked.
        source: SourceName,
        /// The image manifest, not an index.
        manifest: Digest,
    },
    /// Give a source its network and its volumes. Asking again for the same changes nothing.
    Open {
        /// Who.
        source: SourceName,
        /// What it gets.
        plan: Box<SourcePlan>,
    },
    /// Run a prepared image as a service of an open source. Asking again for what already runs changes nothing.
    Start {
        /// Whose service.
        source: SourceName,
        /// Which of the services that its plan names.
        service: ServiceName,
        /// The image manifest that was prepared.
        manifest: Digest,
        /// How it runs. Boxed: it is many times larger than the rest.
        spec: Box<ServiceSpec>,
    },
    /// A TCP stream to a port of a service; the reply carries it.
    Connect {
        /// Whose service.
        source: SourceName,
        /// Which.
        service: ServiceName,
        /// Port inside its jail.
        port: u16,
    },
    /// The callback listener of the source; the reply carries a duplicate of it. It outlives the services, until
    /// the source is stopped, so that a last callback is not lost.
    Listener {
        /// Whose.
        source: SourceName,
    },
    /// What a service is doing, told when it has ended or `timeout_ms` is over.
    Wait {
        /// Whose service.
        source: SourceName,
        /// Which.
        service: ServiceName,
        /// Milliseconds, at most [`WAIT_MS_MAX`].
        timeout_ms: u64,
    },
    /// End one service: SIGTERM, `grace_ms`, SIGKILL; answers when every process of it has been reaped.
    StopService {
        /// Whose service.
        source: SourceName,
        /// Which.
        service: ServiceName,
        /// Milliseconds between the two signals, at most [`GRACE_MS_MAX`].
        grace_ms: u64,
    },
    /// End all services of a source, and close it.
    Stop {
        /// Who stops.
        source: SourceName,
        /// Milliseconds between the two signals, at most [`GRACE_MS_MAX`].
        grace_ms: u64,
    },
    /// Remove the volumes of a source that is not open. Nothing to remove is fine.
    Forget {
        /// Whose.
        source: SourceName,
    },
    /// Every source and its state.
    List {},
    /// The end of what a service printed.
    Logs {
        /// Whose output.
        source: SourceName,
        /// Which service's.
        service: ServiceName,
    },
    /// The sealed layers.
    Layers {},
    /// Remove sealed layers: those that the limits say, or every one that nothing holds.
    Collect {
        /// Not only what is beyond the limits.
        everything: bool,
    },
    /// The GPUs, and what there is to use them.
    Gpus {},
    /// Make machine code of PTX, on no GPU. Descriptor: the PTX, sealed.
    Compile {
        /// For GPUs of this architecture.
        arch: bundle::Arch,
    },
    /// Run a function of a bundle on a GPU. Descriptors: see [`Launch`]. Not idempotent, and safe to repeat.
    Launch(Box<Launch>),
    /// Try GPUs again that were given up, as their owner asks.
    RetryGpus {},
    /// Measure a GPU that is offered and has no job; it takes none meanwhile. The figures are kept, and are from then on
    /// part of the answer to [`Request::Gpus`].
    Measure {
        /// This one; `None`: any.
        gpu: Option<::gpu::GpuUuid>,
    },
}

/// What the runner answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// To [`Request::Missing`].
    Missing {
        /// Digests of blobs, lowest layer first, each once.
        layers: Vec<Digest>,
    },
    /// To [`Request::Prepare`].
    Prepared(Prepared),
    /// To [`Request::Open`].
    Opened {
        /// It was open before, with the same plan.
        already: bool,
    },
    /// To [`Request::Start`].
    Started(Started),
    /// To [`Request::Connect`]; the descriptor is a non-blocking TCP stream.
    Connected {},
    /// To [`Request::Listener`]; the descriptor is a non-blocking TCP listener.
    Listening {},
    /// To [`Request::Wait`].
    Waited {
        /// When the wait was over.
        state: ServiceState,
    },
    /// To [`Request::StopService`] and [`Request::Stop`].
    Stopped {
        /// What it took; of several services, what the slowest took.
        how: Ending,
    },
    /// To [`Request::Forget`].
    Forgotten {},
    /// To [`Request::List`], by name.
    Sources {
        /// How jails are limited on this machine.
        confinement: Confinement,
        /// At most [`SOURCES_MAX`].
        sources: BTreeMap<SourceName, SourceState>,
    },
    /// To [`Request::Logs`].
    Logs {
        /// Standard output and standard error, interleaved; see [`LOG_TAIL_BYTES_MAX`].
        text: String,
    },
    /// To [`Request::Layers`].
    Layers {
        /// Most recently used first, at most [`LAYERS_LISTED_MAX`].
        layers: Vec<CachedLayer>,
        /// Layers, including those that are not listed.
        count: u64,
        /// Bytes on disk, including those that are not listed.
        bytes: u64,
    },
    /// To [`Request::Collect`].
    Collected {
        /// Layers removed.
        layers: u64,
        /// Bytes freed.
        bytes: u64,
    },
    /// To [`Request::Gpus`] and [`Request::RetryGpus`].
    Gpus(Gpus),
    /// To [`Request::Compile`]; the descriptor is the machine code, sealed.
    Compiled {
        /// What the compiler took, in microseconds.
        us: u64,
    },
    /// To [`Request::Launch`]; the descriptor is the outputs, sealed, if the job ran.
    Launched(Box<Launched>),
    /// To [`Request::Measure`].
    Measured(Box<Measurement>),
    /// To anything that was not done.
    Refused {
        /// Why, and what to do.
        refusal: Refusal,
    },
}

/// An image stands sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// Bytes of file content unpacked; 0 if `already`.
    pub bytes: u64,
    /// Tar entries read; 0 if `already`.
    pub entries: u64,
    /// All of its layers had been sealed before.
    pub already: bool,
}

/// A service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// Which run this is; unique for the life of the runner.
    pub run: RunNumber,
    /// It was running before, with the same image and the same spec.
    pub already: bool,
}

/// How many times the runner has started something, this one included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunNumber(pub u64);

/// What it took to end a service; later ones took more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It had ended by itself.
    AlreadyExited,
    /// It ended within the grace time.
    Terminated,
    /// It was killed.
    Killed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_refused() {
        let legal = r#"{"op":"stop","source":"a","grace_ms":1}"#;
        assert!(serde_json::from_str::<Request>(legal).is_ok());
        let unknown = r#"{"op":"stop","source":"a","grace_ms":1,"force":true}"#;
        let error = serde_json::from_str::<Request>(unknown).expect_err("unknown field");
        assert!(error.to_string().contains("force"), "{error}");
        assert!(serde_json::from_str::<Request>(r#"{"op":"list","all":1}"#).is_err());
    }
}
