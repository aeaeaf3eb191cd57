//! Debian's `docker-registry`, and the source image pushed into it.
//!
//! Invariants: it listens on a free port of 127.0.0.1, which it chooses itself; what is pushed to it lives in a temporary
//! folder; it dies with its [`Registry`], and with this process however that ends.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::sdk::target;

/// Runs the registry until standard input ends, which it does when the other end of the pipe is gone.
const LIFELINE: &str = "docker-registry serve \"$1\" & registry=$!; read -r _; kill \"$registry\"";

/// How long the registry may take until it listens; a tenth of a second is usual.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the images stand in the registry, and after the colon their tag, there and in the OCI layout.
const IMAGE_GROUP: &str = "openreef";
const IMAGE_TAG: &str = "1";

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    /// `127.0.0.1:PORT`.
    pub host: String,
    /// Holds the lifeline: dropping it closes the shell's standard input.
    _child: Child,
    folder: TempDir,
}

/// An image that the registry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// `127.0.0.1:PORT/name:tag`, as a compose file names it.
    pub reference: String,
    /// `sha256:…` of the manifest as the registry serves it.
    pub digest: String,
}

/// Why there is no registry, or no image in it.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// A file of its own could not be written.
    #[error("prepare the registry's folder")]
    Folder(#[source] io::Error),
    /// A program of `tests/setup.sh` could not be run.
    #[error("run {program}; tests/setup.sh installs it")]
    Program {
        /// Its name.
        program: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended, or stayed silent for [`START_TIMEOUT`].
    #[error("the registry did not start to listen: {said}")]
    NotListening {
        /// The end of what it printed.
        said: String,
    },
    /// `tests/setup.sh` has not built the source image.
    #[error("there is no source image at {path}; run tests/setup.sh")]
    NoImage {
        /// Where it should be.
        path: PathBuf,
    },
    /// skopeo refused.
    #[error("push the source image: {said}")]
    Push {
        /// What it printed.
        said: String,
    },
}

// === impl Registry ===

impl Registry {
    /// Starts an empty registry. Must be called on a tokio runtime.
    pub async fn start() -> Result<Registry, RegistryError> {
        let folder = tempfile::Builder::new().prefix("registry-").tempdir().map_err(RegistryError::Folder)?;
        let settings = folder.path().join("config.yml");
        let storage = folder.path().join("storage");
        // No `auth`, no cache, no deletion: a registry for one test, which nobody but this machine can reach.
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0', secret: unused}}\n",
            storage.display()
        );
        std::fs::write(&settings, text).map_err(RegistryError::Folder)?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", LIFELINE, "registry"])
            .arg(&settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| RegistryError::Program { program: "/bin/sh", source })?;
        let log = child.stderr.take().ok_or_else(|| RegistryError::NotListening { said: String::new() })?;
        let host = timeout(START_TIMEOUT, address_in(log))
            .await
            .unwrap_or_else(|_| Err(RegistryError::NotListening { said: "nothing in time".to_owned() }))?;
        Ok(Registry { host, _child: child, folder })
    }

    /// Pushes the source image that `tests/setup.sh` built.
    ///
    /// Errors: it was not built, or skopeo fails.
    pub async fn push_handler(&self) -> Result<Pushed, RegistryError> {
        self.push("handler").await
    }

    /// Pushes the image of the other service, which shares its layers with the source image.
    ///
    /// Errors: it was not built, or skopeo fails.
    pub async fn push_store(&self) -> Result<Pushed, RegistryError> {
        self.push("store").await
    }

    async fn push(&self, image: &str) -> Result<Pushed, RegistryError> {
        let path = target().join("source-image");
        if !path.join("index.json").is_file() {
            return Err(RegistryError::NoImage { path });
        }
        let reference = format!("{}/{IMAGE_GROUP}/{image}:{IMAGE_TAG}", self.host);
        let digest_file = self.folder.path().join("digest");
        let pushed = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "--digestfile"])
            .arg(&digest_file)
            .arg(format!("oci:{}:{image}:{IMAGE_TAG}", path.display()))
            .arg(format!("docker://{reference}"))
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|source| RegistryError::Program { program: "skopeo", source })?;
        if !pushed.status.success() {
            return Err(RegistryError::Push { said: String::from_utf8_lossy(&pushed.stderr).into_owned() });
        }
        let digest = std::fs::read_to_string(&digest_file).map_err(RegistryError::Folder)?;
        Ok(Pushed { reference, digest: digest.trim().to_owned() })
    }
}

/// Reads the registry's log until it names its address, then keeps it from filling the pipe.
async fn address_in(log: ChildStderr) -> Result<String, RegistryError> {
    let mut lines = BufReader::new(log).lines();
    let mut said = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((_, rest)) = line.split_once("listening on ") {
            let host = rest.split('"').next().unwrap_or(rest).to_owned();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(host);
        }
        said = line;
    }
    Err(RegistryError::NotListening { said })
}
