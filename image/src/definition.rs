//! What a release is: the files of `image/release/`, read and checked.
//!
//! ```text
//! release.toml    kernel, time, command line, budgets, sets of packages, sets of firmware
//! modules.toml    which kernel modules go where
//! trims.toml      what packages bring and the image leaves out
//! FLAVOUR.toml    what one flavour has besides
//! release.lock    the packages of release.toml, FLAVOUR.lock those of the flavour
//! stick/          what a person finds on the settings partition
//! ```
//! Invariants: an unknown key is refused; a name that one file uses is one that another defines. The definition and the
//! lock together, with the repository's own sources, decide every byte of the image but the signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::lock::{Lock, LockError};
use crate::resolve::Wanted;

/// The format of `release.toml`.
const FORMAT: u32 = 1;

/// Overrides the release's epoch, as reproducible-builds.org has it. Unix seconds.
pub const ENV_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Times that a file on a FAT volume can carry: 1980 to 2107.
const EPOCHS: RangeInclusive<u64> = 315_532_800..=4_354_819_199;

/// Where the definition is in the repository.
const FOLDER: &str = "image/release";

/// A whole definition: the release, and one flavour of it.
#[derive(Clone, Debug)]
pub struct Definition {
    folder: PathBuf,
    release: Release,
    flavour: Flavour,
    flavour_name: String,
    modules: ModuleNames,
    trims: Vec<Trim>,
}

/// `release.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Release {
    format: u32,
    name: String,
    debian: String,
    epoch: u64,
    kernel: String,
    compression: String,
    command_line: Vec<String>,
    budgets: Budgets,
    packages: BTreeMap<String, Wanted>,
    firmware: BTreeMap<String, Firmware>,
}

/// The build fails above these; MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Budgets {
    /// The packed root.
    #[serde(default)]
    pub root_mib: u64,
    /// The packed initrd.
    #[serde(default)]
    pub initrd_mib: u64,
    /// The kernel image that the firmware starts.
    #[serde(default)]
    pub uki_mib: u64,
    /// The packed disk, which a person downloads; 0 is no limit.
    #[serde(default)]
    pub download_mib: u64,
}

/// Firmware that a flavour may choose.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    /// For which devices.
    pub about: String,
    /// Patterns below `usr/lib/firmware`.
    pub files: Vec<String>,
}

/// `FLAVOUR.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Flavour {
    about: String,
    #[serde(default)]
    firmware: Vec<String>,
    #[serde(default)]
    modules: Vec<String>,
    #[serde(default)]
    command_line: Vec<String>,
    #[serde(default)]
    packages: BTreeMap<String, Wanted>,
    #[serde(default)]
    take: Vec<Take>,
    driver: Option<toml::Table>,
    #[serde(default)]
    budgets: Option<Budgets>,
}

/// Files of a set of packages that go into the root.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Take {
    /// A set of the flavour's or the release's.
    pub set: String,
    /// Patterns below the root.
    pub files: Vec<String>,
    /// Whether the trims hold for these files too.
    #[serde(default)]
    pub trimmed: bool,
}

/// `modules.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleNames {
    /// Loaded first in the initrd.
    pub watchdogs: Vec<String>,
    /// Loaded in the initrd.
    pub initrd: Vec<String>,
    /// In the root.
    pub root: Vec<String>,
}

/// One reason to leave something out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trim {
    /// The reason.
    pub why: String,
    /// Patterns below the root.
    pub paths: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trims {
    trim: Vec<Trim>,
}

/// Why there is no definition.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum DefinitionError {
    #[error("no {FOLDER}/release.toml here or in a folder above; run this in the repository, or name it with --source")]
    Nowhere,
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not right", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("release.toml has format {0}, and this program reads {FORMAT}")]
    Format(u32),
    #[error("there is no flavour {name:?}; there are: {have}")]
    Flavour { name: String, have: String },
    #[error("{whence}: {what}")]
    Refused { whence: String, what: String },
    #[error("{ENV_EPOCH} is {0:?}, and should be seconds since 1970, of a year from 1980 to 2107")]
    Epoch(String),
    #[error("the packages")]
    Lock(#[from] LockError),
}

// === impl Definition ===

