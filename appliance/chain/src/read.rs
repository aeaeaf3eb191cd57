//! What is true on chain: state, read at one block.
//!
//! Invariants:
//! * A reading is of one block, and of none older than the newest block that any endpoint has shown, so it never goes
//!   back behind a transaction that is known to be mined.
//! * A missing answer is an error, never a changed state.
//! * Calls travel in batches of at most 100.

pub(crate) mod bid;
mod calls;
mod lists;

use alloy::consensus::BlockHeader;
use alloy::eips::BlockNumberOrTag;
use alloy::providers::Provider;
use alloy::rpc::types::TransactionRequest;
use alloy::transports::TransportError;
use alloy_primitives::{Address, U256};
use thiserror::Error;
use work::enrolment::Standing;
use work::source::{Environments, SourceReading};
use work::task::{Delivery, Task, TaskReading, TaskStatus};
use work::{ProviderId, ResponseId, SourceId, TaskId, Wei};

use self::calls::{Call, Output};
pub use self::lists::{Registration, SOURCES_LISTED_MAX, all_sources, newest_tasks, registrations};
use crate::abi;
use crate::rpc::Rpc;

/// A block and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Its number.
    pub block: u64,
    /// Its time, in Unix seconds.
    pub time_s: u64,
}

/// What gas costs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fees {
    /// What the node suggests for one unit of gas, in wei.
    pub gas_price_wei: Wei,
    /// The base fee of the newest block, in wei; `None` on a chain that has none.
    pub base_fee_wei: Option<Wei>,
}

/// Why there is no reading.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Nobody answered, or with an error. It may pass.
    #[error("read {what}")]
    NoAnswer {
        /// What was read.
        what: &'static str,
        /// Why not.
        #[source]
        source: TransportError,
    },
    /// The endpoint does not know a block that another one has shown. It passes.
    #[error("read block {block}, which the endpoint does not know yet")]
    NoBlock {
        /// Which.
        block: u64,
    },
    /// The answer cannot be decoded: there is no such contract at this address.
    #[error("decode {what} of {to}")]
    Nonsense {
        /// What was read.
        what: &'static str,
        /// Whose.
        to: Address,
        /// What is wrong with it.
        #[source]
        source: alloy::sol_types::Error,
    },
    /// The contract names a state that we do not know.
    #[error("{what} of {to} is {got}, which this release does not know")]
    Unknown {
        /// What was read.
        what: &'static str,
        /// Whose.
        to: Address,
        /// The value.
        got: u8,
    },
    /// The chain says that there is an attempt, but no endpoint has its log any more.
    #[error("the log of the attempt of {provider} on {task} is gone, so what was bid is not known")]
    BidMissing {
        /// On which task.
        task: TaskId,
        /// In whose name.
        provider: ProviderId,
    },
}

// === The chain ===

/// The newest block that any endpoint has shown.
pub async fn head(rpc: &Rpc) -> Result<Moment, ReadError> {
    let no_answer = |source| ReadError::NoAnswer { what: "newest block", source };
    let provider = rpc.provider();
    let newest = provider.get_block_by_number(BlockNumberOrTag::Latest).await.map_err(no_answer)?;
    let newest = newest.ok_or(ReadError::NoBlock { block: rpc.freshest_head() })?.header;
    rpc.note_head(newest.number());
    let block = rpc.freshest_head();
    if block == newest.number() {
        return Ok(Moment { block, time_s: newest.timestamp() });
    }
    // The endpoint lags. Asking for the block by number moves the pool on to one that has it.
    let fresher = provider.get_block_by_number(BlockNumberOrTag::Number(block)).await.map_err(no_answer)?;
    let fresher = fresher.ok_or(ReadError::NoBlock { block })?.header;
    Ok(Moment { block, time_s: fresher.timestamp() })
}

