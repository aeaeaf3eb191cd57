//! The provider's side of a running source: its port, its callback, its life.
//!
//! The runner makes the jail and hands over two sockets that live inside the jail's network: a listener for callbacks
//! and, for each request, a stream to the service's port. Nothing of this touches the host's network. The runner keeps
//! its own copy of the listener, so a callback that arrives while the provider is down waits in the kernel's queue.
//!
//! Invariants:
//! - A result is taken only under the source's own token, for a task that was dispatched, and once.
//! - Whatever a container sends is bounded: headers, bodies, time.
//! - A source has one container, and its callbacks are those of the jail that runs now.
//! - When a container ends, everyone who waits for it is told, with the last lines that it printed.

mod awaited;
mod callback;
mod exchange;
mod few;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use runner::client::{Client, ClientError};
use runner::protocol::{
    CALLBACK_HOST, CALLBACK_PORT, Digest as ImageDigest, Refusal, ServiceSpec, SourceName, SourceState,
};
use runner::wire::WireError;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use work::task::Run;
use work::{News, SourceId};

pub use self::awaited::Returned;
use self::awaited::{Awaited, Failing};
use self::exchange::{Answer, Method};
use crate::compose::SERVICE_PORT;
use crate::provider::Parcel;
use crate::store::Store;
use crate::{chain_of, unix_now};

/// Time between two looks at whether containers still run.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time between two looks at whether a starting container's port is open.
const PORT_EVERY: Duration = Duration::from_millis(200);

/// Longest wait before a busy service is asked again.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(5);

/// Time that a container has to end by itself when it is stopped.
const STOP_GRACE: Duration = Duration::from_secs(10);

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
    up: Mutex<HashMap<SourceId, Arc<Container>>>,
}

/// One running source.
#[derive(Debug)]
struct Container {
    awaited: Arc<Awaited>,
    server: CancellationToken,
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
    #[error("the container ended before it answered: {last_words}")]
    Ended {
        /// The last lines that it printed.
        last_words: String,
    },
    /// It took too long.
    #[error("port {SERVICE_PORT} did not open within {seconds} s")]
    TooSlow {
        /// How long it had.
        seconds: u64,
    },
}

impl ContainerError {
    /// Whether trying the same again cannot help.
    pub fn is_final(&self) -> bool {
        match self {
            ContainerError::Runner(ClientError::Refused(Refusal::BadImage { .. } | Refusal::BadService { .. })) => true,
            ContainerError::Runner(ClientError::Wire(WireError::TooLarge)) => true,
            ContainerError::Runner(_)
            | ContainerError::Socket { .. }
            | ContainerError::Ended { .. }
            | ContainerError::TooSlow { .. } => self.is_damaged(),
        }
    }

