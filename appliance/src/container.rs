//! The provider's side of a running source: its services, its port, its callback, its life.
//!
//! The runner makes the jails and hands over two sockets that live inside the source's network: a listener for
//! callbacks and, for each request, a stream to the main service's port. Nothing of this touches the host's network.
//! The runner keeps its own copy of the listener, so a callback that arrives while the provider is down waits in the
//! kernel's queue. A *container* here is all of a source that runs: its main service, and those beside it.
//!
//! Invariants:
//! - A result is taken only under the source's own token, for a task that was dispatched, and once.
//! - Whatever a container sends is bounded: headers, bodies, time.
//! - A source has one container, and its callbacks are those of the main service that runs now.
//! - When a container ends, everyone who waits for it is told, with the last lines that it printed.

mod awaited;
mod callback;
mod exchange;
mod few;
#[doc(hidden)]
pub mod spoken;

mod recipe;

mod restarts;

mod start;

mod tend;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use runner::client::{Client, ClientError};
use runner::protocol::{CALLBACK_HOST, CALLBACK_PORT, Refusal, ServiceName, SourceName};
use runner::wire::WireError;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use work::SourceId;
use work::task::Run;

pub use self::awaited::Returned;
use self::awaited::{Awaited, Failing};
use self::exchange::{Answer, Method};
pub use self::recipe::{Given, Part, Recipe};
use self::tend::Tending;
use crate::board::Board;
use crate::store::Store;
use crate::{chain_of, unix_now};

/// Time between two looks at whether containers still run.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Longest wait before a busy service is asked again.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(5);

/// Largest description of its functions that a service may send, in bytes.
const OPENAPI_BYTES_MAX: usize = 4 << 20;

/// Largest answer to a dispatch that is read, in bytes; all of it is words for the owner.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How much of a service's words goes into a reason, in characters.
const WORDS_CHARS_MAX: usize = 300;

/// All running sources.
#[derive(Debug)]
pub struct Containers {
    runner: Client,
    store: Arc<Store>,
    secret: [u8; 32],
    result_bytes_max: u64,
    board: Arc<Board>,
    up: Mutex<HashMap<SourceId, Arc<Container>>>,
    /// How long each source has to end when it is stopped; it outlives the container.
    graces: Mutex<HashMap<SourceId, Duration>>,
}

/// One running source.
#[derive(Debug)]
struct Container {
    awaited: Arc<Awaited>,
    server: CancellationToken,
    recipe: Arc<Recipe>,
    /// `None` while its start tends it.
    tending: tokio::sync::Mutex<Option<Tending>>,
}

