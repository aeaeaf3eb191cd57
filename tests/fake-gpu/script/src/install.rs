//! Puts the two libraries where a loader finds them, under the names of the real ones, with a script.
//!
//! Invariants: each file is written beside its place and renamed, so a process that has the old one mapped keeps it
//! and the next one gets the new one: a test may install again while a rig runs. Every name in
//! [`Script::missing_symbols`] is gone from the libraries, or the call fails.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::script::{Script, ScriptError};
use crate::trailer;

/// The name that CUDA's loaders end with.
const CUDA_NAME: &str = "libcuda.so.1";
/// The name that NVML's loaders ask for.
const NVML_NAME: &str = "libnvidia-ml.so.1";
/// The name of the development link, which some loaders ask for first.
const NVML_LINK: &str = "libnvidia-ml.so";

/// The installed files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// `libcuda.so.1`.
    pub cuda: PathBuf,
    /// `libnvidia-ml.so.1`.
    pub nvml: PathBuf,
}

/// The libraries could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file could not be read or written.
    #[error("{path} cannot be read or written")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The script cannot be written.
    #[error("the script cannot be appended")]
    Script(#[source] ScriptError),
    /// Neither library exports the name that shall be missing.
    #[error("no library exports {0}, so it cannot be taken away; look at the spelling and its version suffix")]
    NoSuchSymbol(String),
}

/// A library that no build left near this program.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not near {program}; depend on it in the tests, or run `cargo build -p fake-cuda -p fake-nvml`")]
pub struct NotBuilt {
    name: String,
    program: String,
}

/// Copies the libraries into `dir` as `libcuda.so.1` and `libnvidia-ml.so.1` (and the link `libnvidia-ml.so`), each
/// with `script` behind it and without the script's missing symbols. `dir` exists; files of these names are replaced.
/// Errors: see [`InstallError`].
pub fn install(dir: &Path, cuda_so: &Path, nvml_so: &Path, script: &Script) -> Result<Installed, InstallError> {
    let mut cuda = load(cuda_so)?;
    let mut nvml = load(nvml_so)?;
    for symbol in &script.missing_symbols {
        if rename(&mut cuda, symbol) + rename(&mut nvml, symbol) == 0 {
            return Err(InstallError::NoSuchSymbol(symbol.clone()));
        }
    }
    let installed = Installed { cuda: dir.join(CUDA_NAME), nvml: dir.join(NVML_NAME) };
    place(&installed.cuda, &cuda, script)?;
    place(&installed.nvml, &nvml, script)?;
    let link = dir.join(NVML_LINK);
    match symlink(NVML_NAME, &link) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(failed(&link)(source)),
        Ok(()) | Err(_) => Ok(installed),
    }
}

/// The built library `name` (`"fake_cuda"` or `"fake_nvml"`): the newest of those in the directory of the running
/// program, the one above it and its `deps`, where cargo leaves them. A crate whose tests depend on `fake-cuda` and
/// `fake-nvml` has them there. Errors: there is none.
pub fn built(name: &str) -> Result<PathBuf, NotBuilt> {
    let file = format!("lib{name}.so");
    let program = std::env::current_exe().unwrap_or_default();
    let here = program.parent().unwrap_or(Path::new("/"));
    let candidates = [here.join(&file), here.join("..").join(&file), here.join("deps").join(&file)];
    let age = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    let newest = candidates.into_iter().filter(|path| path.is_file()).max_by_key(age);
    newest.ok_or_else(|| NotBuilt { name: file, program: program.display().to_string() })
}

fn load(path: &Path) -> Result<Vec<u8>, InstallError> {
    fs::read(path).map_err(failed(path))
}

fn place(path: &Path, library: &[u8], script: &Script) -> Result<(), InstallError> {
    let bytes = trailer::append(library, script).map_err(InstallError::Script)?;
    let fresh = path.with_extension("new");
    fs::write(&fresh, bytes).map_err(failed(&fresh))?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644)).map_err(failed(&fresh))?;
    fs::rename(&fresh, path).map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.display().to_string();
    move |source| InstallError::File { path, source }
}

/// Gives `symbol` another name of the same length wherever a string table holds it, and says how often it did.
/// The hash tables keep the old name's hash, so a lookup of either name finds no match.
fn rename(library: &mut [u8], symbol: &str) -> usize {
    let needle = [b"\0", symbol.as_bytes(), b"\0"].concat();
    let places: Vec<usize> = library
        .windows(needle.len())
        .enumerate()
        .filter(|(_, window)| *window == needle)
        .map(|(at, _)| at + 1)
        .collect();
    for at in &places {
        library[*at] = b'_';
    }
    places.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn libraries(dir: &Path) -> (PathBuf, PathBuf) {
        let (cuda, nvml) = (dir.join("libfake_cuda.so"), dir.join("libfake_nvml.so"));
        fs::write(&cuda, b"\0cuInit\0cuInit_v2\0").expect("written");
        fs::write(&nvml, b"\0nvmlInit_v2\0").expect("written");
        (cuda, nvml)
    }

    #[test]
    fn the_libraries_lie_under_their_real_names_with_the_script_behind_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cuda, nvml) = libraries(dir.path());
        let mut script = Script::default();
        for init in [0, 100] {
            script.cuda.init = init;
            let installed = install(dir.path(), &cuda, &nvml, &script).expect("installed");
            for path in [&installed.cuda, &installed.nvml, &dir.path().join(NVML_LINK)] {
                assert_eq!(trailer::read(path).expect("a script"), script, "{}", path.display());
            }
        }
    }

    #[test]
    fn a_missing_symbol_is_gone_and_its_neighbours_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cuda, nvml) = libraries(dir.path());
        let mut script = Script { missing_symbols: vec!["cuInit".to_owned()], ..Script::default() };
        let installed = install(dir.path(), &cuda, &nvml, &script).expect("installed");
        assert!(fs::read(installed.cuda).expect("readable").starts_with(b"\0_uInit\0cuInit_v2\0"));

        script.missing_symbols = vec!["cuInitt".to_owned()];
        let refused = install(dir.path(), &cuda, &nvml, &script).expect_err("no such name");
        assert!(refused.to_string().contains("cuInitt"), "{refused}");
    }
}
