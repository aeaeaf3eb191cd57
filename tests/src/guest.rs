//! A Linux of our own choice with cgroup v2, run by QEMU without KVM, for what this machine's kernel cannot show.
//!
//! Invariants: the guest has no network device; what it writes is forgotten when it ends, so every run begins from the
//! disks that `tests/setup.sh` made; it dies with the thread that runs it, however that ends. A run is good only if the
//! guest itself said how its job ended: a panic, a hang or a lost console is an error, never a status.
//!
//! The times are those of an emulated processor, several times those of a real one; only ratios may be compared.

mod payload;

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use image::vm::EMULATED_PROCESSOR;
use thiserror::Error;

pub use payload::{Payload, quoted};

/// As many as the machines have on which the tests must pass.
const PROCESSORS: &str = "2";

/// Memory of the guest. Jobs with limits of some hundred MiB must fit, and the host's other tests beside it.
const MEMORY_MIB: &str = "2048";

/// The root is on NVMe because that driver is part of the kernel, which spares an initial RAM disk. Mitigations are of
/// no use on an emulated processor. The kernel's words would tear the tests' lines apart, and a job's disk that goes is
/// an alert to it; a panic says all that it has to say at any level.
const KERNEL_PARAMETERS: &str = "root=/dev/nvme0n1 rootwait rw console=ttyS0 panic=-1 mitigations=off \
    random.trust_cpu=on cgroup_no_v1=all quiet loglevel=1";

/// How long a guest that has said its last word may take to power off.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(20);

/// How setpriv ends when there is no program of the name that it is to become.
const EXIT_NO_PROGRAM: i32 = 127;

/// What is kept of a console; a test that prints more has gone wrong, and its beginning says how.
const CONSOLE_BYTES_MAX: usize = 16 << 20;

/// How much of a console an error repeats.
const TAIL_BYTES: usize = 4096;

/// Lines that may wait to be shown.
const LINES_WAITING_MAX: usize = 1024;

/// The first word of a script's guest.
const BEGUN: &str = "guest: Linux";

/// What QEMU before 8.1 does to about one boot in ten with two processors: while the kernel rewrites its own code, the
/// other processor sees the breakpoint that stands there for a moment, and no trap that knows of it.
const STUMBLED: &str = "Oops: int3";

/// Boots of one run at most: three such faults in a row come once in a thousand.
const BOOTS_MAX: u32 = 3;

