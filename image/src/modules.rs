//! The kernel's modules: which there are, what each needs, and those that we take.
//!
//! Invariants: modules are unpacked and never stripped, because that would break their signature; order and content of
//! what is written depend on the kernel's package and the names alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::archive::{Archive, ArchiveError};
use crate::coming::Coming;
use crate::file::{FileError, failed};
use crate::lock::{Lock, LockError};
use crate::unpack::{UnpackError, unpack};
use crate::workshop::{Workshop, WorkshopError};

/// The set with the kernel.
const SET: &str = "kernel";

/// Where modules are, below a root.
const FOLDER: &str = "usr/lib/modules";

/// Compressed modules have this behind their name.
const PACKED: &str = ".xz";

/// Modules unpacked by one start of `xz`: a command line has its limit.
const AT_ONCE: usize = 200;

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its root: `boot/` and `usr/lib/modules/`.
    folder: PathBuf,
    release: String,
    /// By name, with `_` for `-`.
    modules: BTreeMap<String, Module>,
    builtin: BTreeSet<String>,
}

/// One module.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Module {
    /// Below `usr/lib/modules/RELEASE`.
    file: String,
    /// Names of modules to load before it.
    needs: Vec<String>,
}

/// Why modules are missing.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum ModulesError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the kernel's package")]
    Lock(#[from] LockError),
    #[error("the kernel's package")]
    Archive(#[from] ArchiveError),
    #[error("the kernel's package")]
    Unpack(#[from] UnpackError),
    #[error("the kernel's modules")]
    Workshop(#[from] WorkshopError),
    #[error("the kernel {release} has no modules called {names}; modules.toml or the flavour names them")]
    Unknown { release: String, names: String },
}

// === impl Kernel ===

impl Kernel {
    /// The kernel of `lock`, whose release is `release`; unpacked and indexed once, below `cache`.
    pub fn open(
        cache: &Path,
        release: &str,
        lock: &Lock,
        archive: &Archive,
        workshop: &Workshop,
    ) -> Result<Kernel, ModulesError> {
        let packages = lock.set(SET)?;
        let mut hash = Sha256::new();
        for package in packages {
            hash.update(&package.sha256);
        }
        let folder = cache.join("kernels").join(format!("{release}-{}", &hex::encode(hash.finalize())[..12]));
        if let Some(coming) = Coming::unless_there(&folder)? {
            let tree = coming.folder();
            crate::workshop::merge_usr(tree).map_err(failed("prepare", tree))?;
            for package in packages {
                unpack(&archive.fetch(package)?, tree, &mut |path| {
                    path.starts_with("boot/")
                        || path.starts_with("usr/lib/modules/")
                        || path.starts_with("lib/modules/")
                })?;
            }
            workshop.run(tree, &["depmod", "-a", "-b", "/w", release], &[])?;
            coming.arrive()?;
        }
        let read = |name: &str| {
            let path = folder.join(FOLDER).join(release).join(name);
            fs::read_to_string(&path).map_err(failed("read", &path))
        };
        let mut modules = dependencies(&read("modules.dep")?);
        soft(&read("modules.softdep")?, &aliases(&read("modules.alias")?), &mut modules);
        let builtin = read("modules.builtin")?.lines().map(name_of).collect();
        Ok(Kernel { folder, release: release.to_owned(), modules, builtin })
    }

    /// `vmlinuz`.
    pub fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// `names` and all they need, in an order in which they can be loaded. What is built in is left out.
    pub fn closure(&self, names: &[String]) -> Result<Vec<String>, ModulesError> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        let mut unknown = Vec::new();
        for name in names {
            let plain = plain_name(name);
            if self.modules.contains_key(&plain) {
                self.visit(&plain, &mut seen, &mut order);
            } else if !self.builtin.contains(&plain) {
                unknown.push(name.as_str());
            }
        }
        match unknown.is_empty() {
            true => Ok(order),
            false => Err(ModulesError::Unknown { release: self.release.clone(), names: unknown.join(", ") }),
        }
    }

    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        let Some(module) = self.modules.get(name) else { return };
        if !seen.insert(name.to_owned()) {
            return;
        }
        for need in &module.needs {
            self.visit(need, seen, order);
        }
        order.push(name.to_owned());
    }

    /// Writes the modules `names`, unpacked, below `to` at `FILE(module)`, which is a path.
    fn write(
        &self,
        names: &[String],
        to: &Path,
        workshop: &Workshop,
        place: impl Fn(&str, &Module) -> String,
    ) -> Result<(), ModulesError> {
        let mut packed = Vec::new();
        for name in names {
            let module = &self.modules[name];
            let from = self.folder.join(FOLDER).join(&self.release).join(&module.file);
            let inside = place(name, module);
            let is_packed = module.file.ends_with(PACKED);
            let target = to.join(if is_packed { format!("{inside}{PACKED}") } else { inside.clone() });
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder).map_err(failed("make", folder))?;
            }
            fs::copy(&from, &target).map_err(failed("copy", &from))?;
            if is_packed {
                packed.push(format!("{inside}{PACKED}"));
            }
        }
        for group in packed.chunks(AT_ONCE) {
            let files = group.iter().map(String::as_str);
            let command: Vec<&str> = ["xz", "-d", "-f"].into_iter().chain(files).collect();
            workshop.run(to, &command, &[])?;
        }
        Ok(())
    }

    /// Puts `names` and what they need into the root `root`, and the indexes that modprobe reads, over these and the
    /// modules that are there already. Returns how many were put there.
    pub fn install(&self, root: &Path, names: &[String], workshop: &Workshop) -> Result<usize, ModulesError> {
        let order = self.closure(names)?;
        let inside = format!("{FOLDER}/{}", self.release);
        self.write(&order, root, workshop, |_, module| format!("{inside}/{}", module.file.trim_end_matches(PACKED)))?;
        let folder = root.join(&inside);
        for index in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            let from = self.folder.join(&inside).join(index);
            fs::copy(&from, folder.join(index)).map_err(failed("copy", &from))?;
        }
        workshop.run(root, &["depmod", "-a", "-b", "/w", &self.release], &[])?;
        for index in ["modules.order", "modules.dep", "modules.alias", "modules.symbols", "modules.builtin.modinfo"] {
            // modprobe reads the binary forms.
            let path = folder.join(index);
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(order.len())
    }

    /// Writes `first`, then `then`, with what they need, as `NAME.ko` into the folder `to`. Returns the names of the
    /// files in the order in which to load them.
    pub fn flat(
        &self,
        to: &Path,
        first: &[String],
        then: &[String],
        workshop: &Workshop,
    ) -> Result<Vec<String>, ModulesError> {
        let order = self.closure(&[first, then].concat())?;
        fs::create_dir_all(to).map_err(failed("make", to))?;
        self.write(&order, to, workshop, |name, _| format!("{name}.ko"))?;
        Ok(order.into_iter().map(|name| format!("{name}.ko")).collect())
    }
}

