//! The driver's modules before a real kernel's judge: Secure Boot on, lockdown, no GPU.
//!
//! A small image is made: the loader with the enrolment files, and a kernel image whose initrd is `rig-init` with the
//! driver's modules, once as they are shipped and three times as they must not be. A machine in setup mode takes the
//! keys, starts anew, and its kernel says which module it takes. With no GPU there, the driver ends with "no device",
//! which is as far as a module gets that the kernel believes.
//!
//! Invariants: nothing but `work` and the cache is written; the machine has no network and ends with the trial.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layout::verity::RootHash;
use thiserror::Error;

use super::{Driver, Module, NvidiaError, SignatureError, signed};
use crate::archive::Archive;
use crate::definition::{Definition, DefinitionError};
use crate::esp::{Fat, FatBuildError, boot_files};
use crate::file::{FileError, failed};
use crate::initrd;
use crate::keys::{Keys, KeysError, Pair, PairError};
use crate::modules::{Kernel, ModulesError};
use crate::uki::{self, UkiBuildError};
use crate::vm::{Firmware, Machine, VmError};
use crate::workshop::{Workshop, WorkshopError};

/// Room for the kernel image, whose initrd is the whole driver.
const DISK_BYTES: u64 = 128 << 20;

/// Two starts on an emulated processor, on a machine that is busy with others.
const WITHIN: Duration = Duration::from_secs(600);

/// What rig-init says when it has tried all modules, `rig-init: N modules`.
const DONE: &str = " modules";

/// What the kernel and rig-init must say, in any order, and what it means.
const EXPECTED: [(&str, &str); 5] = [
    ("Kernel is locked down from EFI Secure Boot", "Secure Boot is on and the kernel locked down"),
    ("module unsigned.ko cannot be loaded", "an unsigned module is refused"),
    ("module stranger.ko cannot be loaded", "a module with a stranger's signature is refused"),
    ("module changed.ko cannot be loaded", "a signed module with a changed bit is refused"),
    ("NVRM: No NVIDIA GPU found", "the driver runs, and looks for a GPU"),
];

/// What must not be said.
const UNEXPECTED: (&str, &str) = ("module nvidia.ko cannot be loaded", "the driver as it is shipped is refused");

/// What is tried, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// A flavour with this driver.
    pub definition: &'a Definition,
    /// Where packages come from.
    pub archive: &'a Archive,
    /// Where they and what is built of them are kept.
    pub cache: &'a Path,
    /// The vendor's keys.
    pub keys: &'a Path,
    /// `rig-init`, static.
    pub init: &'a Path,
    /// An empty folder.
    pub work: &'a Path,
}

