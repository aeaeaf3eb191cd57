//! GPUs that are looked for while the runner already serves containers: a driver that hangs takes nothing else with it.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Direct, SettingsFileError};

/// How long the runner waits for its GPUs before it serves without them: a driver without any client takes a few seconds
/// for each GPU.
const WITHIN: Duration = Duration::from_secs(45);

/// What there is of GPUs by now.
#[derive(Debug)]
pub(crate) struct Late {
    found: OnceLock<Direct>,
    meanwhile: Direct,
}

// === impl Late ===

impl Late {
    /// What is known at once.
    pub(crate) fn known(direct: Direct) -> Arc<Self> {
        Arc::new(Self { found: OnceLock::new(), meanwhile: direct })
    }

    /// Looks on a thread of its own, and waits for it as long as a sound driver takes.
    ///
    /// Errors: a value of the settings that a GPU does not take, if that is known in time; later it is only logged.
    pub(crate) fn look(
        look: impl FnOnce() -> Result<Direct, SettingsFileError> + Send + 'static,
    ) -> Result<Arc<Self>, SettingsFileError> {
        let late = Self::known(Direct::looking());
        let (told, hear) = sync_channel(1);
        let finding = late.clone();
        let thread = std::thread::Builder::new().name("gpus".to_owned());
        let began = thread.spawn(move || {
            let found = look().map(|direct| drop(finding.found.set(direct)));
            if let Err(unheard) = told.send(found)
                && let Err(error) = unheard.0
            {
                tracing::error!(%error, "the GPUs are not set, and none is offered");
            }
        });
        if let Err(error) = began {
            tracing::error!(%error, "no GPU is looked for");
            return Ok(late);
        }
        match hear.recv_timeout(WITHIN) {
            Ok(found) => found?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                tracing::warn!("the driver takes long; the runner serves without GPUs until it answers");
            }
        }
        Ok(late)
    }

    /// What there is now.
    pub(crate) fn now(&self) -> &Direct {
        self.found.get().unwrap_or(&self.meanwhile)
    }
}
