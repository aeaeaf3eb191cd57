//! The machine's GPUs, as the runner sees them: asked here, never held.
//!
//! Invariant: with `enabled = false` in `[gpu]` the rig behaves as if there were none, and the runner is asked only when
//! a person asks us.

use std::time::Duration;

use gpu::health::State;
use gpu::{Gpu, GpuUuid};
use runner::client::{Client, ClientError};
use runner::protocol::Gpus as Report;
use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::Instant;

use crate::chain_of;

/// How long the runner is waited for at a start: both are started together, and it makes the machine ready first.
const PATIENCE: Duration = Duration::from_secs(15);

/// Time between two tries while it is waited for.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// The way to the GPUs.
#[derive(Clone, Debug)]
pub struct Gpus {
    runner: Client,
    is_enabled: bool,
}

/// Why no GPU is offered.
#[derive(Debug, Error)]
pub enum NoGpus {
    /// The runner did not say.
    #[error("ask the runner for its GPUs")]
    Unasked(#[from] ClientError),
    /// There is none that runs a bundle.
    #[error("{0}")]
    None(String),
}

// === impl Gpus ===

impl Gpus {
    /// The GPUs of the machine that `runner` runs on, if the owner has them used.
    pub fn new(runner: Client, is_enabled: bool) -> Gpus {
        Gpus { runner, is_enabled }
    }

    /// The GPUs, if a bundle can run here. Whether one of them is offered at this moment is in the report.
    /// Errors: there is none, or the owner does not have it used, or the runner does not say.
    pub async fn usable(&self) -> Result<Report, NoGpus> {
        if !self.is_enabled {
            return Err(NoGpus::None("GPUs are not used (enabled = false in [gpu] of rig.toml)".to_owned()));
        }
        let report = self.ask(Client::gpus).await?;
        match &report.why {
            Some(why) => Err(NoGpus::None(why.clone())),
            None if report.gpus.is_empty() => Err(NoGpus::None("this machine has no GPU".to_owned())),
            None => Ok(report),
        }
    }

    /// The same at a start, when the runner may still be on its way up: a runner that is not there is asked again for a
    /// while.
    pub async fn usable_at_start(&self) -> Result<Report, NoGpus> {
        self.usable_within(PATIENCE).await
    }

    async fn usable_within(&self, patience: Duration) -> Result<Report, NoGpus> {
        let until = Instant::now() + patience;
        loop {
            match self.usable().await {
                Err(NoGpus::Unasked(ClientError::Unreachable { .. })) if Instant::now() < until => {
                    tokio::time::sleep(ASK_EVERY).await;
                }
                answer => return answer,
            }
        }
    }

    /// The answer to `rig gpu`: what the runner says, word for word.
    pub async fn show(&self) -> Value {
        shown(self.ask(Client::gpus).await)
    }

    /// The answer to `rig gpu retry`: GPUs that were given up are tried again, and this is how they are now.
    pub async fn retry(&self) -> Value {
        shown(self.ask(Client::retry_gpus).await)
    }

    /// The answer to `rig bench`: what a GPU, or any that is idle, was just measured to do.
    pub async fn measure(&self, gpu: Option<GpuUuid>) -> Value {
        shown(self.ask(|runner| runner.measure(gpu)).await)
    }

    /// The runner's client blocks; this is where it may.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let runner = self.runner.clone();
        tokio::task::spawn_blocking(move || question(&runner)).await.expect("the runner's client does not panic")
    }
}

fn shown(answer: Result<impl Serialize, ClientError>) -> Value {
    let answer = answer.map_err(|error| chain_of(&error));
    let answer = answer.and_then(|report| serde_json::to_value(report).map_err(|error| chain_of(&error)));
    let refused = |error| json!({ "error": error, "next": "look at its log: journalctl -u rig-runner" });
    answer.unwrap_or_else(refused)
}

/// The architecture of a GPU; `None` if its board does not say.
pub(crate) fn arch_of(gpu: &Gpu) -> Option<bundle::Arch> {
    // The minor part is one digit by the format of these numbers.
    let known = gpu.compute_capability.filter(|cc| cc.major < 100 && cc.minor < 10);
    known.map(|cc| bundle::Arch::new(cc.major, cc.minor))
}

/// Why a GPU will not come to be offered without a person; `None` if it may.
pub(crate) fn out_of_service(state: &State) -> Option<&str> {
    match state {
        State::Withdrawn { why, .. } | State::GaveUp { why } => Some(why),
        State::Unproven { .. }
        | State::Offered
        | State::Busy { .. }
        | State::Suspect { .. }
        | State::NeedsReset { .. } => None,
    }
}

/// GPUs for tests.
#[cfg(test)]
pub(crate) mod samples {
    use gpu::inventory::{ComputeCapability, PcieLink, PowerLimits, TemperatureLimits};
    use runner::protocol::GpuReport;

    use super::*;

    pub(crate) fn gpu(index: u32, model: &str, capability: Option<(u32, u32)>) -> Gpu {
        Gpu {
            index,
            minor: Some(index),
            uuid: format!("GPU-{index}").parse().expect("a UUID"),
            model: model.to_owned(),
            pci_bus_id: None,
            serial: None,
            vbios_version: None,
            vram_bytes: Some(8 << 30),
            compute_capability: capability.map(|(major, minor)| ComputeCapability { major, minor }),
            pcie: PcieLink::default(),
            power: PowerLimits::default(),
            temperature_limits: TemperatureLimits::default(),
            ecc: None,
            mig: None,
            is_persistent: None,
            fans: None,
        }
    }

    /// Offered GPUs of these models and capabilities, by a driver for CUDA 12.8, with a compiler.
    pub(crate) fn gpus(all: &[(&str, Option<(u32, u32)>)]) -> Report {
        let gpus = (0..).zip(all).map(|(index, (model, capability))| GpuReport {
            gpu: gpu(index, model, *capability),
            state: State::Offered,
            warm: None,
            sample: None,
            bench: None,
        });
        Report {
            driver: Some("570.1".to_owned()),
            cuda: Some(bundle::Version::new(12, 8)),
            compiler: Some(bundle::Version::new(12, 9)),
            why: None,
            gpus: gpus.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_runner_that_never_comes_is_waited_for_no_longer_than_that() {
        let nowhere = Client::new("/nonexistent/runner.sock");
        let answer = Gpus::new(nowhere.clone(), true).usable_within(Duration::from_millis(1)).await;
        assert!(matches!(answer, Err(NoGpus::Unasked(ClientError::Unreachable { .. }))), "{answer:?}");
        let shown = Gpus::new(nowhere, true).show().await;
        assert!(shown["error"].as_str().is_some_and(|why| why.contains("/nonexistent/runner.sock")), "{shown}");
    }

    #[tokio::test]
    async fn with_gpus_turned_off_the_runner_is_not_asked() {
        let answer = Gpus::new(Client::new("/nonexistent/runner.sock"), false).usable_at_start().await;
        assert!(matches!(answer, Err(NoGpus::None(why)) if why.contains("enabled = false")));
    }

    #[test]
    fn an_architecture_is_known_where_the_board_says_it() {
        let check = |capability, expected: Option<&str>| {
            let arch = arch_of(&samples::gpu(0, "A GPU", capability));
            assert_eq!(arch.map(|arch| arch.to_string()).as_deref(), expected, "{capability:?}");
        };
        check(Some((9, 0)), Some("sm_90"));
        check(Some((12, 1)), Some("sm_121"));
        check(Some((8, 10)), None);
        check(Some((u32::MAX, 0)), None);
        check(None, None);
    }
}
