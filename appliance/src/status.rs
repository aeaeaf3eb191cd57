//! The provider's own socket: what `rig status`, `rig tasks`, `rig cache`, `rig gpu` and `rig bench`
//! ask.
//!
//! One JSON line in, one JSON line out, then the server closes. The socket only answers; nothing can be changed here but
//! the cache, which holds nothing that cannot be fetched again, and GPUs, which may be tried again
//! or measured.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chain::rpc::{EndpointReport, EndpointState, Rpc};
use gpu::GpuUuid;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use work::Book;
use work::book::{Closing, Job, Stage};
use work::enrolment::Standing;
use work::policy::Refusal;
use work::source::{Conditions, Served, SourceStage};
use work::task::{Descriptor, Outcome, Run};

use crate::board::Board;
use crate::cache::Cache;
use crate::container::name_of;
use crate::gpus::Gpus;
use crate::identity::Seen;
use crate::provider::Parcel;

/// The longest question, in bytes.
const QUESTION_BYTES_MAX: u64 = 4096;

/// Time for one question and its answer.
const TALK_MAX: Duration = Duration::from_secs(5);

/// Pause after a connection that could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Questions that are answered at a time; more wait in the kernel's queue.
const TALKS_MAX: usize = 64;

/// The most tasks of one answer.
const TASKS_MAX: usize = 10_000;

/// Time for one question about the cache: clearing gigabytes away takes a while.
const CACHE_TALK_MAX: Duration = Duration::from_secs(60);

/// Time for a measurement: the runner's client gives up after ten minutes.
const MEASURE_TALK_MAX: Duration = Duration::from_secs(605);

/// What is asked of the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// How is the rig?
    Status,
    /// What ran, what was refused and why?
    Tasks {
        /// At most so many, newest first.
        limit: usize,
        /// Only what was refused.
        refused: bool,
    },
}

/// What can be asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
enum Asked {
    /// [`Question::Status`].
    Status,
    /// [`Question::Tasks`].
    Tasks {
        #[serde(default = "default_limit")]
        limit: usize,
        #[serde(default)]
        refused: bool,
    },
    /// What is kept?
    Cache,
    /// Clear away what is beyond the limits, or all that is not in use.
    Clean {
        #[serde(default)]
        all: bool,
    },
    /// How are the GPUs? With `retry`, those that were given up are tried again first.
    Gpus {
        #[serde(default)]
        retry: bool,
    },
    /// Measure a GPU, or any that is idle.
    Measure {
        #[serde(default)]
        gpu: Option<GpuUuid>,
    },
}

/// What is asked of others than the book.
#[derive(Clone, Debug)]
pub struct Others {
    /// What is kept.
    pub cache: Arc<Cache>,
    /// The GPUs.
    pub gpus: Gpus,
    /// Who signs, as the signer said last.
    pub seen: watch::Receiver<Seen>,
}

fn default_limit() -> usize {
    50
}

