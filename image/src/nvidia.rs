//! The NVIDIA driver's kernel modules: built here, against one kernel, and signed.
//!
//! A flavour asks for them with `[driver]`, `name = "nvidia"`. Their sources come as a package, their build runs in a
//! workshop, and what is built is kept in the cache under a name that everything that went into it decides.
//!
//! Invariants: kernel and driver are a pair that somebody tried: where the definition, the lock or the built modules
//! disagree about it, nothing comes out. The same packages and patches give the same bytes, whatever the machine, its
//! folders and the number of its processors. Modules are kept unsigned; a signature is added when they are installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::archive::{Archive, ArchiveError};
use crate::coming::Coming;
use crate::definition::{Definition, DefinitionError};
use crate::file::{FileError, failed};
use crate::keys::Pair;
use crate::lock::{Lock, LockError, LockedPackage};
use crate::unpack::{UnpackError, unpack};
use crate::workshop::{Workshop, WorkshopError};

use self::patches::{Patch, PatchError};
pub use self::signature::{SignatureError, is_signed, signed};
pub use self::trial::{Trial, TrialError};

mod modinfo;
mod patches;
mod signature;
mod trial;

/// `name` in `[driver]`.
pub const NAME: &str = "nvidia";

/// Changes whenever the way of building does, so that old modules are not taken for new ones.
const GENERATION: u32 = 1;

/// Below `image/release`.
const PATCHES: &str = "patches/nvidia";

/// Where the package of sources has them, with the driver's version behind.
const SOURCES: &str = "usr/src/nvidia-current-open-";

/// Where the modules go in the root, below `usr/lib/modules/KERNEL`. depmod and modprobe look here before `kernel`.
const INSTALLED: &str = "updates";

/// `[driver]` of a flavour.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    version: String,
    for_kernel: String,
    modules: Vec<String>,
    workshop: Vec<String>,
    source: String,
}

/// A driver for a kernel, and what builds it.
#[derive(Clone, Debug)]
pub struct Driver {
    settings: Settings,
    patches: Vec<Patch>,
    epoch: u64,
}

/// A kernel module, unsigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// `nvidia-uvm`.
    pub name: String,
    /// The ELF file, without what debuggers need.
    pub bytes: Vec<u8>,
}

