//! Sources: from a link on chain to a container that answers or a bundle that is loaded, and onto the contract's list.

mod served;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alloy::sol_types::SolCall;
use chain::abi::Nexus;
use chain::read;
use runner::protocol::{Digest as ImageDigest, NetworkPolicy};
use tracing::{info, warn};
use work::source::{Conditions, Environment, Reach, SourceReading};
use work::step::Trouble;
use work::{Digest, News, SourceId};

use self::served::Served;
use super::{Performer, READ_BACK_EVERY, READ_BACK_TRIES, trouble_of, weather};
use crate::board::{Doing, Telling};
use crate::chain_of;
use crate::compose::plan::Service;
use crate::compose::{Cuda, Plan};
use crate::container::{ContainerError, Given, Recipe};
use crate::direct::Started;
use crate::registry::{Coming, Pulled, parse_digest};
use crate::settings;

/// What the owner is told of a source that reserves graphics processors.
const NO_GPU: &str = "its reservation of graphics processors is not followed: this release gives none";

/// A source that is up: its functions, what it was given, and what of its compose file is not followed.
type Up = (Option<BTreeSet<String>>, Conditions, Vec<String>);

/// The sealed images of a plan, each once.
#[derive(Default)]
struct Images {
    /// In the order in which services start that stand on them.
    all: Vec<Pulled>,
    /// By the name in the compose file: the place in `all`.
    by_name: BTreeMap<String, usize>,
}

impl Images {
    fn pulled(&self) -> std::slice::Iter<'_, Pulled> {
        self.all.iter()
    }
}

// === impl Performer ===

impl Performer {
    /// Fetches, checks and starts a source: its kernel bundle, or its services. Doing it again with nothing changed does
    /// nothing.
    pub(super) async fn prepare(
        &self,
        source: SourceId,
        metadata_url: &str,
        environment: Environment,
        updated_at: u64,
    ) -> Result<News, Trouble> {
        let telling = self.board.begin(source);
        let (functions, conditions, notes) = match self.served(source, metadata_url, environment).await? {
            Served::Bundle(cuda) => self.prepare_bundle(source, &cuda, &telling).await?,
            Served::Containers { plan, instead } => {
                let (functions, mut conditions, notes) = self.prepare_containers(source, plan, &telling).await?;
                conditions.environment = instead;
                (functions, conditions, notes)
            }
        };
        info!(%source, ?functions, "source is up");
        let cache = self.cache.clone();
        tokio::spawn(async move { cache.tidy().await });
        let conditions = Some(Box::new(conditions));
        Ok(News::SourceUp { source, prepared_from: updated_at, functions, conditions, notes })
    }

    /// Loads a kernel bundle. What ran as containers under the source's name before is stopped.
    async fn prepare_bundle(&self, source: SourceId, cuda: &Cuda, telling: &Telling<'_>) -> Result<Up, Trouble> {
        self.containers.stop(source).await.map_err(|e| trouble_of(&e, false))?;
        self.cache.releases(source);
        let within = Duration::from_secs(self.limits.start_s);
        let started = self.direct.start(source, cuda, within, telling).await;
        let Started { bundle, functions, notes } = started.map_err(|e| trouble_of(&e, e.is_final()))?;
        let conditions = Conditions {
            network: Reach::None,
            exceptions: Vec::new(),
            images: Vec::new(),
            bundle: Some(bundle),
            environment: None,
        };
        Ok((Some(functions), conditions, notes))
    }

    /// Fetches, unpacks and starts services. What was served as a bundle under the source's name before is not any more.
    async fn prepare_containers(&self, source: SourceId, mut plan: Plan, telling: &Telling<'_>) -> Result<Up, Trouble> {
        self.direct.stop(source);
        if plan.services.iter().any(|service| service.gpus.is_some()) {
            plan.notes.push(NO_GPU.to_owned());
        }
        for note in &plan.notes {
            info!(%source, note, "compose key is not followed");
        }
        let given = self.given(source);
        let within = Duration::from_secs(self.limits.start_s);
        let mut images = self.images(source, &plan, telling).await?;
        let mut started = self.containers.start(source, recipe(&plan, &images, given)?, within, telling).await;
        if started.as_ref().is_err_and(ContainerError::is_cleared_away) {
            images = self.images(source, &plan, telling).await?;
            started = self.containers.start(source, recipe(&plan, &images, given)?, within, telling).await;
        }
        let functions = match started {
            Ok(functions) => functions,
            Err(error) => return Err(self.weeded(error, images.pulled()).await?),
        };
        let conditions = Conditions {
            network: reach(given.network),
            exceptions: plan.exceptions,
            images: images.pulled().map(|pulled| pulled.manifest).collect(),
            bundle: None,
            environment: None,
        };
        Ok((functions, conditions, plan.notes))
    }

