//! What a source gets, and how each of its services runs.

use serde::{Deserialize, Serialize};

use super::{ServiceName, VolumeName};

/// What the services of a source share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcePlan {
    /// Whom it may talk to.
    pub network: NetworkPolicy,
    /// At most [`super::SERVICES_MAX`]; each is a host name for the others.
    pub services: Vec<ServiceName>,
    /// Further host names, each of one of the services; at most [`super::ALIASES_MAX`].
    pub aliases: Vec<(ServiceName, ServiceName)>,
    /// Ports that the services find at [`super::CALLBACK_HOST`]; at most [`super::PUBLISHED_MAX`].
    pub published: Vec<Published>,
    /// What is kept between runs; at most [`super::VOLUMES_MAX`].
    pub volumes: Vec<VolumePlan>,
}

/// Whom a source may talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPolicy {
    /// Nobody: each service has a loopback of its own, and no callback is possible.
    None,
    /// Its own services and the callback.
    Internal,
    /// These, and public addresses, within the runner's caps. Never the rig's own network.
    Internet,
}

/// One more port, reachable from inside the source as `host.docker.internal:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Port at the callback address.
    pub port: u16,
    /// Whose.
    pub service: ServiceName,
    /// Port of the service.
    pub target: u16,
}

/// A directory that is kept until the source is forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumePlan {
    /// Within the source.
    pub name: VolumeName,
    /// The most that it holds, in bytes. It counts when the volume is made; later changes do not resize it.
    pub bytes: u64,
}

/// How to run a service. `None` means: as the image says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Replaces the image's `Cmd`.
    pub command: Option<Vec<String>>,
    /// Replaces the image's `Entrypoint`, and drops its `Cmd`.
    pub entrypoint: Option<Vec<String>>,
    /// Added to the image's environment; the last of equal names wins.
    pub environment: Vec<(String, String)>,
    /// Absolute, inside the image; made if absent.
    pub working_dir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`, inside the image.
    pub user: Option<String>,
    /// Only `/tmp`, `/dev/shm`, tmpfs mounts and volumes can be written.
    pub read_only: bool,
    /// Volumes of the source's plan; at most [`super::MOUNTS_MAX`].
    pub volumes: Vec<VolumeMount>,
    /// At most [`super::MOUNTS_MAX`].
    pub tmpfs: Vec<TmpfsMount>,
    /// How to ask the service whether it is well.
    pub health: Option<HealthTest>,
    /// What one jail may use.
    pub limits: Limits,
}

/// A volume inside a jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// Which.
    pub volume: VolumeName,
    /// Absolute, inside the image; made if absent.
    pub target: String,
    /// It cannot be written through this mount.
    pub read_only: bool,
}

/// Memory as a file system inside a jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TmpfsMount {
    /// Absolute, inside the image; made if absent.
    pub target: String,
    /// Its size, in bytes; not 0.
    pub bytes: u64,
    /// Permission bits of its root directory.
    pub mode: u32,
}

/// A command that runs inside the jail from time to time; status 0 means healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthTest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Between the end of one test and the next, in milliseconds.
    pub interval_ms: u64,
    /// How long one test may take, in milliseconds.
    pub timeout_ms: u64,
    /// How many failures in a row make the service unhealthy.
    pub retries: u32,
    /// How long after the start failures do not count, in milliseconds.
    pub start_period_ms: u64,
}

/// What one jail may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Descriptors per process.
    pub open_files: u64,
    /// Processes and threads of the jail.
    pub processes: u64,
    /// The size of any one file, in bytes.
    pub file_bytes: u64,
    /// The size of `/tmp`, in bytes.
    pub tmp_bytes: u64,
    /// The size of `/dev/shm`, in bytes.
    pub shm_bytes: u64,
    /// What may be written over the image, in bytes; gone when the service ends.
    pub scratch_bytes: u64,
    /// Memory of all kinds, in bytes; 0 means what the runner gives by default. Needs cgroups.
    pub memory_bytes: u64,
    /// Thousandths of one processor; 0 means all there are. Needs cgroups.
    pub cpu_millis: u32,
}

impl Default for Limits {
    /// Enough for a Python web service with a model in memory.
    fn default() -> Self {
        Self {
            open_files: 4096,
            processes: 2048,
            file_bytes: 64 << 30,
            tmp_bytes: 1 << 30,
            shm_bytes: 64 << 20,
            scratch_bytes: 16 << 30,
            memory_bytes: 0,
            cpu_millis: 0,
        }
    }
}
