//! Asks a running rig about itself.
//!
//! The provider listens on `provider.sock` in its run directory. One connection carries one question, a line of JSON,
//! and one answer, a line of JSON; then the provider hangs up:
//!
//! ```text
//! → {"ask":"status"}
//! → {"ask":"tasks","limit":20,"refused":false}
//! → {"ask":"cache"}
//! → {"ask":"clean","all":false}
//! → {"ask":"gpus","retry":false}
//! → {"ask":"measure","gpu":"GPU-8f3c1f0a-12ab-34cd-56ef-7890abcdef12"}
//! ```
//!
//! Invariant: fields that we do not know are passed over, and `--json` shows them all the same, so that a new provider
//! may be asked by an old `rig`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::exit::{Exit, Failure};

/// Name of the provider's socket in its run directory.
const SOCKET: &str = "provider.sock";

/// Ten thousand tasks of half a kilobyte, each with the names of sixteen images, and some.
const ANSWER_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The provider answers from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Clearing gigabytes away takes a while; the provider itself gives up a little earlier.
const CACHE_TIMEOUT: Duration = Duration::from_secs(70);

/// The rig, on the command line.
#[derive(Debug, Args)]
pub(crate) struct RigArgs {
    /// The run directory of the rig, or its socket.
    #[arg(long, global = true, value_name = "DIR|SOCKET", env = "RIG_RUN_DIR", default_value = "/run/rig")]
    rig: PathBuf,
}

/// A measurement takes some seconds, and many more where a driver begins anew; the provider gives up a little
/// earlier.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(610);

/// A question.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub(crate) enum Ask {
    /// How it is doing.
    Status,
    /// Its newest tasks, at most `limit`; those that it did not take only if `refused`.
    Tasks { limit: u64, refused: bool },
    /// What it keeps of images.
    Cache,
    /// Clear away what is beyond its limits, or `all` that is not in use.
    Clean { all: bool },
    /// Its GPUs; with `retry` those that it gave up are tried again.
    Gpus { retry: bool },
    /// What a GPU does now, by its UUID.
    Measure { gpu: String },
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum RigError {
    #[error("no rig listens at {}", .path.display())]
    Absent {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("this user may not ask the rig at {}", .path.display())]
    Forbidden {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("talk to the rig at {}", .path.display())]
    Talk {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the rig at {} did not answer within {} s", .path.display(), .within.as_secs())]
    Silent { path: PathBuf, within: Duration },
    #[error("the rig at {} did not answer with a line of JSON", .path.display())]
    Nonsense {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the rig refuses: {why}")]
    Refused { why: String, next: Option<String> },
}

// === impl RigArgs ===

impl RigArgs {
    /// Asks, and returns the answer as it came.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Value, RigError> {
        let path = if self.rig.is_dir() { self.rig.join(SOCKET) } else { self.rig.clone() };
        let within = match ask {
            Ask::Status | Ask::Tasks { .. } => ANSWER_TIMEOUT,
            // The provider asks the runner.
            Ask::Cache | Ask::Clean { .. } | Ask::Gpus { .. } => CACHE_TIMEOUT,
            Ask::Measure { .. } => MEASURE_TIMEOUT,
        };
        let Ok(line) = timeout(within, talk(&path, ask)).await else {
            return Err(RigError::Silent { path, within });
        };
        let answer: Value = serde_json::from_slice(&line?).map_err(|source| RigError::Nonsense { path, source })?;
        match answer.get("error").and_then(Value::as_str) {
            Some(why) => {
                let next = answer["next"].as_str().map(str::to_owned);
                Err(RigError::Refused { why: why.to_owned(), next })
            }
            None => Ok(answer),
        }
    }
}

async fn talk(path: &Path, ask: Ask) -> Result<Vec<u8>, RigError> {
    let absent = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => RigError::Forbidden { path: path.to_owned(), source },
        _ => RigError::Absent { path: path.to_owned(), source },
    };
    let broken = |source| RigError::Talk { path: path.to_owned(), source };
    let stream = UnixStream::connect(path).await.map_err(absent)?;
    let (answers, mut questions) = stream.into_split();
    let mut question = serde_json::to_vec(&ask).expect("a question is plain data");
    question.push(b'\n');
    questions.write_all(&question).await.map_err(broken)?;
    let mut line = Vec::new();
    BufReader::new(answers.take(ANSWER_BYTES_MAX)).read_until(b'\n', &mut line).await.map_err(broken)?;
    Ok(line)
}

impl From<RigError> for Failure {
    fn from(error: RigError) -> Failure {
        let (exit, next) = match &error {
            RigError::Absent { .. } => (
                Exit::Unreachable,
                "start it (systemctl start rig-provider, or rig-provider --config rig.toml), or name its run \
                 directory with --rig",
            ),
            RigError::Forbidden { .. } => (Exit::Unreachable, "ask as root, or as a member of the group rig"),
            RigError::Talk { .. } | RigError::Silent { .. } => {
                (Exit::Unreachable, "look at its log: journalctl -u rig-provider")
            }
            RigError::Nonsense { .. } => (Exit::Failed, "make sure that --rig names the provider's socket"),
            RigError::Refused { next: Some(next), .. } => (Exit::Failed, next.as_str()),
            RigError::Refused { next: None, .. } => {
                (Exit::Failed, "update rig: it asked something that this rig does not know")
            }
        };
        let next = next.to_owned();
        Failure::new(exit, error).next(next)
    }
}