/// What gas costs now.
pub async fn fees(rpc: &Rpc) -> Result<Fees, ReadError> {
    let no_answer = |source| ReadError::NoAnswer { what: "price of gas", source };
    let provider = rpc.provider();
    let price = provider.get_gas_price().await.map_err(no_answer)?;
    let newest = provider.get_block_by_number(BlockNumberOrTag::Latest).await.map_err(no_answer)?;
    let newest = newest.ok_or(ReadError::NoBlock { block: rpc.freshest_head() })?.header;
    Ok(Fees { gas_price_wei: Wei::from(price), base_fee_wei: newest.base_fee_per_gas().map(Wei::from) })
}

/// Gas that a plain transfer of a few coins between these accounts takes; more than 21,000 where `to` is a contract.
pub async fn transfer_gas(rpc: &Rpc, from: Address, to: Address) -> Result<u64, ReadError> {
    let request = TransactionRequest::default().from(from).to(to).value(U256::ONE);
    let gas = rpc.provider().estimate_gas(request).await;
    gas.map_err(|source| ReadError::NoAnswer { what: "gas of a transfer", source })
}

// === Ourselves ===

/// What the chain says of the provider `me`, which is `owner`'s or is to be.
pub async fn standing(rpc: &Rpc, me: ProviderId, owner: ProviderId) -> Result<Standing, ReadError> {
    let at = head(rpc).await?;
    let (vault, terminal, provider) = (rpc.network().contracts.vault, rpc.network().contracts.terminal, me.0);
    let calls = [
        Call::new(vault, &abi::Vault::getBalanceOfCall { account: provider }),
        Call::new(vault, &abi::Vault::getLockupOfCall { account: provider }),
        Call::new(terminal, &abi::Terminal::getMasterOfCall { provider }),
        Call::new(terminal, &abi::Terminal::isProviderCall(provider)),
        Call::new(terminal, &abi::Terminal::baseDataOfCall(provider)),
        Call::new(vault, &abi::Vault::unbondingOfCall(provider)),
        Call::new(vault, &abi::Vault::unbondingTimestampCall(provider)),
        Call::new(terminal, &abi::Terminal::providerOfCall(owner.0)),
    ];
    let gas_wei = rpc.provider().get_balance(provider).number(at.block).await;
    let gas_wei = gas_wei.map_err(|source| ReadError::NoAnswer { what: "balance", source })?;
    let mut outputs = calls::all(rpc, at, &calls).await?.into_iter();
    Ok(Standing {
        gas_wei,
        vault_wei: take::<abi::Vault::getBalanceOfCall>(&mut outputs)?,
        lockup_wei: take::<abi::Vault::getLockupOfCall>(&mut outputs)?,
        master: non_zero(take::<abi::Terminal::getMasterOfCall>(&mut outputs)?).map(ProviderId),
        is_announced: take::<abi::Terminal::isProviderCall>(&mut outputs)?,
        base_data_url: take::<abi::Terminal::baseDataOfCall>(&mut outputs)?,
        unbonding_wei: take::<abi::Vault::unbondingOfCall>(&mut outputs)?,
        unbonds_at: take::<abi::Vault::unbondingTimestampCall>(&mut outputs)?.saturating_to(),
        is_newest: take::<abi::Terminal::providerOfCall>(&mut outputs)? == provider,
    })
}

// === Sources ===

/// How many sources were ever published.
pub async fn sources_count(rpc: &Rpc) -> Result<u64, ReadError> {
    let at = head(rpc).await?;
    let call = Call::new(rpc.network().contracts.nexus, &abi::Nexus::getSourceCountCall {});
    let mut outputs = calls::all(rpc, at, &[call]).await?.into_iter();
    Ok(take::<abi::Nexus::getSourceCountCall>(&mut outputs)?.saturating_to())
}

/// The source with this index, below [`sources_count`]. Reads `sources(i)`, since the paged getters panic on some pages.
pub async fn source_at(rpc: &Rpc, index: u64) -> Result<SourceId, ReadError> {
    let at = head(rpc).await?;
    let call = Call::new(rpc.network().contracts.nexus, &abi::Nexus::sourcesCall(U256::from(index)));
    let mut outputs = calls::all(rpc, at, &[call]).await?.into_iter();
    Ok(SourceId(take::<abi::Nexus::sourcesCall>(&mut outputs)?))
}