    /// Whether a blob was not what its name says: its publisher's lie, or this rig's disk, as a look at the disk tells.
    pub fn is_damaged(&self) -> bool {
        matches!(self, ContainerError::Runner(ClientError::Refused(Refusal::DigestMismatch { .. })))
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
    /// A view on the runner's containers. `secret` makes the callback tokens; `result_bytes_max` bounds one result.
    pub fn new(runner: Client, store: Arc<Store>, secret: [u8; 32], result_bytes_max: u64) -> Containers {
        Containers { runner, store, secret, result_bytes_max, up: Mutex::default() }
    }

    /// The URL that a source's service calls back, as it sees it. It stays the same over restarts.
    pub fn callback_url(&self, source: SourceId) -> String {
        format!("http://{CALLBACK_HOST}:{CALLBACK_PORT}/{}/task", self.token(source))
    }

    /// Unpacks and starts a source, and waits until its port answers. Whatever ran under its name before, and differs,
    /// is stopped first. Returns the functions that the service says it has.
    pub async fn start(
        self: &Arc<Self>,
        source: SourceId,
        manifest: work::Digest,
        service: ServiceSpec,
        within: Duration,
    ) -> Result<Option<BTreeSet<String>>, ContainerError> {
        let name = name_of(source);
        let manifest = ImageDigest::try_from(manifest.to_string()).expect("both types write a digest the same way");
        let prepared = {
            let (name, manifest) = (name.clone(), manifest.clone());
            self.ask(move |runner| runner.prepare(&name, &manifest)).await?
        };
        info!(%source, bytes = prepared.bytes, "image is unpacked");
        let begin = |this: &Arc<Self>| {
            let (name, manifest, service) = (name.clone(), manifest.clone(), service.clone());
            let this = this.clone();
            async move { this.ask(move |runner| runner.start(&name, &manifest, service)).await }
        };
        let started = match begin(self).await {
            Err(ClientError::Refused(Refusal::RunsDifferently { .. })) => {
                self.stop(source).await?;
                begin(self).await?
            }
            other => other?,
        };
        if !started.already {
            // A new jail has a new listener; the end of the old one may not have been noticed yet.
            self.forget(source, "the container was started anew");
        }
        self.listen(source).await?;
        self.wait_for_port(source, within).await?;
        Ok(self.functions(source).await)
    }

    /// Stops a source's container, and forgets it. Stopping what does not run is fine.
    pub async fn stop(&self, source: SourceId) -> Result<(), ContainerError> {
        self.forget(source, "the container was stopped");
        let name = name_of(source);
        match self.ask(move |runner| runner.stop(&name, STOP_GRACE)).await {
            Ok(_) | Err(ClientError::Refused(Refusal::NotRunning { .. })) => Ok(()),
            Err(error) => Err(error.into()),
        }
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
                sent = self.dispatch(run, body) => sent?,
            }
            waiting.returned().await.map_err(told)
        };
        tokio::time::timeout(left, work).await.unwrap_or(Err(RunError::Deadline))
    }

    /// Posts the input until the service takes it. Busy is not an answer; the caller's deadline ends the asking.
    async fn dispatch(&self, run: &Run, body: Vec<u8>) -> Result<(), RunError> {
        let task = &run.input.attempt.bid.task;
        let path = format!("/run/{}/{}", run.input.function, task.id);
        let mut wait = Duration::from_millis(500);
        loop {
            let answer = self.exchange(task.source, Method::Post(body.clone()), &path, ANSWER_BYTES_MAX).await;
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

    /// Watches all containers until `stop`, and tells `desk` of each that ended by itself.
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
            if known.is_empty() {
                continue;
            }
            let states = match self.ask(Client::list).await {
                Ok(states) => states,
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
            for (source, container) in known {
                let why = match states.get(&name_of(source)) {
                    Some(SourceState::Running { .. }) => continue,
                    Some(SourceState::Exited { exit, log_tail }) => {
                        format!("the container ended ({exit:?}): {}", cut(log_tail))
                    }
                    None => "the runner does not know the container any more".to_owned(),
                };
                if self.forget_this(source, &container, &why) {
                    down(source, why).await;
                }
            }
        }
    }

    /// Serves the callbacks of a source. Does nothing if they are served already.
    async fn listen(self: &Arc<Self>, source: SourceId) -> Result<(), ContainerError> {
        if self.is_up(source) {
            return Ok(());
        }
        let name = name_of(source);
        let listener = self.ask(move |runner| runner.listener(&name)).await?;
        let fail = |error| ContainerError::Socket { what: "callback listener", source_id: source, source: error };
        listener.set_nonblocking(true).map_err(fail)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(fail)?;
        let container = Arc::new(Container { awaited: Arc::default(), server: CancellationToken::new() });
        let desk = callback::Desk {
            token: self.token(source),
            awaited: container.awaited.clone(),
            store: self.store.clone(),
            result_bytes_max: self.result_bytes_max,
        };
        tokio::spawn(callback::serve(listener, desk, container.server.clone()));
        self.up().insert(source, container);
        Ok(())
    }

    async fn wait_for_port(&self, source: SourceId, within: Duration) -> Result<(), ContainerError> {
        let open = async {
            loop {
                let name = name_of(source);
                let state = self.ask(Client::list).await?.remove(&name);
                match state {
                    Some(SourceState::Running { .. }) => {}
                    Some(SourceState::Exited { log_tail, .. }) => {
                        return Err(ContainerError::Ended { last_words: cut(&log_tail) });
                    }
                    None => return Err(ContainerError::Ended { last_words: "the runner does not know it".into() }),
                }
                match self.ask(move |runner| runner.connect(&name, SERVICE_PORT)).await {
                    Ok(_) => return Ok(()),
                    Err(ClientError::Refused(Refusal::NotListening { .. })) => tokio::time::sleep(PORT_EVERY).await,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let late = ContainerError::TooSlow { seconds: within.as_secs() };
        let opened = tokio::time::timeout(within, open).await.unwrap_or(Err(late));
        if opened.is_err() {
            self.forget(source, "the container did not start");
        }
        opened
    }

    /// The functions in the service's own description, `None` if it has none.
    async fn functions(&self, source: SourceId) -> Option<BTreeSet<String>> {
        let answer = self.exchange(source, Method::Get, "/openapi.json", OPENAPI_BYTES_MAX).await.ok()?;
        let description: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        let paths = description.get("paths")?.as_object()?;
        let function = |path: &String| Some(path.strip_prefix("/run/")?.split('/').next()?.to_owned());
        Some(paths.keys().filter_map(function).collect())
    }

    async fn exchange(&self, source: SourceId, method: Method, path: &str, max: usize) -> Result<Answer, String> {
        let name = name_of(source);
        let stream = self.ask(move |runner| runner.connect(&name, SERVICE_PORT)).await.map_err(|e| chain_of(&e))?;
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

fn name_of(source: SourceId) -> SourceName {
    SourceName::try_from(format!("{source}")).expect("an address is a valid name")
}

fn words(body: &[u8]) -> String {
    cut(&String::from_utf8_lossy(body))
}

fn cut(text: &str) -> String {
    let text = text.trim();
    let skip = text.chars().count().saturating_sub(WORDS_CHARS_MAX);
    text.chars().skip(skip).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
