//! `rig-cuda` started by the report itself: the same program and the same messages as in service, but no jail.
//!
//! Invariants: a worker that is dropped is dead; nobody waits for one without a bound.

use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bundle::Arch;
use cuda::messages::{CUBIN_BYTES_MAX, Compile, Compiled, Done, Greeting, Job, Probe, Warm};
use runner::memory;
use runner::wire::{WireError, receive, send};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::{Ended, Outcome};
use crate::kit::Ask;

/// How long a worker may take to get warm: a driver without clients begins anew.
const WARM_WITHIN: Duration = Duration::from_secs(60);

/// How long a killed process may take to be gone: the driver tears down what it had.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// How long the linker may take; the runner allows as much.
const COMPILE_WITHIN: Duration = Duration::from_secs(60);

/// How long a driver may take to say what it has.
const PROBE_WITHIN: Duration = Duration::from_secs(120);

/// A process and the socket to it.
#[derive(Debug)]
struct Process {
    child: Child,
    socket: OwnedFd,
}

/// A GPU worker that waits for its job.
#[derive(Debug)]
pub(crate) struct Worker {
    process: Process,
    pub(crate) warm: Warm,
    /// From before its process was made until it was warm.
    pub(crate) took: Duration,
}

/// What came of waiting.
enum Heard<T> {
    Said(T),
    Nothing,
    Gone,
}

// === impl Worker ===

impl Worker {
    /// Starts one on the GPU with this UUID, and waits until it is warm.
    pub(crate) fn start(program: &Path, uuid: &str) -> Result<Self> {
        let began = Instant::now();
        let environment = [
            ("CUDA_VISIBLE_DEVICES", uuid),
            ("CUDA_DISABLE_PTX_JIT", "1"),
            ("CUDA_CACHE_DISABLE", "1"),
            ("CUDA_MODULE_LOADING", "EAGER"),
        ];
        let process = Process::start(program, "gpu", &environment)?;
        match process.hear::<Greeting>(WARM_WITHIN)? {
            Heard::Said(Greeting::Warm(warm)) => Ok(Self { process, warm, took: began.elapsed() }),
            Heard::Said(Greeting::Failed(failure)) => bail!("a worker did not get warm: {failure:?}"),
            Heard::Nothing => bail!("a worker was not warm within {} s", WARM_WITHIN.as_secs()),
            Heard::Gone => bail!("a worker ended before it was warm"),
        }
    }

    /// Its one job. `asked` is when it was asked for.
    pub(crate) fn perform(self, ask: &Ask, asked: Instant, was_warm: bool) -> Result<Outcome> {
        let Self { mut process, warm, took: _ } = self;
        let outputs = memory::blank("outputs", ask.output_bytes)?;
        let mut given = vec![memory::sealed("the archive", &ask.archive)?, memory::sealed("inputs", &ask.inputs)?];
        given.push(outputs.try_clone()?);
        for code in &ask.cubins {
            given.push(memory::sealed("machine code", code)?);
        }
        let fds: Vec<BorrowedFd<'_>> = given.iter().map(AsFd::as_fd).collect();
        let job = Job {
            bundle: ask.digest,
            function: ask.function.clone(),
            parameters: ask.parameters.clone(),
            scan: ask.scan,
        };
        let waited = asked.elapsed();
        let ended = match send(&process.socket, &job, &fds) {
            Err(error) => Ended::Gone(format!("it was gone before its job: {error}")),
            Ok(()) => match process.hear::<Done>(Duration::from_secs(u64::from(ask.seconds)))? {
                Heard::Said(Done::Ran(ran)) => Ended::Ran(ran),
                Heard::Said(Done::Failed(failure)) => Ended::Failed(failure),
                Heard::Nothing => Ended::Deadline,
                Heard::Gone => Ended::Gone("it ended without a word".to_owned()),
            },
        };
        // Who has answered ends by itself; who has not is killed.
        if matches!(ended, Ended::Deadline) || !process.ends() {
            process.kill()?;
        }
        let outputs = if matches!(ended, Ended::Ran(_)) {
            memory::seal("outputs", &outputs)?;
            memory::read("outputs", outputs, ask.output_bytes)?
        } else {
            Vec::new()
        };
        Ok(Outcome { ended, outputs, waited, total: asked.elapsed(), was_warm, warm: warm.timings })
    }
}

