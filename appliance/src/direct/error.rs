//! What keeps a bundle from being served, or a run from its result, and whose fault that is.

use bundle::{Arch, BindError, BundleError, RespondError};
use chain::content::{FetchError, PinError};
use runner::client::ClientError;
use runner::memory::MemoryError;
use runner::protocol::Refusal;
use runner::wire::WireError;
use thiserror::Error;

use crate::gpus::NoGpus;
use crate::store::StoreError;

/// Why a bundle is not served, or a run gave no result.
#[derive(Debug, Error)]
pub enum DirectError {
    /// The source is not up.
    #[error("the source's bundle is not loaded")]
    NotLoaded,
    /// There is no GPU that would take it, for now.
    #[error("no GPU takes it now: {why}")]
    NoGpu {
        /// Why, and what to do.
        why: String,
    },
    /// The same, in the runner's words.
    #[error("look for a GPU")]
    NoGpus(#[from] NoGpus),
    /// Something behind a link could not be had.
    #[error("fetch {what}")]
    Fetch {
        /// What.
        what: String,
        /// Why not.
        #[source]
        source: FetchError,
    },
    /// What stands behind the link is no bundle.
    #[error("what `x-cuda.bundle` leads to is no bundle")]
    NotABundle(#[source] BundleError),
    /// The bundle has no such function, or the source does not serve it.
    #[error("the bundle serves no function `{name}`, but {}", serves.join(", "))]
    NoFunction {
        /// What was asked for.
        name: String,
        /// What there is.
        serves: Vec<String>,
    },
    /// The bundle runs on no GPU of this machine.
    #[error("the bundle does not run on this machine: {why}")]
    Unfit {
        /// What is missing.
        why: String,
    },
    /// No machine code could be made from a module.
    #[error("make machine code for {arch} from module `{module}`")]
    Compile {
        /// Which module.
        module: String,
        /// For which architecture.
        arch: Arch,
        /// Why not.
        #[source]
        source: ClientError,
    },
    /// It took too long to load.
    #[error("its bundle was not loaded within {seconds} s (start_s in rig.toml)")]
    TooSlow {
        /// How long it had.
        seconds: u64,
    },
    /// The task's data is not JSON.
    #[error("the input is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// The task's data does not fit the function.
    #[error("the input does not fit the function")]
    Bind(#[source] BindError),
    /// More bytes than a job may have.
    #[error("the {what} have {bytes} bytes, a job has at most {max}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How many.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// An input is not as long as its buffer.
    #[error("input `{buffer}` has {bytes} bytes, the plan takes {expected}")]
    Length {
        /// Which buffer.
        buffer: String,
        /// What came.
        bytes: u64,
        /// What the plan says.
        expected: u64,
    },
    /// Memory for the runner could not be made, or what it gave could not be read.
    #[error("pass bytes to or from the runner")]
    Memory(#[from] MemoryError),
    /// The runner did not launch it.
    #[error("have the runner launch it")]
    Launch(#[source] ClientError),
    /// The job ended itself.
    #[error("the job failed: {0}")]
    Job(String),
    /// The machine ended the job.
    #[error("the machine failed the job: {0}")]
    Machine(String),
    /// It took longer than its bundle allows, or than the task left when it began.
    #[error("the job was killed after {seconds} s, its deadline")]
    Deadline {
        /// How long it had.
        seconds: u32,
    },
    /// The run's own deadline has come.
    #[error("no result was there by the deadline")]
    TooLate,
    /// What the run left is not what the function leaves.
    #[error("what the job left cannot be read")]
    Respond(#[source] RespondError),
    /// The response is larger than the owner takes.
    #[error("the response has {bytes} bytes, at most {max} are taken (result_bytes in rig.toml)")]
    ResultTooBig {
        /// Its size.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// An output could not be published.
    #[error("publish an output")]
    Publish(#[source] PinError),
    /// The response could not be kept.
    #[error("keep the response")]
    Store(#[from] StoreError),
}

// === impl DirectError ===

impl DirectError {
    /// Whether no worker was given the job, so that asking again in a moment costs nothing and may help.
    pub(super) fn has_not_begun(&self) -> bool {
        use Refusal::{Busy, GpuBusy, NoGpu};
        matches!(
            self,
            DirectError::NoGpu { .. }
                | DirectError::NoGpus(_)
                | DirectError::Launch(
                    ClientError::Unreachable { .. } | ClientError::Refused(NoGpu { .. } | GpuBusy { .. } | Busy { .. })
                )
        )
    }

    /// Whether trying the same again cannot help: the bundle or the task is to blame, not the machine or the weather.
    pub fn is_final(&self) -> bool {
        match self {
            DirectError::NotABundle(_)
            | DirectError::NoFunction { .. }
            | DirectError::Unfit { .. }
            | DirectError::NotJson(_)
            | DirectError::Bind(_)
            | DirectError::TooMuch { .. }
            | DirectError::Length { .. }
            | DirectError::Job(_)
            | DirectError::Deadline { .. }
            | DirectError::TooLate
            | DirectError::Respond(_)
            | DirectError::ResultTooBig { .. } => true,
            DirectError::NotLoaded
            | DirectError::NoGpu { .. }
            | DirectError::NoGpus(_)
            | DirectError::TooSlow { .. }
            | DirectError::Memory(_)
            | DirectError::Machine(_)
            | DirectError::Store(_) => false,
            DirectError::Fetch { source, .. } => source.is_final(),
            DirectError::Publish(source) => source.is_final(),
            DirectError::Compile { source, .. } | DirectError::Launch(source) => is_final(source),
        }
    }
}

/// Whether the runner's no is about what it was asked to do, rather than about itself.
fn is_final(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(refusal) => {
            matches!(refusal, Refusal::BadLaunch { .. } | Refusal::BadPtx { .. } | Refusal::BadRequest { .. })
        }
        // A message that holds more parameters than any is no longer in another try.
        ClientError::Wire(error) => matches!(error, WireError::TooLarge),
        ClientError::Unreachable { .. } | ClientError::Misfit => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_no_is_final_where_it_is_about_the_job() {
        let check = |refusal: Refusal, expected: bool| {
            let error = DirectError::Launch(ClientError::Refused(refusal));
            assert_eq!(error.is_final(), expected, "{}", crate::chain_of(&error));
        };
        check(Refusal::BadLaunch { detail: "the plan".into() }, true);
        check(Refusal::BadPtx { log: "line 3".into() }, true);
        check(Refusal::BadRequest { detail: "no request".into() }, true);
        check(Refusal::NoGpu { why: "it is reset".into() }, false);
        check(Refusal::GpuBusy { waited_ms: 10 }, false);
        check(Refusal::NoCompiler { why: "it is gone".into() }, false);
        check(Refusal::Busy { limit: 64 }, false);
        check(Refusal::DiskFull { free_bytes: 0, needed_bytes: 1 }, false);
        check(Refusal::JailFailed { step: "mount".into(), errno: 12 }, false);
        check(Refusal::Internal { detail: "a bug".into() }, false);
    }

    #[test]
    fn a_runner_that_is_gone_may_come_back() {
        let gone = ClientError::Unreachable { path: "/run/rig/runner.sock".into(), source: rustix::io::Errno::NOENT };
        assert!(!DirectError::Launch(gone).is_final());
        assert!(!DirectError::Launch(ClientError::Misfit).is_final());
        assert!(!DirectError::Launch(ClientError::Wire(WireError::Closed)).is_final());
        assert!(DirectError::Launch(ClientError::Wire(WireError::TooLarge)).is_final());
    }
}
