//! What of a source this rig runs: the kernel bundle that its compose file names, or the services.
//!
//! A bundle is run where the source is served for NVIDIA and a GPU is there. Containers get no GPU, so a file for NVIDIA
//! without a bundle is not run at all; the source's file for the processor is, where there is one and the rig offers that.

use serde::Deserialize;
use work::SourceId;
use work::source::Environment;
use work::step::Trouble;

use super::super::{Performer, trouble_of};
use crate::chain_of;
use crate::compose::{COMPOSE_BYTES_MAX, ComposeError, Cuda, Offer, Plan, SERVICE_PORT};
use crate::gpus::NoGpus;

/// The largest metadata document that is read, in bytes.
const METADATA_BYTES_MAX: u64 = 256 * 1024;

/// What the owner is told of a source for NVIDIA that this release cannot serve.
const NO_BUNDLE: &str =
    "its compose file for nvidia names no kernel bundle (x-cuda), and this release gives containers no GPU";

/// What the owner is told of a source that runs by its other file.
const CPU_INSTEAD: &str = "its compose file for cpu is run: the one for nvidia names no kernel bundle (x-cuda), and this \
    release gives containers no GPU";

/// What is told of a file for another environment that has a bundle only.
const BUNDLE_ONLY: &str = "its compose file has a kernel bundle for an NVIDIA GPU and no services";

/// What this rig runs of a source.
#[derive(Debug)]
pub(super) enum Served {
    /// Its kernel bundle.
    Bundle(Cuda),
    /// Its services.
    Containers {
        /// Which.
        plan: Plan,
        /// The environment whose file that is, if it is not the one that was asked for.
        instead: Option<Environment>,
    },
}

/// What a source says of itself. Source: `SourceMetadata` of the SDK; the three keys are hard-coded in provider software.
#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    cpu: String,
    #[serde(default)]
    nvidia: String,
    #[serde(default)]
    amd: String,
}

impl Metadata {
    fn compose_url(&self, environment: Environment) -> &str {
        match environment {
            Environment::Cpu => &self.cpu,
            Environment::Nvidia => &self.nvidia,
            Environment::Amd => &self.amd,
        }
    }
}

// === impl Performer ===

impl Performer {
    /// Reads the metadata and the compose file behind it, and says what of them is run.
    pub(super) async fn served(
        &self,
        source: SourceId,
        metadata_url: &str,
        environment: Environment,
    ) -> Result<Served, Trouble> {
        let metadata = self.metadata(metadata_url).await?;
        let file = self.compose(&metadata, environment).await?;
        let offer = Offer {
            port: SERVICE_PORT,
            callback_url: self.containers.callback_url(source),
            source_address: source.to_string(),
            provider_address: self.me.to_string(),
        };
        let allow = self.policies.of(source).allow;
        let bad = |error: ComposeError| Trouble::lasting(error.to_string());
        let services = |file: &str, without| services(Plan::parse(file, &offer, &allow).map_err(bad)?, without);
        if environment != Environment::Nvidia {
            let plan = services(&file, Without::Environment)?;
            return Ok(Served::Containers { plan, instead: None });
        }
        let Some(cuda) = Cuda::find(&file, &offer).map_err(bad)? else {
            if metadata.cpu.is_empty() || !self.environments.has(Environment::Cpu) {
                return Err(Trouble::lasting(NO_BUNDLE));
            }
            let file = self.compose(&metadata, Environment::Cpu).await?;
            let mut plan = services(&file, Without::Environment)?;
            plan.notes.push(CPU_INSTEAD.to_owned());
            return Ok(Served::Containers { plan, instead: Some(Environment::Cpu) });
        };
        match self.direct.gpus().await {
            Ok(_) => Ok(Served::Bundle(cuda)),
            // Nothing is known of GPUs, and services need the runner too.
            Err(error @ NoGpus::Unasked(_)) => Err(Trouble::passing(chain_of(&error))),
            Err(NoGpus::None(why)) => {
                Ok(Served::Containers { plan: services(&file, Without::Gpu(why))?, instead: None })
            }
        }
    }

    async fn metadata(&self, url: &str) -> Result<Metadata, Trouble> {
        let metadata = self.content.fetch(url, METADATA_BYTES_MAX).await;
        let metadata = metadata.map_err(|e| trouble_of(&e, e.is_final()))?;
        serde_json::from_slice(&metadata)
            .map_err(|e| Trouble::lasting(format!("its metadata {url} is not a metadata document: {e}")))
    }

    async fn compose(&self, metadata: &Metadata, environment: Environment) -> Result<String, Trouble> {
        let url = metadata.compose_url(environment);
        if url.is_empty() {
            return Err(Trouble::lasting(format!("its metadata names no compose file for {environment}")));
        }
        let compose = self.content.fetch(url, COMPOSE_BYTES_MAX).await;
        let compose = compose.map_err(|e| trouble_of(&e, e.is_final()))?;
        let compose = std::str::from_utf8(&compose);
        let compose = compose.map_err(|_| Trouble::lasting(format!("its compose file {url} is not UTF-8")))?;
        Ok(compose.to_owned())
    }
}

/// Why services are run and not a bundle.
enum Without {
    /// The source is not served for NVIDIA.
    Environment,
    /// No GPU is there.
    Gpu(String),
}

/// The services of a plan, with a note if it has a bundle too. Errors: it has no services.
fn services(mut plan: Plan, without: Without) -> Result<Plan, Trouble> {
    match without {
        Without::Environment if plan.services.is_empty() => Err(Trouble::lasting(BUNDLE_ONLY)),
        Without::Gpu(why) if plan.services.is_empty() => {
            Err(Trouble::passing(format!("{BUNDLE_ONLY}, and no GPU is offered: {why}")))
        }
        Without::Environment => Ok(plan),
        Without::Gpu(why) => {
            plan.notes.push(format!("its services are run in place of its kernel bundle: {why}"));
            Ok(plan)
        }
    }
}

#[cfg(test)]
mod tests {
    use work::step::TroubleKind;

    use super::*;
    use crate::compose::Exceptions;

    fn plan(text: &str) -> Plan {
        let offer = Offer {
            port: SERVICE_PORT,
            callback_url: "http://host.docker.internal:20000/t/task".into(),
            source_address: "0xS".into(),
            provider_address: "0xP".into(),
        };
        Plan::parse(text, &offer, &Exceptions::default()).expect(text)
    }

    #[test]
    fn a_bundle_without_services_waits_for_a_gpu_or_is_refused() {
        let only = plan("{services: {}, x-cuda: {bundle: b}}");
        let trouble = services(only.clone(), Without::Environment).expect_err("refused");
        assert_eq!((trouble.kind, trouble.why.as_str()), (TroubleKind::Final, BUNDLE_ONLY));
        let trouble = services(only, Without::Gpu("it is reset".into())).expect_err("not now");
        assert_eq!(trouble.kind, TroubleKind::Passing);
        assert!(trouble.why.ends_with("no GPU is offered: it is reset"), "{trouble}");
    }

    #[test]
    fn services_beside_a_bundle_run_where_it_cannot() {
        let both = plan("{services: {a: {image: i}}, x-cuda: {bundle: b}}");
        let without_gpu = services(both.clone(), Without::Gpu("there is none".into())).expect("services");
        assert_eq!(without_gpu.notes.len(), both.notes.len() + 1);
        assert_eq!(services(both.clone(), Without::Environment).expect("services"), both);
    }
}
