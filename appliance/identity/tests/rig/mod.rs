//! Machines and state directories for the tests of this crate.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use identity::{Address, KeyState, Options, Outcome, Wish};
use swtpm::Emulator;
use tempfile::TempDir;
use tpm::Tpm;

/// A rig's disk and the machine around it.
pub(crate) struct Rig {
    dir: TempDir,
    pub(crate) options: Options,
}

impl Rig {
    /// An empty state directory in machine `number`, which has four fields.
    pub(crate) fn new(number: u8) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (state, hardware) = (dir.path().join("state"), dir.path().join("machine"));
        machine(&hardware, number);
        let options =
            Options { state, tpm: None, hardware, wish: Wish::Auto, vendor: None, approvals: None, generation: 0 };
        Self { dir, options }
    }

    /// An empty state directory in machine `number` with this TPM.
    pub(crate) fn with_tpm(number: u8, emulator: &Emulator) -> Self {
        let mut rig = Self::new(number);
        rig.insert(emulator);
        rig
    }

    /// From now on this is the rig's TPM.
    pub(crate) fn insert(&mut self, emulator: &Emulator) {
        self.options.tpm = Some(emulator.place().parse().expect("a place"));
    }

    /// The same disk in another machine.
    pub(crate) fn moved_to(&mut self, number: u8) {
        fs::remove_dir_all(&self.options.hardware).expect("take the machine away");
        machine(&self.options.hardware, number);
    }

    /// One GPU is exchanged.
    pub(crate) fn with_another_gpu(&self, number: u8) {
        gpu(&self.options.hardware, number);
    }

    /// A copy of the disk in a machine of its own.
    pub(crate) fn cloned(&self, number: u8) -> Self {
        let mut clone = Self::new(number);
        let copied = Command::new("cp").arg("-a").arg(&self.options.state).arg(&clone.options.state).status();
        assert!(copied.expect("cp runs").success());
        clone.options =
            Options { state: clone.options.state, hardware: clone.options.hardware, ..self.options.clone() };
        clone
    }

    /// A file of the machine.
    pub(crate) fn machine(&self, path: &str) -> PathBuf {
        self.options.hardware.join(path)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.machine(path);
        fs::create_dir_all(path.parent().expect("below the machine")).expect("mkdir");
        fs::write(path, text).expect("write");
    }

    /// How long ago the machine started, in seconds.
    pub(crate) fn up_for(&self, seconds: u32) {
        self.write("proc/uptime", &format!("{seconds}.25 1.00\n"));
    }

    /// An NVIDIA GPU in slot `slot`, as PCI shows it: without a driver.
    pub(crate) fn with_slot(&self, slot: u8) {
        let device = format!("sys/bus/pci/devices/0000:{slot:02x}:00.0");
        self.write(&format!("{device}/vendor"), "0x10de\n");
        self.write(&format!("{device}/class"), "0x030000\n");
    }

    /// The driver has started the GPU in slot `slot`.
    pub(crate) fn with_driver(&self, slot: u8) {
        self.information(slot, &format!("GPU-5a3c1e92-7b40-4d6f-8e15-c2a9{slot:02x}d0f374"));
    }

    /// The driver knows the GPU in slot `slot` and has not started it.
    pub(crate) fn with_idle_driver(&self, slot: u8) {
        self.information(slot, "GPU-????????-????-????-????-????????????");
    }

    pub(crate) fn without_driver(&self) {
        fs::remove_dir_all(self.machine("proc/driver/nvidia")).expect("take the driver away");
    }

    fn information(&self, slot: u8, uuid: &str) {
        let text = format!("Model: \t\t A GPU\nGPU UUID: \t {uuid}\n");
        self.write(&format!("proc/driver/nvidia/gpus/0000:{slot:02x}:00.0/information"), &text);
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.options.state.join(name)
    }

    pub(crate) fn open(&self) -> Outcome {
        identity::open(&self.options).expect("a state is known")
    }

    /// Opens, and says what matters: who signs, in which state, in whose place.
    pub(crate) fn seen(&self) -> Seen {
        Seen::of(&self.open())
    }
}

/// Who signs, in which state, in whose place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) address: Option<Address>,
    pub(crate) tier: Option<identity::Tier>,
    pub(crate) state: KeyState,
    pub(crate) replaces: Option<Address>,
}

impl Seen {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        let active = outcome.active.as_ref();
        Self {
            address: active.map(|active| active.address),
            tier: active.map(|active| active.tier),
            state: outcome.state,
            replaces: outcome.replaces,
        }
    }
}

