//! A machine of QEMU's without a loader: kernel and first root are handed to it, disks are ours.
//!
//! It dies with the value that runs it. Its end is waited for by what it says, with one deadline for all.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::disk::Disk;
use crate::kernel;
use crate::parts;

/// An emulated processor on a busy machine: a start takes ten seconds to a minute, a wait of the guest's comes on top.
const DEADLINE: Duration = Duration::from_secs(400);

/// What QEMU 7.2 emulates without faults; two processors, and `cx16`, it does not.
const PROCESSOR: &str = "max,cx16=off,la57=off";

/// The kernel's words are wanted; nothing of the processor's time for what an emulated one does not need.
const WORDS: &str = "ro rootfstype=erofs console=ttyS0 panic=-1 oops=panic mitigations=off random.trust_cpu=on";

/// One guest at a time: each takes a processor.
static TURN: Mutex<()> = Mutex::new(());

/// How a disk is connected.
#[derive(Clone, Copy)]
pub(crate) enum Bus {
    Virtio,
    VirtioLarge,
    Usb,
    Nvme,
    NvmeLarge,
    Ahci,
    Card,
}

/// A machine to be started.
pub(crate) struct Guest {
    work: TempDir,
    devices: Vec<String>,
    words: String,
    extra: Vec<(&'static str, &'static str)>,
    has_tpm: bool,
    disks: usize,
}

/// What a machine said until it ended.
pub(crate) struct Run {
    console: String,
    after_hang: Duration,
}

/// A program that ends with its test.
struct Running(Child);

// === impl Guest ===

impl Guest {
    pub(crate) fn new() -> Guest {
        Guest::without_root_hash().words(&format!("roothash={}", parts::root_hash()))
    }

    pub(crate) fn without_root_hash() -> Guest {
        let work = TempDir::new().expect("a folder for the guest");
        Guest { work, devices: Vec::new(), words: WORDS.to_owned(), extra: Vec::new(), has_tpm: false, disks: 0 }
    }

    pub(crate) fn disk(mut self, bus: Bus, disk: &Disk) -> Guest {
        let id = format!("d{}", self.disks);
        self.disks += 1;
        let path = self.path(&id);
        fs::write(&path, &disk.bytes).expect("there is room for a disk");
        self.device("-drive", &format!("if=none,id={id},format=raw,cache=unsafe,file={}", path.display()));
        let large = "logical_block_size=4096,physical_block_size=4096";
        match bus {
            Bus::Virtio => self.device("-device", &format!("virtio-blk-pci,drive={id}")),
            Bus::VirtioLarge => self.device("-device", &format!("virtio-blk-pci,drive={id},{large}")),
            Bus::Usb => {
                self.device("-device", "qemu-xhci");
                self.device("-device", &format!("usb-storage,drive={id}"));
            }
            Bus::Nvme => self.device("-device", &format!("nvme,serial={id},drive={id}")),
            Bus::NvmeLarge => self.device("-device", &format!("nvme,serial={id},drive={id},{large}")),
            Bus::Ahci => self.device("-device", &format!("ide-hd,bus=ide.0,drive={id}")),
            Bus::Card => {
                self.device("-device", "sdhci-pci");
                self.device("-device", &format!("sd-card,drive={id}"));
            }
        }
        self
    }

    /// What a loader leaves, and one thing that is not for us.
    pub(crate) fn extra(mut self) -> Guest {
        let sealed = [("tpm2-pcr-signature.json", "{\"sha256\":[]}"), ("tpm2-pcr-public-key.pem", "a key")];
        self.extra.extend(sealed);
        self.extra.push(("other", "not ours"));
        self
    }

    pub(crate) fn tpm(mut self) -> Guest {
        let socket = self.path("tpm.sock");
        self.device("-chardev", &format!("socket,id=tpm0,path={}", socket.display()));
        self.device("-tpmdev", "emulator,id=tpm0,chardev=tpm0");
        self.device("-device", "tpm-crb,tpmdev=tpm0");
        self.has_tpm = true;
        self
    }

    pub(crate) fn watchdog(mut self) -> Guest {
        self.device("-device", "i6300esb");
        self.device("-action", "watchdog=reset");
        self
    }

