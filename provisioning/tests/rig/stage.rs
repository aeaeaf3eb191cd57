//! What a test needs to run `rig`: a home of its own, files, and processes that end with the test.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use provisioning::devnet::{Account, Ready};
use serde_json::Value;
use tempfile::TempDir;

/// A home directory and everything in it.
pub(crate) struct Stage {
    home: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A running `rig devnet up`. Dropping it kills it.
pub(crate) struct DevnetProcess {
    child: Child,
    pub(crate) line: String,
    pub(crate) ready: Ready,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        Stage { home: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file that only its owner can read, and returns its path as an argument.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn key_file(&self, account: &Account) -> String {
        self.file(&format!("{}.key", account.role), format!("{}\n", account.key))
    }

    /// `rig`, with this home and nothing of the caller's settings but where to find anvil.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rig"));
        command.args(arguments).stdin(Stdio::null());
        for name in [
            "RIG_NETWORK",
            "RIG_DEVNET",
            "RIG_WALLET_KEY_FILE",
            "RIG_RUN_DIR",
            "RIG_RELEASE_KEY",
            "RIG_LOG",
            "RIG_CUDA_TOOLKIT",
            "CUDA_HOME",
            "XDG_STATE_HOME",
        ] {
            command.env_remove(name);
        }
        command.env("HOME", self.home.path());
        command
    }

    pub(crate) fn rig(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().unwrap();
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts a local network and waits for its line.
    pub(crate) fn devnet(&self, arguments: &[&str]) -> DevnetProcess {
        let all = [&["devnet", "up", "--json", "--port", "0"], arguments].concat();
        let mut child = self.command(&all).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        DevnetProcess { child, line, ready }
    }
}

impl Ended {
    /// The answer of a command that succeeded.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl DevnetProcess {
    /// A connection to the chain, which ends when the chain does.
    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.ready.rpc.port().unwrap())).unwrap()
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for DevnetProcess {
    fn drop(&mut self) {
        // It may have ended as part of the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the other side is gone.
pub(crate) fn wait_for_end(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut rest);
}

/// Whether anything listens there.
pub(crate) fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

pub(crate) fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}
