//! Packages to files.
//!
//! Invariants: owners, times, setuid bits and device nodes of a package are not taken over; files become 0644 or 0755,
//! folders 0755. Nothing is written outside the target, through no link that leads out of it. Only the package's files
//! are read, never its scripts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

/// Why a package was not unpacked.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum UnpackError {
    #[error("start dpkg-deb, which opens packages; install the Debian package dpkg")]
    Start(#[source] io::Error),
    #[error("unpack {}", package.display())]
    Read {
        package: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: {inside} leads out of the target", package.display())]
    Outside { package: PathBuf, inside: String },
    #[error("{}: dpkg-deb found the package damaged", package.display())]
    Damaged { package: PathBuf },
}

/// Unpacks the files of `package` (a `.deb`) below `target`, those whose path `keep` agrees to: a path without a slash
/// in front, such as `usr/bin/kmod`. Folders are made when something is in them, or when `keep` agrees to their path
/// with a slash behind.
pub fn unpack(package: &Path, target: &Path, keep: &mut dyn FnMut(&str) -> bool) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Read { package: package.to_owned(), source };
    let mut opener = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(UnpackError::Start)?;
    let pipe = opener.stdout.take().expect("it was asked for");
    let read = entries(package, tar::Archive::new(pipe), target, keep);
    let ended = opener.wait().map_err(failed)?;
    read?;
    match ended.success() {
        true => Ok(()),
        false => Err(UnpackError::Damaged { package: package.to_owned() }),
    }
}

fn entries(
    package: &Path,
    mut archive: tar::Archive<impl io::Read>,
    target: &Path,
    keep: &mut dyn FnMut(&str) -> bool,
) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Read { package: package.to_owned(), source };
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?.into_owned();
        let inside = plain(&path)
            .ok_or_else(|| UnpackError::Outside { package: package.to_owned(), inside: path.display().to_string() })?;
        let kind = entry.header().entry_type();
        let asked = if kind.is_dir() { format!("{inside}/") } else { inside.clone() };
        if inside.is_empty() || !keep(&asked) {
            continue;
        }
        let place = target.join(&inside);
        if !leads_inside(target, &place) {
            return Err(UnpackError::Outside { package: package.to_owned(), inside });
        }
        if kind.is_dir() {
            fs::create_dir_all(&place).map_err(failed)?;
            continue;
        }
        fs::create_dir_all(place.parent().unwrap_or(target)).map_err(failed)?;
        if place.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            fs::remove_file(&place).map_err(failed)?;
        }
        match kind {
            tar::EntryType::Regular => {
                let is_program = entry.header().mode().map_err(failed)? & 0o111 != 0;
                let mut file = File::create(&place).map_err(failed)?;
                io::copy(&mut entry, &mut file).map_err(failed)?;
                let mode = if is_program { 0o755 } else { 0o644 };
                file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
            }
            tar::EntryType::Symlink => {
                let to = entry.link_name().map_err(failed)?.unwrap_or_default();
                symlink(to, &place).map_err(failed)?;
            }
            tar::EntryType::Link => {
                let to = entry.link_name().map_err(failed)?.unwrap_or_default();
                let to = plain(&to).map(|to| target.join(to)).filter(|to| leads_inside(target, to));
                let to = to.ok_or(UnpackError::Outside { package: package.to_owned(), inside })?;
                // The other name may have been left out; then this one is, too.
                if to.exists() {
                    fs::hard_link(to, &place).map_err(failed)?;
                }
            }
            // Devices and pipes: none of our packages has one that counts.
            _ => {}
        }
    }
    Ok(())
}

/// `./usr/bin/x` as `usr/bin/x`; none if it goes up.
fn plain(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// Whether the folder that `place` goes into is below `target` once its links are followed.
fn leads_inside(target: &Path, place: &Path) -> bool {
    let Ok(target) = target.canonicalize() else { return false };
    let mut folder = place.parent();
    while let Some(found) = folder {
        if let Ok(real) = found.canonicalize() {
            return real.starts_with(&target);
        }
        folder = found.parent();
    }
    false
}
