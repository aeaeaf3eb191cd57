//! What callers set through NVML, kept on disk beside the script, so that it outlives the process as a driver's
//! settings do, and a test can see whether a rig put everything back.
//!
//! Invariants: what equals the GPU's default is not kept, so a state without settings is a machine as it came;
//! `calls` keeps every change in order, also those that led back. Writers hold a lock on a file beside it, and the
//! state is replaced by a rename: a reader never sees half of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// More changes than any test makes; the oldest are dropped.
const CALLS_MAX: usize = 4096;

/// All settings of all GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// Every change, oldest first: `UUID: what`.
    pub calls: Vec<String>,
    /// By UUID.
    pub gpus: BTreeMap<String, Settings>,
}

/// The settings of one GPU that differ from its default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Milliwatts.
    pub power_limit_mw: Option<u32>,
    /// Lowest and highest, MHz.
    pub gpu_clocks_mhz: Option<[u32; 2]>,
    /// Lowest and highest, MHz.
    pub memory_clocks_mhz: Option<[u32; 2]>,
    /// Percent, by the fan's number; a fan that is not in the map is driven by the GPU.
    pub fans_percent: BTreeMap<String, u32>,
    /// NVML's number of the compute mode.
    pub compute_mode: Option<u32>,
    /// Whether the driver stays loaded without clients.
    pub persistence: bool,
}

/// A state that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file or its lock.
    #[error("the state file {path} cannot be used")]
    File {
        /// The state's path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not the TOML that was written.
    #[error("the state file {path} is damaged; remove it")]
    Format {
        /// The state's path.
        path: String,
        /// Why.
        #[source]
        source: toml::de::Error,
    },
}

// === impl State ===

impl State {
    /// The state that belongs to a script or library: the same path with `.state` behind it.
    #[must_use]
    pub fn path_of(script: &Path) -> PathBuf {
        let mut name = script.as_os_str().to_owned();
        name.push(".state");
        PathBuf::from(name)
    }

    /// Reads the state at `path`; without a file nothing was ever set.
    pub fn read(path: &Path) -> Result<State, StateError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(source) => return Err(StateError::File { path: path.display().to_string(), source }),
        };
        toml::from_str(&text).map_err(|source| StateError::Format { path: path.display().to_string(), source })
    }

    /// The settings of the GPU `uuid`.
    #[must_use]
    pub fn settings(&self, uuid: &str) -> Settings {
        self.gpus.get(uuid).cloned().unwrap_or_default()
    }

    /// Whether every GPU is as it came.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.gpus.values().all(|settings| *settings == Settings::default())
    }

    /// Changes the settings of the GPU `uuid` at `path` and notes `call`. One writer at a time, over all processes.
    pub fn change(path: &Path, uuid: &str, call: &str, change: impl FnOnce(&mut Settings)) -> Result<(), StateError> {
        let file = |source| StateError::File { path: path.display().to_string(), source };
        let lock = File::create(with(path, ".lock")).map_err(file)?;
        lock.lock().map_err(file)?;
        let mut state = State::read(path)?;
        change(state.gpus.entry(uuid.to_owned()).or_default());
        state.calls.push(format!("{uuid}: {call}"));
        let extra = state.calls.len().saturating_sub(CALLS_MAX);
        state.calls.drain(..extra);
        let text = toml::to_string(&state).expect("a state has string keys and 32-bit numbers only");
        let fresh = with(path, ".new");
        fs::write(&fresh, text).map_err(file)?;
        fs::rename(&fresh, path).map_err(file)
    }
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_kept_and_what_was_put_back_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = State::path_of(&dir.path().join("script.toml"));
        assert_eq!(State::read(&path).expect("no file is no settings"), State::default());

        State::change(&path, "GPU-a", "power limit 200000", |gpu| gpu.power_limit_mw = Some(200_000)).expect("changed");
        State::change(&path, "GPU-a", "fan 1 80", |gpu| gpu.fans_percent = [("1".to_owned(), 80)].into())
            .expect("changed");
        let state = State::read(&path).expect("readable");
        assert_eq!(state.settings("GPU-a").power_limit_mw, Some(200_000));
        assert_eq!(state.settings("GPU-a").fans_percent.get("1"), Some(&80));
        assert_eq!(state.settings("GPU-b"), Settings::default());
        assert!(!state.is_default());

        State::change(&path, "GPU-a", "power limit default", |gpu| gpu.power_limit_mw = None).expect("changed");
        State::change(&path, "GPU-a", "fan 1 automatic", |gpu| gpu.fans_percent.clear()).expect("changed");
        let state = State::read(&path).expect("readable");
        assert!(state.is_default());
        assert_eq!(state.calls.len(), 4);
    }

    #[test]
    fn a_damaged_state_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        std::fs::write(&path, "calls = 3").expect("written");
        assert!(matches!(State::read(&path), Err(StateError::Format { .. })));
    }
}
