//! The tools of the build: a set of locked packages, unpacked, in which programs run.
//!
//! Invariants: a workshop's folder is named by the packages in it, and has that name only when it is whole; programs
//! in it see their own root, `/w` (the work folder of the caller), `/dev` and `/proc`, an environment that is the same
//! on every machine, and one time zone and language. No maintainer script runs: what matters of them is in [`finish`].

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::archive::{Archive, ArchiveError};
use crate::coming::Coming;
use crate::file::{FileError, failed};
use crate::lock::{Lock, LockError, LockedPackage};
use crate::namespace::{NamespaceError, within};
use crate::unpack::{UnpackError, unpack};

/// Changes whenever [`finish`] does, so that an old workshop is not taken for a new one.
const GENERATION: u32 = 1;

/// How much of what a program complains about is kept.
const COMPLAINT_BYTES_MAX: usize = 4096;

/// The folders that one day were not below `/usr`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// An unpacked set of packages.
#[derive(Clone, Debug)]
pub struct Workshop {
    root: PathBuf,
}

/// Why the workshop is not there, or what a program in it said.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum WorkshopError {
    #[error("the workshop's packages")]
    Lock(#[from] LockError),
    #[error("the workshop's packages")]
    Archive(#[from] ArchiveError),
    #[error("the workshop's packages")]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the workshop's mounts")]
    Namespace(#[from] NamespaceError),
    #[error("start {program} in the workshop")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} ended with {status}: {complaint}")]
    Program { program: String, status: ExitStatus, complaint: String },
}

// === impl Workshop ===

impl Workshop {
    /// The workshop of `set`, unpacked below `cache` if it is not there yet.
    pub fn open(cache: &Path, lock: &Lock, set: &str, archive: &Archive) -> Result<Workshop, WorkshopError> {
        Workshop::open_with(cache, lock, &[set], archive)
    }

    /// One workshop of several sets together.
    pub fn open_with(cache: &Path, lock: &Lock, sets: &[&str], archive: &Archive) -> Result<Workshop, WorkshopError> {
        let mut packages: Vec<&LockedPackage> = Vec::new();
        for set in sets {
            packages.extend(lock.set(set)?);
        }
        packages.sort();
        packages.dedup();
        let mut hash = Sha256::new();
        hash.update(format!("{GENERATION}\n"));
        for package in &packages {
            hash.update(format!("{} {}\n", package.name, package.sha256));
        }
        let name = format!("{}-{}", sets.join("+"), &hex::encode(hash.finalize())[..12]);
        let root = cache.join("workshops").join(name);
        if let Some(coming) = Coming::unless_there(&root)? {
            let tree = coming.folder();
            archive.fetch_all(&packages, &mut |_| ())?;
            merge_usr(tree).map_err(failed("prepare", tree))?;
            for package in &packages {
                unpack(&archive.fetch(package)?, tree, &mut |_| true)?;
            }
            finish(tree).map_err(failed("finish", tree))?;
            coming.arrive()?;
        }
        Ok(Workshop { root })
    }

    /// Where it lies. Nothing may be written there.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs `argv` in `/w`, which is `work`, with `env` in the environment. Returns what it wrote to its output.
    pub fn run(&self, work: &Path, argv: &[&str], env: &[(&str, &str)]) -> Result<Vec<u8>, WorkshopError> {
        self.run_with(work, &[], argv, env, &[])
    }

    /// The same with more: `binds` are (from, to), where `to` is the folder `/mnt` or `/srv` in the workshop, or one file
    /// of `/w` over which one file is put; and with `input` to read.
    pub fn run_with(
        &self,
        work: &Path,
        binds: &[(&Path, &str)],
        argv: &[&str],
        env: &[(&str, &str)],
        input: &[u8],
    ) -> Result<Vec<u8>, WorkshopError> {
        let inside = |name: &str| self.root.join(name.trim_start_matches('/'));
        let mut mounts = vec![
            (PathBuf::from("/dev"), inside("dev")),
            (PathBuf::from("/proc"), inside("proc")),
            (work.to_owned(), inside("w")),
        ];
        mounts.extend(binds.iter().map(|(from, to)| (from.to_path_buf(), inside(to))));
        let mounts: Vec<(&Path, &Path)> = mounts.iter().map(|(from, to)| (from.as_path(), to.as_path())).collect();
        let program = argv.first().copied().unwrap_or_default();
        let ran = within(&mounts, Some(&self.root), || -> io::Result<_> {
            let mut child = Command::new(program)
                .args(argv.iter().skip(1).map(OsStr::new))
                .current_dir("/w")
                .env_clear()
                .env("PATH", "/usr/sbin:/usr/bin")
                .env("HOME", "/w")
                .env("TMPDIR", "/w")
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("LC_ALL", "C.UTF-8")
                .env("TZ", "UTC")
                .envs(env.iter().copied())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let mut stdin = child.stdin.take();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // A program that does not read all of it says so by how it ends.
                    let _ = stdin.take().map(|mut pipe| pipe.write_all(input));
                });
                child.wait_with_output()
            })
        })?;
        let ran = ran.map_err(|source| WorkshopError::Start { program: program.to_owned(), source })?;
        if !ran.status.success() {
            let said = if ran.stderr.is_empty() { &ran.stdout } else { &ran.stderr };
            let tail = &said[said.len().saturating_sub(COMPLAINT_BYTES_MAX)..];
            let complaint = String::from_utf8_lossy(tail).trim().to_owned();
            return Err(WorkshopError::Program { program: program.to_owned(), status: ran.status, complaint });
        }
        Ok(ran.stdout)
    }
}

/// Makes `bin` and the like links into `usr`, as Debian has them since 13.
pub(crate) fn merge_usr(root: &Path) -> io::Result<()> {
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    Ok(())
}

/// What the packages' scripts would have done and programs rely on.
fn finish(root: &Path) -> io::Result<()> {
    for folder in ["dev", "proc", "w", "tmp", "mnt", "srv"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for (link, target) in [("usr/bin/sh", "dash"), ("usr/bin/awk", "mawk"), ("usr/bin/python3", "python3.13")] {
        let at = root.join(link);
        if at.symlink_metadata().is_err() && at.with_file_name(target).exists() {
            symlink(target, at)?;
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/w:/usr/bin/sh\nnobody:x:65534:65534:nobody:/:/\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")
}