/// A guest that can be booted any number of times, each time with the same payload.
#[derive(Debug)]
pub struct Guest {
    disks: PathBuf,
    payload: Payload,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestRun {
    /// Exit status of the job; as in a shell, 128 and the signal's number if it was killed.
    pub status: i32,
    /// All that was printed, from the kernel's first word to the guest's last, without carriage returns.
    pub console: String,
    /// From the start of QEMU to its end.
    pub took: Duration,
}

/// Why there is no result.
#[derive(Debug, Error)]
pub enum GuestError {
    /// `tests/setup.sh` has not built the guest.
    #[error("there is no guest at {path}; run tests/setup.sh")]
    NoGuest {
        /// What is missing.
        path: PathBuf,
    },
    /// A program of `tests/setup.sh` could not be run.
    #[error("run {program}; tests/setup.sh installs it")]
    Program {
        /// Its name.
        program: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file for the payload could not be read, or its disk not be made.
    #[error("put {path} on the payload disk")]
    Payload {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// `mke2fs` refused.
    #[error("make the payload disk: {said}")]
    Disk {
        /// What it printed.
        said: String,
    },
    /// The guest ended without saying how its job ended.
    #[error("the guest ended without a result; its last words:\n{tail}")]
    NoResult {
        /// The end of the console.
        tail: String,
    },
    /// The kernel met a breakpoint of its own while it booted.
    #[error("the emulator made the guest's kernel stumble {BOOTS_MAX} times; its last words:\n{tail}")]
    Stumbled {
        /// The end of the console.
        tail: String,
    },
    /// The guest was killed at the deadline.
    #[error("the guest was not done within {deadline:?}; its last words:\n{tail}")]
    TimedOut {
        /// What was allowed.
        deadline: Duration,
        /// The end of the console.
        tail: String,
    },
    /// The console could not be shown, or a number for the run could not be drawn.
    #[error("follow the guest's console")]
    Console(#[source] io::Error),
}

// === impl Guest ===

impl Guest {
    /// A guest that has `files` (here, and where to find them inside: absolute paths), and runs `script` with `sh`.
    pub fn build_payload(files: &[(&Path, &str)], script: &str) -> Result<Guest, GuestError> {
        let disks = crate::sdk::target().join("guest");
        for name in ["vmlinuz", "root.ext4", "scratch.ext4"] {
            let path = disks.join(name);
            if !path.is_file() {
                return Err(GuestError::NoGuest { path });
            }
        }
        Ok(Guest { disks, payload: Payload::build(files, script)? })
    }

    /// Boots, runs the script, and waits until it is done, for at most `deadline`. Each line of the console goes to
    /// `show` as it is printed. A kernel that the emulator made stumble before the script began is booted again.
    pub fn run(&self, deadline: Duration, show: &mut dyn Write) -> Result<GuestRun, GuestError> {
        for _ in 1..BOOTS_MAX {
            match self.boot(deadline, show) {
                Err(GuestError::Stumbled { .. }) => {
                    writeln!(show, "guest: the emulator made the kernel stumble; booting again")
                        .map_err(GuestError::Console)?;
                }
                done => return done,
            }
        }
        self.boot(deadline, show)
    }

    fn boot(&self, deadline: Duration, show: &mut dyn Write) -> Result<GuestRun, GuestError> {
        let began = Instant::now();
        let word = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(GuestError::Console)?;
        let mut machine = Machine(self.start(word.trim())?);
        let lines = follow(&mut machine.0).map_err(GuestError::Console)?;
        let mut console = String::new();
        let mut status = None;
        let (mut has_begun, mut has_stumbled) = (false, false);
        loop {
            let until = if status.is_some() { began.elapsed() + POWER_OFF_TIMEOUT } else { deadline };
            let line = match lines.recv_timeout(until.saturating_sub(began.elapsed())) {
                Ok(line) => line,
                // Powered off, or having said all and not able to: both are killed below, and the first is dead.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if status.is_some() => break,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(GuestError::TimedOut { deadline, tail: tail(&console) });
                }
            };
            if let Some(said) = line.strip_prefix(word.trim()) {
                status = said.trim().parse().ok();
                continue;
            }
            writeln!(show, "{line}").map_err(GuestError::Console)?;
            has_begun |= line.starts_with(BEGUN);
            has_stumbled |= !has_begun && line.contains(STUMBLED);
            if console.len() + line.len() < CONSOLE_BYTES_MAX {
                console.push_str(&line);
                console.push('\n');
            }
        }
        let Some(status) = status else {
            let ended = machine.0.wait().map_err(GuestError::Console)?;
            return Err(match ended.code() {
                Some(EXIT_NO_PROGRAM) => {
                    let source = io::ErrorKind::NotFound.into();
                    GuestError::Program { program: "qemu-system-x86_64", source }
                }
                _ if has_stumbled => GuestError::Stumbled { tail: tail(&console) },
                _ => GuestError::NoResult { tail: tail(&console) },
            });
        };
        drop(machine);
        Ok(GuestRun { status, console, took: began.elapsed() })
    }

    fn start(&self, word: &str) -> Result<Child, GuestError> {
        // `snapshot=on`: writes go to a file without a name that is gone with QEMU.
        let drive = |id: &str, file: &Path, mode: &str| {
            format!(
                "if=none,id={id},file={},format=raw,cache=unsafe,{mode}",
                file.display().to_string().replace(',', ",,")
            )
        };
        let (root, scratch) = (self.disks.join("root.ext4"), self.disks.join("scratch.ext4"));
        let drives = [
            (drive("root", &root, "snapshot=on"), "nvme,drive=root,serial=root"),
            (drive("payload", self.payload.disk(), "readonly=on"), "virtio-blk-pci,drive=payload,serial=payload"),
            (drive("scratch", &scratch, "snapshot=on"), "virtio-blk-pci,drive=scratch,serial=scratch"),
        ];
        // setpriv lets QEMU die with this thread, even when nothing here can run any more.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]);
        command.args(["-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", EMULATED_PROCESSOR]);
        command.args(["-smp", PROCESSORS, "-m", MEMORY_MIB, "-serial", "stdio"]);
        command.arg("-kernel").arg(self.disks.join("vmlinuz"));
        command.arg("-append").arg(format!("{KERNEL_PARAMETERS} rig.end={word}"));
        for (drive, device) in &drives {
            command.args(["-drive", drive, "-device", device]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.spawn().map_err(|source| GuestError::Program { program: "setpriv", source })
    }
}

/// QEMU; it is killed and reaped when this is dropped.
#[derive(Debug)]
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both can only say that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of the console as they come, until it closes.
fn follow(machine: &mut Child) -> io::Result<Receiver<String>> {
    let console = machine.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (sender, lines) = sync_channel(LINES_WAITING_MAX);
    std::thread::Builder::new().name("guest-console".to_owned()).spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    })?;
    Ok(lines)
}

fn tail(console: &str) -> String {
    let from = console.ceil_char_boundary(console.len().saturating_sub(TAIL_BYTES));
    console[from..].to_owned()
}