/// What the chain says of a source, and whether `me` is registered to it.
pub async fn source(rpc: &Rpc, me: ProviderId, id: SourceId) -> Result<SourceReading, ReadError> {
    let at = head(rpc).await?;
    let calls = [
        Call::new(id.0, &abi::Source::getStatusCall {}),
        Call::new(id.0, &abi::Source::getSourceParamsCall {}),
        Call::new(id.0, &abi::Source::getRegistrantIdCall { provider: me.0 }),
    ];
    let mut outputs = calls::all(rpc, at, &calls).await?.into_iter();
    let status = take::<abi::Source::getStatusCall>(&mut outputs)?;
    let params = take::<abi::Source::getSourceParamsCall>(&mut outputs)?;
    let registrant = take::<abi::Source::getRegistrantIdCall>(&mut outputs)?;
    Ok(SourceReading {
        id,
        client: ProviderId(params.client),
        is_active: match status {
            0 => true,
            1 => false,
            got => return Err(ReadError::Unknown { what: "status", to: id.0, got }),
        },
        metadata_url: params.imageMetadataUrl,
        environments: Environments(params.imageEnvironments),
        min_payment_wei: params.minPayment,
        min_lockup_wei: params.minAvailableLockup,
        max_expiry_s: params.maxExpiryDuration.saturating_to(),
        delivery: delivery(id.0, params.deliveryMethod)?,
        updated_at: params.lastUpdateTime.saturating_to(),
        is_registered: !registrant.is_zero(),
    })
}

// === Tasks ===

/// What the chain says of a task, and of what `me` did about it.
pub async fn task(rpc: &Rpc, me: ProviderId, id: TaskId) -> Result<TaskReading, ReadError> {
    let mut readings = tasks(rpc, me, &[id]).await?;
    readings.remove(0)
}

/// The same of many tasks, in their order. One task that cannot be read does not hide the others.
pub async fn tasks(
    rpc: &Rpc,
    me: ProviderId,
    ids: &[TaskId],
) -> Result<Vec<Result<TaskReading, ReadError>>, ReadError> {
    let at = head(rpc).await?;
    tasks_at(rpc, me, ids, at).await
}

/// The tasks among `ids` that still take attempts or responses. The status of all is read first, the rest of the open
/// ones alone: after a long absence most tasks are over.
pub async fn open_tasks(
    rpc: &Rpc,
    me: ProviderId,
    ids: &[TaskId],
) -> Result<Vec<Result<TaskReading, ReadError>>, ReadError> {
    let at = head(rpc).await?;
    let calls: Vec<Call> = ids.iter().map(|id| Call::new(id.0, &abi::Task::getStatusCall {})).collect();
    let outputs = calls::all(rpc, at, &calls).await?;
    let mut open = Vec::new();
    let mut readings = Vec::new();
    for (id, output) in ids.iter().zip(outputs) {
        match output.read::<abi::Task::getStatusCall>().and_then(|got| task_status(id.0, got)) {
            Ok(status) if status.is_final() => {}
            Ok(_open) => open.push(*id),
            Err(error) => readings.push(Err(error)),
        }
    }
    readings.extend(tasks_at(rpc, me, &open, at).await?);
    Ok(readings)
}

async fn tasks_at(
    rpc: &Rpc,
    me: ProviderId,
    ids: &[TaskId],
    at: Moment,
) -> Result<Vec<Result<TaskReading, ReadError>>, ReadError> {
    let calls: Vec<Call> = ids.iter().flat_map(|id| task_calls(*id, me)).collect();
    let mut outputs = calls::all(rpc, at, &calls).await?.into_iter();
    let mut readings = Vec::with_capacity(ids.len());
    for id in ids {
        // All outputs of a task are taken before any is read, so that an error does not shift the next task's.
        let own: Vec<Output> = outputs.by_ref().take(TASK_CALLS).collect();
        readings.push(match task_terms(*id, own) {
            Ok((reading, attempter)) => with_attempt(rpc, me, at, reading, attempter).await,
            Err(error) => Err(error),
        });
    }
    Ok(readings)
}

