//! The ways in which the runner says no.

use serde::{Deserialize, Serialize};

use super::{Digest, ServiceName, SourceName};

/// Why something was not done. The text says what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "snake_case", deny_unknown_fields)]
pub enum Refusal {
    /// The peer's uid is not on the list.
    #[error("uid {uid} may not use the runner; start it with --allow-uid {uid} if it should")]
    NotAllowed {
        /// From `SO_PEERCRED`.
        uid: u32,
    },
    /// The message is no request.
    #[error("the request cannot be read: {detail}")]
    BadRequest {
        /// What the parser said.
        detail: String,
    },
    /// As many connections as the runner serves are open.
    #[error("the runner already serves {limit} connections; ask again when one has ended")]
    Busy {
        /// How many.
        limit: usize,
    },
    /// As many sources as the runner holds exist.
    #[error("the runner already holds {limit}; stop a source first")]
    TooManySources {
        /// How many of what.
        limit: String,
    },
    /// The source has no network and no volumes yet.
    #[error("source {source_name} is not open; open it first")]
    NotOpen {
        /// Which.
        source_name: SourceName,
    },
    /// The plan of the source cannot be carried out.
    #[error("the source is refused: {detail}")]
    BadPlan {
        /// What is wrong with it.
        detail: String,
    },
    /// The plan that the source was opened with does not name this service.
    #[error("source {source_name} has no service {service}; open it with a plan that names it")]
    NoService {
        /// Which source.
        source_name: SourceName,
        /// Which service.
        service: ServiceName,
    },
    /// The service was not started, or has ended.
    #[error("service {service} of source {source_name} is not running; start it first")]
    NotRunning {
        /// Which source.
        source_name: SourceName,
        /// Which service.
        service: ServiceName,
    },
    /// It runs something else.
    #[error("source {source_name} already runs with another {difference}; stop it first")]
    RunsDifferently {
        /// Which.
        source_name: SourceName,
        /// `plan`, `image` or the name of the first field of the spec that differs.
        difference: String,
    },
    /// A layer of the image is not sealed here, or not any more.
    #[error("image {manifest} is not prepared; prepare it first")]
    NotPrepared {
        /// Which image.
        manifest: Digest,
    },
    /// The content store lacks a blob.
    #[error("blob {digest} is not in the content store; download it, then prepare again")]
    BlobMissing {
        /// Which.
        digest: Digest,
    },
    /// A blob is not what its name says.
    #[error("{object} has digest {found} instead of {expected}; download it again")]
    DigestMismatch {
        /// `manifest`, `config` or `layer N`.
        object: String,
        /// What was asked for.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// The image is not one that can run here.
    #[error("the image is refused: {detail}; the source must publish another")]
    BadImage {
        /// What is wrong with it.
        detail: String,
    },
    /// The spec cannot be carried out.
    #[error("the service is refused: {detail}")]
    BadService {
        /// What is wrong with it.
        detail: String,
    },
    /// Nothing accepts at that port inside the jail, or not yet.
    #[error(
        "nothing listens on port {port} of service {service} of source {source_name}; try again while it starts up"
    )]
    NotListening {
        /// Which source.
        source_name: SourceName,
        /// Which service.
        service: ServiceName,
        /// Which port.
        port: u16,
    },
    /// The disk has not the room that the source may use.
    #[error("the disk has {free_bytes} bytes left and {needed_bytes} are needed; free some, or clean the cache")]
    DiskFull {
        /// Free.
        free_bytes: u64,
        /// Needed.
        needed_bytes: u64,
    },
    /// A step on the way into the jail failed; nothing of it is left.
    #[error("the jail failed at {step}: {}", std::io::Error::from_raw_os_error(*errno))]
    JailFailed {
        /// Which step.
        step: String,
        /// What the kernel said.
        errno: i32,
    },
    /// The runner itself failed.
    #[error("the runner failed: {detail}; its journal says more")]
    Internal {
        /// What happened.
        detail: String,
    },
    /// No GPU takes a job, now or at all.
    #[error("no GPU takes a job: {why}")]
    NoGpu {
        /// Why, and what to do.
        why: String,
    },
    /// Every GPU that takes jobs has had one for as long as this one could wait.
    #[error("every GPU has been busy for {waited_ms} ms; ask again, or wait longer")]
    GpuBusy {
        /// Milliseconds.
        waited_ms: u64,
    },
    /// The job of a launch cannot be taken.
    #[error("the launch is refused: {detail}")]
    BadLaunch {
        /// What is wrong with it.
        detail: String,
    },
    /// The PTX is not compiled: the bundle's fault.
    #[error("the PTX is refused: {log}")]
    BadPtx {
        /// The compiler's log.
        log: String,
    },
    /// There is nothing to compile PTX with.
    #[error("this machine has no PTX compiler: {why}")]
    NoCompiler {
        /// Why, and what to do.
        why: String,
    },
}
