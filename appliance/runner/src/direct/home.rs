//! The image that workers run on: their program, and the shared objects that it maps, as an image like any other, so
//! that it is sealed, stacked, jailed and cleaned away like any other.
//!
//! Invariants: nothing of it is a stranger's; it is made of what the loader mapped on this machine, so it fits the
//! kernel module; the same files give the same layer, which is then sealed once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cuda::messages::Probe;
use runner::protocol::{Digest, Refusal, SourceName};
use sha2::{Digest as _, Sha256};

use crate::sources::Sources;

/// The most shared objects; a driver and a linker have some twenty.
const OBJECTS_MAX: usize = 128;

/// Where the loader looks first in a worker's jail.
pub(super) const LIBRARIES: &str = "/lib";

/// Where the program is.
pub(super) const PROGRAM: &str = "/bin/rig-cuda";

/// Whose ids the image is unpacked under.
const NAME: &str = "rig.home";

/// Directories and files on which a jail mounts; with all of them there it needs no overlay.
const PLACES: [&str; 7] = ["bin/", "dev/", "etc/", "lib/", "lib64/", "proc/", "tmp/"];
const FILES: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// A prepared image.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) manifest: Digest,
}

/// An image that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum HomeError {
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the program maps {count} shared objects, of at most {OBJECTS_MAX}")]
    TooMany { count: usize },
    #[error("seal it")]
    Seal(#[source] Refusal),
}

/// Counts and hashes what goes through.
struct Hashed<W> {
    to: W,
    hash: Sha256,
    bytes: u64,
}

// === impl Home ===

impl Home {
    /// Builds and seals the image of `program` and of what it mapped.
    pub(super) fn build(sources: &Sources, program: &Path, probe: &Probe) -> Result<Self, HomeError> {
        if probe.mapped.len() > OBJECTS_MAX {
            return Err(HomeError::TooMany { count: probe.mapped.len() });
        }
        let blobs = sources.state.path().join("own/blobs/sha256");
        fs::create_dir_all(&blobs).map_err(failed("make", &blobs))?;
        let half = blobs.join(".layer");
        let (layer, bytes) = write_layer(&half, program, &probe.mapped)?;
        let place = blobs.join(&layer);
        fs::rename(&half, &place).map_err(failed("rename", &half))?;
        let keep = |document: &serde_json::Value| -> Result<(String, usize), HomeError> {
            let text = document.to_string();
            let name = hex::encode(Sha256::digest(&text));
            fs::write(blobs.join(&name), &text).map_err(failed("write", &blobs))?;
            Ok((name, text.len()))
        };
        let (config, config_bytes) = keep(&serde_json::json!({
            "architecture": std::env::consts::ARCH, "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        }))?;
        let (manifest, _) = keep(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": format!("sha256:{config}"), "size": config_bytes,
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": format!("sha256:{layer}"), "size": bytes,
            }],
        }))?;
        let bad = |error: runner::protocol::Malformed| HomeError::Seal(Refusal::Internal { detail: error.to_string() });
        let manifest: Digest = format!("sha256:{manifest}").parse().map_err(bad)?;
        let name: SourceName = NAME.parse().map_err(bad)?;
        let prepared = sources.prepare_own(&name, &manifest).map_err(HomeError::Seal)?;
        // Sealed, it is not read again.
        fs::remove_file(&place).map_err(failed("remove", &place))?;
        tracing::info!(bytes, already = prepared.already, objects = probe.mapped.len(), "the workers' image is sealed");
        Ok(Self { manifest })
    }
}

/// Writes the layer to `half`; answers its digest's digits and its length.
fn write_layer(half: &Path, program: &Path, mapped: &[PathBuf]) -> Result<(String, u64), HomeError> {
    let file = File::create(half).map_err(failed("make", half))?;
    let mut tar = tar::Builder::new(Hashed { to: io::BufWriter::new(file), hash: Sha256::new(), bytes: 0 });
    let written = failed("write", half);
    let mut fill = || -> Result<(), HomeError> {
        let to = |source| HomeError::File { operation: "write", path: half.to_owned(), source };
        for place in PLACES {
            entry(&mut tar, place, tar::EntryType::Directory, 0o755, &[]).map_err(to)?;
        }
        for place in FILES {
            entry(&mut tar, place, tar::EntryType::Regular, 0o644, &[]).map_err(to)?;
        }
        entry(&mut tar, &PROGRAM[1..], tar::EntryType::Regular, 0o755, &read(program)?).map_err(to)?;
        let mut names = BTreeSet::new();
        for object in mapped.iter().filter(|object| *object != program) {
            let Some(name) = object.file_name().and_then(|name| name.to_str()) else { continue };
            // Two of one name cannot both be found by it; the first is what the loader took first.
            if !names.insert(name.to_owned()) {
                continue;
            }
            entry(&mut tar, &format!("lib/{name}"), tar::EntryType::Regular, 0o755, &read(object)?).map_err(to)?;
        }
        for object in mapped {
            for (alias, name) in aliases(object) {
                if names.insert(alias.clone()) {
                    link(&mut tar, &format!("lib/{alias}"), &name).map_err(to)?;
                }
            }
        }
        for loader in names.iter().filter(|name| name.starts_with("ld-linux")) {
            link(&mut tar, &format!("lib64/{loader}"), &format!("../lib/{loader}")).map_err(to)?;
        }
        Ok(())
    };
    fill()?;
    let done = tar.into_inner().and_then(|mut hashed| hashed.flush().map(|()| hashed));
    let Hashed { hash, bytes, .. } = done.map_err(written)?;
    Ok((hex::encode(hash.finalize()), bytes))
}

/// The links beside a shared object that lead to it, by which it is asked for, and its own name.
fn aliases(object: &Path) -> Vec<(String, String)> {
    let (Some(dir), Some(name)) = (object.parent(), object.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let leads_here = |entry: &fs::DirEntry| {
        entry.file_type().is_ok_and(|kind| kind.is_symlink())
            && entry.path().canonicalize().is_ok_and(|target| Some(target) == object.canonicalize().ok())
    };
    let mut aliases: Vec<_> = entries
        .flatten()
        .filter(leads_here)
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, name.to_owned())))
        .collect();
    aliases.sort();
    aliases
}

fn entry(
    tar: &mut tar::Builder<impl Write>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = header(kind, mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
}

/// Nobody's in particular and of no time, so that the same files give the same layer.
fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn link(tar: &mut tar::Builder<impl Write>, path: &str, target: &str) -> io::Result<()> {
    let mut header = header(tar::EntryType::Symlink, 0o777);
    tar.append_link(&mut header, path, target)
}

fn read(path: &Path) -> Result<Vec<u8>, HomeError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(failed("read", path))?;
    Ok(bytes)
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::File { operation, path, source }
}

// === impl Hashed ===

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
