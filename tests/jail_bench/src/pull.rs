//! A source's first start on this rig: its image is in a registry, and nothing of it is here.
//!
//! The registry is the distribution's own, on loopback; what pulls from it is the appliance's, into the store that the
//! runner reads. Each round belongs to a source that no round before knew, so that its tag is resolved anew.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use appliance::ledger::{Ledger, TagPins};
use appliance::registry::{Allowed, Found, Registry, parse_digest};
use appliance::store::{Shelf, Store};
use runner::protocol::{Digest, SourceName};
use serde_json::json;
use testbed::registry::Registry as Remote;
use tokio::runtime::{Builder, Runtime};

use crate::bed::{Bed, writable};
use crate::table::Row;
use crate::task_start::{milliseconds, start};

/// Rounds that are counted, besides one that is not.
const ROUNDS: u32 = 5;

/// The largest image that is pulled, in bytes: far above that of the bench.
const IMAGE_BYTES_MAX: u64 = 1 << 30;

/// The tag in the layout and in the registry.
const TAG: &str = "1";

/// The appliance's side of a pull, and the image that it pulls.
#[derive(Debug)]
struct Puller {
    runtime: Runtime,
    registry: Registry,
    store: Arc<Store>,
    /// As a compose file names it.
    image: String,
    /// It ends with this.
    _remote: Remote,
}

/// Pulls `image`, whose blobs are in the content store, and starts `source` from it; answers the rows, and what a reader
/// must know of them. Afterwards the blobs are there again.
pub(crate) fn measure(bed: &Bed, source: &SourceName, image: &Digest) -> Result<(Vec<Row>, String)> {
    let puller = Puller::new(bed, image)?;
    let whole = puller.find("before")?;
    ensure!(whole.manifest.to_string() == image.to_string(), "the registry has {} for {image}", whole.manifest);
    let (mut pulls, mut starts) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        eprintln!("bench: start with a pull, round {round} of {ROUNDS}");
        puller.forget(&whole)?;
        bed.client().collect(true)?;
        let began = Instant::now();
        puller.pull(bed, &format!("round-{round}"), image)?;
        let pulled = milliseconds(began);
        let prepared = bed.client().prepare(source, image)?;
        start(bed, source, image, writable(&["/inside", "serve", "8080"]))?;
        let started = milliseconds(began);
        bed.client().stop(source, Duration::ZERO)?;
        ensure!(!prepared.already, "the image was sealed before it was pulled");
        if round > 0 {
            pulls.push(pulled);
            starts.push(started);
        }
    }
    let rows = vec![
        Row::new(
            "cold source with pull, unpack and seal",
            "ms",
            starts,
            "as with unpack and seal; the pull below adds to it",
        ),
        Row::new(
            "of which the pull: find, missing, fetch",
            "ms",
            pulls,
            "receiving, hashing, writing in turn, then fsync",
        ),
    ];
    let bytes: u64 = whole.layers.iter().map(|(_, bytes)| bytes).sum();
    let note = format!(
        "pull: {} layers, {bytes} bytes, by HTTP from a docker-registry on loopback that has them in the page cache; no \
         network and no TLS is in it",
        whole.layers.len()
    );
    Ok((rows, note))
}

// === impl Puller ===

impl Puller {
    fn new(bed: &Bed, image: &Digest) -> Result<Self> {
        // As many workers as the provider has.
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let remote = runtime.block_on(Remote::start())?;
        let name = format!("{}/openreef/bench:{TAG}", remote.host);
        push(&bed.rig.content(), &bed.path("pull-layout"), image, &name)?;
        let store = Arc::new(Store::open(&bed.rig.content())?);
        let ledger = bed.path("ledger.db");
        drop(Ledger::open(&ledger)?);
        let allowed = Allowed { plain: Vec::new(), loopback: true };
        let registry = Registry::new(store.clone(), TagPins::open(&ledger)?, allowed, IMAGE_BYTES_MAX)?;
        Ok(Self { runtime, registry, store, image: name, _remote: remote })
    }

    fn find(&self, source: &str) -> Result<Found> {
        Ok(self.runtime.block_on(self.registry.find(source, &self.image))?)
    }

    /// All that the provider does before it has an image unpacked.
    fn pull(&self, bed: &Bed, source: &str, image: &Digest) -> Result<()> {
        let found = self.find(source)?;
        let missing = bed.client().missing(image)?;
        let missing = missing.iter().filter_map(|layer| parse_digest(&layer.to_string())).collect();
        let pulled = self.runtime.block_on(self.registry.fetch(&found, &missing, &|_| {}))?;
        let whole: u64 = found.layers.iter().map(|(_, bytes)| bytes).sum();
        ensure!(
            pulled.bytes == whole && pulled.fetched_bytes > whole,
            "only {} of {whole} bytes had to be fetched",
            pulled.fetched_bytes
        );
        Ok(())
    }

    /// Removes all of the image from the content store.
    fn forget(&self, whole: &Found) -> Result<()> {
        let layers = whole.layers.iter().map(|(layer, _)| *layer);
        for blob in layers.chain([whole.manifest, whole.config]) {
            self.runtime.block_on(self.store.remove(Shelf::Images, blob))?;
        }
        Ok(())
    }
}

/// Pushes an image of the content store, as it is, to `name`.
fn push(content: &Path, layout: &Path, image: &Digest, name: &str) -> Result<()> {
    std::fs::create_dir(layout)?;
    symlink(content.join("blobs"), layout.join("blobs"))?;
    let bytes = std::fs::metadata(content.join("blobs/sha256").join(image.hex()))?.len();
    let manifest = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image, "size": bytes,
        "annotations": { "org.opencontainers.image.ref.name": TAG },
    });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(layout.join("index.json"), index.to_string())?;
    std::fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    let pushed = Command::new("skopeo")
        // Without the first a layer that is not packed would be packed on the way, and the image another one.
        .args(["copy", "--preserve-digests", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
        .args([format!("oci:{}:{TAG}", layout.display()), format!("docker://{name}")])
        .stdin(Stdio::null())
        .output()
        .context("run skopeo; tests/setup.sh installs it")?;
    ensure!(pushed.status.success(), "push {image}: {}", String::from_utf8_lossy(&pushed.stderr).trim());
    Ok(())
}