    pub(crate) fn words(mut self, words: &str) -> Guest {
        self.words = format!("{} {words}", self.words);
        self
    }

    /// Starts the machine and waits for its end; a restart ends it too.
    pub(crate) fn run(self) -> Run {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let initrd = self.path("initrd");
        fs::write(&initrd, kernel::initrd(&parts::parts().init, &self.extra))
            .expect("there is room for the first root");
        let _tpm = self.has_tpm.then(|| start_tpm(self.work.path()));
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-machine", "q35", "-accel", "tcg", "-cpu", PROCESSOR, "-smp", "1", "-m", "512"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        qemu.arg("-kernel").arg(&kernel::kernel().image).arg("-initrd").arg(&initrd);
        qemu.args(["-append", &self.words]).args(&self.devices);
        let child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("qemu-system-x86_64 is here");
        let run = Running(child).followed();
        if std::env::var_os("RIG_BOOT_SHOW").is_some() {
            println!("{}", run.console);
        }
        run
    }

    fn device(&mut self, option: &str, value: &str) {
        self.devices.extend([option.to_owned(), value.to_owned()]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }
}

/// A TPM as the machine's maker delivers it, but for its certificates.
fn start_tpm(work: &Path) -> Running {
    let state = work.join("tpm");
    fs::create_dir(&state).expect("a folder for the TPM");
    let (state, socket) = (format!("dir={}", state.display()), work.join("tpm.sock"));
    let mut setup = Command::new("swtpm_setup");
    setup.args(["--tpm2", "--pcr-banks", "sha256", "--overwrite", "--tpmstate"]).arg(&state[4..]);
    assert!(setup.stdout(Stdio::null()).status().expect("swtpm_setup is here").success(), "the TPM was not made");
    let mut swtpm = Command::new("swtpm");
    swtpm.args(["socket", "--tpm2", "--tpmstate", &state, "--ctrl"]);
    swtpm.arg(format!("type=unixio,path={}", socket.display())).stdin(Stdio::null());
    let running = Running(swtpm.spawn().expect("swtpm is here"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "swtpm does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    running
}

// === impl Running ===

impl Running {
    /// Reads until the machine ends.
    fn followed(mut self) -> Run {
        let mut output = self.0.stdout.take().expect("the output is ours");
        let reader = thread::spawn(move || {
            let (mut console, mut piece, mut hung) = (Vec::new(), [0; 4096], None);
            while let Ok(read @ 1..) = output.read(&mut piece) {
                console.extend_from_slice(&piece[..read]);
                if hung.is_none() && console.windows(14).any(|seen| seen == b"witness: hangs") {
                    hung = Some(Instant::now());
                }
            }
            let after_hang = hung.map_or(Duration::ZERO, |since| since.elapsed());
            Run { console: String::from_utf8_lossy(&console).replace('\r', ""), after_hang }
        });
        let deadline = Instant::now() + DEADLINE;
        while self.0.try_wait().expect("the guest can be asked").is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
        }
        let is_late = Instant::now() >= deadline;
        drop(self);
        let run = reader.join().expect("the console was read");
        assert!(!is_late, "the guest did not end; its console:\n{}", run.console);
        run
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// === impl Run ===

impl Run {
    #[track_caller]
    pub(crate) fn says(&self, words: &str) {
        assert!(self.console.contains(words), "the guest does not say {words:?}; its console:\n{}", self.console);
    }

    #[track_caller]
    pub(crate) fn never_says(&self, words: &str) {
        assert!(!self.console.contains(words), "the guest says {words:?}; its console:\n{}", self.console);
    }

    #[track_caller]
    pub(crate) fn says_in_order(&self, lines: &[&str]) {
        let mut rest = self.console.as_str();
        for words in lines {
            let at = rest.find(words);
            let at = at.unwrap_or_else(|| panic!("no {words:?} in its place; the console:\n{}", self.console));
            rest = &rest[at + words.len()..];
        }
    }

    /// From the system's hang to the machine's end.
    pub(crate) fn ended_after_hang(&self) -> Duration {
        self.after_hang
    }
}
