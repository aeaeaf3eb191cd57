//! The owner's settings in effect: applied at the start, the fans steered every second, everything put back at the end.
//!
//! Invariants: what was there before is on disk before anything is changed, and goes from there when it has been put
//! back; so a runner that was killed is followed by one that puts back what the first one changed, before it remembers
//! anything itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gpu::settings::Checked;
use gpu::watch::{SAMPLE_EVERY, Watch};
use gpu::{Applied, Driver, GpuError, GpuUuid, Restore};
use serde::{Deserialize, Serialize};

use super::{state_file, words};

/// In the state directory.
const FILE: &str = "gpu-settings.json";

/// The format that is read and written here.
const FORMAT: u32 = 1;

/// A GPU that has not told its temperature for so long gets the fastest that its curve has.
const BLIND_AFTER: Duration = Duration::from_secs(10);

/// Hotter than any curve.
const HOTTEST_C: u32 = u32::MAX;

/// Settings in effect, and the thread that holds them.
#[derive(Debug)]
pub(super) struct Steering {
    /// Dropping it ends the thread, which puts everything back.
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How GPUs were set before, on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    restore: Vec<Restore>,
}

#[derive(Debug)]
struct Steered {
    gpu: GpuUuid,
    restore: Restore,
    applied: Applied,
    /// The time of the newest sample that was looked at, and when it was new.
    sample: Option<u64>,
    seen: Instant,
    /// The fans did not obey; told once.
    is_deaf: bool,
}

/// Puts back what a runner left that was killed. Answers what could not be put back, and stays to be.
pub(super) fn restore_abandoned(state: &Path, driver: &Driver) -> Vec<Restore> {
    let path = state.join(FILE);
    let abandoned = match state_file::read::<Written>(&path) {
        Ok(None) => return Vec::new(),
        Ok(Some(Written { format: FORMAT, restore })) => restore,
        Ok(Some(Written { format, .. })) => {
            tracing::error!(format, path = %path.display(), "how GPUs were set before is of another format; reboot");
            return Vec::new();
        }
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "how GPUs were set before cannot be read; reboot");
            return Vec::new();
        }
    };
    let put_back = |restore: &Restore| match restore.restore(driver) {
        Ok(()) => {
            tracing::info!(gpu = %restore.gpu, "a GPU is set as it was before an earlier runner");
            true
        }
        // It was taken out, and its settings with it.
        Err(GpuError::NoSuchGpu { .. }) => true,
        Err(error) => {
            tracing::error!(gpu = %restore.gpu, error = words(&error), "a GPU is not set as it was before; reboot");
            false
        }
    };
    let stuck: Vec<Restore> = abandoned.into_iter().filter(|restore| !put_back(restore)).collect();
    keep(&path, &stuck);
    stuck
}

fn keep(path: &Path, restore: &[Restore]) {
    let kept = match restore {
        [] => state_file::remove(path),
        some => state_file::write(path, &Written { format: FORMAT, restore: some.to_vec() }),
    };
    if let Err(error) = kept {
        tracing::error!(%error, path = %path.display(), "how GPUs were set before is not on disk as it should be");
    }
}

// === impl Steering ===

impl Steering {
    /// Puts settings into effect, but for GPUs on which older ones are `stuck`. What a GPU refuses is told in the log,
    /// and costs that GPU's settings alone.
    pub(super) fn begin(
        state: &Path,
        driver: &Arc<Driver>,
        settings: &[Checked],
        stuck: Vec<Restore>,
        watch: Option<Arc<Watch>>,
    ) -> Option<Self> {
        let path = state.join(FILE);
        let free = settings.iter().filter(|settings| stuck.iter().all(|stuck| stuck.gpu != *settings.gpu()));
        let remembered: Vec<(&Checked, Restore)> = free.filter_map(|settings| remember(driver, settings)).collect();
        if remembered.is_empty() {
            return None;
        }
        let all: Vec<Restore> = stuck.iter().chain(remembered.iter().map(|(_, restore)| restore)).cloned().collect();
        if let Err(error) = state_file::write(&path, &Written { format: FORMAT, restore: all }) {
            tracing::error!(%error, path = %path.display(), "no GPU is set: how they were before cannot be kept");
            return None;
        }
        let steered = remembered.into_iter().filter_map(|(settings, restore)| apply(driver, settings, restore));
        let steered: Vec<Steered> = steered.collect();
        let (alive, ended) = channel();
        let run = move || steer(steered, watch.as_deref(), &ended, &path, stuck);
        match thread::Builder::new().name("gpu-settings".to_owned()).spawn(run) {
            Ok(thread) => Some(Self { alive: Some(alive), thread: Some(thread) }),
            Err(error) => {
                tracing::error!(%error, "the GPUs' settings cannot be held");
                None
            }
        }
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, the next runner puts everything back.
            let _ = thread.join();
        }
    }
}

fn remember<'a>(driver: &Driver, settings: &'a Checked) -> Option<(&'a Checked, Restore)> {
    let restore = Restore::remember(driver, settings);
    let told = |error: &GpuError| {
        tracing::error!(gpu = %settings.gpu(), error = words(error), "a GPU is not set: how it is set now is unknown");
    };
    restore.inspect_err(told).ok().map(|restore| (settings, restore))
}

fn apply(driver: &Arc<Driver>, settings: &Checked, restore: Restore) -> Option<Steered> {
    let gpu = settings.gpu().clone();
    match Applied::apply(driver.clone(), settings, restore.clone()) {
        Ok(applied) => {
            tracing::info!(%gpu, ?settings, "a GPU is set as its owner says");
            Some(Steered { gpu, restore, applied, sample: None, seen: Instant::now(), is_deaf: false })
        }
        Err(error) => {
            tracing::error!(%gpu, error = words(&error), "a GPU is not set as its owner says");
            None
        }
    }
}

/// Holds the settings until nobody wants them any more.
fn steer(mut steered: Vec<Steered>, watch: Option<&Watch>, ended: &Receiver<()>, path: &Path, mut stuck: Vec<Restore>) {
    while ended.recv_timeout(SAMPLE_EVERY) == Err(RecvTimeoutError::Timeout) {
        for one in &mut steered {
            one.steer(watch);
        }
    }
    for Steered { gpu, restore, applied, .. } in steered {
        match applied.end() {
            Ok(()) => tracing::info!(%gpu, "a GPU is set as it was before"),
            Err(error) => {
                tracing::error!(%gpu, error = words(&error), "a GPU is not set as it was before; the next start tries");
                stuck.push(restore);
            }
        }
    }
    keep(path, &stuck);
}

// === impl Steered ===

impl Steered {
    fn steer(&mut self, watch: Option<&Watch>) {
        let latest = watch.and_then(|watch| watch.latest(&self.gpu));
        let fresh = latest.filter(|sample| self.sample != Some(sample.at_ms) && sample.gpu_c.is_some());
        let temperature_c = match fresh {
            Some(sample) => {
                (self.sample, self.seen) = (Some(sample.at_ms), Instant::now());
                sample.gpu_c
            }
            None => (self.seen.elapsed() > BLIND_AFTER).then_some(HOTTEST_C),
        };
        let Some(temperature_c) = temperature_c else { return };
        match self.applied.steer_fans(temperature_c) {
            Ok(()) => self.is_deaf = false,
            Err(error) if !self.is_deaf => {
                self.is_deaf = true;
                tracing::error!(gpu = %self.gpu, error = words(&error), "the fans of a GPU cannot be steered");
            }
            Err(_) => {}
        }
    }
}
