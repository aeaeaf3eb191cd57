//! The file that the firmware's loader starts: kernel, initrd, command line and os-release in one, with the signed
//! values that PCR 11 may take.
//!
//! Invariants: it names the root by its hash, so it starts that root and no other; the same parts and keys give the same
//! file (the signatures are deterministic).

use std::fs;
use std::path::{Path, PathBuf};

use layout::verity::RootHash;
use thiserror::Error;

use crate::file::{FileError, failed};
use crate::keys::Keys;
use crate::sign::{SignError, uki as sign};
use crate::workshop::{Workshop, WorkshopError};

/// systemd's stub, in the builder.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// systemd's loader, in the builder.
const LOADER: &str = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";

/// What goes into a kernel image.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// `vmlinuz`.
    pub kernel: &'a Path,
    /// The kernel's release.
    pub release: &'a str,
    /// The packed initrd.
    pub initrd: &'a Path,
    /// Text of os-release.
    pub os_release: &'a str,
    /// The version that the command line tells.
    pub version: &'a str,
    /// Of the root that it starts.
    pub root: &'a RootHash,
    /// The rest of the command line.
    pub command_line: &'a str,
    /// Unix seconds.
    pub epoch: u64,
}

/// Why there is no kernel image.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum UkiBuildError {
    #[error("put the kernel image together")]
    Workshop(#[from] WorkshopError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("sign {name}")]
    Sign {
        name: &'static str,
        #[source]
        source: SignError,
    },
}

/// The kernel's whole command line.
pub fn command_line(parts: &Parts<'_>) -> String {
    format!("roothash={} rig.version={} {}", parts.root, parts.version, parts.command_line)
}

/// Makes `work/uki.efi`, signed.
pub fn make(workshop: &Workshop, work: &Path, parts: &Parts<'_>, keys: &Keys) -> Result<PathBuf, UkiBuildError> {
    let copy = |from: &Path, name: &str| {
        fs::copy(from, work.join(name)).map_err(failed("copy", from))?;
        Ok::<(), UkiBuildError>(())
    };
    copy(parts.kernel, "vmlinuz")?;
    if parts.initrd != work.join("initrd.zst") {
        copy(parts.initrd, "initrd.zst")?;
    }
    let write = |name: &str, text: &str| fs::write(work.join(name), text).map_err(failed("write", &work.join(name)));
    write("os-release", parts.os_release)?;
    write("cmdline", &command_line(parts))?;
    // Of the keys, the workshop sees the pair that it signs with and no other; these are what it is mounted over.
    let (private, public) = keys.policy_files();
    write("pcr.key", "")?;
    write("pcr.pub", "")?;
    let binds: [(&Path, &str); 2] = [(&private, "/w/pcr.key"), (&public, "/w/pcr.pub")];
    let (uname, stub) = (format!("--uname={}", parts.release), format!("--stub={STUB}"));
    let command = [
        "ukify",
        "build",
        "--linux=vmlinuz",
        "--initrd=initrd.zst",
        "--cmdline=@cmdline",
        "--os-release=@os-release",
        &uname,
        &stub,
        "--pcr-private-key=/w/pcr.key",
        "--pcr-public-key=/w/pcr.pub",
        "--pcr-banks=sha256",
        "--output=uki.unsigned.efi",
    ];
    let epoch = parts.epoch.to_string();
    workshop.run_with(work, &binds, &command, &[("SOURCE_DATE_EPOCH", &epoch)], &[])?;
    let unsigned = work.join("uki.unsigned.efi");
    signed(&unsigned, &work.join("uki.efi"), "uki.efi", keys)
}

/// Makes `work/loader.efi`: systemd-boot, signed.
pub fn loader(workshop: &Workshop, work: &Path, keys: &Keys) -> Result<PathBuf, UkiBuildError> {
    signed(&workshop.root().join(LOADER), &work.join("loader.efi"), "loader.efi", keys)
}

fn signed(from: &Path, to: &Path, name: &'static str, keys: &Keys) -> Result<PathBuf, UkiBuildError> {
    let bytes = fs::read(from).map_err(failed("read", from))?;
    let bytes = sign(keys, &bytes).map_err(|source| UkiBuildError::Sign { name, source })?;
    fs::write(to, bytes).map_err(failed("write", to))?;
    Ok(to.to_owned())
}
