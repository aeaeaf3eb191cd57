//! What each step does.
//!
//! Invariants:
//! - A step is idempotent, or asks the chain first whether it already happened. It may have been cut short by a crash
//!   anywhere, and be performed again.
//! - It ends in exactly one fact: what it was for, or [`News::Fell`] with words for the owner.
//! - Nothing is decided here beyond "can trying again help".

mod enrol;
mod home;
mod source;
mod submit;

mod task;

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use chain::content::Content;
use chain::outbox::Outbox;
use chain::rpc::Rpc;
use tracing::{debug, info};
use work::source::Environments;
use work::step::{StepKey, Trouble};
use work::{News, ProviderId, Step};

use crate::board::Board;
use crate::cache::Cache;
use crate::chain_of;
use crate::container::Containers;
use crate::direct::Direct;
use crate::registry::Registry;
use crate::settings::{Limits, SourcePolicies};
use crate::store::Store;

/// Between two looks at whether a mined transaction's effect can be read: replicas lag.
const READ_BACK_EVERY: Duration = Duration::from_millis(300);

/// How often a mined transaction's effect is looked for before the step falls through for now.
const READ_BACK_TRIES: u32 = 20;

/// Whoever performs steps. The loop cares about nothing else of it.
pub trait Perform: Send + Sync + 'static {
    /// Performs one step, and says what came of it. Dropped before its end, it leaves nothing that a repetition, or
    /// another step of the same key, would stumble over.
    fn perform(&self, step: Step) -> impl Future<Output = News> + Send;
}

/// Everything that steps are done with.
#[derive(Debug)]
pub struct Performer {
    /// The rig's own account.
    pub me: Address,
    /// The owner's account.
    pub owner: Address,
    /// What this rig says of itself: the document's bytes.
    pub base_data: Vec<u8>,
    /// The chain, for reading.
    pub rpc: Rpc,
    /// The chain, for writing.
    pub outbox: Outbox,
    /// Documents behind links.
    pub content: Content,
    /// Bytes on disk.
    pub store: Arc<Store>,
    /// Images.
    pub registry: Registry,
    /// Running sources that are containers.
    pub containers: Arc<Containers>,
    /// Running sources that are kernel bundles.
    pub direct: Arc<Direct>,
    /// What this rig offers.
    pub environments: Environments,
    /// What is kept so that it need not be fetched again.
    pub cache: Arc<Cache>,
    /// Where it is said what is being done.
    pub board: Arc<Board>,
    /// Bounds.
    pub limits: Limits,
    /// What the owner has set for each source.
    pub policies: SourcePolicies,
}

// === impl Performer ===

impl Perform for Performer {
    async fn perform(&self, step: Step) -> News {
        let key = step.key();
        let name = step.name();
        debug!(step = name, ?key, "step begins");
        let done = match step {
            Step::Announce => self.announce().await,
            Step::Describe => self.describe().await,
            Step::Lock { amount_wei } => self.lock(amount_wei).await,
            Step::Unbond { amount_wei } => self.unbond(amount_wei).await,
            Step::Claim { amount_wei } => self.claim(amount_wei).await,
            Step::Withdraw { amount_wei } => self.withdraw(amount_wei).await,
            Step::SendHome { .. } => self.send_home().await,
            Step::Prepare { source, metadata_url, environment, updated_at } => {
                self.prepare(source, &metadata_url, environment, updated_at).await
            }
            Step::Register { source, environment } => self.register(source, environment).await,
            Step::StopSource { source, forgets } => self.stop_source(source, forgets).await,
            Step::Look { task } => self.look(task).await,
            Step::Attempt { bid } => self.attempt(bid).await,
            Step::Fetch { attempt } => self.fetch(attempt).await,
            Step::Run { run } => self.run(run).await,
            Step::Publish { outcome } => self.publish(outcome).await,
            Step::Respond { receipt } => self.respond(receipt).await,
        };
        done.unwrap_or_else(|trouble| fell(key, name, trouble))
    }
}

impl Performer {
    fn provider(&self) -> ProviderId {
        ProviderId(self.me)
    }
}

fn fell(step: StepKey, name: &'static str, trouble: Trouble) -> News {
    info!(step = name, ?step, kind = ?trouble.kind, why = %trouble.why, "step came to nothing");
    News::Fell { step, trouble }
}

/// The chain or a gateway did not answer: nothing is known, trying again may help.
fn weather(error: &(dyn std::error::Error + 'static)) -> Trouble {
    Trouble::passing(chain_of(error))
}

/// A trouble that passes or stays, as the error says of itself.
pub(crate) fn trouble_of(error: &(dyn std::error::Error + 'static), is_final: bool) -> Trouble {
    if is_final { Trouble::lasting(chain_of(error)) } else { Trouble::passing(chain_of(error)) }
}
