//! From sealed images to a source whose port answers: its network and volumes, then its services one after another.
//!
//! Doing it again changes nothing for what runs as it should. A service that is to end by itself, such as one that
//! loads a model into a volume, is run again: that is how Compose does it, and such services look first.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use runner::client::{Client, ClientError};
use runner::protocol::{Digest as ImageDigest, Exit, Health, NetworkPolicy, Refusal, ServiceState, SourceState};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;
use work::SourceId;

use super::recipe::{Part, Recipe};
use super::tend::{Down, Tending};
use super::{Container, ContainerError, Containers, callback, cut, name_of};
use crate::board::{Telling, Until};
use crate::compose::plan::{Condition, Restart};

/// Time between two looks at a service that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Time between two looks at what it prints. Source: a line that nobody reads costs the runner a read of its log.
const LOG_EVERY: Duration = Duration::from_secs(2);

/// How often a source that turns out to run otherwise is stopped and begun again, in one start.
const BEGINNINGS_MAX: u32 = 2;

impl Containers {
    /// The layers of an image that have to be downloaded before it can be prepared.
    pub async fn missing(&self, manifest: &ImageDigest) -> Result<Vec<ImageDigest>, ContainerError> {
        let manifest = manifest.clone();
        Ok(self.ask(move |runner| runner.missing(&manifest)).await?)
    }

    /// Unpacks and seals an image whose missing layers are in the store.
    pub async fn prepare(&self, source: SourceId, manifest: &ImageDigest) -> Result<(), ContainerError> {
        let (name, manifest) = (name_of(source), manifest.clone());
        let prepared = self.ask(move |runner| runner.prepare(&name, &manifest)).await?;
        info!(%source, bytes = prepared.bytes, already = prepared.already, "image is sealed");
        Ok(())
    }

    /// Starts a source whose images are sealed, and waits until its port answers, `within` that time for all of it.
    /// Whatever ran under its name before, and differs, is stopped first. Returns the functions that it says it has.
    pub async fn start(
        self: &Arc<Self>,
        source: SourceId,
        recipe: Recipe,
        within: Duration,
        telling: &Telling<'_>,
    ) -> Result<Option<BTreeSet<String>>, ContainerError> {
        let recipe = Arc::new(recipe);
        self.graces().insert(source, recipe.grace);
        let late = ContainerError::TooSlow { seconds: within.as_secs() };
        let brought_up = self.bring_up(source, &recipe, telling);
        if let Err(error) = tokio::time::timeout(within, brought_up).await.unwrap_or(Err(late)) {
            self.forget(source, "the container did not start");
            return Err(error);
        }
        Ok(self.functions(source, &recipe).await)
    }

    async fn bring_up(
        self: &Arc<Self>,
        source: SourceId,
        recipe: &Arc<Recipe>,
        telling: &Telling<'_>,
    ) -> Result<(), ContainerError> {
        // What is up already, and is to be as the recipe says now, is ours to tend from here on.
        let before = self.up().get(&source).cloned();
        if let Some(before) = before {
            *before.tending.lock().await = None;
        }
        let mut beginnings = 1;
        loop {
            match self.begin(source, recipe, telling).await {
                Err(ContainerError::Runner(ClientError::Refused(Refusal::RunsDifferently { .. })))
                    if beginnings < BEGINNINGS_MAX =>
                {
                    beginnings += 1;
                    self.stop(source).await?;
                }
                done => return done,
            }
        }
    }

    async fn begin(
        self: &Arc<Self>,
        source: SourceId,
        recipe: &Arc<Recipe>,
        telling: &Telling<'_>,
    ) -> Result<(), ContainerError> {
        let (name, plan) = (name_of(source), recipe.plan.clone());
        self.ask(move |runner| runner.open(&name, plan)).await?;
        let mut tending = Tending::new(recipe);
        for (index, part) in recipe.parts.iter().enumerate() {
            for (awaited, condition) in &part.awaits {
                self.wait_for(source, recipe, &mut tending, (*awaited, *condition), telling).await?;
            }
            let is_same = self.start_part(source, part).await?;
            tending.begins(index);
            if index == recipe.main && !is_same {
                // What waits for the old one waits in vain; its end may not have been noticed yet.
                self.forget(source, "the container was started anew");
            }
        }
        self.listen(source, recipe).await?;
        self.wait_for_port(source, recipe, &mut tending, telling).await?;
        self.take_over(source, recipe, tending);
        Ok(())
    }

    /// Starts one service; answers whether it ran before, as it should.
    pub(super) async fn start_part(&self, source: SourceId, part: &Part) -> Result<bool, ClientError> {
        let (name, part) = (name_of(source), part.clone());
        let started = self.ask(move |runner| runner.start(&name, &part.name, &part.manifest, part.spec)).await?;
        Ok(started.already)
    }

