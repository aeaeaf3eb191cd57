//! The figures that were measured, on disk, so that they outlive the runner.
//!
//! Invariants: the file is replaced whole or not at all; one that cannot be read is as good as none, since it can be
//! measured again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gpu::GpuUuid;
use runner::protocol::Bench;
use serde::{Deserialize, Serialize};

use super::state_file;

/// In the state directory.
const FILE: &str = "gpu-bench.json";

/// The format that is read and written here.
const FORMAT: u32 = 1;

/// The most GPUs whose figures are kept: four times what a machine has, for those that were taken out. The oldest go.
const KEPT_MAX: usize = 64;

/// What is known of the GPUs of this machine, past and present.
#[derive(Debug)]
pub(super) struct Figures {
    path: PathBuf,
    kept: Mutex<BTreeMap<GpuUuid, Bench>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    gpus: BTreeMap<GpuUuid, Bench>,
}

// === impl Figures ===

impl Figures {
    pub(super) fn open(state: &Path) -> Self {
        let path = state.join(FILE);
        let kept = match state_file::read::<Written>(&path) {
            Ok(None) => BTreeMap::new(),
            Ok(Some(Written { format: FORMAT, gpus })) => gpus,
            Ok(Some(Written { format, .. })) => {
                tracing::warn!(
                    format,
                    "the GPUs' figures are of another format; measure them again with rig bench --run"
                );
                BTreeMap::new()
            }
            Err(error) => {
                tracing::warn!(%error, "the GPUs' figures cannot be read; measure them again with rig bench --run");
                BTreeMap::new()
            }
        };
        Self { path, kept: Mutex::new(kept) }
    }

    pub(super) fn of(&self, gpu: &GpuUuid) -> Option<Bench> {
        self.kept().get(gpu).cloned()
    }

    /// Keeps the figures of a GPU in place of older ones.
    pub(super) fn keep(&self, gpu: GpuUuid, bench: Bench) -> io::Result<()> {
        let mut kept = self.kept();
        kept.insert(gpu, bench);
        while kept.len() > KEPT_MAX {
            let oldest = kept.iter().min_by_key(|(_, bench)| bench.at_unix).map(|(gpu, _)| gpu.clone());
            let Some(oldest) = oldest else { break };
            kept.remove(&oldest);
        }
        state_file::write(&self.path, &Written { format: FORMAT, gpus: kept.clone() })
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<GpuUuid, Bench>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuda::messages::Measured;
    use runner::protocol::Throughput;

    fn bench(at_unix: u64) -> Bench {
        Bench {
            at_unix,
            driver: Some("580.95.05".to_owned()),
            sm_mhz: Some(2520),
            memory_mhz: None,
            bandwidth: Measured {
                device_copy_gb_s: 1.5,
                host_to_device_gb_s: 2.5,
                device_to_host_gb_s: 3.5,
                copied_bytes: 4,
            },
            fp32: Throughput::Tflops(61.25),
            fp16: Throughput::Unknown("no compiler".to_owned()),
        }
    }

    fn gpu(number: usize) -> GpuUuid {
        format!("GPU-{number}").parse().expect("a UUID")
    }

    #[test]
    fn figures_are_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let figures = Figures::open(dir.path());
        assert_eq!(figures.of(&gpu(0)), None);
        figures.keep(gpu(0), bench(7)).expect("kept");
        figures.keep(gpu(1), bench(8)).expect("kept");
        let figures = Figures::open(dir.path());
        assert_eq!((figures.of(&gpu(0)), figures.of(&gpu(1))), (Some(bench(7)), Some(bench(8))));
    }

    #[test]
    fn the_oldest_make_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let figures = Figures::open(dir.path());
        for number in 0..=KEPT_MAX {
            figures.keep(gpu(number), bench(number as u64)).expect("kept");
        }
        assert_eq!((figures.of(&gpu(0)), figures.of(&gpu(1))), (None, Some(bench(1))));
    }

    #[test]
    fn a_file_that_is_damaged_or_of_another_format_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        for text in ["", "{", "[]", r#"{"format":2,"gpus":{}}"#, r#"{"format":1}"#, r#"{"format":1,"gpus":{"x":1}}"#] {
            std::fs::write(dir.path().join(FILE), text).expect("write");
            assert_eq!(Figures::open(dir.path()).of(&gpu(0)), None, "{text}");
        }
    }
}
