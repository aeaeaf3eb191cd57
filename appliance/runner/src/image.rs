//! Reads an image's manifest and configuration, from bytes or from the content store, each by its digest.
//!
//! The provider has verified the blobs; documents are verified again here, because what is unpacked must follow
//! from the one digest that was asked for, whoever else can write to the store.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use crate::layer::{Compression, LAYERS_MAX};
use crate::protocol::{Digest, Refusal};

/// The largest manifest or configuration, in bytes; what registries accept for a manifest.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Where blobs are, named by the hexadecimal digits of their SHA-256.
#[derive(Debug)]
pub struct Content {
    blobs: PathBuf,
}

/// A manifest, read but not yet checked against its configuration.
#[derive(Debug)]
pub struct Manifest {
    config: Digest,
    layers: Vec<Descriptor>,
}

/// An image, read and checked.
#[derive(Debug)]
pub struct Image {
    /// As the image says.
    pub config: ImageConfiguration,
    /// Lowest first; 1 to [`LAYERS_MAX`].
    pub layers: Vec<ImageLayer>,
}

/// One layer, as its image describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    /// Of the blob, packed as it is.
    pub digest: Digest,
    /// Length of the blob, in bytes.
    pub packed_bytes: u64,
    /// By its media type.
    pub compression: Compression,
    /// Of the uncompressed tar.
    pub diff_id: Digest,
}

// === impl Manifest ===

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`Refusal::BadImage`] if it is none, or names its configuration by something else than a SHA-256.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let manifest = ImageManifest::from_reader(bytes).map_err(|error| bad("its manifest", &error))?;
        Ok(Self { config: digest_of(manifest.config())?, layers: manifest.layers().clone() })
    }

    /// The configuration that it names.
    #[must_use]
    pub fn config(&self) -> &Digest {
        &self.config
    }

    /// Lays `config`, the bytes of the configuration, beside it.
    ///
    /// # Errors
    /// [`Refusal::BadImage`] if the two do not fit, or a layer is of a kind that nobody unpacks.
    pub fn with_config(&self, config: &[u8]) -> Result<Image, Refusal> {
        let config = ImageConfiguration::from_reader(config).map_err(|error| bad("its configuration", &error))?;
        let (layers, diff_ids) = (&self.layers, config.rootfs().diff_ids());
        if layers.is_empty() || layers.len() > LAYERS_MAX {
            let detail = format!("it has {} layers, of 1 to {LAYERS_MAX}", layers.len());
            return Err(Refusal::BadImage { detail });
        }
        if layers.len() != diff_ids.len() {
            let detail = format!("it has {} layers and {} diff ids", layers.len(), diff_ids.len());
            return Err(Refusal::BadImage { detail });
        }
        let layers = layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
            Ok(ImageLayer {
                digest: digest_of(layer)?,
                packed_bytes: layer.size(),
                compression: compression(layer)?,
                diff_id: diff_id.parse().map_err(|error| bad("a diff id", &error))?,
            })
        });
        let layers = layers.collect::<Result<_, Refusal>>()?;
        Ok(Image { config, layers })
    }
}

// === impl Content ===

impl Content {
    /// The store whose blobs are in `dir/blobs/sha256`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { blobs: dir.join("blobs/sha256") }
    }

    /// Reads the image that `manifest` names.
    ///
    /// # Errors
    /// [`Refusal::BlobMissing`], [`Refusal::DigestMismatch`], [`Refusal::BadImage`].
    pub fn image(&self, manifest: &Digest) -> Result<Image, Refusal> {
        let manifest = Manifest::read(&self.document("manifest", manifest)?)?;
        manifest.with_config(&self.document("config", manifest.config())?)
    }

    /// Opens the blob of a layer.
    ///
    /// # Errors
    /// [`Refusal::BlobMissing`]; [`Refusal::BadImage`] if its length is not what the manifest says.
    pub fn layer(&self, layer: &ImageLayer) -> Result<OwnedFd, Refusal> {
        let (blob, bytes) = self.open(&layer.digest)?;
        if bytes == layer.packed_bytes {
            return Ok(blob.into());
        }
        let detail = format!("blob {} has {bytes} bytes instead of {}", layer.digest, layer.packed_bytes);
        Err(Refusal::BadImage { detail })
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