/// Why there is no driver.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum NvidiaError {
    #[error("[driver] is not right")]
    Settings(#[source] Box<toml::de::Error>),
    #[error("the definition")]
    Definition(#[from] DefinitionError),
    #[error(
        "the driver {version} is paired with kernel {paired}, and release.toml has kernel {kernel}: build the two together, \
         see that the modules load (tests/vm.sh), then set for-kernel"
    )]
    Pair { version: String, paired: String, kernel: String },
    #[error("the lock's {package} is of version {found}, and [driver] says {version}; change one of them")]
    Version { package: String, found: String, version: String },
    #[error("the patches")]
    Patch(#[from] PatchError),
    #[error("the driver's packages")]
    Lock(#[from] LockError),
    #[error("the driver's packages")]
    Archive(#[from] ArchiveError),
    #[error("the driver's sources")]
    Unpack(#[from] UnpackError),
    #[error("the driver's workshop")]
    Workshop(#[source] WorkshopError),
    #[error("{patch} does not apply to the driver {version}")]
    Apply {
        patch: String,
        version: String,
        #[source]
        source: Box<WorkshopError>,
    },
    #[error(
        "the driver {version} does not build for kernel {kernel}; the kernel may have changed under it, which takes a patch \
         in image/release/{PATCHES}"
    )]
    Build {
        version: String,
        kernel: String,
        #[source]
        source: Box<WorkshopError>,
    },
    #[error("the built {module} says {key} {found:?}, and should say {expected:?}")]
    Misfit { module: String, key: &'static str, found: String, expected: String },
    #[error("{module} cannot be signed")]
    Sign {
        module: String,
        #[source]
        source: SignatureError,
    },
    #[error(transparent)]
    File(#[from] FileError),
}

// === impl Driver ===

impl Driver {
    /// The driver that `definition` asks for, if it asks for this one.
    pub fn of(definition: &Definition) -> Result<Option<Driver>, NvidiaError> {
        let Some(table) = definition.driver() else { return Ok(None) };
        if table.get("name").and_then(toml::Value::as_str) != Some(NAME) {
            return Ok(None);
        }
        let mut table = table.clone();
        table.remove("name");
        let settings: Settings = table.try_into().map_err(|source| NvidiaError::Settings(Box::new(source)))?;
        if settings.for_kernel != definition.kernel() {
            let Settings { version, for_kernel: paired, .. } = settings;
            return Err(NvidiaError::Pair { version, paired, kernel: definition.kernel().to_owned() });
        }
        let folder = definition.folder().join(PATCHES);
        let patches = patches::chosen(&folder, &settings.version, &settings.for_kernel)?;
        Ok(Some(Driver { settings, patches, epoch: definition.epoch()? }))
    }

    /// The names of the patches that apply.
    pub fn patches(&self) -> Vec<&str> {
        self.patches.iter().map(|patch| patch.name.as_str()).collect()
    }

    /// The modules, from `cache` or built: some three minutes of two processors. `tell` is told what is done.
    pub fn modules(
        &self,
        cache: &Path,
        lock: &Lock,
        archive: &Archive,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Vec<Module>, NvidiaError> {
        let kept = cache.join(NAME).join(self.key(lock)?);
        if let Some(coming) = Coming::unless_there(&kept)? {
            let built = coming.folder().join("built");
            fs::create_dir(&built).map_err(failed("make", &built))?;
            self.build(coming.folder(), cache, lock, archive, tell)?;
            coming.arrive_as(&built)?;
        }
        let mut modules = Vec::new();
        for name in &self.settings.modules {
            let path = kept.join(format!("{name}.ko"));
            let bytes = fs::read(&path).map_err(failed("read", &path))?;
            modules.push(self.fitting(Module { name: name.clone(), bytes })?);
        }
        Ok(modules)
    }

    /// What decides the modules' bytes, as the name of a folder.
    fn key(&self, lock: &Lock) -> Result<String, NvidiaError> {
        let Settings { version, for_kernel, modules, workshop, source, .. } = &self.settings;
        let mut hash = Sha256::new();
        hash.update(format!("{GENERATION} {version} {for_kernel} {} {}\n", self.epoch, modules.join(" ")));
        for set in workshop.iter().chain([source]) {
            for LockedPackage { name, sha256, .. } in lock.set(set)? {
                hash.update(format!("{set} {name} {sha256}\n"));
            }
        }
        for patch in &self.patches {
            hash.update(format!("{} {}\n{}", patch.name, patch.text.len(), patch.text));
        }
        Ok(format!("{version}-{for_kernel}-{}", &hex::encode(hash.finalize())[..12]))
    }

    /// Builds below `work`; the modules are then in its folder `built`.
    fn build(
        &self,
        work: &Path,
        cache: &Path,
        lock: &Lock,
        archive: &Archive,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), NvidiaError> {
        let Settings { version, for_kernel, modules, workshop, source, .. } = &self.settings;
        let sets: Vec<&str> = workshop.iter().map(String::as_str).collect();
        let workshop = Workshop::open_with(cache, lock, &sets, archive).map_err(NvidiaError::Workshop)?;
        let sources = format!("{SOURCES}{version}/");
        for package in lock.set(source)? {
            if upstream(&package.version) != version {
                let (package, found) = (package.name.clone(), package.version.clone());
                return Err(NvidiaError::Version { package, found, version: version.clone() });
            }
            unpack(&archive.fetch(package)?, work, &mut |path| path.starts_with(&sources))?;
        }
        let src = work.join("src");
        fs::rename(work.join(&sources), &src).map_err(failed("move", &src))?;
        for patch in &self.patches {
            tell(&format!("{version}: {}", patch.name));
            let argv = ["patch", "--strip=1", "--fuzz=0", "--batch", "--directory=src"];
            workshop.run_with(work, &[], &argv, &[], patch.text.as_bytes()).map_err(|source| NvidiaError::Apply {
                patch: patch.name.clone(),
                version: version.clone(),
                source: Box::new(source),
            })?;
        }
        tell(&format!("{version}: building {} for {for_kernel}", modules.join(", ")));
        let (argv, environment) = (self.make(), environment(self.epoch));
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let environment: Vec<(&str, &str)> = environment.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let outcome = workshop.run(work, &argv, &environment);
        outcome.map_err(|source| NvidiaError::Build {
            version: version.clone(),
            kernel: for_kernel.clone(),
            source: Box::new(source),
        })?;
        for name in modules {
            let (from, to) = (format!("src/{name}.ko"), format!("built/{name}.ko"));
            let argv = ["strip", "--strip-debug", "-o", &to, &from];
            workshop.run(work, &argv, &[]).map_err(NvidiaError::Workshop)?;
        }
        Ok(())
    }

    /// What builds them. `/w/src` is mapped away, so that no byte depends on it.
    fn make(&self) -> Vec<String> {
        let Settings { for_kernel, modules, .. } = &self.settings;
        let base = for_kernel.rsplit_once('-').map_or(for_kernel.as_str(), |(base, _)| base);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        vec![
            "make".to_owned(),
            "--directory=src".to_owned(),
            format!("--jobs={processors}"),
            format!("KERNEL_UNAME={for_kernel}"),
            format!("SYSSRC=/usr/src/linux-headers-{base}-common"),
            format!("SYSOUT=/usr/src/linux-headers-{for_kernel}"),
            format!("NV_KERNEL_MODULES={}", modules.join(" ")),
            "KCFLAGS=-ffile-prefix-map=/w/src=.".to_owned(),
            "modules".to_owned(),
        ]
    }

    /// `module`, if it is of this driver and for this kernel.
    fn fitting(&self, module: Module) -> Result<Module, NvidiaError> {
        let Settings { version, for_kernel, .. } = &self.settings;
        for (key, expected) in [("version", version), ("vermagic", for_kernel)] {
            let found = modinfo::value(&module.bytes, key).unwrap_or_default();
            if found.split(' ').next() != Some(expected) {
                let (module, expected) = (module.name, expected.clone());
                return Err(NvidiaError::Misfit { module, key, found, expected });
            }
        }
        Ok(module)
    }

    /// Puts `modules` into the root, signed if there is a key. depmod must run afterwards. Returns the files' paths
    /// below the root.
    pub fn install(
        &self,
        root: &Path,
        modules: &[Module],
        signer: Option<&Pair>,
    ) -> Result<BTreeMap<String, PathBuf>, NvidiaError> {
        let folder = Path::new("usr/lib/modules").join(&self.settings.for_kernel).join(INSTALLED);
        fs::create_dir_all(root.join(&folder)).map_err(failed("make", &folder))?;
        let mut installed = BTreeMap::new();
        for Module { name, bytes } in modules {
            let file = folder.join(format!("{name}.ko"));
            let sign =
                |signer| signed(bytes, signer).map_err(|source| NvidiaError::Sign { module: name.clone(), source });
            let whole = signer.map(sign).transpose()?;
            fs::write(root.join(&file), whole.as_deref().unwrap_or(bytes)).map_err(failed("write", &file))?;
            installed.insert(name.clone(), file);
        }
        Ok(installed)
    }
}

/// What the kernel's build would else ask the machine for.
fn environment(epoch: u64) -> [(&'static str, String); 4] {
    [
        ("SOURCE_DATE_EPOCH", epoch.to_string()),
        ("KBUILD_BUILD_TIMESTAMP", format!("@{epoch}")),
        ("KBUILD_BUILD_USER", "rig".to_owned()),
        ("KBUILD_BUILD_HOST", "rig".to_owned()),
    ]
}

/// `1:550.163.01-2` without Debian's parts.
fn upstream(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.rsplit_once('-').map_or(version, |(upstream, _)| upstream)
}

#[cfg(test)]
mod tests;
