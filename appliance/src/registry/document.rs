//! What a registry's documents say: an index of images for several machines, or the manifest of one.
//!
//! Public for fuzzers only. Nothing is fetched here, and nothing that a document announces is believed before
//! [`weigh`] has compared it with the bounds.

use oci_spec::image::{Arch, ImageIndex, ImageManifest, Os, Platform};

use super::LAYERS_MAX;

/// A document, understood.
#[derive(Clone, Debug)]
pub enum Document {
    /// The manifest of one image.
    Image(Box<ImageManifest>),
    /// Images for several machines.
    Index {
        /// The digest of the one for this machine, as written.
        ours: Option<String>,
    },
}

/// Just enough of a document to tell an index from a manifest.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Kind {
    fn is_index(&self) -> bool {
        let by_name = self.media_type.as_deref().map(|t| t.ends_with("index.v1+json") || t.ends_with("list.v2+json"));
        by_name.unwrap_or(self.manifests.is_some())
    }
}

/// Reads a document. Errors: what it should have been, and what the decoder says.
pub fn understand(body: &[u8]) -> Result<Document, (&'static str, serde_json::Error)> {
    let kind: Kind = serde_json::from_slice(body).map_err(|error| ("manifest", error))?;
    if !kind.is_index() {
        return image(body).map(|manifest| Document::Image(Box::new(manifest)));
    }
    let index: ImageIndex = serde_json::from_slice(body).map_err(|error| ("image index", error))?;
    let ours = index.manifests().iter().find(|manifest| manifest.platform().as_ref().is_some_and(is_ours));
    Ok(Document::Index { ours: ours.map(|ours| ours.digest().as_ref().to_owned()) })
}

/// Reads a manifest, where it must be one: an index does not lead to an index. Errors: as [`understand`].
pub fn image(body: &[u8]) -> Result<ImageManifest, (&'static str, serde_json::Error)> {
    serde_json::from_slice(body).map_err(|error| ("image manifest", error))
}

/// Checks what a manifest announces against the bounds. Returns the bytes of all blobs. Errors: the bound that it breaks.
pub fn weigh(manifest: &ImageManifest, image_bytes_max: u64) -> Result<u64, String> {
    let layers = manifest.layers().len();
    if layers > LAYERS_MAX {
        return Err(format!("it has {layers} layers, at most {LAYERS_MAX} are unpacked"));
    }
    let all = manifest.layers().iter().chain([manifest.config()]);
    let bytes = all.fold(0_u64, |sum, blob| sum.saturating_add(blob.size()));
    if bytes > image_bytes_max {
        return Err(format!("it has {bytes} bytes, the bound is {image_bytes_max} (image_bytes)"));
    }
    Ok(bytes)
}

fn is_ours(platform: &Platform) -> bool {
    *platform.os() == Os::Linux && *platform.architecture() == Arch::Amd64
}
