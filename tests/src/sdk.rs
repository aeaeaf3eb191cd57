//! The published OpenGPU SDK (PyPI `ogpu`), unmodified, in a Python process of its own.
//!
//! Invariants:
//! * The process sees no configuration of this machine: an empty home, an empty folder, and an environment of one line.
//! * One snippet at a time, each answered before the next; the protocol is described in `tests/sdk/driver.py`.
//! * It dies with its [`Sdk`].

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use provisioning::devnet::Ready;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long one snippet may take. The slowest in use follows an event watcher for 20 s; the SDK itself gives up on a
/// receipt after 120 s.
pub const SNIPPET_TIMEOUT: Duration = Duration::from_secs(180);

/// Which of the two sets of ABIs inside the SDK it should use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Abis {
    /// What the real network has.
    #[default]
    Mainnet,
    /// The same without `cancelUnbonding` and three more of the vault's entries.
    Testnet,
}

/// A running SDK.
#[derive(Debug)]
pub struct Sdk {
    pipes: Mutex<Pipes>,
    _child: Child,
    _home: TempDir,
}

#[derive(Debug)]
struct Pipes {
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// Why a snippet has no value.
#[derive(Debug, Error)]
pub enum SdkError {
    /// `tests/setup.sh` has not been run.
    #[error("the SDK is not installed at {python}; run tests/setup.sh")]
    NotInstalled {
        /// The interpreter that was looked for.
        python: PathBuf,
    },
    /// The process could not be started or spoken to.
    #[error("talk to the SDK's process")]
    Pipe(#[source] io::Error),
    /// The process ended; what it said is on standard error.
    #[error("the SDK's process ended")]
    Ended,
    /// No answer in [`SNIPPET_TIMEOUT`].
    #[error("no answer from the SDK to: {snippet}")]
    Silent {
        /// What it was asked.
        snippet: String,
    },
    /// The answer is not what the driver's text promises.
    #[error("read the SDK's answer")]
    Answer(#[source] serde_json::Error),
    /// The snippet raised.
    #[error("{}: {message}", types.first().map_or("", String::as_str))]
    Raised {
        /// The exception's class and its bases, most special first.
        types: Vec<String>,
        /// Its text.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Value(Value),
    Error { types: Vec<String>, message: String },
}

// === impl Sdk ===

impl Sdk {
    /// Starts the SDK as `role`, whose key it finds where its documents say (`CLIENT_PRIVATE_KEY` and so on); snippets
    /// find every account of `ready` in `KEY` and `ADDRESS`.
    ///
    /// Errors: it is not installed, or it cannot be pointed at `ready`.
    pub async fn start(ready: &Ready, role: &str) -> Result<Sdk, SdkError> {
        Sdk::start_with(ready, role, Abis::Mainnet).await
    }

    /// [`Sdk::start`] with a choice of ABIs.
    pub async fn start_with(ready: &Ready, role: &str, abis: Abis) -> Result<Sdk, SdkError> {
        let python = target().join("sdk-venv/bin/python");
        if !python.is_file() {
            return Err(SdkError::NotInstalled { python });
        }
        let home = tempfile::tempdir().map_err(SdkError::Pipe)?;
        let mut child = Command::new(python)
            .arg(here().join("sdk/driver.py"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home.path())
            // The SDK decodes every log of a receipt and complains of those that are not its own.
            .env("PYTHONWARNINGS", "ignore::UserWarning")
            .current_dir(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(SdkError::Pipe)?;
        let orders = child.stdin.take().ok_or(SdkError::Ended)?;
        let answers = BufReader::new(child.stdout.take().ok_or(SdkError::Ended)?).lines();
        let sdk = Sdk { pipes: Mutex::new(Pipes { orders, answers }), _child: child, _home: home };
        let opening = json!({ "ready": ready, "role": role, "abis": abis.folder() });
        sdk.exchange(&opening, "the opening line").await?;
        Ok(sdk)
    }

    /// Runs a Python snippet with the fields of the object `with` as names; the value of its last expression.
    ///
    /// Errors: [`SdkError::Raised`] when the SDK raises, the others when the process fails.
    pub async fn run(&self, snippet: &str, with: Value) -> Result<Value, SdkError> {
        self.exchange(&json!({ "run": snippet, "with": with }), snippet).await
    }

    async fn exchange(&self, order: &Value, snippet: &str) -> Result<Value, SdkError> {
        let mut pipes = self.pipes.lock().await;
        let line = timeout(SNIPPET_TIMEOUT, pipes.exchange(order.to_string()))
            .await
            .map_err(|_| SdkError::Silent { snippet: snippet.to_owned() })??;
        match serde_json::from_str(&line).map_err(SdkError::Answer)? {
            Answer::Value(value) => Ok(value),
            Answer::Error { types, message } => Err(SdkError::Raised { types, message }),
        }
    }
}

// === impl Pipes ===

impl Pipes {
    async fn exchange(&mut self, mut line: String) -> Result<String, SdkError> {
        line.push('\n');
        self.orders.write_all(line.as_bytes()).await.map_err(SdkError::Pipe)?;
        self.answers.next_line().await.map_err(SdkError::Pipe)?.ok_or(SdkError::Ended)
    }
}

// === impl SdkError ===

impl SdkError {
    /// Whether the snippet raised the Python class `name` or one derived from it.
    pub fn is(&self, name: &str) -> bool {
        matches!(self, SdkError::Raised { types, .. } if types.iter().any(|each| each == name))
    }
}

// === impl Abis ===

impl Abis {
    fn folder(self) -> &'static str {
        match self {
            Abis::Mainnet => "mainnet",
            Abis::Testnet => "testnet",
        }
    }
}

/// The folder `tests/` of this checkout.
pub(crate) fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where `tests/setup.sh` puts what it builds.
pub(crate) fn target() -> PathBuf {
    here().join("../target")
}
