//! Tasks: look, attempt, fetch, run, publish, respond.

use alloy::sol_types::SolCall;
use chain::abi::{Nexus, ResponseParams};
use chain::content::Payload;
use chain::read;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use work::News;
use work::fact::Look;
use work::step::Trouble;
use work::task::{Attempt, Bid, Outcome, Receipt, Run, Task, TaskReading};

use super::{Performer, READ_BACK_EVERY, READ_BACK_TRIES, trouble_of, weather};
use crate::container::RunError;
use crate::store::Shelf;

/// The file name under which a result is published.
const RESULT_NAME: &str = "response.json";

/// A function's name is at most this long. Source: none; it becomes part of a path.
const FUNCTION_BYTES_MAX: usize = 200;

/// The input document of a task. Source: `TaskInput` of the SDK; what else stands in it is for the client.
#[derive(Deserialize)]
struct TaskInput<'a> {
    function_name: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// What a task asks for.
struct Asked {
    function: String,
    body: String,
}

impl Performer {
    /// Gathers what a decision on a task needs.
    pub(super) async fn look(&self, task: Task) -> Result<News, Trouble> {
        let function = match self.input(&task).await {
            Ok(input) => Ok(input.function),
            Err(trouble) if trouble.kind == work::step::TroubleKind::Passing => return Err(trouble),
            Err(trouble) => Err(trouble.why),
        };
        let standing = self.standing().await?;
        let gas_price_wei = read::fees(&self.rpc).await.map_err(|e| weather(&e))?.gas_price_wei;
        let look = Look { function, gas_wei: standing.gas_wei, gas_price_wei, lockup_wei: standing.lockup_wei };
        Ok(News::Looked { task: task.id, look })
    }

    /// Records our bid on chain, unless it stands there.
    pub(super) async fn attempt(&self, bid: Bid) -> Result<News, Trouble> {
        if let Some(done) = self.task_reads(&bid.task, has_moved_past_attempt).await? {
            return Ok(done);
        }
        self.submit_attempt(&bid).await?;
        self.read_task_back(&bid.task, has_moved_past_attempt).await
    }

    /// The key holds all that the call says: after a re-org the same address may be another task at another price.
    async fn submit_attempt(&self, bid: &Bid) -> Result<(), Trouble> {
        let (task, payment_wei) = (bid.task.id, bid.payment_wei);
        let call = Nexus::attemptCall { task: task.0, provider: self.me, suggestedPayment: payment_wei };
        self.submit(format!("attempt:{task}:{payment_wei}"), self.rpc.network().contracts.nexus, call.abi_encode())
            .await
    }

    /// Brings the input of an attempted task into the store.
    pub(super) async fn fetch(&self, attempt: Attempt) -> Result<News, Trouble> {
        let task = &attempt.bid.task;
        let input = self.input(task).await?;
        let kept = self.store.put(Shelf::Task(task.id), input.body.as_bytes()).await;
        let digest = kept.map_err(|e| trouble_of(&e, false))?;
        Ok(News::Fetched { task: task.id, function: input.function, digest })
    }

    /// Reads a task's input document; its `data` alone goes to the service. Source: protocol §3.2.
    async fn input(&self, task: &Task) -> Result<Asked, Trouble> {
        let fetched = self.content.fetch(&task.config_url, self.limits.input_bytes).await;
        let document = fetched.map_err(|e| trouble_of(&e, e.is_final()))?;
        let input: TaskInput<'_> = serde_json::from_slice(&document)
            .map_err(|e| Trouble::lasting(format!("{} is not a task input: {e}", task.config_url)))?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let name = input.function_name;
        if name.is_empty() || name.len() > FUNCTION_BYTES_MAX || !name.chars().all(is_name) {
            return Err(Trouble::lasting(format!("`{}` is no function name", name.escape_debug())));
        }
        Ok(Asked { function: name, body: input.data.map_or("{}", RawValue::get).to_owned() })
    }

