//! Lists that the contracts hold, read entry by entry: the paged getters panic on some pages.

use alloy_primitives::{Address, U256};
use work::{SourceId, TaskId};

use super::calls::{self, Call};
use super::{ReadError, head, sources_count, take};
use crate::abi;
use crate::rpc::Rpc;

/// The most sources that are listed, newest first: four times what the public network is known to have.
pub const SOURCES_LISTED_MAX: u64 = 4_096;

/// A provider's entry in a source's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Which source.
    pub source: Address,
    /// As what: the bit of one environment, CPU 1, NVIDIA 2, AMD 4.
    pub environment: u8,
}

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

/// The sources, of [`all_sources`], whose lists hold `provider`. One that is no source by its answers is left out.
pub async fn registrations(rpc: &Rpc, provider: Address) -> Result<Vec<Registration>, ReadError> {
    let sources = all_sources(rpc).await?;
    let at = head(rpc).await?;
    let ids = sources.iter().map(|id| Call::new(id.0, &abi::Source::getRegistrantIdCall { provider }));
    let outputs = calls::all(rpc, at, &ids.collect::<Vec<Call>>()).await?;
    let mut listed = Vec::new();
    for (source, output) in sources.into_iter().zip(outputs) {
        match output.read::<abi::Source::getRegistrantIdCall>() {
            Ok(id) if id.is_zero() => {}
            Ok(_) => listed.push(source),
            Err(error @ (ReadError::NoAnswer { .. } | ReadError::NoBlock { .. })) => return Err(error),
            Err(error) => tracing::warn!(%source, %error, "a source cannot be read"),
        }
    }
    let calls = listed.iter().map(|id| Call::new(id.0, &abi::Source::preferredEnvironmentOfCall(provider)));
    let outputs = calls::all(rpc, at, &calls.collect::<Vec<Call>>()).await?;
    let read = |(source, output): (SourceId, calls::Output)| {
        let environment = output.read::<abi::Source::preferredEnvironmentOfCall>()?;
        Ok(Registration { source: source.0, environment })
    };
    listed.into_iter().zip(outputs).map(read).collect()
}