impl Definition {
    /// The repository that `from` is in.
    pub fn repository(from: &Path) -> Result<PathBuf, DefinitionError> {
        let mut above = from.ancestors();
        let found = above.find(|folder| folder.join(FOLDER).join("release.toml").is_file());
        found.map(Path::to_owned).ok_or(DefinitionError::Nowhere)
    }

    /// The names of the flavours that `repository` defines, sorted.
    pub fn flavours(repository: &Path) -> Result<Vec<String>, DefinitionError> {
        let folder = repository.join(FOLDER);
        let failed = |source| DefinitionError::Read { path: folder.clone(), source };
        let mut names = BTreeSet::new();
        for file in fs::read_dir(&folder).map_err(failed)? {
            let name = file.map_err(failed)?.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".toml")) else { continue };
            if !["release", "modules", "trims"].contains(&name) {
                names.insert(name.to_owned());
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Reads the definition of `flavour` in `repository`.
    pub fn read(repository: &Path, flavour: &str) -> Result<Definition, DefinitionError> {
        let folder = repository.join(FOLDER);
        let have = Definition::flavours(repository)?;
        if !have.iter().any(|name| name == flavour) {
            return Err(DefinitionError::Flavour { name: flavour.to_owned(), have: have.join(", ") });
        }
        let release: Release = parsed(&folder.join("release.toml"))?;
        if release.format != FORMAT {
            return Err(DefinitionError::Format(release.format));
        }
        let definition = Definition {
            release,
            flavour: parsed(&folder.join(format!("{flavour}.toml")))?,
            flavour_name: flavour.to_owned(),
            modules: parsed(&folder.join("modules.toml"))?,
            trims: parsed::<Trims>(&folder.join("trims.toml"))?.trim,
            folder,
        };
        match definition.fault() {
            None => Ok(definition),
            Some((whence, what)) => Err(DefinitionError::Refused { whence, what }),
        }
    }

    fn fault(&self) -> Option<(String, String)> {
        let Release { kernel, debian, name, packages, firmware, .. } = &self.release;
        let plain =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b));
        for (key, value) in [("kernel", kernel), ("debian", debian), ("name", name)] {
            if !plain(value) {
                return Some(("release.toml".to_owned(), format!("{key} is {value:?}, which is no plain word")));
            }
        }
        if !EPOCHS.contains(&self.release.epoch) {
            let epoch = self.release.epoch;
            return Some(("release.toml".to_owned(), format!("epoch is {epoch}, which no file on FAT can carry")));
        }
        let whence = format!("{}.toml", self.flavour_name);
        let driver = self.flavour.driver.as_ref().map(|driver| driver.get("name").and_then(toml::Value::as_str));
        if let Some(name) = driver.filter(|name| *name != Some(crate::nvidia::NAME)) {
            return Some((
                whence,
                format!("[driver] is {:?}, and none of that name is known", name.unwrap_or_default()),
            ));
        }
        for chosen in &self.flavour.firmware {
            if !firmware.contains_key(chosen) {
                return Some((whence, format!("firmware {chosen:?} is not defined in release.toml")));
            }
        }
        for take in &self.flavour.take {
            if !packages.contains_key(&take.set) && !self.flavour.packages.contains_key(&take.set) {
                return Some((whence, format!("no packages are defined for the set {:?}", take.set)));
            }
        }
        if let Some(set) = self.flavour.packages.keys().find(|set| packages.contains_key(*set)) {
            return Some((whence, format!("the set {set:?} is already in release.toml")));
        }
        let mut words = self.release.command_line.iter().chain(&self.flavour.command_line);
        words
            .find(|word| word.is_empty() || word.contains(char::is_whitespace) || !word.is_ascii())
            .map(|word| ("command-line".to_owned(), format!("{word:?} is not one word of ASCII")))
    }

    /// `image/release`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `IMAGE_ID`.
    pub fn name(&self) -> &str {
        &self.release.name
    }

    /// The name of the flavour.
    pub fn flavour(&self) -> &str {
        &self.flavour_name
    }

    /// What the flavour is for.
    pub fn about(&self) -> &str {
        &self.flavour.about
    }

    /// Debian's release.
    pub fn debian(&self) -> &str {
        &self.release.debian
    }

    /// The kernel's release, such as `6.12.117+deb13-amd64`.
    pub fn kernel(&self) -> &str {
        &self.release.kernel
    }

    /// How `mkfs.erofs` packs.
    pub fn compression(&self) -> &str {
        &self.release.compression
    }

    /// The time of everything in the image, Unix seconds: [`ENV_EPOCH`], or else the release's own.
    pub fn epoch(&self) -> Result<u64, DefinitionError> {
        match std::env::var(ENV_EPOCH) {
            Ok(text) => {
                let epoch = text.parse().ok().filter(|epoch| EPOCHS.contains(epoch));
                epoch.ok_or(DefinitionError::Epoch(text))
            }
            Err(_) => Ok(self.release.epoch),
        }
    }

    /// The kernel's command line, but for the root hash and the version.
    pub fn command_line(&self) -> String {
        let words: Vec<&str> =
            self.release.command_line.iter().chain(&self.flavour.command_line).map(String::as_str).collect();
        words.join(" ")
    }

    /// The flavour's budgets over the release's.
    pub fn budgets(&self) -> Budgets {
        let ours = self.release.budgets;
        let Some(theirs) = self.flavour.budgets else { return ours };
        let over = |their: u64, our: u64| if their == 0 { our } else { their };
        Budgets {
            root_mib: over(theirs.root_mib, ours.root_mib),
            initrd_mib: over(theirs.initrd_mib, ours.initrd_mib),
            uki_mib: over(theirs.uki_mib, ours.uki_mib),
            download_mib: over(theirs.download_mib, ours.download_mib),
        }
    }

    /// The modules by name, the flavour's with the root's.
    pub fn modules(&self) -> ModuleNames {
        let mut names = self.modules.clone();
        names.root.extend(self.flavour.modules.iter().cloned());
        names
    }

    /// What is left out of the root.
    pub fn trims(&self) -> &[Trim] {
        &self.trims
    }

    /// Files of other sets that go into the root.
    pub fn takes(&self) -> &[Take] {
        &self.flavour.take
    }

    /// Patterns of the chosen firmware, below `usr/lib/firmware`.
    pub fn firmware(&self) -> Vec<String> {
        let chosen = self.flavour.firmware.iter().filter_map(|name| self.release.firmware.get(name));
        chosen.flat_map(|firmware| firmware.files.clone()).collect()
    }

    /// The settings of the flavour's driver, which the module named in them reads.
    pub fn driver(&self) -> Option<&toml::Table> {
        self.flavour.driver.as_ref()
    }

    /// The sets that `release.lock` locks.
    pub fn release_sets(&self) -> BTreeMap<String, Wanted> {
        self.release.packages.iter().map(|(set, wanted)| (set.clone(), self.filled(wanted))).collect()
    }

    /// The sets that the flavour's lock locks; none for most.
    pub fn flavour_sets(&self) -> BTreeMap<String, Wanted> {
        self.flavour.packages.iter().map(|(set, wanted)| (set.clone(), self.filled(wanted))).collect()
    }

    /// `{kernel}` in a package's name is the kernel's release, `{kernel-base}` the same without its last part, the kind.
    fn filled(&self, wanted: &Wanted) -> Wanted {
        let mut wanted = wanted.clone();
        for name in &mut wanted.install {
            let base = self.release.kernel.rsplit_once('-').map_or(self.release.kernel.as_str(), |(base, _)| base);
            *name = name.replace("{kernel}", &self.release.kernel).replace("{kernel-base}", base);
        }
        wanted
    }

    /// Where the release's lock is.
    pub fn release_lock(&self) -> PathBuf {
        self.folder.join("release.lock")
    }

    /// Where the flavour's lock is, if the flavour has sets of its own.
    pub fn flavour_lock(&self) -> Option<PathBuf> {
        (!self.flavour.packages.is_empty()).then(|| self.folder.join(format!("{}.lock", self.flavour_name)))
    }

    /// Reads the release's lock and the flavour's.
    pub fn lock(&self) -> Result<Lock, DefinitionError> {
        let lock = Lock::read(&self.release_lock())?;
        match self.flavour_lock() {
            Some(path) => Ok(lock.join(Lock::read(&path)?)?),
            None => Ok(lock),
        }
    }
}

fn parsed<T: DeserializeOwned>(path: &Path) -> Result<T, DefinitionError> {
    let text = fs::read_to_string(path).map_err(|source| DefinitionError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|source| DefinitionError::Parse { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests;
