//! What can be asked of the runner, and what it can answer.
//!
//! One request per connection, one reply, at most one file descriptor beside it. Both ends ship in one image,
//! so messages carry no version; an unknown field is refused rather than ignored. Anything that is bounded
//! has its bound here, because both ends must agree on it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

mod names;
mod refusal;

pub use names::{Digest, Malformed, SourceName};
pub use refusal::Refusal;

/// Where the runner listens when nothing else is configured.
pub const SOCKET_PATH: &str = "/run/rig/runner.sock";

/// The largest message in either direction, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The address, inside every jail, at which callbacks are awaited: a /32 on the jail's own loopback.
pub const CALLBACK_ADDR: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// The port of the callback listener; the one that the network's first provider software published.
pub const CALLBACK_PORT: u16 = 20_000;

/// The name that [`CALLBACK_ADDR`] has in the jail's `/etc/hosts`.
pub const CALLBACK_HOST: &str = "host.docker.internal";

/// The most sources that one runner holds, running or ended.
pub const SOURCES_MAX: usize = 32;

/// The most text of a source's log that one reply carries, in bytes, before JSON quotes it.
pub const LOG_TAIL_BYTES_MAX: usize = 48 * 1024;

/// The longest time between SIGTERM and SIGKILL that a [`Request::Stop`] may ask for, in milliseconds.
pub const GRACE_MS_MAX: u64 = 120_000;

/// What the provider asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Unpack the image whose manifest has this digest, from blobs that are already in the content store.
    /// Idempotent.
    Prepare {
        /// Whose files these will be.
        source: SourceName,
        /// The image manifest, not an index.
        manifest: Digest,
    },
    /// Run a prepared image. Asking again for what already runs changes nothing.
    Start {
        /// Who runs.
        source: SourceName,
        /// The image manifest that was prepared.
        manifest: Digest,
        /// How it runs. Boxed: it is many times larger than the rest.
        service: Box<ServiceSpec>,
    },
    /// A TCP stream to `127.0.0.1:port` inside the jail; the reply carries it.
    Connect {
        /// Whose jail.
        source: SourceName,
        /// Port inside the jail.
        port: u16,
    },
    /// The callback listener of the jail; the reply carries a duplicate of it. It outlives the service, until
    /// the source is stopped or started again, so that a last callback is not lost.
    Listener {
        /// Whose jail.
        source: SourceName,
    },
    /// SIGTERM, `grace_ms`, SIGKILL; answers when every process of the source has been reaped.
    Stop {
        /// Who stops.
        source: SourceName,
        /// Milliseconds between the two signals, at most [`GRACE_MS_MAX`].
        grace_ms: u64,
    },
    /// Every source and its state.
    List {},
    /// The end of what a source printed.
    Logs {
        /// Whose output.
        source: SourceName,
    },
}

/// What the runner answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// To [`Request::Prepare`].
    Prepared(Prepared),
    /// To [`Request::Start`].
    Started(Started),
    /// To [`Request::Connect`]; the descriptor is a non-blocking TCP stream.
    Connected {},
    /// To [`Request::Listener`]; the descriptor is a non-blocking TCP listener.
    Listening {},
    /// To [`Request::Stop`].
    Stopped {
        /// What it took.
        how: Ending,
    },
    /// To [`Request::List`], by name.
    Sources {
        /// At most [`SOURCES_MAX`].
        sources: BTreeMap<SourceName, SourceState>,
    },
    /// To [`Request::Logs`].
    Logs {
        /// Standard output and standard error, interleaved; see [`LOG_TAIL_BYTES_MAX`].
        text: String,
    },
    /// To anything that was not done.
    Refused {
        /// Why, and what to do.
        refusal: Refusal,
    },
}

/// An image stands unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// Bytes of file content written; 0 if `already`.
    pub bytes: u64,
    /// Tar entries read; 0 if `already`.
    pub entries: u64,
    /// It had been unpacked before.
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

/// What it took to end a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It had ended by itself.
    AlreadyExited,
    /// It ended within the grace time.
    Terminated,
    /// It was killed.
    Killed,
}

/// What a source is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum SourceState {
    /// Its jail is up. That its port is open is for [`Request::Connect`] to find out.
    Running {
        /// The jail's first process, as the host numbers it.
        pid: i32,
        /// Unix seconds.
        since_unix: u64,
    },
    /// Its jail is gone; the entry stays until the source is stopped or started again.
    Exited {
        /// How the service ended.
        exit: Exit,
        /// The last lines that it printed, short enough for a list.
        log_tail: String,
    },
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
    /// Only `/tmp` and `/dev/shm` can be written.
    pub read_only: bool,
    /// What one jail may use.
    pub limits: Limits,
}

/// What one jail may use, enforced by rlimits and by the size of its temporary file system.
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
}

impl Default for Limits {
    /// Enough for a Python web service with a model in memory.
    fn default() -> Self {
        Self { open_files: 4096, processes: 2048, file_bytes: 64 << 30, tmp_bytes: 1 << 30 }
    }
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
