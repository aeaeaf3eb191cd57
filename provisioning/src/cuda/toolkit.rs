//! Where the compiler and its headers are.
//!
//! A toolkit is a directory of any shape: an installation of CUDA (`lib64`, `include`), wheels that `pip install
//! --target` unpacked (`nvidia/cuda_nvrtc/lib`, `nvidia/cuda_runtime/include`, `nvidia/cu13/…`), a virtual environment
//! with such wheels. So it is not read by a table of layouts, but searched: the library by its name, header directories
//! by a header that each must hold. Directories are searched nearest first and in the order of their names, so that the
//! same tree always gives the same toolkit.

use std::collections::{BTreeSet, VecDeque};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::nvrtc::{Nvrtc, NvrtcError};

/// The environment variable that names the toolkit.
pub(crate) const ENV_TOOLKIT: &str = "RIG_CUDA_TOOLKIT";

/// The environment variable by which CUDA's own tools find an installation.
const ENV_CUDA_HOME: &str = "CUDA_HOME";

/// Where CUDA's installer puts it.
const USUAL: &str = "/usr/local/cuda";

/// What the loader may know it by: the name for developers, then the newest that this was tried with.
const LOADER_NAMES: [&str; 3] = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"];

/// How to get one without installing CUDA.
pub(crate) const INSTALL: &str = "pip install --target DIR nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12 \
    nvidia-cuda-cccl-cu12, then --toolkit DIR";

/// Each of CUDA's header directories holds one of these: the runtime's, CCCL's, and what `mma.h` includes, which comes
/// with the offline compiler (`nvidia-cuda-nvcc-cu12`).
const SIGNPOSTS: [&str; 3] = ["cuda_fp16.h", "nv/target", "crt/mma.h"];

/// From a virtual environment down to a library in a wheel are six steps.
const DEPTH_MAX: usize = 6;

/// A whole installation with its profilers has some thousand directories.
const DIRECTORIES_MAX: usize = 20_000;

/// A compiler that is open, and the headers that belong to it.
#[derive(Debug)]
pub(crate) struct Toolkit {
    pub(super) nvrtc: Nvrtc,
    includes: Vec<PathBuf>,
}

/// Why there is no compiler.
#[derive(Debug, Error)]
pub(crate) enum ToolkitError {
    #[error("no CUDA compiler: there is no libnvrtc.so below {}", .dir.display())]
    NotBelow { dir: PathBuf },
    #[error(
        "no CUDA compiler: neither ${ENV_TOOLKIT} nor ${ENV_CUDA_HOME} is set, {USUAL} has none, \
         and the loader finds no libnvrtc.so"
    )]
    Nowhere,
    #[error("search {} for a CUDA compiler", .dir.display())]
    Search {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("search for a CUDA compiler: more than {DIRECTORIES_MAX} directories below {}", .dir.display())]
    TooWide { dir: PathBuf },
    #[error(transparent)]
    Open(#[from] NvrtcError),
}

/// What a search found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    nvrtc: Option<PathBuf>,
    includes: Vec<PathBuf>,
}

// === impl Toolkit ===

impl Toolkit {
    /// Opens the compiler below `asked`; without that below `$CUDA_HOME`, below the usual place, or where the loader
    /// finds it.
    ///
    /// Errors: none is there, or the one that is there cannot be opened. One that is named and missing is an error, even
    /// if there is another: the user would not know which one it was.
    pub(crate) fn find(asked: Option<&Path>) -> Result<Toolkit, ToolkitError> {
        let home = env::var_os(ENV_CUDA_HOME).filter(|home| !home.is_empty()).map(PathBuf::from);
        if let Some(dir) = asked.map(Path::to_owned).or(home) {
            return Toolkit::below(&dir)?.ok_or(ToolkitError::NotBelow { dir });
        }
        if Path::new(USUAL).is_dir()
            && let Some(toolkit) = Toolkit::below(Path::new(USUAL))?
        {
            return Ok(toolkit);
        }
        let mut opened = LOADER_NAMES.iter().filter_map(|name| Nvrtc::open(OsStr::new(name), None).ok());
        let nvrtc = opened.next().ok_or(ToolkitError::Nowhere)?;
        // A distribution's package puts the headers where its C compiler looks.
        let includes = vec![PathBuf::from("/usr/include")];
        Ok(Toolkit { nvrtc, includes: includes.into_iter().filter(|dir| has_headers(dir)).collect() })
    }

    fn below(dir: &Path) -> Result<Option<Toolkit>, ToolkitError> {
        let found = search(dir)?;
        let Some(library) = found.nvrtc else { return Ok(None) };
        let nvrtc = Nvrtc::open(library.as_os_str(), builtins(&library).as_deref())?;
        Ok(Some(Toolkit { nvrtc, includes: found.includes }))
    }

    /// The version of CUDA that it belongs to.
    pub(crate) fn version(&self) -> Result<bundle::Version, ToolkitError> {
        let (major, minor) = self.nvrtc.version()?;
        Ok(bundle::Version { major, minor })
    }

    /// The options that lead the compiler to its headers.
    pub(super) fn include_options(&self) -> impl Iterator<Item = String> {
        self.includes.iter().map(|dir| format!("--include-path={}", dir.display()))
    }
}

