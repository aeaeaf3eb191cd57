//! Makes OCI images, good and bad, in a content store.
//!
//! An image is a list of tar layers and a configuration object. [`Layer`] writes names as they are, so that it can make
//! what no honest tool makes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use runner::protocol::Digest;
use sha2::{Digest as _, Sha256};

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pack {
    /// As the tar is.
    Plain,
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstd,
}

/// A tar in the making.
pub struct Layer(tar::Builder<Vec<u8>>);

/// What a tar header says besides the name; [`Layer::raw`] takes it as it is.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// What kind of entry.
    pub kind: tar::EntryType,
    /// Permission bits, setuid and the like included.
    pub mode: u32,
    /// Inside the image.
    pub uid: u64,
    /// Inside the image.
    pub gid: u64,
    /// Where a link leads.
    pub target: Option<&'a str>,
    /// The size that the header claims, in bytes; `None` for the content's own.
    pub claimed_bytes: Option<u64>,
}

// === impl Head ===

impl Head<'_> {
    /// An entry of root's, without a target.
    #[must_use]
    pub fn new(kind: tar::EntryType, mode: u32) -> Self {
        Self { kind, mode, uid: 0, gid: 0, target: None, claimed_bytes: None }
    }
}

// === impl Layer ===

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Layer of {} bytes", self.0.get_ref().len())
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Adds a regular file of root's.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.raw(path, Head::new(tar::EntryType::Regular, mode), content)
    }

    /// Adds an empty regular file whose user and group have the same id.
    #[must_use]
    pub fn owned_file(self, path: &str, id: u64, mode: u32) -> Self {
        self.raw(path, Head { uid: id, gid: id, ..Head::new(tar::EntryType::Regular, mode) }, b"")
    }

    /// Adds a directory of root's, mode 0755.
    #[must_use]
    pub fn dir(self, path: &str) -> Self {
        self.raw(path, Head::new(tar::EntryType::Directory, 0o755), b"")
    }

    /// Adds a link, symbolic or hard.
    #[must_use]
    pub fn link(self, kind: tar::EntryType, path: &str, target: &str) -> Self {
        self.raw(path, Head { target: Some(target), ..Head::new(kind, 0o777) }, b"")
    }

    /// Adds a device, FIFO or whatever else has no content.
    #[must_use]
    pub fn special(self, kind: tar::EntryType, path: &str) -> Self {
        self.raw(path, Head::new(kind, 0o666), b"")
    }

    /// Adds an entry exactly as told: the builder's own methods would refuse what a hostile image contains.
    ///
    /// # Panics
    /// If the path has more than 100 bytes, or the target.
    #[must_use]
    pub fn raw(mut self, path: &str, head: Head<'_>, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(target) = head.target {
            header.set_link_name_literal(target).expect("a link name that fits");
        }
        header.set_entry_type(head.kind);
        header.set_mode(head.mode);
        header.set_size(head.claimed_bytes.unwrap_or(content.len() as u64));
        header.set_uid(head.uid);
        header.set_gid(head.gid);
        header.set_mtime(1_000_000_000);
        header.set_cksum();
        self.0.append(&header, content).expect("append to memory");
        self
    }

    /// Adds extended attributes for the entry that comes next, as PAX records `SCHILY.xattr.NAME`.
    ///
    /// # Panics
    /// Never: it writes to memory.
    #[must_use]
    pub fn xattrs(mut self, attributes: &[(&str, &[u8])]) -> Self {
        let names: Vec<_> = attributes.iter().map(|(name, _)| format!("SCHILY.xattr.{name}")).collect();
        let records = names.iter().map(String::as_str).zip(attributes.iter().map(|(_, value)| *value));
        self.0.append_pax_extensions(records).expect("append to memory");
        self
    }

    /// The tar.
    ///
    /// # Panics
    /// Never: it writes to memory.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("finish in memory")
    }
}

/// A layer of this host's programs with the libraries that they load, `/etc/passwd` with `root` and `app` (1000), and
/// `/etc/group`. `own` are programs of the test: path inside the image, path on this host.
///
/// Made once per process for each set of programs: every test wants the same.
///
/// # Panics
/// If a program of this host cannot be read.
#[must_use]
pub fn host_programs(own: &[(String, PathBuf)]) -> Arc<Vec<u8>> {
    type Made = BTreeMap<Vec<(String, PathBuf)>, Arc<Vec<u8>>>;
    static MADE: Mutex<Made> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(own.to_vec()).or_insert_with(|| Arc::new(layer_of_programs(own))).clone()
}