/// Serves questions until `stop`. Errors: the socket cannot be made.
pub async fn serve(
    path: &Path,
    desk: mpsc::Sender<Parcel>,
    others: Others,
    stop: CancellationToken,
) -> std::io::Result<()> {
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    let places = Arc::new(Semaphore::new(TALKS_MAX));
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (desk, others) = (desk.clone(), others.clone());
                tokio::spawn(async move {
                    talk(stream, desk, others).await;
                    drop(place);
                });
            }
            // Out of descriptors, or the caller hung up: neither is a reason to answer nobody any more.
            Err(error) => {
                warn!(%error, "a question on the socket was not taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One question and its answer: each end has its time to speak, and so has whoever knows the answer.
async fn talk(stream: UnixStream, desk: mpsc::Sender<Parcel>, others: Others) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut lines = BufReader::new(read.take(QUESTION_BYTES_MAX));
    let Ok(asked) = tokio::time::timeout(TALK_MAX, lines.read_line(&mut line)).await else {
        warn!("a question on the socket took too long");
        return;
    };
    let of_book = async |question| {
        let (send, receive) = oneshot::channel();
        let _ = desk.send(Parcel::Asked(question, send)).await;
        receive.await.unwrap_or_else(|_| json!({ "error": "the provider is ending" }))
    };
    let asked = match asked.map(|_| serde_json::from_str::<Asked>(&line)) {
        Ok(Ok(asked)) => Ok(asked),
        Ok(Err(error)) => Err(format!("the question does not parse: {error}")),
        Err(error) => Err(error.to_string()),
    };
    let within = if matches!(asked, Ok(Asked::Measure { .. })) { MEASURE_TALK_MAX } else { CACHE_TALK_MAX };
    let answer = async {
        match asked {
            Ok(Asked::Status) => {
                let mut status = of_book(Question::Status).await;
                // The book knows nothing of keys; what the signer says of itself is beside it.
                let seen = others.seen.borrow();
                status["identity"] = seen.shown();
                if let Some(words) = seen.phase_words() {
                    status["phase_text"] = words.into();
                }
                status
            }
            Ok(Asked::Tasks { limit, refused }) => of_book(Question::Tasks { limit, refused }).await,
            Ok(Asked::Cache) => others.cache.show().await,
            Ok(Asked::Clean { all }) => others.cache.clean(all).await,
            Ok(Asked::Gpus { retry: false }) => others.gpus.show().await,
            Ok(Asked::Gpus { retry: true }) => others.gpus.retry().await,
            Ok(Asked::Measure { gpu }) => others.gpus.measure(gpu).await,
            Err(error) => json!({ "error": error }),
        }
    };
    let late = || json!({ "error": "the rig has not done it in time" });
    let answer = tokio::time::timeout(within, answer).await.unwrap_or_else(|_| late());
    let line = format!("{answer}\n");
    if tokio::time::timeout(TALK_MAX, write.write_all(line.as_bytes())).await.is_err() {
        warn!("an answer on the socket was not read in time");
    }
}

/// Answers a question from the book, and from the board where the book says nothing; addresses with their checksum,
/// amounts in wei as hexadecimal. `now` is Unix seconds.
pub fn answer(question: &Question, book: &Book, board: &Board, rpc: &Rpc, now: u64) -> Value {
    match question {
        Question::Status => status(book, board, rpc, now),
        Question::Tasks { limit, refused } => tasks(book, (*limit).min(TASKS_MAX), *refused),
    }
}

fn status(book: &Book, board: &Board, rpc: &Rpc, now: u64) -> Value {
    let standing = book.enrolment().standing.as_ref();
    let phase = book.phase();
    let reports = rpc.endpoints();
    let endpoints: Vec<Value> = reports.iter().map(endpoint).collect();
    let head_time_s = reports.iter().map(|report| report.head_time_s).max().unwrap_or(0);
    let sources: Vec<Value> = book.sources().values().map(|served| source(served, board, standing)).collect();
    let count = |is: fn(&Stage) -> bool| book.jobs().values().filter(|job| is(&job.stage)).count();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "address": book.rig().map(|rig| rig.provider.to_string()),
        "owner": book.rig().map(|rig| rig.owner.to_string()),
        "phase": phase,
        "phase_text": book.phase_text(),
        "trouble": book.enrolment().trouble,
        "gas_wei": standing.map(|s| s.gas_wei),
        "lockup_wei": standing.map(|s| s.lockup_wei),
        "head": { "block": rpc.freshest_head(), "age_s": now.saturating_sub(head_time_s) },
        "endpoints": endpoints,
        "sources": sources,
        "jobs": {
            "open": book.open_jobs().count(),
            "waiting": count(|s| matches!(s, Stage::Bidding { .. } | Stage::Attempted { .. } | Stage::Ready { .. })),
            "running": count(|s| matches!(s, Stage::Running { .. })),
            "responded": count(|s| matches!(s, Stage::Responded { .. })),
            "settled": count(|s| matches!(s, Stage::Closed { closing: Closing::Settled { .. } })),
        },
        "draining": book.is_draining(),
        "confinement": board.confinement(),
    })
}

