//! Lists that the contracts hold, read entry by entry: the paged getters panic on some pages.

use alloy_primitives::U256;
use work::{SourceId, TaskId};

use super::calls::{self, Call};
use super::{ReadError, head, sources_count, take};
use crate::abi;
use crate::rpc::Rpc;

/// The most sources that are listed, newest first: four times what the public network is known to have.
pub const SOURCES_LISTED_MAX: u64 = 4_096;

/// Every source that was ever published, the newest [`SOURCES_LISTED_MAX`] of them.
pub async fn all_sources(rpc: &Rpc) -> Result<Vec<SourceId>, ReadError> {
    let count = sources_count(rpc).await?;
    let at = head(rpc).await?;
    let nexus = rpc.network().contracts.nexus;
    let indexes = count.saturating_sub(SOURCES_LISTED_MAX)..count;
    let wanted: Vec<Call> = indexes.map(|i| Call::new(nexus, &abi::Nexus::sourcesCall(U256::from(i)))).collect();
    let outputs = calls::all(rpc, at, &wanted).await?;
    outputs.into_iter().map(|output| output.read::<abi::Nexus::sourcesCall>().map(SourceId)).collect()
}

/// The newest `most` tasks of a source, open or not.
pub async fn newest_tasks(rpc: &Rpc, source: SourceId, most: u64) -> Result<Vec<TaskId>, ReadError> {
    let at = head(rpc).await?;
    let count = Call::new(source.0, &abi::Source::getTaskCountCall {});
    let mut outputs = calls::all(rpc, at, &[count]).await?.into_iter();
    let count: u64 = take::<abi::Source::getTaskCountCall>(&mut outputs)?.saturating_to();
    let indexes = count.saturating_sub(most)..count;
    let wanted: Vec<Call> = indexes.map(|i| Call::new(source.0, &abi::Source::tasksCall(U256::from(i)))).collect();
    let outputs = calls::all(rpc, at, &wanted).await?;
    outputs.into_iter().map(|output| output.read::<abi::Source::tasksCall>().map(TaskId)).collect()
}