/// Machine code of PTX, and what the linker took.
pub(crate) fn compile(program: &Path, arch: Arch, ptx: &[u8]) -> Result<(Vec<u8>, Duration)> {
    let process = Process::start(program, "compile", &[])?;
    let (ptx, code) = (memory::sealed("PTX", ptx)?, memory::blank("machine code", 0)?);
    send(&process.socket, &Compile { arch }, &[ptx.as_fd(), code.as_fd()]).context("ask a compile worker")?;
    match process.hear::<Compiled>(COMPILE_WITHIN)? {
        Heard::Said(Compiled::Compiled { us, .. }) => {
            memory::seal("machine code", &code)?;
            Ok((memory::read("machine code", code, CUBIN_BYTES_MAX)?, Duration::from_micros(us)))
        }
        Heard::Said(Compiled::Refused { log }) => bail!("the linker refuses the PTX: {log}"),
        Heard::Said(Compiled::Failed { why }) => bail!("there is no linker: {why}"),
        Heard::Nothing => bail!("the linker did not end within {} s and was killed", COMPILE_WITHIN.as_secs()),
        Heard::Gone => bail!("a compile worker ended without a word"),
    }
}

/// What this machine has for CUDA.
pub(crate) fn probe(program: &Path) -> Result<Probe> {
    let text = output(Command::new(program).arg("probe"), PROBE_WITHIN)?;
    serde_json::from_str(&text).context("understand the probe; are the programs of one build?")
}

/// What a program prints, if it ends well and in time. What it prints fits a pipe.
pub(crate) fn output(command: &mut Command, within: Duration) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {name}"))?;
    let status = match awaited(&mut child, within)? {
        Some(status) => status,
        None => {
            child.kill()?;
            child.wait()?;
            bail!("{name} did not end within {} s", within.as_secs());
        }
    };
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut text).with_context(|| format!("read what {name} printed"))?;
    }
    anyhow::ensure!(status.success(), "{name} ended with {status}: {}", text.trim());
    Ok(text)
}

/// How a child ended, if it does in time.
pub(crate) fn awaited(child: &mut Child, within: Duration) -> Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

// === impl Process ===

impl Process {
    /// A shell puts the socket where the worker looks for it, then becomes the worker.
    fn start(program: &Path, role: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let (socket, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = Command::new("sh")
            .args(["-c", r#"exec 3<&0 0</dev/null; exec "$0" "$1""#])
            .arg(program)
            .arg(role)
            .envs(environment.iter().copied())
            .stdin(Stdio::from(far))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Ok(Self { child: child.with_context(|| format!("start {}", program.display()))?, socket })
    }

    fn hear<T: DeserializeOwned>(&self, within: Duration) -> Result<Heard<T>> {
        set_socket_timeout(&self.socket, Timeout::Recv, Some(within)).context("limit a worker's socket")?;
        match receive::<T>(&self.socket) {
            Ok((message, _)) => Ok(Heard::Said(message)),
            Err(WireError::Closed) => Ok(Heard::Gone),
            Err(WireError::Socket { source: rustix::io::Errno::AGAIN, .. }) => Ok(Heard::Nothing),
            Err(WireError::Socket { source: rustix::io::Errno::CONNRESET, .. }) => Ok(Heard::Gone),
            Err(error) => Err(error).context("understand a worker"),
        }
    }

    fn ends(&mut self) -> bool {
        awaited(&mut self.child, GONE_WITHIN).is_ok_and(|status| status.is_some())
    }

    fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill a worker")?;
        anyhow::ensure!(self.ends(), "a worker was killed and is still there after {} s", GONE_WITHIN.as_secs());
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Of one that has ended already there is nothing left to kill.
        let _ = self.child.kill();
        let _ = awaited(&mut self.child, GONE_WITHIN);
    }
}

/// Whether a message fits a worker's socket; some attacks do not even get so far.
pub(crate) fn fits<T: Serialize>(message: &T) -> bool {
    serde_json::to_vec(message).is_ok_and(|bytes| bytes.len() <= cuda::messages::MESSAGE_BYTES_MAX)
}
