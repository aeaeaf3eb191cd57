//! A runner of its own for each test, in a directory of its own.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use runner::client::{Client, ClientError};
use runner::protocol::{Digest, Refusal, ServiceSpec, SourceName, SourceState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::oci::{self, Pack};

/// How long anything here may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    pub(crate) client: Client,
    dir: tempfile::TempDir,
    runner: Child,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(options: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make jails, which takes root");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("content/blobs/sha256")).expect("mkdir");
        let runner = start_runner(dir.path(), options);
        Self { client: Client::new(dir.path().join("runner.sock")), dir, runner }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn content(&self) -> PathBuf {
        self.path("content")
    }

    /// The runner dies without a word, and everything that it started with it; then another takes its place.
    pub(crate) fn kill_runner(&mut self) {
        self.runner.kill().expect("kill -9");
        self.runner.wait().expect("reap");
    }

    pub(crate) fn start_runner(&mut self) {
        self.runner = start_runner(self.dir.path(), &[]);
    }

    /// Waits until the runner has ended by itself; answers its exit code.
    pub(crate) fn runner_ended(&mut self) -> Option<i32> {
        self.runner.wait().expect("reap").code()
    }

    pub(crate) fn runner_pid(&self) -> u32 {
        self.runner.id()
    }

    /// An image of this host's programs, unpacked for `source`.
    pub(crate) fn prepared(&self, source: &SourceName) -> Digest {
        self.prepared_with(source, Vec::new())
    }

    /// The same, with more layers on top.
    pub(crate) fn prepared_with(&self, source: &SourceName, above: Vec<Vec<u8>>) -> Digest {
        let mut layers = vec![(oci::host_programs(), Pack::Plain)];
        layers.extend(above.into_iter().map(|tar| (tar, Pack::Gzip)));
        let manifest = oci::image(&self.content(), &layers, r#"{"Env":["LD_PRELOAD=/none","FROM_IMAGE=1"]}"#);
        self.client.prepare(source, &manifest).expect("prepare");
        manifest
    }

    /// Prepares and starts `command`; answers the image.
    pub(crate) fn run(&self, source: &SourceName, command: &[&str]) -> Digest {
        let manifest = self.prepared(source);
        self.client.start(source, &manifest, spec(command)).expect("start");
        manifest
    }

    /// Waits until `source` has ended.
    pub(crate) fn ended(&self, source: &SourceName) -> SourceState {
        wait_for("the source to end", || {
            let state = self.client.list().expect("list").remove(source).expect("a source");
            matches!(state, SourceState::Exited { .. }).then_some(state)
        })
    }

    /// Waits until `source` has printed `text`.
    pub(crate) fn printed(&self, source: &SourceName, text: &str) -> String {
        wait_for(text, || Some(self.client.logs(source).expect("logs")).filter(|log| log.contains(text)))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.runner.kill();
        let _ = self.runner.wait();
    }
}

fn start_runner(dir: &Path, options: &[&str]) -> Child {
    let mut runner = Command::new(env!("CARGO_BIN_EXE_rig-runner"))
        .arg("run")
        .args(["--socket".as_ref(), dir.join("runner.sock").as_os_str()])
        .args(["--content".as_ref(), dir.join("content").as_os_str()])
        .args(["--state".as_ref(), dir.join("state").as_os_str()])
        .args(options)
        .env_remove("JOURNAL_STREAM")
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the runner");
    let mut lines = BufReader::new(runner.stderr.take().expect("piped")).lines();
    let listens = lines.by_ref().map(|line| line.expect("text")).inspect(|line| eprintln!("{line}"));
    assert!({ listens }.any(|line| line.contains("the runner listens")), "the runner did not start");
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
    runner
}

pub(crate) fn name(name: &str) -> SourceName {
    name.parse().expect("a name")
}

pub(crate) fn spec(command: &[&str]) -> ServiceSpec {
    let command = Some(command.iter().map(ToString::to_string).collect());
    ServiceSpec { command, ..ServiceSpec::default() }
}

/// What the runner refused with.
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Refusal {
    match answer {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Everything that a process in a jail sends to the callback listener, until it closes.
pub(crate) fn callback(listener: &TcpListener) -> String {
    let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&listener.as_fd(), PollFlags::IN)], Some(&patience));
    assert_eq!(ready.expect("poll"), 1, "no callback came");
    let (stream, _) = listener.accept().expect("accept");
    stream.set_nonblocking(false).expect("wait for the rest");
    stream.set_read_timeout(Some(PATIENCE)).expect("but not for ever");
    std::io::read_to_string(stream).expect("text")
}

/// Asks again until there is an answer; for states of which no descriptor tells.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
