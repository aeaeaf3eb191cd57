//! The root file system as a folder: packages, less what is trimmed, with the rig's own files and programs over them.
//!
//! Invariants: what is in it depends on the definition, the lock, the overlay and the programs alone; its files are 0644
//! or 0755 but for those in [`PRIVATE`]; [`check`] has looked at it before it is packed. Owners and times are set when it
//! is packed: all root's, all the release's epoch.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::archive::{Archive, ArchiveError};
use crate::definition::{Definition, DefinitionError, Trim};
use crate::file::{FileError, failed};
use crate::glob::is_match;
use crate::lock::{Lock, LockError};
use crate::unpack::{UnpackError, unpack};
use crate::workshop::{Workshop, WorkshopError, merge_usr};

mod check;
mod licences;

pub use self::check::{CheckError, Fault, check};

/// The set that makes the root.
const SET: &str = "root";

/// Where firmware is, below the root.
const FIRMWARE: &str = "usr/lib/firmware";

/// Folders that something is mounted on.
const MOUNT_POINTS: [&str; 9] = ["boot", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var"];

/// What only root may read, though nothing in it is secret. Everything else is 0644 or 0755.
const PRIVATE: [(&str, u32); 3] = [("etc/shadow", 0o600), ("etc/gshadow", 0o600), ("root", 0o700)];

/// The trusted certificate authorities, one file after the other.
const CA_BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// What a root is made of besides packages.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The definition.
    pub definition: &'a Definition,
    /// The release's name for itself, such as `0.1.0`.
    pub version: &'a str,
    /// Files that go over the packages', in order: the repository's `image/root`, and what a driver brings.
    pub overlays: &'a [PathBuf],
    /// The rig's programs by file; their names are kept.
    pub programs: &'a [PathBuf],
}

