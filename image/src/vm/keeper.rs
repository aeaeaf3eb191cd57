//! The processes of a machine, and the thread that keeps them.
//!
//! Invariants: both processes are started by one thread that lives as long as the handle. `setpriv` has the kernel kill
//! each of them when that thread ends, so they end even if this process is killed. QEMU ends before the TPM does.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::line::{Sockets, arguments};
use super::{Machine, VmError};

/// How long a program may take until it opens its socket: milliseconds, on a busy computer seconds.
const SOCKET_WITHIN: Duration = Duration::from_secs(30);

/// How long the TPM emulator may take to write its state and end.
const TPM_END_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks at something that is about to happen.
const POLL: Duration = Duration::from_millis(10);

/// How setpriv ends when there is no program of the name that it is to become.
const EXIT_NO_PROGRAM: i32 = 127;

/// Holds a machine's processes. Dropping it ends them, and waits until they have ended.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Dropping it is the word to end.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    dir: TempDir,
}

/// What was started.
struct Processes {
    qemu: Child,
    tpm: Option<Child>,
}

// === impl Keeper ===

impl Keeper {
    /// Starts the processes. Returns them with QEMU's standard output, which is the machine's serial port.
    pub(super) fn start(machine: Machine) -> Result<(Keeper, ChildStdout), VmError> {
        // A socket's path must be short, so the folder is the system's own and not one of the caller's.
        let dir = tempfile::Builder::new().prefix("rig-vm-").tempdir().map_err(VmError::Prepare)?;
        let (stop, stopped) = channel();
        let (tell, told) = sync_channel(1);
        let place = dir.path().to_owned();
        let thread = std::thread::Builder::new()
            .name("vm-keeper".to_owned())
            .spawn(move || match launch(&machine, &place) {
                Ok((processes, port)) => {
                    // If nobody listens any more, the handle is gone and `stopped` says so at once.
                    let _ = tell.send(Ok(port));
                    wait(&stopped);
                    processes.end();
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            })
            .map_err(VmError::Prepare)?;
        let keeper = Keeper { stop: Some(stop), thread: Some(thread), dir };
        let gone = || VmError::NotStarted { said: "its thread ended".to_owned() };
        let port = told.recv().map_err(|_| gone())??;
        Ok((keeper, port))
    }

    /// QEMU's control socket.
    pub(super) fn control(&self) -> PathBuf {
        control(self.dir.path())
    }

    /// What QEMU complained of.
    pub(super) fn complaints(&self) -> String {
        fs::read_to_string(self.dir.path().join("qemu.log")).unwrap_or_default()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// === impl Processes ===

impl Processes {
    fn end(mut self) {
        // Each of these can only say that it has ended already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let Some(mut tpm) = self.tpm else { return };
        if let Ok(pid) = i32::try_from(tpm.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let until = Instant::now() + TPM_END_WITHIN;
        while Instant::now() < until {
            match tpm.try_wait() {
                Ok(None) => std::thread::sleep(POLL),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        let _ = tpm.kill();
        let _ = tpm.wait();
    }
}

/// Until the handle is gone.
fn wait(stopped: &Receiver<()>) {
    while stopped.recv().is_ok() {}
}

fn control(dir: &Path) -> PathBuf {
    dir.join("qmp")
}

fn launch(machine: &Machine, dir: &Path) -> Result<(Processes, ChildStdout), VmError> {
    let socket = dir.join("tpm");
    let tpm = match &machine.tpm {
        Some(state) => Some(launch_tpm(state, dir, &socket)?),
        None => None,
    };
    let control = control(dir);
    let sockets = Sockets { control: &control, tpm: tpm.as_ref().map(|_| socket.as_path()) };
    let mut command = tied("qemu-system-x86_64");
    command.args(arguments(machine, &sockets)).stdout(Stdio::piped());
    let qemu = spawn(command, dir, "qemu")?;
    let mut processes = Processes { qemu, tpm };
    let Some(port) = processes.qemu.stdout.take() else {
        processes.end();
        return Err(VmError::Prepare(io::ErrorKind::BrokenPipe.into()));
    };
    match opens(&mut processes.qemu, &control, dir, "qemu") {
        Ok(()) => Ok((processes, port)),
        Err(said) => {
            processes.end();
            Err(said.of("qemu-system-x86_64", "qemu-system-x86"))
        }
    }
}

fn launch_tpm(state: &Path, dir: &Path, socket: &Path) -> Result<Child, VmError> {
    let mut command = tied("swtpm");
    command.args(["socket", "--tpm2", "--ctrl"]).arg(format!("type=unixio,path={}", socket.display()));
    command.arg("--tpmstate").arg(format!("dir={}", state.display()));
    command.stdout(Stdio::null());
    let mut tpm = spawn(command, dir, "tpm")?;
    // Looked for, not connected to: the emulator would take a connection for QEMU's.
    match opens(&mut tpm, socket, dir, "tpm") {
        Ok(()) => Ok(tpm),
        Err(said) => {
            let _ = tpm.kill();
            let _ = tpm.wait();
            Err(said.of("swtpm", "swtpm"))
        }
    }
}

/// A program that the kernel kills when the thread that starts it ends.
fn tied(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]).stdin(Stdio::null());
    command
}

fn spawn(mut command: Command, dir: &Path, name: &str) -> Result<Child, VmError> {
    let log = dir.join(format!("{name}.log"));
    command.stderr(File::create(&log).map_err(VmError::file("make", &log))?);
    command.spawn().map_err(|source| VmError::Program { program: "setpriv", package: "util-linux", source })
}

/// Why a program does not serve.
enum Silent {
    Missing,
    Said(String),
}

// === impl Silent ===

impl Silent {
    fn of(self, program: &'static str, package: &'static str) -> VmError {
        match self {
            Silent::Missing => VmError::Program { program, package, source: io::ErrorKind::NotFound.into() },
            Silent::Said(said) => VmError::NotStarted { said },
        }
    }
}

/// Waits until `child` has opened `socket`.
fn opens(child: &mut Child, socket: &Path, dir: &Path, name: &str) -> Result<(), Silent> {
    let said = || fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default().trim().to_owned();
    let until = Instant::now() + SOCKET_WITHIN;
    while !socket.exists() {
        match child.try_wait() {
            Ok(Some(status)) if status.code() == Some(EXIT_NO_PROGRAM) => return Err(Silent::Missing),
            Ok(Some(_)) | Err(_) => return Err(Silent::Said(said())),
            Ok(None) if Instant::now() > until => {
                return Err(Silent::Said(format!("no socket within {SOCKET_WITHIN:?}; {}", said())));
            }
            Ok(None) => std::thread::sleep(POLL),
        }
    }
    Ok(())
}

/// Connects to QEMU, which makes its socket a moment before it listens. Gives up when it `is_gone`.
pub(super) fn connect(socket: &Path, is_gone: impl Fn() -> bool) -> io::Result<UnixStream> {
    let until = Instant::now() + SOCKET_WITHIN;
    loop {
        match UnixStream::connect(socket) {
            Err(error) if Instant::now() > until || is_gone() => return Err(error),
            Err(_) => std::thread::sleep(POLL),
            Ok(stream) => return Ok(stream),
        }
    }
}
