//! Keeps the services of a source running: restarts what may be, and says when the source cannot go on.
//!
//! Invariants:
//! - A source is tended by one at a time: by its start until it is up, then by the watch.
//! - The end of the main service is the end of the source, whatever its compose file says of restarts: the book decides
//!   when it is started again, because tasks depend on it.
//! - The end of another service is the source's only if the main one needs it, and it is not to be started again.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use runner::client::{Client, ClientError};
use runner::protocol::{Exit, ServiceState, SourceName, SourceState};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use work::{News, SourceId};

use super::recipe::Recipe;
use super::restarts::{Next, Restarts};
use super::{Container, Containers, LOOK_EVERY, cut, name_of};
use crate::compose::plan::Restart;
use crate::provider::Parcel;

/// How often a service is started again while its source starts, before the start is given up for now. Source: the
/// waits are 1 + 2 + 4 + 8 + 16 s, after which words for the owner are worth more than another try.
const STARTING_TRIES_MAX: u32 = 5;

/// The services of one source that were started.
#[derive(Debug)]
pub(super) struct Tending {
    /// By the place in the recipe; `None` until it was started.
    begun: Vec<Option<Restarts>>,
    /// Those of which it was said that they are given up.
    given_up: Vec<bool>,
    policies: Vec<Restart>,
    /// When something was started last: what was seen before says nothing of it.
    acted_at: Instant,
}

/// One look at the runner.
struct Seen {
    asked_at: Instant,
    states: BTreeMap<SourceName, SourceState>,
}

/// The source cannot go on.
#[derive(Debug)]
pub(super) struct Down {
    pub(super) why: String,
}

// === impl Tending ===

impl Tending {
    pub(super) fn new(recipe: &Recipe) -> Tending {
        let policies: Vec<_> = recipe.parts.iter().map(|part| part.restart).collect();
        let (begun, given_up) = (vec![None; policies.len()], vec![false; policies.len()]);
        Tending { begun, given_up, policies, acted_at: Instant::now() }
    }

    /// A service was started.
    pub(super) fn begins(&mut self, index: usize) {
        self.begun[index] = Some(Restarts::new(self.policies[index]));
    }

    pub(super) fn is_given_up(&self, index: usize) -> bool {
        self.given_up[index]
    }

    /// Something was started just now.
    pub(super) fn acted(&mut self) {
        self.acted_at = Instant::now();
    }
}

impl Containers {
    /// Restarts what has ended and may be restarted. `state` was asked for after the last change by this tending.
    /// Errors: the source cannot go on.
    pub(super) async fn tend(
        &self,
        source: SourceId,
        recipe: &Recipe,
        tending: &mut Tending,
        state: &SourceState,
        is_starting: bool,
    ) -> Result<(), Down> {
        let needed = recipe.needed();
        for (index, part) in recipe.parts.iter().enumerate() {
            let Some(restarts) = &mut tending.begun[index] else { continue };
            let down = |why| Down { why };
            let now = Instant::now();
            let (exit, words) = match state.services.get(&part.name) {
                Some(ServiceState::Running { .. }) => {
                    restarts.runs(now);
                    continue;
                }
                Some(ServiceState::Exited { exit, out_of_memory, log_tail }) => {
                    (*exit, ending_words(*exit, *out_of_memory, log_tail))
                }
                None => return Err(down(format!("the runner does not know service {} any more", part.name))),
            };
            if index == recipe.main {
                return Err(down(format!("the container ended {words}")));
            }
            match restarts.ended(exit == Exit::Code(0), now) {
                Next::Leave | Next::Wait => {}
                Next::GiveUp if needed.contains(&index) => {
                    return Err(down(format!("service {} ended {words}", part.name)));
                }
                // Nothing that the main service needs, so the source goes on without it.
                Next::GiveUp => {
                    if !std::mem::replace(&mut tending.given_up[index], true) {
                        warn!(%source, service = %part.name, why = words, "a service that nothing waits for is given up");
                    }
                }
                Next::Start if is_starting && restarts.tries() > STARTING_TRIES_MAX => {
                    return Err(down(format!("service {} ends again and again {words}", part.name)));
                }
                Next::Start => {
                    match self.start_part(source, part).await {
                        Ok(_) => info!(%source, service = %part.name, why = words, "service is started again"),
                        // It still counts as ended, and is due again after the next wait.
                        Err(error) => {
                            let error = crate::chain_of(&error);
                            warn!(%source, service = %part.name, error, "service is not started");
                        }
                    }
                    tending.acted_at = Instant::now();
                }
            }
        }
        Ok(())
    }

    /// Watches all containers until `stop`, tends them, and tells `desk` of each that cannot go on.
    pub async fn watch(self: Arc<Self>, desk: mpsc::Sender<Parcel>, stop: CancellationToken) {
        let down = async |source, why| {
            let _ = desk.send(Parcel::Outcome(News::SourceDown { source, why })).await;
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let known: Vec<_> = self.up().iter().map(|(source, container)| (*source, container.clone())).collect();
            if known.is_empty() && self.board.confinement().is_some() {
                continue;
            }
            let asked_at = Instant::now();
            let states = match self.ask(Client::overview).await {
                Ok((confinement, states)) => {
                    self.board.saw(confinement, states.clone());
                    states
                }
                Err(ClientError::Unreachable { .. }) => {
                    for (source, container) in known {
                        if self.forget_this(source, &container, "the runner ended") {
                            down(source, "the runner ended".to_owned()).await;
                        }
                    }
                    continue;
                }
                // An answer that did not come says nothing about containers.
                Err(error) => {
                    warn!(error = %error, "runner did not list its containers");
                    continue;
                }
            };
            let seen = Seen { asked_at, states };
            let tended = join_all(known.iter().map(|(source, container)| self.tend_up(*source, container, &seen)));
            let tended = tended.await;
            for ((source, container), result) in known.into_iter().zip(tended) {
                if let Err(Down { why }) = result
                    && self.forget_this(source, &container, &why)
                {
                    down(source, why).await;
                }
            }
        }
    }

    /// Tends a source that is up; one that is still starting is tended by its start.
    async fn tend_up(&self, source: SourceId, container: &Container, seen: &Seen) -> Result<(), Down> {
        let mut tending = container.tending.lock().await;
        let Some(tending) = tending.as_mut().filter(|tending| tending.acted_at <= seen.asked_at) else {
            return Ok(());
        };
        match seen.states.get(&name_of(source)) {
            Some(state) => self.tend(source, &container.recipe, tending, state, false).await,
            None => Err(Down { why: "the runner does not know the container any more".to_owned() }),
        }
    }
}

fn ending_words(exit: Exit, out_of_memory: bool, log_tail: &str) -> String {
    let memory = if out_of_memory { ", out of memory" } else { "" };
    format!("({exit:?}{memory}): {}", cut(log_tail))
}
