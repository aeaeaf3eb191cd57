//! From the bytes that a run left to a response in the store, and what is told of it in the receipt.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use bundle::{Answer, Determinism, Metric, Parameters, Plan, Publish};
use cuda::messages::Ran;
use gpu::GpuUuid;
use runner::memory;
use sha2::{Digest as _, Sha256};
use work::task::Descriptor;
use work::{Digest, TaskId};

use super::{Direct, DirectError, Loaded, Returned, blocking, digest_of};
use crate::gpus::arch_of;
use crate::store::Shelf;

/// The file name under which an output is published.
const OUTPUT_NAME: &str = "output.bin";

/// How often an output is published at most: what has run should not be lost to a moment's weather.
const PUBLISH_TRIES: u32 = 3;

/// Pause before it is published again.
const PUBLISH_PAUSE: Duration = Duration::from_secs(1);

/// What a run left.
pub(super) struct Left {
    pub(super) loaded: Arc<Loaded>,
    pub(super) function: String,
    pub(super) parameters: Parameters,
    pub(super) plan: Plan,
    /// The output buffers, one behind the other in sealed memory.
    pub(super) outputs: OwnedFd,
    pub(super) ran: Ran,
    pub(super) gpu: GpuUuid,
}

// === impl Direct ===

impl Direct {
    /// Makes the response, publishes what of it goes by link, and puts it on the task's shelf.
    pub(super) async fn keep(&self, task: TaskId, left: Left) -> Result<Returned, DirectError> {
        let (Answer { mut json, publish }, descriptor) = blocking(move || left.answer()).await?;
        for Publish { pointer, bytes } in publish {
            let link = self.publish(bytes).await?;
            if let Some(place) = json.pointer_mut(&pointer) {
                *place = link.into();
            }
        }
        let response = blocking(move || json.to_string().into_bytes()).await;
        let bytes = u64::try_from(response.len()).unwrap_or(u64::MAX);
        if bytes > self.result_bytes_max {
            return Err(DirectError::ResultTooBig { bytes, max: self.result_bytes_max });
        }
        let digest = self.store.put(Shelf::Task(task), &response).await?;
        Ok(Returned { digest, bytes, descriptor })
    }

    /// Publishes an output; answers its link.
    async fn publish(&self, bytes: Vec<u8>) -> Result<String, DirectError> {
        let payload = chain::content::Payload::from(bytes);
        let mut tries = 1;
        loop {
            match self.content.pin(OUTPUT_NAME, "application/octet-stream", payload.clone()).await {
                Ok(link) => return Ok(link.url.to_string()),
                Err(error) if error.is_final() || tries >= PUBLISH_TRIES => return Err(DirectError::Publish(error)),
                Err(error) => tracing::debug!(%error, "an output is published again"),
            }
            tries += 1;
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
    }
}

// === impl Left ===

impl Left {
    fn answer(self) -> Result<(Answer, Descriptor), DirectError> {
        let Left { loaded, function: name, parameters, plan, outputs, ran, gpu } = self;
        let outputs = memory::read("outputs", outputs, plan.output_bytes())?;
        let Some(function) = loaded.bundle.function(&name) else { return Err(DirectError::NotLoaded) };
        let answer = function.respond(&parameters, &outputs, &ran.marks_ms).map_err(DirectError::Respond)?;
        let report = loaded.gpus.gpus.iter().find(|report| report.gpu.uuid == gpu);
        let descriptor = Descriptor {
            bundle: digest_of(loaded.bundle.digest()),
            plan: digest_of(plan.digest()),
            determinism: promise(function.determinism()),
            gpu: gpu.to_string(),
            model: report.map(|report| report.gpu.model.clone()),
            arch: report.and_then(|report| arch_of(&report.gpu)).map(|arch| arch.to_string()),
            driver: loaded.gpus.driver.clone(),
            cuda: loaded.gpus.cuda.map(|version| version.to_string()),
            compiler: loaded.gpus.compiler.filter(|_| loaded.has_ptx()).map(|version| version.to_string()),
            outputs: digests(&plan, &outputs),
        };
        Ok((answer, descriptor))
    }
}

/// What a function's author promises of two runs, in words.
fn promise(determinism: Determinism) -> String {
    match determinism {
        Determinism::BitwiseAny => "bitwise-any".to_owned(),
        Determinism::BitwiseSameClass => "bitwise-same-class".to_owned(),
        Determinism::None => "none".to_owned(),
        Determinism::Tolerance { tolerance, metric: Metric::Relative } => format!("tolerance {tolerance} relative"),
        Determinism::Tolerance { tolerance, metric: Metric::Absolute } => format!("tolerance {tolerance} absolute"),
    }
}

/// SHA-256 of each output buffer. `outputs` are as long as the plan says.
fn digests(plan: &Plan, outputs: &[u8]) -> BTreeMap<String, Digest> {
    let mut rest = outputs;
    let buffers = plan.outputs().map(|buffer| {
        let bytes = usize::try_from(buffer.bytes).unwrap_or(usize::MAX);
        let (own, behind) = rest.split_at(bytes.min(rest.len()));
        rest = behind;
        let hash: [u8; 32] = Sha256::digest(own).into();
        (buffer.name.clone(), Digest(B256::from(hash)))
    });
    buffers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_author_promises_is_said_in_words() {
        let tolerance = |metric| Determinism::Tolerance { tolerance: 1e-4, metric };
        for (determinism, words) in [
            (Determinism::BitwiseAny, "bitwise-any"),
            (Determinism::BitwiseSameClass, "bitwise-same-class"),
            (Determinism::None, "none"),
            (tolerance(Metric::Relative), "tolerance 0.0001 relative"),
            (tolerance(Metric::Absolute), "tolerance 0.0001 absolute"),
        ] {
            assert_eq!(promise(determinism), words);
        }
    }
}