/// Why a source does not run.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// The runner did not do it.
    #[error(transparent)]
    Runner(#[from] ClientError),
    /// Its sockets could not be used.
    #[error("use the {what} of {source_id}")]
    Socket {
        /// Which socket.
        what: &'static str,
        /// Whose.
        source_id: SourceId,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It ended before its port opened.
    #[error("before it answered, {why}")]
    Ended {
        /// Which service, how, and the last lines that it printed.
        why: String,
    },
    /// A service that another awaits is not well.
    #[error("service {service} failed its health test too often: {last_words}")]
    Unhealthy {
        /// Which.
        service: ServiceName,
        /// The last lines that it printed.
        last_words: String,
    },
    /// It took too long.
    #[error("it did not answer on its port within {seconds} s (start_s in rig.toml)")]
    TooSlow {
        /// How long it had.
        seconds: u64,
    },
}

impl ContainerError {
    /// Whether trying the same again cannot help.
    pub fn is_final(&self) -> bool {
        match self {
            ContainerError::Runner(ClientError::Refused(
                Refusal::BadImage { .. } | Refusal::BadService { .. } | Refusal::BadPlan { .. },
            )) => true,
            ContainerError::Runner(ClientError::Wire(WireError::TooLarge)) => true,
            ContainerError::Runner(_)
            | ContainerError::Socket { .. }
            | ContainerError::Ended { .. }
            | ContainerError::Unhealthy { .. }
            | ContainerError::TooSlow { .. } => self.is_damaged(),
        }
    }

    /// Whether a blob was not what its name says: its publisher's lie, or this rig's disk, as a look at the disk tells.
    pub fn is_damaged(&self) -> bool {
        matches!(self, ContainerError::Runner(ClientError::Refused(Refusal::DigestMismatch { .. })))
    }

    /// Whether an image that was sealed is not any more: what was not in use may be cleared away at any time.
    pub fn is_cleared_away(&self) -> bool {
        matches!(self, ContainerError::Runner(ClientError::Refused(Refusal::NotPrepared { .. })))
    }
}

/// Why a run gave no result.
#[derive(Debug, Error)]
pub enum RunError {
    /// The service will not take this input.
    #[error("the source answered {status} to the input: {words}")]
    Rejected {
        /// The status.
        status: u16,
        /// Its words, cut.
        words: String,
    },
    /// No callback came in time. A failing handler never calls back.
    #[error("no result came back by the deadline")]
    Deadline,
    /// The result cannot be used.
    #[error("{0}")]
    BadResult(String),
    /// The container is not there, or ended.
    #[error("{0}")]
    Gone(String),
}

// === impl Containers ===

impl Containers {
    /// A view on the runner's containers, which shows on `board` how they are. `secret` makes the callback tokens; `result_bytes_max` bounds one result.
    pub fn new(
        runner: Client,
        store: Arc<Store>,
        board: Arc<Board>,
        secret: [u8; 32],
        result_bytes_max: u64,
    ) -> Containers {
        Containers { runner, store, secret, result_bytes_max, board, up: Mutex::default(), graces: Mutex::default() }
    }

    /// The URL that a source's service calls back, as it sees it. It stays the same over restarts.
    pub fn callback_url(&self, source: SourceId) -> String {
        format!("http://{CALLBACK_HOST}:{CALLBACK_PORT}/{}/task", self.token(source))
    }

    /// Stops a source: all its services, its network, and not its volumes. Stopping what does not run is fine.
    pub async fn stop(&self, source: SourceId) -> Result<(), ContainerError> {
        self.forget(source, "the container was stopped");
        let grace = self.graces().get(&source).copied().unwrap_or_else(recipe::usual_grace);
        let name = name_of(source);
        match self.ask(move |runner| runner.stop(&name, grace)).await {
            Ok(_) | Err(ClientError::Refused(Refusal::NotOpen { .. })) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the volumes of a source that was stopped.
    pub async fn forget_volumes(&self, source: SourceId) -> Result<(), ContainerError> {
        self.graces().remove(&source);
        let name = name_of(source);
        Ok(self.ask(move |runner| runner.forget(&name)).await?)
    }

    /// Sends a run's input to its source and waits for the callback, no longer than until the run's deadline.
    pub async fn run(&self, run: &Run, body: Vec<u8>) -> Result<Returned, RunError> {
        let task = &run.input.attempt.bid.task;
        let container = self.up().get(&task.source).cloned();
        let container = container.ok_or_else(|| RunError::Gone("the source's container is not up".into()))?;
        let mut waiting = container.awaited.expect(task.id);
        let left = Duration::from_secs(run.deadline.saturating_sub(unix_now()));
        let told = |failing| match failing {
            Failing::BadResult(why) => RunError::BadResult(why),
            Failing::Gone(why) => RunError::Gone(why),
        };
        let work = async {
            // A result may be there before the service has answered, or from a dispatch before a restart.
            tokio::select! {
                returned = waiting.returned() => return returned.map_err(told),
                sent = self.dispatch(run, &container.recipe, body) => sent?,
            }
            waiting.returned().await.map_err(told)
        };
        tokio::time::timeout(left, work).await.unwrap_or(Err(RunError::Deadline))
    }

    /// Posts the input until the service takes it. Busy is not an answer; the caller's deadline ends the asking.
    async fn dispatch(&self, run: &Run, recipe: &Recipe, body: Vec<u8>) -> Result<(), RunError> {
        let task = &run.input.attempt.bid.task;
        let path = format!("/run/{}/{}", run.input.function, task.id);
        let mut wait = Duration::from_millis(500);
        loop {
            let answer = self.exchange(task.source, recipe, Method::Post(body.clone()), &path, ANSWER_BYTES_MAX).await;
            match answer {
                Ok(Answer { status: 200..300, .. }) => return Ok(()),
                Ok(Answer { status: 409 | 429 | 500..600, .. }) => {}
                Ok(Answer { status, body }) => return Err(RunError::Rejected { status, words: words(&body) }),
                Err(why) if !self.is_up(task.source) => return Err(RunError::Gone(why)),
                Err(_) => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BUSY_WAIT_MAX);
        }
    }

    /// The functions in the service's own description, `None` if it has none.
    async fn functions(&self, source: SourceId, recipe: &Recipe) -> Option<BTreeSet<String>> {
        let answer = self.exchange(source, recipe, Method::Get, "/openapi.json", OPENAPI_BYTES_MAX).await.ok()?;
        let description: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        let paths = description.get("paths")?.as_object()?;
        let function = |path: &String| Some(path.strip_prefix("/run/")?.split('/').next()?.to_owned());
        Some(paths.keys().filter_map(function).collect())
    }

    async fn exchange(
        &self,
        source: SourceId,
        recipe: &Recipe,
        method: Method,
        path: &str,
        max: usize,
    ) -> Result<Answer, String> {
        let (name, service, port) = (name_of(source), recipe.main().name.clone(), recipe.main_port);
        let stream = self.ask(move |runner| runner.connect(&name, &service, port)).await.map_err(|e| chain_of(&e))?;
        exchange::exchange(stream, method, path, max).await.map_err(|error| chain_of(&error))
    }

    /// Tells whoever waits that the container is gone, and stops serving its callbacks.
    fn forget(&self, source: SourceId, why: &str) {
        if let Some(container) = self.up().remove(&source) {
            container.server.cancel();
            container.awaited.give_up(why);
        }
    }

    /// The same, if `container` is still the source's container. What was seen of an old one says nothing of a new one.
    fn forget_this(&self, source: SourceId, container: &Arc<Container>, why: &str) -> bool {
        let is_same = self.up().get(&source).is_some_and(|now| Arc::ptr_eq(now, container));
        if is_same {
            self.forget(source, why);
        }
        is_same
    }

    fn is_up(&self, source: SourceId) -> bool {
        self.up().contains_key(&source)
    }

    fn up(&self) -> MutexGuard<'_, HashMap<SourceId, Arc<Container>>> {
        self.up.lock().expect("no holder of this lock panics")
    }

    fn graces(&self) -> MutexGuard<'_, HashMap<SourceId, Duration>> {
        self.graces.lock().expect("no holder of this lock panics")
    }

    fn token(&self, source: SourceId) -> String {
        let hash = Sha256::new().chain_update(self.secret).chain_update(source.0).finalize();
        hex::encode(&hash[..16])
    }

    /// The runner's client blocks; this is where it may.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let runner = self.runner.clone();
        tokio::task::spawn_blocking(move || question(&runner)).await.expect("the runner's client does not panic")
    }
}

/// Reads the secret behind the callback tokens, or makes it. Errors: the file cannot be read or written.
pub fn callback_secret(path: &Path) -> std::io::Result<[u8; 32]> {
    if !path.exists() {
        let mut secret = [0; 32];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut secret)?;
        let temp = path.with_extension("new");
        std::fs::write(&temp, secret)?;
        std::fs::File::open(&temp)?.sync_all()?;
        std::fs::rename(&temp, path)?;
    }
    let bytes = std::fs::read(path)?;
    bytes.try_into().map_err(|_| std::io::Error::other("the callback secret has not 32 bytes: delete it"))
}

pub(crate) fn name_of(source: SourceId) -> SourceName {
    SourceName::try_from(format!("{source}")).expect("an address is a valid name")
}

fn words(body: &[u8]) -> String {
    cut(&String::from_utf8_lossy(body))
}

pub(crate) fn cut(text: &str) -> String {
    let text = text.trim();
    let skip = text.chars().count().saturating_sub(WORDS_CHARS_MAX);
    text.chars().skip(skip).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
