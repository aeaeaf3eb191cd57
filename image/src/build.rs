//! From a definition to the files that are published: every step in its order.
//!
//! ```text
//! packages    the lock's, from the cache or the mirror
//! programs    the rig's own, with cargo, or as found
//! root        packages less trims, overlay, programs, firmware, modules; checked
//! packed      root.erofs and its tree of hashes
//! initrd      rig-init and its modules
//! kernel      the kernel image, with the root's hash and the signed values of PCR 11; the loader
//! disk        partition table, boot and settings partition, slot A
//! published   packed disk, list of contents, manifest with its signature
//! ```
//! Invariants: everything is made in a folder beside the target, and the target is replaced only when all of it is
//! right; a build that fails leaves the last good one. The signatures apart, nothing of this machine gets in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use layout::entry::{EntryError, EntryName};
use layout::verity::RootHash;
use serde::Serialize;
use thiserror::Error;

use crate::archive::{Archive, ArchiveError};
use crate::coming::Coming;
use crate::definition::{Definition, DefinitionError};
use crate::disk::{self, DiskError};
use crate::erofs::{self, PackError};
use crate::esp::{Fat, FatBuildError, boot_files};
use crate::file::{FileError, failed};
use crate::initrd;
use crate::keys::{Keys, KeysError};
use crate::lock::{Lock, LockError, LockedPackage};
use crate::mirrors::Mirrors;
use crate::modules::{Kernel, ModulesError};
use crate::nvidia::{Driver, NvidiaError};
use crate::programs::{Programs, ProgramsError};
use crate::release_manifest::{About, ReadError, describe};
use crate::resolve::{ResolveError, resolve};
use crate::root::{self, CheckError, RootError};
use crate::sbom::{self, CratesError, SbomError};
use crate::sign::published;
use crate::uki::{self, UkiBuildError};
use crate::workshop::{Workshop, WorkshopError};

use self::clock::Clock;
pub use self::clock::Step;

mod clock;
mod place;
mod sizes;

/// The set with the tools.
const TOOLS: &str = "builder";

/// The repository's own files for the root.
const OVERLAY: &str = "image/root";

/// Below the definition: what a person finds on the settings partition.
const STICK: &str = "stick";

const MIB: u64 = 1 << 20;

/// What to build, and where.
#[derive(Clone, Debug)]
pub struct Order {
    /// The repository.
    pub repository: PathBuf,
    /// Such as `generic`.
    pub flavour: String,
    /// What the release is called.
    pub version: String,
    /// The folder to fill; what an earlier build left there is replaced.
    pub out: PathBuf,
    /// Packages, workshops and compiled programs are kept here.
    pub cache: PathBuf,
    /// Where packages come from.
    pub mirrors: Mirrors,
    /// Programs that are built already.
    pub programs: Option<PathBuf>,
    /// 512 or 4096.
    pub sector_bytes: u32,
    /// The keys' folder; keys for development are made there if it does not exist.
    pub keys: PathBuf,
    /// Whether to take the newest packages instead of the locked ones.
    pub renews: bool,
}

/// What was built.
#[derive(Clone, Debug, Serialize)]
pub struct Built {
    /// What the release is called.
    pub version: String,
    /// Its flavour.
    pub flavour: String,
    /// In hex.
    pub root_hash: String,
    /// Where everything is.
    pub out: PathBuf,
    /// The disk.
    pub raw: PathBuf,
    /// The steps in order.
    pub steps: Vec<Step>,
    /// Bytes of each file.
    pub files: BTreeMap<String, u64>,
    /// Bytes of each component of the root, before it is packed.
    pub root: BTreeMap<&'static str, u64>,
    /// Whether the keys were made for this build.
    pub has_new_keys: bool,
}

