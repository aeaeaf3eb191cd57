//! The ways in which the runner says no.

use serde::{Deserialize, Serialize};

use super::{Digest, SourceName};

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
    #[error("the runner already holds {limit} sources; stop one first")]
    TooManySources {
        /// How many.
        limit: usize,
    },
    /// Nothing is known of this source.
    #[error("source {source_name} is not running; start it first")]
    NotRunning {
        /// Which.
        source_name: SourceName,
    },
    /// It runs something else.
    #[error("source {source_name} already runs with another {difference}; stop it first")]
    RunsDifferently {
        /// Which.
        source_name: SourceName,
        /// `image` or the name of the first field of the spec that differs.
        difference: String,
    },
    /// The image was never unpacked for this source.
    #[error("image {manifest} is not unpacked for source {source_name}; prepare it first")]
    NotPrepared {
        /// Which source.
        source_name: SourceName,
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
    #[error("nothing listens on port {port} of source {source_name}; try again while it starts up")]
    NotListening {
        /// Which source.
        source_name: SourceName,
        /// Which port.
        port: u16,
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
}
