//! Reads an image's manifest and configuration from the content store, each by its digest.
//!
//! The provider has verified the blobs; they are verified again here, because what is unpacked must follow from
//! the one digest that was asked for, whoever else can write to the store.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use runner::protocol::{Digest, Refusal};

use crate::orders::{Compression, LayerPlan};
use crate::unpack::LAYERS_MAX;

/// The largest manifest or configuration, in bytes; what registries accept for a manifest.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Where blobs are, named by the hexadecimal digits of their SHA-256.
#[derive(Debug)]
pub(crate) struct Content {
    blobs: PathBuf,
}

/// An image, read and checked.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) config: ImageConfiguration,
    layers: Vec<(Descriptor, LayerPlan)>,
}

// === impl Content ===

impl Content {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { blobs: dir.join("blobs/sha256") }
    }

    /// Reads the image that `manifest` names.
    pub(crate) fn image(&self, manifest: &Digest) -> Result<Image, Refusal> {
        let bytes = self.document("manifest", manifest)?;
        let manifest = ImageManifest::from_reader(&bytes[..]).map_err(|error| bad("its manifest", &error))?;
        let digest = digest_of(manifest.config())?;
        let bytes = self.document("config", &digest)?;
        let config = ImageConfiguration::from_reader(&bytes[..]).map_err(|error| bad("its configuration", &error))?;
        let (layers, diff_ids) = (manifest.layers(), config.rootfs().diff_ids());
        if layers.is_empty() || layers.len() > LAYERS_MAX {
            let detail = format!("it has {} layers, of 1 to {LAYERS_MAX}", layers.len());
            return Err(Refusal::BadImage { detail });
        }
        if layers.len() != diff_ids.len() {
            let detail = format!("it has {} layers and {} diff ids", layers.len(), diff_ids.len());
            return Err(Refusal::BadImage { detail });
        }
        let layers = layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
            let diff_id: Digest = diff_id.parse().map_err(|error| bad("a diff id", &error))?;
            let compression = compression(layer)?;
            Ok((layer.clone(), LayerPlan { compression, diff_id: diff_id.hex().to_owned() }))
        });
        let layers = layers.collect::<Result<_, Refusal>>()?;
        Ok(Image { config, layers })
    }

    /// Opens the blobs of every layer, lowest first.
    pub(crate) fn layers(&self, image: Image) -> Result<(Vec<LayerPlan>, Vec<OwnedFd>), Refusal> {
        let mut plans = Vec::new();
        let mut blobs = Vec::new();
        for (descriptor, plan) in image.layers {
            let digest = digest_of(&descriptor)?;
            let (blob, bytes) = self.open(&digest)?;
            if bytes != descriptor.size() {
                let detail = format!("blob {digest} has {bytes} bytes instead of {}", descriptor.size());
                return Err(Refusal::BadImage { detail });
            }
            plans.push(plan);
            blobs.push(OwnedFd::from(blob));
        }
        Ok((plans, blobs))
    }

    /// Reads a small blob whole, and checks that it is what its name says.
    fn document(&self, object: &str, expected: &Digest) -> Result<Vec<u8>, Refusal> {
        let (file, bytes) = self.open(expected)?;
        if bytes > DOCUMENT_BYTES_MAX {
            let detail = format!("its {object} has {bytes} bytes, of at most {DOCUMENT_BYTES_MAX}");
            return Err(Refusal::BadImage { detail });
        }
        let mut document = Vec::new();
        file.take(DOCUMENT_BYTES_MAX)
            .read_to_end(&mut document)
            .map_err(|error| Refusal::Internal { detail: format!("read blob {expected}: {error}") })?;
        let found = format!("sha256:{}", hex::encode(Sha256::digest(&document)));
        if found == expected.to_string() {
            return Ok(document);
        }
        let found = found.parse().map_err(|error| bad("a digest", &error))?;
        Err(Refusal::DigestMismatch { object: object.to_owned(), expected: expected.clone(), found })
    }

    /// Opens a blob that must be a regular file; answers its length in bytes.
    fn open(&self, digest: &Digest) -> Result<(File, u64), Refusal> {
        let path = self.blobs.join(digest.hex());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let internal = |error: io::Error| Refusal::Internal { detail: format!("open blob {digest}: {error}") };
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => Err(Refusal::BlobMissing { digest: digest.clone() }),
            Err(errno) => Err(internal(errno.into())),
            Ok(fd) => {
                let status = rustix::fs::fstat(&fd).map_err(|errno| internal(errno.into()))?;
                if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
                    return Err(internal(io::ErrorKind::InvalidInput.into()));
                }
                Ok((File::from(fd), status.st_size.cast_unsigned()))
            }
        }
    }
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest, Refusal> {
    descriptor.digest().to_string().parse().map_err(|error| bad("a descriptor", &error))
}

/// By media type, of the OCI and of Docker before it.
fn compression(layer: &Descriptor) -> Result<Compression, Refusal> {
    match layer.media_type().to_string().as_str() {
        "application/vnd.oci.image.layer.v1.tar" => Ok(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Ok(Compression::Gzip)
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" => Ok(Compression::Zstd),
        other => Err(Refusal::BadImage { detail: format!("it has a layer of type {other:?}") }),
    }
}

fn bad(what: &str, error: &dyn std::error::Error) -> Refusal {
    Refusal::BadImage { detail: format!("{what} cannot be read: {error}") }
}