/// Why there is no image.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum BuildError {
    #[error("the definition")]
    Definition(#[from] DefinitionError),
    #[error("the packages")]
    Archive(#[from] ArchiveError),
    #[error("the lock")]
    Lock(#[from] LockError),
    #[error("renew the lock")]
    Resolve(#[from] ResolveError),
    #[error("the workshop")]
    Workshop(#[from] WorkshopError),
    #[error("the rig's programs")]
    Programs(#[from] ProgramsError),
    #[error("the root")]
    Root(#[from] RootError),
    #[error("the root is not fit to be published")]
    Check(#[from] CheckError),
    #[error("the kernel's modules")]
    Modules(#[from] ModulesError),
    #[error("the driver")]
    Driver(#[from] NvidiaError),
    #[error("the packed root")]
    Pack(#[from] PackError),
    #[error("the kernel image")]
    Uki(#[from] UkiBuildError),
    #[error("a partition")]
    Fat(#[from] FatBuildError),
    #[error("the disk")]
    Disk(#[from] DiskError),
    #[error("the keys")]
    Keys(#[from] KeysError),
    #[error("the list of contents")]
    Sbom(#[from] SbomError),
    #[error("the list of crates")]
    Crates(#[from] CratesError),
    #[error("the manifest")]
    Manifest(#[from] ReadError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{what} has {bytes} bytes, and its budget is {budget_mib} MiB; see [budgets] in the definition")]
    Budget { what: &'static str, bytes: u64, budget_mib: u64 },
    #[error("sectors of {0} bytes: disks have 512 or 4096")]
    Sectors(u32),
    #[error("the version {version:?} cannot be the name of a release")]
    Version {
        version: String,
        #[source]
        source: EntryError,
    },
    #[error(
        "{} holds {found}, which no build made and which this one would delete; name a folder that is new or empty",
        out.display()
    )]
    Occupied { out: PathBuf, found: String },
    #[error("another build fills {}; wait for it, or name another folder", out.display())]
    Busy { out: PathBuf },
}

/// Builds what `order` asks for; `tell` hears what is being done.
pub fn build(order: &Order, tell: &mut dyn FnMut(&str)) -> Result<Built, BuildError> {
    EntryName::good(&order.version).map_err(|source| BuildError::Version { version: order.version.clone(), source })?;
    if ![512, 4096].contains(&order.sector_bytes) {
        return Err(BuildError::Sectors(order.sector_bytes));
    }
    let definition = Definition::read(&order.repository, &order.flavour)?;
    place::check(&order.out, definition.name())?;
    let coming = Coming::now(&order.out)?.ok_or_else(|| BuildError::Busy { out: order.out.clone() })?;
    let built = Site { order, definition: &definition, work: coming.folder() }.build(tell)?;
    coming.arrive()?;
    Ok(built)
}

/// Where one build happens.
#[derive(Clone, Copy)]
struct Site<'a> {
    order: &'a Order,
    definition: &'a Definition,
    work: &'a Path,
}

// === impl Site ===

impl Site<'_> {
    fn build(self, tell: &mut dyn FnMut(&str)) -> Result<Built, BuildError> {
        let Site { order, definition, work } = self;
        let mut clock = Clock::new(tell);
        let epoch = definition.epoch()?;
        let has_new_keys = !order.keys.exists();
        if let Some(coming) = Coming::unless_there(&order.keys)? {
            // Whole or not at all: a build that was killed here would leave keys that no other can use.
            let made = coming.folder().join("made");
            Keys::make(&made, &[])?;
            coming.arrive_as(&made)?;
        }
        let keys = Keys::open(&order.keys)?;
        make_folder(&order.cache)?;
        make_folder(work)?;

        clock.begin("packages");
        let lock = self.lock()?;
        let archive = Archive::new(order.mirrors.clone(), &order.cache);
        let wanted: Vec<&LockedPackage> = self.sets().iter().filter_map(|set| lock.sets.get(set)).flatten().collect();
        archive.fetch_all(&wanted, &mut |left| clock.tell(&format!("{left} packages to fetch")))?;

        clock.begin("workshop");
        let workshop = Workshop::open(&order.cache, &lock, TOOLS, &archive)?;
        let kernel = Kernel::open(&order.cache, definition.kernel(), &lock, &archive, &workshop)?;

        clock.begin("programs");
        let programs = match &order.programs {
            Some(folder) => Programs::found(folder)?,
            None => Programs::build(&order.repository, &order.cache)?,
        };
        let programs = programs.stripped(&workshop, work)?;

        clock.begin("root");
        let tree = work.join("root");
        // The flavour's own go over those of all: `image/root-FLAVOUR`, where there is one.
        let mut overlays = vec![order.repository.join(OVERLAY)];
        overlays.extend(
            Some(order.repository.join(format!("{OVERLAY}-{}", order.flavour))).filter(|folder| folder.is_dir()),
        );
        let parts = root::Parts { definition, version: &order.version, overlays: &overlays, programs: &programs.root };
        root::make(&tree, parts, &lock, &archive)?;

        clock.begin("modules");
        if let Some(driver) = Driver::of(definition)? {
            let modules = driver.modules(&order.cache, &lock, &archive, &mut |what| clock.tell(what))?;
            driver.install(&tree, &modules, Some(keys.module()))?;
        }
        let names = definition.modules();
        kernel.install(&tree, &names.root, &workshop)?;
        root::index_libraries(&tree, &workshop)?;
        root::set_modes(&tree)?;

        clock.begin("check");
        root::check(&tree)?;
        let components = sizes::components(&tree).map_err(failed("measure", &tree))?;

        clock.begin("pack");
        let packed = erofs::pack(&workshop, &tree, work, definition.compression(), epoch)?;
        let budgets = definition.budgets();
        within("the packed root", &packed, budgets.root_mib)?;
        let (verity, hash) = erofs::hash(&workshop, work, &order.version)?;

        clock.begin("initrd");
        let initrd = self.initrd(&workshop, &kernel, &programs)?;
        within("the initrd", &initrd, budgets.initrd_mib)?;

        clock.begin("kernel");
        let image = uki::make(
            &workshop,
            work,
            &uki::Parts {
                kernel: &kernel.image(),
                release: definition.kernel(),
                initrd: &initrd,
                os_release: &root::os_release(definition, &order.version),
                version: &order.version,
                root: &hash,
                command_line: &definition.command_line(),
                epoch,
            },
            &keys,
        )?;
        within("the kernel image", &image, budgets.uki_mib)?;
        let loader = uki::loader(&workshop, work, &keys)?;

        clock.begin("disk");
        let esp = self.esp(&workshop, &loader, &image, &keys, epoch)?;
        let settings = self.settings(&workshop, epoch)?;
        let parts = disk::Parts {
            esp: &esp,
            settings: &settings,
            root: &packed,
            verity: &verity,
            hash: &hash,
            sector_bytes: order.sector_bytes,
        };
        let stem = format!("{}-{}-{}", definition.name(), order.version, definition.flavour());
        let raw = disk::make(&workshop, work, &format!("{stem}.raw"), &parts)?;

        clock.begin("download");
        let download = work.join(format!("{stem}.raw.zst"));
        disk::pack(&raw, &download)?;
        if budgets.download_mib > 0 {
            within("the download", &download, budgets.download_mib)?;
        }

        clock.begin("contents");
        let sbom = self.contents(&stem, &tree, &esp, &programs, &lock, &archive)?;

        clock.begin("manifest");
        self.publish(&stem, &raw, &download, &sbom, hash, &keys)?;
        let files = self.settle(&stem)?;
        let steps = clock.end();
        Ok(Built {
            version: order.version.clone(),
            flavour: order.flavour.clone(),
            root_hash: hash.to_string(),
            out: order.out.clone(),
            raw: order.out.join(format!("{stem}.raw")),
            steps,
            files,
            root: components,
            has_new_keys,
        })
    }

    /// The sets whose packages this build reads.
    fn sets(&self) -> Vec<String> {
        let mut sets: Vec<String> = self.definition.release_sets().into_keys().collect();
        if self.definition.firmware().is_empty() {
            sets.retain(|set| set != "firmware");
        }
        sets.extend(self.definition.takes().iter().map(|take| take.set.clone()));
        sets.sort();
        sets.dedup();
        sets
    }

    /// The committed lock, or with `renews` a new one, which is written beside the image.
    fn lock(&self) -> Result<Lock, BuildError> {
        let Site { order, definition, work } = self;
        if !order.renews {
            return Ok(definition.lock()?);
        }
        let mut sets = definition.release_sets();
        sets.extend(definition.flavour_sets());
        let lock = resolve(&order.mirrors, definition.debian(), &order.cache, &sets)?;
        let path = work.join("renewed.lock");
        fs::write(&path, lock.to_text()).map_err(failed("write", &path))?;
        Ok(lock)
    }

    fn initrd(&self, workshop: &Workshop, kernel: &Kernel, programs: &Programs) -> Result<PathBuf, BuildError> {
        let names = self.definition.modules();
        let folder = self.work.join("initrd");
        let order = kernel.flat(&folder, &names.watchdogs, &names.initrd, workshop)?;
        let read = |path: PathBuf| fs::read(&path).map_err(failed("read", &path));
        let mut modules = Vec::new();
        for file in order {
            let content = read(folder.join(&file))?;
            modules.push((file, content));
        }
        let path = self.work.join("initrd.zst");
        let packed = initrd::pack(&read(programs.init.clone())?, &modules).map_err(failed("pack", &path))?;
        fs::write(&path, packed).map_err(failed("write", &path))?;
        fs::remove_dir_all(&folder).map_err(failed("remove", &folder))?;
        Ok(path)
    }

    fn esp(
        &self,
        workshop: &Workshop,
        loader: &Path,
        image: &Path,
        keys: &Keys,
        epoch: u64,
    ) -> Result<PathBuf, BuildError> {
        let read = |path: &Path| fs::read(path).map_err(failed("read", path));
        let entry = format!("EFI/Linux/{}_{}.efi", self.definition.name(), self.order.version);
        let files = boot_files(read(loader)?, (entry, read(image)?), keys);
        let fat = Fat {
            file: "esp.fat",
            label: "RIG-ESP",
            bytes: layout::parts::ESP_BYTES,
            sector_bytes: self.order.sector_bytes,
            files,
            epoch,
        };
        Ok(fat.make(workshop, self.work)?)
    }

    fn settings(&self, workshop: &Workshop, epoch: u64) -> Result<PathBuf, BuildError> {
        let folder = self.definition.folder().join(STICK);
        let mut files = BTreeMap::new();
        for file in fs::read_dir(&folder).map_err(failed("read", &folder))? {
            let path = file.map_err(failed("read", &folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, fs::read(&path).map_err(failed("read", &path))?);
        }
        let fat = Fat {
            file: "settings.fat",
            label: layout::parts::SETTINGS_LABEL,
            bytes: layout::parts::SETTINGS_BYTES,
            sector_bytes: self.order.sector_bytes,
            files,
            epoch,
        };
        Ok(fat.make(workshop, self.work)?)
    }

    /// Writes what is in the image, file by file.
    fn contents(
        &self,
        stem: &str,
        tree: &Path,
        esp: &Path,
        programs: &Programs,
        lock: &Lock,
        archive: &Archive,
    ) -> Result<PathBuf, BuildError> {
        let epoch = self.definition.epoch()?;
        let mut packages = Vec::new();
        for set in self.sets() {
            if set != TOOLS {
                for package in lock.set(&set)? {
                    packages.push((package.clone(), archive.fetch(package)?));
                }
            }
        }
        let mut made = BTreeMap::new();
        for (package, program) in Programs::names() {
            let place = if program == programs.init_name() {
                "initrd/init".to_owned()
            } else {
                format!("root/usr/bin/{program}")
            };
            made.insert(place, package.to_owned());
        }
        let mut owners: Vec<&str> = made.values().map(String::as_str).collect();
        owners.sort_unstable();
        let crates = sbom::of_workspace(&self.order.repository, &owners)?;
        let mut items = sbom::walk("root", tree)?;
        let initrd = self.work.join("initrd.zst");
        let file = fs::File::open(&initrd).map_err(failed("open", &initrd))?;
        let archive = zstd::stream::decode_all(file).map_err(failed("unpack", &initrd))?;
        items.extend(sbom::walk_archive("initrd", &archive).map_err(failed("read", &initrd))?);
        let mut file = fs::File::open(esp).map_err(failed("open", esp))?;
        let boot = sbom::walk_fat("esp", &mut file).map_err(|error| failed("read", esp)(io::Error::other(error)))?;
        items.extend(boot);
        let about = sbom::About {
            version: &self.order.version,
            flavour: &self.order.flavour,
            epoch,
            packages: &packages,
            programs: &made,
            crates: &crates,
        };
        let path = self.work.join(format!("{stem}.spdx.json"));
        fs::write(&path, sbom::describe(&about, &items)?).map_err(failed("write", &path))?;
        Ok(path)
    }

    fn publish(
        &self,
        stem: &str,
        raw: &Path,
        download: &Path,
        sbom: &Path,
        hash: RootHash,
        keys: &Keys,
    ) -> Result<(), BuildError> {
        let Site { order, definition, work } = self;
        let about = About {
            version: order.version.clone(),
            flavour: order.flavour.clone(),
            sector_bytes: order.sector_bytes,
            root_hash: hash,
            kernel: definition.kernel().to_owned(),
            epoch: definition.epoch()?,
        };
        let mut parts: BTreeMap<String, PathBuf> = ["root.erofs", "root.verity", "uki.efi", "loader.efi", "initrd.zst"]
            .map(|name| (name.to_owned(), work.join(name)))
            .into();
        parts.insert("spdx.json".to_owned(), sbom.to_owned());
        parts.insert("raw.zst".to_owned(), download.to_owned());
        let (json, signature) = published(keys, &describe(about, raw, &parts)?);
        for (extension, bytes) in [("manifest.json", json), ("manifest.sig", signature)] {
            let path = work.join(format!("{stem}.{extension}"));
            fs::write(&path, bytes).map_err(failed("write", &path))?;
        }
        Ok(())
    }

    /// Keeps what is published, and throws away the rest.
    fn settle(&self, stem: &str) -> Result<BTreeMap<String, u64>, BuildError> {
        const PARTS: [&str; 6] = ["root.erofs", "root.verity", "roothash", "uki.efi", "initrd.zst", "loader.efi"];
        let work = self.work;
        let parts = work.join("parts");
        make_folder(&parts)?;
        for name in PARTS {
            fs::rename(work.join(name), parts.join(name)).map_err(failed("move", &work.join(name)))?;
        }
        for entry in fs::read_dir(work).map_err(failed("read", work))? {
            let path = entry.map_err(failed("read", work))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name == "parts" || name == "renewed.lock" || name.starts_with(stem) {
                continue;
            }
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(failed("remove", &path))?;
        }
        let mut files = BTreeMap::new();
        for folder in [work, parts.as_path()] {
            for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
                let path = entry.map_err(failed("read", folder))?.path();
                let bytes = path.metadata().map_err(failed("look at", &path))?.len();
                if path.is_file() {
                    files.insert(path.strip_prefix(work).unwrap_or(&path).display().to_string(), bytes);
                }
            }
        }
        Ok(files)
    }
}

fn make_folder(path: &Path) -> Result<(), BuildError> {
    Ok(fs::create_dir_all(path).map_err(failed("make", path))?)
}

fn within(what: &'static str, file: &Path, budget_mib: u64) -> Result<(), BuildError> {
    let bytes = file.metadata().map_err(failed("look at", file))?.len();
    match bytes > budget_mib * MIB {
        true => Err(BuildError::Budget { what, bytes, budget_mib }),
        false => Ok(()),
    }
}
