//! Images from any OCI registry, by the distribution protocol, into the content store.
//!
//! Invariants:
//! - A tag is resolved once for a source and recorded; from then on the image is its digest, whatever the tag does.
//! - Every byte that gets a name in the store has the digest by which it was asked for.
//! - Everything that a registry says is bounded before it is believed: [`MANIFEST_BYTES_MAX`], [`LAYERS_MAX`], the
//!   owner's bound on the whole image, and time.
//! - TLS always, but for loopback and the registries that the owner lists.
//!
//! `oci-client` was not taken: it reads a manifest of any size into memory and has no bound on a whole image. The types
//! of the specification are `oci-spec`'s.

mod auth;
mod reference;

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use futures::StreamExt;
use oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest, MediaType, Os};
use reqwest::{Client, Response, StatusCode, header};
use thiserror::Error;
use tracing::info;
use work::Digest;

pub use self::reference::{Reference, ReferenceError};
use crate::ledger::{LedgerError, TagPins};
use crate::store::{Shelf, Store, StoreError};

/// The largest manifest or index that is read, in bytes. Source: registries themselves refuse more than 4 MiB.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// The most layers of an image. Source: the runner unpacks no more.
pub const LAYERS_MAX: usize = 128;

/// The longest silence in a transfer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for a manifest, an index or a token, all of it.
const DOCUMENT_MAX: Duration = Duration::from_secs(120);

/// The slowest registry that is worth waiting for, in bytes per second: it bounds the time of one blob.
const SLOWEST_BYTES_PER_S: u64 = 64 * 1024;

/// Hosts that one request may be sent on to. Source: registries hand a blob's bytes over to one content network.
const REDIRECTS_MAX: usize = 5;

/// How often one blob is asked for before the pull is given up for now.
pub const BLOB_TRIES: u32 = 3;

/// A puller of images.
#[derive(Debug)]
pub struct Registry {
    http: Client,
    store: Arc<Store>,
    pins: TagPins,
    plain: Vec<String>,
    image_bytes_max: u64,
}