/// Reads `modules.dep`: `FILE: FILE FILE`, what is needed behind the colon, the last one first.
fn dependencies(text: &str) -> BTreeMap<String, Module> {
    let entries = text.lines().filter_map(|line| {
        let (file, needs) = line.split_once(':')?;
        let needs = needs.split_whitespace().rev().map(name_of).collect();
        Some((name_of(file), Module { file: file.to_owned(), needs }))
    });
    entries.collect()
}

/// Reads `modules.alias`: `alias NAME MODULE`. Patterns for devices are left out.
fn aliases(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some("alias"), Some(name), Some(module)) = (words.next(), words.next(), words.next())
            && !name.contains(['*', ':'])
        {
            found.entry(plain_name(name)).or_default().insert(plain_name(module));
        }
    }
    found
}

/// Adds what `modules.softdep` wants loaded before: `softdep NAME pre: NAME NAME post: NAME`.
/// A NAME that no module has is an alias, and means all modules that have it: `crc32c` the plain and the fast ones.
fn soft(text: &str, aliases: &BTreeMap<String, BTreeSet<String>>, modules: &mut BTreeMap<String, Module>) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("softdep") {
            continue;
        }
        let Some(name) = words.next().map(plain_name) else { continue };
        let mut is_before = false;
        let mut before: Vec<String> = Vec::new();
        for word in words {
            match word {
                "pre:" => is_before = true,
                "post:" => is_before = false,
                word if is_before => match aliases.get(&plain_name(word)) {
                    Some(names) if !modules.contains_key(&plain_name(word)) => before.extend(names.iter().cloned()),
                    _ => before.push(plain_name(word)),
                },
                _ => {}
            }
        }
        before.retain(|before| modules.contains_key(before) && *before != name);
        if let Some(module) = modules.get_mut(&name) {
            module.needs.extend(before);
        }
    }
}

/// `kernel/fs/nls/nls_cp437.ko.xz` as `nls_cp437`.
fn name_of(file: &str) -> String {
    let name = file.rsplit_once('/').map_or(file, |(_, name)| name);
    plain_name(name.split_once(".ko").map_or(name, |(name, _)| name))
}

fn plain_name(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Kernel {
        let mut modules = dependencies(
            "kernel/a/dm-verity.ko.xz: kernel/a/dm-bufio.ko.xz kernel/a/dm-mod.ko.xz\nkernel/a/dm-bufio.ko.xz: kernel/a/dm-mod.ko.xz\n\
             kernel/a/dm-mod.ko.xz:\nkernel/b/uas.ko: kernel/b/core.ko\nkernel/b/core.ko: kernel/b/uas.ko\nkernel/c/crc-fast.ko:\n\
             kernel/c/crc_plain.ko:\n",
        );
        let aliases = aliases("# words\nalias crc crc-fast\nalias crc crc_plain\nalias pci:v1* uas\nalias x\n");
        let text = "# words\nsoftdep uas pre: dm-mod crypto-x crc post: dm-verity\nsoftdep none pre: uas\nsoftdep\n";
        soft(text, &aliases, &mut modules);
        let builtin = BTreeSet::from(["tpm_crb".to_owned()]);
        Kernel { folder: PathBuf::new(), release: "6".to_owned(), modules, builtin }
    }

    #[test]
    fn what_is_needed_comes_before() {
        let check = |names: &[&str], expected: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(kernel().closure(&names).expect("all are known"), expected, "{names:?}");
        };
        check(&["dm-verity"], &["dm_mod", "dm_bufio", "dm_verity"]);
        check(&["dm_mod", "tpm-crb", "dm_verity"], &["dm_mod", "dm_bufio", "dm_verity"]);
        check(&["uas"], &["core", "dm_mod", "crc_fast", "crc_plain", "uas"]);
        check(&[], &[]);
    }

    #[test]
    fn names_that_no_module_has_are_all_told() {
        let names = ["x".to_owned(), "dm_mod".to_owned(), "y".to_owned()];
        let error = kernel().closure(&names).expect_err("two are unknown").to_string();
        assert!(error.contains("x, y"), "{error}");
    }
}
