//! Runs a real TPM 2.0 emulator for tests: swtpm, with its own state, gone with the test.
//!
//! It owns the emulator's process and files. It never speaks the TPM's language: what a test asks goes over
//! [`Emulator::place`]. Needs Debian's `swtpm`, and `swtpm-tools` for [`Emulator::with_certificates`] and
//! [`Emulator::with_banks`]; `tests/setup.sh` installs both. Whatever goes wrong here is a test's panic.
//!
//! The emulator serves one connection at a time and waits for the next when one closes; objects that a connection left
//! in it are still there then, as in a chip without a resource manager.
//!
//! Read first: [`Emulator::start`].
#![forbid(unsafe_code)]

mod setup;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long the emulator may take until it answers: it starts in milliseconds, on a busy machine in seconds.
const START_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
/// Ends the emulator when this process lets go of the shell's input, however it ends: also by a kill. Ends itself where
/// there is no emulator.
const GUARD: &str =
    r#"trap "" INT HUP TERM; command -v "$1" || exit; "$@" & emulator=$!; read -r _; kill -9 "$emulator"; wait"#;

/// A TPM that runs, or that was switched off.
#[derive(Debug)]
pub struct Emulator {
    home: TempDir,
    guard: Option<Child>,
    roots: Vec<Vec<u8>>,
}

// === impl Emulator ===

impl Emulator {
    /// A TPM as it comes from its maker, but without certificates: with SHA-256 and other banks, no password set.
    pub fn start() -> Self {
        Self::run(home(), Vec::new())
    }

    /// A TPM with certificates of its endorsement keys, by a maker of its own: see [`Emulator::roots`].
    pub fn with_certificates() -> Self {
        let home = home();
        let roots = setup::certify(home.path());
        Self::run(home, roots)
    }

    /// A TPM that measures with these banks only, such as `sha384`. Several stand behind each other with commas.
    pub fn with_banks(banks: &str) -> Self {
        let home = home();
        setup::banks(home.path(), banks);
        Self::run(home, Vec::new())
    }

    /// Where it is: `unix:/…`.
    pub fn place(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// The socket that takes bare frames.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    /// The maker's certificates, DER: its root, then its issuer, which signed those of the endorsement keys and is not in
    /// the TPM. Empty without [`Emulator::with_certificates`].
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    /// Power off and on: measurements and what was loaded are gone; keys, counters and passwords stay. Also starts it
    /// again after [`Emulator::kill`].
    pub fn power_cycle(&mut self) {
        self.kill();
        self.guard = Some(launch(self.home.path()));
    }

    /// Power off: nothing answers.
    pub fn kill(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
        let _ = fs::remove_file(self.socket());
    }

    /// Another TPM with everything that lasts in this one: what a copied virtual machine has.
    pub fn copy_state(&self) -> Self {
        let home = home();
        for entry in fs::read_dir(state(self.home.path())).expect("the emulator's state") {
            let from = entry.expect("a file of the emulator's state").path();
            let name = from.file_name().expect("a file has a name").to_owned();
            if from.extension().is_some_and(|kind| kind == "permall") {
                fs::copy(&from, state(home.path()).join(name)).expect("copy the emulator's state");
            }
        }
        Self::run(home, self.roots.clone())
    }

    fn run(home: TempDir, roots: Vec<Vec<u8>>) -> Self {
        let guard = Some(launch(home.path()));
        Self { home, guard, roots }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.kill();
    }
}

fn home() -> TempDir {
    let home = tempfile::Builder::new().prefix("swtpm").tempdir().expect("a directory for the emulator");
    fs::create_dir(state(home.path())).expect("a directory for the emulator's state");
    home
}

fn state(home: &Path) -> PathBuf {
    home.join("state")
}

fn launch(home: &Path) -> Child {
    let path = |name: &str| home.join(name).display().to_string();
    let log = File::create(home.join("log")).expect("the emulator's log");
    let mut guard = Command::new("sh")
        .args(["-c", GUARD, "sh", "swtpm", "socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .args(["--server", &format!("type=unixio,path={}", path("socket"))])
        .args(["--ctrl", &format!("type=unixio,path={}", path("control"))])
        .args(["--tpmstate", &format!("dir={}", path("state"))])
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("the emulator's log"))
        .stderr(log)
        .spawn()
        .expect("start a shell");
    let deadline = Instant::now() + START_MAX;
    while UnixStream::connect(home.join("socket")).is_err() {
        if Instant::now() > deadline || guard.try_wait().is_ok_and(|ended| ended.is_some()) {
            drop(guard.stdin.take());
            let _ = guard.wait();
            let mut words = String::new();
            let _ = File::open(home.join("log")).and_then(|mut log| log.read_to_string(&mut words));
            panic!("swtpm did not start; Debian's packages swtpm and swtpm-tools have it: {words}");
        }
        std::thread::sleep(POLL);
    }
    guard
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// TPM2_GetRandom of 8 bytes.
    const GET_RANDOM: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8];

    fn answers(emulator: &Emulator) -> bool {
        let ask = || {
            let mut socket = UnixStream::connect(emulator.socket())?;
            socket.write_all(&GET_RANDOM)?;
            let mut answer = [0; 20];
            socket.read_exact(&mut answer)?;
            std::io::Result::Ok(answer)
        };
        ask().is_ok_and(|answer| answer[6..10] == [0; 4])
    }

    #[test]
    fn connection_after_connection_is_served() {
        let emulator = Emulator::start();
        assert!((0..5).all(|_| answers(&emulator)));
    }

    #[test]
    fn it_answers_again_after_a_power_cycle_and_not_after_a_kill() {
        let mut emulator = Emulator::start();
        emulator.power_cycle();
        assert!(answers(&emulator));
        emulator.kill();
        assert!(!answers(&emulator));
        emulator.power_cycle();
        assert!(answers(&emulator));
    }

    #[test]
    fn nothing_stays_behind() {
        let emulator = Emulator::start();
        let (home, place) = (emulator.home.path().to_owned(), emulator.socket());
        drop(emulator);
        assert!(!home.exists());
        assert!(UnixStream::connect(place).is_err());
    }

    #[test]
    fn a_maker_has_a_root_and_an_issuer() {
        let emulator = Emulator::with_certificates();
        assert!(answers(&emulator));
        assert_eq!(emulator.roots().iter().map(|root| root[0]).collect::<Vec<_>>(), [0x30, 0x30]);
    }
}