pub(crate) fn machine(root: &Path, number: u8) {
    let dmi = root.join("sys/class/dmi/id");
    fs::create_dir_all(&dmi).expect("mkdir");
    let write = |name: &str, text: String| fs::write(dmi.join(name), text).expect("write");
    write("product_uuid", format!("4c4c4544-0042-3510-8051-b4c04f5a{number:02x}32\n"));
    write("board_serial", format!("/7GX3Q{number:02X}/CNWS2009{number:02X}0B3K/\n"));
    write("product_serial", format!("PF3K9{number:02X}QX\n"));
    gpu(root, number);
}

fn gpu(root: &Path, number: u8) {
    let dir = root.join("proc/driver/nvidia/gpus/0000:01:00.0");
    fs::create_dir_all(&dir).expect("mkdir");
    let text = format!("Model: \t\t A GPU\nGPU UUID: \t GPU-5a3c1e92-7b40-4d6f-8e15-c2a9{number:02x}d0f374\n");
    fs::write(dir.join("information"), text).expect("write");
}

/// What a firmware's setup or another system does to a TPM, as bare commands with empty passwords.
pub(crate) mod firmware {
    use super::*;

    const LOCKOUT: u32 = 0x4000_000a;
    const PLATFORM: u32 = 0x4000_000c;
    const OWNER: u32 = 0x4000_0001;

    /// TPM2_Clear: what a firmware's setup calls "clear TPM".
    pub(crate) fn clear(emulator: &Emulator) {
        command(emulator, 0x126, PLATFORM, &[]);
    }

    /// TPM2_HierarchyChangeAuth: another system takes ownership.
    pub(crate) fn own(emulator: &Emulator) {
        command(emulator, 0x129, OWNER, &[0, 4, b'p', b'a', b's', b's']);
    }

    /// TPM2_DictionaryAttackParameters with no try allowed: the TPM is locked out.
    pub(crate) fn lock_out(emulator: &Emulator) {
        command(emulator, 0x13a, LOCKOUT, &[0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 0]);
    }

    /// TPM2_PCR_Allocate without SHA-256: holds from the next start.
    pub(crate) fn drop_sha256_bank(emulator: &Emulator) {
        let banks = [0, 0, 0, 2, 0, 0x0b, 3, 0, 0, 0, 0, 0x0c, 3, 0xff, 0xff, 0xff];
        command(emulator, 0x12b, PLATFORM, &banks);
    }

    /// Another program's storage root key in the place for one: of our template, but with zeros where ours is empty.
    pub(crate) fn persist_another_srk(emulator: &Emulator) {
        // TPM2_CreatePrimary: no secret, TPMT_PUBLIC, no outside information, no PCRs of creation.
        let mut public = vec![0, 0x23, 0, 0x0b, 0, 3, 4, 0x72, 0, 0, 0, 6, 0, 128, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10];
        for _ in 0..2 {
            public.extend([0, 32]);
            public.extend([0; 32]);
        }
        let length = u16::try_from(public.len()).expect("short").to_be_bytes();
        let parameters = [[0, 4, 0, 0, 0, 0].as_slice(), &length, &public, &[0; 6]].concat();
        let answer = command(emulator, 0x131, OWNER, &parameters);
        let handle: [u8; 4] = answer[10..14].try_into().expect("a handle");
        // TPM2_EvictControl of the object, with the owner's password.
        let mut frame = vec![0x80, 2, 0, 0, 0, 0, 0, 0, 1, 0x20, 0x40, 0, 0, 1];
        frame.extend(handle);
        frame.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, 0x81, 0, 0, 1]);
        frame[5] = u8::try_from(frame.len()).expect("short");
        let mut tpm = Tpm::open(&emulator.place().parse().expect("a place")).expect("it answers");
        let answer = tpm.exchange(&frame).expect("an answer");
        assert_eq!(answer[6..10], [0; 4], "{answer:02x?}");
        // TPM2_FlushContext.
        let flush = [[0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65].as_slice(), &handle].concat();
        tpm.exchange(&flush).expect("an answer");
    }

    fn command(emulator: &Emulator, code: u32, handle: u32, parameters: &[u8]) -> Vec<u8> {
        const PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
        let length = u32::try_from(14 + PASSWORD.len() + parameters.len()).expect("short");
        let frame = [
            [0x80, 2].as_slice(),
            &length.to_be_bytes(),
            &code.to_be_bytes(),
            &handle.to_be_bytes(),
            &PASSWORD,
            parameters,
        ];
        let mut tpm = Tpm::open(&emulator.place().parse().expect("a place")).expect("it answers");
        let answer = tpm.exchange(&frame.concat()).expect("an answer");
        assert_eq!(answer[6..10], [0; 4], "command {code:#x}: {answer:02x?}");
        answer
    }
}