/// An endpoint by its host: the path of its URL may hold an access token.
fn endpoint(report: &EndpointReport) -> Value {
    let state = match &report.state {
        EndpointState::Healthy => "healthy".to_owned(),
        EndpointState::Lagging => "lagging".to_owned(),
        EndpointState::WrongChain { got } => format!("answers for chain {got}"),
        EndpointState::Unreachable { why } => format!("unreachable: {why}"),
    };
    json!({ "url": report.url.host_str(), "state": state, "head": report.head, "latency_ms": report.latency_ms })
}

fn source(served: &Served, board: &Board, standing: Option<&Standing>) -> Value {
    let (stage, why) = match &served.stage {
        SourceStage::Refused { why } => ("refused", Some(why.clone())),
        SourceStage::Preparing => ("preparing", None),
        SourceStage::Registering => ("registering", standing.and_then(|now| missing_stake(served, now))),
        SourceStage::Serving => ("serving", None),
        SourceStage::Resting => {
            ("resting", Some("memory was short; a task that is worth it starts it again".to_owned()))
        }
        SourceStage::Stopping => ("stopping", None),
    };
    let id = served.reading.id;
    let state = board.state(&name_of(id));
    let conditions = conditions(served.conditions.as_ref());
    json!({
        "source": id.to_string(),
        "stage": stage,
        "why": why.or_else(|| served.trouble.as_ref().map(|trouble| trouble.why.clone())),
        "environment": served.environment,
        "usual_run_ms": served.usual_run_ms,
        "doing": board.doing(id),
        "network": conditions["network"],
        "exceptions": conditions["exceptions"],
        "images": conditions["images"],
        "bundle": conditions["bundle"],
        "notes": served.notes,
        "runs": state,
    })
}

/// What a source was given, for a row; nulls if that is not known.
fn conditions(conditions: Option<&Conditions>) -> Value {
    let images = |conditions: &Conditions| conditions.images.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "network": conditions.map(|conditions| conditions.network),
        "exceptions": conditions.map(|conditions| &conditions.exceptions),
        "images": conditions.map(images),
        "bundle": conditions.and_then(|conditions| conditions.bundle).map(|digest| digest.to_string()),
    })
}

/// What a source that is not registered yet waits for, if it is stake.
fn missing_stake(served: &Served, standing: &Standing) -> Option<String> {
    let (lockup_wei, need_wei) = (standing.lockup_wei, served.reading.min_lockup_wei);
    (lockup_wei < need_wei).then(|| Refusal::StakeTooSmall { lockup_wei, need_wei }.to_string())
}

fn tasks(book: &Book, limit: usize, only_refused: bool) -> Value {
    let mut jobs: Vec<&Job> = book.jobs().values().collect();
    jobs.sort_by_key(|job| std::cmp::Reverse((job.moved_at, job.task().id)));
    let rows = jobs.into_iter().map(|job| (job, words(job)));
    let rows = rows.filter(|(_, (stage, _))| !only_refused || matches!(*stage, "refused" | "held"));
    let rows: Vec<Value> = rows.take(limit).map(|(job, (stage, why))| row(job, stage, why)).collect();
    json!({ "tasks": rows })
}

