//! The rig's own programs, built for the image.
//!
//! Invariants: no path of the machine that builds is in them, so that another folder gives the same bytes; they are built
//! with the repository's lock file; what is built is exactly what [`PROGRAMS`] and [`INIT`] name. The C compiler and the
//! linker are the machine's: the same bytes come from another machine with the same release of Debian.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use crate::file::{FileError, failed};
use crate::workshop::{Workshop, WorkshopError};

/// Crate and program, for the root.
const PROGRAMS: [(&str, &str); 6] = [
    ("appliance", "rig-provider"),
    ("black-box", "rig-black-box"),
    ("boot", "rig-boot"),
    ("cuda", "rig-cuda"),
    ("runner", "rig-runner"),
    ("signer", "rig-signer"),
];

/// Crate and program, for the initrd.
const INIT: (&str, &str) = ("initrd", "rig-init");

/// Named, so that cargo keeps what is for the target apart from build scripts: those are not static.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The profile of the initrd's program, in the workspace's manifest: small, and no unwinding.
const INIT_PROFILE: &str = "initrd";

/// How much of what the compiler complains about is kept.
const COMPLAINT_BYTES_MAX: usize = 4096;

/// Built or found programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// For the root.
    pub root: Vec<PathBuf>,
    /// For the initrd.
    pub init: PathBuf,
}

/// Why there are none.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum ProgramsError {
    #[error("start {program}")]
    Start {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("build the rig's programs: {0}")]
    Build(String),
    #[error("{} is missing; --programs names a folder with {wanted}", path.display())]
    Missing { path: PathBuf, wanted: String },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("strip the rig's programs")]
    Workshop(#[from] WorkshopError),
}

// === impl Programs ===

impl Programs {
    /// Crate and program of each.
    pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
        PROGRAMS.into_iter().chain([INIT])
    }

    /// The program of the initrd.
    pub fn init_name(&self) -> &'static str {
        INIT.1
    }

    /// The programs in `folder`, which somebody else has built.
    pub fn found(folder: &Path) -> Result<Programs, ProgramsError> {
        let wanted = || PROGRAMS.iter().chain([&INIT]).map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        let at = |name: &str| {
            let path = folder.join(name);
            if path.is_file() { Ok(path) } else { Err(ProgramsError::Missing { path, wanted: wanted() }) }
        };
        let root = PROGRAMS.iter().map(|(_, name)| at(name)).collect::<Result<_, _>>()?;
        Ok(Programs { root, init: at(INIT.1)? })
    }

    /// Builds them from `repository`, with cargo's own folder in `cache`.
    pub fn build(repository: &Path, cache: &Path) -> Result<Programs, ProgramsError> {
        let target = cache.join("programs");
        fs::create_dir_all(&target).map_err(failed("make", &target))?;
        let target = target.canonicalize().map_err(failed("find", &target))?;
        let mut arguments = vec!["--release", "--target", TARGET];
        for (package, program) in PROGRAMS {
            arguments.extend(["-p", package, "--bin", program]);
        }
        cargo(repository, &target, &arguments, &[])?;
        let init = ["--profile", INIT_PROFILE, "--target", TARGET, "-p", INIT.0, "--bin", INIT.1];
        cargo(
            repository,
            &target.join("static"),
            &init,
            &["-Ctarget-feature=+crt-static", "-Crelocation-model=static"],
        )?;
        let built = target.join(TARGET).join("release");
        Ok(Programs {
            root: PROGRAMS.iter().map(|(_, name)| built.join(name)).collect(),
            init: target.join("static").join(TARGET).join(INIT_PROFILE).join(INIT.1),
        })
    }

    /// Copies of them in `work`, with the workshop's strip over them.
    pub fn stripped(&self, workshop: &Workshop, work: &Path) -> Result<Programs, ProgramsError> {
        let folder = work.join("programs");
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        let mut names = Vec::new();
        let mut copy = |from: &PathBuf| {
            let name = from.file_name().unwrap_or_default();
            let to = folder.join(name);
            fs::copy(from, &to).map_err(failed("copy", from))?;
            names.push(name.to_string_lossy().into_owned());
            Ok::<PathBuf, ProgramsError>(to)
        };
        let root = self.root.iter().map(&mut copy).collect::<Result<_, _>>()?;
        let init = copy(&self.init)?;
        let mut command = vec!["strip", "--strip-all", "--enable-deterministic-archives"];
        command.extend(names.iter().map(String::as_str));
        workshop.run(&folder, &command, &[])?;
        Ok(Programs { root, init })
    }
}

/// Whether cargo keeps this variable: where its tools are and how it gets to a registry, but nothing that changes what it
/// makes.
fn is_kept(name: &str) -> bool {
    const KEPT: [&str; 8] =
        ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR"];
    const ON_THE_WAY: [&str; 4] = ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_SOURCE_"];
    KEPT.contains(&name)
        || name.to_ascii_lowercase().ends_with("_proxy")
        || ON_THE_WAY.iter().any(|start| name.starts_with(start))
}

/// Runs `cargo build`, and hides this machine's folders from what it makes.
fn cargo(repository: &Path, target: &Path, arguments: &[&str], more: &[&str]) -> Result<(), ProgramsError> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let asked = Command::new("rustc").args(["--print", "sysroot"]).current_dir(repository).output();
    let asked = asked.map_err(|source| ProgramsError::Start { program: "rustc", source })?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
    let mut hidden = vec![(repository.to_owned(), "/rig"), (sysroot, "/rust"), (target.to_owned(), "/target")];
    hidden.extend(home.map(|home| (home, "/cargo")));
    let mapped =
        |option: &str| hidden.iter().map(|(path, name)| format!("{option}={}={name}", path.display())).collect();
    let mut rust: Vec<String> = mapped("--remap-path-prefix");
    rust.extend(more.iter().map(|flag| (*flag).to_owned()));
    let c: Vec<String> = mapped("-ffile-prefix-map");
    let c = c.join(" ");
    let done = Command::new("cargo")
        .args(["build", "--locked", "--quiet"])
        .args(arguments)
        .current_dir(repository)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_kept)))
        .env("CARGO_ENCODED_RUSTFLAGS", rust.join("\u{1f}"))
        .env("CARGO_TARGET_DIR", target)
        .env("CFLAGS", &c)
        .env("CXXFLAGS", &c)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ProgramsError::Start { program: "cargo", source })?;
    if done.status.success() {
        return Ok(());
    }
    let tail = &done.stderr[done.stderr.len().saturating_sub(COMPLAINT_BYTES_MAX)..];
    Err(ProgramsError::Build(String::from_utf8_lossy(tail).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_builders_shell_changes_what_is_made() {
        for name in ["PATH", "CARGO_HOME", "https_proxy", "NO_PROXY", "CARGO_HTTP_CAINFO"] {
            assert!(is_kept(name), "{name}");
        }
        for name in ["CC", "CFLAGS", "LDFLAGS", "RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_PROFILE_RELEASE_LTO", "LD_PRELOAD"]
        {
            assert!(!is_kept(name), "{name}");
        }
    }
}
