//! Images of sources: what is missing, what is prepared, and what of the sealed layers may go.
//!
//! Invariant: layers are collected only here and by the asker's word, never one that a jail stands on.

use runner::image::Content;
use runner::layer::{Bounds, ENTRIES_MAX};
use runner::protocol::{CachedLayer, Digest, LAYERS_LISTED_MAX, Prepared, Refusal, Reply, SourceName};

use super::launch::jail_failed;
use super::{Sources, internal};
use crate::layers::{LayerInfo, LayersError};

// === impl Sources ===

impl Sources {
    /// The layers of an image that are not sealed here.
    pub(crate) fn missing(&self, manifest: &Digest) -> Result<Vec<Digest>, Refusal> {
        let mut missing = Vec::new();
        for layer in self.content.image(manifest)?.layers {
            if !self.layers.has(&layer.digest) && !missing.contains(&layer.digest) {
                missing.push(layer.digest);
            }
        }
        Ok(missing)
    }

    pub(crate) fn prepare(&self, source: &SourceName, manifest: &Digest) -> Result<Prepared, Refusal> {
        super::refuse_own(source)?;
        self.prepare_from(&self.content, source, manifest)
    }

    /// The same, of an image of the runner's own.
    pub(crate) fn prepare_own(&self, source: &SourceName, manifest: &Digest) -> Result<Prepared, Refusal> {
        self.prepare_from(&self.own, source, manifest)
    }

    fn prepare_from(&self, content: &Content, source: &SourceName, manifest: &Digest) -> Result<Prepared, Refusal> {
        let (slot, _turn) = self.slots.image_turn(source).map_err(|error| internal(&error))?;
        let image = content.image(manifest)?;
        // Before rather than after: what this image needs is the last that may go.
        self.layers.collect().map_err(|error| internal(&error))?;
        let mut left = Bounds { bytes: self.unpacked_bytes_max, entries: ENTRIES_MAX };
        let mut prepared = Prepared { bytes: 0, entries: 0, already: true };
        for (number, layer) in image.layers.iter().enumerate() {
            let kept = self.layers.keep(slot, layer, content, left);
            let kept = kept.map_err(|error| layer_refused(number, error))?;
            left.bytes = left.bytes.saturating_sub(kept.weight.bytes);
            left.entries = left.entries.saturating_sub(kept.weight.entries);
            prepared.bytes += kept.bytes;
            prepared.entries += kept.entries;
            prepared.already &= kept.already;
        }
        Ok(prepared)
    }

    pub(crate) fn cached(&self) -> Result<Reply, Refusal> {
        let mut all = self.layers.list().map_err(|error| internal(&error))?;
        all.sort_by_key(|layer| std::cmp::Reverse(layer.last_used_unix));
        let (count, bytes) = (all.len() as u64, all.iter().map(|layer| layer.bytes).sum());
        let layers = all.into_iter().take(LAYERS_LISTED_MAX).map(|layer| {
            let LayerInfo { digest, bytes, last_used_unix, held } = layer;
            CachedLayer { digest, bytes, last_used_unix, held }
        });
        Ok(Reply::Layers { layers: layers.collect(), count, bytes })
    }

    pub(crate) fn collect(&self, everything: bool) -> Result<Reply, Refusal> {
        let collected = if everything { self.layers.clean() } else { self.layers.collect() };
        let collected = collected.map_err(|error| internal(&error))?;
        Ok(Reply::Collected { layers: collected.removed, bytes: collected.bytes })
    }
}

/// What a caller is told of a layer that cannot be had; `number` counts from the lowest, from 0.
fn layer_refused(number: usize, error: LayersError) -> Refusal {
    match error {
        LayersError::Blob(refusal) => refusal,
        LayersError::Refused { detail } => Refusal::BadImage { detail: format!("layer {number}: {detail}") },
        LayersError::DiffId { expected, found } => match format!("sha256:{found}").parse() {
            Ok(found) => Refusal::DigestMismatch { object: format!("layer {number}"), expected, found },
            Err(_) => Refusal::Internal { detail: "the unpacker answered no digest".to_owned() },
        },
        LayersError::Step(failure) => jail_failed(failure),
        other => internal(&other),
    }
}
