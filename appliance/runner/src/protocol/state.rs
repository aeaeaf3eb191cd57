//! What the runner knows of what it runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, ServiceName};

/// How jails are limited on this machine; everything else about a jail is the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confinement {
    /// Memory, processes, processor and disk per jail, by cgroup v2.
    Cgroups,
    /// Per process only. For machines of developers; a rig's image does not allow it.
    RlimitsOnly,
}

/// What an open source is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceState {
    /// Those that were started, by name.
    pub services: BTreeMap<ServiceName, ServiceState>,
    /// Bytes that came from the internet since the source was opened.
    pub received_bytes: u64,
    /// Bytes that went to the internet since the source was opened.
    pub sent_bytes: u64,
}

/// What a service is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum ServiceState {
    /// Its jail is up. That a port is open is for [`super::Request::Connect`] to find out.
    Running {
        /// The jail's first process, as the host numbers it.
        pid: i32,
        /// Unix seconds.
        since_unix: u64,
        /// What its health test says.
        health: Health,
        /// What its jail uses now, in bytes; `None` without cgroups.
        memory_bytes: Option<u64>,
    },
    /// Its jail is gone; the entry stays until the service is started again or the source is stopped.
    Exited {
        /// How the service ended.
        exit: Exit,
        /// The kernel killed it because it used more memory than it may.
        out_of_memory: bool,
        /// The last lines that it printed, short enough for a list.
        log_tail: String,
    },
}

/// What a health test says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// There is none.
    Untested,
    /// It has not succeeded yet, and has not failed too often.
    Starting,
    /// It succeeded last.
    Healthy,
    /// It failed too often in a row.
    Unhealthy,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// A sealed layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CachedLayer {
    /// Of the blob that it was unpacked from.
    pub digest: Digest,
    /// On disk.
    pub bytes: u64,
    /// Unix seconds.
    pub last_used_unix: u64,
    /// A jail stands on it.
    pub held: bool,
}