    /// Waits until a service is as far as another needs it.
    async fn wait_for(
        &self,
        source: SourceId,
        recipe: &Recipe,
        tending: &mut Tending,
        (awaited, condition): (usize, Condition),
        telling: &Telling<'_>,
    ) -> Result<(), ContainerError> {
        let part = &recipe.parts[awaited];
        let until = match condition {
            // A start that is answered is a process that runs.
            Condition::Started => return Ok(()),
            Condition::Healthy => Until::Healthy,
            Condition::Completed => Until::Completed,
        };
        let mut words = Words::of(part);
        loop {
            let state = self.look(source, recipe, tending).await?;
            match (condition, state.services.get(&part.name)) {
                (Condition::Completed, Some(ServiceState::Exited { exit: Exit::Code(0), .. })) => return Ok(()),
                (
                    Condition::Healthy,
                    Some(ServiceState::Running { health: Health::Healthy | Health::Untested, .. }),
                ) => {
                    return Ok(());
                }
                (Condition::Healthy, Some(ServiceState::Running { health: Health::Unhealthy, .. })) => {
                    let last_words = self.last_words(source, part).await;
                    return Err(ContainerError::Unhealthy { service: part.name.clone(), last_words });
                }
                (Condition::Healthy, Some(ServiceState::Exited { exit: Exit::Code(0), log_tail, .. }))
                    if part.restart != Restart::Always =>
                {
                    let why = format!("service {} ended by itself and never was healthy: {}", part.name, cut(log_tail));
                    return Err(ContainerError::Ended { why });
                }
                (_, Some(ServiceState::Exited { log_tail, .. })) if tending.is_given_up(awaited) => {
                    let why = format!("service {} ended: {}", part.name, cut(log_tail));
                    return Err(ContainerError::Ended { why });
                }
                // It is on its way, or it is to be started again.
                (_, Some(ServiceState::Running { .. } | ServiceState::Exited { .. }) | None) => {}
            }
            words.refresh(self, source).await;
            telling.waits(part.name.as_str(), until, state.received_bytes, words.last());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn wait_for_port(
        &self,
        source: SourceId,
        recipe: &Recipe,
        tending: &mut Tending,
        telling: &Telling<'_>,
    ) -> Result<(), ContainerError> {
        let main = recipe.main();
        let mut words = Words::of(main);
        loop {
            let state = self.look(source, recipe, tending).await?;
            let (name, service, port) = (name_of(source), main.name.clone(), recipe.main_port);
            match self.ask(move |runner| runner.connect(&name, &service, port)).await {
                Ok(_) => return Ok(()),
                Err(ClientError::Refused(Refusal::NotListening { .. })) => {}
                // Its end has come between the look and the question; the next look says how.
                Err(ClientError::Refused(Refusal::NotRunning { .. })) => {}
                Err(error) => return Err(error.into()),
            }
            words.refresh(self, source).await;
            telling.waits(main.name.as_str(), Until::Listening, state.received_bytes, words.last());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Looks at a source that starts, and tends what of it has ended. Errors: it cannot come up any more.
    async fn look(
        &self,
        source: SourceId,
        recipe: &Recipe,
        tending: &mut Tending,
    ) -> Result<SourceState, ContainerError> {
        let state = self.ask(Client::list).await?.remove(&name_of(source));
        let state = state
            .ok_or_else(|| ContainerError::Ended { why: "the runner does not know the source any more".into() })?;
        match self.tend(source, recipe, tending, &state, true).await {
            Ok(()) => Ok(state),
            Err(Down { why }) => Err(ContainerError::Ended { why }),
        }
    }

    /// Serves the callbacks of a source, if there can be any. Does nothing if they are served already.
    async fn listen(self: &Arc<Self>, source: SourceId, recipe: &Arc<Recipe>) -> Result<(), ContainerError> {
        if self.is_up(source) {
            return Ok(());
        }
        let container = Container::new(recipe.clone());
        if recipe.plan.network != NetworkPolicy::None {
            let name = name_of(source);
            let listener = self.ask(move |runner| runner.listener(&name)).await?;
            let fail = |error| ContainerError::Socket { what: "callback listener", source_id: source, source: error };
            listener.set_nonblocking(true).map_err(fail)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(fail)?;
            let desk = callback::Desk {
                token: self.token(source),
                awaited: container.awaited.clone(),
                store: self.store.clone(),
                result_bytes_max: self.result_bytes_max,
            };
            tokio::spawn(callback::serve(listener, desk, container.server.clone()));
        }
        self.up().insert(source, Arc::new(container));
        Ok(())
    }

    /// From now on the watch tends the source. Whoever waits for a task of it goes on waiting.
    fn take_over(&self, source: SourceId, recipe: &Arc<Recipe>, mut tending: Tending) {
        tending.acted();
        let mut up = self.up();
        if let Some(before) = up.get(&source) {
            let container = Container {
                awaited: before.awaited.clone(),
                server: before.server.clone(),
                recipe: recipe.clone(),
                tending: tokio::sync::Mutex::new(Some(tending)),
            };
            up.insert(source, Arc::new(container));
        }
    }

    /// The end of what a service printed, `-` if that cannot be had.
    async fn last_words(&self, source: SourceId, part: &Part) -> String {
        let (name, service) = (name_of(source), part.name.clone());
        let text = self.ask(move |runner| runner.logs(&name, &service)).await;
        text.map_or_else(|_| "-".to_owned(), |text| cut(&text))
    }
}

impl Container {
    fn new(recipe: Arc<Recipe>) -> Container {
        Container {
            awaited: Arc::default(),
            server: CancellationToken::new(),
            recipe,
            tending: tokio::sync::Mutex::new(None),
        }
    }
}

/// The last line of a service that is waited for, not asked for too often.
struct Words<'a> {
    part: &'a Part,
    asked: Option<Instant>,
    last: Option<String>,
}

impl<'a> Words<'a> {
    fn of(part: &'a Part) -> Words<'a> {
        Words { part, asked: None, last: None }
    }

    async fn refresh(&mut self, containers: &Containers, source: SourceId) {
        if self.asked.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            return;
        }
        self.asked = Some(Instant::now());
        let (name, service) = (name_of(source), self.part.name.clone());
        if let Ok(text) = containers.ask(move |runner| runner.logs(&name, &service)).await {
            // A bar of progress is one line that is written over and over.
            let mut lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
            self.last = lines.next_back().map(cut);
        }
    }

    fn last(&self) -> Option<String> {
        self.last.clone()
    }
}
