//! Images from any OCI registry, by the distribution protocol, into the content store.
//!
//! Invariants:
//! - A tag is resolved once for a source and recorded; from then on the image is its digest, whatever the tag does.
//! - Every byte that gets a name in the store has the digest by which it was asked for.
//! - Only the layers that are missing are fetched: what the runner has sealed needs no blob any more.
//! - Everything that a registry says is bounded before it is believed: [`MANIFEST_BYTES_MAX`], [`LAYERS_MAX`], the
//!   owner's bound on the whole image, and time.
//! - TLS always, but for loopback and the registries that the owner lists.
//! - No image name and no registry sends the rig into its owner's network: see [`reach`].
//!
//! `oci-client` was not taken: it reads a manifest of any size into memory and has no bound on a whole image. The types
//! of the specification are `oci-spec`'s.

mod auth;
#[doc(hidden)]
pub mod document;
mod reach;
mod reference;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use futures::StreamExt;
use oci_spec::image::{Descriptor, ImageManifest, MediaType};
use reqwest::{Response, StatusCode};
use thiserror::Error;
use tracing::info;
use work::Digest;

use self::document::Document;
pub use self::reach::{Allowed, Unanswered};
use self::reach::{Asking, Reach};
pub use self::reference::{Reference, ReferenceError};
use crate::ledger::{LedgerError, TagPins};
use crate::store::{Shelf, Store, StoreError};

/// The largest manifest or index that is read, in bytes. Source: registries themselves refuse more than 4 MiB.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// The most layers of an image. Source: the runner unpacks no more.
pub const LAYERS_MAX: usize = 128;

/// Time for a manifest, an index or a token, all of it.
const DOCUMENT_MAX: Duration = Duration::from_secs(120);

/// The slowest registry that is worth waiting for, in bytes per second: it bounds the time of one blob.
const SLOWEST_BYTES_PER_S: u64 = 64 * 1024;

/// How often one blob is asked for before the pull is given up for now.
pub const BLOB_TRIES: u32 = 3;

/// A puller of images.
#[derive(Debug)]
pub struct Registry {
    reach: Reach,
    store: Arc<Store>,
    pins: TagPins,
    image_bytes_max: u64,
}

/// An image whose manifest and configuration are in the store.
#[derive(Clone, Debug)]
pub struct Found {
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Digest of the configuration.
    pub config: Digest,
    /// Layers and their bytes as downloaded, lowest first, each once.
    pub layers: Vec<(Digest, u64)>,
    reference: Reference,
    /// The source and the reference to pin, if that is not done yet.
    to_pin: Option<(String, String)>,
    /// Bytes that had to be fetched for this much.
    fetched_bytes: u64,
}

/// An image of which everything that was missing is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Digests of what is in the store: the manifest, the configuration, and the layers that were missing.
    pub blobs: Vec<Digest>,
    /// Bytes of the layers that were missing.
    pub bytes: u64,
    /// How many bytes had to be fetched for it.
    pub fetched_bytes: u64,
}

/// How far a pull has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coming {
    /// Bytes of missing layers that are here.
    pub bytes: u64,
    /// Bytes of all missing layers.
    pub of_bytes: u64,
    /// Which of the missing layers is coming, from 1.
    pub layer: usize,
    /// How many layers are missing.
    pub layers: usize,
}

