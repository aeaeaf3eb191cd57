//! Sources: from a link on chain to a container that answers, and onto the contract's list.

use std::time::Duration;

use alloy::sol_types::SolCall;
use chain::abi::Nexus;
use chain::read;
use runner::protocol::{Limits, ServiceSpec};
use serde::Deserialize;
use tracing::{info, warn};
use work::source::{Environment, SourceReading};
use work::step::Trouble;
use work::{News, SourceId};

use super::{Performer, READ_BACK_EVERY, READ_BACK_TRIES, trouble_of, weather};
use crate::compose::{COMPOSE_BYTES_MAX, Offer, Plan, SERVICE_PORT};
use crate::container::ContainerError;

/// The largest metadata document that is read, in bytes.
const METADATA_BYTES_MAX: u64 = 256 * 1024;

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

impl Performer {
    /// Fetches, checks, unpacks and starts a source. Doing it again with nothing changed does nothing.
    pub(super) async fn prepare(
        &self,
        source: SourceId,
        metadata_url: &str,
        environment: Environment,
        updated_at: u64,
    ) -> Result<News, Trouble> {
        let plan = self.plan(source, metadata_url, environment).await?;
        for note in &plan.notes {
            info!(%source, note, "compose key is ignored");
        }
        let name = source.to_string();
        let pulled = self.registry.pull(&name, &plan.image).await.map_err(|e| trouble_of(&e, e.is_final()))?;
        let within = Duration::from_secs(self.limits.start_s);
        let started = self.containers.start(source, pulled.manifest, spec_of(plan), within).await;
        if started.as_ref().is_err_and(ContainerError::is_damaged)
            && self.registry.weed(&pulled).await.map_err(|e| trouble_of(&e, false))?
        {
            return Err(Trouble::passing("its image was damaged on this rig's disk, and is fetched again"));
        }
        let functions = started.map_err(|e| trouble_of(&e, e.is_final()))?;
        info!(%source, ?functions, "source is up");
        Ok(News::SourceUp { source, prepared_from: updated_at, functions })
    }

    /// Reads the metadata and the compose file behind it.
    async fn plan(&self, source: SourceId, metadata_url: &str, environment: Environment) -> Result<Plan, Trouble> {
        let metadata = self.content.fetch(metadata_url, METADATA_BYTES_MAX).await;
        let metadata = metadata.map_err(|e| trouble_of(&e, e.is_final()))?;
        let metadata: Metadata = serde_json::from_slice(&metadata)
            .map_err(|e| Trouble::lasting(format!("its metadata {metadata_url} is not a metadata document: {e}")))?;
        let url = metadata.compose_url(environment);
        if url.is_empty() {
            return Err(Trouble::lasting(format!("its metadata names no compose file for {environment}")));
        }
        let compose = self.content.fetch(url, COMPOSE_BYTES_MAX).await;
        let compose = compose.map_err(|e| trouble_of(&e, e.is_final()))?;
        let compose = std::str::from_utf8(&compose)
            .map_err(|_| Trouble::lasting(format!("its compose file {url} is not UTF-8")))?;
        let offer = Offer {
            port: SERVICE_PORT,
            callback_url: self.containers.callback_url(source),
            source_address: source.to_string(),
            provider_address: self.me.to_string(),
        };
        Plan::parse(compose, &offer).map_err(|e| Trouble::lasting(e.to_string()))
    }

    /// Puts this rig on a source's list, unless it stands there.
    pub(super) async fn register(&self, source: SourceId, environment: Environment) -> Result<News, Trouble> {
        let is_done = |now: &SourceReading| now.is_registered || !now.is_active;
        if let Some(done) = self.source_reads(source, is_done).await? {
            return Ok(done);
        }
        let call = Nexus::registerCall { source: source.0, provider: self.me, preferredEnvironment: environment.bit() };
        let nexus = self.rpc.network().contracts.nexus;
        self.submit(format!("register:{source}"), nexus, call.abi_encode()).await?;
        for _ in 0..READ_BACK_TRIES {
            if let Some(done) = self.source_reads(source, is_done).await? {
                return Ok(done);
            }
            tokio::time::sleep(READ_BACK_EVERY).await;
        }
        Err(Trouble::passing("the registration is mined, and the chain does not show it yet"))
    }

    async fn source_reads(
        &self,
        source: SourceId,
        is_done: impl Fn(&SourceReading) -> bool,
    ) -> Result<Option<News>, Trouble> {
        let reading = read::source(&self.rpc, self.provider(), source).await.map_err(|e| weather(&e))?;
        Ok(is_done(&reading).then(|| News::SourceRead { reading: Box::new(reading) }))
    }

    /// Stops a source's container.
    pub(super) async fn stop_source(&self, source: SourceId) -> Result<News, Trouble> {
        if let Err(error) = self.containers.stop(source).await {
            warn!(%source, %error, "source did not stop");
            return Err(trouble_of(&error, false));
        }
        Ok(News::SourceStopped { source })
    }
}

fn spec_of(plan: Plan) -> ServiceSpec {
    ServiceSpec {
        command: plan.command,
        entrypoint: plan.entrypoint,
        environment: plan.environment,
        working_dir: plan.working_dir,
        user: plan.user,
        read_only: plan.read_only,
        limits: Limits::default(),
    }
}