    /// Has the source run the input.
    pub(super) async fn run(&self, run: Run) -> Result<News, Trouble> {
        let began = Instant::now();
        let task = run.input.attempt.bid.task.id;
        let body = self.store.read(Shelf::Task(task), run.input.digest, self.limits.input_bytes).await;
        let body = body.map_err(|e| trouble_of(&e, false))?;
        let finished = |digest, bytes, descriptor| {
            let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            News::Finished { task, run: run.id, digest, bytes, elapsed_ms, descriptor }
        };
        if self.direct.serves(run.input.attempt.bid.task.source) {
            let returned = self.direct.run(&run, body).await.map_err(|e| trouble_of(&e, e.is_final()))?;
            return Ok(finished(returned.digest, returned.bytes, Some(Box::new(returned.descriptor))));
        }
        match self.containers.run(&run, body).await {
            Ok(returned) => Ok(finished(returned.digest, returned.bytes, None)),
            Err(error @ RunError::Gone(_)) => Err(trouble_of(&error, false)),
            Err(error @ (RunError::Rejected { .. } | RunError::Deadline | RunError::BadResult(_))) => {
                Err(trouble_of(&error, true))
            }
        }
    }

    /// Publishes a result.
    pub(super) async fn publish(&self, outcome: Outcome) -> Result<News, Trouble> {
        let task = outcome.run.input.attempt.bid.task.id;
        let payload = Payload::File(self.store.path(Shelf::Task(task), outcome.digest));
        let pinned = self.content.pin(RESULT_NAME, "application/json", payload).await;
        let link = pinned.map_err(|e| trouble_of(&e, e.is_final()))?.url.to_string();
        Ok(News::Pinned { task, link })
    }

    /// Submits the response, unless it stands on chain. If a re-org took the attempt away, that is sent again first.
    pub(super) async fn respond(&self, receipt: Receipt) -> Result<News, Trouble> {
        let bid = &receipt.outcome.run.input.attempt.bid;
        let task = &bid.task;
        if let Some(done) = self.task_reads(task, has_moved_past_response).await? {
            return Ok(done);
        }
        if self.task_reads(task, has_moved_past_attempt).await?.is_none() {
            self.submit_attempt(bid).await?;
            self.read_task_back(task, has_moved_past_attempt).await?;
        }
        let params =
            ResponseParams { task: task.id.0, provider: self.me, data: receipt.link.clone(), payment: bid.payment_wei };
        let data = Nexus::submitResponseCall { _responseParams: params }.abi_encode();
        let key = format!("respond:{}:{}", task.id, receipt.outcome.digest);
        self.submit(key, self.rpc.network().contracts.nexus, data).await?;
        self.read_task_back(task, has_moved_past_response).await
    }

    async fn read_task_back(&self, task: &Task, is_done: fn(&TaskReading) -> bool) -> Result<News, Trouble> {
        for _ in 0..READ_BACK_TRIES {
            if let Some(done) = self.task_reads(task, is_done).await? {
                return Ok(done);
            }
            tokio::time::sleep(READ_BACK_EVERY).await;
        }
        Err(Trouble::passing("the transaction is mined, and the chain does not show its effect yet"))
    }

    /// The task's state, if it is as wanted already, or if a re-org has put another task under its address.
    async fn task_reads(&self, task: &Task, is_done: fn(&TaskReading) -> bool) -> Result<Option<News>, Trouble> {
        let reading = read::task(&self.rpc, self.provider(), task.id).await.map_err(|e| weather(&e))?;
        let is_another = reading.task != *task;
        Ok((is_another || is_done(&reading)).then(|| News::TaskRead { reading: Box::new(reading) }))
    }
}

fn has_moved_past_attempt(reading: &TaskReading) -> bool {
    reading.my_attempt.is_some() || reading.status.is_final()
}

fn has_moved_past_response(reading: &TaskReading) -> bool {
    reading.my_response.is_some() || reading.status.is_final()
}
