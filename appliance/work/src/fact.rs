//! What can come in: everything the rig learns, with the time at which it learned it.
//!
//! A fact is what was observed, never what was wished. It is appended to the ledger before anything is done because of
//! it, and the ledger's facts, folded in order, are the book.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::enrolment::Standing;
use crate::id::{Digest, RunId, SourceId, TaskId, Wei};
use crate::policy::Rig;
use crate::source::{Conditions, SourceReading};
use crate::step::{StepKey, Trouble};
use crate::task::{Descriptor, TaskReading};

/// One thing learned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Unix seconds at which the rig learned it. Never goes backwards within a ledger.
    pub at: u64,
    /// What was learned.
    pub news: News,
}

/// What was learned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "kebab-case")]
pub enum News {
    /// The provider started, with these settings. Steps in hand before it died are in nobody's hand now.
    Began {
        /// The settings of this start.
        rig: Box<Rig>,
    },
    /// Nothing but time passed, and something was waiting for it.
    Ticked,
    /// Our own standing on chain was read.
    Stood {
        /// The reading.
        standing: Standing,
    },
    /// The coins on our account were sent to the owner, but for what another transfer would cost.
    SentHome {
        /// The reading after it: what it holds for gas could not be sent.
        standing: Standing,
    },
    /// A source was read.
    SourceRead {
        /// The reading.
        reading: Box<SourceReading>,
    },
    /// A source's container answers on its port.
    SourceUp {
        /// Which source.
        source: SourceId,
        /// `updated_at` of the reading that it was prepared from.
        prepared_from: u64,
        /// The functions it says it has; `None` if it does not say.
        functions: Option<BTreeSet<String>>,
        /// What its container was given; `None` in facts of a rig that gave all the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        conditions: Option<Box<Conditions>>,
        /// What of its compose file is not followed, in words for the owner.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    /// A source's container has ended or does not answer.
    SourceDown {
        /// Which source.
        source: SourceId,
        /// What was seen, in words.
        why: String,
    },
    /// A source's container was stopped as asked.
    SourceStopped {
        /// Which source.
        source: SourceId,
        /// Its volumes are gone too.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_forgotten: bool,
    },
    /// The owner asked for a source to be taken down (`Terminal.removeContainer`).
    SourceRemoved {
        /// Which source.
        source: SourceId,
    },
    /// The rig was put on a source's list (`Nexus.register`), which ends an earlier order to take it down.
    SourceListed {
        /// Which source.
        source: SourceId,
    },
    /// A task was read.
    TaskRead {
        /// The reading.
        reading: Box<TaskReading>,
    },
    /// The evidence that a decision on a task needs was gathered.
    Looked {
        /// Which task.
        task: TaskId,
        /// The evidence.
        look: Look,
    },
    /// The input of an attempted task is in the content store.
    Fetched {
        /// Which task.
        task: TaskId,
        /// The function to call.
        function: String,
        /// SHA-256 of the body.
        digest: Digest,
    },
    /// A run called back with its result, which is in the content store.
    Finished {
        /// Which task.
        task: TaskId,
        /// Which run.
        run: RunId,
        /// SHA-256 of the result.
        digest: Digest,
        /// Its size in bytes.
        bytes: u64,
        /// From dispatch to callback, in milliseconds.
        elapsed_ms: u64,
        /// Where a bundle's function ran and what it left; `None` for a result of a container.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        descriptor: Option<Box<Descriptor>>,
    },
    /// A result was published.
    Pinned {
        /// Which task.
        task: TaskId,
        /// Its link.
        link: String,
    },
    /// A step did not do what it was for.
    Fell {
        /// Which step.
        step: StepKey,
        /// What stood in the way.
        trouble: Trouble,
    },
    /// The machine has little memory left, and something would have to rest.
    MemoryShort,
    /// The rig was asked to take no more work: shut-down, update or the owner's wish.
    DrainAsked,
}

/// The evidence for one decision: what the input asks for and what finishing would cost now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The function that the input names, or why the input cannot be used.
    pub function: Result<String, String>,
    /// Coin on the provider's account, in wei.
    pub gas_wei: Wei,
    /// Price of one unit of gas, in wei.
    pub gas_price_wei: Wei,
    /// Locked stake, in wei.
    pub lockup_wei: Wei,
}
