//! The nouns of a task's life, in its order. Each contains the evidence before it, so a later thing cannot exist
//! without the earlier: `Task → Bid → Attempt → Input → Run → Outcome → Receipt → Response → Settlement`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, ProviderId, ResponseId, RunId, SourceId, TaskId, Wei};
use crate::source::Conditions;

/// How a response becomes payment. Source: `DeliveryMethod` of the SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// The client confirms one of the responses.
    Manual,
    /// The first response is confirmed by the contract.
    FirstResponse,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Delivery::Manual => "manual",
            Delivery::FirstResponse => "first-response",
        })
    }
}

/// Where the contract says a task stands. Source: `TaskStatus` of the SDK, same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStatus {
    /// Published, nobody has attempted it.
    New,
    /// At least one provider has attempted it.
    Attempted,
    /// At least one provider has responded.
    Responded,
    /// The client took it back before anyone attempted it.
    Canceled,
    /// It ran out of time.
    Expired,
    /// A response was confirmed and paid.
    Finalized,
}

impl TaskStatus {
    /// True when the contract takes no more attempts and responses.
    pub fn is_final(self) -> bool {
        matches!(self, TaskStatus::Canceled | TaskStatus::Expired | TaskStatus::Finalized)
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TaskStatus::New => "new",
            TaskStatus::Attempted => "attempted",
            TaskStatus::Responded => "responded",
            TaskStatus::Canceled => "canceled",
            TaskStatus::Expired => "expired",
            TaskStatus::Finalized => "finalized",
        })
    }
}

/// The terms of a task. They never change once it is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The task's contract.
    pub id: TaskId,
    /// The source that can run it.
    pub source: SourceId,
    /// Link of the task's input document (`TaskParams.config`).
    pub config_url: String,
    /// Unix seconds after which the contract takes no response.
    pub expires_at: u64,
    /// What the client put into escrow, in wei.
    pub payment_wei: Wei,
    /// How a response becomes payment.
    pub delivery: Delivery,
}

/// What we ask for doing a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bid {
    /// The task bid for.
    pub task: Task,
    /// The suggested payment, in wei; at most `task.payment_wei`.
    pub payment_wei: Wei,
}

/// A bid that the contract has recorded under our name, by us or by an agent of the owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The bid as the contract holds it.
    pub bid: Bid,
    /// Unix seconds of the block that recorded it (`Task.attemptTimestamps`).
    pub began_at: u64,
}

/// The input of an attempted task, read, checked and held in the content store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The attempt it belongs to.
    pub attempt: Attempt,
    /// The function to call (`TaskInput.function_name`).
    pub function: String,
    /// SHA-256 of the body to send: `TaskInput.data` alone.
    pub digest: Digest,
}

/// One execution of an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// What is executed.
    pub input: Input,
    /// The run's number on this rig.
    pub id: RunId,
    /// Unix seconds at which the run is given up.
    pub deadline: u64,
    /// What the container that executes it was given; `None` in a ledger of a rig that gave all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Conditions>,
}

/// A run that ended with a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The run that gave it.
    pub run: Run,
    /// SHA-256 of the result in the content store.
    pub digest: Digest,
    /// Size of the result, in bytes.
    pub bytes: u64,
    /// From dispatch to callback, in milliseconds.
    pub elapsed_ms: u64,
    /// Where a bundle's function ran and what it left; `None` for a result of a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Box<Descriptor>>,
}

/// Where a bundle's function ran and what it left: what is compared when two rigs have run the same task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// SHA-256 of the bundle's archive.
    pub bundle: Digest,
    /// SHA-256 of the plan: kernels, sizes and arguments with every number known.
    pub plan: Digest,
    /// What its author promises of two runs, such as `bitwise-any` or `tolerance 0.0001 relative`.
    pub determinism: String,
    /// The GPU's UUID.
    pub gpu: String,
    /// The product's name; `None` if the GPU was gone when it was asked for.
    pub model: Option<String>,
    /// Such as `sm_90`.
    pub arch: Option<String>,
    /// The driver's version, such as `580.95.05`.
    pub driver: Option<String>,
    /// The newest CUDA that the driver supports.
    pub cuda: Option<String>,
    /// The version of the compiler that made machine code from PTX; `None` where the bundle brought all of it.
    pub compiler: Option<String>,
    /// SHA-256 of each output buffer, by its name.
    pub outputs: BTreeMap<String, Digest>,
}

/// An outcome that a content gateway has taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The published outcome.
    pub outcome: Outcome,
    /// Its link, as it goes on chain (`ResponseParams.data`).
    pub link: String,
}

/// A receipt that the contract has recorded as our response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// What was submitted.
    pub receipt: Receipt,
    /// The response's contract.
    pub id: ResponseId,
    /// Unix seconds of the fact that showed it.
    pub began_at: u64,
}

/// A response that was confirmed: the owner is paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The confirmed response.
    pub response: Response,
    /// What was paid, in wei.
    pub paid_wei: Wei,
    /// Unix seconds of the fact that showed it.
    pub ended_at: u64,
}

/// What the chain says of a task at one moment, as the rig reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReading {
    /// The terms.
    pub task: Task,
    /// Where it stands.
    pub status: TaskStatus,
    /// How many providers have attempted it.
    pub attempts: u64,
    /// Our own attempt, if the contract records one: suggested payment (wei) and Unix seconds.
    pub my_attempt: Option<(Wei, u64)>,
    /// Our own response, if the contract records one.
    pub my_response: Option<ResponseId>,
    /// Who was paid, once it is final.
    pub winner: Option<ProviderId>,
}