/// Calls that [`task_calls`] makes for one task.
const TASK_CALLS: usize = 7;

fn task_calls(id: TaskId, me: ProviderId) -> [Call; TASK_CALLS] {
    [
        Call::new(id.0, &abi::Task::getStatusCall {}),
        Call::new(id.0, &abi::Task::taskParamsCall {}),
        Call::new(id.0, &abi::Task::getDeliveryMethodCall {}),
        Call::new(id.0, &abi::Task::getAttemptCountCall {}),
        Call::new(id.0, &abi::Task::getAttempterIdCall { provider: me.0 }),
        Call::new(id.0, &abi::Task::responseOfCall(me.0)),
        Call::new(id.0, &abi::Task::winningProviderCall {}),
    ]
}

/// Everything but our attempt, and our number among the attempters (0: none).
fn task_terms(id: TaskId, outputs: Vec<Output>) -> Result<(TaskReading, U256), ReadError> {
    let mut outputs = outputs.into_iter();
    let status = task_status(id.0, take::<abi::Task::getStatusCall>(&mut outputs)?)?;
    let params = take::<abi::Task::taskParamsCall>(&mut outputs)?;
    let delivery = delivery(id.0, take::<abi::Task::getDeliveryMethodCall>(&mut outputs)?)?;
    let attempts = take::<abi::Task::getAttemptCountCall>(&mut outputs)?;
    let attempter = take::<abi::Task::getAttempterIdCall>(&mut outputs)?;
    let response = take::<abi::Task::responseOfCall>(&mut outputs)?;
    let winner = take::<abi::Task::winningProviderCall>(&mut outputs)?;
    let task = Task {
        id,
        source: SourceId(params.source),
        config_url: params.config,
        expires_at: params.expiryTime.saturating_to(),
        payment_wei: params.payment,
        delivery,
    };
    let reading = TaskReading {
        task,
        status,
        attempts: attempts.saturating_to(),
        my_attempt: None,
        my_response: non_zero(response).map(ResponseId),
        winner: non_zero(winner).map(ProviderId),
    };
    Ok((reading, attempter))
}

/// Adds our attempt, if `attempter` says that there is one. Attempters count from 1.
async fn with_attempt(
    rpc: &Rpc,
    me: ProviderId,
    at: Moment,
    mut reading: TaskReading,
    attempter: U256,
) -> Result<TaskReading, ReadError> {
    let Some(index) = attempter.checked_sub(U256::ONE) else { return Ok(reading) };
    let id = reading.task.id;
    let call = Call::new(id.0, &abi::Task::attemptTimestampsCall(index));
    let mut outputs = calls::all(rpc, at, &[call]).await?.into_iter();
    let attempted_at = take::<abi::Task::attemptTimestampsCall>(&mut outputs)?.saturating_to();
    let bid_wei = bid::find(rpc, at, id, me, attempted_at).await?;
    reading.my_attempt = Some((bid_wei, attempted_at));
    Ok(reading)
}

// === Words of the contracts ===

fn take<C: alloy::sol_types::SolCall>(outputs: &mut impl Iterator<Item = Output>) -> Result<C::Return, ReadError> {
    outputs.next().expect("one output comes for each call").read::<C>()
}

fn non_zero(address: Address) -> Option<Address> {
    (!address.is_zero()).then_some(address)
}

/// Source: `TaskStatus` of the SDK.
fn task_status(to: Address, got: u8) -> Result<TaskStatus, ReadError> {
    Ok(match got {
        0 => TaskStatus::New,
        1 => TaskStatus::Attempted,
        2 => TaskStatus::Responded,
        3 => TaskStatus::Canceled,
        4 => TaskStatus::Expired,
        5 => TaskStatus::Finalized,
        got => return Err(ReadError::Unknown { what: "status", to, got }),
    })
}

/// Source: `DeliveryMethod` of the SDK.
fn delivery(to: Address, got: u8) -> Result<Delivery, ReadError> {
    Ok(match got {
        0 => Delivery::Manual,
        1 => Delivery::FirstResponse,
        got => return Err(ReadError::Unknown { what: "delivery method", to, got }),
    })
}