/// An image whose every blob is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Digests of everything that it is made of.
    pub blobs: Vec<Digest>,
    /// Bytes of all layers, as downloaded.
    pub bytes: u64,
    /// How many of those bytes had to be fetched now.
    pub fetched_bytes: u64,
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
        source: reqwest::Error,
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
    /// A puller into `store`. `plain` are registries that may be asked without TLS; `image_bytes_max` bounds one image.
    /// Errors: the TLS stack cannot be used.
    pub fn new(
        store: Arc<Store>,
        pins: TagPins,
        plain: Vec<String>,
        image_bytes_max: u64,
    ) -> reqwest::Result<Registry> {
        let http = Client::builder()
            .user_agent(concat!("opengpu-rig/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(15))
            .read_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::custom(may_follow))
            .no_proxy()
            .build()?;
        Ok(Registry { http, store, pins, plain, image_bytes_max })
    }

    /// Brings the image that `written` names for `source` into the store. Errors: see [`PullError`].
    pub async fn pull(&self, source: &str, written: &str) -> Result<Pulled, PullError> {
        let reference: Reference = written.parse()?;
        let pinned = self.pins.get(source, written)?;
        let ask = pinned.as_deref().unwrap_or(reference.version());
        let (digest, manifest) = self.manifest(&reference, ask).await?;
        let bytes = self.weigh(written, &manifest)?;
        let mut fetched_bytes = 0;
        let mut blobs = vec![digest];
        for blob in std::iter::once(manifest.config()).chain(manifest.layers()) {
            let (blob, fetched) = self.blob(&reference, blob).await?;
            blobs.push(blob);
            fetched_bytes += fetched;
        }
        if pinned.is_none() {
            self.pins.set(source, written, &digest.to_string())?;
        }
        info!(source, image = written, %digest, bytes, fetched_bytes, "image is in the store");
        Ok(Pulled { manifest: digest, blobs, bytes, fetched_bytes })
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
        let nonsense = |what| {
            let url = url.clone();
            move |source: serde_json::Error| PullError::Nonsense { url, what, source: Box::new(source) }
        };
        let kind: Kind = serde_json::from_slice(&body).map_err(nonsense("manifest"))?;
        if !kind.is_index() {
            return Ok((digest, serde_json::from_slice(&body).map_err(nonsense("image manifest"))?));
        }
        let index: ImageIndex = serde_json::from_slice(&body).map_err(nonsense("image index"))?;
        let ours = index.manifests().iter().find(|m| m.platform().as_ref().is_some_and(is_ours));
        let ours = ours.ok_or_else(|| PullError::Refused {
            image: reference.to_string(),
            why: "its index has no image for linux/amd64".into(),
        })?;
        let (digest, body) = self.document(reference, ours.digest().as_ref()).await?;
        Ok((digest, serde_json::from_slice(&body).map_err(nonsense("image manifest"))?))
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
            let chunk = chunk.map_err(|source| PullError::Unreachable { url: url.clone(), source })?;
            writing.write(&chunk).await.map_err(|e| self.store_error(reference, e))?;
            body.extend_from_slice(&chunk);
        }
        let (digest, _) = writing.finish(wanted).await.map_err(|e| self.store_error(reference, e))?;
        Ok((digest, body))
    }

    /// Checks what a manifest announces against the bounds. Returns the bytes of all blobs.
    fn weigh(&self, image: &str, manifest: &ImageManifest) -> Result<u64, PullError> {
        let refuse = |why: String| PullError::Refused { image: image.to_owned(), why };
        let layers = manifest.layers().len();
        if layers > LAYERS_MAX {
            return Err(refuse(format!("it has {layers} layers, at most {LAYERS_MAX} are unpacked")));
        }
        let all = manifest.layers().iter().chain([manifest.config()]);
        let bytes = all.fold(0_u64, |sum, blob| sum.saturating_add(blob.size()));
        if bytes > self.image_bytes_max {
            return Err(refuse(format!("it has {bytes} bytes, the bound is {} (image_bytes)", self.image_bytes_max)));
        }
        Ok(bytes)
    }

    /// Brings one blob into the store. Returns its digest, and the bytes that were fetched: 0 if it was there.
    async fn blob(&self, reference: &Reference, blob: &Descriptor) -> Result<(Digest, u64), PullError> {
        let wanted = parse_digest(blob.digest().as_ref()).ok_or_else(|| PullError::Refused {
            image: reference.to_string(),
            why: format!("a blob has the digest {}, only sha256 is checked here", blob.digest()),
        })?;
        if self.store.has(Shelf::Images, wanted).await {
            return Ok((wanted, 0));
        }
        let mut tries = 1;
        loop {
            match self.blob_once(reference, wanted, blob.size()).await {
                Err(error) if tries < BLOB_TRIES && (!error.is_final() || error.is_mismatch()) => tries += 1,
                done => return done.map(|bytes| (wanted, bytes)),
            }
        }
    }

    async fn blob_once(&self, reference: &Reference, wanted: Digest, size: u64) -> Result<u64, PullError> {
        let url = self.url(reference, "blobs", &wanted.to_string());
        let within = DOCUMENT_MAX + Duration::from_secs(size / SLOWEST_BYTES_PER_S);
        let mut stream = self.get(reference, &url, within).await?.bytes_stream();
        let mut writing = self.begin(reference, size).await?;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|source| PullError::Unreachable { url: url.clone(), source })?;
            writing.write(&chunk).await.map_err(|e| self.store_error(reference, e))?;
        }
        let (_, bytes) = writing.finish(Some(wanted)).await.map_err(|e| self.store_error(reference, e))?;
        Ok(bytes)
    }

    async fn begin(&self, reference: &Reference, max: u64) -> Result<crate::store::Writing<'_>, PullError> {
        self.store.begin(Shelf::Images, max).await.map_err(|e| self.store_error(reference, e))
    }

    /// A GET that answers a challenge for a token once. Each answer has to be whole `within` that time.
    async fn get(&self, reference: &Reference, url: &str, within: Duration) -> Result<Response, PullError> {
        let ask = |token: Option<String>| {
            let accept = [
                MediaType::ImageManifest.to_string(),
                MediaType::ImageIndex.to_string(),
                "application/vnd.docker.distribution.manifest.v2+json".to_owned(),
                "application/vnd.docker.distribution.manifest.list.v2+json".to_owned(),
                "*/*".to_owned(),
            ];
            let request = self.http.get(url).timeout(within).header(header::ACCEPT, accept.join(", "));
            token.into_iter().fold(request, |request, token| request.bearer_auth(token)).send()
        };
        let unreachable = |source| PullError::Unreachable { url: url.to_owned(), source };
        let mut response = ask(None).await.map_err(unreachable)?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(challenge) = auth::Challenge::of(response.headers())
        {
            let token = challenge.token(&self.http, reference).await?;
            response = ask(Some(token)).await.map_err(unreachable)?;
        }
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(PullError::Status { url: url.to_owned(), status }),
        }
    }

    fn url(&self, reference: &Reference, what: &str, name: &str) -> String {
        let is_plain = reference.is_loopback() || self.plain.iter().any(|host| host == reference.registry());
        let scheme = if is_plain { "http" } else { "https" };
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

/// A few hops, and never from TLS to none.
fn may_follow(hop: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let began_with_tls = hop.previous().first().is_some_and(|url| url.scheme() == "https");
    if hop.previous().len() > REDIRECTS_MAX {
        hop.error("it is sent on too often")
    } else if began_with_tls && hop.url().scheme() != "https" {
        hop.error("it is sent on to a host without TLS")
    } else {
        hop.follow()
    }
}

fn is_ours(platform: &oci_spec::image::Platform) -> bool {
    *platform.os() == Os::Linux && *platform.architecture() == Arch::Amd64
}

/// A digest as the specification writes it, if it is one that we can check.
pub fn parse_digest(text: &str) -> Option<Digest> {
    let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64)?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(hex, &mut bytes).ok()?;
    Some(Digest(B256::from(bytes)))
}
