//! What a guest is given: a read-only disk with programs and the script that runs them.
//!
//! A file keeps its absolute path inside the guest by a symbolic link to where the disk is mounted, because a test
//! knows the programs beside it by the path at which they were built.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::GuestError;

/// What the file system itself and its rounding up take.
const DISK_SLACK_MIB: u64 = 16;

/// A finished disk. Dropping it removes it.
#[derive(Debug)]
pub struct Payload {
    _folder: TempDir,
    disk: PathBuf,
}

// === impl Payload ===

impl Payload {
    /// Puts `files` (here, and the absolute path inside) and `script` on a disk.
    pub(super) fn build(files: &[(&Path, &str)], script: &str) -> Result<Payload, GuestError> {
        let folder = tempfile::Builder::new().prefix("guest-").tempdir();
        let folder = folder.map_err(|source| GuestError::Payload { path: std::env::temp_dir(), source })?;
        let stage = folder.path().join("stage");
        fs::create_dir_all(stage.join("files")).map_err(failed(&stage))?;
        let mut job = String::new();
        let mut bytes = 0;
        for (number, (here, inside)) in files.iter().enumerate() {
            bytes += fs::copy(here, stage.join(format!("files/{number}"))).map_err(failed(here))?;
            let parent = Path::new(inside).parent().unwrap_or(Path::new("/"));
            let (parent, inside) = (quoted(&parent.display().to_string()), quoted(inside));
            job.push_str(&format!("mkdir -p {parent} && ln -sfn /payload/files/{number} {inside} || exit 125\n"));
        }
        job.push_str(script);
        job.push('\n');
        bytes += job.len() as u64;
        let path = stage.join("job.sh");
        fs::write(&path, job).map_err(failed(&path))?;
        let disk = folder.path().join("payload.ext4");
        let size = format!("{}M", (bytes >> 20) * 17 / 16 + DISK_SLACK_MIB);
        // Debian keeps it where only root looks for programs.
        let mut mke2fs = Command::new("/sbin/mke2fs");
        mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-L", "payload", "-d"]);
        let made = mke2fs.arg(&stage).arg(&disk).arg(size).output();
        let made = made.map_err(|source| GuestError::Program { program: "mke2fs", source })?;
        if !made.status.success() {
            return Err(GuestError::Disk { said: String::from_utf8_lossy(&made.stderr).trim().to_owned() });
        }
        fs::remove_dir_all(&stage).map_err(failed(&stage))?;
        Ok(Payload { _folder: folder, disk })
    }

    pub(super) fn disk(&self) -> &Path {
        &self.disk
    }
}

/// `text` as one word of a shell script.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> GuestError {
    let path = PathBuf::from(path);
    move |source| GuestError::Payload { path, source }
}