/// Why an image is not here.
#[derive(Debug, Error)]
pub enum PullError {
    /// The reference is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The registry did not answer, or broke off.
    #[error("ask {url}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What happened.
        #[source]
        source: Unanswered,
    },
    /// The registry answered with a status that is no success.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// Its answer.
        status: StatusCode,
    },
    /// What it sent is not what the specification says.
    #[error("{url} sent something that is no {what}")]
    Nonsense {
        /// What was asked for.
        url: String,
        /// What it should have been.
        what: &'static str,
        /// What the decoder said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image is too big or too deep, or has no variant for this machine.
    #[error("image {image} is refused: {why}")]
    Refused {
        /// The image.
        image: String,
        /// Why.
        why: String,
    },
    /// The store refused.
    #[error("store a blob of {image}")]
    Store {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The recorded digests could not be asked.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl PullError {
    /// Whether asking again cannot help.
    pub fn is_final(&self) -> bool {
        match self {
            PullError::Reference(_) | PullError::Refused { .. } => true,
            // What came over TLS and is wrong every time is wrong on purpose: asking on costs the owner's traffic.
            PullError::Store { source: StoreError::Mismatch { .. }, .. } => true,
            PullError::Status { status, .. } => {
                status.is_client_error()
                    && *status != StatusCode::TOO_MANY_REQUESTS
                    && *status != StatusCode::REQUEST_TIMEOUT
            }
            PullError::Unreachable { .. }
            | PullError::Nonsense { .. }
            | PullError::Store { .. }
            | PullError::Ledger(_) => false,
        }
    }

    /// Whether bytes came that are not what was asked for.
    fn is_mismatch(&self) -> bool {
        matches!(self, PullError::Store { source: StoreError::Mismatch { .. }, .. })
    }
}

// === impl Registry ===

impl Registry {
    /// A puller into `store`, of images of at most `image_bytes_max` each.
    /// Errors: the TLS stack cannot be used.
    pub fn new(store: Arc<Store>, pins: TagPins, allowed: Allowed, image_bytes_max: u64) -> reqwest::Result<Registry> {
        Ok(Registry { reach: Reach::new(allowed)?, store, pins, image_bytes_max })
    }

    /// Brings the manifest and the configuration of the image that `written` names for `source` into the store.
    /// Errors: see [`PullError`].
    pub async fn find(&self, source: &str, written: &str) -> Result<Found, PullError> {
        let reference: Reference = written.parse()?;
        let pinned = self.pins.get(source, written)?;
        let ask = pinned.as_deref().unwrap_or(reference.version());
        let (digest, manifest) = self.manifest(&reference, ask).await?;
        self.weigh(written, &manifest)?;
        let mut layers = Vec::new();
        for layer in manifest.layers() {
            let layer = (checked_digest(&reference, layer)?, layer.size());
            if !layers.contains(&layer) {
                layers.push(layer);
            }
        }
        let config = checked_digest(&reference, manifest.config())?;
        let fetched_bytes = self.blob(&reference, config, manifest.config().size(), &|_| {}).await?;
        for used in [digest, config] {
            self.store.touch(Shelf::Images, used).await;
        }
        let to_pin = pinned.is_none().then(|| (source.to_owned(), written.to_owned()));
        Ok(Found { manifest: digest, config, layers, reference, to_pin, fetched_bytes })
    }

    /// Brings those layers of an image into the store that are `missing`, says on the way how far it has come, and
    /// records what its tag was. Errors: see [`PullError`].
    pub async fn fetch(
        &self,
        found: &Found,
        missing: &BTreeSet<Digest>,
        told: &(dyn Fn(Coming) + Send + Sync),
    ) -> Result<Pulled, PullError> {
        let wanted: Vec<(Digest, u64)> =
            found.layers.iter().copied().filter(|(layer, _)| missing.contains(layer)).collect();
        let of_bytes = wanted.iter().map(|(_, bytes)| bytes).sum();
        let mut blobs = vec![found.manifest, found.config];
        let (mut bytes, mut fetched_bytes) = (0, found.fetched_bytes);
        for (index, (layer, size)) in wanted.iter().enumerate() {
            let coming = |here| Coming { bytes: bytes + here, of_bytes, layer: index + 1, layers: wanted.len() };
            told(coming(0));
            fetched_bytes += self.blob(&found.reference, *layer, *size, &|here| told(coming(here))).await?;
            self.store.touch(Shelf::Images, *layer).await;
            bytes += size;
            blobs.push(*layer);
        }
        if let Some((source, written)) = &found.to_pin {
            self.pins.set(source, written, &found.manifest.to_string())?;
        }
        info!(image = %found.reference, digest = %found.manifest, bytes, fetched_bytes, "image is in the store");
        Ok(Pulled { manifest: found.manifest, blobs, bytes, fetched_bytes })
    }

    /// Removes the layers of an image from the store: they are sealed, and sealed layers are what jails stand on.
    /// Errors: [`StoreError::File`].
    pub async fn discard_layers(&self, found: &Found) -> Result<(), StoreError> {
        for (layer, _) in &found.layers {
            if ![found.manifest, found.config].contains(layer) {
                self.store.remove(Shelf::Images, *layer).await?;
            }
        }
        Ok(())
    }

    /// Removes from the store what is damaged of a pulled image, so that the next pull fetches it again. Reads all of it.
    /// Returns whether anything was damaged. Errors: [`StoreError::File`].
    pub async fn weed(&self, pulled: &Pulled) -> Result<bool, StoreError> {
        let mut is_damaged = false;
        for blob in &pulled.blobs {
            is_damaged |= self.store.weed(Shelf::Images, *blob).await?;
        }
        Ok(is_damaged)
    }

    /// The manifest behind a tag or digest, following an index to this machine's variant.
    async fn manifest(&self, reference: &Reference, version: &str) -> Result<(Digest, ImageManifest), PullError> {
        let (digest, body) = self.document(reference, version).await?;
        let url = self.url(reference, "manifests", version);
        let nonsense = |(what, source): (_, serde_json::Error)| PullError::Nonsense {
            url: url.clone(),
            what,
            source: Box::new(source),
        };
        let ours = match document::understand(&body).map_err(nonsense)? {
            Document::Image(manifest) => return Ok((digest, *manifest)),
            Document::Index { ours } => ours,
        };
        let ours = ours.ok_or_else(|| PullError::Refused {
            image: reference.to_string(),
            why: "its index has no image for linux/amd64".into(),
        })?;
        let (digest, body) = self.document(reference, &ours).await?;
        Ok((digest, document::image(&body).map_err(nonsense)?))
    }

    /// Fetches a manifest or index, checks it against its digest if it was asked for by digest, and stores it.
    async fn document(&self, reference: &Reference, version: &str) -> Result<(Digest, Vec<u8>), PullError> {
        let url = self.url(reference, "manifests", version);
        let wanted = parse_digest(version);
        if let Some(wanted) = wanted
            && let Ok(held) = self.store.read(Shelf::Images, wanted, MANIFEST_BYTES_MAX).await
        {
            return Ok((wanted, held));
        }
        let response = self.get(reference, &url, DOCUMENT_MAX).await?;
        let mut writing = self.begin(reference, MANIFEST_BYTES_MAX).await?;
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk
                .map_err(|source| PullError::Unreachable { url: url.clone(), source: Unanswered::Broken(source) })?;
            writing.write(&chunk).await.map_err(|e| self.store_error(reference, e))?;
            body.extend_from_slice(&chunk);
        }
        let (digest, _) = writing.finish(wanted).await.map_err(|e| self.store_error(reference, e))?;
        Ok((digest, body))
    }

    /// Checks what a manifest announces against the bounds.
    fn weigh(&self, image: &str, manifest: &ImageManifest) -> Result<(), PullError> {
        let refused = |why| PullError::Refused { image: image.to_owned(), why };
        document::weigh(manifest, self.image_bytes_max).map(drop).map_err(refused)
    }

    /// Brings one blob into the store. Returns the bytes that were fetched: 0 if it was there. `told` hears of each
    /// chunk how many bytes are here.
    async fn blob(
        &self,
        reference: &Reference,
        wanted: Digest,
        size: u64,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64, PullError> {
        if self.store.has(Shelf::Images, wanted).await {
            return Ok(0);
        }
        let mut tries = 1;
        loop {
            match self.blob_once(reference, wanted, size, told).await {
                Err(error) if tries < BLOB_TRIES && (!error.is_final() || error.is_mismatch()) => tries += 1,
                done => return done,
            }
        }
    }

    async fn blob_once(
        &self,
        reference: &Reference,
        wanted: Digest,
        size: u64,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64, PullError> {
        let url = self.url(reference, "blobs", &wanted.to_string());
        let within = DOCUMENT_MAX + Duration::from_secs(size / SLOWEST_BYTES_PER_S);
        let mut stream = self.get(reference, &url, within).await?.bytes_stream();
        let mut writing = self.begin(reference, size).await?;
        let mut here = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk
                .map_err(|source| PullError::Unreachable { url: url.clone(), source: Unanswered::Broken(source) })?;
            writing.write(&chunk).await.map_err(|e| self.store_error(reference, e))?;
            here += chunk.len() as u64;
            told(here);
        }
        let (_, bytes) = writing.finish(Some(wanted)).await.map_err(|e| self.store_error(reference, e))?;
        Ok(bytes)
    }

    async fn begin(&self, reference: &Reference, max: u64) -> Result<crate::store::Writing<'_>, PullError> {
        self.store.begin(Shelf::Images, max).await.map_err(|e| self.store_error(reference, e))
    }

    /// A GET that answers a challenge for a token once. Each answer has to be whole `within` that time.
    async fn get(&self, reference: &Reference, url: &str, within: Duration) -> Result<Response, PullError> {
        let asked = url::Url::parse(url).map_err(|source| PullError::Nonsense {
            url: url.to_owned(),
            what: "address of a registry",
            source: Box::new(source),
        })?;
        let accept = [
            MediaType::ImageManifest.to_string(),
            MediaType::ImageIndex.to_string(),
            "application/vnd.docker.distribution.manifest.v2+json".to_owned(),
            "application/vnd.docker.distribution.manifest.list.v2+json".to_owned(),
            "*/*".to_owned(),
        ];
        let asking = Asking { accept: accept.join(", "), ..Asking::within(within) };
        let mut response = self.reach.get(reference, asked.clone(), asking.clone()).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(challenge) = auth::Challenge::of(response.headers())
        {
            let token = challenge.token(&self.reach, reference).await?;
            response = self.reach.get(reference, asked, Asking { token: Some(token), ..asking }).await?;
        }
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(PullError::Status { url: url.to_owned(), status }),
        }
    }

    fn url(&self, reference: &Reference, what: &str, name: &str) -> String {
        let scheme = if self.reach.is_plain(reference) { "http" } else { "https" };
        format!("{scheme}://{}/v2/{}/{what}/{name}", reference.endpoint(), reference.repository())
    }

    fn store_error(&self, reference: &Reference, source: StoreError) -> PullError {
        match source {
            StoreError::TooBig { max } => PullError::Refused {
                image: reference.to_string(),
                why: format!("the registry sent more than the {max} bytes that were announced or allowed"),
            },
            source @ (StoreError::File { .. } | StoreError::Mismatch { .. }) => {
                PullError::Store { image: reference.to_string(), source }
            }
        }
    }
}

fn checked_digest(reference: &Reference, blob: &Descriptor) -> Result<Digest, PullError> {
    parse_digest(blob.digest().as_ref()).ok_or_else(|| PullError::Refused {
        image: reference.to_string(),
        why: format!("a blob has the digest {}, only sha256 is checked here", blob.digest()),
    })
}

/// A digest as the specification writes it, if it is one that we can check.
pub fn parse_digest(text: &str) -> Option<Digest> {
    let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64)?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(hex, &mut bytes).ok()?;
    Some(Digest(B256::from(bytes)))
}
