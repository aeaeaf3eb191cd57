//! Which layers go when there are too many, or when nobody has used them for long.
//!
//! Invariant: what somebody holds, and what somebody is making, stays, whatever the limits say.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runner::protocol::Digest;

use super::{Layers, LayersError, sealed};
use crate::state_dir::{failed, list};

/// How much is kept for another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheLimits {
    /// Bytes of all sealed layers together.
    pub(crate) bytes_max: u64,
    /// Since a layer was last used.
    pub(crate) age_max: Duration,
}

/// A sealed layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerInfo {
    pub(crate) digest: Digest,
    /// On the disk.
    pub(crate) bytes: u64,
    /// Unix seconds.
    pub(crate) last_used_unix: u64,
    /// It is mounted for somebody.
    pub(crate) held: bool,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Layers.
    pub(crate) removed: u64,
    /// On the disk.
    pub(crate) bytes: u64,
}

// === impl Layers ===

impl Layers {
    /// Every sealed layer.
    pub(crate) fn list(&self) -> Result<Vec<LayerInfo>, LayersError> {
        let table = self.table();
        let mut layers = Vec::new();
        for path in list(&self.state.join("layers"))? {
            let Some(digest) = sealed::digest_of(&path) else { continue };
            let found = fs::symlink_metadata(&path).map_err(failed("look at", &path))?;
            let held = table.mounted.contains_key(&digest);
            let last_used_unix = u64::try_from(found.mtime()).unwrap_or(0);
            layers.push(LayerInfo { digest, bytes: found.blocks() * 512, last_used_unix, held });
        }
        Ok(layers)
    }

    /// Removes what the limits do not allow for.
    pub(crate) fn collect(&self) -> Result<Collected, LayersError> {
        let now_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.remove(&overdue(self.list()?, self.limits, now_unix))
    }

    /// Removes everything that nobody holds.
    pub(crate) fn clean(&self) -> Result<Collected, LayersError> {
        self.remove(&self.list()?)
    }

    fn remove(&self, layers: &[LayerInfo]) -> Result<Collected, LayersError> {
        let mut collected = Collected::default();
        // Whoever wants to hold a layer meanwhile waits, and then finds it gone or keeps it.
        let table = self.table();
        for layer in layers {
            if table.mounted.contains_key(&layer.digest) || table.making.contains(&layer.digest) {
                continue;
            }
            let path = self.sealed(&layer.digest);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed("remove", &path))?,
            }
            tracing::info!(layer = %layer.digest, bytes = layer.bytes, "a layer is removed");
            collected.removed += 1;
            collected.bytes += layer.bytes;
        }
        Ok(collected)
    }
}

/// What is too old, and then what was not used for longest until the rest fits.
fn overdue(mut layers: Vec<LayerInfo>, limits: CacheLimits, now_unix: u64) -> Vec<LayerInfo> {
    let mut bytes: u64 = layers.iter().map(|layer| layer.bytes).sum();
    layers.retain(|layer| !layer.held);
    layers.sort_by_key(|layer| layer.last_used_unix);
    let age_max = limits.age_max.as_secs();
    layers.retain(|layer| {
        let goes = now_unix.saturating_sub(layer.last_used_unix) > age_max || bytes > limits.bytes_max;
        bytes -= if goes { layer.bytes } else { 0 };
        goes
    });
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(number: u8, bytes: u64, last_used_unix: u64, held: bool) -> LayerInfo {
        let digest = format!("sha256:{}", format!("{number:02x}").repeat(32)).parse().expect("a digest");
        LayerInfo { digest, bytes, last_used_unix, held }
    }

    fn check(layers: &[LayerInfo], bytes_max: u64, age_max_s: u64, expected: &[usize]) {
        let limits = CacheLimits { bytes_max, age_max: Duration::from_secs(age_max_s) };
        let expected: Vec<LayerInfo> = expected.iter().map(|at| layers[*at].clone()).collect();
        assert_eq!(overdue(layers.to_vec(), limits, 1000), expected);
    }

    #[test]
    fn the_old_go_first_then_the_least_recently_used_and_never_the_held() {
        let layers = [layer(1, 10, 900, false), layer(2, 10, 100, true), layer(3, 10, 500, false)];
        check(&layers, 30, 1000, &[]);
        check(&layers, 30, 600, &[]);
        check(&layers, 30, 400, &[2]);
        check(&layers, 25, 1000, &[2]);
        check(&layers, 15, 1000, &[2, 0]);
        check(&layers, 0, 1000, &[2, 0]);
        check(&layers, 20, 400, &[2]);
        // A clock that was set back makes nothing old.
        check(&[layer(1, 10, 5000, false)], 10, 0, &[]);
    }
}