    /// Has every image of a plan sealed: what is missing is downloaded, unpacked, and dropped from the store again.
    async fn images(&self, source: SourceId, plan: &Plan, telling: &Telling<'_>) -> Result<Images, Trouble> {
        let name = source.to_string();
        let mut images = Images::default();
        let mut used = BTreeSet::new();
        for service in &plan.services {
            let image = service.image.as_str();
            if images.by_name.contains_key(image) {
                continue;
            }
            let found = self.registry.find(&name, image).await.map_err(|e| trouble_of(&e, e.is_final()))?;
            let manifest = image_digest(found.manifest);
            let of_image = Pulled {
                manifest: found.manifest,
                blobs: vec![found.manifest, found.config],
                bytes: 0,
                fetched_bytes: 0,
            };
            let missing = match self.containers.missing(&manifest).await {
                Ok(missing) => missing.iter().filter_map(|layer| parse_digest(&layer.to_string())).collect(),
                Err(error) => return Err(self.weeded(error, [&of_image]).await?),
            };
            used.extend(of_image.blobs.iter().chain(&missing));
            self.cache.uses(source, used.clone());
            let told = |coming: Coming| {
                let Coming { bytes, of_bytes, layer, layers } = coming;
                telling.say(Doing::Pulling { image: image.to_owned(), bytes, of_bytes, layer, layers });
            };
            let pulled = self.registry.fetch(&found, &missing, &told).await;
            let pulled = pulled.map_err(|e| trouble_of(&e, e.is_final()))?;
            telling.say(Doing::Unpacking { image: image.to_owned() });
            if let Err(error) = self.containers.prepare(source, &manifest).await {
                return Err(self.weeded(error, [&pulled]).await?);
            }
            self.registry.discard_layers(&found).await.map_err(|e| trouble_of(&e, false))?;
            images.by_name.insert(image.to_owned(), images.all.len());
            images.all.push(pulled);
        }
        Ok(images)
    }

    /// What an error of the runner means. If it is about bytes that are not what they should be, what this rig's disk has
    /// damaged is removed, and then trying again helps.
    async fn weeded<'a>(
        &self,
        error: ContainerError,
        pulled: impl IntoIterator<Item = &'a Pulled>,
    ) -> Result<Trouble, Trouble> {
        if error.is_damaged() {
            for pulled in pulled {
                if self.registry.weed(pulled).await.map_err(|e| trouble_of(&e, false))? {
                    return Ok(Trouble::passing("its image was damaged on this rig's disk, and is fetched again"));
                }
            }
        }
        Ok(trouble_of(&error, error.is_final()))
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

    /// What the owner gives a source.
    fn given(&self, source: SourceId) -> Given {
        let settings = self.policies.of(source);
        let network = match settings.network {
            settings::NetworkPolicy::None => NetworkPolicy::None,
            settings::NetworkPolicy::Internal => NetworkPolicy::Internal,
            settings::NetworkPolicy::Internet => NetworkPolicy::Internet,
        };
        Given { network, volume_bytes: settings.volume_bytes_max }
    }

    /// Stops a source, container or bundle, and removes its volumes if it will not be back.
    pub(super) async fn stop_source(&self, source: SourceId, forgets: bool) -> Result<News, Trouble> {
        self.direct.stop(source);
        let stop = async {
            self.containers.stop(source).await?;
            if forgets { self.containers.forget_volumes(source).await } else { Ok(()) }
        };
        if let Err(error) = stop.await {
            warn!(%source, error = chain_of(&error), "source did not stop");
            return Err(trouble_of(&error, false));
        }
        self.cache.releases(source);
        Ok(News::SourceStopped { source, is_forgotten: forgets })
    }
}

fn reach(network: NetworkPolicy) -> Reach {
    match network {
        NetworkPolicy::None => Reach::None,
        NetworkPolicy::Internal => Reach::Internal,
        NetworkPolicy::Internet => Reach::Internet,
    }
}

fn recipe(plan: &Plan, images: &Images, given: Given) -> Result<Recipe, Trouble> {
    let manifest = |service: &Service| image_digest(images.all[images.by_name[&service.image]].manifest);
    let manifests: Vec<ImageDigest> = plan.services.iter().map(manifest).collect();
    Recipe::of(plan, &manifests, given).map_err(|e| Trouble::lasting(chain_of(&e)))
}

fn image_digest(digest: Digest) -> ImageDigest {
    ImageDigest::try_from(digest.to_string()).expect("both types write a digest the same way")
}