fn layer_of_programs(own: &[(String, PathBuf)]) -> Vec<u8> {
    let programs = ["/bin/sh", "/bin/cat", "/bin/sleep", "/bin/true"].map(PathBuf::from);
    let mut libraries = BTreeSet::new();
    for program in programs.iter().chain(own.iter().map(|(_, path)| path)) {
        let listed = Command::new("ldd").arg(program).output().expect("ldd of libc-bin");
        let listed = String::from_utf8(listed.stdout).expect("text");
        libraries.extend(listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    let mut layer = Layer::new()
        .dir("etc")
        .file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:\n")
        .file("etc/group", 0o644, b"root:x:0:\napp:x:1000:\n");
    for path in programs.iter().chain(&libraries) {
        layer = layer.file(inside(path), 0o755, &std::fs::read(path).expect("a program of this host"));
    }
    for (path, program) in own {
        let content = std::fs::read(program).expect("a program of this test");
        layer = layer.file(path.trim_start_matches('/'), 0o755, &content);
    }
    layer.finish()
}

fn inside(path: &Path) -> &str {
    path.to_str().expect("a path in text").trim_start_matches('/')
}

/// A static x86-64 program of 132 bytes that does nothing but exit with `status`: what is left of a job's time when
/// the job itself takes none.
#[must_use]
pub fn program_that_exits(status: u8) -> Vec<u8> {
    const BASE: u64 = 0x0040_0000;
    const HEADERS: u64 = 64 + 56;
    // mov edi, status; mov eax, SYS_exit_group; syscall
    let code = [0xBF, status, 0, 0, 0, 0xB8, 231, 0, 0, 0, 0x0F, 0x05];
    let bytes = HEADERS + code.len() as u64;
    // ELF, 64 bit, little endian, version 1, System V; then type EXEC, machine x86-64, version 1.
    let mut elf = vec![0x7F, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(u64::to_le_bytes(word)); // entry, program headers, section headers
    }
    elf.extend([0; 4]); // flags
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes()); // sizes and counts
    }
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]); // LOAD, readable and executable
    for word in [0, BASE, BASE, bytes, bytes, 0x1000] {
        elf.extend(word.to_le_bytes()); // offset, addresses, sizes, alignment
    }
    elf.extend(code);
    elf
}

/// Writes an image of `layers` with this `config` object; answers its manifest's digest.
///
/// # Panics
/// If the content store cannot be written, or `config` is no JSON.
#[must_use]
pub fn image(content: &Path, layers: &[(impl AsRef<[u8]>, Pack)], config: &str) -> Digest {
    image_with_diff_ids(content, layers, config, digest)
}

/// As [`image`], with diff ids of the caller's making.
///
/// # Panics
/// As [`image`].
#[must_use]
pub fn image_with_diff_ids(
    content: &Path,
    layers: &[(impl AsRef<[u8]>, Pack)],
    config: &str,
    diff_id: impl Fn(&[u8]) -> String,
) -> Digest {
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for (tar, pack) in layers {
        let tar = tar.as_ref();
        let (suffix, packed) = pack.pack(tar);
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        descriptors.push(blob(content, &media_type, &packed));
        diff_ids.push(diff_id(tar));
    }
    let config: serde_json::Value = serde_json::from_str(config).expect("a configuration");
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob(content, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    manifest(content, &config, &descriptors)
}

/// Writes a manifest that names `config` and `layers` as they are, true or not; answers its digest.
///
/// # Panics
/// If the content store cannot be written.
#[must_use]
pub fn manifest(content: &Path, config: &serde_json::Value, layers: &[serde_json::Value]) -> Digest {
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": layers,
    });
    let manifest = blob(content, "", manifest.to_string().as_bytes());
    manifest["digest"].as_str().expect("a digest").parse().expect("a digest")
}

/// Stores a blob; answers its descriptor.
///
/// # Panics
/// If the content store cannot be written.
#[must_use]
pub fn blob(content: &Path, media_type: &str, bytes: &[u8]) -> serde_json::Value {
    let digest = digest(bytes);
    std::fs::write(content.join("blobs/sha256").join(&digest[7..]), bytes).expect("write a blob");
    serde_json::json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

/// `sha256:` and the digits.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

// === impl Pack ===

impl Pack {
    /// The suffix of the media type, and the packed bytes.
    ///
    /// # Panics
    /// Never: it packs in memory.
    #[must_use]
    pub fn pack(self, tar: &[u8]) -> (&'static str, Vec<u8>) {
        match self {
            Self::Plain => ("", tar.to_vec()),
            Self::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(tar).expect("pack in memory");
                ("+gzip", gzip.finish().expect("pack in memory"))
            }
            Self::Zstd => ("+zstd", zstd::encode_all(tar, 1).expect("pack in memory")),
        }
    }
}