fn row(job: &Job, stage: &str, why: Option<String>) -> Value {
    let task = job.task();
    let (receipt, response, paid_wei) = match &job.stage {
        Stage::Published { receipt } => (Some(receipt), None, None),
        Stage::Responded { response, .. } | Stage::Closed { closing: Closing::Unpaid { response, .. } } => {
            (Some(&response.receipt), Some(response.id), None)
        }
        Stage::Closed { closing: Closing::Settled { settlement } } => {
            let response = &settlement.response;
            (Some(&response.receipt), Some(response.id), Some(settlement.paid_wei))
        }
        _ => (None, None, None),
    };
    let conditions = conditions(run_of(&job.stage).and_then(|run| run.conditions.as_ref()));
    json!({
        "task": task.id.to_string(),
        "source": task.source.to_string(),
        "stage": stage,
        "why": why,
        "payment_wei": task.payment_wei,
        "delivery": task.delivery,
        "seen_at": job.seen_at,
        "moved_at": job.moved_at,
        "response": response.map(|id| id.to_string()),
        "link": receipt.map(|receipt| receipt.link.clone()),
        "elapsed_ms": receipt.map(|receipt| receipt.outcome.elapsed_ms),
        "paid_wei": paid_wei,
        "network": conditions["network"],
        "exceptions": conditions["exceptions"],
        "images": conditions["images"],
        "bundle": conditions["bundle"],
        "descriptor": descriptor_of(&job.stage).map(descriptor),
    })
}

/// Where a bundle's function ran and what it left, for a row.
fn descriptor(told: &Descriptor) -> Value {
    let outputs = told.outputs.iter().map(|(name, digest)| (name.clone(), digest.to_string().into()));
    json!({
        "bundle": told.bundle.to_string(),
        "plan": told.plan.to_string(),
        "determinism": told.determinism,
        "gpu": told.gpu,
        "model": told.model,
        "arch": told.arch,
        "driver": told.driver,
        "cuda": told.cuda,
        "compiler": told.compiler,
        "outputs": outputs.collect::<serde_json::Map<String, Value>>(),
    })
}

/// What is told of the run that gave a job's result.
fn descriptor_of(stage: &Stage) -> Option<&Descriptor> {
    outcome_of(stage)?.descriptor.as_deref()
}

/// The result of a job that has one.
fn outcome_of(stage: &Stage) -> Option<&Outcome> {
    match stage {
        Stage::Ended { outcome } => Some(outcome),
        Stage::Published { receipt } => Some(&receipt.outcome),
        Stage::Responded { response, .. } | Stage::Closed { closing: Closing::Unpaid { response, .. } } => {
            Some(&response.receipt.outcome)
        }
        Stage::Closed { closing: Closing::Settled { settlement } } => Some(&settlement.response.receipt.outcome),
        Stage::Looking
        | Stage::Held { .. }
        | Stage::Bidding { .. }
        | Stage::Attempted { .. }
        | Stage::Ready { .. }
        | Stage::Running { .. }
        | Stage::Closed { closing: Closing::Refused { .. } | Closing::Failed { .. } | Closing::Lost { .. } } => None,
    }
}

/// The run that a job is in, or that gave its result.
fn run_of(stage: &Stage) -> Option<&Run> {
    match stage {
        Stage::Running { run } => Some(run),
        stage => outcome_of(stage).map(|outcome| &outcome.run),
    }
}

/// A job's stage in a word, and why it is there, for people.
fn words(job: &Job) -> (&'static str, Option<String>) {
    let trouble = job.trouble.as_ref().map(|trouble| trouble.why.clone());
    match &job.stage {
        Stage::Looking => ("looking", trouble),
        Stage::Held { why, .. } => ("held", Some(why.to_string())),
        Stage::Bidding { .. } => ("bidding", trouble),
        Stage::Attempted { .. } => ("attempted", trouble),
        Stage::Ready { .. } => ("ready", trouble),
        Stage::Running { .. } => ("running", trouble),
        Stage::Ended { .. } => ("ended", trouble),
        Stage::Published { .. } => ("published", trouble),
        Stage::Responded { .. } => ("responded", trouble),
        Stage::Closed { closing } => match closing {
            Closing::Refused { why } => ("refused", Some(why.to_string())),
            Closing::Failed { why } => ("failed", Some(why.clone())),
            Closing::Lost { why } => ("lost", Some(why.clone())),
            Closing::Unpaid { why, .. } => ("unpaid", Some(why.clone())),
            Closing::Settled { .. } => ("settled", None),
        },
    }
}