/// Why there is no root.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum RootError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the root's definition")]
    Definition(#[from] DefinitionError),
    #[error("the root's packages")]
    Lock(#[from] LockError),
    #[error("the root's packages")]
    Archive(#[from] ArchiveError),
    #[error("the root's packages")]
    Unpack(#[from] UnpackError),
    #[error("the root's libraries")]
    Workshop(#[from] WorkshopError),
    #[error("no certificate authorities came with the packages; is ca-certificates in the set {SET}?")]
    NoAuthorities,
    #[error("take {pattern} of the set {set}: no file is like that")]
    Idle { set: String, pattern: String },
    #[error("no firmware is like {0}")]
    NoFirmware(String),
    #[error("the overlay has {}, which is neither a file, a folder nor a link", .0.display())]
    Kind(PathBuf),
}

/// Makes the root in `root`, which must not be there yet.
pub fn make(root: &Path, parts: Parts<'_>, lock: &Lock, archive: &Archive) -> Result<(), RootError> {
    let Parts { definition, version, overlays, programs } = parts;
    fs::create_dir_all(root).map_err(failed("make", root))?;
    merge_usr(root).map_err(failed("prepare", root))?;
    for folder in MOUNT_POINTS {
        fs::create_dir_all(root.join(folder)).map_err(failed("make", root))?;
    }
    let trims = definition.trims();
    let mut licences = licences::Licences::default();
    let mut authorities = Vec::new();
    for package in lock.set(SET)? {
        let deb = archive.fetch(package)?;
        unpack(&deb, root, &mut |path| {
            // Folders come with what is in them, so that what was trimmed leaves none behind.
            !path.ends_with('/') && (is_kept_back(path) || !is_trimmed(trims, path))
        })?;
        licences.gather(root, package).map_err(failed("gather licences in", root))?;
        gather_authorities(root, &mut authorities).map_err(failed("gather certificates in", root))?;
    }
    take(root, definition, lock, archive, &mut licences)?;
    firmware(root, definition, lock, archive)?;
    for overlay in overlays {
        copy_over(overlay, root)?;
    }
    let bin = root.join("usr/bin");
    for program in programs {
        let to = bin.join(program.file_name().unwrap_or_default());
        fs::copy(program, &to).map_err(failed("copy", program))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).map_err(failed("set the mode of", &to))?;
    }
    if authorities.is_empty() {
        return Err(RootError::NoAuthorities);
    }
    authorities.sort();
    write(root, CA_BUNDLE, authorities.concat().as_bytes())?;
    write(root, "usr/lib/os-release", os_release(definition, version).as_bytes())?;
    link(root, "etc/os-release", "../usr/lib/os-release")?;
    licences.write(root).map_err(failed("write licences in", root))?;
    prune(root, root).map_err(failed("tidy", root))?;
    Ok(())
}

/// Gives folders 0755 and files 0755 or 0644, but for those in [`PRIVATE`]: what was made with the umask of whoever
/// builds would else be in the image. Call it when nothing more is written. Setuid and the like stay, for [`check`] to find.
pub fn set_modes(root: &Path) -> Result<(), RootError> {
    set_folder_modes(root).map_err(failed("set the modes in", root))?;
    for (path, mode) in PRIVATE {
        let path = root.join(path);
        if path.exists() {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", &path))?;
        }
    }
    Ok(())
}

fn set_folder_modes(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
        let kind = entry?;
        if kind.is_dir() {
            set_folder_modes(&path)?;
        } else if kind.is_file() {
            let before = path.metadata()?.permissions().mode();
            let mode = if before & 0o111 == 0 { 0o644 } else { 0o755 };
            fs::set_permissions(&path, fs::Permissions::from_mode(before & 0o7000 | mode))?;
        }
    }
    Ok(())
}

/// Makes the loader's cache of libraries, so that programs find them at once.
pub fn index_libraries(root: &Path, workshop: &Workshop) -> Result<(), RootError> {
    workshop.run(root, &["ldconfig", "-r", "/w", "-X"], &[])?;
    let cache = root.join("var/cache");
    if cache.exists() {
        fs::remove_dir_all(&cache).map_err(failed("remove", &cache))?;
    }
    Ok(())
}

/// What the build itself wants of a package, and removes afterwards.
fn is_kept_back(path: &str) -> bool {
    is_match("usr/share/doc/*/copyright", path)
        || is_match("usr/share/common-licenses/*", path)
        || is_match("usr/share/ca-certificates/**.crt", path)
}

fn is_trimmed(trims: &[Trim], path: &str) -> bool {
    trims.iter().flat_map(|trim| &trim.paths).any(|pattern| is_match(pattern, path))
}

/// Moves the certificates of `ca-certificates` out of the root.
fn gather_authorities(root: &Path, found: &mut Vec<String>) -> io::Result<()> {
    let folder = root.join("usr/share/ca-certificates");
    if !folder.exists() {
        return Ok(());
    }
    for vendor in fs::read_dir(&folder)? {
        for certificate in fs::read_dir(vendor?.path())? {
            let text = fs::read_to_string(certificate?.path())?;
            found.push(format!("{}\n", text.trim_end()));
        }
    }
    fs::remove_dir_all(folder)
}

/// The flavour's files of other sets.
fn take(
    root: &Path,
    definition: &Definition,
    lock: &Lock,
    archive: &Archive,
    licences: &mut licences::Licences,
) -> Result<(), RootError> {
    for take in definition.takes() {
        let mut used = vec![false; take.files.len()];
        for package in lock.set(&take.set)? {
            unpack(&archive.fetch(package)?, root, &mut |path| {
                if take.trimmed && is_trimmed(definition.trims(), path) {
                    return false;
                }
                let mut is_wanted = false;
                for (pattern, used) in take.files.iter().zip(&mut used) {
                    if is_match(pattern, path) {
                        (*used, is_wanted) = (true, true);
                    }
                }
                !path.ends_with('/') && (is_wanted || is_match("usr/share/doc/*/copyright", path))
            })?;
            licences.gather(root, package).map_err(failed("gather licences in", root))?;
        }
        if let Some((pattern, _)) = take.files.iter().zip(used).find(|(_, used)| !used) {
            return Err(RootError::Idle { set: take.set.clone(), pattern: pattern.clone() });
        }
    }
    Ok(())
}

/// The firmware that the flavour chose.
fn firmware(root: &Path, definition: &Definition, lock: &Lock, archive: &Archive) -> Result<(), RootError> {
    let patterns: Vec<String> =
        definition.firmware().into_iter().map(|pattern| format!("{FIRMWARE}/{pattern}")).collect();
    if patterns.is_empty() {
        return Ok(());
    }
    let mut used = vec![false; patterns.len()];
    for package in lock.set("firmware")? {
        unpack(&archive.fetch(package)?, root, &mut |path| {
            let mut is_wanted = false;
            for (pattern, used) in patterns.iter().zip(&mut used) {
                if is_match(pattern, path) && !path.ends_with('/') {
                    (*used, is_wanted) = (true, true);
                }
            }
            is_wanted
        })?;
    }
    match patterns.into_iter().zip(used).find(|(_, used)| !used) {
        Some((pattern, _)) => Err(RootError::NoFirmware(pattern)),
        None => Ok(()),
    }
}

/// Copies the tree `from` over `to`: folders 0755, programs in `usr/bin` 0755, all else 0644, links as they are.
pub fn copy_over(from: &Path, to: &Path) -> Result<(), RootError> {
    for entry in fs::read_dir(from).map_err(failed("read", from))? {
        let entry = entry.map_err(failed("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(failed("look at", &source))?;
        let there = target.symlink_metadata().ok();
        if kind.is_dir() {
            if there.is_some_and(|found| !found.is_dir() && !target.is_dir()) {
                fs::remove_file(&target).map_err(failed("replace", &target))?;
            }
            fs::create_dir_all(&target).map_err(failed("make", &target))?;
            copy_over(&source, &target)?;
            continue;
        }
        match there {
            Some(found) if found.is_dir() => fs::remove_dir_all(&target).map_err(failed("replace", &target))?,
            Some(_) => fs::remove_file(&target).map_err(failed("replace", &target))?,
            None => {}
        }
        if kind.is_symlink() {
            let points_to = fs::read_link(&source).map_err(failed("read", &source))?;
            symlink(points_to, &target).map_err(failed("make", &target))?;
        } else if kind.is_file() {
            fs::copy(&source, &target).map_err(failed("copy", &source))?;
            let mode = if target.parent().is_some_and(|folder| folder.ends_with("usr/bin")) { 0o755 } else { 0o644 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))
                .map_err(failed("set the mode of", &target))?;
        } else {
            return Err(RootError::Kind(source));
        }
    }
    Ok(())
}

/// What `os-release` says. systemd-boot sorts by `IMAGE_ID` and `IMAGE_VERSION`.
pub(crate) fn os_release(definition: &Definition, version: &str) -> String {
    let (name, flavour) = (definition.name(), definition.flavour());
    format!(
        "NAME=\"{name}\"\nPRETTY_NAME=\"{name} {version}\"\nID={name}\nID_LIKE=debian\nVERSION_ID={version}\n\
         VARIANT_ID={flavour}\nIMAGE_ID={name}\nIMAGE_VERSION={version}\n"
    )
}

fn write(root: &Path, inside: &str, content: &[u8]) -> Result<(), RootError> {
    let path = root.join(inside);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("make", folder))?;
    }
    if path.symlink_metadata().is_ok() {
        fs::remove_file(&path).map_err(failed("replace", &path))?;
    }
    Ok(fs::write(&path, content).map_err(failed("write", &path))?)
}

fn link(root: &Path, inside: &str, to: &str) -> Result<(), RootError> {
    let path = root.join(inside);
    if path.symlink_metadata().is_ok() {
        fs::remove_file(&path).map_err(failed("replace", &path))?;
    }
    Ok(symlink(to, &path).map_err(failed("make", &path))?)
}

/// Removes folders that hold nothing, but for those that something is mounted on.
fn prune(root: &Path, folder: &Path) -> io::Result<bool> {
    let mut is_empty = true;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        is_empty &= entry.file_type()?.is_dir() && prune(root, &entry.path())?;
    }
    let is_mount_point = folder == root || MOUNT_POINTS.iter().any(|name| folder == root.join(name));
    if is_empty && !is_mount_point {
        fs::remove_dir(folder)?;
        return Ok(true);
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