/// Why the driver's modules are not shown to be good.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum TrialError {
    #[error("the flavour has no NVIDIA driver")]
    NoDriver,
    #[error("the driver")]
    Driver(#[from] NvidiaError),
    #[error("the definition")]
    Definition(#[from] DefinitionError),
    #[error("the workshop")]
    Workshop(#[from] WorkshopError),
    #[error("the kernel's modules")]
    Modules(#[from] ModulesError),
    #[error("the keys")]
    Keys(#[from] KeysError),
    #[error("the key for modules")]
    Pair(#[from] PairError),
    #[error("sign a module")]
    Sign(#[from] SignatureError),
    #[error("the kernel image")]
    Uki(#[from] UkiBuildError),
    #[error("the disk")]
    Fat(#[from] FatBuildError),
    #[error("the machine")]
    Machine(#[from] VmError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("it did not show that {0}")]
    Unshown(String),
    #[error("{}", UNEXPECTED.1)]
    Refused,
}

// === impl Trial ===

impl Trial<'_> {
    /// Runs it. Returns the lines of the console that decide. Takes half a minute of an idle processor.
    pub fn run(self, tell: &mut dyn FnMut(&str)) -> Result<Vec<String>, TrialError> {
        let disk = self.disk(tell)?;
        let firmware = Firmware::ovmf_with_secure_boot(&self.work.join("variables.fd"))?;
        let mut machine = Machine::new(&disk, firmware);
        // The loader enrols the keys and starts anew.
        machine.reboots = true;
        machine.log = Some(self.work.join("console.log"));
        tell("trying the modules in a machine with Secure Boot");
        let running = machine.start()?;
        let waited = running.wait_for("NVRM: No NVIDIA GPU found", WITHIN).and_then(|_| running.wait_for(DONE, WITHIN));
        let text = running.console().text();
        running.cut();
        match judge(&text) {
            Ok(lines) => Ok(lines),
            // The console says more than that something did not come.
            Err(error) => Err(waited.err().filter(|_| text.is_empty()).map_or(error, TrialError::from)),
        }
    }

    fn disk(self, tell: &mut dyn FnMut(&str)) -> Result<PathBuf, TrialError> {
        let Trial { definition, archive, cache, keys, work, .. } = self;
        let driver = Driver::of(definition)?.ok_or(TrialError::NoDriver)?;
        let lock = definition.lock()?;
        let workshop = Workshop::open(cache, &lock, "builder", archive)?;
        let kernel = Kernel::open(cache, definition.kernel(), &lock, archive, &workshop)?;
        let built = driver.modules(cache, &lock, archive, tell)?;
        let keys = Keys::open(keys)?;
        let read = |path: &Path| fs::read(path).map_err(failed("read", path));

        let folder = work.join("modules");
        let mut modules = Vec::new();
        for file in kernel.flat(&folder, &[], &["drm".to_owned()], &workshop)? {
            modules.push((file.clone(), read(&folder.join(file))?));
        }
        modules.extend(tries(&built, keys.module())?);
        let initrd = work.join("initrd.zst");
        let packed = initrd::pack(&read(self.init)?, &modules).map_err(failed("pack", &initrd))?;
        fs::write(&initrd, packed).map_err(failed("write", &initrd))?;

        let root: RootHash = "0".repeat(64).parse().expect("64 hex digits");
        let parts = uki::Parts {
            kernel: &kernel.image(),
            release: definition.kernel(),
            initrd: &initrd,
            os_release: "ID=rig\nIMAGE_ID=rig\nIMAGE_VERSION=0\nPRETTY_NAME=trial\n",
            version: "0",
            root: &root,
            command_line: "console=ttyS0,115200 ignore_loglevel panic=1",
            epoch: definition.epoch()?,
        };
        let image = read(&uki::make(&workshop, work, &parts, &keys)?)?;
        let loader = read(&uki::loader(&workshop, work, &keys)?)?;
        let files = boot_files(loader, ("EFI/Linux/rig_0.efi".to_owned(), image), &keys);
        let fat = Fat {
            file: "trial.fat",
            label: "RIG-TRIAL",
            bytes: DISK_BYTES,
            sector_bytes: 512,
            files,
            epoch: definition.epoch()?,
        };
        Ok(fat.make(&workshop, work)?)
    }
}

/// The last module three times as it must not be, then the first as it is shipped: what the first needs is the kernel's.
fn tries(built: &[Module], signer: &Pair) -> Result<Vec<(String, Vec<u8>)>, TrialError> {
    let (Some(first), Some(last)) = (built.first(), built.last()) else { return Err(TrialError::NoDriver) };
    let stranger = Pair::make("a stranger's module key")?;
    let mut changed = signed(&last.bytes, signer)?;
    let middle = last.bytes.len() / 2;
    changed[middle] ^= 1;
    let tries = [
        ("unsigned", last.bytes.clone()),
        ("stranger", signed(&last.bytes, &stranger)?),
        ("changed", changed),
        (first.name.as_str(), signed(&first.bytes, signer)?),
    ];
    Ok(tries.map(|(name, bytes)| (format!("{name}.ko"), bytes)).into())
}

/// The lines of `console` that show what must be shown.
fn judge(console: &str) -> Result<Vec<String>, TrialError> {
    if console.contains(UNEXPECTED.0) {
        return Err(TrialError::Refused);
    }
    let shown = |(words, meaning): (&str, &str)| {
        let line = console.lines().find(|line| line.contains(words)).map(|line| line.trim().to_owned());
        line.ok_or_else(|| TrialError::Unshown(meaning.to_owned()))
    };
    EXPECTED.into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_lacks_one_line_shows_nothing() {
        let all: Vec<String> = EXPECTED.iter().map(|(words, _)| format!("[    1.0] {words}: why\r\n")).collect();
        assert_eq!(judge(&all.concat()).expect("good").len(), EXPECTED.len());
        for (missing, (_, meaning)) in EXPECTED.iter().enumerate() {
            let mut some = all.clone();
            some.remove(missing);
            let refused = judge(&some.concat()).expect_err("one is missing").to_string();
            assert!(refused.contains(meaning), "{refused}");
        }
        let more = all.concat() + UNEXPECTED.0;
        assert!(matches!(judge(&more), Err(TrialError::Refused)));
    }

    #[test]
    fn what_is_tried_is_one_good_module_and_three_bad_ones() {
        let signer = Pair::make("test").expect("a key");
        let module = |name: &str| Module { name: name.to_owned(), bytes: name.repeat(100).into_bytes() };
        let built = [module("nvidia"), module("nvidia-uvm")];
        let tries = tries(&built, &signer).expect("modules");
        let names: Vec<&str> = tries.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["unsigned.ko", "stranger.ko", "changed.ko", "nvidia.ko"]);
        let good = |module: &Module| signed(&module.bytes, &signer).expect("a signature");
        assert_eq!(tries[3].1, good(&built[0]));
        assert!(tries[..3].iter().all(|(_, bytes)| *bytes != good(&built[1])));
    }
}
