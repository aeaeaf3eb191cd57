//! Makes OCI images, good and bad, in a content store.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use runner::protocol::Digest;
use sha2::{Digest as _, Sha256};

/// How a layer is packed.
#[derive(Clone, Copy)]
pub(crate) enum Pack {
    Plain,
    Gzip,
    Zstd,
}

/// A tar in the making.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, tar::EntryType::Regular, mode, content, None)
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.entry(path, tar::EntryType::Directory, 0o755, b"", None)
    }

    pub(crate) fn link(self, kind: tar::EntryType, path: &str, target: &str) -> Self {
        self.entry(path, kind, 0o777, b"", Some(target))
    }

    pub(crate) fn special(self, kind: tar::EntryType, path: &str) -> Self {
        self.entry(path, kind, 0o666, b"", None)
    }

    /// Writes names as they are: the builder would refuse what a hostile image contains.
    fn entry(mut self, path: &str, kind: tar::EntryType, mode: u32, content: &[u8], target: Option<&str>) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(target) = target {
            header.set_link_name_literal(target).expect("a link name that fits");
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_cksum();
        self.0.append(&header, content).expect("append to memory");
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("finish in memory")
    }
}

/// Programs of this host with the libraries that they load, and this test binary as `/probe`.
pub(crate) fn host_programs() -> Vec<u8> {
    let probe = std::env::current_exe().expect("the path of this test");
    let programs = ["/bin/sh", "/bin/cat", "/bin/sleep", "/bin/true"].map(PathBuf::from);
    let mut libraries = BTreeSet::new();
    for program in programs.iter().chain([&probe]) {
        let listed = Command::new("ldd").arg(program).output().expect("ldd of libc-bin");
        let listed = String::from_utf8(listed.stdout).expect("text");
        libraries.extend(listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    let mut layer =
        Layer::new().dir("etc").file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:\n");
    for path in programs.iter().chain(&libraries) {
        layer = layer.file(inside(path), 0o755, &std::fs::read(path).expect("a program of this host"));
    }
    layer.file("probe", 0o755, &std::fs::read(&probe).expect("this test")).finish()
}

fn inside(path: &Path) -> &str {
    path.to_str().expect("a path in text").trim_start_matches('/')
}

/// Writes an image of `layers` with this `config` object; answers its manifest's digest.
pub(crate) fn image(content: &Path, layers: &[(Vec<u8>, Pack)], config: &str) -> Digest {
    image_with_diff_ids(content, layers, config, digest)
}

/// As [`image`], with diff ids of the caller's making.
pub(crate) fn image_with_diff_ids(
    content: &Path,
    layers: &[(Vec<u8>, Pack)],
    config: &str,
    diff_id: impl Fn(&[u8]) -> String,
) -> Digest {
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for (tar, pack) in layers {
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
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": descriptors,
    });
    let manifest = blob(content, "", manifest.to_string().as_bytes());
    manifest["digest"].as_str().expect("a digest").parse().expect("a digest")
}

/// Stores a blob; answers its descriptor.
fn blob(content: &Path, media_type: &str, bytes: &[u8]) -> serde_json::Value {
    let digest = digest(bytes);
    std::fs::write(content.join("blobs/sha256").join(&digest[7..]), bytes).expect("write a blob");
    serde_json::json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Pack {
    fn pack(self, tar: &[u8]) -> (&'static str, Vec<u8>) {
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
