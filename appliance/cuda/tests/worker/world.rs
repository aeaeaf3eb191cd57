//! A worker and whoever started it.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bundle::Digest;
use cuda::messages::{Done, Failure, Greeting, Job, Ran, Warm};
use fake_gpu_script::{Script, built, install};
use runner::wire::{WireError, receive, send};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::de::DeserializeOwned;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a driver in it.
pub(crate) struct World {
    dir: tempfile::TempDir,
}

/// A worker, and the other end of its socket.
pub(crate) struct Worker {
    child: Child,
    pub(crate) socket: OwnedFd,
}

/// The descriptors of a job.
pub(crate) struct Files {
    pub(crate) bundle: File,
    pub(crate) inputs: File,
    pub(crate) outputs: File,
    pub(crate) cubins: Vec<File>,
}

// === impl World ===

impl World {
    /// A driver that does what `script` says.
    pub(crate) fn new(script: &Script) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let library = |name| built(name).expect("the libraries of the driver that is not there");
        install(dir.path(), &library("fake_cuda"), &library("fake_nvml"), script).expect("install the driver");
        Self { dir }
    }

    /// A healthy driver.
    pub(crate) fn healthy() -> Self {
        Self::new(&Script::default())
    }

    /// A file in the driver's place that is no library.
    pub(crate) fn without_driver() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("libcuda.so.1"), "no library").expect("write");
        Self { dir }
    }

    /// Starts a role with a socket at descriptor 3.
    pub(crate) fn start(&self, role: &str) -> Worker {
        start(role, self.dir.path())
    }

    /// A worker that is warm.
    pub(crate) fn warm(&self) -> (Worker, Warm) {
        let worker = self.start("gpu");
        match worker.receive() {
            Greeting::Warm(warm) => (worker, warm),
            Greeting::Failed(failure) => panic!("the worker did not get warm: {failure:?}"),
        }
    }

    /// What a worker says that does not get warm.
    pub(crate) fn cold(&self) -> (Failure, i32) {
        let worker = self.start("gpu");
        match worker.receive() {
            Greeting::Warm(warm) => panic!("the worker got warm: {warm:?}"),
            Greeting::Failed(failure) => (failure, worker.end()),
        }
    }

    /// One job from beginning to end; the exit code beside it.
    pub(crate) fn perform(&self, job: &Job, files: &Files) -> (Done, i32) {
        let (worker, _) = self.warm();
        files.send(&worker, job);
        (worker.receive(), worker.end())
    }

    /// What a role prints.
    pub(crate) fn prints<T: DeserializeOwned>(&self, role: &str) -> T {
        let output = self.output(role);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What a role without a socket does.
    pub(crate) fn output(&self, role: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rig-cuda"));
        command.arg(role).env("LD_LIBRARY_PATH", self.dir.path()).output().expect("start the binary")
    }

    /// The driver's library.
    pub(crate) fn libcuda(&self) -> PathBuf {
        self.dir.path().join("libcuda.so.1")
    }
}

/// Starts a role whose loader looks in `libraries`, with a socket at descriptor 3.
pub(crate) fn start(role: &str, libraries: &Path) -> Worker {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (socket, far) = pair.expect("a socket pair");
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).expect("set a time limit");
    let child = Command::new("sh")
        .args(["-c", r#"exec 3<&0 0</dev/null; exec "$0" "$1""#, env!("CARGO_BIN_EXE_rig-cuda"), role])
        .env("LD_LIBRARY_PATH", libraries)
        .env("CUDA_DISABLE_PTX_JIT", "1")
        .stdin(Stdio::from(far))
        .stderr(Stdio::piped())
        .spawn();
    Worker { child: child.expect("start the worker"), socket }
}

// === impl Worker ===

impl Worker {
    /// The next message.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> T {
        receive(&self.socket).expect("a message").0
    }

    /// Whether the worker has nothing more to say, and has gone.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(receive::<serde_json::Value>(&self.socket), Err(WireError::Closed))
    }

    /// Whether it says nothing for this long.
    pub(crate) fn is_quiet_for(&self, wait: Duration) -> bool {
        set_socket_timeout(&self.socket, Timeout::Recv, Some(wait)).expect("set a time limit");
        let again = rustix::io::Errno::AGAIN;
        matches!(receive::<serde_json::Value>(&self.socket), Err(WireError::Socket { source, .. }) if source == again)
    }

    /// Kills it, and waits.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Its exit code; it ends by itself, and without a panic.
    pub(crate) fn end(mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().expect("wait") {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    self.child.kill().expect("kill");
                    panic!("the worker does not end");
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("read");
        assert!(!said.contains("panicked"), "{said}");
        status.code().unwrap_or_else(|| panic!("{status}: {said}"))
    }
}

// === impl Files ===

impl Files {
    /// The archive, the inputs, and room for outputs.
    pub(crate) fn new(archive: &[u8], inputs: &[u8], output_bytes: usize) -> Self {
        Self { bundle: file(archive), inputs: file(inputs), outputs: file(&vec![0xee; output_bytes]), cubins: vec![] }
    }

    pub(crate) fn send(&self, worker: &Worker, job: &Job) {
        self.offer(worker, job).expect("send the job");
    }

    /// Sends the job to a worker that may not listen any more.
    pub(crate) fn offer(&self, worker: &Worker, job: &Job) -> Result<(), WireError> {
        let fds: Vec<BorrowedFd<'_>> =
            [&self.bundle, &self.inputs, &self.outputs].into_iter().chain(&self.cubins).map(AsFd::as_fd).collect();
        send(&worker.socket, job, &fds)
    }

    /// What is in the outputs now.
    pub(crate) fn output(&self) -> Vec<u8> {
        content(&self.outputs)
    }
}

/// A file in memory.
pub(crate) fn file(bytes: &[u8]) -> File {
    let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all_at(bytes, 0).expect("write");
    file
}

/// All of a file.
pub(crate) fn content(file: &File) -> Vec<u8> {
    let len = file.metadata().expect("a length").len();
    let mut bytes = vec![0; usize::try_from(len).expect("a small file")];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

/// A job of this archive.
pub(crate) fn job(archive: &[u8], function: &str, parameters: &[(&str, u32)]) -> Job {
    let bundle: Digest = bundle::Bundle::parse(archive).expect("a bundle").digest();
    let parameters = parameters.iter().map(|(name, value)| (*name, bundle::Scalar::U32(*value))).collect();
    Job { bundle, function: function.to_owned(), parameters, scan: false }
}

/// A job that ran.
pub(crate) fn ran(done: Done) -> Ran {
    match done {
        Done::Ran(ran) => ran,
        Done::Failed(failure) => panic!("{failure:?}"),
    }
}

/// A job that did not.
pub(crate) fn failed(done: Done) -> Failure {
    match done {
        Done::Ran(ran) => panic!("{ran:?}"),
        Done::Failed(failure) => failure,
    }
}