/// Looks through `root`, nearest directories first, for the library and all header directories.
fn search(root: &Path) -> Result<Found, ToolkitError> {
    let fault = |source| ToolkitError::Search { dir: root.to_owned(), source };
    let mut found = Found::default();
    let mut includes = BTreeSet::new();
    // An installation reaches the same directory through several links.
    let mut seen = BTreeSet::new();
    // Absolute, so that the loader takes the library for a path and not for a name.
    let root = root.canonicalize().map_err(fault)?;
    let mut waiting = VecDeque::from([(root.clone(), 0)]);
    while let Some((dir, depth)) = waiting.pop_front() {
        let Ok(dir) = dir.canonicalize() else { continue };
        if !seen.insert(dir.clone()) {
            continue;
        }
        if seen.len() > DIRECTORIES_MAX {
            return Err(ToolkitError::TooWide { dir: root });
        }
        if has_headers(&dir) && includes.insert(dir.clone()) {
            found.includes.push(dir.clone());
        }
        // What cannot be listed belongs to somebody else, and is none of ours.
        let Ok(names) = names(&dir) else { continue };
        if found.nvrtc.is_none() {
            let library = names.iter().find(|name| is_library(name)).map(|name| dir.join(name));
            found.nvrtc = library.filter(|path| path.is_file());
        }
        if depth < DEPTH_MAX {
            let below = names.iter().map(|name| dir.join(name)).filter(|path| path.is_dir());
            waiting.extend(below.map(|path| (path, depth + 1)));
        }
    }
    Ok(found)
}

fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn has_headers(dir: &Path) -> bool {
    SIGNPOSTS.iter().any(|header| dir.join(header).is_file())
}

/// The library's other part, which lies beside it.
fn builtins(library: &Path) -> Option<PathBuf> {
    let dir = library.parent()?;
    names(dir).ok()?.into_iter().find(|name| is_named(name, "libnvrtc-builtins.so")).map(|name| dir.join(name))
}

/// `libnvrtc.so` and `libnvrtc.so.12`, but neither its other part nor the build for old systems, `libnvrtc.alt.so.12`.
fn is_library(name: &OsStr) -> bool {
    is_named(name, "libnvrtc.so")
}

/// Whether a file is the library `library`, with or without a version behind it.
fn is_named(name: &OsStr, library: &str) -> bool {
    let version = name.to_str().and_then(|name| name.strip_prefix(library));
    version.is_some_and(|version| version.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit()))
}

/// The toolkit that tests compile with.
#[cfg(test)]
pub(super) fn test_toolkit() -> PathBuf {
    let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cuda-toolkit");
    env::var_os(ENV_TOOLKIT).map_or(pinned, PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory can be made");
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("it has a parent")).expect("a directory can be made");
            fs::write(path, "").expect("a file can be written");
        }
        root
    }

    fn check(files: &[&str], library: Option<&str>, includes: &[&str]) {
        let root = tree(files);
        let found = search(root.path()).expect("it can be searched");
        let base = root.path().canonicalize().expect("it is there");
        let wanted = Found {
            nvrtc: library.map(|path| base.join(path)),
            includes: includes.iter().map(|path| base.join(path)).collect(),
        };
        assert_eq!(found, wanted, "{files:?}");
    }

    #[test]
    fn a_toolkit_of_any_layout_is_found() {
        check(
            &[
                "nvidia/cuda_nvrtc/lib/libnvrtc.alt.so.12",
                "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.8",
                "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
                "nvidia/cuda_runtime/include/cuda_fp16.h",
                "nvidia/cuda_cccl/include/nv/target",
                "nvidia/cuda_nvrtc/include/nvrtc.h",
            ],
            Some("nvidia/cuda_nvrtc/lib/libnvrtc.so.12"),
            &["nvidia/cuda_cccl/include", "nvidia/cuda_runtime/include"],
        );
        check(
            &[
                "nvidia/cu13/lib/libnvrtc.so.13",
                "nvidia/cu13/include/cuda_fp16.h",
                "nvidia/cu13/include/cccl/nv/target",
            ],
            Some("nvidia/cu13/lib/libnvrtc.so.13"),
            &["nvidia/cu13/include", "nvidia/cu13/include/cccl"],
        );
        check(
            &["lib64/libnvrtc.so", "lib64/libnvrtc.so.12.4.1", "include/cuda_fp16.h", "include/nv/target"],
            Some("lib64/libnvrtc.so"),
            &["include"],
        );
        check(&["lib64/libnvrtc.so.12.txt", "lib64/libnvrtc_static.a"], None, &[]);
    }

    #[test]
    fn the_compilers_other_part_is_the_one_beside_it() {
        let root = tree(&["libnvrtc-builtins.alt.so.13.0", "libnvrtc-builtins.so.13.0", "libnvrtc.so.13"]);
        let part = builtins(&root.path().join("libnvrtc.so.13"));
        assert_eq!(part, Some(root.path().join("libnvrtc-builtins.so.13.0")));
        assert_eq!(builtins(&tree(&["libnvrtc.so.13"]).path().join("libnvrtc.so.13")), None);
    }

    #[test]
    fn a_link_that_leads_back_ends_the_search() {
        let root = tree(&["targets/lib/libnvrtc.so.12"]);
        std::os::unix::fs::symlink(root.path(), root.path().join("targets/again")).expect("a link can be made");
        std::os::unix::fs::symlink("/nowhere", root.path().join("broken")).expect("a link can be made");
        let found = search(root.path()).expect("it can be searched");
        assert!(found.nvrtc.is_some_and(|path| path.ends_with("targets/lib/libnvrtc.so.12")));
    }

    #[test]
    fn a_directory_without_a_compiler_is_named() {
        let root = tree(&["include/cuda_fp16.h"]);
        let error = Toolkit::find(Some(root.path())).expect_err("there is no library");
        assert!(error.to_string().contains(root.path().to_str().expect("its name is text")), "{error}");
        let error = Toolkit::find(Some(Path::new("/nowhere"))).expect_err("there is no directory");
        assert!(error.to_string().contains("/nowhere"), "{error}");
    }
}
